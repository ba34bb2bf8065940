"""What came of it: pytest's report of each part, put together to one table and one line for each failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from .cells import Cell, Part, Provided


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a part: `failed` are tests with the first line of their errors, `missing` are reasons of skips."""

    part: Part
    seconds: float
    passed: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    #: Tests that there is no report of, and why: the virtual machine died, or took too long.
    unheard: tuple[str, ...] = ()
    fault: str | None = None

    @property
    def failures(self) -> int:
        """How many tests failed, those that there is no report of among them."""
        return len(self.failed) + len(self.unheard)


@dataclass
class Sum:
    """What came of a cell."""

    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    missing: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        words = [f"{self.passed} passed", f"**{self.failed} failed**" if self.failed else ""]
        words += [f"{self.missing.total()} not there" if self.missing else "", f"{self.seconds / 60:.0f} min"]
        return ", ".join(filter(None, words))


@dataclass
class Outcomes:
    """What pytest says of its tests: `failed` with the first line of their errors, `skipped` by reason, all `names`."""

    passed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def outcomes(file: Path) -> Outcomes | None:
    """Read pytest's JUnit report; None if it wrote none, or not to its end."""
    try:
        cases = list(ET.parse(file).getroot().iter("testcase"))  # noqa: S314  # this program had it written
    except (OSError, ET.ParseError):
        return None
    found = Outcomes()
    for case in cases:
        name = f"{case.get('file')}::{case.get('name')}"
        found.names.add(name)
        if (error := case.find("failure")) is not None or (error := case.find("error")) is not None:
            found.failed.append((name, first_line(error)))
        elif (skipped := case.find("skipped")) is not None:
            found.skipped.append(skipped.get("message", ""))
        else:
            found.passed += 1
    return found


def read(part: Part, file: Path, seconds: float, fault: str | None) -> Result:
    """Read pytest's JUnit report; with a fault, a test of which it says nothing is one that failed."""
    found = outcomes(file)
    if found is None:
        found, fault = Outcomes(), fault or "pytest wrote no report"
    return Result(
        part=part,
        seconds=seconds,
        passed=found.passed,
        failed=tuple(found.failed),
        missing=tuple(found.skipped),
        unheard=tuple(name for name in part.tests if name not in found.names) if fault else (),
        fault=fault,
    )


def first_line(error: ET.Element) -> str:
    """The first line that pytest marks as the error (the last ones only advise to ask for more), or the last of all."""
    lines = [line.strip() for line in (error.text or error.get("message") or "").splitlines() if line.strip()]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (marked[:1] or lines or ["no error text"])[-1]


def sums(results: Sequence[Result]) -> dict[Cell, Sum]:
    """What came of each cell, in the order in which they were begun."""
    found: dict[Cell, Sum] = {}
    for result in results:
        total = found.setdefault(result.part.cell, Sum())
        total.passed += result.passed
        total.failed += result.failures
        total.seconds += result.seconds
        total.missing.update(result.missing)
    return found


def failures(results: Sequence[Result]) -> Iterator[str]:
    """One line for each test that failed, and one for those of a virtual machine that did."""
    for result in results:
        for name, text in result.failed:
            yield f"{result.part.cell}: {name}: {text}"
        if result.unheard:
            more = f" and {len(result.unheard) - 1} more" if result.unheard[1:] else ""
            yield f"{result.part.cell}: {result.unheard[0]}{more}: {result.fault}"


def missing(totals: dict[Cell, Sum]) -> Iterator[str]:
    """One line for each reason for which tests of a cell could not be run."""
    for cell, total in totals.items():
        for reason, count in sorted(total.missing.items()):
            yield f"{cell}: not there: {reason} ({count} test{'s' * (count > 1)})"


def matrix(kernels: Sequence[Provided], crius: Sequence[Provided], totals: dict[Cell, Sum]) -> Iterator[str]:
    """The table, in Markdown: a row for each kernel, a column for each CRIU."""
    shown = [f"CRIU {criu.version}" for criu in crius]
    if any(cell.criu is None for cell in totals):
        shown.insert(0, "without CRIU")
    yield f"| kernel | {' | '.join(shown)} |"
    yield f"| --- |{' --- |' * len(shown)}"
    for kernel in kernels:
        row = [Cell(kernel=kernel), *(Cell(kernel=kernel, criu=criu) for criu in crius)]
        words = [f"does not work: {cell.fault}" if cell.fault else str(totals.get(cell, "")) for cell in row]
        yield f"| {kernel.version} | {' | '.join(words[len(words) - len(shown) :])} |"
