"""A cell's surroundings: its Python, a copy of the checkout, and an environment in it, where the hook looks for one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

from .cells import CACHE, NEWEST, PYTHON_SUITES, REPOSITORY, TOOLS, Cell, dependencies, locked, wanted

#: A pip that knows the newest Python, to be run by any; that of this environment may be older than it.
PIP = CACHE / "pip"
QUIET = ("--disable-pip-version-check", "--no-input", "-qq")


def provide(cell: Cell) -> None:
    """Make the cell's checkout what this one is, and its environment what the cell says.

    Raises CalledProcessError after the command that failed has said why.
    """
    python = _python(cell.python)
    copy_checkout(cell.path)
    venv = cell.path / ".venv"
    needed = wanted(cell, dependencies())
    mark, stamp = venv / ".made-from", _fingerprint(python, [*needed.values(), *tools()])
    made = mark.exists() and mark.read_text() == stamp
    if not made:
        shutil.rmtree(venv, ignore_errors=True)
        _run(python, "-I", "-m", "venv", "--without-pip", venv)
        _run(venv / "bin/python", "-m", "pip", *QUIET, "install", "--ignore-installed", "pip", env=_with_pip())
    if not made or cell.packages == NEWEST:  # what is newest changes
        _pip(venv, "install", "--upgrade", *tools(), *needed.values())
        _pip(venv, "install", "--no-deps", "--no-build-isolation", "--editable", cell.path)
    mark.write_text(stamp)


def versions(cell: Cell) -> dict[str, str]:
    """The version of the cell's Python, and of each of its packages that pyproject.toml names."""
    names = list(wanted(cell, dependencies()))
    program = (
        "import sys; from importlib.metadata import version; print(sys.version.split()[0], *map(version, sys.argv[1:]))"
    )
    found = _run(cell.path / ".venv/bin/python", "-I", "-c", program, *names).split()
    return dict(zip(["Python", *names], found, strict=True))


def surroundings(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would lead the cell's Python to this one's packages."""
    found = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return {**found, **(extra or {})}


def copy_checkout(target: Path) -> None:
    """Copy what is not hidden, and take away what is no longer there."""
    target.mkdir(parents=True, exist_ok=True)
    for old in _visible(target):
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for path in _visible(REPOSITORY):
        if path.is_dir():
            shutil.copytree(path, target / path.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, target)


def _visible(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if not path.name.startswith(".")]


def _python(version: str) -> Path:
    path = CACHE / f"python{version}"
    if not (path / "bin/python3").exists():
        subprocess.run([REPOSITORY / "tools/get-python", PYTHON_SUITES[version], path, version], check=True)
    return path / "bin/python3"


def _fingerprint(python: Path, requirements: list[str]) -> str:
    """Of the Python too: made anew, it is another one."""
    text = "\n".join([str(python), str(python.stat().st_mtime_ns), *requirements])
    return f"{zlib.crc32(text.encode()):08x}\n"


def tools() -> list[str]:
    """What the tests need, as pip is to install it."""
    versions = locked()
    return [f"{name}=={versions[name]}" if name in versions else name for name in TOOLS]


def _with_pip() -> dict[str, str]:
    """Surroundings in which the cell's Python has a pip before its environment does."""
    if not PIP.exists():
        part = PIP.with_name("pip.part")
        shutil.rmtree(part, ignore_errors=True)
        _run(sys.executable, "-m", "pip", *QUIET, "install", "--target", part, "pip")
        part.rename(PIP)
    return surroundings({"PYTHONPATH": str(PIP)})


def _pip(venv: Path, *words: str | Path) -> None:
    _run(venv / "bin/python", "-m", "pip", *QUIET, *words)


def _run(*words: str | Path, env: Mapping[str, str] | None = None) -> str:
    environment = dict(env) if env is not None else surroundings()
    done = subprocess.run(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
