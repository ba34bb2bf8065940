"""IPv6 across a restore: addresses are usable when sockets are bound to them, and are what they were."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from criu_veth import announce, netlink
from lab import Container, Criu, Host, Link, Outcome, Program, scaled, wait_for
from lab.cli import cli
from lab.container import PYTHON
from lab.frames import Tap
from lab.traffic import Talker, traffic_server

pytestmark = pytest.mark.vm

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
MAC = "02:00:00:00:00:02"
WEB = Link(inner="eth0", outer="web0", bridge="br0", mac=MAC, addresses=("10.0.0.2/24",))
EXTERNAL = ["veth[eth0]:web0"]

#: What CRIU is told in each of the three ways.
WAYS = {
    "external": ["--external", "veth[eth0]:web0"],
    "ready": ["--external", "netdev[eth0]:cvready0"],
    "empty": ["--empty-ns", "net"],
}


@pytest.fixture
def bridged(host: Host) -> Host:
    """A host with br0 (10.0.0.1/24, fd00::1/64)."""
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    return host


def plain(container: Container, *addresses: str) -> None:
    """Add addresses that have been through duplicate address detection, without waiting for it."""
    container.sysctl("ipv6.conf.eth0.accept_dad", 0)
    container.run("sh", "-ec", "ip link set eth0 down; ip link set eth0 up")  # for the link-local one
    for address in addresses:
        container.run("ip", "-6", "address", "add", *address.split(), "dev", "eth0")
    container.sysctl("ipv6.conf.eth0.accept_dad", 1)
    wait_for(lambda: not [a for a in ipv6(container) if a.get("tentative")], "the kernel to look at them")


def ipv6(container: Container) -> list[dict[str, Any]]:
    """The IPv6 addresses of eth0 as `ip` shows them, without lifetimes that run down."""
    found: list[dict[str, Any]] = [
        address for link in container.ip("-6", "address", "show", "dev", "eth0") for address in link["addr_info"]
    ]
    return found


def stable(addresses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Addresses without the seconds that they have left."""
    return [{key: value for key, value in address.items() if not key.endswith("_life_time")} for address in addresses]


def restored(criu: Criu, host: Host, images: Path, way: str = "external", *, check: bool = True) -> Outcome:
    return criu.restore(
        host, images, external=(), args=WAYS[way], hook=HOOK, tcp_established=True, check=check, links=[WEB]
    )


def dumped(criu: Criu, container: Container, images: Path) -> None:
    criu.dump(container, images, hook=HOOK, tcp_established=True)
    container.wait_unplugged()


@pytest.mark.parametrize("way", WAYS)
def test_established_connection_goes_on(bridged: Host, criu: Criu, images: Path, way: str) -> None:
    container = bridged.container([WEB], traffic_server())
    plain(container, "fd00::2/64")
    before = stable(ipv6(container))
    talker = Talker(bridged, "fd00::2")
    talker.wait_answered()

    dumped(criu, container, images)
    back = restored(criu, bridged, images, way).container

    talker.wait_answered()
    seen = talker.stop()
    assert (seen.error, seen.wrong, seen.lost) == ("", "", 0)
    assert stable(ipv6(back)) == before


# CRIU itself cannot restore a TCP connection over such an address: it binds without the scope (EINVAL).
BOUND_TO_LINK_LOCAL = """
import socket, time
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
while True:
    try:
        sock.bind(("fe80::ff:fe00:2", 7000, 0, socket.if_nametoindex("eth0")))
        break
    except OSError:
        time.sleep(0.01)
number = 0
while True:
    data, peer = sock.recvfrom(100)
    number += 1
    sock.sendto(b"%d %s" % (number, data), peer)
"""


def test_socket_bound_to_the_link_local_address(bridged: Host, criu: Criu, images: Path) -> None:
    """Every device has such an address; only a look into the images tells that it matters."""
    container = bridged.container([WEB], Program(argv=[PYTHON, "-I", "-S", "-c", BOUND_TO_LINK_LOCAL]))
    plain(container)
    tentative = ["-6", "address", "show", "dev", "br0", "tentative"]
    wait_for(lambda: not any(link for link in bridged.ip(*tentative)), "the client's own link-local address")
    with bridged.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect(("fe80::ff:fe00:2", 7000, 0, bridged.link("br0")["ifindex"]))
        first = int(wait_for(lambda: asked(client), "an answer").split()[0])

        criu.dump(container, images, hook=HOOK)
        container.wait_unplugged()
        restored(criu, bridged, images)

        assert int(wait_for(lambda: asked(client), "another answer").split()[0]) > first


def asked(client: socket.socket) -> bytes:
    try:
        client.send(b"hello")
        return client.recv(100)
    except OSError:
        return b""


def test_kept_duplicate_address_detection_is_warned_of(bridged: Host, criu: Criu, images: Path) -> None:
    """Stock CRIU's behaviour, if asked for: it cannot bind the sockets of the connection."""
    bridged.path("/etc/criu/criu-veth.toml").write_text('[[veth]]\ninner = "eth0"\nipv6_dad = "keep"\n')
    container = bridged.container([WEB])
    plain(container, "fd00::2/64")
    client = bridged.connect("fd00::2")
    assert client.ask("before") == "1 before"
    dumped(criu, container, images)

    outcome = restored(criu, bridged, images, check=False)

    assert outcome.said("criu-veth:") == [
        'criu-veth: pre-restore: warning: veth eth0: ipv6_dad = "keep": a socket that is bound to one of its IPv6'
        " addresses cannot be restored before duplicate address detection is over, and CRIU does not wait"
    ]
    assert "Can't bind inet socket back: Cannot assign requested address" in outcome.log


KINDS = {
    "noprefixroute": ["fd00::2/64 noprefixroute"],
    "deprecated": ["fd00::2/64", "fd00::3/64 valid_lft 1000 preferred_lft 0"],
    "lifetimes": ["fd00::2/64 valid_lft 1000 preferred_lft 500"],
    "peer": ["fd00::2 peer fd00::80/128"],
    "home address": ["fd00::2/64 home"],
    "metric": ["fd00::2/64 metric 77"],
    "several, in the order of source address selection": ["fd00::2/64", "fd00::3/64", "fd00::4/64", "fd01::2/64"],
    "fifty": ["fd00::2/64", *(f"fd00:1::{number:x}/64" for number in range(1, 50))],
}


@pytest.mark.parametrize("kind", KINDS)
def test_address_is_what_it_was(bridged: Host, criu: Criu, images: Path, kind: str) -> None:
    container = bridged.container([WEB])
    plain(container, *KINDS[kind])
    if kind in ("noprefixroute", "peer"):
        container.run("ip", "-6", "route", "add", "fd00::/64", "dev", "eth0", "metric", "9")
    if kind == "peer":
        bridged.run("ip", "-6", "route", "add", "fd00::2/128", "dev", "br0")
    before, routes = ipv6(container), container.ip("-6", "route", "show")
    dad = container.sysctl("ipv6.conf.eth0.accept_dad"), container.sysctl("ipv6.conf.eth0.dad_transmits")
    client = bridged.connect("fd00::2")
    assert client.ask("before") == "1 before"

    dumped(criu, container, images)
    back = restored(criu, bridged, images).container

    assert client.ask("after") == "2 after"
    after = ipv6(back)
    assert stable(after) == stable(before)
    for then, now in zip(before, after, strict=True):
        for key in ("valid_life_time", "preferred_life_time"):
            assert then[key] - scaled(10) <= now[key] <= then[key]
    assert by_text(back.ip("-6", "route", "show")) == by_text(routes)
    assert (back.sysctl("ipv6.conf.eth0.accept_dad"), back.sysctl("ipv6.conf.eth0.dad_transmits")) == dad


def by_text(routes: list[dict[str, Any]]) -> list[str]:
    return sorted(str({key: value for key, value in route.items() if key != "expires"}) for route in routes)


def test_temporary_address(bridged: Host, criu: Criu, images: Path) -> None:
    """The kernel takes "temporary" from nobody but itself: it comes back as an address with lifetimes."""
    container = bridged.container([WEB])
    container.sysctl("ipv6.conf.eth0.use_tempaddr", 2)
    plain(container, "fd00::2/64 mngtmpaddr valid_lft 5000 preferred_lft 4000")
    temporary = wait_for(lambda: [a["local"] for a in ipv6(container) if a.get("temporary")], "a temporary address")[0]
    wait_for(lambda: not [a for a in ipv6(container) if a.get("tentative")], "duplicate address detection")
    bridged.run("ip", "-6", "route", "add", f"{temporary}/128", "dev", "br0")
    client = bridged.connect(temporary)
    assert client.ask("before") == "1 before"

    dumped(criu, container, images)
    back = restored(criu, bridged, images).container

    assert client.ask("after") == "2 after"
    (found,) = [a for a in ipv6(back) if a["local"] == temporary]
    assert 0 < found["preferred_life_time"] < 5000
    assert "fd00::2" in [a["local"] for a in ipv6(back)]


def test_container_with_ipv6_only(bridged: Host, criu: Criu, images: Path) -> None:
    container = bridged.container([Link(inner="eth0", outer="web0", bridge="br0", mac=MAC)])
    plain(container, "fd00::2/64")
    client = bridged.connect("fd00::2")
    assert client.ask("before") == "1 before"

    dumped(criu, container, images)
    container.wait_unplugged()
    restored(criu, bridged, images)

    assert client.ask("after") == "2 after"


@pytest.mark.parametrize("way", WAYS)
def test_container_with_ipv6_off(bridged: Host, criu: Criu, images: Path, way: str) -> None:
    container = bridged.container([WEB])
    container.sysctl("ipv6.conf.all.disable_ipv6", 1)
    container.sysctl("ipv6.conf.default.disable_ipv6", 1)
    assert ipv6(container) == []
    client = bridged.connect("10.0.0.2")
    assert client.ask("before") == "1 before"

    dumped(criu, container, images)
    outcome = restored(criu, bridged, images, way)

    assert client.ask("after") == "2 after"
    assert not [line for line in outcome.said("criu-veth:") if "IPv6" in line]
    assert ipv6(outcome.container) == []
    assert outcome.container.sysctl("ipv6.conf.eth0.disable_ipv6") == "1"


def test_address_in_use_elsewhere_is_found_in_the_background(
    host_factory: Callable[[], Host], criu: Criu, images: Path
) -> None:
    """The application does not wait for the answer; it is in the log some seconds later."""
    host, other = host_factory(), host_factory()
    host.bridge("br0", "fd00::1/64")
    other.veth("eth0", "port0", host)
    host.run("ip", "link", "set", "port0", "master", "br0")
    container = host.container([Link(inner="eth0", outer="web0", bridge="br0", mac=MAC)])
    plain(container, "fd00::2/64")
    dumped(criu, container, images)
    other.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    other.run("ip", "-6", "address", "add", "fd00::2/64", "dev", "eth0", "nodad")

    with Tap(host, "br0"):
        restored(criu, host, images)

    log = images / "restore.log"
    wanted = "criu-veth: warning: eth0: fd00::2 is in use by 02:00:00:00:00:99 too"
    wait_for(lambda: wanted in log.read_text(errors="replace").splitlines(), wanted, deadline=15)


# --- what a router has advertised (CRIU issue 177: CRIU brings such a route back for ever)

ROUTER, ROUTER_MAC = socket.inet_pton(socket.AF_INET6, "fe80::1"), bytes.fromhex("0200000000aa")


def advertise(host: Host, lifetime: int) -> None:
    """Be a router on br0 that is one for so many seconds."""
    body = bytes([64, 0]) + lifetime.to_bytes(2, "big") + bytes(8)
    all_nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
    frame = announce._icmpv6(ROUTER_MAC, bytes.fromhex("333300000001"), ROUTER, all_nodes, 134, body)
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.sendto(frame, ("br0", 0))


def advertised(container: Container) -> list[dict[str, Any]]:
    """The default routes by way of that router."""
    return [route for route in container.ip("-6", "route", "show", "default") if route.get("gateway") == "fe80::1"]


@pytest.mark.parametrize("way", WAYS)
def test_advertised_route_has_the_time_that_it_had_left(bridged: Host, criu: Criu, images: Path, way: str) -> None:
    container = bridged.container([WEB])
    plain(container)
    container.sysctl("ipv6.conf.eth0.accept_ra", 2)
    advertise(bridged, 600)
    (before,) = wait_for(lambda: advertised(container), "the advertised route")
    assert 590 < before["expires"] <= 600

    dumped(criu, container, images)
    back = restored(criu, bridged, images, way).container

    (after,) = advertised(back)
    same = ("dst", "gateway", "protocol", "metric")
    assert [after[key] for key in same] == [before[key] for key in same]
    verify = cli(bridged, "verify", "--pid", str(back.pid), "--images", str(images), "--mode", way)
    assert verify.stdout.startswith("equal: 1 veth"), verify.stdout
    if not netlink.renews_added_routes():
        assert "expires" not in after, "the next advertisement would end it"
        return
    assert 580 < after["expires"] <= before["expires"]
    advertise(bridged, 1800)  # the same router is still there: what is left is what it says now
    wait_for(lambda: [route["expires"] > 1700 for route in advertised(back)] == [True], "the route to be refreshed")


@pytest.mark.kernel_since("6.9", "routes of routers that are not there any more go")
def test_route_of_a_router_that_is_not_there_any_more_goes(bridged: Host, criu: Criu, images: Path) -> None:
    container = bridged.container([WEB])
    container.run(*"ip -6 route add default via fe80::1 dev eth0 proto ra expires 4".split())
    dumped(criu, container, images)

    back = restored(criu, bridged, images).container

    assert advertised(back)
    wait_for(lambda: not [route for route in advertised(back) if route["expires"] > 0], "the route to expire")
