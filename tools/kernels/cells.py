"""What is run where: a cell is one kernel with a CRIU or with none, a part is what one virtual machine runs of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from criu_veth.doctor import KNOWN_BAD, version_of

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".kernels"

#: Where each kernel and each CRIU is taken from. A suite may have moved on; what it holds then is said.
KERNEL_SUITES = {"6.1": "bookworm", "6.12": "trixie", "newest": "forky"}
CRIU_SUITES = {"3.17.1": "bookworm", "4.1.1": "trixie", "4.2.1": "forky", "4.3": "experimental"}

#: Tests that one virtual machine runs: few enough that the last one to end is not waited for alone, and that one that
#: dies takes few with it; many enough that its start does not count.
SIZE = 40


@dataclass(frozen=True, kw_only=True)
class Provided:
    """A kernel or a CRIU that is there: as it was asked for, what it says that it is, and its directory."""

    name: str
    version: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kernel, with one CRIU or with none."""

    kernel: Provided
    criu: Provided | None = None

    def __str__(self) -> str:
        return f"{self.kernel.name} x {self.criu.version}" if self.criu else self.kernel.name

    @property
    def fault(self) -> str | None:
        """Why this CRIU does not work on this kernel at all, if it is known not to."""
        if self.criu is None:
            return None
        criu, kernel = version_of(self.criu.version), version_of(self.kernel.version)
        return next((text for below, since, text in KNOWN_BAD if criu < below and kernel >= since), None)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one virtual machine runs: `tests` are pytest's names of them."""

    cell: Cell
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.cell}: {self.tests[0]}" + (f" and {len(self.tests) - 1} more" if self.tests[1:] else "")


def collect(tests: Sequence[str], pytest_args: Sequence[str]) -> list[str]:
    """The names of the tests below `tests`, those that need another kernel than this one among them.

    Raises ValueError with what pytest says if it cannot collect them.
    """
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *pytest_args, *tests]
    environment = {**os.environ, "IN_VM": "collecting"}
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in {0, 5}:  # 5: none is left
        raise ValueError(f"pytest cannot collect {' '.join(tests)}:\n{done.stdout}{done.stderr}".rstrip())
    lines, _, _ = done.stdout.partition("\n\n")
    return [line for line in lines.splitlines() if "::" in line]


def parts(kernels: Sequence[Provided], crius: Sequence[Provided], tests: Sequence[str]) -> Iterator[Part]:
    """Every part of every cell. What needs no CRIU (all but tests/criu) is run once for each kernel."""
    with_criu = [name for name in tests if name.startswith("tests/criu/")]
    without = [name for name in tests if name not in with_criu]
    for kernel in kernels:
        yield from split(Cell(kernel=kernel), without)
        for criu in crius:
            cell = Cell(kernel=kernel, criu=criu)
            if cell.fault is None:
                yield from split(cell, with_criu)


def split(cell: Cell, tests: Sequence[str]) -> Iterator[Part]:
    """The parts of one cell, of nearly the same size."""
    count = -(-len(tests) // SIZE)
    for number in range(count):
        yield Part(cell=cell, tests=tuple(tests[len(tests) * number // count : len(tests) * (number + 1) // count]))
