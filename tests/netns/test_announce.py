"""What is announced, without CRIU: devices on top of an inner end, links that come up late, and whole frames."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from criu_veth import announce
from lab import Container, Host, wait_for
from lab.frames import Tap
from lab.standin import StandIn, make_pair

FILE = '[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\n[announcements]\nrepeat = 0\n'
MAC = bytes.fromhex("020000000002")
BROADCAST = b"\xff" * 6


def announced(frames: list[bytes]) -> set[tuple[str, str]]:
    """MAC address and IPv4 address of each gratuitous ARP."""
    return {
        (frame[6:12].hex(":"), socket.inet_ntoa(frame[28:32]))
        for frame in frames
        if frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]
    }


@pytest.fixture
def paired(container: Container, restoring: Callable[..., StandIn]) -> StandIn:
    """A restore just before post-restore, with a pair as CRIU makes it."""
    standin = restoring(FILE)
    assert standin.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "tmp0")
    container.run("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    return standin


def mac_of(container: Container, ifname: str) -> str:
    return str(container.ip("link", "show", "dev", ifname)[0]["address"])


def test_device_on_top_announces_its_own_address(bridged: Host, container: Container, paired: StandIn) -> None:
    container.run("ip", "link", "add", "link", "eth0", "name", "top0", "type", "macvlan", "mode", "bridge")
    container.run("ip", "address", "add", "10.0.0.9/24", "dev", "top0")
    container.run("ip", "link", "set", "top0", "up")
    with Tap(bridged, "br0") as tap:
        assert paired.act("post-restore", container).returncode == 0
        wanted = {(mac_of(container, "eth0"), "10.0.0.2"), (mac_of(container, "top0"), "10.0.0.9")}
        wait_for(lambda: announced(tap.read()) == wanted, "both announcements", deadline=5)


@pytest.mark.kernel("vlan")
def test_vlan_device_is_announced_with_its_tag(bridged: Host, container: Container, paired: StandIn) -> None:
    """CRIU cannot dump one; where the network is not CRIU's business, a runtime may have made it."""
    container.run("ip", "link", "add", "link", "eth0", "name", "eth0.7", "type", "vlan", "id", "7")
    container.run("ip", "address", "add", "10.7.0.2/24", "dev", "eth0.7")
    container.run("ip", "link", "set", "eth0.7", "up")
    with Tap(bridged, "br0") as tap:
        assert paired.act("post-restore", container).returncode == 0
        tagged = bytes.fromhex("8100 0007 0806")
        wait_for(lambda: [frame for frame in tap.read() if frame[12:18] == tagged], "a tagged ARP", deadline=5)


def test_device_that_is_down_holds_up_nothing(bridged: Host, container: Container, paired: StandIn) -> None:
    container.run("ip", "link", "add", "link", "eth0", "name", "top0", "type", "macvlan", "mode", "bridge")
    container.run("ip", "address", "add", "10.0.0.9/24", "dev", "top0")
    with Tap(bridged, "br0") as tap:
        assert paired.act("post-restore", container).returncode == 0
        wait_for(lambda: announced(tap.read()), "an announcement", deadline=5)
        assert announced(tap.read()) == {(mac_of(container, "eth0"), "10.0.0.2")}


def test_nothing_is_announced_when_the_restore_fails(
    bridged: Host, container: Container, restoring: Callable[..., StandIn]
) -> None:
    standin = restoring(FILE.replace('bridge = "br0"\n', 'bridge = "br0"\naltnames = ["front"]\n'))
    assert standin.act("pre-restore").returncode == 0
    bridged.run("ip", "link", "property", "add", "dev", "br1", "altname", "front")
    make_pair(container, "eth0", "tmp0")
    container.run("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    mac = mac_of(container, "eth0")
    with Tap(bridged, "br0") as tap:
        assert standin.act("post-restore", container).returncode == 1
        assert [frame for frame in announced(tap.read()) if frame[0] == mac] == []


# --- whole frames


def test_gratuitous_arp() -> None:
    address = bytes([10, 0, 0, 2])
    start = BROADCAST + MAC + bytes.fromhex("0806 0001 0800 06 04")
    assert announce.gratuitous_arp(MAC, address) == [
        start + bytes.fromhex("0001") + MAC + address + bytes(6) + address,
        start + bytes.fromhex("0002") + MAC + address + BROADCAST + address,
    ]


def test_reverse_arp() -> None:
    assert announce.reverse_arp(MAC) == (
        BROADCAST + MAC + bytes.fromhex("8035 0001 0800 06 04 0003") + MAC + bytes(4) + MAC + bytes(4)
    )


def test_neighbour_advertisement() -> None:
    frame = announce.neighbour_advertisement(MAC, socket.inet_pton(socket.AF_INET6, "fd00::2"))
    assert frame == bytes.fromhex(
        "333300000001 020000000002 86dd"
        "60000000 0020 3a ff fd000000000000000000000000000002 ff020000000000000000000000000001"
        "88 00 5a98 20000000 fd000000000000000000000000000002 0201 020000000002"
    )


def test_duplicate_probe() -> None:
    frame = announce.duplicate_probe(MAC, socket.inet_pton(socket.AF_INET6, "fd00::12:3456"))
    assert frame[:14] == bytes.fromhex("3333ff123456 020000000002 86dd")
    assert frame[22:38] == bytes(16), "a probe comes from no address"
    assert frame[38:54] == socket.inet_pton(socket.AF_INET6, "ff02::1:ff12:3456")
    assert (frame[54], frame[62:]) == (135, socket.inet_pton(socket.AF_INET6, "fd00::12:3456"))
