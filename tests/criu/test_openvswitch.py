"""Containers behind Open vSwitch, dumped and restored by CRIU: in userspace here, in the kernel where that has it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Client, Container, Criu, Host, Link, Outcome, Program, wait_for
from lab.cli import cli
from lab.criu import name_taken_meanwhile
from lab.frames import Tap
from lab.openvswitch import OpenVSwitch

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "hooks/criu-veth"
MAC = "02:00:00:00:00:02"
WEB = Link(inner="eth0", outer="web0", mac=MAC, addresses=("10.0.0.2/24",))
SLEEP = Program(argv=["sleep", "infinity"])
EVERYTHING = (
    *("tag=10", "trunks=20,30", "vlan_mode=native-untagged", "protected=false", 'external_ids:"a b"="c, d"'),
    *("other_config:e=f", "--", "set", "Interface", "web0", "external_ids:iface-id=lsp1"),
    *("ingress_policing_rate=900000", "ingress_policing_burst=90000", "lldp:enable=true", "ofport_request=42"),
)
SAID = "criu-veth: post-restore: eth0: web0 attached to"


@pytest.fixture(params=["netdev", pytest.param("system", marks=pytest.mark.kernel("openvswitch"))])
def switch(request: pytest.FixtureRequest, host: Host) -> OpenVSwitch:
    """Open vSwitch on the host, with the bridges obr0 and obr1."""
    found = OpenVSwitch(host, request.param)
    found.bridge("obr0")
    found.bridge("obr1")
    return found


@pytest.fixture
def web(host: Host, switch: OpenVSwitch) -> Container:
    """A server that is a port of obr0 with everything set."""
    container = host.container([WEB])
    without_checksums(container)
    switch.port("obr0", "web0", *EVERYTHING)
    return container


Plug = Callable[..., Container]


@pytest.fixture
def plug(host: Host, switch: OpenVSwitch) -> Plug:
    """Make another container with a port: a client, or one that only listens."""

    def make(ifname: str, address: str, bridge: str = "obr0", *columns: str) -> Container:
        container = host.container([Link(inner="eth0", outer=ifname, addresses=(address,))], SLEEP)
        without_checksums(container)
        switch.port(bridge, ifname, *columns)
        return container

    return make


def without_checksums(container: Container) -> None:
    """The userspace datapath hands packets on without the checksum that the sender has left to the device."""
    container.run("ethtool", "-K", "eth0", "tx", "off")


def dumped(criu: Criu, container: Container, images: Path) -> Outcome:
    outcome = criu.dump(container, images, hook=HOOK, tcp_established=True)
    container.wait_unplugged()
    return outcome


def restored(criu: Criu, host: Host, images: Path, **more: Any) -> Outcome:
    more = {"external": [WEB.external_detached], "links": [WEB], **more}
    return criu.restore(host, images, hook=HOOK, tcp_established=True, **more)


def configured(host: Host, text: str) -> None:
    host.path("/etc/criu/criu-veth.toml").write_text(text)


def test_all_of_it_comes_back_and_the_connection_goes_on(
    host: Host, switch: OpenVSwitch, web: Container, plug: Plug, criu: Criu, images: Path
) -> None:
    peer = plug("peer0", "10.0.0.1/24", "obr0", "tag=10")
    with Client(peer.pid, "10.0.0.2", 7000) as client:
        assert client.ask("hello") == "1 hello"
        before = json.loads(cli(host, "capture", "--pid", str(web.pid)).stdout)["veths"]
        assert before[0]["inner"]["features_off"] == ["tx-checksum-ip-generic", "tx-checksum-sctp"]
        dump = dumped(criu, web, images)
        assert dump.said("criu-veth:") == ["criu-veth: pre-dump: captured eth0: web0"]
        assert before[0]["outer"]["ovs"] == {
            "bridge": "obr0",
            "tag": 10,
            "trunks": [20, 30],
            "vlan_mode": "native-untagged",
            "external_ids": {"a b": "c, d"},
            "other_config": {"e": "f"},
            "interface_external_ids": {"iface-id": "lsp1"},
            "lldp": {"enable": "true"},
            "ingress_policing_rate": 900000,
            "ingress_policing_burst": 90000,
            "ofport_request": 42,
        }
        assert switch.ports("obr0") == ["peer0", "web0"]  # the record outlives the device

        back = restored(criu, host, images)
        assert f"{SAID} obr0, native-untagged, tag 10, trunks 20 30" in back.said()
        assert client.ask("again") == "2 again"
    after = json.loads(cli(host, "capture", "--pid", str(back.pid)).stdout)["veths"]
    assert after == before
    assert cli(host, "verify", "--pid", str(back.pid), "--images", str(images)).stdout.startswith("equal: 1 veth")
    assert switch.record("Interface", "web0")["ofport"] == 42
    made_in = str(os.stat(host.netns).st_ino)
    assert switch.record("Port", "web0")["external_ids"] == {
        "a b": "c, d",
        "criu-veth": "eth0",
        "criu-veth-netns": made_in,
    }


def test_onto_another_bridge_by_remap(
    host: Host, switch: OpenVSwitch, web: Container, plug: Plug, criu: Criu, images: Path
) -> None:
    """The record that the dump left on the old bridge goes."""
    peer = plug("peer0", "10.0.0.1/24", "obr1", "tag=10")
    dumped(criu, web, images)
    configured(host, '[remap]\nbridge = { obr0 = "obr1" }\n')
    back = restored(criu, host, images)
    assert f"{SAID} obr1, native-untagged, tag 10, trunks 20 30" in back.said()
    assert (switch.ports("obr0"), switch.ports("obr1")) == ([], ["peer0", "web0"])
    with Client(peer.pid, "10.0.0.2", 7000) as client:
        assert client.ask("hello") == "1 hello"


def test_back_and_forth_between_a_bridge_and_a_switch(
    host: Host, switch: OpenVSwitch, plug: Plug, criu: Criu, images: Path, tmp_path: Path
) -> None:
    """The mapping file may say another kind than was captured."""
    host.bridge("br0")
    container = host.container([Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))])
    without_checksums(container)
    peer = plug("peer0", "10.0.0.1/24", "obr0", "tag=10")
    dumped(criu, container, images)
    configured(host, '[[veth]]\ninner = "eth0"\novs = { bridge = "obr0", tag = 10 }\n')
    back = restored(criu, host, images).container
    with Client(peer.pid, "10.0.0.2", 7000) as client:
        assert client.ask("hello") == "1 hello"
    again = tmp_path / "again"
    dumped(criu, back, again)
    configured(host, '[[veth]]\ninner = "eth0"\nbridge = "br0"\n')
    restored(criu, host, again)
    assert host.link("web0")["master"] == "br0"
    assert "PROMISC" not in host.link("web0")["flags"]


def test_into_an_empty_network_namespace(
    host: Host, switch: OpenVSwitch, web: Container, plug: Plug, criu: Criu, images: Path
) -> None:
    """As runc restores: the hook makes the pair."""
    peer = plug("peer0", "10.0.0.1/24", "obr0", "tag=10")
    with Client(peer.pid, "10.0.0.2", 7000) as client:
        assert client.ask("hello") == "1 hello"
        dumped(criu, web, images)
        restored(criu, host, images, external=[], args=["--empty-ns", "net"])
        assert client.ask("again") == "2 again"
    assert switch.record("Port", "web0")["tag"] == 10


# An OCI createRuntime hook does this: it is called just before the action script.
MAKES_THE_PORT = """#!/bin/sh
exec </dev/null
[ "$CRTOOLS_SCRIPT_ACTION" = setup-namespaces ] || exit 0
set -e
ip link add theirs0 type veth peer name eth0 netns "$CRTOOLS_INIT_PID"
ovs-vsctl add-port obr1 theirs0 tag=7
ip link set theirs0 up
"""


def test_a_port_that_somebody_else_makes_is_left_alone(
    host: Host, switch: OpenVSwitch, web: Container, criu: Criu, images: Path
) -> None:
    dumped(criu, web, images)
    maker = images.parent / "maker"
    maker.write_text(MAKES_THE_PORT)
    maker.chmod(0o755)
    back = restored(criu, host, images, external=[], args=["--empty-ns", "net", "--action-script", str(maker)])
    assert back.said("criu-veth:")[0] == (
        "criu-veth: setup-namespaces: notice: eth0: is there already, made by somebody else: adopted"
    )
    assert (switch.ports("obr0"), switch.ports("obr1")) == ([], ["theirs0"])
    assert switch.record("Port", "theirs0")["tag"] == 7


def test_its_announcement_is_heard_in_its_vlan_alone(
    host: Host, switch: OpenVSwitch, web: Container, plug: Plug, criu: Criu, images: Path
) -> None:
    same, trunk, other = (
        plug("same0", "10.0.0.3/24", "obr0", "tag=10"),
        plug("trunk0", "10.0.0.4/24", "obr0", "trunks=10"),
        plug("other0", "10.0.0.5/24", "obr0", "tag=40"),
    )
    assert {same.alive, trunk.alive, other.alive} == {True}
    configured(host, "[announcements]\nrepeat = 2\ninterval = 0.2\n")
    dumped(criu, web, images)
    with Tap(host, "same0") as in_10, Tap(host, "trunk0") as tagged, Tap(host, "other0") as in_40:
        restored(criu, host, images)
        wait_for(lambda: [f for f in in_10.sent_by(MAC) if f[12:14] == b"\x08\x06"], "an ARP frame in VLAN 10")
        wait_for(lambda: [f for f in tagged.sent_by(MAC) if f[16:18] == b"\x08\x06"], "an ARP frame on the trunk")
        assert {frame[12:16] for frame in tagged.sent_by(MAC)} == {b"\x81\x00\x00\x0a"}
        assert in_40.sent_by(MAC) == []


def test_gc_after_the_restored_container_has_ended(
    host: Host, switch: OpenVSwitch, web: Container, criu: Criu, images: Path
) -> None:
    dumped(criu, web, images)
    back = restored(criu, host, images).container
    back.kill()
    back.wait_unplugged()
    assert switch.ports("obr0") == ["web0"]
    assert cli(host, "gc").stdout == "port web0 of Open vSwitch: removed, its device is gone\n"
    assert switch.ports("obr0") == []


def test_a_restore_that_fails_leaves_no_port(
    host: Host, switch: OpenVSwitch, web: Container, criu: Criu, images: Path
) -> None:
    dumped(criu, web, images)
    configured(host, '[[veth]]\ninner = "eth0"\naltnames = ["front"]\n')
    failed = restored(criu, host, images, args=name_taken_meanwhile(host, "front"), check=False)
    fault = 'eth0: web0 altname "front": File exists (EEXIST)'
    assert failed.said("criu-veth: error:") == [f"criu-veth: error: post-restore: {fault}"]
    assert switch.ports("obr0") == []
    host.wait_no_link("web0")
    configured(host, "")
    restored(criu, host, images)
    assert switch.ports("obr0") == ["web0"]
