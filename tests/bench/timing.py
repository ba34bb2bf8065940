"""Timing commands on a lab host, and what to make of the samples."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import CommandError, Host
from lab.host import PYTHON, path_with_sbin

RUNNER = (Path(__file__).parent / "runner.py").read_text()

Samples = dict[str, list[float]]
"""Milliseconds by name of what was measured."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is measured: a program by its path, as CRIU would start it if `images` is given."""

    argv: Sequence[str]
    env: Mapping[str, str]
    images: Path | None = None


class Stopwatch:
    """Runs commands one by one on a host and says how long each took."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._log = "/run/bench.log"
        self._runner = host.popen(
            PYTHON, "-I", "-S", "-c", RUNNER, "restore", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __call__(self, command: Command) -> float:
        """Run the command and return milliseconds; a status other than 0 raises CommandError."""
        assert self._runner.stdin
        assert self._runner.stdout
        env = {"PATH": path_with_sbin({}), **self.host.environment({}), **command.env}
        order = {
            "argv": list(command.argv),
            "env": env,
            "images": str(command.images) if command.images else None,
            "log": self._log,
        }
        self._runner.stdin.write(json.dumps(order) + "\n")
        self._runner.stdin.flush()
        line = self._runner.stdout.readline()
        if not line:
            raise CommandError(command.argv, "the runner that measures it died", "", "")
        answer = json.loads(line)
        if answer["status"] != 0:
            said = self.host.path(self._log).read_text(errors="replace")
            raise CommandError(command.argv, f"exit status {answer['status']}", said, "")
        return float(answer["ns"]) / 1e6


def interleave(measure: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> Samples:
    """Measure each in turn, round after round, so that what disturbs the machine disturbs all.

    Every round has an order of its own, shuffled but the same in every run; the results of the
    first `warm_up` rounds are dropped.
    """
    shuffle = random.Random(0)
    samples: Samples = {name: [] for name in measure}
    for turn in range(warm_up + rounds):
        names = list(measure)
        if turn >= warm_up:
            shuffle.shuffle(names)
        for name in names:
            taken = measure[name]()
            if turn >= warm_up:
                samples[name].append(taken)
    return samples


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)
