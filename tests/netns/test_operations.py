"""Everything that a mapping may ask for, asked for and read back with iproute2."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from criu_veth.wire import find_attr
from lab import Container, Host
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Restoring = Callable[..., StandIn]


def restored(restore: StandIn, container: Container, *, outer: str = "x0", bridge: str | None = None) -> list[str]:
    """Go through the stages of a restore with one pair, eth0 and `outer`; return what post-restore said."""
    before = restore.act("pre-restore")
    assert (before.returncode, before.stdout, before.stderr) == (0, "", "")
    for action in ("setup-namespaces", "post-setup-namespaces"):
        early = restore.act(action, container)
        assert (early.returncode, early.stdout, early.stderr) == (0, "", "")
    make_pair(container, "eth0", outer, bridge)
    after = restore.act("post-restore", container)
    assert (after.returncode, after.stdout) == (0, "")
    for action in ("network-unlock", "pre-resume", "post-resume"):
        late = restore.act(action, container)
        assert (late.returncode, late.stdout, late.stderr) == (0, "", "")
    return said(after.stderr)


def said(text: str) -> list[str]:
    """What post-restore said it did to outer ends; it announces inner ones as well, which is not the matter here."""
    lines = [line.removeprefix("criu-veth: post-restore: ") for line in text.splitlines()]
    assert lines.pop().startswith("container announced")
    return lines


def port(host: Host, ifname: str) -> dict[str, Any]:
    """The bridge port's attributes, as `ip -d link` has them."""
    return dict(host.link(ifname)["linkinfo"]["info_slave_data"])


def addresses(host: Host, ifname: str) -> list[str]:
    """The addresses of a device, without what the kernel makes by itself."""
    (link,) = host.ip("address", "show", "dev", ifname)
    found = [f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]]
    return [address for address in found if not address.startswith("fe80:")]


def test_the_least(bridged: Host, container: Container, restoring: Restoring) -> None:
    done = restored(restoring('mappings = ["veth[eth0]:web0"]'), container)
    assert done == ["eth0: outer end named web0", "eth0: web0 up"]
    link = bridged.link("web0")
    assert "UP" in link["flags"]
    assert "master" not in link
    assert link["linkinfo"]["info_kind"] == "veth"
    assert not bridged.has_link("x0")


def test_attached_and_named(bridged: Host, restoring: Restoring) -> None:
    container = bridged.container()
    done = restored(restoring('mappings = ["veth[eth0]:web0@br0"]'), container)
    assert done == ["eth0: outer end named web0", "eth0: web0 attached to br0", "eth0: web0 up"]
    link = bridged.link("web0")
    assert link["master"] == "br0"
    assert "UP" in link["flags"]
    container.run("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    assert bridged.connect("10.0.0.2").ask("hello") == "1 hello"


def test_named_by_criu(bridged: Host, container: Container, restoring: Restoring) -> None:
    restored(restoring('mappings = ["veth[eth0]:web0@br0"]'), container, outer="web0")
    assert bridged.link("web0")["master"] == "br0"


def test_named_attached_and_set_up_by_criu(bridged: Host, container: Container, restoring: Restoring) -> None:
    done = restored(restoring('mappings = ["veth[eth0]:web0@br0"]'), container, outer="web0", bridge="br0")
    assert done == ["eth0: outer end named web0", "eth0: web0 attached to br0", "eth0: web0 up"]
    assert bridged.link("web0")["master"] == "br0"


def test_attached_elsewhere_by_criu(bridged: Host, container: Container, restoring: Restoring) -> None:
    """What the mapping file says wins."""
    restored(restoring('mappings = ["veth[eth0]:web0@br0"]'), container, outer="x0", bridge="br1")
    link = bridged.link("web0")
    assert link["master"] == "br0"
    assert "UP" in link["flags"]


def test_device_settings(bridged: Host, container: Container, restoring: Restoring) -> None:
    done = restored(
        restoring(
            """
            [[veth]]
            inner = "eth0"
            outer = "web0"
            mac = "02:AB:00:00:00:01"
            mtu = 1400
            txqueuelen = 500
            alias = "web, ünd {inner}"
            altnames = ["veth-web-front-with-a-long-name", "w:0"]
            """
        ),
        container,
    )
    assert done == [
        "eth0: outer end named web0",
        "eth0: web0 mac 02:ab:00:00:00:01",
        "eth0: web0 mtu 1400",
        "eth0: web0 txqueuelen 500",
        'eth0: web0 alias "web, ünd eth0"',
        'eth0: web0 altname "veth-web-front-with-a-long-name"',
        'eth0: web0 altname "w:0"',
        "eth0: web0 up",
    ]
    link = bridged.link("web0")
    assert (link["address"], link["mtu"], link["txqlen"]) == ("02:ab:00:00:00:01", 1400, 500)
    assert link["ifalias"] == "web, ünd eth0"
    assert link["altnames"] == ["veth-web-front-with-a-long-name", "w:0"]


@pytest.mark.parametrize("alias", ["", "x", "x" * 255, "ü" * 127])
def test_alias_of_any_length(bridged: Host, container: Container, restoring: Restoring, alias: str) -> None:
    restored(restoring(f'[[veth]]\ninner = "eth0"\nouter = "web0"\nalias = "{alias}"'), container)
    assert bridged.link("web0").get("ifalias", "") == alias


#: Flag of the mapping file, its value there, the key of `ip -d link` and the value there; none is a new port's own.
FLAGS: list[tuple[str, str, str, object]] = [
    ("priority", "9", "priority", 9),
    ("cost", "77", "cost", 77),
    ("hairpin", "true", "hairpin", True),
    ("guard", "true", "guard", True),
    ("root_block", "true", "root_block", True),
    ("fastleave", "true", "fastleave", True),
    ("learning", "false", "learning", False),
    ("flood", "false", "flood", False),
    ("mcast_flood", "false", "mcast_flood", False),
    ("bcast_flood", "false", "bcast_flood", False),
    ("mcast_to_unicast", "true", "mcast_to_unicast", True),
    ("mcast_router", "2", "multicast_router", 2),
    ("proxy_arp", "true", "proxy_arp", True),
    ("proxy_arp_wifi", "true", "proxy_arp_wifi", True),
    ("neigh_suppress", "true", "neigh_suppress", True),
    ("isolated", "true", "isolated", True),
    ("locked", "true", "locked", True),
    ("group_fwd_mask", "8", "group_fwd_mask", "0x8"),
    ("vlan_tunnel", "true", "vlan_tunnel", True),
]

#: The same that Debian 12's ip does not show: number of the attribute (linux/if_link.h), its bytes, and a new port's.
UNSHOWN = [
    pytest.param(
        *("mcast_max_groups", "11", 42, struct.pack("=I", 11), bytes(4)),
        marks=pytest.mark.kernel_since("6.3", "limits of a port's multicast groups"),
    ),
    pytest.param(
        *("neigh_vlan_suppress", "true", 43, b"\1", b"\0"),
        marks=pytest.mark.kernel_since("6.4", "neighbour suppression by VLAN"),
    ),
]


@pytest.mark.parametrize(("flag", "value", "key", "shown"), FLAGS, ids=[flag for flag, *_ in FLAGS])
def test_port_flag(
    bridged: Host, container: Container, restoring: Restoring, flag: str, value: str, key: str, shown: object
) -> None:
    bridged.veth("plain0", "plain1", bridge="br0")
    plain = port(bridged, "plain0")
    assert plain.get(key) != shown
    done = restored(
        restoring(f'[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\nport = {{ {flag} = {value} }}'), container
    )
    assert f"eth0: web0 port {flag} {int({'true': '1', 'false': '0'}.get(value, value))}" in done
    after = port(bridged, "web0")
    assert after[key] == shown
    others = {name for name in plain if plain[name] != after[name]}
    ours = {"no", "id", "designated_port", "state", "forward_delay_timer", "hold_timer", "message_age_timer"}
    assert others - ours <= {key, "group_fwd_mask_str", "fastleave", "fast_leave", "mcast_fast_leave"}


def attribute(host: Host, ifname: str, number: int) -> bytes | None:
    """IFLA_LINKINFO, IFLA_INFO_SLAVE_DATA, `number` of a link, asked of the kernel in so many bytes."""
    name = ifname.encode() + b"\0"
    attr = struct.pack("=HH", 4 + len(name), 3) + name + bytes(-len(name) % 4)
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attr
    with host.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), 18, 1, 1, 0) + body)
        answer = sock.recv(1 << 16)
    return find_attr(answer, 32, (18, 5, number))


@pytest.mark.parametrize(("flag", "value", "number", "after", "before"), UNSHOWN)
def test_port_flag_that_ip_does_not_show(
    bridged: Host,
    container: Container,
    restoring: Restoring,
    flag: str,
    value: str,
    number: int,
    after: bytes,
    before: bytes,
) -> None:
    bridged.veth("plain0", "plain1", bridge="br0")
    assert attribute(bridged, "plain0", number) == before
    restored(
        restoring(f'[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\nport = {{ {flag} = {value} }}'), container
    )
    assert attribute(bridged, "web0", number) == after


@pytest.mark.kernel_since("6.2", "ports with mab")
def test_port_flags_together(bridged: Host, container: Container, restoring: Restoring) -> None:
    """`mab` is only taken on a port that is locked and learns, so the order matters."""
    restored(
        restoring(
            """
            [defaults]
            bridge = "br0"
            port = { isolated = true, flood = true }
            [[veth]]
            inner = "eth0"
            outer = "web0"
            port = { mab = true, locked = true, learning = true, isolated = false }
            """
        ),
        container,
    )
    flags = port(bridged, "web0")
    assert (flags["locked"], flags["learning"], flags["isolated"]) == (True, True, False)
    assert attribute(bridged, "web0", 40) == b"\1", "mab"


def test_routed_without_a_bridge(bridged: Host, container: Container, restoring: Restoring) -> None:
    done = restored(
        restoring(
            """
            [[veth]]
            inner = "eth0"
            outer = "cali0"
            addresses = ["169.254.1.1/32", "10.7.0.1/24", "fd07::1/64"]
            routes = ["10.98.0.0/24 via 10.99.0.2", "10.99.0.2/32", "10.97.0.0/24 metric 7 table 100", "fd99::/64"]
            sysctl = { "ipv4.proxy_arp" = 1, "ipv6.forwarding" = "1", "ipv4.neigh.base_reachable_time_ms" = 4000 }
            """
        ),
        container,
    )
    assert done == [
        "eth0: outer end named cali0",
        "eth0: cali0 sysctl ipv4.proxy_arp = 1",
        "eth0: cali0 sysctl ipv6.forwarding = 1",
        "eth0: cali0 sysctl ipv4.neigh.base_reachable_time_ms = 4000",
        "eth0: cali0 address 169.254.1.1/32",
        "eth0: cali0 address 10.7.0.1/24",
        "eth0: cali0 address fd07::1/64",
        "eth0: cali0 up",
        "eth0: cali0 route 10.99.0.2/32",
        "eth0: cali0 route 10.97.0.0/24 metric 7 table 100",
        "eth0: cali0 route fd99::/64",
        "eth0: cali0 route 10.98.0.0/24 via 10.99.0.2",
    ]
    assert addresses(bridged, "cali0") == ["169.254.1.1/32", "10.7.0.1/24", "fd07::1/64"]
    assert bridged.sysctl("ipv4.conf.cali0.proxy_arp") == "1"
    assert bridged.sysctl("ipv6.conf.cali0.forwarding") == "1"
    assert bridged.sysctl("ipv4.neigh.cali0.base_reachable_time_ms") == "4000"
    assert bridged.sysctl("ipv4.conf.all.proxy_arp") == "0"
    routes = {route["dst"]: route for route in bridged.ip("route", "show", "dev", "cali0")}
    assert routes["10.99.0.2"]["scope"] == "link"
    assert routes["10.98.0.0/24"]["gateway"] == "10.99.0.2"
    (tabled,) = bridged.ip("route", "show", "table", "100")
    assert (tabled["dst"], tabled["dev"], tabled["metric"]) == ("10.97.0.0/24", "cali0", 7)
    assert "fd99::/64" in [route["dst"] for route in bridged.ip("-6", "route", "show", "dev", "cali0")]


def test_route_by_a_gateway_on_link(bridged: Host, container: Container, restoring: Restoring) -> None:
    text = '[[veth]]\ninner = "eth0"\nouter = "web0"\n'
    restored(restoring(f'{text}routes = ["10.99.0.0/24 via 192.0.2.1 onlink src 10.0.0.1 scope global"]'), container)
    (route,) = bridged.ip("route", "show", "dev", "web0")
    assert (route["dst"], route["gateway"], route["flags"], route["prefsrc"]) == (
        "10.99.0.0/24", "192.0.2.1", ["onlink"], "10.0.0.1",
    )  # fmt: skip


def test_route_beside_another_of_a_different_metric(bridged: Host, container: Container, restoring: Restoring) -> None:
    """The kernel keeps both, so neither is in the other's way."""
    bridged.run("ip", "route", "add", "10.99.0.0/24", "via", "10.0.0.9")
    bridged.run("ip", "route", "add", "fd99::/64", "dev", "br0", "metric", "1000")
    text = '[[veth]]\ninner = "eth0"\nouter = "web0"\n'
    restored(restoring(f'{text}routes = ["10.99.0.0/24 metric 50", "fd99::/64"]'), container)
    assert [route["dev"] for route in bridged.ip("route", "show", "10.99.0.0/24")] == ["br0", "web0"]
    assert {route["dev"] for route in bridged.ip("-6", "route", "show", "fd99::/64")} == {"br0", "web0"}


def test_two_veths_on_two_bridges(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring('mappings = ["eth0:web0@br0", "eth1:db0@br1"]')
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth1", "x1")
    make_pair(container, "eth0", "x0")
    done = restore.act("post-restore", container)
    assert (done.returncode, said(done.stderr)) == (
        0,
        [
            "eth0: outer end named web0",
            "eth0: web0 attached to br0",
            "eth0: web0 up",
            "eth1: outer end named db0",
            "eth1: db0 attached to br1",
            "eth1: db0 up",
        ],
    )
    for inner, outer, bridge in (("eth0", "web0", "br0"), ("eth1", "db0", "br1")):
        link = bridged.link(outer)
        assert (link["master"], link["link_index"]) == (bridge, container.ip("link", "show", inner)[0]["ifindex"])


def test_veth_without_a_mapping_is_left_alone(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring('mappings = ["eth0:web0@br0"]')
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    make_pair(container, "eth1", "x1")
    before = bridged.link("x1")
    done = restore.act("post-restore", container)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == "criu-veth: post-restore: notice: eth1: left alone, no mapping names it"
    assert bridged.link("x1") == before


def test_devices_of_other_kinds_are_no_strays(bridged: Host, container: Container, restoring: Restoring) -> None:
    container.run("ip", "link", "add", "br9", "type", "bridge")
    done = restored(restoring('mappings = ["eth0:web0@br0"]'), container)
    assert done[0] == "eth0: outer end named web0"


def test_placeholders(bridged: Host, container: Container, restoring: Restoring) -> None:
    bridged.run("hostname", "node7")
    restored(restoring('[[veth]]\ninner = "eth0"\nouter = "{hostname}-{inner}"\nalias = "of {image}"'), container)
    assert bridged.link("node7-eth0")["ifalias"] == "of images"
