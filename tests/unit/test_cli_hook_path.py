"""``criu-veth hook-path``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import Result

import criu_veth
from criu_veth.cli.app import app
from lab.cli import runner

HOOK = Path(__file__).parents[2] / "hooks" / "criu-veth"


def hook_path() -> Result:
    return runner().invoke(app, ["hook-path"])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the package is, as far as it knows."""
    package = tmp_path / "site-packages" / "criu_veth"
    package.mkdir(parents=True)
    monkeypatch.setattr(criu_veth, "__file__", str(package / "__init__.py"))
    return package


def script(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_in_a_checkout_it_is_beside_the_package() -> None:
    shown = hook_path()

    assert (shown.exit_code, shown.stdout) == (0, f"{HOOK}\n")
    assert os.access(HOOK, os.X_OK)


def test_installed_it_is_in_the_package(package: Path) -> None:
    hook = script(package / "hooks" / "criu-veth")
    script(package.parent / "hooks" / "criu-veth")  # somebody else's

    assert hook_path().stdout == f"{hook}\n"


def test_it_is_missing(package: Path) -> None:
    shown = hook_path()

    assert shown.exit_code == 1
    assert shown.stderr == (
        f"criu-veth: error: the hook is missing (looked for: {package}/hooks/criu-veth,"
        f" {package.parent}/hooks/criu-veth): install criu-veth again\n"
    )


def test_it_is_a_directory(package: Path) -> None:
    (package / "hooks" / "criu-veth").mkdir(parents=True)

    shown = hook_path()

    assert shown.exit_code == 1
    assert shown.stderr == (
        f"criu-veth: error: the hook {package}/hooks/criu-veth is not a file: install criu-veth again\n"
    )


def test_it_is_not_executable(package: Path) -> None:
    hook = script(package / "hooks" / "criu-veth", 0o644)

    shown = hook_path()

    assert shown.exit_code == 1
    assert shown.stderr == (
        f"criu-veth: error: CRIU cannot run the hook {hook}: it is not executable here: chmod +x it\n"
    )
