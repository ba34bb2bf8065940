"""What is done otherwise on a kernel that is older than this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from criu_veth import assemble, netlink, plan, prepare
from criu_veth.actions import POST_RESTORE
from criu_veth.state import Inner, Outer, Route, Veth
from criu_veth.way import EXTERNAL

FLAGS = 24  # the offset of ifi_flags
UP = netlink.IFF_UP


def flags(message: bytes) -> tuple[int, int]:
    """The flags that a message sets, and the mask of those that it changes."""
    numbers = [int.from_bytes(message[at : at + 4], "little") for at in (FLAGS, FLAGS + 4)]
    return numbers[0], numbers[1]


def steps() -> list[tuple[Any, ...]]:
    """The operations at post-restore that change the outer end's name and whether it is up."""
    veth = Veth(inner="eth0", outer=Outer(ifname="web0"), mode=EXTERNAL, announce=False)
    _, operations = assemble.assemble(plan.make((veth,)))[POST_RESTORE]
    return [step for step in operations if step[-1] in {"", "eth0: outer end named web0", "eth0: web0 up"}]


@pytest.mark.parametrize(
    ("release", "renames", "renews"),
    [
        ("6.1.0-50-amd64", False, False),
        ("6.2.0", True, False),
        ("6.8.12-generic", True, False),
        ("6.12.117+deb13-amd64", True, True),
        ("7.2.12+deb14-amd64", True, True),
    ],
)
def test_what_a_kernel_can(linux: Callable[[str], None], release: str, renames: bool, renews: bool) -> None:
    linux(release)
    assert (netlink.renames_what_is_up(), netlink.renews_added_routes()) == (renames, renews)


def test_device_is_down_while_it_is_named(linux: Callable[[str], None]) -> None:
    """And while its name is taken back: what is undone last is that it was set down."""
    linux("6.1.0-50-amd64")
    down, named, up = steps()
    assert flags(down[2]) == (0, UP)
    assert named[-1] == "eth0: outer end named web0"
    assert flags(up[2]) == (UP, UP)
    as_it_was = [(offset, slot) for offset, slot in down[6][2] if offset == FLAGS]
    assert len(as_it_was) == 1
    assert (flags(up[6][1]), [offset for offset, _ in up[6][2]]) == ((0, UP), [20])


def test_newer_kernel_is_asked_for_the_name_alone(linux: Callable[[str], None]) -> None:
    linux("6.2.0")
    assert [step[-1] for step in steps()] == ["eth0: outer end named web0", "eth0: web0 up"]


@pytest.mark.parametrize(("release", "expires"), [("6.8.0", None), ("6.9.0", 600)])
def test_advertised_route_lasts_where_an_advertisement_would_end_it(
    linux: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    release: str,
    expires: int | None,
) -> None:
    linux(release)
    by_hand = Route(dst="fd00:1::/64", family=10, via="fe80::2", protocol=4, expires=60)
    routes = (Route(dst="default", family=10, via="fe80::1", protocol=9, expires=600), by_hand)
    veths = (Veth(inner="eth0", outer=Outer(ifname="web0"), netns=Inner(ifname="eth0", routes=routes)),)
    monkeypatch.setattr(prepare.resolve, "resolve", lambda *_, **__: veths)

    (found,) = prepare.desired(prepare.read({}, str(tmp_path)))

    assert found.netns
    assert [route.expires for route in found.netns.routes] == [expires, 60]
