"""What `make test-kernels` makes of pytest's reports; it runs no virtual machine here."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from kernels import __main__ as program
from kernels import cells, report
from kernels.__main__ import arguments, conclude
from kernels.cells import Cell, Part, Provided
from lab import wait_for

OLD = Provided(name="6.1", version="6.1.0-50-amd64", path=Path("/kernels/6.1"))
NEW = Provided(name="newest", version="7.2.12+deb14-amd64", path=Path("/kernels/newest"))
CRIU_3 = Provided(name="3.17.1", version="3.17.1", path=Path("/kernels/criu-3.17.1/bin/criu"))
CRIU_4 = Provided(name="4.2.1", version="4.2.1", path=Path("/kernels/criu-4.2.1/bin/criu"))

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.netns.test_a" name="test_one[x]" file="tests/netns/test_a.py" time="1.2" />
<testcase classname="tests.netns.test_a" name="test_two" file="tests/netns/test_a.py">
<failure message="assert 1 == 2">tests/netns/test_a.py:7: in test_two
    assert one == 2
E   assert 1 == 2
E    +  where 1 = one()
</failure></testcase>
<testcase classname="tests.netns.test_a" name="test_three" file="tests/netns/test_a.py">
<error message="failed on setup">no lines of its own</error></testcase>
<testcase classname="tests.netns.test_a" name="test_four" file="tests/netns/test_a.py">
<skipped type="pytest.skip" message="netkit (6.7)">tests/conftest.py:40: netkit (6.7)</skipped></testcase>
</testsuite></testsuites>"""
TESTS = tuple(f"tests/netns/test_a.py::test_{name}" for name in ("one[x]", "two", "three", "four", "five"))


@pytest.fixture
def junit(tmp_path: Path) -> Path:
    path = tmp_path / "report.xml"
    path.write_text(JUNIT)
    return path


def test_report_is_read(junit: Path) -> None:
    result = report.read(Part(cell=Cell(kernel=OLD), tests=TESTS[:4]), junit, 90.0, None)

    assert result.passed == 1
    assert result.missing == ("netkit (6.7)",)
    assert list(report.failures([result])) == [
        "6.1: tests/netns/test_a.py::test_two: assert 1 == 2",
        "6.1: tests/netns/test_a.py::test_three: no lines of its own",
    ]


def test_test_that_a_dead_machine_has_not_reported_is_a_failure(junit: Path) -> None:
    part = Part(cell=Cell(kernel=OLD, criu=CRIU_4), tests=TESTS)

    result = report.read(part, junit, 90.0, "the virtual machine ended without an exit status")

    assert list(report.failures([result]))[-1] == (
        "6.1 x 4.2.1: tests/netns/test_a.py::test_five: the virtual machine ended without an exit status"
    )


def test_without_a_report_all_have_failed(tmp_path: Path) -> None:
    result = report.read(Part(cell=Cell(kernel=OLD), tests=TESTS), tmp_path / "none.xml", 90.0, None)

    assert list(report.failures([result])) == [f"6.1: {TESTS[0]} and 4 more: pytest wrote no report"]
    assert report.sums([result])[result.part.cell].failed == 5


def test_tests_without_criu_run_once_for_each_kernel() -> None:
    names = ["tests/netns/test_a.py::test_one", "tests/criu/test_b.py::test_one"]

    found = [(str(part.cell), part.tests) for part in cells.parts([OLD, NEW], [CRIU_3, CRIU_4], names)]

    assert found == [
        ("6.1", (names[0],)),
        ("6.1 x 3.17.1", (names[1],)),
        ("6.1 x 4.2.1", (names[1],)),
        ("newest", (names[0],)),  # CRIU 3.17.1 does not work there
        ("newest x 4.2.1", (names[1],)),
    ]


@pytest.mark.parametrize("count", [0, 1, cells.SIZE, cells.SIZE + 1, 3 * cells.SIZE + 7])
def test_cell_is_split_into_nearly_equal_parts(count: int) -> None:
    names = [f"tests/netns/test_a.py::test_{number}" for number in range(count)]

    parts = list(cells.split(Cell(kernel=OLD), names))

    assert [name for part in parts for name in part.tests] == names
    sizes = {len(part.tests) for part in parts}
    assert not sizes or (max(sizes) <= cells.SIZE and max(sizes) - min(sizes) <= 1)


def test_tests_are_collected_that_only_another_kernel_can_run() -> None:
    assert "tests/netns/test_announce.py::test_vlan_device_is_announced_with_its_tag" in [
        name.partition("[")[0] for name in cells.collect(["tests/netns/test_announce.py"], [])
    ]
    assert cells.collect(["tests/netns/test_announce.py"], ["-k", "unheard"]) == []
    with pytest.raises(ValueError, match=r"^pytest cannot collect tests/none: *\n"):
        cells.collect(["tests/none"], [])


def test_what_is_said_at_the_end(junit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        report.read(Part(cell=Cell(kernel=OLD), tests=TESTS[:4]), junit, 90.0, None),
        report.Result(part=Part(cell=Cell(kernel=NEW, criu=CRIU_4), tests=("a", "b")), seconds=150.0, passed=2),
    ]

    assert conclude([OLD, NEW], [CRIU_3, CRIU_4], results) == 1

    assert capsys.readouterr().out == (
        "6.1: not there: netkit (6.7) (1 test)\n"
        "6.1: tests/netns/test_a.py::test_two: assert 1 == 2\n"
        "6.1: tests/netns/test_a.py::test_three: no lines of its own\n"
        "\n"
        "| kernel | without CRIU | CRIU 3.17.1 | CRIU 4.2.1 |\n"
        "| --- | --- | --- | --- |\n"
        "| 6.1.0-50-amd64 | 1 passed, **2 failed**, 1 not there, 2 min |  |  |\n"
        "| 7.2.12+deb14-amd64 |  | does not work: cannot restore: `vdso: Unexpected rt vDSO area bounds`"
        " | 2 passed, 2 min |\n"
        "\n"
        "3 passed, 2 failed\n"
    )


def test_nothing_run_is_no_success() -> None:
    assert conclude([OLD], [], []) == 1


def test_interrupted_it_begins_no_other(
    mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit, shutdown = mocker.spy(ThreadPoolExecutor, "submit"), mocker.spy(ThreadPoolExecutor, "shutdown")
    begun = []

    def run_part(part: Part, *_: object) -> report.Result:
        begun.append(part.tests)
        wait_for(lambda: len(submit.spy_return_list) == 3, "all parts to wait for their turns")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        wait_for(lambda: shutdown.spy_return_list, "the program to have heard it")
        return report.Result(part=part, seconds=0.0)

    monkeypatch.setattr(sys, "argv", ["kernels", "--kernels=6.1", "--crius=", "--jobs=1"])
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    monkeypatch.setattr(cells, "SIZE", 1)
    mocker.patch.object(program, "collect", return_value=TESTS[:3])
    mocker.patch.object(program, "provide_kernel", return_value=OLD)
    mocker.patch.object(program, "run_part", run_part)

    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it would be ignored
    try:
        assert program.main() == 130
    finally:
        signal.signal(signal.SIGINT, heard)

    assert len(begun) == 1
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kernels", "6.1 5.0"], "unknown kernel 5.0; these are known: 6.1 6.12 newest"),
        (["--crius", "2.0"], "unknown CRIU 2.0; these are known: 3.17.1 4.1.1 4.2.1 4.3"),
    ],
)
def test_unknown_name(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert capsys.readouterr().err.splitlines()[-1] == f"python -m kernels: error: {message}"
