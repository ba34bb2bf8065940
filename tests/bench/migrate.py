"""What a client sees of a live migration between two hosts: `PYTHONPATH=tests python -m bench.migrate --help`."""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lab import Container, Criu, DeadlineError, Host, Link, Outcome, find_criu, wait_for
from lab.criu import REPOSITORY
from lab.traffic import RATE, Seen, Talker, sink_report, traffic_server

from .report import Budget, table
from .timing import median

HOOK = REPOSITORY / "hooks/criu-veth"
MAC = "02:00:00:00:00:02"
SOURCE_BRIDGE, TARGET_BRIDGE = "br0", "lan"
WEB = Link(inner="eth0", outer="web0", bridge=SOURCE_BRIDGE, mac=MAC, addresses=("10.0.0.2/24",))
DARK = 3.0
"""Seconds without an answer after a restore that count as never."""

STOCK, SHELL, OURS = "stock CRIU, @bridge", "shell + ip", "criu-veth"
VARIANTS = (STOCK, SHELL, OURS)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One row: what the client does, and to which address."""

    name: str
    kind: str
    address: str
    ipv6: bool = True


TCP4 = Traffic(name="TCP over IPv4", kind="tcp", address="10.0.0.2")
ROWS = (
    TCP4,
    Traffic(name="TCP over IPv6", kind="tcp", address="fd00::2"),
    Traffic(name="UDP echo over IPv4", kind="udp", address="10.0.0.2"),
    Traffic(name="UDP echo over IPv6", kind="udp", address="fd00::2"),
    Traffic(name="inbound UDP only, IPv6 off", kind="sink", address="10.0.0.2", ipv6=False),
    Traffic(name="bulk TCP, checked by hash", kind="bulk", address="10.0.0.2"),
)

# What somebody would write who knows all that is needed: addresses usable before sockets are bound to them, attached
# only once the sockets are there, and the kernel told to announce (a device that "changes" its MAC address does).
SHELL_HOOK = """#!/bin/sh
exec </dev/null
inside() { nsenter --net="/proc/$CRTOOLS_INIT_PID/ns/net" "$@"; }
case $CRTOOLS_SCRIPT_ACTION in
post-setup-namespaces)
    inside ip -6 -o address show dev eth0 tentative | while read -r _ device _ address _; do
        inside ip address delete "$address" dev "$device"
        inside ip address add "$address" dev "$device" nodad
    done
    ;;
post-restore)
    set -e
    ip link set dev web0 master BRIDGE up
    inside sh -c 'echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify; echo 1 >/proc/sys/net/ipv6/conf/eth0/ndisc_notify'
    inside ip link set dev eth0 address MAC
    ;;
esac
"""

# IPv6 addresses that have been through duplicate address detection, without a second's wait for it.
PLAIN = """set -e
cd /proc/sys/net/ipv6/conf/eth0
echo 0 >accept_dad
ip link set eth0 down
ip link set eth0 up
ip address add fd00::2/64 dev eth0
while ip -6 -o address show dev eth0 tentative | grep -q .; do :; done
echo 1 >accept_dad
"""
NO_IPV6 = "cd /proc/sys/net/ipv6/conf; echo 1 >all/disable_ipv6; echo 1 >default/disable_ipv6"


@dataclass(kw_only=True)
class Samples:
    """What was seen of one kind of traffic with one variant: milliseconds, messages, and what went wrong."""

    gaps: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def cell(self) -> str:
        """Median and worst gap and loss, or how often it failed and why."""
        said = []
        if self.failures:
            most = max(set(self.failures), key=self.failures.count)
            said.append(f"**{len(self.failures)} of {len(self.failures) + len(self.gaps)} {most}**")
        if self.gaps:
            gaps = f"{median(self.gaps):.0f} ({max(self.gaps):.0f}) ms"
            said.append(f"{gaps}, lost {median(self.lost):.0f} ({max(self.lost)})")
        return "; ".join(said)

    @property
    def survives(self) -> bool:
        """Whether it mostly does: one that is lost now and then is still what others are compared with."""
        return len(self.gaps) > len(self.failures)


class Arena:
    """Two hosts and a client on a switch; containers start on one host and end up on the other."""

    def __init__(self, stack: ExitStack, criu: Criu, directory: Path) -> None:
        self.criu = criu
        self.directory = directory
        self.source, self.target, self.switch, self.client = (stack.enter_context(Host()) for _ in range(4))
        self.switch.bridge("br0")
        for number, host in enumerate((self.source, self.target, self.client)):
            self.switch.veth(f"port{number}", "uplink0", host, bridge="br0")
        for host, bridge in ((self.source, SOURCE_BRIDGE), (self.target, TARGET_BRIDGE)):
            host.bridge(bridge)
            host.run("ip", "link", "set", "uplink0", "master", bridge)
        self.client.run("ip", "address", "add", "10.0.0.1/24", "dev", "uplink0")
        self.client.run("ip", "address", "add", "fd00::1/64", "dev", "uplink0", "nodad")
        self.target.path("/etc/criu/criu-veth.toml").write_text(
            f'[remap]\nbridge = {{ {SOURCE_BRIDGE} = "{TARGET_BRIDGE}" }}\n'
        )
        self.shell = directory / "shell-hook"
        self.shell.write_text(SHELL_HOOK.replace("BRIDGE", TARGET_BRIDGE).replace("MAC", MAC))
        self.shell.chmod(0o755)
        self._count = 0

    def migrate(self, traffic: Traffic, variant: str, samples: Samples) -> None:
        """Start a container, talk to it, move it, and note what the client saw."""
        self._count += 1
        images = self.directory / str(self._count)
        container = self.source.container([WEB], traffic_server())
        container.run("sh", "-c", PLAIN if traffic.ipv6 else NO_IPV6)
        self.client.run("ip", "neighbour", "flush", "dev", "uplink0")  # so that the switch learns where it starts
        talker = Talker(self.client, traffic.address, traffic.kind)
        self._wait_for_traffic(traffic, talker, container)
        if variant == OURS:
            self._prepare(container, images)
        hook = HOOK if variant == OURS else None
        self.criu.dump(container, images, hook=hook, tcp_established=True)
        outcome = self._restore(variant, images)
        if outcome.returncode == 0:
            self._note(traffic, talker, outcome.container, samples)
            outcome.container.kill()
        else:
            samples.failures.append("restores fail")
            talker.stop()
        for host in (self.source, self.target):
            host.wait_no_link(WEB.outer, deadline=20)

    def _wait_for_traffic(self, traffic: Traffic, talker: Talker, container: Container) -> None:
        if traffic.kind == "sink":
            before = sink_report(container)["received"]
            wait_for(lambda: sink_report(container)["received"] > before + 40, "datagrams", deadline=DARK)
        elif traffic.kind == "bulk":
            before = talker.status().received
            wait_for(lambda: talker.status().received > before + 10**6, "the stream", deadline=DARK)
        else:
            talker.wait_answered(40, DARK)

    def _prepare(self, container: Container, images: Path) -> None:
        """Tell the target what is to come, while the application runs."""
        images.mkdir()
        state = str(images / "criu-veth.json")
        criu_veth = str(REPOSITORY / ".venv/bin/criu-veth")
        self.source.run(criu_veth, "capture", "--pid", str(container.pid), "-o", state)
        self.target.run(criu_veth, "prepare", str(images))

    def _restore(self, variant: str, images: Path) -> Outcome:
        external = f"veth[eth0]:{WEB.outer}" + (f"@{TARGET_BRIDGE}" if variant == STOCK else "")
        hook = {STOCK: None, SHELL: self.shell, OURS: HOOK}[variant]
        return self.criu.restore(self.target, images, external=[external], hook=hook, tcp_established=True, check=False)

    def _note(self, traffic: Traffic, talker: Talker, container: Container, samples: Samples) -> None:
        try:
            self._wait_for_traffic(traffic, talker, container)
        except DeadlineError:
            samples.failures.append(f"dark for over {DARK:g} s")
            talker.stop()
            return
        except AssertionError as error:
            samples.failures.append(str(error))
            talker.stop()
            return
        seen = talker.stop()
        gap, received = seen.gap, seen.received
        if traffic.kind == "sink":
            wait_for(lambda: quiet(container), "the last datagrams")
            noted = sink_report(container)
            gap, received = noted["gap"], noted["received"]
        fault = integrity(traffic, seen)
        if fault:
            samples.failures.append(fault)
        else:
            samples.gaps.append(gap * 1000)
            samples.lost.append(0 if traffic.kind == "bulk" else seen.sent - received)


def quiet(container: Container) -> bool:
    """Whether nothing has come for a while."""
    noted = sink_report(container)
    return bool(noted["now"] - noted["last"] > 0.1)


def integrity(traffic: Traffic, seen: Seen) -> str:
    """What is wrong with a stream that came through."""
    if seen.reset or seen.wrong:
        return seen.wrong or "reset"
    return "incomplete" if traffic.kind in ("tcp", "bulk") and seen.received != seen.sent else ""


Results = dict[tuple[str, str], Samples]


def measure(criu: Criu, directory: Path, rows: list[Traffic], rounds: int) -> Results:
    """Migrate `rounds` times each; every round has an order of its own, the same in every run."""
    results = {(row.name, variant): Samples() for row in rows for variant in VARIANTS}
    shuffle = random.Random(0)
    with ExitStack() as stack:
        arena = Arena(stack, criu, directory)
        arena.migrate(TCP4, OURS, Samples())
        for turn in range(rounds):
            print(f"bench: round {turn + 1} of {rounds} ...", file=sys.stderr, flush=True)
            order = [(row, variant) for row in rows for variant in VARIANTS]
            shuffle.shuffle(order)
            for row, variant in order:
                arena.migrate(row, variant, results[row.name, variant])
    return results


def goals(results: Results, rows: list[Traffic]) -> Iterator[str]:
    """What is asked of criu-veth, and whether it holds."""
    base = results.get((TCP4.name, STOCK))
    for row in rows:
        ours, stock = results[row.name, OURS], results[row.name, STOCK]
        yield f"goal: {row.name}: survives: {'MISSED' if ours.failures or not ours.gaps else 'holds'}"
        if not ours.gaps:
            continue
        if stock.survives:
            yield gap_goal(f"{row.name}: gap against {STOCK}", ours, stock, 1.10)
        elif base is not None and base.gaps:
            yield gap_goal(f"{row.name}: gap against {STOCK}'s {TCP4.name}", ours, base, 1.5)


def gap_goal(what: str, ours: Samples, theirs: Samples, bound: float) -> str:
    """One bound on a ratio of medians."""
    return str(Budget(what=what, ratio=median(ours.gaps) / median(theirs.gaps), bound=bound)).replace("budget", "goal")


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.migrate",
        description="Migrates containers between two simulated hosts, and measures what a client sees of it.",
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="migrations of each kind (20)")
    parser.add_argument("--quick", action="store_true", help="3 of each kind")
    parser.add_argument("--traffic", default="", metavar="TEXT", help="only rows with this text in their names")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a goal is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    return parser.parse_args()


def main() -> int:
    """Measure, print the report, and return the exit status."""
    options = arguments()
    path = find_criu()
    if path is None:
        raise SystemExit("bench: needs CRIU: set CRIU, or put one in .criu/bin or on PATH")
    criu = Criu(path.absolute())
    rows = [row for row in ROWS if options.traffic in row.name]
    rounds = 3 if options.quick else options.rounds
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="criu-veth-bench-") as directory:
        results = measure(criu, Path(directory), rows, rounds)
    about = f"{datetime.now(UTC):%Y-%m-%d}, CRIU {criu.version()}, kernel {platform.release()}, "
    print(f"{about}{rounds} migrations each, {RATE} messages a second, {time.monotonic() - start:.0f} s\n")
    print("What the client sees of a live migration: the longest gap and the lost messages, median (worst):\n")
    print(table(["", *VARIANTS], [[row.name, *(results[row.name, v].cell() for v in VARIANTS)] for row in rows]))
    found = list(goals(results, rows))
    print("\n".join(found))
    if options.json:
        data = {f"{row}, {variant}": vars(samples) for (row, variant), samples in results.items()}
        options.json.write_text(json.dumps({"about": about, "unit": "ms", "samples": data}, indent=1) + "\n")
    return 1 if options.strict and any("MISSED" in line for line in found) else 0


if __name__ == "__main__":
    sys.exit(main())
