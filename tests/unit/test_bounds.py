"""What is kept of too much, and how what is said is made such that it can be written."""

from __future__ import annotations

import pytest

from criu_veth import bounds
from criu_veth.bounds import Budget, Kept, Room, Some, is_utf8, said, shown


def kept(things: list[bytes], most: int, **how: object) -> list[bytes]:
    one = Kept(most, **how)  # type: ignore[arg-type]
    take = one.begin()
    for thing in things:
        take(thing)
    return one.found()


THINGS = [bytes([number]) for number in (7, 3, 9, 3, 1, 8)]


def test_the_first_are_kept() -> None:
    assert kept(THINGS, 3) == THINGS[:3]
    assert kept(THINGS, 0) == []
    assert kept(THINGS, 100) == THINGS


@pytest.mark.parametrize("most", range(7))
def test_the_lowest_are_kept_in_their_order(most: int) -> None:
    lowest = sorted(range(len(THINGS)), key=lambda place: (THINGS[place][0], place))[:most]
    assert kept(THINGS, most, rank=lambda data: data[0]) == [THINGS[place] for place in sorted(lowest)]


def test_what_is_not_wanted_does_not_count() -> None:
    one = Kept(2, wanted=lambda data: data[0] > 2)
    take = one.begin()
    for thing in THINGS:
        take(thing)
    assert (one.total, one.found()) == (5, THINGS[:2])


def test_a_dump_that_begins_anew_starts_from_nothing() -> None:
    one = Kept(3)
    one.begin()(b"old")
    one.begin()(b"new")
    assert (one.total, one.found()) == (1, [b"new"])


def test_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MOST", 3)
    monkeypatch.setattr(bounds, "MOST_IN_ALL", 4)
    warnings: list[str] = []
    budget = Budget(warnings)

    def some(taken: int, total: int) -> Some[bytes]:
        return Some(bytes, [b""] * taken, total)

    assert budget.room == Room(3, 4)
    assert len(budget.take("web0", "routes", some(3, 5), "a restore will lack them")) == 3
    assert budget.room == Room(1, 1)
    budget.take("web1", "rules", some(1, 2), "nobody needs them")
    assert budget.room == Room(0, 0)
    budget.take("web1", "addresses", some(0, 0), "-")
    assert warnings == [
        "web0: 2 of its 5 routes are not captured (at most 3 of a kind of one end): a restore will lack them",
        "web1: 1 of its 2 rules are not captured (at most 4 of all ends): nobody needs them",
    ]


def test_lines_are_counted_and_cut() -> None:
    assert said(["x"] * 256) == ("x",) * 256
    assert said(["x"] * 1000)[-2:] == ("x", "and 745 more")
    assert len(said(["x"] * 1000)) == 256
    (line,) = said(["x" * 5000])
    assert line == "x" * 996 + " ..."


@pytest.mark.parametrize(
    ("text", "found"),
    [("café", "café"), ("w\udcffb", r"w\xffb"), ("w\ud800b", r"w\ud800b"), ("\udcc3\udca9", "é"), ("", "")],
)
def test_what_is_not_utf_8_is_shown_with_its_bytes(text: str, found: str) -> None:
    assert shown(text) == found
    assert is_utf8(text) is (text == found)
