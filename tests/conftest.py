"""What each folder's tests need; where that is missing they are skipped, or fail if nothing may be skipped."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

from lab import find_criu
from lab.features import broken_criu, missing_feature, older_than, too_old
from lab.node import find_program
from lab.waiting import IN_VM

pytest_plugins = ["lab.fixtures"]

HERE = Path(__file__).parent
NEEDS = {"netns": ("root",), "criu": ("root", "criu"), "runtimes": ("root", "criu", "runtime")}
RUNTIMES = ("crun", "runc", "podman", "lxc-checkpoint")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what each folder needs; what only another kernel can run is for the virtual machines, not skipped here."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        for name in NEEDS.get(folder, ()):
            if item.get_closest_marker(name) is None:
                item.add_marker(name)
    if not IN_VM and _no_root() is None:
        elsewhere = [item for item in items if _beyond(item) or any(map(missing_feature, _kernel_features(item)))]
        items[:] = [item for item in items if item not in elsewhere]
        config.hook.pytest_deselected(items=elsewhere)


def _kernel_features(item: pytest.Item) -> tuple[str, ...]:
    """What an item needs of the kernel beyond what every test does."""
    return tuple(name for marker in item.iter_markers("kernel") for name in marker.args)


def _beyond(item: pytest.Item) -> str | None:
    """What this kernel is too old for, or this CRIU cannot do, that an item needs."""
    found = [too_old(name) for name in _kernel_features(item)]
    found += [older_than(*marker.args) for marker in item.iter_markers("kernel_since")]
    found += [broken_criu(*marker.args) for marker in item.iter_markers("criu_broken")]
    return next(filter(None, found), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if IN_VM and (reason := _beyond(item)):
        pytest.skip(reason)
    missing = _missing(item)
    if missing is None:
        return
    if IN_VM or os.environ.get("CI") == "true" or os.environ.get("CRIU_VETH_NO_SKIP") == "1":
        pytest.fail(f"may not be skipped here, but {missing}", pytrace=False)
    pytest.skip(missing)


def _missing(item: pytest.Item) -> str | None:
    """Why this test cannot run here, if it cannot."""
    if item.get_closest_marker("root") and (missing := _no_root()):
        return missing
    if item.get_closest_marker("criu") and (missing := _no_criu()):
        return missing
    for name in _kernel_features(item):
        if missing := missing_feature(name):
            return missing
    runtime = item.get_closest_marker("runtime")
    return _no_runtime(runtime.args) if runtime else None


@cache
def _no_root() -> str | None:
    if os.geteuid() != 0:
        return "it needs root, to make network namespaces"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"this root may not make namespaces: {tried.stderr.strip()}" if tried.returncode else None


@cache
def _no_criu() -> str | None:
    criu = find_criu()
    if criu is None:
        return "it needs CRIU (make setup, or set CRIU)"
    script = 'mount -t tmpfs none /run && ip link set lo up && exec "$0" check'  # CRIU keeps a cache in /run
    words = ["unshare", "--net", "--mount", "sh", "-c", script, str(criu)]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"{criu} does not work here: {tried.stderr.strip()}" if tried.returncode else None


def _no_runtime(names: tuple[str, ...]) -> str | None:
    if names:
        missing = [name for name in names if find_program(name) is None]
        return f"it needs {', '.join(missing)} (make setup)" if missing else None
    return None if any(map(find_program, RUNTIMES)) else f"it needs one of {', '.join(RUNTIMES)} (make setup)"
