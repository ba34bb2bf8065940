"""The command line of `make test-matrix`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import environment, report
from .cells import CACHE, Cell

CELLS = "3.11-oldest 3.11-newest 3.15-oldest 3.15-newest"
TESTS = ("tests/unit", "tests/netns")
#: Seconds that the tests of a cell may take: five times what they do on two cores.
LIMIT = 1500


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m matrix",
        description="Runs the tests that need no CRIU with several versions of Python and of its packages.",
    )
    parser.add_argument("--cells", type=str.split, metavar="NAMES", default=CELLS, help=f"cells ({CELLS})")
    parser.add_argument("--jobs", type=int, metavar="N", default=2, help="tests at a time (2)")
    parser.add_argument("pytest_args", nargs="*", metavar="-- WORDS", help="more for pytest")
    options = parser.parse_args(words)
    try:
        options.cells = [Cell.named(name) for name in options.cells]
    except ValueError as error:
        parser.error(str(error))
    return options


def say(text: str) -> None:
    """Say how far it has come."""
    print(text, flush=True)


def run(cell: Cell, jobs: int, pytest_args: Sequence[str]) -> report.Result:
    """Run the cell's tests, and say what came of it.

    Raises CalledProcessError if the cell cannot be made.
    """
    environment.provide(cell)
    versions = environment.versions(cell)
    junit, log = CACHE / f"{cell}.xml", CACHE / f"{cell}.log"
    junit.unlink(missing_ok=True)
    words: list[str | Path] = [
        cell.path / ".venv/bin/python",
        "-m",
        "pytest",
        "-n",
        str(jobs),
        "-o",
        "junit_family=xunit1",
    ]
    begun = time.monotonic()
    with log.open("w") as stream:
        try:
            done = subprocess.run(
                [*words, f"--junitxml={junit}", *pytest_args, *TESTS],
                cwd=cell.path,
                env=environment.surroundings(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                timeout=LIMIT,
                check=False,
            )
            fault = None if done.returncode in {0, 1} else f"exit status {done.returncode}: see {log}"
        except subprocess.TimeoutExpired:
            fault = f"still running after {LIMIT} s: see {log}"
    result = report.read(cell, versions, junit, time.monotonic() - begun, fault)
    say(f"{cell}: Python {versions['Python']}, {report.packages(result)}: {result}")
    return result


def main() -> int:
    """Run it all; the exit status is 1 if a test failed, 2 if a cell cannot be made."""
    options = arguments()
    try:
        results = [run(cell, options.jobs, options.pytest_args) for cell in options.cells]
    except subprocess.CalledProcessError as error:  # it has said why
        print(f"matrix: error: exit status {error.returncode}: {error.cmd[0]}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"matrix: error: {error}", file=sys.stderr)
        return 2
    failed = list(report.failures(results))
    passed = sum(result.passed for result in results)
    say("\n".join([*failed, "", *report.matrix(results), "", f"{passed} passed, {len(failed)} failed"]))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
