"""What `make test-matrix` asks pip for, and what it makes of pytest's reports; it makes no environment here."""

from __future__ import annotations

from pathlib import Path

import pytest

from matrix import cells, environment, report
from matrix.__main__ import arguments
from matrix.cells import Cell

DEPENDENCIES = ["click>=8.1", "msgspec>=0.19", "msgspec>=0.22; python_version >= '3.15'", "pyroute2>=0.9.3,<0.10"]
OLD = Cell(python="3.11", packages="oldest")
NEW = Cell(python="3.15", packages="newest")
VERSIONS = {"Python": "3.11.2", "pyroute2": "0.9.3"}

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase name="test_one[x]" file="tests/netns/test_a.py" />
<testcase name="test_two" file="tests/netns/test_a.py"><failure message="assert 1 == 2">
E   assert 1 == 2
</failure></testcase>
<testcase name="test_three" file="tests/netns/test_a.py"><error message="failed on setup">no more</error></testcase>
<testcase name="test_four" file="tests/netns/test_a.py"><skipped message="not here" /></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def junit(tmp_path: Path) -> Path:
    path = tmp_path / "report.xml"
    path.write_text(JUNIT)
    return path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("3.11-oldest", ["click==8.1", "msgspec==0.19", "pyroute2==0.9.3"]),
        ("3.15-oldest", ["click==8.1", "msgspec==0.22", "pyroute2==0.9.3"]),
        ("3.11-newest", ["click>=8.1", "msgspec>=0.19", "pyroute2<0.10,>=0.9.3"]),
        ("3.15-newest", ["click>=8.1", "msgspec>=0.19,>=0.22", "pyroute2<0.10,>=0.9.3"]),
    ],
)
def test_what_pip_is_asked_for(name: str, wanted: list[str]) -> None:
    assert list(cells.wanted(Cell.named(name), DEPENDENCIES).values()) == wanted


def test_every_dependency_has_a_lowest_version() -> None:
    assert list(cells.wanted(OLD, cells.dependencies())) == ["click", "msgspec", "pyroute2", "rich"]
    with pytest.raises(ValueError, match=r"^pyproject\.toml: rich has no lowest version \(>=\)$"):
        cells.wanted(OLD, ["rich"])


def test_tools_are_the_locked_ones() -> None:
    assert [text.partition("==")[0] for text in environment.tools()] == list(cells.TOOLS)
    assert all("==" in text for text in environment.tools())


def test_default_cells_have_the_oldest_python_of_pyproject() -> None:
    assert f'requires-python = ">={arguments([]).cells[0].python}"' in (cells.REPOSITORY / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["3.12-oldest", "3.11", "3.11-old"])
def test_unknown_cell(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        arguments(["--cells", name])
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"python -m matrix: error: unknown cell {name!r}: one of 3.11, 3.13, 3.14, 3.15, with -oldest or -newest"
    )


def test_report(junit: Path) -> None:
    old = report.read(OLD, VERSIONS, junit, 90.0, None)
    new = report.read(NEW, {"Python": "3.15.2", "pyroute2": "0.9.7"}, junit.with_name("none"), 6.0, None)

    assert list(report.failures([old, new])) == [
        "3.11-oldest: tests/netns/test_a.py::test_two: assert 1 == 2",
        "3.11-oldest: tests/netns/test_a.py::test_three: no more",
        "3.15-newest: pytest: pytest wrote no report",
    ]
    assert list(report.matrix([old, new])) == [
        "| Python | oldest packages | newest packages |",
        "| --- | --- | --- |",
        "| 3.11.2 | pyroute2 0.9.3: 1 passed, **2 failed**, 1 skipped, 1.5 min |  |",
        "| 3.15.2 |  | pyroute2 0.9.7: 0 passed, **1 failed**, 0.1 min |",
    ]


def test_pytest_that_fails_itself_is_a_failure(junit: Path) -> None:
    result = report.read(OLD, VERSIONS, junit, 90.0, "exit status 3: see the log")

    assert list(report.failures([result]))[-1] == "3.11-oldest: pytest: exit status 3: see the log"
