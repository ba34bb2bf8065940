"""Waiting for a condition by polling with a deadline, so that no test sleeps for a guessed time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


#: The release of a kernel that was booted for these tests; set by tools/run-in-vm.
IN_VM = os.environ.get("IN_VM", "")


def scaled(seconds: float) -> float:
    """The seconds that may pass for what takes so many at most on a real processor; an emulated one is slower."""
    return seconds * 10 if IN_VM else seconds


class DeadlineError(AssertionError):
    """A condition did not come true before its deadline."""


def wait_for(condition: Callable[[], T], what: str, *, deadline: float = 10.0, interval: float = 0.002) -> T:
    """Call `condition` until it returns something true, and return that.

    `deadline` (scaled) and `interval` are seconds. Raises DeadlineError, naming `what`, when the deadline has
    passed; an exception of `condition` itself passes through.
    """
    deadline = scaled(deadline)
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise DeadlineError(f"waited {deadline:g} s for {what}, in vain")
        time.sleep(interval)
