"""The command line of `make test-kernels`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import report
from .cells import CACHE, CRIU_SUITES, KERNEL_SUITES, REPOSITORY, Part, Provided, collect, parts

RESULTS = CACHE / "results"
TESTS = "tests/netns tests/criu"
#: Seconds that a virtual machine may take for each of its tests, and for itself.
LIMIT, LIMIT_ALONE = 60, 300
#: An emulated kernel panics at its start now and then: what run-in-vm says then, and how often it is tried at most.
FAILED_TO_BOOT, BOOTS = 125, 3


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels",
        description="Runs tests under other kernels, with other CRIUs, in virtual machines.",
    )
    names = f"{' '.join(KERNEL_SUITES)}"
    parser.add_argument("--kernels", type=str.split, metavar="NAMES", default=names, help=f"kernels ({names})")
    names = f"{' '.join(CRIU_SUITES)}"
    parser.add_argument("--crius", type=str.split, metavar="VERSIONS", default=names, help=f"CRIUs ({names})")
    parser.add_argument("--tests", type=str.split, metavar="PATHS", default=TESTS, help=f"tests ({TESTS})")
    parser.add_argument("--jobs", type=int, metavar="N", default=2, help="virtual machines at a time (2)")
    parser.add_argument("pytest_args", nargs="*", metavar="-- WORDS", help="more for pytest")
    options = parser.parse_args(words)
    for name, known in ((name, KERNEL_SUITES) for name in options.kernels):
        if name not in known:
            parser.error(f"unknown kernel {name}; these are known: {' '.join(known)}")
    for name, known in ((name, CRIU_SUITES) for name in options.crius):
        if name not in known:
            parser.error(f"unknown CRIU {name}; these are known: {' '.join(known)}")
    return options


def say(text: str) -> None:
    """Say how far it has come."""
    print(text, flush=True)


def provide_kernel(name: str) -> Provided:
    """The kernel of that name, fetched if it is not in the cache."""
    path = CACHE / name
    if not (path / "release").exists():
        subprocess.run([REPOSITORY / "tools/get-kernel", KERNEL_SUITES[name], path], check=True)
    return Provided(name=name, version=(path / "release").read_text().strip(), path=path)


def provide_criu(name: str) -> Provided:
    """The CRIU of that version, fetched if it is not in the cache."""
    path = CACHE / f"criu-{name}"
    criu = path / "bin/criu"
    if not criu.exists():
        subprocess.run([REPOSITORY / "tools/get-criu", CRIU_SUITES[name], path], check=True)
    text = subprocess.run([criu, "--version"], capture_output=True, text=True, check=True).stdout
    version = text.split()[1]
    if version != name:
        say(f"CRIU {name} is now {version} in {CRIU_SUITES[name]}")
    return Provided(name=name, version=version, path=criu)


def run_part(part: Part, number: int, pytest_args: Sequence[str]) -> report.Result:
    """Run one part in a virtual machine, and say what came of it."""
    stem = f"{part.cell.kernel.name}-{part.cell.criu.version if part.cell.criu else 'none'}-{number}"
    junit, log = RESULTS / f"{stem}.xml", RESULTS / f"{stem}.log"
    limit = LIMIT_ALONE + LIMIT * len(part.tests)
    vm: list[str | Path] = [REPOSITORY / "tools/run-in-vm", "-w", RESULTS, "-t", str(limit)]
    named = ["env", f"CRIU={part.cell.criu.path}"] if part.cell.criu else []
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "junit_family=xunit1"]
    told = ["--tb=short", "--durations=0", f"--junitxml={junit}", *pytest_args, *part.tests]
    begun = time.monotonic()
    words = [*vm, part.cell.kernel.path, "--", *named, *pytest, *told]
    status = boot(words, log)
    for _ in range(BOOTS - 1):
        if status != FAILED_TO_BOOT or "test session starts" in log.read_text(errors="replace"):
            break
        say(f"{part}: the virtual machine did not come up: {last_line_of(log)}")
        status = boot(words, log)
    fault = None if status in {0, 1} else f"see {log.relative_to(REPOSITORY)}: {last_line_of(log)}"
    result = report.read(part, junit, time.monotonic() - begun, fault)
    say(f"{part}: {result.passed} passed, {result.failures} failed, {result.seconds / 60:.1f} min")
    for line in report.failures([result]):
        say(f"  {line}")
    return result


def boot(words: Sequence[str | Path], log: Path) -> int:
    """Run a virtual machine to its end, all that it says into a file; return its exit status."""
    with log.open("w") as stream:
        done = subprocess.run(
            words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, check=False
        )
    return done.returncode


def last_line_of(file: Path) -> str:
    """The last line of a file that is not empty."""
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


def main() -> int:
    """Run it all; the exit status is 1 if a test failed."""
    options = arguments()
    try:
        tests = collect(options.tests, options.pytest_args)
        kernels = [provide_kernel(name) for name in options.kernels]
        crius = [provide_criu(name) for name in options.crius]
    except subprocess.CalledProcessError:  # it has said why
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    for old in RESULTS.iterdir():
        old.unlink()
    work = list(parts(kernels, crius, tests))
    say(f"{len(tests)} tests in {len(work)} virtual machines, {options.jobs} at a time")
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            running = [pool.submit(run_part, part, number, options.pytest_args) for number, part in enumerate(work, 1)]
            results = [future.result() for future in running]
        except KeyboardInterrupt:  # the virtual machines have heard it too
            pool.shutdown(wait=False, cancel_futures=True)
            print("interrupted", file=sys.stderr)
            return 130
    return conclude(kernels, crius, results)


def conclude(kernels: Sequence[Provided], crius: Sequence[Provided], results: Sequence[report.Result]) -> int:
    """Print what came of it all, and return the exit status."""
    totals = report.sums(results)
    text = "\n".join(
        [
            *report.missing(totals),
            *report.failures(results),
            "",
            *report.matrix(kernels, crius, totals),
            "",
            f"{sum(total.passed for total in totals.values())} passed, "
            f"{sum(total.failed for total in totals.values())} failed",
        ]
    )
    say(text)
    return 1 if any(total.failed for total in totals.values()) or not results else 0


if __name__ == "__main__":
    sys.exit(main())
