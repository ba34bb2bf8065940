"""Another kernel's name, and a /run of a test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from criu_veth import paths


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the running kernel's release another one."""

    def pretend(release: str) -> None:
        words = list(os.uname())
        words[2] = release
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(words))

    return pretend


@pytest.fixture
def own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /run/criu-veth of the test's own, not made yet."""
    path = tmp_path / "run" / "criu-veth"
    path.parent.mkdir(mode=0o755)
    monkeypatch.setattr(paths, "RUN_DIR", str(path))
    monkeypatch.setattr(paths, "PROGRAMS", str(path / "programs"))
    monkeypatch.setattr(paths, "RUNS", str(path / "runs"))
    return path
