"""What is run with what: a cell is one Python with the oldest or the newest packages that pyproject.toml allows it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".matrix"

#: Where each Python is taken from.
PYTHON_SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky", "3.15": "sid"}
OLDEST, NEWEST = "oldest", "newest"

#: What the tests and an editable installation need; they are installed in the versions of requirements.lock.
TOOLS = ("editables", "hatchling", "pytest", "pytest-mock", "pytest-xdist")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One Python, by its first two numbers, with the ``oldest`` or the ``newest`` packages."""

    python: str
    packages: str

    def __str__(self) -> str:
        return f"{self.python}-{self.packages}"

    @property
    def path(self) -> Path:
        """The checkout in which it runs."""
        return CACHE / str(self)

    @classmethod
    def named(cls, name: str) -> Cell:
        """The cell that is called like that: ``3.11-oldest``.

        Raises ValueError for a name that is unknown.
        """
        python, _, packages = name.partition("-")
        if python not in PYTHON_SUITES or packages not in {OLDEST, NEWEST}:
            raise ValueError(f"unknown cell {name!r}: one of {', '.join(PYTHON_SUITES)}, with -{OLDEST} or -{NEWEST}")
        return cls(python=python, packages=packages)


def dependencies(repository: Path = REPOSITORY) -> list[str]:
    """The dependencies in pyproject.toml, as they are written there."""
    found: list[str] = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["dependencies"]
    return found


def locked(repository: Path = REPOSITORY) -> dict[str, str]:
    """The version of each package in requirements.lock."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", (repository / "requirements.lock").read_text(), re.MULTILINE))


def wanted(cell: Cell, dependencies: Sequence[str]) -> dict[str, str]:
    """What pip is to install of the dependencies, by name: ``pyroute2==0.9.3``, or ``pyroute2<0.10,>=0.9.3``.

    Raises ValueError for one without a lowest version.
    """
    by_name: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, dependencies):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": cell.python}):
            by_name.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    if cell.packages == NEWEST:
        return {name: f"{name}{_all_of(found)}" for name, found in by_name.items()}
    return {name: f"{name}=={lowest(found)}" for name, found in by_name.items()}


def _all_of(requirements: Sequence[Requirement]) -> str:
    return ",".join(filter(None, (str(requirement.specifier) for requirement in requirements)))


def lowest(requirements: Sequence[Requirement]) -> Version:
    """The lowest version that these requirements of one package allow.

    Raises ValueError if none of them says.
    """
    bounds = [
        Version(specifier.version)
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]
    if not bounds:
        raise ValueError(f"pyproject.toml: {requirements[0]} has no lowest version (>=)")
    return max(bounds)
