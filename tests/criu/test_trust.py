"""State files that somebody has written into the images, and those that this host has written, restored for real."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lab import Criu, Host, Link, Outcome, snapshot
from lab.cli import cli

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
MAC = "02:00:00:00:00:02"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"), gateway="10.0.0.1")
BECAUSE = "not put back, because this host did not capture it itself; to allow it, write in the mapping file: [trust]"

#: The options of every u32 filter on ingress of a device, as the kernel reports them: RTM_GETTFILTER, TCA_OPTIONS.
OPTIONS = """
import socket, sys
from criu_veth import wire
index = socket.if_nametoindex(sys.argv[1])
asked = wire.message(46, 0, bytes(4) + wire.u32(index) + bytes(4) + wire.u32(0xFFFF0000) + bytes(4))
found = [bytes(one) for one in wire.Rtnl().dump(asked)]
print(*(wire.find_attr(one, 36, (2,)).hex() for one in found if wire.get_u32(one, 24) & 0xFFF))
"""


def network(host: Host) -> dict[str, Any]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


def dumped(host: Host, criu: Criu, images: Path, link: Link = WEB) -> dict[str, Any]:
    """What the host is like while the container runs, which is dumped with the hook then."""
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    container = host.container([link])
    before = network(host)
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    return before


def plant(images: Path, *, inner: dict[str, Any] | None = None, **outer: Any) -> None:
    """Write into the state file of these images what nobody has captured."""
    file = images / "criu-veth.json"
    found = json.loads(file.read_text())
    found["veths"][0]["outer"].update(outer)
    found["veths"][0]["inner"].update(inner or {})
    file.write_text(json.dumps(found))


def restored(host: Host, criu: Criu, images: Path, *, external: str = "veth[eth0]:web0") -> Outcome:
    return criu.restore(host, images, external=[external], hook=HOOK)


def warnings(outcome: Outcome) -> list[str]:
    start = "criu-veth: pre-restore: warning: "
    return [line.removeprefix(start) for line in outcome.said(start)]


def forget_programs(host: Host) -> None:
    host.run("rm", "-rf", "/run/criu-veth/programs")


ORDERS: dict[str, Any] = {
    "addresses": [{"address": "10.0.0.99/32"}],
    "routes": [
        {"dst": "default", "family": "inet", "via": "10.0.0.2", "onlink": True},
        {"dst": "10.0.0.77/32", "family": "inet"},
        {"dst": "10.0.0.78/32", "family": "inet", "type": 2, "table": 255, "scope": 254},
    ],
    "rules": [
        {"family": "inet", "priority": 100, "table": 77, "iif": "web0", "flags": 2},
        {"family": "inet", "priority": 101, "table": 77, "iif": "web0"},
    ],
    "sysctl": {"ipv4.route_localnet": "1", "ipv4.accept_local": "1", "ipv6.accept_ra": "2"},
    "neighbours": [{"dst": "10.0.0.66", "proxy": True}],
    "fdb": [{"mac": "02:00:00:00:00:99"}],
    "altnames": ["enp7s0"],
    "mac": "00:1b:21:00:00:01",
}
REFUSED = {
    "names": 'the name "enp7s0"',
    "macs": "the outer end's MAC address 00:1b:21:00:00:01",
    "addresses": "the address 10.0.0.99/32",
    "default-route": "the default route via 10.0.0.2",
    "routes": "the routes to 10.0.0.77/32, to 10.0.0.78/32 of type 2 in table 255",
    "root": "the inverted policy rule 100 (inet)",
    "rules": "the policy rule 101 (inet)",
    "neighbours": "the neighbour 10.0.0.66 (proxy)",
    "fdb": "the forwarding entry for 02:00:00:00:00:99",
    "sysctls": "the sysctls ipv4.route_localnet = 1, ipv4.accept_local = 1, ipv6.accept_ra = 2",
}


def lines() -> list[str]:
    return [
        f"veth eth0: {what}: {BECAUSE} " + ('images = "root"' if word == "root" else f'allow = ["{word}"]')
        for word, what in REFUSED.items()
    ]


def test_orders_in_a_state_file_are_not_obeyed(host: Host, criu: Criu, images: Path) -> None:
    before = dumped(host, criu, images)
    plant(images, **ORDERS)

    outcome = restored(host, criu, images)

    assert sorted(warnings(outcome)) == sorted(lines())
    after = network(host)
    mac = after["links"]["web0"].pop("address")
    before["links"]["web0"].pop("address")
    assert mac != "00:1b:21:00:00:01"
    assert after == before
    for name in ("ipv4.conf.web0.route_localnet", "ipv4.conf.web0.accept_local"):
        assert host.sysctl(name) == "0"
    assert host.connect("10.0.0.2").ask("hello") == "1 hello"
    shown = cli(host, "verify", "--pid", outcome.pid, "--images", images)
    assert sorted(shown.stderr.splitlines()) == sorted(f"criu-veth: notice: {line}" for line in lines())
    assert (shown.returncode, shown.stdout) == (0, f"equal: 1 veth ({images}/criu-veth.json)\n")


def test_what_was_refused_is_named_by_the_commands(host: Host, criu: Criu, images: Path) -> None:
    dumped(host, criu, images)
    plant(images, rules=ORDERS["rules"][1:])
    forget_programs(host)
    line = f'veth eth0: the policy rule 101 (inet): {BECAUSE} allow = ["rules"]\n'

    for command in (("check", "--images", images), ("plan", "--images", images), ("prepare", images)):
        shown = cli(host, *command)
        assert (shown.returncode, shown.stderr) == (0, f"criu-veth: warning: {line}")
    assert json.loads(cli(host, "plan", "--images", images, "--json").stdout)["refused"] == [line.strip()]
    assert json.loads(cli(host, "check", "--images", images, "--json").stdout)["warnings"] == [line.strip()]

    outcome = restored(host, criu, images)
    assert warnings(outcome) == [line.strip()]  # of the program that was prepared
    shown = cli(host, "verify", "--pid", outcome.pid, "--images", images)
    assert (shown.returncode, shown.stderr) == (0, f"criu-veth: notice: {line}")
    assert shown.stdout == f"equal: 1 veth ({images}/criu-veth.json)\n"


def test_verification_names_what_was_refused(host: Host, criu: Criu, images: Path) -> None:
    dumped(host, criu, images)
    plant(images, rules=ORDERS["rules"][1:])
    (images / "criu-veth.toml").write_text("verify = true\n")

    outcome = restored(host, criu, images)

    assert outcome.said("criu-veth: post-resume") == [
        f'criu-veth: post-resume: notice: verify: veth eth0: the policy rule 101 (inet): {BECAUSE} allow = ["rules"]',
        "criu-veth: post-resume: verified: 1 as asked for",
    ]


@pytest.mark.parametrize(
    "trusted", [f"allow = {json.dumps([word for word in REFUSED if word != 'root'])}", 'images = "root"']
)
def test_what_the_mapping_file_allows_is_put_back(host: Host, criu: Criu, images: Path, trusted: str) -> None:
    dumped(host, criu, images)
    plant(images, **{**ORDERS, "rules": ORDERS["rules"][1:]})
    (images / "criu-veth.toml").write_text(f"[trust]\n{trusted}\n")

    outcome = restored(host, criu, images)

    assert warnings(outcome) == []
    after = snapshot(host)
    assert [address["local"] for address in after["addresses"]["web0"]] == ["10.0.0.99"]
    assert {"default", "10.0.0.77", "10.0.0.78"} <= {
        route["dst"] for route in after["routes"] if route["dev"] == "web0"
    }
    assert [rule["priority"] for rule in after["rules"] if rule.get("iif") == "web0"] == [101]
    assert after["links"]["web0"]["address"] == "00:1b:21:00:00:01"
    assert after["links"]["web0"]["altnames"] == ["enp7s0"]
    assert host.sysctl("ipv4.conf.web0.route_localnet") == "1"


@pytest.mark.parametrize("trusted", ["", 'images = "root"'])
def test_a_filter_with_an_action_is_never_put_back(host: Host, criu: Criu, images: Path, trusted: str) -> None:
    dumped(host, criu, images)
    host.veth("uplink0", "uplink1")
    host.run("tc", "qdisc", "add", "dev", "uplink0", "ingress")
    match = "tc filter add dev uplink0 parent ffff: protocol ip u32 match u32 0 0".split()
    host.run(*match, "action", "mirred", "egress", "redirect", "dev", "uplink1")
    host.run(*match, "flowid", ":1")
    plain, mirred = sorted(host.run(sys.executable, "-c", OPTIONS, "uplink0").stdout.split(), key=len)
    entry = {"kind": "u32", "parent": "ffff:", "protocol": 0x800}
    plant(
        images,
        qdiscs=[{"kind": "ingress", "handle": "ffff:", "parent": "ingress"}],
        filters=[
            {**entry, "priority": 9, "options": _without_counters(mirred)},
            {**entry, "priority": 8, "options": _without_counters(plain)},
        ],
    )
    (images / "criu-veth.toml").write_text(f"[trust]\n{trusted}\n")

    outcome = restored(host, criu, images)

    assert warnings(outcome) == ["veth eth0: its filter u32 (priority 9) is not put back: it has an action (mirred)"]
    shown = host.run("tc", "filter", "show", "dev", "web0", "parent", "ffff:").stdout
    assert "pref 8 u32" in shown
    assert "mirred" not in shown
    assert "pref 9" not in shown


def _without_counters(options: str) -> str:
    """A filter's options as u32 takes them: without TCA_U32_HASH, PCNT, FLAGS and PAD, which it only reports."""
    from criu_veth import wire

    listed = wire.attrs(bytes.fromhex(options), 0)
    return b"".join(wire.put_attr(kind, payload) for kind, payload in listed if kind not in (2, 9, 11, 12)).hex()


def test_a_name_like_an_uplinks_is_replaced(host: Host, criu: Criu, images: Path) -> None:
    dumped(host, criu, images)
    plant(images, ifname="eth0")
    (images / "criu-veth.toml").write_text("")

    outcome = criu.restore(host, images, external=["netdev[eth0]:cvready0"], hook=HOOK)

    (line,) = warnings(outcome)
    made = line.split("(it is ")[1].partition(" ")[0]
    assert line == f'veth eth0: the name "eth0" (it is {made} instead): {BECAUSE} allow = ["names"]'
    assert not host.has_link("eth0")
    assert host.link(made)["master"] == "br0"


def test_a_name_that_criu_was_told_is_the_callers(host: Host, criu: Criu, images: Path) -> None:
    dumped(host, criu, images)
    plant(images, ifname="eth7")

    outcome = restored(host, criu, images, external="veth[eth0]:eth7")

    assert warnings(outcome) == []
    assert host.link("eth7")["master"] == "br0"


def test_what_is_the_containers_own_its_images_say(host: Host, criu: Criu, images: Path) -> None:
    """A state file that claims somebody else's address for the container, beside the container's own images."""
    dumped(host, criu, images)
    plant(
        images,
        inner={"addresses": [{"address": "10.0.0.2/24"}, {"address": "10.0.0.77/24"}]},
        routes=[{"dst": "10.0.0.77/32", "family": "inet"}, {"dst": "10.0.0.2/32", "family": "inet"}],
    )

    outcome = restored(host, criu, images)

    assert warnings(outcome) == [f'veth eth0: the route to 10.0.0.77/32: {BECAUSE} allow = ["routes"]']
    assert [route["dst"] for route in host.ip("route", "show", "dev", "web0")] == ["10.0.0.2"]


SEGMENT = (
    "not put back, because this host has that segment on another device; to allow it, write in the mapping file:"
    ' [trust] allow = ["addresses"]'
)


@pytest.mark.parametrize(
    ("addresses", "routes", "what"),
    [
        (["10.0.0.254/32"], [], "the address 10.0.0.254/32"),
        (["10.0.0.254/24"], ["10.0.0.0/25"], "the addresses 10.0.0.254/24, the route to 10.0.0.0/25"),
        (["169.254.1.1/32", "10.0.0.254/32"], ["10.0.0.2/32"], "the address 10.0.0.254/32"),
    ],
)
def test_a_router_that_is_there_is_not_played(
    host: Host, criu: Criu, images: Path, addresses: list[str], routes: list[str], what: str
) -> None:
    """The container's gateway is the router of its segment: with that address this host would answer for it."""
    dumped(host, criu, images, replace(WEB, gateway="10.0.0.254"))
    plant(
        images,
        addresses=[{"address": address} for address in addresses],
        routes=[{"dst": dst, "family": "inet", "metric": 5} for dst in routes],
    )

    outcome = restored(host, criu, images)

    assert warnings(outcome) == [f"veth eth0: {what}: {SEGMENT}"]
    assert [one["local"] for one in snapshot(host)["addresses"]["web0"]] == [
        one.partition("/")[0] for one in addresses if one.startswith("169")
    ]
    assert [route["dst"] for route in host.ip("route", "show", "dev", "web0")] == [
        dst.partition("/")[0] for dst in routes if dst.endswith("/32")
    ]
    shown = cli(host, "verify", "--pid", outcome.pid, "--images", images)
    assert (shown.returncode, shown.stderr) == (0, f"criu-veth: notice: veth eth0: {what}: {SEGMENT}\n")


def test_a_gateways_subnet_that_this_host_has_is_not_taken(host: Host, criu: Criu, images: Path) -> None:
    """The gateway itself may be this host's already; its subnet leads to br0."""
    dumped(host, criu, images)
    plant(images, addresses=[{"address": "10.0.0.1/24"}])

    outcome = restored(host, criu, images)

    assert warnings(outcome) == [f"veth eth0: the address 10.0.0.1/24: {SEGMENT}"]
    assert snapshot(host)["addresses"]["web0"] == []


@pytest.mark.parametrize("address", ["10.0.0.1/32", "10.7.0.1/24"])
def test_a_gateway_that_only_the_container_has_is_put_back(host: Host, criu: Criu, images: Path, address: str) -> None:
    """One that all containers of this host share, or one of a subnet of its own; once it is there, nothing changes."""
    subnet = address.rpartition(".")[0]
    dumped(host, criu, images, replace(WEB, addresses=(f"{subnet}.2/24",), gateway=f"{subnet}.1"))
    plant(images, addresses=[{"address": address}], master=None, master_kind=None)

    outcome = restored(host, criu, images)

    assert warnings(outcome) == []
    assert [one["local"] for one in snapshot(host)["addresses"]["web0"]] == [address.partition("/")[0]]
    shown = cli(host, "verify", "--pid", outcome.pid, "--images", images)
    assert (shown.stdout, shown.stderr) == (f"equal: 1 veth ({images}/criu-veth.json)\n", "")


def test_a_neighbour_keeps_its_address(host: Host, criu: Criu, images: Path) -> None:
    """Images without devices, as a runtime makes them, say nothing of addresses: what is claimed is looked up here."""
    host.bridge("br0", "10.0.0.1/24")
    neighbour = host.container([Link(inner="eth0", outer="db0", bridge="br0", addresses=("10.0.0.77/24",))])
    container = host.container([Link(inner="eth0", outer="web0", mac=MAC)])
    empty = ["--empty-ns", "net"]
    criu.dump(container, images, hook=HOOK, args=empty)
    container.wait_unplugged()
    plant(
        images,
        inner={"addresses": [{"address": f"10.0.0.{number}/32"} for number in (77, 78)]},
        routes=[{"dst": f"10.0.0.{number}/32", "family": "inet"} for number in (77, 78)],
    )
    client = host.connect("10.0.0.77")
    assert client.ask("hello") == "1 hello"

    outcome = criu.restore(host, images, external=[], args=empty, hook=HOOK)

    why = "not put back, because this host has a neighbour with that address; to allow it, write in the mapping file:"
    assert f'veth eth0: the route to 10.0.0.77/32: {why} [trust] allow = ["routes"]' in warnings(outcome)
    assert [route["dst"] for route in host.ip("route", "show", "dev", "web0")] == ["10.0.0.78"]
    assert client.ask("hello again") == "2 hello again"
    assert neighbour.alive


# --- this host's own


POLICY = """
ip route add 10.77.0.0/16 via 10.0.0.2 dev web0 table 77 onlink
ip rule add iif web0 table 77 priority 100
ip rule add not iif web0 table 78 priority 101
sysctl -qw net.ipv4.conf.web0.route_localnet=1
"""


def own(host: Host, criu: Criu, images: Path) -> dict[str, Any]:
    """As `dumped`, the outer end with what needs a line where it comes from elsewhere."""
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    container = host.container([WEB])
    host.run("sh", "-ec", POLICY)
    before = network(host)
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    for priority in ("100", "101"):  # they stay
        host.run("ip", "rule", "del", "priority", priority)
    return before


def test_what_this_host_captured_needs_no_line(host: Host, criu: Criu, images: Path) -> None:
    before = own(host, criu, images)
    assert (images / "criu-veth.seal").stat().st_mode & 0o777 == 0o600
    key = host.path("/var/lib/criu-veth/key")
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 0o700, 32)
    forget_programs(host)

    assert warnings(restored(host, criu, images)) == []
    assert network(host) == before


def test_nor_does_a_copy_of_it(host: Host, criu: Criu, images: Path, tmp_path: Path) -> None:
    before = own(host, criu, images)
    host.run("cp", "-r", str(images), str(tmp_path / "copied"))

    assert warnings(restored(host, criu, tmp_path / "copied")) == []
    assert network(host) == before


FOREIGN = [
    f'veth eth0: the route to 10.77.0.0/16 in table 77: {BECAUSE} allow = ["routes"]',
    f'veth eth0: the policy rule 100 (inet): {BECAUSE} allow = ["rules"]',
    f'veth eth0: the inverted policy rule 101 (inet): {BECAUSE} images = "root"',
    f'veth eth0: the sysctl ipv4.route_localnet = 1: {BECAUSE} allow = ["sysctls"]',
]


@pytest.mark.parametrize("lost", ["key", "seal", "byte"])
def test_without_its_seal_it_is_anybodys(host: Host, criu: Criu, images: Path, lost: str) -> None:
    own(host, criu, images)
    if lost == "key":
        host.run("rm", "/var/lib/criu-veth/key")
    elif lost == "seal":
        (images / "criu-veth.seal").unlink()
    else:
        file = images / "criu-veth.json"
        file.write_text(file.read_text() + "\n")
    forget_programs(host)

    assert sorted(warnings(restored(host, criu, images))) == sorted(FOREIGN)
    assert [rule["priority"] for rule in host.ip("rule", "show")] == [0, 32766, 32767]


def test_another_containers_is_anybodys(host: Host, criu: Criu, images: Path, tmp_path: Path) -> None:
    """A sealed state file of this host, put beside the images of another container."""
    own(host, criu, images)
    others = tmp_path / "others"
    others.mkdir()
    container = host.container([WEB])
    criu.dump(container, others, hook=HOOK)
    container.wait_unplugged()
    for name in ("criu-veth.json", "criu-veth.seal"):
        (others / name).write_bytes((images / name).read_bytes())

    found = warnings(restored(host, criu, others))

    whose = "its capture is of another container than the images beside it"
    assert sorted(found) == sorted(line.replace("this host did not capture it itself", whose) for line in FOREIGN)


def test_where_no_key_can_be_kept_it_is_said(host: Host, criu: Criu, images: Path) -> None:
    host.run("mount", "-t", "tmpfs", "-o", "ro", "none", "/var/lib")
    host.bridge("br0")
    container = host.container([WEB])

    outcome = criu.dump(container, images, hook=HOOK)

    assert outcome.said("criu-veth: pre-dump: notice: the capture") == [
        "criu-veth: pre-dump: notice: the capture is not marked as this host's own: /var/lib/criu-veth: Read-only file"
        " system (EROFS)"
    ]
    container.wait_unplugged()
    assert warnings(restored(host, criu, images)) == []
    assert not (images / "criu-veth.seal").exists()


# --- what migrates without a line


@dataclass(frozen=True, kw_only=True)
class Ordinary:
    """A container's network: ``host`` and ``inside`` are commands with the pair plugged in."""

    link: Link
    host: str = ""
    inside: str = ""


ORDINARY = {
    "a port with its dress and limits": Ordinary(
        link=replace(WEB, mac=MAC),
        host="""
        ip link set web0 mtu 1400 txqueuelen 77 group 5 alias "web, front" address 02:12:34:56:78:9a allmulticast on
        ip link property add dev web0 altname veth-web-front
        bridge link set dev web0 hairpin on isolated on learning off
        bridge fdb replace 02:00:00:00:00:02 dev web0 master static
        tc qdisc add dev web0 root handle 1: htb default 20
        tc class add dev web0 parent 1: classid 1:20 htb rate 5mbit
        tc filter add dev web0 parent 1: protocol ip prio 5 u32 match ip dst 10.1.1.1/32 flowid 1:20
        ethtool -K web0 tx off
        sysctl -qw net.ipv4.conf.web0.rp_filter=2 net.ipv4.conf.web0.arp_ignore=1
        """,
    ),
    "Calico's": Ordinary(
        link=Link(inner="eth0", outer="cali0a1b2c", mac=MAC, addresses=("10.65.0.2/32", "fd65::2/128")),
        host="""
        ip link set cali0a1b2c address ee:ee:ee:ee:ee:ee
        sysctl -qw net.ipv4.conf.cali0a1b2c.proxy_arp=1 net.ipv4.neigh.cali0a1b2c.proxy_delay=0
        sysctl -qw net.ipv4.conf.cali0a1b2c.forwarding=1 net.ipv4.conf.cali0a1b2c.rp_filter=1
        ip addr add 169.254.1.1/32 dev cali0a1b2c
        ip route add 10.65.0.2/32 dev cali0a1b2c
        ip -6 route add fd65::2/128 dev cali0a1b2c
        """,
        inside="ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1",
    ),
    "ptp's and flannel's": Ordinary(
        link=Link(inner="eth0", outer="vethaabbccdd", mac=MAC),
        host="ip addr add 10.1.0.1/32 dev vethaabbccdd; ip route add 10.1.0.2/32 dev vethaabbccdd",
        inside="""
        ip addr add 10.1.0.2/24 dev eth0 noprefixroute
        ip route add 10.1.0.1/32 dev eth0 scope link src 10.1.0.2
        ip route add 10.1.0.0/24 via 10.1.0.1 src 10.1.0.2; ip route add default via 10.1.0.1
        """,
    ),
}


@pytest.mark.parametrize("mode", ["external", "empty"])
@pytest.mark.parametrize("name", ORDINARY)
def test_the_ordinary_migrates_without_a_line(
    host: Host, host_factory: Callable[[], Host], criu: Criu, images: Path, name: str, mode: str
) -> None:
    ordinary, target = ORDINARY[name], host_factory()
    for one in (host, target):
        one.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    container = host.container([ordinary.link])
    host.run("sh", "-ec", ordinary.host)
    container.run("sh", "-ec", ordinary.inside)
    before = network(host)
    args = ["--empty-ns", "net"] if mode == "empty" else []
    criu.dump(container, images, hook=HOOK, args=args)
    container.wait_unplugged()

    external = [] if mode == "empty" else [f"veth[eth0]:{ordinary.link.outer}"]
    outcome = criu.restore(target, images, external=external, hook=HOOK, args=args)

    assert warnings(outcome) == []
    after, outer = network(target), ordinary.link.outer
    assert after["links"][outer] == before["links"][outer]
    assert after["addresses"][outer] == before["addresses"][outer]
    through = [[route for route in found["routes"] if route.get("dev") == outer] for found in (before, after)]
    assert through[0] == through[1]
    shown = cli(
        target, "verify", "--pid", outcome.pid, "--images", images, *(("--mode", mode) if mode == "empty" else ())
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"equal: 1 veth ({images}/criu-veth.json)\n", "")
    outcome.container.kill()  # it has the mark of the host that it came from
