"""A fault in every single operation: the error names it, and the host and the outer end are as they were before.

The programs are the hook's own, with one message exchanged for one that the kernel refuses for certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from criu_veth import execute, netlink, paths, program, runs, wire
from lab import Container, snapshot, wait_for
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Restoring = Callable[..., StandIn]

EVERYTHING = """
[defaults]
announce = false
[[veth]]
inner = "eth0"
outer = "web0"
bridge = "br0"
mac = "02:00:00:00:00:01"
mtu = 1400
txqueuelen = 500
alias = "web, front"
altnames = ["front", "web-front"]
addresses = ["10.7.0.1/24", "fd07::1/64"]
routes = ["10.99.0.0/24", "fd99::/64", "10.98.0.0/24 via 10.99.0.9"]
sysctl = { "ipv4.proxy_arp" = 1, "ipv6.accept_ra" = 0 }
port = { hairpin = true, isolated = true, learning = false, cost = 7, priority = 9, mcast_router = 2 }
[[veth]]
inner = "eth1"
outer = "db0"
bridge = "br1"
mtu = 1300
"""

#: How many operations that is: 6 that look, 22 for eth0, 4 for eth1, and to set down what gets a MAC address, or each
#: where the kernel renames nothing that is up. Another number fails each test, so that no operation goes without its
#: fault.
COUNT = 33 if netlink.renames_what_is_up() else 34

REFUSED = "Invalid argument (EINVAL): mtu less than device minimum"
GONE = "No such device (ENODEV)"


class Run:
    """One restore that is about to do post-restore: its program can be read and exchanged."""

    def __init__(self, restore: StandIn, container: Container) -> None:
        self.restore = restore
        self.container = container
        self.host = container.host
        self.file = self.host.path(f"/run/criu-veth/runs/{restore.run}/post-restore")
        with self._here():
            found = program.operations(runs.Run(restore.run), "post-restore")
        assert found is not None
        self.slots, self.operations = found

    @contextmanager
    def _here(self) -> Iterator[None]:
        """`program` reads the host's /run as the test process sees it."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RUN_DIR", "PROGRAMS", "RUNS"):
                patch.setattr(paths, name, str(self.host.path(getattr(paths, name))))
            yield

    def replace(self, changed: dict[int, tuple[Any, ...]]) -> None:
        """Write the program anew, with these operations in place of those at the same index."""
        operations = tuple(changed.get(index, operation) for index, operation in enumerate(self.operations))
        empty = program.Program("", (), (), (), {})
        self.file.unlink()
        self.file.write_bytes(program.encode(empty, {"post-restore": (self.slots, operations)}))

    def outer_slot(self) -> int:
        """The slot that holds the ifindex of the first outer end: where the first message has it filled in."""
        first = next(operation for operation in self.operations if operation[0] == execute.NETLINK)
        return int(first[3][0][1])

    def impossible_mtu(self) -> tuple[bytes, tuple[tuple[int, int], ...]]:
        """A message that the kernel refuses, and where the ifindex goes."""
        return netlink.set_link(("IFLA_MTU", 1)), ((netlink.INDEX_OFFSET, self.outer_slot()),)

    def spoilt(self, index: int) -> tuple[tuple[Any, ...], str]:
        """The operation at `index` made to fail, and what the error says."""
        operation = self.operations[index]
        kind = operation[0]
        if kind == execute.NETLINK:
            message, patches = self.impossible_mtu()
            text = operation[7] or operation[6][-1]  # what nobody is told of is named by its undo
            return (*operation[:2], message, patches, *operation[4:]), f"{text}: {REFUSED}"
        if kind == execute.QUERY:
            no_patch: tuple[object, ...] = ()
            return (*operation[:2], netlink.get_link("nowhere"), no_patch, *operation[4:]), f"{operation[6]}: {GONE}"
        if kind == execute.SYSCTL:
            gone = (*operation[:2], "ipv4/conf/nowhere/forwarding", *operation[3:])
            return gone, f"{operation[4]}: No such file or directory (ENOENT)"
        assert kind == execute.INDEX
        (name, *rest), *others = operation[5]
        assert name == b"eth0\0"
        lost = (*operation[:5], ((b"eth9\0", *rest), *others), *operation[6:])
        return lost, "veth eth0: the container has no device of that name (veth[0])"

    def go(self) -> tuple[int, list[str]]:
        done = self.restore.act("post-restore", self.container)
        assert done.stdout == ""
        return done.returncode, done.stderr.splitlines()

    def state(self) -> Any:
        """All that may not have changed: the host, its ports and per-device sysctls."""
        find = "grep -r . /proc/sys/net/ipv4/conf/x? /proc/sys/net/ipv6/conf/x? 2>/dev/null | grep -v stable_secret"
        return (
            snapshot(self.host),
            self.host.bridge_json("link", "show"),
            sorted(self.host.run("sh", "-c", find).stdout.splitlines()),
        )


def forwards(container: Container, ifname: str) -> bool:
    """Whether the bridge has heard of the port's carrier, which it does a moment after it was set up."""
    return bool(container.host.bridge_json("link", "show", "dev", ifname)[0]["state"] == "forwarding")


def begin(restoring: Restoring, container: Container, text: str, bridge: str | None = None) -> Run:
    restore = restoring(text)
    assert restore.act("pre-restore").returncode == 0
    for inner, outer in (("eth0", "x0"), ("eth1", "x1")):
        make_pair(container, inner, outer, bridge)
        if bridge is None:  # up once, so that it has the queue that a device keeps
            container.host.run("ip", "link", "set", outer, "up")
            container.host.run("ip", "link", "set", outer, "down")
        else:
            wait_for(lambda name=outer: forwards(container, name), f"{outer} to forward")  # type: ignore[misc]
    return Run(restore, container)


@pytest.mark.parametrize("index", range(COUNT))
def test_fault_in_one_operation(container: Container, restoring: Restoring, index: int) -> None:
    run = begin(restoring, container, EVERYTHING)
    assert len(run.operations) == COUNT
    before = run.state()
    spoilt, fault = run.spoilt(index)
    run.replace({index: spoilt})
    assert run.go() == (1, [f"criu-veth: error: post-restore: {fault}"])
    assert run.state() == before
    run.replace({})
    status, said = run.go()
    assert status == 0, said


@pytest.mark.parametrize("bridge", ["br0", "br1"])
def test_fault_at_the_end_where_criu_has_attached(container: Container, restoring: Restoring, bridge: str) -> None:
    """The outer ends go back to the bridge and the state that CRIU gave them, not to none."""
    run = begin(restoring, container, EVERYTHING, bridge)
    before = run.state()
    assert run.host.link("x0")["master"] == bridge
    last = len(run.operations) - 1
    spoilt, fault = run.spoilt(last)
    run.replace({last: spoilt})
    assert run.go() == (1, [f"criu-veth: error: post-restore: {fault}"])
    assert run.state() == before


def test_a_defect_undoes_too(container: Container, restoring: Restoring) -> None:
    """An operation that this program got wrong itself: a slot that nothing has filled."""
    run = begin(restoring, container, EVERYTHING)
    before = run.state()
    last = len(run.operations) - 1
    operation = run.operations[last]
    unbound = (
        *operation[:3],
        ((netlink.INDEX_OFFSET, run.slots - 1), (netlink.INDEX_OFFSET, run.slots)),
        *operation[4:],
    )
    run.slots += 1
    run.replace({last: unbound})
    status, said = run.go()
    assert status == 3
    assert said[0] == "criu-veth: Traceback (most recent call last):"
    assert said[-1] == "criu-veth: error: post-restore: a defect in criu-veth itself; please report the lines above"
    assert run.state() == before


def test_undo_that_fails_is_reported_and_the_rest_is_undone(container: Container, restoring: Restoring) -> None:
    run = begin(restoring, container, EVERYTHING)
    before = run.state()
    texts = [operation[-1] for operation in run.operations]
    at = texts.index("eth0: web0 txqueuelen 500")
    sysctl = texts.index("eth0: web0 sysctl ipv4.proxy_arp = 1")
    last = len(texts) - 1
    undo = run.operations[at][6]
    message, patches = run.impossible_mtu()
    stubborn = (*run.operations[at][:6], (undo[0], message, patches, (), undo[4]), run.operations[at][7])
    spoilt, fault = run.spoilt(last)
    run.replace({at: stubborn, last: spoilt})
    assert run.go() == (
        1,
        [
            f"criu-veth: error: post-restore: {fault}",
            f"criu-veth: error: post-restore: could not undo: eth0: web0 txqueuelen 500: {REFUSED}",
        ],
    )
    assert sysctl < last
    links = before[0]["links"]
    links["x0"]["txqlen"] = 500
    assert run.state() == before


def test_undo_of_a_sysctl_that_fails_is_reported(container: Container, restoring: Restoring) -> None:
    """Its file has the device's name in its path, and here the device has another by then."""
    text = '[[veth]]\ninner = "eth0"\nouter = "web0"\naddresses = ["10.7.0.1/24"]\nannounce = false\n'
    text += 'sysctl = { "ipv6.disable_ipv6" = 1 }\n'
    run = begin(restoring, container, text)
    texts = [operation[-1] for operation in run.operations]
    at = texts.index("eth0: web0 address 10.7.0.1/24")
    index = run.outer_slot()
    rename = netlink.set_link(("IFLA_IFNAME", "other"))
    moved = (*run.operations[at][:2], rename, ((netlink.INDEX_OFFSET, index),), (), None, None, texts[at])
    last = len(texts) - 1
    spoilt, fault = run.spoilt(last)
    run.replace({at: moved, last: spoilt})
    assert run.go() == (
        1,
        [
            f"criu-veth: error: post-restore: {fault}",
            "criu-veth: error: post-restore: could not undo: eth0: web0 sysctl ipv6.disable_ipv6 = 1:"
            " No such file or directory (ENOENT)",
        ],
    )
    assert run.host.has_link("x0"), "the name, which was given first, is undone last"


def test_two_faults_in_one_batch_are_one_error(container: Container, restoring: Restoring) -> None:
    """The kernel goes through a batch to its end; what it did after the first fault is undone as well."""
    run = begin(restoring, container, EVERYTHING)
    before = run.state()
    texts = [operation[-1] for operation in run.operations]
    first, second = texts.index("eth0: web0 mtu 1400"), texts.index('eth0: web0 alias "web, front"')
    run.replace({first: run.spoilt(first)[0], second: run.spoilt(second)[0]})
    assert run.go() == (1, [f"criu-veth: error: post-restore: eth0: web0 mtu 1400: {REFUSED}"])
    assert run.state() == before


def test_what_was_there_before_is_not_taken_away(container: Container, restoring: Restoring) -> None:
    """An address and a name that the outer end had already are no work of this run, so they are not undone."""
    run = begin(restoring, container, EVERYTHING)
    host = run.host
    host.run("ip", "address", "add", "10.7.0.1/24", "dev", "x0")
    host.run("ip", "link", "property", "add", "dev", "x0", "altname", "front")
    host.run("ip", "link", "set", "x0", "alias", "before", "mtu", "1450")
    before = run.state()
    last = len(run.operations) - 1
    run.replace({last: run.spoilt(last)[0]})
    status, _ = run.go()
    assert status == 1
    assert run.state() == before


def test_fault_in_a_later_batch(container: Container, restoring: Restoring) -> None:
    """What earlier batches did is undone as well."""
    names = [f'"alternative-{n}"' for n in range(2 * wire.BATCH)]
    text = f'[[veth]]\ninner = "eth0"\nouter = "web0"\nannounce = false\naltnames = [{", ".join(names)}]'
    run = begin(restoring, container, text)
    before = run.state()
    last = len(run.operations) - 1
    run.replace({last: run.spoilt(last)[0]})
    assert run.go() == (1, [f"criu-veth: error: post-restore: eth0: web0 up: {REFUSED}"])
    assert run.state() == before
