"""VLANs of a bridge port: asked for, read back with iproute2, refused beforehand, and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Host, Link, Program, wait_for
from lab.frames import Tap
from lab.iproute import parsed
from lab.standin import StandIn, make_pair

from .test_faults import Run
from .test_operations import restored

pytestmark = pytest.mark.kernel("vlan-filtering")

Restoring = Callable[..., StandIn]


@pytest.fixture
def filtering(bridged: Host) -> Host:
    """The host with br0 telling VLANs apart; it gives each new port VLAN 1."""
    bridged.run("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
    return bridged


def mapping(vlan: str, more: str = "") -> str:
    return f'[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\nvlan = {vlan}\n{more}\n'


def vlans(host: Host, ifname: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """First and last VLAN and flags of each entry that ``bridge vlan`` has of a port; Linux 6.1 loses some with -d."""
    found = parsed(host.run("bridge", "-j", "-compressvlans", "vlan", "show", "dev", ifname).stdout)
    entries: list[dict[str, Any]] = found[0]["vlans"] if found else []
    return [(one["vlan"], one.get("vlanEnd", one["vlan"]), tuple(one.get("flags", ()))) for one in entries]


PVID = ("PVID", "Egress Untagged")


@pytest.mark.parametrize(
    ("vlan", "expected", "said"),
    [
        (
            '{ pvid = 10, untagged = [10], tagged = [20, "30-39"] }',
            [(10, 10, PVID), (20, 20, ()), (30, 39, ())],
            "vlan pvid 10, untagged 10, tagged 20 30-39",
        ),
        (
            '{ pvid = 12, untagged = ["10-14"], tagged = [1] }',
            [(1, 1, ()), (10, 11, ("Egress Untagged",)), (12, 12, PVID), (13, 14, ("Egress Untagged",))],
            "vlan pvid 12, untagged 10-14, tagged 1",
        ),
        ("{ pvid = 4094, tagged = [4094] }", [(4094, 4094, ("PVID",))], "vlan pvid 4094, tagged 4094"),
        ('{ tagged = ["1-4094"] }', [(1, 4094, ())], "vlan tagged 1-4094"),
        ("{}", [], None),
    ],
)
@pytest.mark.parametrize("attached", [None, "br0"], ids=["by the hook", "by CRIU"])
def test_exactly_these(
    filtering: Host,
    container: Container,
    restoring: Restoring,
    vlan: str,
    expected: list[tuple[int, int, tuple[str, ...]]],
    said: str | None,
    attached: str | None,
) -> None:
    done = restored(restoring(mapping(vlan)), container, outer="web0", bridge=attached)

    assert vlans(filtering, "web0") == expected
    assert done == [
        "eth0: outer end named web0",
        "eth0: web0 attached to br0",
        *([f"eth0: web0 {said}"] if said else []),
        "eth0: web0 in no other vlan",
        "eth0: web0 up",
    ]


def test_every_second_one_of_all(filtering: Host, container: Container, restoring: Restoring) -> None:
    """The longest message that there can be."""
    restored(restoring(mapping(f"{{ tagged = {list(range(2, 4095, 2))} }}")), container)
    assert vlans(filtering, "web0") == [(vlan, vlan, ()) for vlan in range(2, 4095, 2)]


def test_left_to_the_bridge(filtering: Host, container: Container, restoring: Restoring) -> None:
    restored(restoring(mapping('"default"')), container)
    assert vlans(filtering, "web0") == [(1, 1, PVID)]


def test_two_ports_of_which_one_has_those_of_all(filtering: Host, container: Container, restoring: Restoring) -> None:
    text = '[defaults]\nbridge = "br0"\nvlan = { pvid = 7, untagged = [7] }\n'
    text += (
        '[[veth]]\ninner = "eth0"\nouter = "web0"\n[[veth]]\ninner = "eth1"\nouter = "db0"\nvlan = { tagged = [8] }\n'
    )
    restore = restoring(text)
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    make_pair(container, "eth1", "x1")
    assert restore.act("post-restore", container).returncode == 0
    assert (vlans(filtering, "web0"), vlans(filtering, "db0")) == ([(7, 7, PVID)], [(8, 8, ())])


# --- before anything is done


FILTERING_OFF = (
    'criu-veth: error: pre-restore: veth eth0: bridge "br0" does not filter VLANs; switch that on:'
    " ip link set br0 type bridge vlan_filtering 1\n"
)


def test_bridge_that_does_not_filter(bridged: Host, restoring: Restoring) -> None:
    restore = restoring(mapping("{ tagged = [7] }"))
    done = restore.act("pre-restore")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", FILTERING_OFF)

    bridged.run(*FILTERING_OFF.rpartition("switch that on: ")[2].split())
    done = restore.act("pre-restore")
    assert (done.returncode, done.stderr) == (0, "")


def test_filtering_that_was_switched_off_meanwhile(filtering: Host, restoring: Restoring) -> None:
    """A program that was made for a filtering bridge is not run on one that is none."""
    restore = restoring(mapping("{ tagged = [7] }"))
    assert restore.act("pre-restore").returncode == 0
    filtering.run("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "0")
    done = restore.act("pre-restore")
    assert (done.returncode, done.stderr) == (1, FILTERING_OFF)


# --- undone


@pytest.mark.parametrize("bridge", [None, "br0", "br1"])
def test_fault_after_the_vlans(filtering: Host, container: Container, restoring: Restoring, bridge: str | None) -> None:
    """The port leaves; where CRIU had attached it, it goes back and has what the bridge gives a new port."""
    restore = restoring(mapping("{ pvid = 10, untagged = [10] }", "port = { hairpin = true }\nannounce = false"))
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0", bridge)
    if bridge is None:
        filtering.run("ip", "link", "set", "x0", "up")
        filtering.run("ip", "link", "set", "x0", "down")
    run = Run(restore, container)
    before = run.state(), vlans(filtering, "x0")
    texts = [operation[-1] for operation in run.operations]
    assert texts[-5:] == [
        "eth0: web0 attached to br0",
        "eth0: web0 vlan pvid 10, untagged 10",
        "eth0: web0 in no other vlan",
        "eth0: web0 port hairpin 1",
        "eth0: web0 up",
    ]
    for index in range(len(texts) - 5, len(texts)):
        spoilt, fault = run.spoilt(index)
        run.replace({index: spoilt})
        assert run.go() == (1, [f"criu-veth: error: post-restore: {fault}"])
        assert (run.state(), vlans(filtering, "x0")) == before
    run.replace({})
    assert run.go()[0] == 0
    assert vlans(filtering, "web0") == [(10, 10, PVID)]


# --- announced where it belongs


@pytest.mark.parametrize(("pvid", "hears", "deaf"), [(10, "in10", "in20"), (20, "in20", "in10")])
def test_announced_in_its_vlan(
    filtering: Host, container: Container, restoring: Restoring, pvid: int, hears: str, deaf: str
) -> None:
    """What comes in without a tag is in the port's own VLAN by then, and goes nowhere else."""
    for number in (10, 20):
        filtering.veth(f"p{number}", f"in{number}", bridge="br0")
        filtering.run("bridge", "vlan", "del", "dev", f"p{number}", "vid", "1")
        filtering.run("bridge", "vlan", "add", "dev", f"p{number}", "vid", str(number), "pvid", "untagged")
    filtering.veth("trunk", "intrunk", bridge="br0")
    filtering.run("bridge", "vlan", "add", "dev", "trunk", "vid", "10-20", "master")
    text = mapping(f"{{ pvid = {pvid}, untagged = [{pvid}] }}", "[announcements]\nrepeat = 0")
    restore = restoring(text)
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    container.run("ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
    mac = container.ip("link", "show", "dev", "eth0")[0]["address"]
    arp, tagged = b"\x08\x06", b"\x81\x00" + pvid.to_bytes(2, "big") + b"\x08\x06"

    with Tap(filtering, hears) as here, Tap(filtering, deaf) as there, Tap(filtering, "intrunk") as trunk:
        assert restore.act("post-restore", container).returncode == 0
        wait_for(lambda: [f for f in here.sent_by(mac) if f[12:14] == arp], "an ARP without a tag")
        wait_for(lambda: [f for f in trunk.sent_by(mac) if f[12:18] == tagged], "an ARP with the tag")
        assert there.sent_by(mac) == []
        assert [f for f in trunk.sent_by(mac) if f[12:16] != tagged[:4]] == []


def test_a_port_with_every_vlan_there_is(filtering: Host, restoring: Restoring, images: Path) -> None:
    """No two of them in one range: a dump takes them all, and a restore takes what was captured."""
    plugged = filtering.container([Link(inner="eth0", outer="web0", bridge="br0")], Program(argv=["sleep", "infinity"]))
    lines = [f"vlan add vid {n} dev web0{' untagged' if n % 2 else ''}" for n in range(2, 4095)]  # 1 is there
    filtering.run("bridge", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))
    restore = restoring("")

    done = restore.act("pre-dump", plugged)

    assert (done.returncode, done.stderr) == (0, "criu-veth: pre-dump: captured eth0: web0\n")
    (veth,) = json.loads((images / "criu-veth.json").read_text())["veths"]
    assert veth["outer"]["vlan"] == {"pvid": 1, "untagged": [*range(1, 4095, 2)], "tagged": [*range(2, 4095, 2)]}
    plugged.kill()
    plugged.wait_unplugged()
    prepared = restore.act("pre-restore")
    assert (prepared.returncode, prepared.stderr) == (0, "")
