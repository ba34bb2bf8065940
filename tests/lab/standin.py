"""A process that stands in for criu during one restore, so that a hook can be tested stage by stage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .container import Container
from .host import Host
from .waiting import scaled

# Says so when the descriptor is there, and lives until its stdin ends.
WAITING = 'exec 9<"$1" && echo ready && read -r _'


class StandIn:
    """One restore from ``images`` on ``host``: every stage is told the same criu pid, as by a real criu.

    The hook's parent is not the stand-in; `run_action` is for what depends on that. ``env`` is all that the hook
    inherits besides what criu sets and PATH; ``options`` are criu's, for the hook to see. The images get a device's,
    empty, and the stand-in the word "restore" on its command line: both tell the hook that CRIU makes the pairs.
    """

    def __init__(
        self,
        host: Host,
        hook: Path,
        images: Path,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.host = host
        self.hook = hook
        self.env = dict(env or {})
        (images / "inventory.img").touch()
        (images / "netdev-9.img").touch()
        self._process = host.popen(
            *("sh", "-c", WAITING, "criu", str(images), "restore", *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            raise AssertionError(f"the stand-in could not open {images}")
        self.pid = self._process.pid
        self.image_dir = f"/proc/{self.pid}/fd/9"
        #: What the hook calls this restore.
        self.run = f"{self.pid}-{_start_time(self.pid)}-{os.stat(f'/proc/{self.pid}/ns/pid').st_ino}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=scaled(30))  # closes its stdin

    def act(
        self,
        action: str,
        container: Container | int | None = None,
        *,
        env: Mapping[str, str | None] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run the hook for one action and return what it said and its status, whatever that is.

        ``env`` comes on top; None takes a variable away. ``prefix`` is a command that runs the hook (``setpriv ...``).
        """
        words: dict[str, str | None] = {
            **self.env,
            "CRTOOLS_SCRIPT_ACTION": action,
            "CRTOOLS_IMAGE_DIR": self.image_dir,
        }
        if container is not None:
            words["CRTOOLS_INIT_PID"] = str(container if isinstance(container, int) else container.pid)
        words.update(env or {})
        given = {"PATH": os.environ["PATH"], **{name: value for name, value in words.items() if value is not None}}
        return self.host.run(*prefix, str(self.hook), env=given, check=False)


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat: see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def make_pair(container: Container, inner: str, outer: str, bridge: str | None = None) -> None:
    """Make a veth pair as ``criu restore --external veth[INNER]:OUTER@BRIDGE`` leaves it for post-restore.

    Without a bridge the outer end is down; the inner end is up in both cases.
    """
    host = container.host
    host.run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", str(container.pid))
    container.run("ip", "link", "set", inner, "up")
    if bridge is not None:
        host.run("ip", "link", "set", outer, "master", bridge, "up")
