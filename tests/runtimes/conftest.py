"""Nodes with a bridge, and a hook that is installed on them as an administrator does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lab.node import Node
from lab.oci import OVERLAY, install_on


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
        install_on(node, runtime)
        if lines:
            with node.path(f"/etc/criu/{runtime}.conf").open("a") as stream:
                stream.writelines(f"{line}\n" for line in lines)

    return act
