"""``criu-veth options``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from criu_veth.cli import hookfile, output
from criu_veth.cli.parameters import examples, images, mapping_file, mode
from criu_veth.errors import InputError

if TYPE_CHECKING:
    from criu_veth.cli.inputs import Inputs
    from criu_veth.state import Veth

_CLONE_NEWNET = 0x40000000  # what RPC's empty_ns takes for the network namespace

#: An option of criu's and its value.
Option = tuple[str, str]


@click.command(
    "options",
    epilog=examples(
        'words=$(criu-veth options --images images) && eval "criu restore -D images $words"',
        "criu-veth options --images images --format conf > restore.conf",
        "criu-veth options --images images --mode ready",
        "criu-veth options --format conf > /etc/criu/crun.conf",
    ),
)
@mapping_file
@images
@mode
@click.option(
    "--format",
    "form",
    type=click.Choice(["args", "conf", "json"]),
    default="args",
    show_default=True,
    help="args: words for a shell's command line; conf: a CRIU configuration file; json: for a caller of CRIU's RPC.",
)
@click.option("--no-action-script", is_flag=True, help="Leave the hook out: CRIU has it from elsewhere.")
def command(file: str | None, images: str | None, mode: str | None, form: str, no_action_script: bool) -> None:
    """Print the options that CRIU has to be given for a restore.

    They are for the veths that FILE, the mapping file, names, and for those that were captured at the dump. FILE is
    found as the hook finds it unless it is given. CRIU makes each pair and names its outer end; all else, the bridge
    too, is the hook's work.

    JSON has the RPC option "external", and the same as the obsolete "veths": give CRIU one of them. "action_script" is
    the hook's path, which RPC takes only in a configuration file.
    """
    from criu_veth.cli import inputs

    read = inputs.read(file, images, mode)
    output.notice(*read.notices, *_adopted(read))
    told = [] if read.way.empty or read.way.adopt else read.veths
    faults = [f"veth {veth.inner}: {fault}" for veth in told if (fault := _misread(veth))]
    if faults:
        raise InputError(*faults)
    hook = None if no_action_script else hookfile.find()
    options = [*_options(read), *([("action-script", hook)] if hook else [])]
    if form == "json":
        output.as_json(_rpc(read, hook))
    elif form == "conf":
        for line in _conf(options):
            click.echo(line)
    else:
        click.echo(" ".join(output.shell_word(word) for option, value in options for word in (f"--{option}", value)))


def _adopted(read: Inputs) -> list[str]:
    """Say what only the caller can know."""
    if not read.way.adopt:
        return []
    return [
        "the network namespace is external to CRIU: what it was dumped with (--external net[INODE]:KEY) takes"
        " --inherit-fd fd[N]:KEY now"
    ]


def _options(read: Inputs) -> list[Option]:
    if read.way.empty:
        return [("empty-ns", "net")]
    return [("external", value) for value in _externals(read)]


def _externals(read: Inputs) -> list[str]:
    """Return what ``--external`` takes, once for each veth.

    Without ``@BRIDGE``: CRIU would attach the outer end before the container's sockets exist, and a peer's segment that
    comes then is answered with a reset. The hook attaches it when they do.
    """
    if read.way.empty or read.way.adopt:
        return []
    return [
        f"netdev[{veth.inner}]:{veth.ready}" if veth.ready else f"veth[{veth.inner}]:{veth.outer.ifname}"
        for veth in read.veths
    ]


def _misread(veth: Veth) -> str | None:
    """Say why CRIU would not read this pair as meant (``external_val()`` and ``veth_peer_info()`` of CRIU 4.2)."""
    if "]" in veth.inner:
        return f'CRIU cannot be told of an inner end "{veth.inner}": for it the name ends at the first "]"'
    if "@" in veth.outer.ifname and not veth.ready:
        return f'CRIU cannot be told of an outer end "{veth.outer.ifname}": for it a bridge follows "@"'
    return None


def _conf(pairs: list[tuple[str, str]]) -> list[str]:
    r"""Return the lines of a CRIU configuration file.

    Raises InputError for a value that such a file cannot hold. ``parse_statement()`` of CRIU 4.2 cuts a value at a
    ``#`` even in quotes, takes the backslash out of ``\"``, and refuses most values with a space, quoted or not. What
    moves a terminal's cursor would be written as it is.
    """
    faults = [
        f'a CRIU configuration file cannot hold "{value}", because of {bad!r} in it; use --format args'
        for _, value in pairs
        for bad in ("#", '\\"', *(c for c in value if c.isspace() or not c.isprintable()))
        if bad in value
    ]
    if faults:
        raise InputError(*dict.fromkeys(faults))
    return [f"{option} {value}" for option, value in pairs]


def _rpc(read: Inputs, hook: str | None) -> dict[str, object]:
    found: dict[str, object] = {"external": _externals(read)}
    if read.way.empty:
        found["empty_ns"] = _CLONE_NEWNET
    elif not read.way.ready and not read.way.adopt:
        found["veths"] = [{"if_in": veth.inner, "if_out": veth.outer.ifname} for veth in read.veths]
    if hook:
        found["action_script"] = hook
    return found
