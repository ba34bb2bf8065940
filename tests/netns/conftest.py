"""A host with two bridges, a container on it, and restores that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab import Container, Host, Program
from lab.standin import StandIn

HOOK = Path(__file__).parents[2] / "hooks/criu-veth"


@pytest.fixture
def hook() -> Path:
    """The hook of this checkout."""
    return HOOK


@pytest.fixture
def bridged(host: Host) -> Host:
    """A host with the bridges br0 (10.0.0.1/24) and br1."""
    host.bridge("br0", "10.0.0.1/24")
    host.bridge("br1")
    return host


@pytest.fixture
def container(bridged: Host) -> Container:
    """A container without a veth on that host, as the tree is before CRIU restores its links."""
    return bridged.container((), Program(argv=["sleep", "infinity"]))


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    """Where the mapping file goes: a directory that is root's alone. There is no file yet."""
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    return directory / "web.toml"


@pytest.fixture
def restoring(host: Host, hook: Path, images: Path, mapping: Path) -> Iterator[Callable[..., StandIn]]:
    """Begin a restore with this text in the mapping file (None: with the file as it is)."""
    with ExitStack() as stack:

        def begin(text: str | None = None) -> StandIn:
            if text is not None:
                mapping.write_text(text)
                mapping.chmod(0o644)
            (images / "inventory.img").touch()
            (images / "netdev-9.img").touch()  # CRIU saved devices, so it brings them back
            env = {"CRIU_VETH_CONFIG": str(mapping)}
            return stack.enter_context(StandIn(host, hook, images, env))

        yield begin
