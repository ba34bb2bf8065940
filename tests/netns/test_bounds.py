"""A container's root fills what can be filled: the dump costs little, says what it leaves out, and can be restored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from criu_veth.bounds import MOST, MOST_IN_ALL, MOST_NAMESPACES
from lab import Container, Host, Link, Program
from lab.standin import StandIn
from lab.waiting import wait_for

Restoring = Callable[..., StandIn]
SLEEPER = Program(argv=["sleep", "infinity"])
CRIUS = "CRIU brings back what it saved of them, but not into an empty network namespace"
MANY = 75_000

# What a dump takes over the process before it: seconds of the CPU, and MB.
MEASURED = """
import resource, sys
from criu_veth import capture, dump, prepare
from criu_veth.way import Way

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024

before = used()
dump.run({"CRIU_VETH_CONFIG": sys.argv[3]}, sys.argv[1], int(sys.argv[2]), (Way(told=True), Way(devices=False)))
print(*(after - one for after, one in zip(used(), before)))
"""


@pytest.fixture
def plugged(bridged: Host) -> Container:
    """A container with a veth on br0, its inner end 10.0.0.2/24."""
    return bridged.container([Link(inner="eth0", outer="web0", bridge="br0", addresses=["10.0.0.2/24"])], SLEEPER)


def batch(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def ipv4(number: int, first: int = 11) -> str:
    return f"{first}.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def captured(images: Path) -> Any:
    (veth,) = json.loads((images / "criu-veth.json").read_text())["veths"]
    return veth


def warnings(stderr: str) -> list[str]:
    before = "criu-veth: pre-dump: warning: "
    return sorted(line.removeprefix(before) for line in stderr.splitlines() if line.startswith(before))


def dumped_and_prepared(restore: StandIn, container: Container) -> list[str]:
    """Dump, let the container end, and have pre-restore accept what was captured; return the dump's warnings."""
    done = restore.act("pre-dump", container)
    assert done.returncode == 0, done.stderr
    assert "captured eth0: web0\n" in done.stderr
    container.kill()
    container.wait_unplugged()
    prepared = restore.act("pre-restore")
    assert (prepared.returncode, prepared.stderr) == (0, "")
    return warnings(done.stderr)


def test_routes(restoring: Restoring, plugged: Container, images: Path) -> None:
    """The default routes are kept, whichever the kernel tells first; so are those to larger networks."""
    plugged.sysctl("ipv6/route/max_size", 1_000_000)
    four = [f"route add {ipv4(n)}/32 via 10.0.0.1 dev eth0" for n in range(MANY)]
    six = [f"route add 2001:{0xDB8 + (n >> 16):x}:{n & 0xFFFF:x}::/48 dev eth0 metric 100" for n in range(MANY)]
    plugged.run(
        "ip", "-batch", "-", stdin=batch([*four, "route add default via 10.0.0.1", "route add 9.0.0.0/8 dev eth0"])
    )
    plugged.run("ip", "-6", "-batch", "-", stdin=batch([*six, "route add default via fe80::1 dev eth0"]))

    said = dumped_and_prepared(restoring(""), plugged)

    total, kept = 2 * MANY + 3, 2 * MOST
    assert said == [
        f"eth0: {total - kept} of its {total} routes are not captured (at most {MOST} of a kind of one end): {CRIUS}"
    ]
    routes = captured(images)["inner"]["routes"]
    assert len(routes) == kept
    found = [(route["dst"], route["family"]) for route in routes]
    assert {("default", "inet"), ("default", "inet6"), ("9.0.0.0/8", "inet")} <= set(found)
    assert found.index(("default", "inet")) < found.index(("9.0.0.0/8", "inet")) < found.index(("11.0.0.0/32", "inet"))


def test_what_a_dump_costs(plugged: Container, images: Path, mapping: Path) -> None:
    """Of everything too much at once; the time is the CPU's."""
    mapping.write_text("")
    plugged.sysctl("ipv6/route/max_size", 1_000_000)
    four = [f"route add {ipv4(n)}/32 via 10.0.0.1 dev eth0" for n in range(MANY)]
    six = [f"route add 2001:{0xDB8 + (n >> 16):x}:{n & 0xFFFF:x}::/48 dev eth0 metric 100" for n in range(MANY)]
    addresses = [f"address add {ipv4(n, 12)}/32 dev eth0" for n in range(10_000)]
    plugged.run("ip", "-batch", "-", stdin=batch(four + addresses))
    plugged.run("ip", "-6", "-batch", "-", stdin=batch(six))
    fdb = [
        f"fdb add 02:00:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x} dev web0 master static" for n in range(MANY)
    ]
    plugged.host.run("bridge", "-batch", "-", stdin=batch(fdb))

    argv = [sys.executable, "-c", MEASURED, str(images), str(plugged.pid), str(mapping)]
    seconds, megabytes = map(float, plugged.host.run(*argv).stdout.split())

    assert megabytes < 64
    assert seconds < 15, "quadratic, or all of them decoded"
    outer = captured(images)["outer"]
    assert len(outer["fdb"]) == MOST


def test_what_a_container_fills_takes_no_room_from_the_outer_ends(
    restoring: Restoring, plugged: Container, images: Path
) -> None:
    table = [f"route add {ipv4(n)}/32 dev eth0 table {t}" for t in (100, 101) for n in range(MOST)]
    table += [f"address add {ipv4(n, 12)}/32 dev eth0" for n in range(MOST)]
    table += [f"neigh add {ipv4(n, 13)} lladdr 02:00:00:00:00:01 dev eth0 nud permanent" for n in range(MOST)]
    plugged.run("ip", "-batch", "-", stdin=batch(table))
    six = [f"address add 2001:db8::{n:x}/128 dev eth0 nodad" for n in range(1, MOST + 1)]
    six += [f"neigh add 2001:db8:1::{n:x} lladdr 02:00:00:00:00:01 dev eth0 nud permanent" for n in range(MOST)]
    plugged.run("ip", "-6", "-batch", "-", stdin=batch(six))
    plugged.host.run("ip", "route", "add", "10.99.0.0/24", "dev", "web0")

    said = dumped_and_prepared(restoring(""), plugged)

    veth = captured(images)
    lists = [veth["inner"][key] for key in ("addresses", "routes", "neighbours")]
    assert sum(map(len, lists)) <= MOST_IN_ALL
    assert [route["dst"] for route in veth["outer"]["routes"]] == ["10.99.0.0/24"]
    assert all(line.startswith("eth0: ") for line in said)


def test_rules_of_a_host_that_has_many(restoring: Restoring, plugged: Container, images: Path) -> None:
    rules = [f"rule add iif web0 table 100 priority {n}" for n in range(1000, 1000 + MOST + 5)]
    rules += [f"rule add iif other0 table 100 priority {n}" for n in range(1000)]
    plugged.host.run("ip", "-batch", "-", stdin=batch(rules))

    said = dumped_and_prepared(restoring(""), plugged)

    total = MOST + 5
    assert said == [
        f"web0: 5 of its {total} rules are not captured (at most {MOST} of a kind of one end): a restore will lack them"
    ]
    assert len(captured(images)["outer"]["rules"]) == MOST


def test_devices_of_a_container_that_made_many(restoring: Restoring, plugged: Container) -> None:
    pairs = [f"link add p{n} type veth peer name q{n}" for n in range(300)]
    plugged.run("ip", "-batch", "-", stdin=batch(pairs))

    done = restoring("").act("pre-dump", plugged)

    assert done.returncode == 0
    notes = [line for line in done.stderr.splitlines() if ": notice: " in line]
    assert len(notes) == 256
    assert notes[-1] == "criu-veth: pre-dump: notice: and 345 more"


def test_network_namespaces_of_a_container_that_made_many(
    restoring: Restoring, plugged: Container, images: Path
) -> None:
    """None of them is too many for the descriptors of a process, or asked for again and again."""
    more = 20
    script = f"for n in $(seq {MOST_NAMESPACES + more}); do unshare --net sleep infinity & done"
    enter = ["nsenter", f"--target={plugged.pid}", "--net", "--pid", "--"]
    plugged.host.run(*enter, "sh", "-c", f"({script}) >/dev/null 2>&1 </dev/null")

    def inodes() -> set[str]:
        children = Path(f"/proc/{plugged.pid}/task/{plugged.pid}/children").read_text().split()
        return {str(Path(f"/proc/{child}/ns/net").readlink()) for child in children}

    wait_for(lambda: len(inodes()) == MOST_NAMESPACES + more, "the namespaces")
    done = restoring("").act("pre-dump", plugged)
    assert done.returncode == 0
    total = MOST_NAMESPACES + more + 1
    assert warnings(done.stderr) == [
        f"{more + 1} of the container's {total} network namespaces are not looked at ({MOST_NAMESPACES} at most): the"
        " outer ends of veths in there are not captured"
    ]
    assert captured(images)["inner"]["ifname"] == "eth0"
