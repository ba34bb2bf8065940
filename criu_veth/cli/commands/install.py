"""``criu-veth install``."""

from __future__ import annotations

import os
import shutil

import click

from criu_veth.cli import changes, hookfile, output
from criu_veth.cli.parameters import examples

_PROGRAMS = {"runc": "runc", "crun": "crun", "lxc": "lxc-checkpoint"}
_BIN = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@click.command(
    "install",
    epilog=examples(
        "criu-veth install",
        "criu-veth install --runtime runc --runtime crun --yes",
        "criu-veth install --runtime runc --root ./image --python /usr/bin/python3 --yes",
    ),
)
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["criu", "runc", "crun", "lxc"]),
    multiple=True,
    help="Who is to call the hook; may be given several times. criu: every criu on this machine, whoever starts it."
    " Without it: those of runc, crun and lxc-checkpoint that are there, or criu.",
)
@changes.root
@changes.yes
@click.option("--python", metavar="PATH", help="The Python to run the hook with; this command's own if not given.")
def command(runtimes: tuple[str, ...], root: str, yes: bool, python: str | None) -> None:
    """Put the hook at a fixed path, and name it to CRIU and the runtimes.

    The hook at /usr/local/libexec/criu-veth/hook has its Python written into it: neither an empty environment nor a
    later change of PATH makes a difference. `action-script` with that path is added to /etc/criu/runc.conf for runc,
    /etc/criu/crun.conf for crun and /etc/criu/default.conf for criu itself; what is in them stays. lxc-checkpoint reads
    no such file, so its command line is printed. What will change is shown first, and nothing is if all is there.

    The key by which this host knows its own captures, /var/lib/criu-veth/key, is made unless there is one.

    Exit status: 0 all is there now, 1 it could not be done or was refused, 2 the call or a file is wrong.
    """
    from criu_veth import install

    chosen = list(dict.fromkeys(runtimes)) or _present(root)
    interpreter = python or install.own_python(root)
    planned = install.plan_install(chosen, root, hookfile.find(), interpreter)
    output.warning(*_warnings(chosen, root, interpreter))
    changes.carry_out(planned, root=root, yes=yes)
    if root == "/" and os.geteuid() == 0:
        _make_key()
    for line in _last_words(chosen, install.HOOK):
        click.echo(line)


def _make_key() -> None:
    """Make the key with which this host knows its own captures; an image of a system must not bring one along."""
    from criu_veth import seal

    try:
        seal.make_key()
    except seal.NoKeyError as error:
        output.warning(f"what this host captures cannot be marked as its own: {error}")


def _present(root: str) -> list[str]:
    where = os.pathsep.join(root.rstrip("/") + directory for directory in _BIN)
    if root == "/":
        where += os.pathsep + os.environ.get("PATH", "")
    return [runtime for runtime, program in _PROGRAMS.items() if shutil.which(program, path=where)] or ["criu"]


def _warnings(runtimes: list[str], root: str, python: str) -> list[str]:
    from criu_veth import install

    found = []
    if root == "/":
        where = install.own_package_root(root)
        found = [f"{fault}: whoever may write it becomes root" for fault in install.untrusted(python, where)]
    default = root.rstrip("/") + str(install.CONFIGURATIONS["criu"])
    others = [runtime for runtime in runtimes if runtime != "criu"]
    if others and ("criu" in runtimes or any(install.is_ours(line) for line in _lines(default))):
        found.append(f"{default} and the configuration of {', '.join(others)} name the hook: it runs twice, in vain")
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _last_words(runtimes: list[str], hook: str) -> list[str]:
    lines = []
    if "crun" in runtimes:
        lines.append(
            "crun: CRIU makes a veth only for a line of /etc/criu/crun.conf: criu-veth options --format conf"
            " --no-action-script"
        )
    if "lxc" in runtimes:
        lines.append(f"lxc: lxc-checkpoint -n NAME -D DIR -s -A {hook}; lxc-checkpoint -r -n NAME -D DIR -A {hook}")
    return lines
