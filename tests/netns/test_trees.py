"""Which veths of a process tree are captured, and that a restore acts in the network namespace of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from criu_veth import tree
from lab import Container, Host, Link, Program, snapshot, wait_for
from lab.nested import nested
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Restoring = Callable[..., StandIn]
FIRST = Link(inner="eth0", outer="web0", bridge="br0")
SECOND = Link(inner="eth1", outer="app0", bridge="br0")
BESIDE = (
    "eth1: in another network namespace than the first process's: comes back with --external veth[] or netdev[], not"
    " with --empty-ns net"
)
THREAD = """
import ctypes, threading
def alone():
    ctypes.CDLL(None).unshare(0x40000000)
    threading.Event().wait()
threading.Thread(target=alone).start()
"""


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the hook said at pre-dump, which went well."""
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("criu-veth: pre-dump: ") for line in done.stderr.splitlines()]


def test_every_namespace_of_the_tree(restoring: Restoring, bridged: Host, images: Path) -> None:
    container, child = nested(bridged, (FIRST,), (SECOND,))
    child.run("ip", "address", "add", "10.0.0.3/24", "dev", "eth1")
    child.sysctl("ipv4.conf.eth1.rp_filter", 2)

    assert said(restoring("").act("pre-dump", container)) == [f"notice: {BESIDE}", "captured eth0: web0, eth1: app0"]

    found = json.loads((images / "criu-veth.json").read_text())
    first, second = found["veths"]
    assert (found["version"], first.get("namespace"), second["namespace"]) == (2, None, 1)
    assert second["inner"]["addresses"][0] == {"address": "10.0.0.3/24"}
    assert second["inner"]["sysctl"]["ipv4.rp_filter"] == "2"
    assert second["outer"]["master"] == "br0"


def test_namespace_of_a_thread(restoring: Restoring, bridged: Host) -> None:
    container = bridged.container([FIRST], Program(argv=[sys.executable, "-I", "-S", "-c", THREAD]))
    path = wait_for(lambda: tree.paths_of(container.pid)[1:], "the thread's own network")[0]
    words = ("ip", "link", "add", "app0", "type", "veth", "peer", "name", "eth1", "netns", path.split("/")[4])
    bridged.run(*words)
    assert said(restoring("").act("pre-dump", container))[-1] == "captured eth0: web0, eth1: app0"


def test_one_name_twice(restoring: Restoring, bridged: Host) -> None:
    container, _ = nested(bridged, (FIRST,), (Link(inner="eth0", outer="app0", bridge="br0"),))
    assert said(restoring("").act("pre-dump", container)) == [
        "warning: eth0: two network namespaces of this container have a veth of that name to this host (web0 and app0),"
        " and CRIU's option veth[eth0] means both: a restore that brings the devices back fails; rename one of them"
        " before the dump",
        "captured eth0: web0",
    ]


def test_name_of_a_nested_container(restoring: Restoring, bridged: Host) -> None:
    """A container in the container has an eth0 as well, whose peer is a port of a bridge in there."""
    container, child = nested(bridged, (FIRST,), ())
    container.run("ip", "link", "add", "in0", "type", "veth", "peer", "name", "eth0", "netns", str(child.pid))
    assert sorted(said(restoring("").act("pre-dump", container))) == [
        "captured eth0: web0",
        "notice: eth0: its peer is in the container too, not touched",
        "notice: in0: its peer is in the container too, not touched",
        "warning: eth0: another network namespace of this container has a veth of that name that leads elsewhere, and"
        " CRIU's option veth[eth0] means both: a restore that brings the devices back fails; rename one of them before"
        " the dump",
    ]


def test_only_a_child_has_a_network_of_its_own(restoring: Restoring, bridged: Host) -> None:
    program = Program(argv=["sh", "-c", "unshare --net sleep infinity & exec sleep infinity"])
    container = Container(bridged, bridged.popen(*program.argv).pid)
    pid = wait_for(lambda: tree.paths_of(container.pid)[1:], "the child's own network")[0].split("/")[2]
    child = Container(bridged, int(pid))
    child.plug(FIRST, SECOND)
    try:
        assert said(restoring("").act("pre-dump", container)) == [
            "warning: eth0, eth1: in the network namespace of a child, while the first process is in this host's: CRIU"
            " dumps that and cannot restore it; dump the child, or give the first process a network namespace of its"
            " own",
            "notice: the container has no veth to the host",
        ]
    finally:
        child.kill()
        container.kill()


def test_pair_between_two_namespaces_of_the_tree(restoring: Restoring, bridged: Host) -> None:
    container, child = nested(bridged, (FIRST,), (SECOND,))
    container.run("ip", "link", "add", "in0", "type", "veth", "peer", "name", "in1", "netns", str(child.pid))
    assert sorted(said(restoring("").act("pre-dump", container))) == [
        "captured eth0: web0, eth1: app0",
        f"notice: {BESIDE}",
        "notice: in0: its peer is in the container too, not touched",
        "notice: in1: its peer is in the container too, not touched",
    ]


@pytest.mark.parametrize("named", [True, False])
def test_peer_in_a_third_namespace(
    restoring: Restoring, bridged: Host, host_factory: Callable[[], Host], named: bool
) -> None:
    """Under the number of a veth that this host has, too."""
    container = bridged.container([FIRST], Program(argv=["sleep", "infinity"]))
    other = host_factory()
    index = str(bridged.link("web0")["ifindex"])
    words = ("ip", "link", "add", "x0", "index", index, "type", "veth", "peer", "name", "eth9")
    other.run(*words, "index", "99", "netns", str(container.pid))
    if named:
        bridged.run("ip", "netns", "attach", "router", str(other.pid))
    where = 'the network namespace "router"' if named else "a network namespace without a name in /run/netns"
    assert said(restoring("").act("pre-dump", container)) == [
        f"warning: eth9: its peer is in {where}, neither the container's nor this host's, and is not captured: a"
        " restore with --external veth[eth9]:NAME makes it here; move it there afterwards: ip link set NAME netns"
        f" {'router' if named else 'PID'}",
        "captured eth0: web0",
    ]


def restored(restoring: Restoring, host: Host, mapping: str = "") -> tuple[StandIn, Container, Container]:
    """A restore at post-restore, with both pairs as CRIU makes them."""
    container, _ = nested(host, (FIRST,), (SECOND,))
    restore = restoring(mapping)
    said(restore.act("pre-dump", container))
    container.kill()
    host.wait_no_link("web0", "app0")
    container, child = nested(host, (), ())
    for action in ("pre-restore", "setup-namespaces", "post-setup-namespaces"):
        done = restore.act(action, *([] if action == "pre-restore" else [container]))
        assert done.returncode == 0, done.stderr
    make_pair(container, "eth0", "web0")
    make_pair(child, "eth1", "app0")
    for name in ("web0", "app0"):  # a queue is kept for good once a device has been up
        host.run("sh", "-ec", f"ip link set {name} up; ip link set {name} down")
    return restore, container, child


def test_put_back_in_each(restoring: Restoring, bridged: Host) -> None:
    restore, container, _ = restored(restoring, bridged)
    done = restore.act("post-restore", container)
    assert done.returncode == 0, done.stderr
    assert [bridged.link(name).get("master") for name in ("web0", "app0")] == ["br0", "br0"]


def test_namespace_that_is_not_there(restoring: Restoring, bridged: Host) -> None:
    """A pair of that name that lies inside is not the one, either."""
    restore, container, child = restored(restoring, bridged)
    child.run("ip", "link", "set", "eth1", "name", "eth9")
    child.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "in1")
    before = snapshot(bridged)
    done = restore.act("post-restore", container)
    assert (done.returncode, done.stderr) == (
        1,
        "criu-veth: error: post-restore: veth eth1: no process of the container is in a network namespace that has it"
        " (veths[1] of the state file)\n",
    )
    assert snapshot(bridged) == before


def test_a_fault_in_one_is_undone_in_all(restoring: Restoring, bridged: Host) -> None:
    mapping = '[[veth]]\ninner = "eth1"\nroutes = ["10.9.0.0/24"]\n'
    restore, container, _ = restored(restoring, bridged, mapping)
    bridged.run("ip", "route", "add", "10.9.0.0/24", "via", "10.0.0.9")
    before = snapshot(bridged)
    done = restore.act("post-restore", container)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "criu-veth: error: post-restore: eth1: app0 route 10.9.0.0/24: File exists (EEXIST)",
        ],
    )
    assert snapshot(bridged) == before
