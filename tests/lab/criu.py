"""Dump and restore with real CRIU, on a simulated host."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .container import ROOT, Container, Link, Program
from .host import Host
from .process import CommandError
from .waiting import wait_for

STAMP = re.compile(r"\(\d+\.\d+\)")
ERROR = " Error (criu/"
REPOSITORY = Path(__file__).resolve().parents[2]


def find_criu() -> Path | None:
    """The CRIU to test with: $CRIU, else the checkout's .criu/bin/criu, else the one on PATH."""
    if named := os.environ.get("CRIU"):
        return Path(named).absolute()
    own = REPOSITORY / ".criu/bin/criu"
    if own.exists():
        return own
    found = shutil.which("criu", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return Path(found) if found else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run of CRIU came to: its status, what it wrote, and its log.

    The action script's stdout and stderr go to the log too, among CRIU's lines.
    """

    returncode: int
    stdout: str
    stderr: str
    log: str
    restored: Container | None = None

    @property
    def container(self) -> Container:
        """The restored container; only a restore that worked has one."""
        if self.restored is None:
            raise AssertionError("nothing was restored")
        return self.restored

    @property
    def pid(self) -> int:
        """The restored container's init."""
        return self.container.pid

    def said(self, prefix: str = "") -> list[str]:
        """The log's lines that are not CRIU's own, such as the hook's, if they start with `prefix`.

        Programs that CRIU runs (ip, iptables-restore) write there as well.
        """
        lines = self.log.splitlines()
        return [line for line in lines if not STAMP.match(line) and line.startswith(prefix)]

    def log_errors(self) -> list[str]:
        """The lines of CRIU's log that say Error, without their time stamps."""
        return [line.partition(") ")[2] for line in self.log.splitlines() if ERROR in line]


def name_taken_meanwhile(host: Host, name: str) -> tuple[str, ...]:
    """CRIU's options for an action script that gives `lo` an alternative name once pre-restore is over.

    What wants that name then fails at post-restore, and nobody could have known.
    """
    script = host.path("/run/take-a-name")
    action = '[ "$CRTOOLS_SCRIPT_ACTION" = setup-namespaces ] || exit 0'
    script.write_text(f"#!/bin/sh\n{action}\nip link property add dev lo altname {name}\n")
    script.chmod(0o755)
    return ("--action-script", "/run/take-a-name")


class Criu:
    """One CRIU program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> str:
        """Such as "4.2.1"."""
        text = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=True)
        return text.stdout.split()[1]

    def _run(
        self,
        action: str,
        host: Host,
        images: Path,
        args: Sequence[str],
        hook: Path | str | None,
        env: Mapping[str, str] | None,
        check: bool,
        timeout: float,
    ) -> Outcome:
        log = images / f"{action}.log"
        log.unlink(missing_ok=True)
        argv = [str(self.path), action, "-D", str(images), "-o", log.name, "-v4"]
        argv += [
            "--manage-cgroups=ignore",
            *(["--action-script", str(hook)] if hook else []),
            *args,
        ]
        done = host.run(*argv, check=False, env=env, timeout=timeout)
        text = log.read_text(errors="replace") if log.exists() else ""
        outcome = Outcome(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr, log=text)
        if check and done.returncode != 0:
            told = [line for line in text.splitlines() if ERROR in line or not STAMP.match(line)]
            notes = "\n".join([*told, "--- the log's end", *text.splitlines()[-30:]])
            raise CommandError(argv, f"exit status {done.returncode}", done.stdout, done.stderr, notes)
        return outcome

    def dump(
        self,
        container: Container,
        images: Path,
        *,
        hook: Path | str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        tcp_established: bool = False,
        check: bool = True,
        timeout: float = 60.0,
    ) -> Outcome:
        """Dump the container, which dies of it, and wait until its number is free.

        Its outer ends die a moment later still: Container.wait_unplugged. `hook` becomes the
        action script; `env` replaces the environment that CRIU and the hook see. A failure raises
        CommandError with CRIU's log and what the hook wrote, unless `check` is false.
        """
        images.mkdir(parents=True, exist_ok=True)
        words = [
            "-t",
            str(container.pid),
            *(["--tcp-established"] if tcp_established else []),
            *args,
        ]
        outcome = self._run("dump", container.host, images, words, hook, env, check, timeout)
        if outcome.returncode == 0 and not {"-R", "--leave-running"} & set(args):
            container.wait_gone()
        return outcome

    def restore(
        self,
        host: Host,
        images: Path,
        *,
        external: Iterable[str] = ("veth[eth0]:web0@br0",),
        hook: Path | str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        tcp_established: bool = False,
        links: Sequence[Link] = (),
        program: Program | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> Outcome:
        """Restore what was dumped, detached, on `host`.

        `external` are values of --external. `links` and `program` are only remembered by the
        container that comes back in the outcome. A failure raises CommandError with CRIU's log
        and what the hook wrote; with `check` false it comes back as an outcome with no container.
        """
        pidfile = images / "restored.pid"
        pidfile.unlink(missing_ok=True)
        words = ["--root", ROOT, "-d", "--pidfile", str(pidfile)]
        words += ["--tcp-established"] if tcp_established else []
        for value in external:
            words += ["--external", value]
        outcome = self._run("restore", host, images, [*words, *args], hook, env, check, timeout)
        if outcome.returncode != 0:
            return outcome
        pid = int(pidfile.read_text())
        restored = host.adopt(Container(host, pid, links, program))
        wait_for(lambda: restored.alive, f"restored process {pid}")
        return dataclasses.replace(outcome, restored=restored)
