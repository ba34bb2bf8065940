"""What is wanted against what is there: equal, and every way to differ."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from criu_veth import config, resolve
from criu_veth.state import (
    Address,
    CapturedVeth,
    Data,
    FdbEntry,
    Filter,
    Host,
    Inner,
    Neighbour,
    Outer,
    Ovs,
    Qdisc,
    Route,
    Rule,
    State,
    TcClass,
    Vlan,
)
from criu_veth.verify import Difference, compare, sysctls_of
from criu_veth.way import EMPTY, Way

COMMON: dict[str, Any] = {
    "mac": "02:00:00:00:00:01",
    "mtu": 9000,
    "txqueuelen": 1000,
    "group": 0,
    "alias": "web, front",
    "altnames": ("veth-web", "front"),
    "up": True,
    "arp": True,
    "promisc": False,
    "allmulti": False,
    "num_tx_queues": 1,
    "num_rx_queues": 1,
    "gso_max_size": 65536,
    "gso_max_segs": 65535,
    "gro_max_size": 65536,
    "addresses": (
        Address(address="10.0.0.2/24", broadcast="10.0.0.255", valid=1000, preferred=500),
        Address(address="fe80::1/64", scope=253),
        Address(address="10.0.0.3/32", peer="10.0.0.4"),
    ),
    "routes": (
        Route(dst="default", family="inet"),
        Route(dst="default", family="inet6", metric=1024),
        Route(dst="10.9.0.0/16", family="inet", via="10.0.0.1", metrics={"mtu": 1400}),
    ),
    "neighbours": (Neighbour(dst="10.0.0.9", lladdr="02:00:00:00:00:09"), Neighbour(dst="10.0.0.9", proxy=True)),
    "sysctl": {"ipv4.proxy_arp": "1", "ipv4.tcp_rmem": "1\t2\t3"},
    "features_off": ("tx-checksum-ip-generic",),
}
OUTER = Outer(
    **COMMON,
    ifname="web0",
    master="br0",
    master_kind="bridge",
    port={"hairpin": 1, "cost": 2, "learning": 1},
    vlan=Vlan(pvid=10, untagged=(10,), tagged=(20, "30-39")),
    backup_port="web1",
    fdb=(FdbEntry(mac="02:00:00:00:00:10"), FdbEntry(mac="02:00:00:00:00:10", vlan=7)),
    ovs=Ovs(bridge="obr0", tag=10, trunks=(20, 30), external_ids={"a.b": "c"}, ingress_policing_rate=1000),
    rules=(Rule(family="inet", priority=100, table=7, iif="web0"), Rule(family="inet", priority=100, oif="web0")),
    qdiscs=(Qdisc(kind="htb", handle="1:", parent="root", options="0800050001000000"),),
    classes=(TcClass(kind="htb", handle="1:10", parent="1:", options="0c0006000100000000000000"),),
    filters=(Filter(kind="u32", parent="1:", priority=1, protocol=2048, handle=0x800, options="0800010010000100"),),
)
INNER = Inner(**COMMON, ifname="eth0", ifindex=2)


def state(*veths: CapturedVeth) -> State:
    return State(version=1, host=Host(hostname="h", kernel="6.12.1", criu_veth="v", created="c"), veths=veths)


THEN = state(CapturedVeth(inner=INNER, outer=OUTER))


def with_outer(**changes: Any) -> State:
    return state(CapturedVeth(inner=INNER, outer=replace(OUTER, **changes)))


def with_inner(**changes: Any) -> State:
    return state(CapturedVeth(inner=replace(INNER, **changes), outer=OUTER))


def lines(differences: list[Difference]) -> list[str]:
    return [str(difference) for difference in differences]


def test_the_same_is_equal() -> None:
    assert compare(THEN, THEN) == []
    assert compare(state(), state()) == []


def other(value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, dict):
        return {key: other(one) for key, one in value.items()}
    if isinstance(value, msgspec.Struct):
        return replace(value, **{key: other(one) for key, one in msgspec.structs.asdict(value).items() if one})
    return ()


SKIPPED = {"ifindex", "num_tx_queues", "num_rx_queues"}
FIELDS = [
    (side, field.name)
    for side, end in (("inner", Inner), ("outer", Outer))
    for field in msgspec.structs.fields(end)
    if (side, field.name) != ("inner", "ifname")
]


@pytest.mark.parametrize(("side", "field"), FIELDS)
def test_every_field_counts(side: str, field: str) -> None:
    end = {"inner": INNER, "outer": OUTER}[side]
    assert getattr(end, field) not in (None, (), {}), f"a new field: give {field} a value above, and compare it"
    changed = {"inner": with_inner, "outer": with_outer}[side](**{field: other(getattr(end, field))})

    paths = {difference.path for difference in compare(THEN, changed)}

    assert all(path.startswith(f"veths[eth0].{side}.{field}") for path in paths)
    assert bool(paths) == (field not in SKIPPED)


@pytest.mark.parametrize("kind", [Address, Route, Rule, Neighbour, FdbEntry, Qdisc, TcClass, Filter])
def test_every_field_of_a_thing_counts(kind: type[Data]) -> None:
    (name,) = (f.name for f in msgspec.structs.fields(Outer) if any(type(t) is kind for t in as_tuple(f.name)))
    things = getattr(OUTER, name)
    for field in msgspec.structs.fields(kind):
        value = getattr(things[-1], field.name)
        last = replace(things[-1], **{field.name: ("home",) if value == () else other(0 if value is None else value)})
        differences = compare(THEN, with_outer(**{name: (*things[:-1], last)}))
        assert differences, field.name
        assert all(difference.path.startswith(f"veths[eth0].outer.{name}[") for difference in differences)


def as_tuple(name: str) -> tuple[object, ...]:
    value = getattr(OUTER, name)
    return value if isinstance(value, tuple) else ()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (with_outer(mtu=1500), ["veths[eth0].outer.mtu: wanted 9000, found 1500"]),
        (with_inner(mtu=1500), ["veths[eth0].inner.mtu: wanted 9000, found 1500"]),
        (with_outer(up=False), ["veths[eth0].outer.up: wanted on, found off"]),
        (with_outer(alias=None), ["veths[eth0].outer.alias: wanted web, front, found nothing"]),
        (with_outer(ifname="veth7"), ["veths[eth0].outer.ifname: wanted web0, found veth7"]),
        (
            with_outer(master=None, master_kind=None, port={}, fdb=(), backup_port=None),
            ["veths[eth0].outer.master: wanted br0, found nothing"],
        ),
        (with_outer(port={"hairpin": 0, "cost": 2}), ["veths[eth0].outer.port.hairpin: wanted 1, found 0"]),
        (
            with_outer(altnames=("front", "back")),
            [
                "veths[eth0].outer.altnames[veth-web]: wanted, but not there",
                "veths[eth0].outer.altnames[back]: there, but not wanted",
            ],
        ),
        (
            with_outer(addresses=(replace(OUTER.addresses[0], broadcast=""), *OUTER.addresses[1:])),
            ["veths[eth0].outer.addresses[10.0.0.2/24].broadcast: wanted 10.0.0.255, found nothing"],
        ),
        (
            with_outer(addresses=(*OUTER.addresses[:2], replace(OUTER.addresses[2], flags=("noprefixroute",)))),
            ["veths[eth0].outer.addresses[10.0.0.3/32 peer 10.0.0.4].flags[noprefixroute]: there, but not wanted"],
        ),
        (
            with_outer(routes=OUTER.routes[:2]),
            ["veths[eth0].outer.routes[10.9.0.0/16 via 10.0.0.1]: wanted, but not there"],
        ),
        (
            with_outer(routes=(*OUTER.routes[:2], replace(OUTER.routes[2], metrics={}))),
            ["veths[eth0].outer.routes[10.9.0.0/16 via 10.0.0.1].metrics.mtu: wanted 1400, found nothing"],
        ),
        (with_outer(routes=OUTER.routes[1:]), ["veths[eth0].outer.routes[default]: wanted, but not there"]),
        (
            with_outer(routes=(OUTER.routes[0], OUTER.routes[2])),
            ["veths[eth0].outer.routes[inet6 default]: wanted, but not there"],
        ),
        (
            with_outer(neighbours=OUTER.neighbours[:1]),
            ["veths[eth0].outer.neighbours[10.0.0.9 proxy]: wanted, but not there"],
        ),
        (
            with_outer(sysctl={"ipv4.tcp_rmem": "1 2 3", "ipv4.rp_filter": "2"}),
            [
                'veths[eth0].outer.sysctl."ipv4.proxy_arp": wanted 1, found the default',
                'veths[eth0].outer.sysctl."ipv4.rp_filter": wanted the default, found 2',
            ],
        ),
        (
            with_outer(fdb=OUTER.fdb[:1]),
            ["veths[eth0].outer.fdb[02:00:00:00:00:10 vlan 7]: wanted, but not there"],
        ),
        (
            with_outer(vlan=Vlan(pvid=20, untagged=(20,), tagged=(10, "30-39"))),
            [
                "veths[eth0].outer.vlan.pvid: wanted 10, found 20",
                "veths[eth0].outer.vlan.untagged[10]: wanted, but not there",
                "veths[eth0].outer.vlan.tagged[20]: wanted, but not there",
                "veths[eth0].outer.vlan.untagged[20]: there, but not wanted",
                "veths[eth0].outer.vlan.tagged[10]: there, but not wanted",
            ],
        ),
        (
            with_outer(rules=(OUTER.rules[0], replace(OUTER.rules[1], oif="web1"))),
            ["veths[eth0].outer.rules[inet 100 again].oif: wanted web0, found web1"],
        ),
        (
            with_outer(qdiscs=(replace(OUTER.qdiscs[0], options="0800050002000000"),)),
            ["veths[eth0].outer.qdiscs[1:].options: wanted 0800050001000000, found 0800050002000000"],
        ),
        (with_outer(filters=()), ["veths[eth0].outer.filters[1: 1 800]: wanted, but not there"]),
        (
            with_outer(ovs=Ovs(bridge="obr0", tag=11, trunks=(20,), external_ids={"a.b": "d"}, protected=True)),
            [
                "veths[eth0].outer.ovs.tag: wanted 10, found 11",
                "veths[eth0].outer.ovs.trunks[30]: wanted, but not there",
                'veths[eth0].outer.ovs.external_ids."a.b": wanted c, found d',
                "veths[eth0].outer.ovs.ingress_policing_rate: wanted 1000, found nothing",
                "veths[eth0].outer.ovs.protected: wanted nothing, found on",
            ],
        ),
        (with_outer(ovs=Ovs(bridge="obr1")), ["veths[eth0].outer.ovs.bridge: wanted obr0, found obr1"]),
        (with_outer(ovs=None), ["veths[eth0].outer.ovs.bridge: wanted obr0, found nothing"]),
        (with_outer(features_off=()), [
            "veths[eth0].outer.features_off[tx-checksum-ip-generic]: wanted, but not there"
        ]),
        (state(), ["veths[eth0]: wanted, but not there"]),
        (
            state(*THEN.veths, CapturedVeth(inner=Inner(ifname="eth1"), outer=Outer(ifname="db0"))),
            ["veths[eth1]: there, but not wanted"],
        ),
    ],
)  # fmt: skip
def test_a_difference_is_a_line(found: State, said: list[str]) -> None:
    assert lines(compare(THEN, found)) == said


def test_values_for_programs() -> None:
    assert compare(THEN, with_outer(mtu=1500, sysctl={}, altnames=(), fdb=OUTER.fdb[:1])) == [
        Difference("veths[eth0].outer.mtu", 9000, 1500),
        Difference("veths[eth0].outer.altnames[veth-web]", "veth-web", None),
        Difference("veths[eth0].outer.altnames[front]", "front", None),
        Difference('veths[eth0].outer.sysctl."ipv4.proxy_arp"', "1", None),
        Difference('veths[eth0].outer.sysctl."ipv4.tcp_rmem"', "1\t2\t3", None),
        Difference("veths[eth0].outer.fdb[02:00:00:00:00:10 vlan 7]", {"mac": "02:00:00:00:00:10", "vlan": 7}, None),
    ]
    assert compare(THEN, state()) == [Difference("veths[eth0]", {"inner": "eth0", "outer": "web0"}, None)]


@pytest.mark.parametrize(
    ("valid", "preferred", "equal"),
    [(1000, 500, True), (900, 400, True), (0, 0, True), (1001, 500, False), (None, 500, False), (1000, None, False)],
)
def test_the_time_that_an_address_has_left_may_be_less(valid: int | None, preferred: int | None, equal: bool) -> None:
    address = replace(OUTER.addresses[0], valid=valid, preferred=preferred)

    assert (compare(THEN, with_outer(addresses=(address, *OUTER.addresses[1:]))) == []) == equal


def test_an_address_for_ever_that_has_an_end_now_differs() -> None:
    address = replace(OUTER.addresses[1], valid=100)

    assert lines(compare(THEN, with_outer(addresses=(OUTER.addresses[0], address, OUTER.addresses[2])))) == [
        "veths[eth0].outer.addresses[fe80::1/64].valid: wanted nothing, found 100"
    ]


def test_the_order_of_things_is_no_difference() -> None:
    turned = {name: getattr(OUTER, name)[::-1] for name in ("altnames", "addresses", "routes", "neighbours", "fdb")}

    assert compare(THEN, with_outer(**turned)) == []


def test_an_address_that_was_made_usable_at_once_inside_is_no_difference() -> None:
    addresses = tuple(replace(address, flags=("nodad",)) for address in INNER.addresses)

    assert compare(THEN, with_inner(addresses=addresses)) == []
    assert len(compare(THEN, with_outer(addresses=addresses))) == 3


def test_the_metric_that_ipv6_gives_by_itself_is_no_difference() -> None:
    routes = (OUTER.routes[0], replace(OUTER.routes[1], metric=0), OUTER.routes[2])

    assert compare(THEN, with_outer(routes=routes)) == []
    assert compare(with_outer(routes=routes), THEN) == []


EXPIRES = "veths[eth0].inner.routes[default via fe80::2].expires: wanted 600, found nothing"


@pytest.mark.parametrize(("kernel", "said"), [("6.8.12", []), ("6.9.0", [EXPIRES])])
def test_an_advertised_route_that_lasts_is_a_difference_where_it_need_not(kernel: str, said: list[str]) -> None:
    """Before Linux 6.9 such a route is restored to last for ever; one from the kernel itself has its lifetime there."""
    then, later, renewed, lasting = (
        with_inner(routes=(Route(dst="default", family="inet6", via="fe80::2", protocol=9, expires=expires),))
        for expires in (600, 590, 1800, None)
    )

    assert lines(compare(then, replace(lasting, host=replace(lasting.host, kernel=kernel)))) == said
    for found in (then, later, renewed):
        assert compare(then, replace(found, host=replace(found.host, kernel=kernel))) == []


def test_another_kernel_may_report_more_of_a_port() -> None:
    assert compare(THEN, with_outer(port={**OUTER.port, "new": 1})) == []
    assert compare(with_outer(port={**OUTER.port, "old": 0}), THEN) == []
    assert lines(compare(with_outer(port={**OUTER.port, "old": 1}), THEN)) == [
        "veths[eth0].outer.port.old: wanted 1, found 0"
    ]


def desired(text: str, captured: State | None = None, way: Way | None = None) -> Any:
    return resolve.resolve(config.parse(text, "f.toml"), captured, {"hostname": "h", "image": "m"}, way)


FILE = """
[[veth]]
inner = "eth0"
outer = "front0"
bridge = "br1"
mtu = 1400
addresses = ["169.254.1.1/32"]
routes = ["10.99.0.2/32"]
sysctl = { "ipv4.proxy_arp" = 0 }
port = { hairpin = false }
"""


def test_of_a_veth_that_was_not_captured_only_what_the_file_asks_for() -> None:
    found = with_outer(
        ifname="front0",
        master="br1",
        mtu=1400,
        addresses=(Address(address="169.254.1.1/32", scope=253, label="x"), *OUTER.addresses),
        routes=(Route(dst="10.99.0.2/32", family="inet", protocol=3), *OUTER.routes),
        sysctl={"ipv4.proxy_arp": "0"},
        port={"hairpin": 0, "isolated": 1},
    )

    assert compare(desired(FILE), found) == []
    assert lines(compare(desired(FILE), THEN)) == [
        "veths[eth0].outer.ifname: wanted front0, found web0",
        "veths[eth0].outer.mtu: wanted 1400, found 9000",
        "veths[eth0].outer.addresses[169.254.1.1/32]: wanted, but not there",
        "veths[eth0].outer.routes[10.99.0.2/32]: wanted, but not there",
        'veths[eth0].outer.sysctl."ipv4.proxy_arp": wanted 0, found 1',
        "veths[eth0].outer.master: wanted br1, found br0",
    ]
    assert sysctls_of(desired(FILE)) == {"eth0": (set(), {"ipv4.proxy_arp"})}


def test_other_veths_are_not_the_files_business() -> None:
    eth1 = CapturedVeth(inner=Inner(ifname="eth1"), outer=Outer(ifname="db0", up=True))

    assert compare(desired('mappings = ["eth1:db0"]'), state(eth1, *THEN.veths)) == []


def test_of_a_captured_veth_the_file_says_what_is_different_now() -> None:
    found = with_outer(
        ifname="front0",
        master="br1",
        mtu=1400,
        addresses=(Address(address="169.254.1.1/32"),),
        routes=(Route(dst="10.99.0.2/32", family="inet"),),
        rules=(replace(OUTER.rules[0], iif="front0"), replace(OUTER.rules[1], oif="front0")),
        sysctl={"ipv4.proxy_arp": "0", "ipv4.tcp_rmem": "1 2 3"},
        port={"hairpin": 0, "cost": 2, "learning": 1},
        ovs=None,
    )

    assert compare(desired(FILE, THEN), found, THEN) == []
    assert lines(compare(desired(FILE, THEN), replace(found, veths=THEN.veths), THEN))[:3] == [
        "veths[eth0].outer.ifname: wanted front0, found web0",
        "veths[eth0].outer.mtu: wanted 1400, found 9000",
        "veths[eth0].outer.addresses[169.254.1.1/32]: wanted, but not there",
    ]
    assert lines(compare(desired(FILE, THEN), with_outer(ifname="front0"), THEN))[0] == (
        "veths[eth0].outer.mtu: wanted 1400, found 9000"
    )


def test_a_captured_veth_that_is_to_be_on_no_bridge_here() -> None:
    wanted = desired('[[veth]]\ninner = "eth0"\n[remap]\nbridge = { br0 = "br9" }\n', THEN)

    assert lines(compare(wanted, THEN, THEN)) == ["veths[eth0].outer.master: wanted br9, found br0"]


NETNS = '[[veth]]\ninner = "eth0"\nouter = "web0"\n[veth.netns]\nmtu = 1400\naddresses = ["10.0.0.7/24"]\n'


def test_what_an_empty_network_namespace_was_given_is_compared() -> None:
    empty = Way(devices=False)
    found = with_inner(mtu=1400, addresses=(Address(address="10.0.0.7/24"),))

    assert desired(NETNS, None, empty)[0].mode == EMPTY
    assert compare(desired(NETNS, None, empty), found) == []
    assert lines(compare(desired(NETNS, None, empty), THEN)) == [
        "veths[eth0].inner.mtu: wanted 1400, found 9000",
        "veths[eth0].inner.addresses[10.0.0.7/24]: wanted, but not there",
    ]
    assert compare(desired(NETNS, THEN, empty), found, THEN) == []


def test_what_criu_brings_back_is_as_it_was_captured() -> None:
    assert compare(desired(NETNS), THEN) == []
    outside = NETNS.partition("[veth.netns]")[0]
    assert compare(desired(outside, THEN, Way(told=True)), THEN, THEN) == []


def test_what_is_no_veth_is_not_compared() -> None:
    file = '[[veth]]\ninner = "eth7"\nkind = "macvlan"\nparent = "wan0"\nmode = "ready"\n'

    assert compare(desired(file), state()) == []


def test_vlans_that_nobody_asked_for_are_the_bridges_business() -> None:
    assert compare(with_outer(vlan=None), THEN) == []
    assert lines(compare(with_outer(vlan=Vlan()), with_outer(vlan=Vlan(pvid=1, untagged=(1,))))) == [
        "veths[eth0].outer.vlan.pvid: wanted nothing, found 1",
        "veths[eth0].outer.vlan.untagged[1]: there, but not wanted",
    ]


def test_vlans_of_another_bridge_are_one_difference() -> None:
    assert lines(compare(THEN, with_outer(master="br1", vlan=None, port={}, fdb=(), backup_port=None))) == [
        "veths[eth0].outer.master: wanted br0, found br1"
    ]
