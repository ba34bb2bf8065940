"""Another kernel's name."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the running kernel's release another one."""

    def pretend(release: str) -> None:
        words = list(os.uname())
        words[2] = release
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(words))

    return pretend
