"""Nodes with a bridge, and a hook that is installed on them as an administrator does it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.node import Node

REPOSITORY = Path(__file__).parents[2]
#: Writes to /usr/local vanish with the node.
OVERLAY = """mkdir /run/lab/local /run/lab/local-work
mount -t overlay -o lowerdir=/usr/local,upperdir=/run/lab/local,workdir=/run/lab/local-work overlay /usr/local"""


@pytest.fixture
def cgroup() -> str:
    """The version of cgroups on the node; a test may parametrize it."""
    return "v2"


@pytest.fixture
def node(cgroup: str) -> Iterator[Node]:
    """A node with the bridge br0, 10.0.0.1/24."""
    with Node(cgroup) as made:
        made.run("sh", "-ec", OVERLAY)
        made.bridge("br0", "10.0.0.1/24")
        yield made


@pytest.fixture
def install(node: Node) -> Callable[..., None]:
    """Install the hook for a runtime; what else is given are lines for its CRIU configuration file."""

    def act(runtime: str, *lines: str) -> None:
        command = [sys.executable, "-m", "criu_veth", "install", "--yes", "--runtime", runtime]
        node.run(*command, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)})
        if lines:
            with node.path(f"/etc/criu/{runtime}.conf").open("a") as stream:
                stream.writelines(f"{line}\n" for line in lines)

    return act
