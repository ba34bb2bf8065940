"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from lab import Criu, find_criu

from . import report, variants
from .restores import Measured, measure_restores, quick_check
from .startup import measure_startup
from .timing import Samples

ROUNDS = {1: 30, 8: 20, 32: 12, 256: 5}
QUICK_ROUNDS = {1: 5, 32: 3}


def rounds_for(table: dict[int, int], veths: int) -> int:
    """The rounds for a number of veths: those of the nearest listed number that is not less."""
    return next((table[size] for size in sorted(table) if size >= veths), min(table.values()))


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures whole restores with real CRIU and single calls of the hook, in one interleaved run.",
        epilog='Example: python -m bench --veths 1,8 --rounds 20 --variants "shell + ip,criu-veth"',
    )
    parser.add_argument("--veths", metavar="N,...", help="numbers of veths (1,8,32,256; with --quick 1,32)")
    parser.add_argument("--rounds", type=int, metavar="N", help="restores of each variant (30, 20, 12 and 5)")
    parser.add_argument("--variants", default="", metavar="NAME,...", help="variants by the beginnings of their names")
    parser.add_argument("--links", type=int, default=5000, metavar="N", help="other links on the crowded host (5000)")
    parser.add_argument("--quick", action="store_true", help="fewer of everything, in less than a minute")
    parser.add_argument("--no-restores", action="store_true", help="only the single calls")
    parser.add_argument("--no-startup", action="store_true", help="only the restores")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a budget is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    try:
        options.names = variants.known(options.variants)
    except ValueError as error:
        parser.error(str(error))
    return options


def usable(names: list[str]) -> list[str]:
    """The variants that can run in this checkout; says which cannot."""
    if variants.available():
        return names
    missing = [name for name in names if name in (variants.READY, variants.COLD)]
    for name in missing:
        print(f"skipped: {name}: there is no hooks/criu-veth in this checkout")
    return [name for name in names if name not in missing]


def measure(options: argparse.Namespace, criu: Criu, directory: Path) -> tuple[Samples, list[Measured]]:
    """Measure what was asked for, saying on stderr how far it has come."""
    table = QUICK_ROUNDS if options.quick else ROUNDS
    sizes = [int(size) for size in options.veths.split(",")] if options.veths else list(table)
    names = usable(options.names)
    measured = []
    for size in [] if options.no_restores else sizes:
        rounds = options.rounds or rounds_for(table, size)
        say(f"{rounds} restores of {size} veths, {len(names)} variants")
        measured.append(measure_restores(criu, size, names, rounds, directory / f"veths-{size}"))
    if options.no_startup:
        return {}, measured
    say("single calls")
    links = min(options.links, 500) if options.quick else options.links
    return measure_startup(directory, 20 if options.quick else 100, links), measured


def say(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(f"bench: {text} ...", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print the report, and return the exit status."""
    options = arguments()
    path = find_criu()
    if path is None:
        raise SystemExit("bench: needs CRIU: set CRIU, or put one in .criu/bin or on PATH")
    quick_check(path)
    criu = Criu(path.absolute())
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="criu-veth-bench-") as directory:
        single, measured = measure(options, criu, Path(directory))
    about = f"{datetime.now(UTC):%Y-%m-%d}, CRIU {criu.version()}, kernel {platform.release()}, "
    about += f"Python {platform.python_version()}, {time.monotonic() - start:.0f} s"
    print(f"{about}\n")
    for line in report.lines(single, measured):
        print(line)
    if options.json:
        restores = {str(one.veths): {"restores": one.restores, "actions": one.actions} for one in measured}
        data = {"about": about, "unit": "ms", "veths": restores, "single": single}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    held = all(budget.holds for budget in report.budgets(single, measured))
    return 0 if held or not options.strict else 1


if __name__ == "__main__":
    sys.exit(main())
