"""What a state file may have done by itself: a sentence and a test for each rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from criu_veth import config, harmless, policy, provenance, resolve, rules, seal, tcattrs, wire
from criu_veth.state import (
    Address,
    CapturedVeth,
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
    Veth,
    Vlan,
)
from criu_veth.way import ADOPT, Way

HOST = Host(hostname="node1", kernel="6.1", criu_veth="0", created="2026-01-01T00:00:00Z")
FOREIGN = "this host did not capture it itself"
MAC = "02:00:00:00:00:02"
INNER = Inner(
    ifname="eth0",
    mac=MAC,
    addresses=(Address(address="10.0.0.2/24"), Address(address="fd00::2/64")),
    routes=(Route(dst="default", family="inet", via="10.0.0.1"), Route(dst="default", family="inet6", via="fe80::1")),
)


def restored(
    outer: dict[str, Any] | None = None,
    mapping: str = "",
    *,
    inner: Inner = INNER,
    foreign: str = FOREIGN,
    way: Way | None = None,
    inside: policy.Inside | None = None,
) -> Veth:
    """What a restore should make of one captured pair, web0 if it has no other name."""
    captured = CapturedVeth(inner=inner, outer=Outer(**{"ifname": "web0", **(outer or {})}))
    known = State(version=1, host=HOST, veths=(captured,))
    names = {"hostname": "h", "image": "i"}
    (veth,) = resolve.resolve(config.parse(mapping, "f"), known, names, way, foreign=foreign, inside=inside)
    return veth


def said(veth: Veth, *allow: str) -> list[str]:
    return policy.lines([veth], allow)


def remedy(word: str) -> str:
    return f'not put back, because {FOREIGN}; to allow it, write in the mapping file: [trust] allow = ["{word}"]'


def told(*words: str) -> Way:
    way = Way(told=True)
    way.read_options(list(words))
    return way


def route(dst: str, **more: Any) -> Route:
    return Route(dst=dst, family="inet6" if ":" in dst else "inet", **more)


# --- what migrates without a line


ORDINARY: dict[str, dict[str, Any]] = {
    "a bridge port with all its dress": {
        "mac": "02:12:34:56:78:9a",
        "mtu": 9000,
        "txqueuelen": 77,
        "group": 5,
        "alias": "web, front",
        "altnames": ("veth-web-front", "cali0a1b2c"),
        "promisc": True,
        "master": "br7",
        "master_kind": "bridge",
        "port": {"hairpin": 1, "isolated": 1, "locked": 1},
        "vlan": Vlan(pvid=10, untagged=(10,), tagged=("20-30",)),
        "fdb": (FdbEntry(mac=MAC, flags=("sticky",)),),
        "features_off": ("tx-checksum-ip-generic",),
    },
    "limits": {
        "qdiscs": (
            Qdisc(kind="htb", handle="1:", parent="root", options="0800050001000000"),
            Qdisc(kind="pfifo", handle="10:", parent="1:10", options="4d000000"),
            Qdisc(kind="ingress", handle="ffff:", parent="ingress"),
        ),
        "classes": (TcClass(kind="htb", handle="1:10", parent="1:", options="0c0006000100000000000000"),),
        "filters": (Filter(kind="u32", parent="1:", priority=5, protocol=0x800, options="0800010010000100"),),
    },
    "an end like Calico's": {
        "addresses": (Address(address="169.254.1.1/32", scope=253), Address(address="fe80::1/64")),
        "routes": (route("10.0.0.2/32"), route("fd00::2/128"), route("10.0.0.2/32", table=77, src="10.1.1.1")),
        "neighbours": (Neighbour(dst="10.0.0.2", lladdr="02:00:00:00:00:99"), Neighbour(dst="fe80::2", lladdr=MAC)),
        "sysctl": {"ipv4.proxy_arp": "1", "ipv4.forwarding": "1", "ipv4.neigh.proxy_delay": "0", "ipv4.rp_filter": "1"},
    },
    "an end like ptp's, with the container's gateway": {
        "addresses": (Address(address="10.0.0.1/32"),),
        "routes": (route("10.0.0.2/32"),),
    },
    "a gateway with the container's subnet": {
        "addresses": (Address(address="10.0.0.1/24", broadcast="10.0.0.255", flags=("noprefixroute",)),),
        "routes": (route("10.0.0.0/24"),),
    },
    "a point-to-point address": {"addresses": (Address(address="10.0.0.1/32", peer="10.0.0.2"),)},
    "a proxy entry for the container's gateway": {"neighbours": (Neighbour(dst="10.0.0.1", proxy=True),)},
    "a port of Open vSwitch": {"ovs": Ovs(bridge="obr0", tag=10, external_ids={"a": "b"})},
}


@pytest.mark.parametrize("name", ORDINARY)
def test_the_ordinary_migrates_without_a_line(name: str) -> None:
    veth = restored(ORDINARY[name])
    assert veth.refused == ()
    own = restored(ORDINARY[name], foreign="")
    assert msgspec.structs.replace(veth, claimed=(), led=()) == own


# --- what needs a line


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a default route of the host": (
        "default-route",
        {"routes": (route("default", via="10.0.0.2"), route("::/0"))},
        "the default routes via 10.0.0.2, of this host",
    ),
    "a default route in another table": (
        "default-route",
        {"routes": (route("default", table=1000),)},
        "the default route of this host",
    ),
    "half of all addresses": ("routes", {"routes": (route("128.0.0.0/1"),)}, "the route to 128.0.0.0/1"),
    "somebody else's address": (
        "routes",
        {"routes": (route("10.0.0.3/32"), route("fd00::3/128"))},
        "the routes to 10.0.0.3/32, to fd00::3/128",
    ),
    "a subnet behind the container": (
        "routes",
        {"routes": (route("10.66.0.0/16", via="10.0.0.2", table=7),)},
        "the route to 10.66.0.0/16 in table 7",
    ),
    "its address by way of somebody else": (
        "routes",
        {"routes": (route("10.0.0.2/32", via="10.0.0.9"),)},
        "the route to 10.0.0.2/32",
    ),
    "its own address as this host's": (
        "routes",
        {"routes": (route("10.0.0.2/32", type=2, table=255),)},
        "the route to 10.0.0.2/32 of type 2 in table 255",
    ),
    "its own address in the table of local ones": (
        "routes",
        {"routes": (route("10.0.0.2/32", table=255),)},
        "the route to 10.0.0.2/32 in table 255",
    ),
    "its own address as a black hole": (
        "routes",
        {"routes": (route("10.0.0.2/32", type=6),)},
        "the route to 10.0.0.2/32 of type 6",
    ),
    "any address": ("addresses", {"addresses": (Address(address="10.0.0.9/32"),)}, "the address 10.0.0.9/32"),
    "a gateway with everybody's subnet": (
        "addresses",
        {"addresses": (Address(address="10.0.0.1/8"),)},
        "the address 10.0.0.1/8",
    ),
    "a gateway with a subnet of others": (
        "addresses",
        {"addresses": (Address(address="fe80::1/9"), Address(address="169.254.1.1/16"))},
        "the addresses fe80::1/9, 169.254.1.1/16",
    ),
    "the address of a cloud's credentials": (
        "addresses",
        {"addresses": (Address(address="169.254.169.254/32"),)},
        "the address 169.254.169.254/32",
    ),
    "somebody else's address as broadcast": (
        "addresses",
        {"addresses": (Address(address="169.254.1.1/32", broadcast="10.0.0.9"),)},
        "the address 169.254.1.1/32",
    ),
    "somebody else as peer": (
        "addresses",
        {"addresses": (Address(address="169.254.1.1/32", peer="10.0.0.9"),)},
        "the address 169.254.1.1/32",
    ),
    "policy rules": (
        "rules",
        {
            "rules": (
                Rule(family="inet", priority=100, table=77, iif="web0"),
                Rule(family="inet6", priority=1, oif="web0", action=6),
            )
        },
        "the policy rules 100 (inet), 1 (inet6)",
    ),
    "sysctls that believe the container": (
        "sysctls",
        {
            "sysctl": {
                "ipv4.route_localnet": "1",
                "ipv4.proxy_arp": "1",
                "ipv4.accept_local": "1",
                "ipv6.accept_ra": "2",
                "ipv4.rp_filter": "0",
                "ipv4.nosuch": "0",
                "ipv4.arp_ignore": "x",
            }
        },
        "the sysctls ipv4.route_localnet = 1, ipv4.accept_local = 1, ipv6.accept_ra = 2, ipv4.rp_filter = 0,"
        " ipv4.nosuch = 0, ipv4.arp_ignore = x",
    ),
    "neighbours": (
        "neighbours",
        {
            "neighbours": (
                Neighbour(dst="10.0.0.9", lladdr="02:00:00:00:00:99"),
                Neighbour(dst="10.0.0.9", proxy=True),
                Neighbour(dst="10.0.0.2", proxy=True),
            )
        },
        "the neighbours 10.0.0.9, 10.0.0.9 (proxy), 10.0.0.2 (proxy)",
    ),
    "forwarding entries of others": (
        "fdb",
        {"master": "br0", "fdb": (FdbEntry(mac="02:00:00:00:00:99"), FdbEntry(mac=MAC.upper()))},
        "the forwarding entry for 02:00:00:00:00:99",
    ),
    "the MAC address of hardware": (
        "macs",
        {"mac": "00:1b:21:00:00:01"},
        "the outer end's MAC address 00:1b:21:00:00:01",
    ),
    "being part of an uplink": (
        "masters",
        {"master": "bond0", "master_kind": "bond"},
        "being a port of bond bond0",
    ),
    "somebody else's port to stand in": (
        "masters",
        {"master": "br0", "backup_port": "db0"},
        'being a port that "db0" stands in for',
    ),
    "a name of an uplink": ("names", {"ifname": "eth7"}, 'the name "eth7" (it is vethef9ce619 instead)'),
    "an alternative name of an uplink": ("names", {"altnames": ("enp3s0", "web")}, 'the name "enp3s0"'),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_needs_a_line(name: str) -> None:
    word, outer, what = REFUSED[name]
    veth = restored(outer)
    assert said(veth) == [f"veth eth0: {what}: {remedy(word)}"]

    allowed = restored(outer, f'[trust]\nallow = ["{word}"]')
    assert said(allowed) == []
    assert allowed == restored(outer, '[trust]\nimages = "root"') == restored(outer, foreign="")
    assert veth.outer != allowed.outer


def test_what_is_left_is_put_back() -> None:
    veth = restored(
        {
            "ifname": "eth7",
            "routes": (route("10.0.0.2/32"), route("10.0.0.3/32")),
            "rules": (Rule(family="inet", priority=5, iif="eth7"),),
            "sysctl": {"ipv4.proxy_arp": "1", "ipv4.accept_local": "1"},
            "addresses": (Address(address="169.254.1.1/32", label="eth7:a"), Address(address="10.9.9.9/24")),
            "alias": "still",
        },
        '[trust]\nallow = ["rules"]',
    )
    (name,) = [refused.things[0] for refused in veth.refused if refused.kind == "names"]
    assert f'"eth7" (it is {veth.outer.ifname} instead)' == name
    assert rules.ifname_fault(veth.outer.ifname) is None
    assert veth.outer == Outer(
        ifname=veth.outer.ifname,
        routes=(route("10.0.0.2/32"),),
        rules=(Rule(family="inet", priority=5, iif=veth.outer.ifname),),
        sysctl={"ipv4.proxy_arp": "1"},
        addresses=(Address(address="169.254.1.1/32", label=f"{veth.outer.ifname}:a"),),
        alias="still",
    )


def test_an_inverted_rule_is_never_allowed_by_a_word() -> None:
    """It is for all packets of the host once the device is gone."""
    outer = {"rules": (Rule(family="inet", priority=100, table=77, iif="web0", flags=2),)}
    for mapping in ("", '[trust]\nallow = ["rules"]'):
        assert said(restored(outer, mapping)) == [
            f"veth eth0: the inverted policy rule 100 (inet): not put back, because {FOREIGN}; to allow it, write in"
            ' the mapping file: [trust] images = "root"'
        ]
    assert said(restored(outer, '[trust]\nimages = "root"')) == []
    assert said(restored(outer, foreign="")) == []


def test_the_line_keeps_what_is_allowed_already() -> None:
    veth = restored({"rules": (Rule(family="inet", priority=1, iif="web0"),)}, '[trust]\nallow = ["names"]')
    assert said(veth, "names")[0].endswith('[trust] allow = ["names", "rules"]')


def test_many_things_are_one_short_line() -> None:
    (line,) = said(restored({"routes": tuple(route(f"10.{n // 256}.{n % 256}.0/24") for n in range(1000))}))
    assert line.startswith("veth eth0: the routes to 10.0.0.0/24, to 10.0.1.0/24,")
    assert "to 10.0.5.0/24 and 994 more: not put back" in line
    (line,) = said(restored({"altnames": ("eth" + "x" * 120,)}))
    assert len(line) < 300


def test_what_is_left_does_not_hang_on_what_is_refused() -> None:
    """The kernel would refuse it, and with it the whole restore."""
    inner = msgspec.structs.replace(INNER, addresses=(*INNER.addresses, Address(address="10.5.0.2/32")))
    unreachable = route("10.5.0.2/32", via="10.0.0.2")
    outer = {
        "addresses": (Address(address="10.0.0.9/24"),),
        "routes": (route("10.0.0.2/32", src="10.0.0.9"), route("fd00::2/128", src="fd00::9")),
    }
    assert restored(outer, inner=inner).outer.routes == (route("10.0.0.2/32"), route("fd00::2/128", src="fd00::9"))
    assert restored({"routes": (unreachable,)}, inner=inner).outer.routes == ()
    for more in ({"onlink": True}, {}):
        routes = (*(() if more else (route("10.0.0.2/32"),)), msgspec.structs.replace(unreachable, **more))
        assert restored({"routes": routes}, inner=inner).outer.routes == routes


def test_a_subnet_is_that_of_the_addresses_that_will_be_there() -> None:
    outer = {"addresses": (Address(address="10.0.0.1/24"),), "routes": (route("10.0.0.0/24"),)}
    veth = restored(outer, '[[veth]]\ninner = "eth0"\naddresses = ["169.254.1.1/32"]')
    assert said(veth) == [f"veth eth0: the route to 10.0.0.0/24: {remedy('routes')}"]


# --- what decides


def test_what_the_mapping_file_says_is_not_judged() -> None:
    outer = {
        "ifname": "eth7",
        "mac": "00:1b:21:00:00:01",
        "altnames": ("eth8",),
        "addresses": (Address(address="10.9.9.9/24"),),
        "routes": (route("default"),),
        "sysctl": {"ipv4.accept_local": "1"},
        "master": "bond0",
        "master_kind": "bond",
    }
    veth = restored(
        outer,
        """
        [[veth]]
        inner = "eth0"
        outer = "eth9"
        bridge = "br0"
        mac = "00:1b:21:00:00:02"
        altnames = ["eth10"]
        addresses = ["10.9.9.8/24"]
        routes = ["default"]
        sysctl = { "ipv4.accept_local" = 1 }
        """,
    )
    assert said(veth) == []
    assert (veth.outer.ifname, veth.outer.master, veth.outer.mac) == ("eth9", "br0", "00:1b:21:00:00:02")
    assert veth.outer.routes[0].dst == "default"


def test_a_name_that_criu_was_told_is_the_callers() -> None:
    veth = restored({"ifname": "eth7"}, way=told("--external", "veth[eth0]:eth7"))
    assert (veth.outer.ifname, said(veth)) == ("eth7", [])
    veth = restored({"ifname": "eth7"}, way=told("--external", "veth[eth0]:web0"))
    assert (veth.outer.ifname, said(veth)) == ("web0", [])


def test_of_a_pair_that_somebody_else_makes_only_the_dress_is_judged() -> None:
    way = Way(told=True, devices=False)
    way.adopt = True
    outer = {"ifname": "eth7", "routes": (route("default"),), "sysctl": {"ipv4.accept_local": "1"}}
    veth = restored(outer, way=way)
    assert veth.mode == ADOPT
    assert said(veth) == [f"veth eth0: the sysctl ipv4.accept_local = 1: {remedy('sysctls')}"]
    assert veth.adopted
    assert veth.adopted.dress.sysctl == {}


def test_the_container_has_what_its_images_say() -> None:
    """Where CRIU's images have its devices, a state file does not decide what is the container's own."""
    inside = policy.Inside(
        addresses=frozenset({rules.packed("10.0.0.2")}),
        gateways=frozenset({rules.packed("10.0.0.1")}),
        macs=frozenset({"02:00:00:00:00:02"}),
    )
    lies = msgspec.structs.replace(
        INNER, addresses=(*INNER.addresses, Address(address="10.0.0.3/24")), routes=(route("default", via="10.0.0.4"),)
    )
    outer = {
        "routes": (route("10.0.0.2/32"), route("10.0.0.3/32")),
        "addresses": (Address(address="10.0.0.4/32"),),
    }
    assert said(restored(outer, inner=lies)) == []
    assert said(restored(outer, inner=lies, inside=inside)) == [
        f"veth eth0: the address 10.0.0.4/32: {remedy('addresses')}",
        f"veth eth0: the route to 10.0.0.3/32: {remedy('routes')}",
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.169.254", "::1"])
def test_an_address_that_no_container_has_is_not_its_own(address: str) -> None:
    length = 128 if ":" in address else 32
    inner = msgspec.structs.replace(INNER, addresses=(Address(address=f"{address}/{length}"),))
    veth = restored({"routes": (route(f"{address}/{length}"),)}, inner=inner)
    assert said(veth) == [f"veth eth0: the route to {address}/{length}: {remedy('routes')}"]


def test_what_is_inside_the_container_is_the_containers() -> None:
    inner = msgspec.structs.replace(INNER, sysctl={"ipv4.accept_local": "1"})
    assert restored(inner=inner).netns == restored(inner=inner, foreign="").netns


# --- traffic control, whatever the trust


def attribute(kind: int, payload: bytes = b"") -> bytes:
    return wire.put_attr(kind, payload)


MIRRED = attribute(7, attribute(1, attribute(1, b"mirred\0") + attribute(2, attribute(1, bytes(28)))))
SEL = attribute(5, bytes(32))
INGRESS = Qdisc(kind="ingress", handle="ffff:", parent="ingress")


def u32(options: bytes, **more: Any) -> Filter:
    found = {"parent": "ffff:", "priority": 9, "protocol": 3, **more}
    return Filter(kind="u32", options=options.hex(), **found)


@pytest.mark.parametrize("trusted", ["", '[trust]\nimages = "root"'])
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (SEL + MIRRED, "it has an action (mirred)"),
        (MIRRED[:2] + b"\x07\x80" + MIRRED[4:] + SEL, "it has an action (mirred)"),  # NLA_F_NESTED
        (SEL + attribute(7), "it has an action (of no known kind)"),
        (SEL + attribute(6, bytes(4)), "it has a policer"),
        (SEL + attribute(13, bytes(4)), "its options have an attribute that is not put back (13)"),
        (SEL + b"\x09\x00\x01\x00", "its options are no list of attributes"),
        (SEL + b"\x00", "its options are no list of attributes"),
    ],
)
def test_a_filter_does_no_more_than_match(options: bytes, why: str, trusted: str) -> None:
    plain = u32(SEL, priority=8)
    veth = restored({"qdiscs": (INGRESS,), "filters": (plain, u32(options))}, trusted)
    assert veth.outer.filters == (plain,)
    assert said(veth) == [f"veth eth0: its filter u32 (priority 9) is not put back: {why}"]


def test_a_table_that_is_not_put_back_takes_its_filters_along() -> None:
    veth = restored({"qdiscs": (INGRESS,), "filters": (u32(SEL), u32(attribute(4, bytes(4)) + MIRRED))})
    assert veth.outer.filters == ()


@pytest.mark.parametrize("kind", ["fq_codel", "netem", "mqprio", "nosuch"])
def test_only_known_queueing_disciplines_are_put_back(kind: str) -> None:
    outer = {
        "qdiscs": (Qdisc(kind=kind, handle="1:", parent="root"), INGRESS),
        "classes": (TcClass(kind=kind, handle="1:1", parent="1:"),),
        "filters": (u32(SEL, parent="1:"), u32(SEL)),
    }
    veth = restored(outer, foreign="")
    assert (veth.outer.qdiscs, veth.outer.classes, veth.outer.filters) == ((INGRESS,), (), (u32(SEL),))
    assert said(veth) == [
        f"veth eth0: its queueing discipline {kind} (1:) is not put back: it is of a kind that is not put back",
        f"veth eth0: its class {kind} (1:1) is not put back: it is of a kind that is not put back",
    ]


@pytest.mark.parametrize("kind", ["bpf", "flower", "matchall", "basic"])
def test_only_known_filters_are_put_back(kind: str) -> None:
    veth = restored({"qdiscs": (INGRESS,), "filters": (Filter(kind=kind, parent="ffff:", priority=1, protocol=3),)})
    assert veth.outer.filters == ()
    assert said(veth) == [
        f"veth eth0: its filter {kind} (priority 1) is not put back: it is of a kind that is not put back"
    ]


def test_many_things_that_are_never_put_back_are_a_few_lines() -> None:
    outer = {"qdiscs": (INGRESS,), "filters": tuple(u32(SEL + MIRRED, priority=n) for n in range(1, 1000))}
    found = said(restored(outer))
    assert len(found) == 7
    assert found[-1] == "veth eth0: 993 more things of its traffic control are not put back"


def test_options_that_are_no_attributes_have_their_length() -> None:
    assert tcattrs.qdisc_fault("pfifo", bytes(4)) is None
    assert tcattrs.qdisc_fault("pfifo", bytes(8)) == "its options are not of that kind's length"


# --- the tables


@pytest.mark.parametrize(
    "name",
    "eth0 eth ethweb eth0.5 en0 eno1 ens3 enp3s0f1 enx0242ac110002 enP2p1s0 wlan0 wlp2s0 wwan0 ww0 ib0 ibp5s0 bond0"
    " bond-a team1 wg0 wg-home ppp0 tun0 tap1 lo docker0 docker_gwbridge br0 br-1a2b virbr0 lxdbr0 cni0 podman1"
    " flannel.1 kube-ipvs0 cilium_host tunl0 sit0 vxlan100 dummy0 ovs-system em1 p1p2 ETH0".split(),
)
def test_a_name_that_looks_like_infrastructure(name: str) -> None:
    assert harmless.looks_like_infrastructure(name)


@pytest.mark.parametrize(
    "name",
    "web0 veth0 vethweweb0 veth1a2b3c4 cali0a1b2c3d lxc1234 vh0 vnet3 db0 gw0 envoy0 enabled0 branch0 bridge wgate"
    " telemetry0 wlog local tunnel-web port0 x0 p1 w:0 encode0 podweb".split(),
)
def test_a_name_that_does_not(name: str) -> None:
    assert not harmless.looks_like_infrastructure(name)


def test_every_harmless_sysctl_can_be_one_of_a_device() -> None:
    for key, (lowest, highest) in harmless.SYSCTLS.items():
        assert rules.sysctl_path(key, "web0")
        assert lowest <= highest


def test_every_word_has_its_words() -> None:
    assert set(policy.WORDS) == {*get_args(config.Allowed), policy.ROOT}


def test_another_word_is_an_error() -> None:
    with pytest.raises(config.InputError) as raised:
        config.parse('[trust]\nallow = ["everything"]', "f.toml")
    assert raised.value.faults == ("f.toml: trust.allow[0]: invalid enum value 'everything'",)


# --- what the images say


def image(magic: int, *messages: bytes) -> bytes:
    return wire.u32(0x54564319) + wire.u32(magic) + b"".join(wire.u32(len(one)) + one for one in messages)


def device(name: str, mac: str, index: int = 2) -> bytes:
    """A message of CRIU's netdev.proto: a veth that is up."""
    packed = bytes.fromhex(mac.replace(":", ""))
    numbers = bytes([0x08, 2, 0x10, index, 0x18, 100, 0x20, 1])
    return numbers + bytes([0x2A, len(name)]) + name.encode() + bytes([0x3A, len(packed)]) + packed


def address(packed: bytes, length: int, index: int = 2) -> bytes:
    body = bytes([2, length, 0, 0]) + wire.u32(index) + wire.put_attr(2, packed)
    return wire.message(20, 0, body)


def default_route(via: bytes, index: int = 2) -> bytes:
    body = bytes([2, 0, 0, 0, 254, 3, 0, 1, *bytes(4)]) + wire.put_attr(5, via) + wire.put_attr(4, wire.u32(index))
    return wire.message(24, 0, body)


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    """A state file with eth0, beside the images of a container with the same."""
    (tmp_path / "inventory.img").touch()
    (tmp_path / "netdev-9.img").write_bytes(image(0x57373951, device("eth0", MAC)))
    (tmp_path / "ifaddr-9.img").write_bytes(wire.u32(0x47361222) + address(bytes([10, 0, 0, 2]), 24))
    (tmp_path / "route-9.img").write_bytes(wire.u32(0x45311224) + default_route(bytes([10, 0, 0, 1])))
    return tmp_path / "criu-veth.json"


FOUND = State(version=1, host=HOST, veths=(CapturedVeth(inner=INNER, outer=Outer(ifname="web0")),))


def came(file: Path, found: State = FOUND, *, sealed: bool = True, **more: bool) -> provenance.Provenance:
    keys = str(file.parent / "keys")
    seal.write(b"sealed", str(file), key_dir=keys)
    return provenance.of(b"sealed" if sealed else b"other", found, str(file), key_dir=keys, **more)


def test_images_say_what_the_container_has(state_file: Path) -> None:
    inside = policy.Inside(
        addresses=frozenset({bytes([10, 0, 0, 2])}), gateways=frozenset({bytes([10, 0, 0, 1])}), macs=frozenset({MAC})
    )
    assert came(state_file) == provenance.Provenance("", inside)
    assert came(state_file, sealed=False) == provenance.Provenance(seal.NOT_SEALED, inside)


@pytest.mark.parametrize("other", [device("eth0", "02:00:00:00:00:99"), device("eth1", MAC)])
def test_images_of_another_container_make_a_sealed_capture_foreign(state_file: Path, other: bytes) -> None:
    (state_file.parent / "netdev-9.img").write_bytes(image(0x57373951, other))
    assert came(state_file).foreign == provenance.OF_ANOTHER
    assert came(state_file, with_images=False) == provenance.Provenance()


def test_where_the_images_have_no_devices_there_is_nothing_to_compare(state_file: Path) -> None:
    (state_file.parent / "netdev-9.img").write_bytes(image(0x57373951))
    assert came(state_file) == provenance.Provenance()
    (state_file.parent / "netdev-9.img").write_bytes(b"damaged")
    assert came(state_file) == provenance.Provenance()
    (state_file.parent / "inventory.img").unlink()
    assert came(state_file) == provenance.Provenance()


def test_an_image_may_have_any_prefix_length(state_file: Path) -> None:
    (state_file.parent / "ifaddr-9.img").write_bytes(wire.u32(0x47361222) + address(bytes([10, 0, 0, 2]), 200))
    assert came(state_file).inside
