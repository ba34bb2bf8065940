"""A restore that nobody configured brings back what was captured: captures before and after it are equal."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Criu, Host, Link, snapshot

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
CAPTURE = "from criu_veth import capture, state; import sys; sys.stdout.buffer.write(state.encode(capture.capture({})))"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"))


@dataclass(frozen=True, kw_only=True)
class Topology:
    """``host`` and ``inside`` are commands for a shell, run with the pair plugged in."""

    host: str = ""
    inside: str = ""
    links: tuple[Link, ...] = (WEB,)
    never_up: bool = False
    kernel: tuple[str, ...] = ()


EVERY_FLAG = """
bridge link set dev web0 guard on root_block on fastleave on learning off flood off mcast_flood off bcast_flood off
bridge link set dev web0 hairpin on mcast_to_unicast on neigh_suppress on isolated on priority 8 cost 77
ip link set dev web0 type bridge_slave proxy_arp on proxy_arp_wifi on group_fwd_mask 0x4000 mcast_router 2
ip link set dev web0 type bridge_slave vlan_tunnel on locked on
"""

# Ten of them; and what the bridge forwards, and where, by VLAN.
VLANS = """
ip link set br0 type bridge vlan_filtering 1
bridge vlan del dev web0 vid 1
bridge vlan add dev web0 vid 10 pvid untagged
bridge vlan add dev web0 vid 11-12 untagged
bridge vlan add dev web0 vid 20-25
bridge vlan add dev web0 vid 30
bridge vlan add dev web0 vid 4094
bridge fdb add 02:00:00:00:00:99 dev web0 master static vlan 10
"""

TBF = "tc qdisc add dev web0 root tbf rate 5mbit burst 32k latency 50ms"

HTB = """
tc qdisc add dev web0 root handle 1: htb default 20
tc class add dev web0 parent 1: classid 1:1 htb rate 100mbit
tc class add dev web0 parent 1:1 classid 1:10 htb rate 10mbit ceil 20mbit prio 1
tc class add dev web0 parent 1:1 classid 1:20 htb rate 5mbit
tc qdisc add dev web0 parent 1:10 handle 10: pfifo limit 77
tc qdisc add dev web0 parent 1:20 handle 20: tbf rate 1mbit burst 10k latency 10ms
tc filter add dev web0 parent 1: protocol ip prio 5 u32 match ip dst 10.1.1.1/32 flowid 1:10
tc filter add dev web0 parent 1: protocol ip prio 6 u32 match ip dst 10.1.1.2/32 flowid 1:20
tc filter add dev web0 parent 1: protocol ipv6 prio 7 u32 match ip6 dst fd01::/64 flowid 1:20
"""

INGRESS = """
tc qdisc add dev web0 ingress
tc filter add dev web0 parent ffff: protocol ip prio 7 u32 match ip src 1.2.3.4/32 flowid :1
tc filter add dev web0 parent ffff: protocol ip prio 7 u32 match ip src 1.2.3.5/32 flowid :2
"""

CALICO = """
sysctl -qw net.ipv4.conf.web0.proxy_arp=1 net.ipv4.neigh.web0.proxy_delay=0 net.ipv4.conf.web0.rp_filter=2
ip addr add 169.254.1.1/32 dev web0
ip route add 10.0.0.2/32 dev web0
ip -6 route add fd00::2/128 dev web0
"""
CALICO_INSIDE = "ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1"

POLICY = """
ip route add 10.77.0.0/16 via 10.0.0.2 dev web0 table 77 onlink
ip route add default dev web0 metric 50 mtu 1300 advmss 1200 table 1000
ip rule add iif web0 table 77 priority 100
ip rule add oif web0 from 10.8.0.0/16 to 10.9.0.0/16 fwmark 0x1/0xff table 1000 priority 101
ip -6 rule add iif web0 ipproto tcp sport 80 dport 1000-2000 table 77 priority 102
"""

TOPOLOGIES = {
    "plain": Topology(),
    "every port flag the opposite of its default": Topology(host=EVERY_FLAG),
    "routed, no bridge": Topology(
        host=CALICO, inside=CALICO_INSIDE, links=(Link(inner="eth0", outer="web0", addresses=("10.0.0.2/32",)),)
    ),
    "large MTU": Topology(host="ip link set web0 mtu 9000", inside="ip link set eth0 mtu 9000"),
    "fixed MAC": Topology(host="ip link set web0 address 02:12:34:56:78:9a"),
    "tbf": Topology(host=TBF),
    "htb": Topology(host=HTB),
    "ingress": Topology(host=INGRESS),
    "two bridges": Topology(
        links=(WEB, Link(inner="eth1", outer="db0", bridge="br1", addresses=("10.1.0.2/24",))),
        host="ip link set db0 type bridge_slave isolated on",
    ),
    "backup port": Topology(
        links=(WEB, Link(inner="eth1", outer="db0", bridge="br0", addresses=("10.0.0.3/24",))),
        host="ip link set web0 type bridge_slave backup_port db0",
    ),
    "names": Topology(
        host='ip link set web0 alias "web, front – ünïcode"; ip link property add dev web0 altname vethwebfrontünd'
        " altname a-second-name-that-is-longer-than-fifteen",
        inside='ip link set eth0 alias "the inner one"; ip link property add dev eth0 altname inside-name-of-eth0',
    ),
    "forwarding entries and neighbours": Topology(
        host="bridge fdb add 02:00:00:00:00:99 dev web0 master static; bridge fdb add 02:00:00:00:00:98 dev web0 master"
        " static sticky; ip neigh add 10.99.0.7 lladdr 02:00:00:00:00:97 dev web0 nud permanent;"
        " ip neigh add proxy 10.99.0.8 dev web0;"
        " ip -6 neigh add fd01::7 lladdr 02:00:00:00:00:96 dev web0 nud permanent",
        inside="ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:95 dev eth0 nud permanent",
    ),
    "policy routing": Topology(host=POLICY),
    "gateway of the other family": Topology(
        host="ip addr add 10.9.0.1/24 dev web0 label web0:second;"
        " ip addr add fd00::1/64 dev web0 nodad metric 77; ip route add 10.66.0.0/24 via inet6 fd00::2 dev web0;"
        " ip route add 10.67.0.0/24 dev web0 proto 99 scope host tos 0x10 metric 7",
        links=(Link(inner="eth0", outer="web0", addresses=("fd00::2/64",)),),
    ),
    "settings of the device": Topology(
        host="ip link set web0 txqueuelen 77 group 5 gso_max_size 32768 gso_max_segs 100; ip link set web0 allmulticast"
        " on; ethtool -K web0 tx off gso off",
        inside="ip link set eth0 txqueuelen 78; ethtool -K eth0 tx off; sysctl -qw net.ipv4.conf.eth0.arp_ignore=1",
    ),
    "VLANs": Topology(host=VLANS, kernel=("vlan-filtering",)),
    "no VLAN at all": Topology(
        host="ip link set br0 type bridge vlan_filtering 1; bridge vlan del dev web0 vid 1", kernel=("vlan-filtering",)
    ),
    "two ports of a bridge that filters VLANs": Topology(
        links=(WEB, Link(inner="eth1", outer="db0", bridge="br0", addresses=("10.0.0.3/24",))),
        host="ip link set br0 type bridge vlan_filtering 1 vlan_default_pvid 9; bridge vlan add dev db0 vid 7",
        kernel=("vlan-filtering",),
    ),
    # CRIU cannot restore the routes of an inner end that had no carrier. A device that was never up has no qdisc yet.
    "down": Topology(
        host="ip link set web0 down", links=(Link(inner="eth0", outer="web0", bridge="br0"),), never_up=True
    ),
}


LOST = [
    "web0: the action of its filter u32 (priority 9) is not carried over",
    "web0: its route to 10.50.0.0/24 with several next hops is not carried over",
    "web0: its route to 10.51.0.0/24 by a nexthop object is not carried over",
]


def captured(host: Host, pid: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run(sys.executable, "-c", CAPTURE.format(pid)).stdout)
    return without_moment(found)


def network(host: Host) -> dict[str, Any]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


def without_moment(state: dict[str, Any]) -> dict[str, Any]:
    """A capture without what differs from one moment to the next."""
    state = dict(state)
    state["host"] = {**state["host"], "created": ""}
    return state


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.kernel(*one.kernel)) for name, one in TOPOLOGIES.items()]
)
def test_nothing_is_different_afterwards(host: Host, criu: Criu, images: Path, name: str) -> None:
    topology = TOPOLOGIES[name]
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    host.bridge("br1", "10.1.0.1/24")
    container = host.container(list(topology.links))
    host.run("sh", "-ec", topology.host)
    container.run("sh", "-ec", topology.inside)
    before = captured(host, container.pid)
    as_was = network(host)

    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    state = json.loads((images / "criu-veth.json").read_text())
    assert without_moment(state) == before
    assert "warnings" not in state
    external = [f"veth[{link.inner}]:{link.outer}" for link in topology.links]
    restored = criu.restore(host, images, external=external, hook=HOOK).container

    assert captured(host, restored.pid) == before
    if not topology.never_up:
        assert network(host) == as_was


def test_many(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0")
    links = [Link(inner=f"eth{n}", outer=f"web{n}", bridge="br0", addresses=(f"10.0.{n}.2/24",)) for n in range(64)]
    container = host.container(links)
    before = captured(host, container.pid)

    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    external = [f"veth[{link.inner}]:{link.outer}" for link in links]
    restored = criu.restore(host, images, external=external, hook=HOOK).container

    assert captured(host, restored.pid) == before


def test_what_cannot_be_carried_is_named(host: Host, criu: Criu, images: Path) -> None:
    container = host.container([Link(inner="eth0", outer="web0")])
    host.run("sh", "-ec", "tc qdisc add dev web0 clsact; ip link add ifb-lab type ifb")
    host.run("ip", "link", "add", "mv0", "link", "web0", "type", "macvlan")
    host.run("ip", "address", "add", "10.7.0.1/24", "dev", "web0")
    host.run(*"ip route add 10.50.0.0/24 nexthop via 10.7.0.2 nexthop via 10.7.0.3".split())
    host.run(*"ip nexthop add id 5 via 10.7.0.2 dev web0".split())
    host.run(*"ip route add 10.51.0.0/24 nhid 5".split())
    match = "tc filter add dev web0 ingress protocol ip prio 9 u32 match u32 0 0"
    host.run(*match.split(), *"action mirred egress redirect dev ifb-lab".split())

    outcome = criu.dump(container, images, hook=HOOK)

    state = json.loads((images / "criu-veth.json").read_text())
    assert state["warnings"] == LOST
    assert state["notes"] == ["web0: mv0 is on top of it, and is not put back"]
    assert outcome.said("criu-veth:") == [
        *(f"criu-veth: pre-dump: warning: {what}" for what in LOST),
        "criu-veth: pre-dump: notice: web0: mv0 is on top of it, and is not put back",
        "criu-veth: pre-dump: captured eth0: web0",
    ]


LOST_OF_VLANS = [
    "web0: the tunnels of its VLANs 20 (2000) 30 (3000) 31 (3001) are not carried over",
    "web0: its states in spanning tree instance 5 of br0 (VLANs 20 30-31) are not carried over",
    "db0: the options of its VLANs 40-41 are not carried over",
]

# Debian 12's iproute2 has no word for these: mst_enabled of a bridge, and the instance of some of its VLANs.
MST = """
import socket, sys
from criu_veth import wire
nested, index = wire.NLA_F_NESTED, wire.u32(socket.if_nametoindex("br0"))
def u16(value): return value.to_bytes(2, wire.ORDER)
def put(kind, payload): return wire.put_attr(kind, payload)
def instance(vlan, last): return put(2 | nested, put(1, u16(vlan)) + last + put(18, u16(5)))
enable = put(18 | nested, put(1, b"bridge\\0") + put(2 | nested, put(46, wire.u32(4) + wire.u32(4))))
message = {
    "enable": wire.message(16, 0, bytes(4) + index + bytes(8) + enable),
    "instances": wire.message(112, 0, bytes([7, 0, 0, 0]) + index + instance(20, b"") + instance(30, put(2, u16(31)))),
}[sys.argv[1]]
(reply,) = wire.Rtnl().request([message])
assert not reply.errno, (reply.errno, reply.detail)
"""


@pytest.mark.kernel("vlan-filtering")
def test_what_of_vlans_cannot_be_carried_is_named(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", vlan_filtering=1, vlan_default_pvid=0)
    host.run(sys.executable, "-c", MST, "enable")  # while there is no VLAN
    host.bridge("br1", vlan_filtering=1)
    links = [Link(inner="eth0", outer="web0", bridge="br0"), Link(inner="eth1", outer="db0", bridge="br1")]
    container = host.container(links)
    host.run("bridge", "link", "set", "dev", "web0", "vlan_tunnel", "on")
    for words in ("vid 20", "vid 20 tunnel_info id 2000", "vid 30-31", "vid 30-31 tunnel_info id 3000-3001"):
        host.run("bridge", "vlan", "add", "dev", "web0", *words.split())
    host.run("bridge", "vlan", "add", "dev", "db0", "vid", "40-42")
    host.run("bridge", "vlan", "set", "dev", "db0", "vid", "40-41", "state", "blocking")
    for vlan in ("20", "30-31"):  # an instance is that of the bridge's own VLAN
        host.run("bridge", "vlan", "add", "dev", "br0", "vid", vlan, "self")
    host.run(sys.executable, "-c", MST, "instances")

    outcome = criu.dump(container, images, hook=HOOK)

    state = json.loads((images / "criu-veth.json").read_text())
    assert state["warnings"] == LOST_OF_VLANS
    assert [veth["outer"]["vlan"] for veth in state["veths"]] == [
        {"tagged": [20, "30-31"]},
        {"pvid": 1, "untagged": [1], "tagged": ["40-42"]},
    ]
    assert outcome.said("criu-veth:") == [
        *(f"criu-veth: pre-dump: warning: {what}" for what in LOST_OF_VLANS),
        "criu-veth: pre-dump: captured eth0: web0, eth1: db0",
    ]
