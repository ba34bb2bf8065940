"""A tree with several network namespaces: every one is captured, put back, announced and compared."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path

import pytest

from criu_veth import tree
from lab import Container, Criu, Host, Link, wait_for
from lab.cli import cli
from lab.frames import Tap
from lab.nested import nested, restored_child

pytestmark = pytest.mark.vm

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
FIRST = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",), outer_args=("alias", "first"))
SECOND = Link(
    inner="eth1", outer="app0", bridge="br0", addresses=("10.0.0.3/24",), mtu=1400, outer_args=("alias", "second")
)
BOTH = (FIRST, SECOND)
EXTERNAL = ("veth[eth0]:web0", "veth[eth1]:app0")
BESIDE = (
    "criu-veth: pre-dump: notice: eth1: in another network namespace than the first process's: comes back with"
    " --external veth[] or netdev[], not with --empty-ns net"
)


@pytest.fixture
def bridged(host: Host) -> Host:
    """A host with br0 (10.0.0.1/24, fd00::1/64)."""
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    return host


def with_ipv6(child: Container) -> None:
    """Give the child's eth1 an address that has been through duplicate address detection."""
    child.sysctl("ipv6.conf.eth1.accept_dad", 0)
    child.run("ip", "-6", "address", "add", "fd00::3/64", "dev", "eth1")
    child.sysctl("ipv6.conf.eth1.accept_dad", 1)
    wait_for(lambda: not child.ip("-6", "address", "show", "dev", "eth1", "tentative"), "the kernel to look at it")


def dumped(criu: Criu, host: Host, container: Container, images: Path) -> list[str]:
    said = criu.dump(container, images, hook=HOOK, tcp_established=True).said("criu-veth: ")
    host.wait_no_link("web0", "app0")
    return said


def outer_ends(host: Host) -> list[tuple[object, ...]]:
    found = [host.link(name) for name in ("web0", "app0")]
    return [(end["address"], end["mtu"], end.get("ifalias"), end.get("master"), "UP" in end["flags"]) for end in found]


def test_every_namespace_comes_back(bridged: Host, criu: Criu, images: Path) -> None:
    container, child = nested(bridged, (FIRST,), (SECOND,))
    with_ipv6(child)
    before = outer_ends(bridged)
    clients = [bridged.connect("10.0.0.2"), bridged.connect("10.0.0.3", 7001), bridged.connect("fd00::3", 7001)]
    counts = [int(client.ask("before").split()[0]) for client in clients]

    assert dumped(criu, bridged, container, images) == [BESIDE, "criu-veth: pre-dump: captured eth0: web0, eth1: app0"]
    options = cli(bridged, "options", "--images", images, "--no-action-script")
    assert shlex.split(options.stdout) == ["--external", EXTERNAL[0], "--external", EXTERNAL[1]]
    with Tap(bridged, "br0") as tap:
        done = criu.restore(bridged, images, external=EXTERNAL, hook=HOOK, tcp_established=True, links=BOTH)
        wait_for(lambda: announced(tap) >= {"10.0.0.2", "10.0.0.3"}, "announcements of both")

    settled = done.said("criu-veth: post-setup-namespaces: eth1: ")
    assert settled == ["criu-veth: post-setup-namespaces: eth1: IPv6 addresses usable at once: 2"]
    assert outer_ends(bridged) == before
    assert [int(client.ask("after").split()[0]) > count for client, count in zip(clients, counts, strict=True)] == (
        [True] * 3
    )
    assert verified(bridged, done.container, images) == (0, f"equal: 2 veths ({images}/criu-veth.json)\n")
    bridged.run("ip", "link", "set", "app0", "nomaster")
    assert verified(bridged, done.container, images) == (
        1,
        "veths[eth1].outer.master: wanted br0, found nothing\n",
    )
    restored_child(done.container).run("ip", "link", "set", "eth1", "name", "eth9")
    status, text = verified(bridged, done.container, images)
    assert (status, text.splitlines()) == (
        1,
        ["veths[eth1]: wanted, but not there", "veths[eth9]: there, but not wanted"],
    )


def announced(tap: Tap) -> set[str]:
    """The IPv4 addresses that were said to be whose: the sender's is the one that is asked for."""
    arp = [frame for frame in tap.read() if frame[12:14] == b"\x08\x06"]
    return {socket.inet_ntoa(frame[28:32]) for frame in arp if frame[28:32] == frame[38:42]}


def verified(host: Host, container: Container, images: Path) -> tuple[int, str]:
    done = cli(host, "verify", "--pid", container.pid, "--images", images)
    return done.returncode, done.stdout


def test_version_of_the_state_file(bridged: Host, criu: Criu, images: Path) -> None:
    """A reader that knows of one network namespace only would look for eth1 in the first process's."""
    container, _ = nested(bridged, (FIRST,), (SECOND,))
    dumped(criu, bridged, container, images)
    found = json.loads((images / "criu-veth.json").read_text())
    assert (found["version"], [veth.get("namespace") for veth in found["veths"]]) == (2, [None, 1])


def test_moved_in_ready(bridged: Host, criu: Criu, images: Path) -> None:
    container, _ = nested(bridged, (FIRST,), (SECOND,))
    before = outer_ends(bridged)
    dumped(criu, bridged, container, images)
    external = ("netdev[eth0]:cvready0", "netdev[eth1]:cvready1")
    done = criu.restore(bridged, images, external=external, hook=HOOK, links=BOTH, tcp_established=True)
    assert outer_ends(bridged) == before
    assert verified(bridged, done.container, images)[0] == 0


def test_empty_network_namespaces(bridged: Host, criu: Criu, images: Path) -> None:
    """What the hook cannot make is named before anything is restored; the rest comes back."""
    container, _ = nested(bridged, (FIRST,), (SECOND,))
    dumped(criu, bridged, container, images)
    done = criu.restore(bridged, images, external=(), args=["--empty-ns", "net"], hook=HOOK, links=[FIRST])
    assert done.said("criu-veth: pre-restore: ") == [
        "criu-veth: pre-restore: warning: veth eth1: it was in another network namespace than the first process's,"
        " which --empty-ns net leaves empty: it does not come back"
    ]
    assert bridged.link("web0")["master"] == "br0"
    assert not bridged.has_link("app0")
    assert verified(bridged, done.container, images) == (1, "veths[eth1]: wanted, but not there\n")


def test_pair_inside_the_container(bridged: Host, criu: Criu, images: Path) -> None:
    """Its ends are no one's business here, whatever the host has under the same numbers."""
    container = bridged.container([FIRST])
    container.run("ip", "link", "add", "in0", "index", "77", "type", "veth", "peer", "name", "in1", "index", "78")
    bridged.run("ip", "link", "add", "other0", "index", "77", "type", "veth", "peer", "name", "other1", "index", "78")
    said = criu.dump(container, images, hook=HOOK).said("criu-veth: ")
    container.wait_unplugged()
    assert sorted(said) == [
        "criu-veth: pre-dump: captured eth0: web0",
        "criu-veth: pre-dump: notice: in0: its peer is in the container too, not touched",
        "criu-veth: pre-dump: notice: in1: its peer is in the container too, not touched",
    ]
    done = criu.restore(bridged, images, external=EXTERNAL[:1], hook=HOOK, links=[FIRST])
    assert {link["ifname"] for link in done.container.ip("link", "show")} == {"lo", "eth0", "in0", "in1"}
    assert done.said("criu-veth: post-restore: notice: ") == []
    assert "master" not in bridged.link("other0")


def test_paths_of_a_tree(bridged: Host) -> None:
    container, child = nested(bridged, (), ())
    assert tree.paths_of(container.pid) == [
        f"/proc/{container.pid}/ns/net",
        f"/proc/{child.pid}/task/{child.pid}/ns/net",
    ]
