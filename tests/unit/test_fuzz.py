"""The harness that `make fuzz` runs: what it finds, and that it finds the same again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz import runner
from fuzz.binary import MORE
from fuzz.judge import DefectError, Said, cleanly, judge, most_resident, resident, tried
from fuzz.kinds import KINDS, Kind, Lab
from fuzz.source import Source

from criu_veth.errors import InputError


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_a_number_is_always_the_same_input(kind: str) -> None:
    make = {**KINDS, **MORE}[kind].make
    inputs = [repr(make(Source(kind, number))) for number in range(20)]
    assert [repr(make(Source(kind, number))) for number in range(20)] == inputs
    assert len(set(inputs)) > 15


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (Said(3, b"", b"criu-veth: x\n"), "exit status 3: criu-veth: x"),
        (Said(-11, b"", b""), "exit status -11: "),
        (Said(1, b"", b"x\n"), "a line of a message without the prefix: 'x'"),
        (Said(1, b"", b"criu-veth: error: " + b"a" * 500 + b"\n"), "a message of 518 characters: "),
        (Said(0, b"a\x1b[31m", b""), "written were ['\\x1b'] in b'a\\x1b[31m'"),
        (Said(0, "\x9b".encode(), b""), "written were ['\\x9b'] in b'\\xc2\\x9b'"),
        (Said(0, b"", b"criu-veth: a\rb\n"), "written were ['\\r'] in b'criu-veth: a\\rb\\n'"),
        (Said(0, b"\xff", b""), "written is what is no UTF-8: "),
    ],
)
def test_what_is_no_clean_end(said: Said, fault: str) -> None:
    with pytest.raises(DefectError) as caught:
        judge(said)
    assert str(caught.value).startswith(fault)


def test_what_is_one() -> None:
    said = Said(2, b"ok: 1 veth\n", b"criu-veth: error: F: x\\x1b\n")
    assert judge(said) == said


def raises(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def test_errors_that_are_meant_are_clean_and_others_are_not() -> None:
    assert tried(lambda: cleanly(raises(InputError("F: x")))) is None
    assert str(tried(lambda: cleanly(raises(KeyError("x"))))).endswith("KeyError: 'x'")
    assert str(tried(raises(RecursionError("x")))).endswith("RecursionError: x")


def test_memory_is_looked_at() -> None:
    more = most_resident() - resident() + (100 << 20)  # than this process has ever had
    assert "MB of memory" in str(tried(lambda: len(b"x" * more)))


def run(given: str) -> object:
    """Do what an input says."""
    return {
        "fine": lambda: None,
        "defect": raises(ZeroDivisionError("one too many")),
        "death": lambda: sys.modules["os"]._exit(7),
        "hang": lambda: time.sleep(60),
    }[given]()


def test_processes_that_are_lost_or_stuck_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ["fine", "defect", "hang", "fine", "death", "fine"]

    class Fake(runner._Inputs):
        def __init__(self, name: str, root: Path) -> None:
            self._kind: Any = Kind(lambda _: "", lambda _, given: run(given), lambda: inputs)
            self._source, self._name, self._lab, self._seeds = Source, name, Lab(root), inputs

    monkeypatch.setattr(runner, "_Inputs", Fake)
    monkeypatch.setattr(runner, "MOST_SECONDS", 0.3)
    found = runner.run_kind("x", range(-6, 0), 1, 20, tmp_path)
    assert [(finding.number, finding.what.splitlines()[-1]) for finding in found] == [
        (-5, "ZeroDivisionError: one too many"),
        (-4, "no end within 0.3 s"),
        (-2, "the process ended with 7"),
    ]
