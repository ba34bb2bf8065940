"""Desired ends to operations: which, in what order, and how they describe themselves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from criu_veth import actions, plan
from criu_veth.state import Address, Outer, Route, Veth, Vlan


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
