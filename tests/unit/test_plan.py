"""Desired ends to operations: which, in what order, and how they describe themselves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from criu_veth import actions, plan
from criu_veth.state import Address, Outer, Route, Veth, Vlan
from criu_veth.way import EMPTY


def veth(inner: str = "eth0", ifname: str = "web0", **outer: Any) -> Veth:
    return Veth(inner=inner, outer=Outer(ifname=ifname, up=True, **outer), where="veth[0]")


FULL = veth(
    mac="02:00:00:00:00:01",
    mtu=1400,
    txqueuelen=500,
    alias="web, front",
    altnames=("web-front", "w"),
    master="br0",
    master_kind="bridge",
    port={"hairpin": 1, "learning": 0},
    sysctl={"ipv4.proxy_arp": "1"},
    addresses=(Address(address="169.254.1.1/32"), Address(address="fd00::1/64")),
    routes=(Route(dst="default", family="inet", via="10.99.0.2"), Route(dst="10.99.0.2/32", family="inet")),
)


def described(*veths: Veth) -> list[str]:
    made = plan.make(veths)
    return [f"{operation.inner}: {operation.describe()}" for operation in made.operations[actions.POST_RESTORE]]


def test_order_of_one_veth() -> None:
    """The name first, port flags between attaching and "up", routes when the device is up and their gateways known."""
    assert described(FULL) == [
        "eth0: outer end named web0",
        "eth0: web0 mac 02:00:00:00:00:01",
        "eth0: web0 mtu 1400",
        "eth0: web0 txqueuelen 500",
        'eth0: web0 alias "web, front"',
        'eth0: web0 altname "web-front"',
        'eth0: web0 altname "w"',
        "eth0: web0 attached to br0",
        "eth0: web0 port hairpin 1",
        "eth0: web0 port learning 0",
        "eth0: web0 sysctl ipv4.proxy_arp = 1",
        "eth0: web0 address 169.254.1.1/32",
        "eth0: web0 address fd00::1/64",
        "eth0: web0 up",
        "eth0: web0 route 10.99.0.2/32",
        "eth0: web0 route default via 10.99.0.2",
        "eth0: eth0 announced",
    ]


def test_the_least() -> None:
    assert described(veth()) == ["eth0: outer end named web0", "eth0: web0 up", "eth0: eth0 announced"]


def test_no_announcement() -> None:
    silent = msgspec.structs.replace(veth(), announce=False)
    assert described(silent) == ["eth0: outer end named web0", "eth0: web0 up"]


def test_values_of_zero_and_nothing_are_values() -> None:
    assert described(veth(txqueuelen=0, alias="")) == [
        "eth0: outer end named web0",
        "eth0: web0 txqueuelen 0",
        'eth0: web0 alias ""',
        "eth0: web0 up",
        "eth0: eth0 announced",
    ]


def test_attached_late() -> None:
    """A segment that comes before the container's sockets exist is answered with a reset."""
    made = plan.make((FULL,))
    early = [o for action, listed in made.operations.items() if action != actions.POST_RESTORE for o in listed]
    assert all(operation.inside for operation in early), "the container's own end is all that may be touched"


def test_veths_keep_their_order() -> None:
    assert described(veth("b", "x"), veth("a", "y")) == [
        "b: outer end named x",
        "b: x up",
        "b: b announced",
        "a: outer end named y",
        "a: y up",
        "a: a announced",
    ]
    assert plan.make(()).operations == {}


@pytest.mark.parametrize(
    ("route", "text"),
    [
        (Route(dst="10.0.0.0/8", family="inet"), "10.0.0.0/8"),
        (Route(dst="default", family="inet", via="10.0.0.1"), "default via 10.0.0.1"),
        (
            Route(dst="10.0.0.0/8", family="inet", src="10.0.0.1", metric=5, table=100),
            "10.0.0.0/8 src 10.0.0.1 metric 5 table 100",
        ),
    ],
)
def test_routes_are_written_as_ip_writes_them(route: Route, text: str) -> None:
    assert plan.route_text(route) == text


@pytest.mark.parametrize(
    ("vlan", "lines"),
    [
        (
            Vlan(pvid=10, untagged=(10,), tagged=(20, "30-39")),
            ["web0 vlan pvid 10, untagged 10, tagged 20 30-39", "web0 in no other vlan"],
        ),
        (Vlan(tagged=(20,)), ["web0 vlan tagged 20", "web0 in no other vlan"]),
        (Vlan(), ["web0 in no other vlan"]),
        (None, []),
    ],
)
def test_vlans_as_soon_as_it_is_a_port(vlan: Vlan | None, lines: list[str]) -> None:
    """Undone in reverse, they go last but for the port itself: its flags are undone while it still is one."""
    assert described(veth(master="br0", vlan=vlan, port={"hairpin": 1})) == [
        "eth0: outer end named web0",
        "eth0: web0 attached to br0",
        *(f"eth0: {line}" for line in lines),
        "eth0: web0 port hairpin 1",
        "eth0: web0 up",
        "eth0: eth0 announced",
    ]


@pytest.mark.parametrize(
    ("kind", "mode", "announced"),
    [("netkit", "l2", True), ("netkit", "l3", False), ("ipvlan", "l2", True), ("ipvlan", "l3s", False)],
)
def test_where_there_is_no_arp_nobody_is_told(kind: str, mode: str, announced: bool) -> None:
    one = msgspec.structs.replace(veth(), kind=kind, kind_mode=mode, parent="up0", mode=EMPTY)
    made = plan.make((one,)).operations
    lines = [operation.describe() for listed in made.values() for operation in listed]
    assert ("eth0 announced" in lines) == announced
    what = (
        "netkit {} pair made: web0 here, eth0 in the container"
        if kind == "netkit"
        else "ipvlan {} on up0 made, in the container"
    )
    assert what.format(mode) in lines


def test_port_flags_in_the_order_in_which_the_kernel_takes_them() -> None:
    """It takes `mab` only on a port that is locked and learns."""
    late = described(veth(master="br0", port={"mab": 1, "locked": 1, "learning": 1}))
    assert [line for line in late if " port " in line] == [
        "eth0: web0 port learning 1",
        "eth0: web0 port locked 1",
        "eth0: web0 port mab 1",
    ]


def test_an_ipv6_address_that_is_the_source_of_a_route_is_usable_before_it() -> None:
    """The kernel refuses a source that waits for duplicate address detection; then it gets the flags that it had."""
    addresses = (Address(address="fd00::1/64"), Address(address="fd00::2/64"))
    made = plan.make((veth(addresses=addresses, routes=(Route(dst="fd01::/64", family="inet6", src="fd00::1"),)),))
    late = made.operations[actions.POST_RESTORE]
    added = [(one.address.address, one.address.flags) for one in late if isinstance(one, plan.AddAddress)]
    assert added == [("fd00::2/64", ()), ("fd00::1/64", ("nodad",))]
    settled = [one.address for one in late if isinstance(one, plan.SettleAddress)]
    assert settled == [addresses[0]]
    kinds = [type(one) for one in late]
    assert kinds.index(plan.AddRoute) < kinds.index(plan.SettleAddress)


def test_of_routes_that_exclude_each_other_the_first_is_added() -> None:
    twice = (
        Route(dst="fd01::/64", family="inet6", protocol=2),
        Route(dst="fd01::/64", family="inet6", metric=1024),
        Route(dst="fd01::/64", family="inet6", metric=5),
        Route(dst="10.0.0.0/8", family="inet", via="10.9.0.1"),
        Route(dst="10.0.0.0/8", family="inet", tos=8),
        Route(dst="10.0.0.0/8", family="inet", table=100),
    )
    late = plan.make((veth(routes=twice),)).operations[actions.POST_RESTORE]
    added = [one.route for one in late if isinstance(one, plan.AddRoute)]
    assert added == [twice[0], twice[2], twice[4], twice[5], twice[3]]
