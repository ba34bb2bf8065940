"""What was captured on another kernel, and this one has no place for."""

from __future__ import annotations

import pytest

from criu_veth import lacking
from criu_veth.state import Address, CapturedVeth, Host, Inner, Neighbour, Outer, Route, Rule, State

SYSCTLS = {"ipv4.proxy_arp": "1", "ipv6.accept_ra": "0", "mpls.input": "1"}
ADDRESSES = (Address(address="10.0.0.1/24"), Address(address="fd00::1/64"))
VETH = CapturedVeth(
    inner=Inner(ifname="eth0", sysctl=SYSCTLS, addresses=ADDRESSES),
    outer=Outer(
        ifname="web0",
        addresses=ADDRESSES,
        routes=(Route(dst="10.1.0.0/16", family="inet"), Route(dst="default", family="inet6")),
        neighbours=(Neighbour(dst="10.0.0.9", proxy=True), Neighbour(dst="fd00::9", proxy=True)),
        rules=(Rule(family="inet", priority=5, iif="web0"), Rule(family="inet6", priority=5, iif="web0")),
        sysctl={"ipv6.disable_ipv6": "1"},
    ),
)
PLAIN = CapturedVeth(inner=Inner(ifname="eth1"), outer=Outer(ifname="web1", sysctl={"ipv4.proxy_arp": "1"}))
HOST = Host(hostname="h", kernel="k", criu_veth="v", created="c")
CAPTURED = State(version=1, host=HOST, veths=(VETH, PLAIN))


def without(*names: str) -> tuple[State, str | None]:
    """Fit the capture to a kernel that lacks these directories of /proc/sys/net."""
    return lacking.fit(CAPTURED, lambda path: not path.startswith(names))


def test_nothing_is_lacking() -> None:
    assert lacking.fit(CAPTURED, lambda _: True) == (CAPTURED, None)


def test_a_kernel_without_mpls() -> None:
    found, notice = without("mpls")

    assert notice == "left out of what was captured of eth0: sysctl mpls.input: this kernel does not have that"
    assert found.veths[0].inner.sysctl == {"ipv4.proxy_arp": "1", "ipv6.accept_ra": "0"}
    assert found.veths[0].outer == VETH.outer
    assert found.veths[1] is PLAIN


def test_a_kernel_without_ipv6() -> None:
    found, notice = without("ipv6")

    assert notice == (
        "left out of what was captured of eth0: sysctl ipv6.accept_ra, sysctl ipv6.disable_ipv6, IPv6 addresses, IPv6"
        " routes, IPv6 neighbours, IPv6 rules: this kernel does not have that"
    )
    outer = found.veths[0].outer
    assert outer.addresses == found.veths[0].inner.addresses == ADDRESSES[:1]
    assert [route.family for route in outer.routes] == [rule.family for rule in outer.rules] == ["inet"]
    assert outer.neighbours == VETH.outer.neighbours[:1]
    assert outer.sysctl == {}


@pytest.mark.parametrize("lost", ["ipv4/conf/lo/proxy_arp", "mpls/conf/lo/input"])
def test_each_path_is_looked_for_once(lost: str) -> None:
    asked: list[str] = []

    def exists(path: str) -> bool:
        asked.append(path)
        return path != lost

    lacking.fit(CAPTURED, exists)

    assert len(asked) == len(set(asked))
