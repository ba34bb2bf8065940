"""After a restore, switches and neighbours know where the container is: frames as they pass the switch."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Container, Criu, Host, Link, Outcome, hook_processes, wait_for
from lab.frames import Tap
from lab.traffic import Talker, sink_report, traffic_server

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
MAC = "02:00:00:00:00:02"
WEB = Link(inner="eth0", outer="web0", bridge="br0", mac=MAC, addresses=("10.0.0.2/24", "fd00::2/64"))
BROADCAST, RAW_MAC = b"\xff" * 6, bytes.fromhex(MAC.replace(":", ""))
ALL_NODES = bytes.fromhex("333300000001")

#: Once again after the restore, and soon, so that the tests need not wait.
PACE = "[announcements]\nrepeat = 2\ninterval = 0.2\n"


class Segment:
    """A host on a switch; ``tap`` sees what comes out of the host, as the switch does."""

    def __init__(self, host: Host, switch: Host) -> None:
        self.host = host
        host.bridge("br0")
        switch.bridge("br0")
        switch.veth("port0", "uplink0", host, bridge="br0")
        host.run("ip", "link", "set", "uplink0", "master", "br0")
        self.switch = switch

    def tap(self) -> Tap:
        return Tap(self.switch, "port0")


@pytest.fixture
def segment(host_factory: Callable[[], Host]) -> Segment:
    return Segment(host_factory(), host_factory())


def restored(criu: Criu, container: Container, images: Path) -> Outcome:
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    return criu.restore(container.host, images, external=["veth[eth0]:web0"], hook=HOOK, links=[WEB])


def configured(host: Host, text: str) -> None:
    host.path("/etc/criu/criu-veth.toml").write_text(text)


def arp(frame: bytes) -> str | None:
    """An ARP frame in words, None for another."""
    if frame[12:14] != b"\x08\x06":
        return None
    kind = {1: "request", 2: "reply"}[int.from_bytes(frame[20:22], "big")]
    sender, target = socket.inet_ntoa(frame[28:32]), socket.inet_ntoa(frame[38:42])
    to = "broadcast" if frame[:6] == BROADCAST else frame[:6].hex(":")
    return f"{kind} of {frame[22:28].hex(':')} {sender} for {target} to {to}"


def advertisement(frame: bytes) -> str | None:
    """An unsolicited neighbour advertisement in words, None for another frame."""
    if frame[12:14] != b"\x86\xdd" or frame[20] != socket.IPPROTO_ICMPV6 or frame[54] != 136:
        return None
    address = socket.inet_ntop(socket.AF_INET6, frame[62:78])
    source = socket.inet_ntop(socket.AF_INET6, frame[22:38])
    override = bool(frame[58] & 0x20)
    assert frame[21] == 255, "receivers drop an advertisement with another hop limit"
    assert checksum_holds(frame[14:])
    to = "all nodes" if frame[:6] == ALL_NODES and frame[38:54].hex() == f"ff02{1:028x}" else frame[:6].hex(":")
    return f"{address} at {frame[80:86].hex(':')} from {source} to {to}, override {override}"


def checksum_holds(packet: bytes) -> bool:
    """Whether the ICMPv6 checksum is right: the sum over it and the pseudo header is all ones."""
    payload = packet[40:]
    data = packet[8:40] + len(payload).to_bytes(4, "big") + bytes([0, 0, 0, packet[6]]) + payload
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


ARP_REQUEST = f"request of {MAC} 10.0.0.2 for 10.0.0.2 to broadcast"
ARP_REPLY = f"reply of {MAC} 10.0.0.2 for 10.0.0.2 to broadcast"
ADVERTISED = f"fd00::2 at {MAC} from fd00::2 to all nodes, override True"


def said(frames: list[bytes]) -> list[str]:
    """What is announced, in order; other frames of the container, such as router solicitations, are left out."""
    words = [arp(frame) or advertisement(frame) for frame in frames]
    return [word for word in words if word and "fe80:" not in word]


def test_each_address_is_announced_and_again(segment: Segment, criu: Criu, images: Path) -> None:
    configured(segment.host, PACE)
    container = segment.host.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    with segment.tap() as tap:
        criu.restore(segment.host, images, external=["veth[eth0]:web0"], hook=HOOK)
        wait_for(lambda: len(said(tap.sent_by(MAC))) >= 9, "all announcements")
        wait_for(lambda: not hook_processes(segment.host), "the helper to end")
        assert sorted(said(tap.sent_by(MAC))) == sorted([ARP_REQUEST, ARP_REPLY, ADVERTISED] * 3)


def test_several_addresses_and_devices(segment: Segment, criu: Criu, images: Path) -> None:
    configured(segment.host, "[announcements]\nrepeat = 0\n")
    other = Link(inner="eth1", outer="db0", bridge="br0", mac="02:00:00:00:00:03", addresses=("10.0.1.2/24",))
    container = segment.host.container([WEB, other])
    container.run("ip", "address", "add", "10.0.0.3/24", "dev", "eth0")
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    with segment.tap() as tap:
        criu.restore(segment.host, images, external=["veth[eth0]:web0", "veth[eth1]:db0"], hook=HOOK)
        wait_for(lambda: len(said(tap.read())) >= 7, "all announcements")
        wait_for(lambda: not hook_processes(segment.host), "the helper to end")
        second = [word.replace("10.0.0.2", "10.0.0.3") for word in (ARP_REQUEST, ARP_REPLY)]
        assert sorted(said(tap.sent_by(MAC))) == sorted([ARP_REQUEST, ARP_REPLY, ADVERTISED, *second])
        assert sorted(said(tap.sent_by("02:00:00:00:00:03"))) == sorted(
            word.replace("10.0.0.2", "10.0.1.2").replace(MAC, "02:00:00:00:00:03") for word in (ARP_REQUEST, ARP_REPLY)
        )


def test_container_without_an_address_makes_its_port_known(segment: Segment, criu: Criu, images: Path) -> None:
    configured(segment.host, "[announcements]\nrepeat = 0\n")
    container = segment.host.container([Link(inner="eth0", outer="web0", bridge="br0", mac=MAC)])
    container.sysctl("ipv6.conf.eth0.disable_ipv6", 1)
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    with segment.tap() as tap:
        criu.restore(segment.host, images, external=["veth[eth0]:web0"], hook=HOOK)
        wait_for(lambda: tap.sent_by(MAC), "a frame")
        wait_for(lambda: not hook_processes(segment.host), "the helper to end")
        (frame,) = tap.sent_by(MAC)
    assert (frame[:6], frame[12:14]) == (BROADCAST, b"\x80\x35")
    entries = segment.switch.bridge_json("fdb", "show", "br", "br0")
    assert [entry["ifname"] for entry in entries if entry["mac"] == MAC] == ["port0"]


def test_silence_if_asked_for(segment: Segment, criu: Criu, images: Path) -> None:
    configured(segment.host, '[[veth]]\ninner = "eth0"\nannounce = false\n')
    container = segment.host.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    with segment.tap() as tap:
        outcome = criu.restore(segment.host, images, external=["veth[eth0]:web0"], hook=HOOK)
        assert not hook_processes(segment.host)
        # Frames come in the order in which they were sent: after this one, nothing can have come before it.
        segment.host.run("ip", "link", "set", "web0", "type", "bridge_slave", "flood", "on")
        marker = outcome.container
        with marker_socket(marker) as sender:
            sender.bind(("eth0", 0))
            sender.send(BROADCAST + RAW_MAC + b"\x88\xb5" + bytes(50))
        wait_for(lambda: [f for f in tap.sent_by(MAC) if f[12:14] == b"\x88\xb5"], "the marker")
        assert said(tap.sent_by(MAC)) == []
    assert not [line for line in outcome.said("criu-veth:") if "announced" in line]


def marker_socket(container: Container) -> socket.socket:
    from lab.netns import socket_in

    return socket_in(container.pid, socket.AF_PACKET, socket.SOCK_RAW)


@pytest.mark.parametrize("ipv6_off", [True, False])
def test_container_that_only_receives_is_found_on_another_host(
    host_factory: Callable[[], Host], criu: Criu, images: Path, ipv6_off: bool
) -> None:
    """Nothing it sends could tell the switch; without an announcement it stays in the dark for minutes."""
    source, target, switch, client = (host_factory() for _ in range(4))
    switch.bridge("br0")
    for number, host in enumerate((source, target, client)):
        switch.veth(f"port{number}", "uplink0", host, bridge="br0")
    for host in (source, target):
        host.bridge("br0")
        host.run("ip", "link", "set", "uplink0", "master", "br0")
    client.run("ip", "address", "add", "10.0.0.1/24", "dev", "uplink0")
    container = source.container([WEB], traffic_server())
    if ipv6_off:
        container.sysctl("ipv6.conf.all.disable_ipv6", 1)
        container.sysctl("ipv6.conf.default.disable_ipv6", 1)
    talker = Talker(client, "10.0.0.2", "sink")
    wait_for(lambda: sink_report(container)["received"] > 20, "datagrams")
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    back = criu.restore(target, images, external=["veth[eth0]:web0"], hook=HOOK).container

    before = sink_report(back)["received"]
    wait_for(lambda: sink_report(back)["received"] > before + 20, "datagrams again", deadline=3)
    assert talker.stop().error == ""


# --- the process that announces


def test_helper_holds_nothing_of_criu_and_ends_with_the_container(segment: Segment, criu: Criu, images: Path) -> None:
    configured(segment.host, "[announcements]\nrepeat = 100\ninterval = 60\n")
    container = segment.host.container([WEB])

    outcome = restored(criu, container, images)

    netns = os.stat(f"/proc/{outcome.pid}/ns/net").st_ino
    (helper,) = hook_processes(segment.host)
    wait_for(lambda: descriptors(helper).count("/dev/null") >= 3, "the helper to let go")
    assert os.getsid(helper) == helper
    log = str(images / "restore.log")  # for what it finds out later
    assert not [name for name in descriptors(helper) if "pipe:" in name or (str(images) in name and name != log)]
    assert f"net:[{netns}]" not in descriptors(helper)
    outcome.container.kill()
    wait_for(lambda: not Path(f"/proc/{helper}").exists() or not hook_processes(segment.host), "the helper to end")
    segment.host.wait_no_link("web0", deadline=5)


def descriptors(pid: int) -> list[str]:
    return [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]


def test_criu_does_not_wait_for_the_helper(segment: Segment, criu: Criu, images: Path) -> None:
    """Whoever reads CRIU's output to its end, as a runtime does, sees that end at once."""
    configured(segment.host, "[announcements]\nrepeat = 100\ninterval = 60\n")
    outcome = restored(criu, segment.host.container([WEB]), images)  # the lab reads stdout and stderr to their end
    assert outcome.returncode == 0
    assert hook_processes(segment.host)
