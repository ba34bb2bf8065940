"""The lab as pytest fixtures: `pytest_plugins = ["lab.fixtures"]`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .criu import Criu, find_criu
from .host import Host


@pytest.fixture
def host_factory() -> Iterator[Callable[[], Host]]:
    """Makes running hosts, all of them gone when the test is over."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network and mount namespaces")
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Host())


@pytest.fixture
def host(host_factory: Callable[[], Host]) -> Host:
    """One running host."""
    return host_factory()


@pytest.fixture(scope="session")
def criu() -> Criu:
    """The CRIU to test with."""
    path = find_criu()
    if path is None:
        pytest.skip("needs CRIU: set CRIU, or put one in .criu/bin or on PATH")
    return Criu(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An empty image directory."""
    path = tmp_path / "images"
    path.mkdir()
    return path
