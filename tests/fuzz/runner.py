"""Runs inputs in processes that may be lost, and says which of them ended badly."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import logging
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from .judge import MOST_SECONDS, tried

#: So much address space more than at the start: what asks for it all gets a MemoryError, and the machine lives on.
_ROOM = 1 << 30
#: Every so many inputs what Python cannot free by itself is collected.
_COLLECT = 500


class Finding(NamedTuple):
    """An input that ended badly."""

    kind: str
    number: int
    what: str


class Worker:
    """A process that runs every ``step``-th input of a kind, and says at which it is."""

    def __init__(self, kind: str, numbers: range, root: Path) -> None:
        self.kind, self.numbers, self.root = kind, numbers, root
        self._at = mmap.mmap(-1, 16)
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._pid = os.fork()
        if not self._pid:
            os.close(self._read)
            self._work(write)
        os.close(write)
        self._said = b""
        self._slept_at = (0, time.monotonic())
        self.ended = False

    def _work(self, write: int) -> None:
        status = 1
        try:
            faulthandler.enable(os.dup(2))
            inputs = _Inputs(self.kind, self.root)
            for number in self.numbers:
                self._at[:] = struct.pack("qd", number, time.process_time())
                what = inputs.tried(number)
                if what is not None:
                    os.write(write, json.dumps([self.kind, number, what[-4000:]]).encode() + b"\n")
                if number % _COLLECT < self.numbers.step:
                    gc.collect()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def findings(self) -> list[Finding]:
        """Return what was found since the last call; sets ``ended`` when the process is gone."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        try:
            while data := os.read(self._read, 1 << 20):
                self._said += data
        except BlockingIOError:
            pass
        *lines, self._said = self._said.split(b"\n")
        found = [Finding(*json.loads(line)) for line in lines]
        if pid:
            self.ended = True
            os.close(self._read)
            if status:
                found.append(
                    Finding(self.kind, self.number, f"the process ended with {os.waitstatus_to_exitcode(status)}")
                )
        return found

    @property
    def number(self) -> int:
        """The input that is being run."""
        return int(struct.unpack("qd", self._at[:])[0])

    def seconds(self) -> float:
        """Return what the input has taken, of the processor or asleep; waiting for a processor does not count."""
        state, *fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        number, since = struct.unpack("qd", self._at[:])
        now = time.monotonic()
        if number != self._slept_at[0] or state == "R":
            self._slept_at = (number, now)
        used = (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK") - since
        return max(used, now - self._slept_at[1]) if since else 0.0  # 0: it has not begun

    def kill(self) -> None:
        """End the process: it is stuck."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read)
        self.ended = True


class _Inputs:
    """Makes and runs the inputs of one kind: its seeds have the numbers below zero."""

    def __init__(self, kind: str, root: Path) -> None:
        from criu_veth import paths

        from .binary import MORE
        from .kinds import KINDS, Lab
        from .source import Source

        logging.disable()  # pyroute2 says for itself what it cannot encode
        os.umask(0o022)
        for name in ("images", "etc"):
            (root / name).mkdir(parents=True, exist_ok=True)
        paths.RUN_DIR, paths.PROGRAMS, paths.RUNS = (f"{root}/run{more}" for more in ("", "/programs", "/runs"))
        os.environ["PATH"] = str(root / "no-programs")
        os.chdir(root)
        self._source, self._kind, self._name, self._lab = Source, {**KINDS, **MORE}[kind], kind, Lab(root)
        self._seeds = self._kind.seeds()
        self.tried(-1)  # imports, and what else is only once
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, used + _ROOM))

    def make(self, number: int) -> Any:
        return self._seeds[number] if number < 0 else self._kind.make(self._source(self._name, number))

    def tried(self, number: int) -> str | None:
        """Make an input, run it, and say what is wrong with how it ends."""
        made = self.make(number)
        return tried(lambda: self._kind.run(self._lab, made))


def _seeds_of(kind: str) -> int:
    from .binary import MORE
    from .kinds import KINDS

    return len({**KINDS, **MORE}[kind].seeds())


def run_kind(kind: str, numbers: range, jobs: int, most: int, root: Path) -> list[Finding]:
    """Run the inputs of one kind with these numbers, and return those that ended badly."""
    workers = [Worker(kind, numbers[job::jobs], root / f"{kind}-{job}") for job in range(jobs)]
    found: list[Finding] = []
    while workers and len(found) < most:
        time.sleep(0.05)
        for worker in list(workers):
            found += worker.findings()
            if not worker.ended and worker.seconds() > MOST_SECONDS:
                number = worker.number
                worker.kill()
                found += _again(kind, number, root / f"{kind}-again")
                rest = range(number + worker.numbers.step, worker.numbers.stop, worker.numbers.step)
                workers.append(Worker(kind, rest, worker.root))
            if worker.ended:
                workers.remove(worker)
    for worker in workers:
        worker.kill()
    return found


def _again(kind: str, number: int, root: Path) -> list[Finding]:
    """Run an input alone that took too long: the machine may have been busy with something else."""
    worker = Worker(kind, range(number, number + 1), root)
    while not worker.ended:
        time.sleep(0.02)
        found = worker.findings()
        if not worker.ended and worker.number == number and worker.seconds() > MOST_SECONDS:
            worker.kill()
            return [Finding(kind, number, f"no end within {MOST_SECONDS:g} s")]
    return found


def show(kind: str, number: int, root: Path) -> int:
    """Print one input, run it in this process, and say how it ends."""
    inputs = _Inputs(kind, root)
    print(f"{kind} {number}: {inputs.make(number)!r}")
    started = time.monotonic()
    what = inputs.tried(number)
    print(f"{what or 'ended well'} ({time.monotonic() - started:.3f} s)")
    return 1 if what else 0


def run(options: argparse.Namespace, root: Path) -> int:
    """Do what the command line says; return the exit status."""
    if options.only is not None:
        return max(show(kind, options.only, root / kind) for kind in options.kinds)
    failed = False
    for kind in options.kinds:
        started = time.monotonic()
        numbers = range(options.first - (_seeds_of(kind) if options.first == 0 else 0), options.first + options.count)
        found = run_kind(kind, numbers, options.jobs, options.most, root)
        print(
            f"{kind}: {len(numbers)} inputs, {len(found)} ended badly, {time.monotonic() - started:.0f} s", flush=True
        )
        alike: dict[str, list[int]] = {}
        for finding in found:
            alike.setdefault(finding.what.rstrip(), []).append(finding.number)
        for what, those in alike.items():
            print(f"\n{kind} {', '.join(map(str, those[:8]))}: {what}", flush=True)
        failed = failed or bool(found)
    if failed:
        print("\nTo see one again: PYTHONPATH=tests .venv/bin/python -m fuzz --kinds KIND --only NUMBER")
    sys.stdout.flush()
    return 1 if failed else 0
