"""A container whose init has a child with a network namespace of its own."""

from __future__ import annotations

from pathlib import Path

from .container import ECHO_SERVER, PYTHON, Container, Link, Program
from .host import Host
from .waiting import wait_for

_BOTH = 'unshare --net "$0" -I -S -c "$1" 7001 & exec "$0" -I -S -c "$1" 7000'


def nested(host: Host, links: tuple[Link, ...], inside: tuple[Link, ...]) -> tuple[Container, Container]:
    """An echo server (port 7000) with `links`, and its child, one on port 7001, with those `inside` its own network."""
    program = Program(argv=["sh", "-c", _BOTH, PYTHON, ECHO_SERVER], ports=[7000])
    outer = host.container(links, program)
    return outer, child_of(outer, inside)


def child_of(container: Container, links: tuple[Link, ...]) -> Container:
    """The child in its own network, with `links` plugged in."""
    pid = wait_for(lambda: _child(container), "the child's own network")
    child = container.host.adopt(Container(container.host, pid, links, Program(argv=[], ports=[7001])))
    child.run("ip", "link", "set", "lo", "up")
    child.plug(*links)
    wait_for(child.listens, "the child's program")
    return child


def restored_child(container: Container) -> Container:
    """The child of a container that was restored."""
    pid = wait_for(lambda: _child(container), "the child")
    return container.host.adopt(Container(container.host, pid))


def _child(container: Container) -> int:
    pids = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    own = Path(f"/proc/{container.pid}/ns/net").readlink()
    return next((int(pid) for pid in pids if Path(f"/proc/{pid}/ns/net").readlink() != own), 0)
