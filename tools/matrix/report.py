"""What came of it: pytest's report of each cell, put together to one table and one line for each failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernels.report import Outcomes, outcomes

from .cells import NEWEST, OLDEST, Cell


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a cell: `failed` are tests, or what else went wrong, with the first line of each error."""

    cell: Cell
    versions: Mapping[str, str]
    seconds: float
    passed: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    skipped: int = 0

    def __str__(self) -> str:
        words = [f"{self.passed} passed", f"**{len(self.failed)} failed**" if self.failed else ""]
        words += [f"{self.skipped} skipped" if self.skipped else "", f"{self.seconds / 60:.1f} min"]
        return ", ".join(filter(None, words))


def read(cell: Cell, versions: Mapping[str, str], file: Path, seconds: float, fault: str | None) -> Result:
    """Read pytest's JUnit report; a `fault` of pytest itself is a failure beside those of tests."""
    found = outcomes(file)
    if found is None:
        found, fault = Outcomes(), fault or "pytest wrote no report"
    failed = (*found.failed, ("pytest", fault)) if fault else tuple(found.failed)
    return Result(
        cell=cell, versions=versions, seconds=seconds, passed=found.passed, failed=failed, skipped=len(found.skipped)
    )


def failures(results: Sequence[Result]) -> Iterator[str]:
    """One line for each failure."""
    for result in results:
        for name, text in result.failed:
            yield f"{result.cell}: {name}: {text}"


def matrix(results: Sequence[Result]) -> Iterator[str]:
    """The table, in Markdown: a row for each Python, a column for the oldest and one for the newest packages."""
    columns = [name for name in (OLDEST, NEWEST) if any(result.cell.packages == name for result in results)]
    yield f"| Python | {' | '.join(f'{name} packages' for name in columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for python in dict.fromkeys(result.cell.python for result in results):
        row = {result.cell.packages: result for result in results if result.cell.python == python}
        (version,) = {result.versions["Python"] for result in row.values()}
        words = [f"{packages(row[name])}: {row[name]}" if name in row else "" for name in columns]
        yield f"| {version} | {' | '.join(words)} |"


def packages(result: Result) -> str:
    """The versions of a cell's packages: `click 8.1.0, pyroute2 0.9.3`."""
    return ", ".join(f"{name} {version}" for name, version in result.versions.items() if name != "Python")
