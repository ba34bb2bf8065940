"""Traffic from one host to a container, talking across whatever happens to the container."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import Client
from .container import PYTHON, Container, Program
from .host import Host
from .waiting import scaled, wait_for

HERE = Path(__file__).parent
SERVER = (HERE / "traffic_server.py").read_text()
TALKER = (HERE / "talker.py").read_text()
PORTS = (7000, 7001, 7003)
RATE = 200
"""Messages a second."""


def traffic_server() -> Program:
    """The program for the other side of a Talker; see traffic_server.py."""
    return Program(argv=[PYTHON, "-I", "-S", "-c", SERVER], ports=PORTS)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a Talker has seen; `gap` and `silent` are seconds: the longest without an answer, and since the last."""

    sent: int
    received: int
    repeated: int
    gap: float
    silent: float
    refused: int
    reset: int
    error: str
    wrong: str
    done: bool

    @property
    def lost(self) -> int:
        """Messages that were never answered."""
        return self.sent - self.received


class Talker:
    """A process on `host` that talks to traffic_server at `address`; `kind` is one of those of talker.py."""

    def __init__(self, host: Host, address: str, kind: str = "tcp", rate: int = RATE) -> None:
        self._process = host.popen(
            PYTHON,
            *("-I", "-S", "-c", TALKER, kind, address, str(rate)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def status(self) -> Seen:
        """What it has seen so far."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._seen(self._process.stdout.readline())

    def stop(self) -> Seen:
        """Have it stop, and return what it has seen once all is answered or nothing comes any more."""
        said, wrote = self._process.communicate(timeout=scaled(60))
        return self._seen(said.strip().rpartition("\n")[2], wrote)

    def _seen(self, line: str, wrote: str = "") -> Seen:
        if not line:
            raise AssertionError(f"the talker died: {wrote or self._process.communicate()[1]}")
        return Seen(**json.loads(line))

    def wait_answered(self, more: int = 20, deadline: float = 20.0) -> None:
        """Wait until so many more messages were answered, counted from now."""
        before = self.status().received

        def answered() -> bool:
            seen = self.status()
            if seen.error and seen.reset:
                raise AssertionError(f"the connection is lost: {seen.error}")
            return seen.received >= before + more

        wait_for(answered, f"{more} more answers", deadline=deadline, interval=0.02)

    def wait_done(self, deadline: float = 20.0) -> Seen:
        """Wait until everything that was sent is answered, and return what was seen."""

        def done() -> Seen | None:
            seen = self.status()
            return seen if seen.done else None

        found = wait_for(done, "all answers", deadline=deadline, interval=0.02)
        assert found
        return found


def sink_report(container: Container) -> dict[str, Any]:
    """What the port that only receives has noted. Asked over the container's own loopback: nothing leaves it."""
    with Client(container.pid, "127.0.0.1", 7001) as client:
        found: dict[str, Any] = json.loads(client.ask("report"))
        return found
