"""Faults in what a capture leads to: more kinds of operations than a mapping file has, and devices that are made here.

As `test_faults`, but all operations in turn on one host: each has to leave it as the next one needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from criu_veth import execute, netlink, paths, program, runs, wire
from lab import Container, Host, Link, Program, snapshot
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Operation = tuple[Any, ...]

WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"), gateway="10.0.0.1")
DB = Link(inner="eth1", outer="db0", addresses=("10.1.0.2/32",), mtu=9000)

#: What is set up for the capture, so that every kind of operation is needed.
ON_THE_HOST = """
ip link set web0 alias "web, front" mtu 1400 address 02:12:34:56:78:9a txqueuelen 77 group 5 allmulticast on
ip link set web0 gso_max_size 32768
ip link property add dev web0 altname the-outer-end-of-the-web-server
ethtool -K web0 tx off
bridge link set dev web0 hairpin on learning off isolated on
bridge fdb add 02:00:00:00:00:99 dev web0 master static
ip neigh add 10.99.0.7 lladdr 02:00:00:00:00:97 dev web0 nud permanent
ip neigh add proxy 10.99.0.8 dev web0
tc qdisc add dev web0 root handle 1: htb default 20
tc class add dev web0 parent 1: classid 1:20 htb rate 5mbit
tc filter add dev web0 parent 1: protocol ip prio 5 u32 match ip dst 10.1.1.1/32 flowid 1:20
sysctl -qw net.ipv4.conf.db0.proxy_arp=1
ip address add 169.254.1.1/32 dev db0
ip address add fd07::1/64 dev db0 nodad
ip route add 10.1.0.2/32 dev db0
ip rule add iif db0 table 77 priority 100
ip -6 rule add oif db0 table 78 priority 101
"""
IN_THE_CONTAINER = """
ip link set eth0 alias inside txqueuelen 78
ip link property add dev eth0 altname the-inner-end-of-the-web-server
ethtool -K eth0 tx off
ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:95 dev eth0 nud permanent
sysctl -qw net.ipv4.conf.eth0.arp_ignore=1
"""

#: Kinds of operations that only look, or whose failure the kernel cannot be made to bring about.
NO_FAULT = {execute.PRESENT, execute.JUDGE, execute.JOURNAL, execute.SETTLE, execute.ANNOUNCE}

NOWHERE = bytearray(netlink.set_link(("IFLA_MTU", 1400)))
NOWHERE[netlink.INDEX_OFFSET : netlink.INDEX_OFFSET + 4] = wire.u32((1 << 31) - 1)
NO_FAMILY = wire.message(0x7FFF, 0, bytes(4))


@pytest.fixture
def captured(bridged: Host, hook: Path, images: Path) -> Path:
    """The images of a container with everything, captured and gone."""
    container = bridged.container([WEB, DB], Program(argv=["sleep", "infinity"]))
    bridged.run("sh", "-ec", ON_THE_HOST)
    container.run("sh", "-ec", IN_THE_CONTAINER)
    with StandIn(bridged, hook, images) as dump:
        done = dump.act("pre-dump", container)
    assert done.returncode == 0, done.stderr
    container.kill()
    container.wait_unplugged()
    for family, priority in (("-4", "100"), ("-6", "101")):
        bridged.run("ip", family, "rule", "del", "priority", priority)
    return images


def leaves(
    operations: tuple[Operation, ...], path: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], Operation]]:
    """Each operation with its place, those in groups too."""
    for number, operation in enumerate(operations):
        if operation[0] == execute.GROUP:
            yield from leaves(operation[-1], (*path, number))
        else:
            yield (*path, number), operation


def with_other(operations: tuple[Operation, ...], path: tuple[int, ...], other: Operation) -> tuple[Operation, ...]:
    """The operations with another one at this place."""
    first, *rest = path
    if rest:
        group = operations[first]
        other = (*group[:-1], with_other(group[-1], tuple(rest), other))
    return (*operations[:first], other, *operations[first + 1 :])


def spoilt(operation: Operation) -> tuple[Operation, str]:
    """The operation made to fail, and what the error says."""
    kind, ns = operation[0], operation[1]
    if kind in {execute.NETLINK, execute.QUERY}:
        generic = ns in {execute.HOST_GENERIC, execute.INNER_GENERIC}
        message = NO_FAMILY if generic else bytes(NOWHERE)
        said = "No such file or directory (ENOENT)" if generic else "No such device (ENODEV)"
        no_patch: Operation = ()
        text = operation[-1] or operation[6][-1]  # what nobody is told of has one for its undo
        return (kind, ns, message, no_patch, *operation[4:]), f"{text}: {said}"
    if kind == execute.SYSCTL:
        lost = (kind, ns, "ipv4/conf/nowhere/forwarding", *operation[3:])
        return lost, f"{operation[4]}: No such file or directory (ENOENT)"
    assert kind == execute.INDEX
    (_, *rest), *others = operation[5]
    return (*operation[:5], ((b"nowhere\0", *rest), *others), *operation[6:]), rest[2]


class Stage:
    """One stage of a restore whose program can be read and exchanged."""

    def __init__(self, restore: StandIn, container: Container, action: str) -> None:
        self.restore = restore
        self.container = container
        self.action = action
        self.file = container.host.path(f"/run/criu-veth/runs/{restore.run}/{action}")
        with self._here():
            found = program.operations(runs.Run(restore.run), action)
        assert found is not None
        self.slots, self.operations = found

    @contextmanager
    def _here(self) -> Iterator[None]:
        """`program` reads the host's /run as the test process sees it."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RUN_DIR", "PROGRAMS", "RUNS"):
                patch.setattr(paths, name, str(self.container.host.path(getattr(paths, name))))
            yield

    def write(self, operations: tuple[Operation, ...]) -> None:
        empty = program.Program("", (), (), (), {})
        self.file.unlink(missing_ok=True)
        self.file.write_bytes(program.encode(empty, {self.action: (self.slots, operations)}))

    def go(self) -> tuple[int, list[str]]:
        done = self.restore.act(self.action, self.container)
        return done.returncode, done.stderr.splitlines()

    def state(self) -> Any:
        """All that an undo has to give back: of the container, which CRIU kills, only what devices it has."""
        host, container = self.container.host, self.container
        sysctls = "grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/neigh /proc/sys/net/ipv6/conf 2>/dev/null || :"
        seen = {key: value for key, value in snapshot(host).items() if key != "programs"}
        for link in seen["links"].values():
            del link["qdisc"]  # of a device that is down, "noop" or what it had when it was up
        for name, words in (
            ("neighbours", ["neigh", "show", "nud", "permanent"]),
            ("proxies", ["neigh", "show", "proxy"]),
        ):
            seen[name] = host.ip(*words)
        seen["inside"] = [link["ifname"] for link in container.ip("link", "show")]
        seen["fdb"] = [entry for entry in host.bridge_json("fdb", "show") if "self" not in entry.get("flags", [])]
        seen["qdiscs"] = [qdisc for qdisc in host.tc_json("qdisc", "show") if qdisc["kind"] != "noqueue"]
        wanted = [line for line in host.run("sh", "-c", sysctls).stdout.splitlines() if "stable_secret" not in line]
        seen["sysctls"] = sorted(line for line in wanted if "/br" not in line)
        return seen


def fail_everywhere(stage: Stage, kinds: set[int]) -> None:
    """Have each operation fail in turn, then run them all."""
    places = [(path, operation) for path, operation in leaves(stage.operations) if operation[0] not in NO_FAULT]
    assert {operation[0] for _, operation in places} == kinds
    before = stage.state()
    for path, operation in places:
        other, fault = spoilt(operation)
        stage.write(with_other(stage.operations, path, other))
        assert stage.go() == (1, [f"criu-veth: error: {stage.action}: {fault}"])
        after = stage.state()
        assert after == before, f"after a fault in {operation[-1]}"
    stage.write(stage.operations)
    status, said = stage.go()
    assert status == 0, said
    assert stage.state() != before


def test_outer_ends(bridged: Host, hook: Path, captured: Path) -> None:
    """CRIU has made the pairs."""
    with StandIn(bridged, hook, captured) as restore:
        done = restore.act("pre-restore")
        assert (done.returncode, done.stderr) == (0, "")
        container = bridged.container((), Program(argv=["sleep", "infinity"]))
        for inner, outer in (("eth0", "x0"), ("eth1", "x1")):
            make_pair(container, inner, outer)
            bridged.run("ip", "link", "set", outer, "up")
            bridged.run("ip", "link", "set", outer, "down")
        stage = Stage(restore, container, "post-restore")
        described = [str(operation[-1]) for _, operation in leaves(stage.operations) if operation[0] <= execute.QUERY]
        for words in ("altname", "fdb", "neighbour", "qdisc", "class", "filter", "rule", "allmulti", "group"):
            assert any(f"web0 {words}" in text or f"db0 {words}" in text for text in described), words
        fail_everywhere(stage, {execute.NETLINK, execute.QUERY, execute.INDEX, execute.SYSCTL})


def test_pairs_that_are_made_here(bridged: Host, hook: Path, captured: Path) -> None:
    """CRIU brings nothing: `--empty-ns net`."""
    with StandIn(bridged, hook, captured, options=["--empty-ns", "net"]) as restore:
        done = restore.act("pre-restore")
        assert (done.returncode, done.stderr) == (0, "")
        container = bridged.container((), Program(argv=["sleep", "infinity"]))
        container.run("ip", "link", "set", "lo", "down")
        stage = Stage(restore, container, "setup-namespaces")
        fail_everywhere(stage, {execute.NETLINK, execute.INDEX, execute.SYSCTL})
