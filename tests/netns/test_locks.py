"""CRIU's lock, as CRIU's own sources put it there, in network namespaces of which nothing is dumped."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Host
from lab.cli import cli

POD = "/run/netns/pod"
NOTHING = "nothing to remove\n"
IPTABLES = """*filter
:CRIU - [0:0]
-I INPUT -j CRIU
-I OUTPUT -j CRIU
-A CRIU -m mark --mark 0xC114 -j ACCEPT
-A CRIU -j DROP
COMMIT
"""
NFTABLES = """create table {table}
add chain {table} output {{ type filter hook output priority 0; policy drop; }}
add rule {table} output meta mark 0xC114 accept
add chain {table} input {{ type filter hook input priority 0; policy drop; }}
add rule {table} input meta mark 0xC114 accept
"""
WHAT = "iptables, IPv4, chain CRIU"


@pytest.fixture
def pod(host: Host) -> Host:
    host.run("ip", "netns", "add", "pod")
    return host


def inside(host: Host, *argv: str, stdin: str | None = None) -> str:
    return host.run("nsenter", f"--net={POD}", "--", *argv, stdin=stdin).stdout


def opened(host: Host, *words: object) -> tuple[int, str, str]:
    shown = cli(host, "gc", "--netns", *words)
    return shown.returncode, shown.stdout, shown.stderr


@pytest.mark.parametrize("program", ["iptables-nft-restore", "iptables-legacy-restore"])
def test_of_a_process(host: Host, program: str) -> None:
    container = host.container()
    container.run(program, "--noflush", stdin=IPTABLES)

    assert opened(host, container.pid, "--dry-run") == (0, f"{container.pid}: {WHAT}: CRIU's lock\n", "")
    assert opened(host, container.pid) == (0, f"{container.pid}: {WHAT}: removed, CRIU's lock\n", "")
    assert opened(host, container.pid) == (0, NOTHING, "")


@pytest.mark.parametrize("name", ["CRIU-4711", "CRIU-cf49642c-3682-48c5-af"])
def test_table_is_called_by_a_pid_or_a_part_of_a_uuid(pod: Host, name: str) -> None:
    inside(pod, "nft", "-f", "-", stdin=NFTABLES.format(table=f"inet {name}"))

    assert opened(pod, POD) == (0, f"{POD}: nftables, table inet {name}: removed, CRIU's lock\n", "")

    assert inside(pod, "nft", "list", "ruleset") == ""


@pytest.mark.parametrize("table", ["inet criu-4711", "inet CRIU-x", "ip CRIU-4711", "inet CRIU-4711_"])
def test_table_of_another_name_is_somebody_elses(pod: Host, table: str) -> None:
    inside(pod, "nft", "-f", "-", stdin=NFTABLES.format(table=table))
    before = inside(pod, "nft", "list", "ruleset")

    assert opened(pod, POD) == (0, NOTHING, "")

    assert inside(pod, "nft", "list", "ruleset") == before


def test_table_with_another_chain_is_somebody_elses(pod: Host) -> None:
    table = "inet CRIU-4711"
    inside(pod, "nft", "-f", "-", stdin=NFTABLES.format(table=table) + f"add chain {table} mine\n")

    assert opened(pod, POD) == (0, NOTHING, "")


@pytest.mark.parametrize("flavour", ["nft", "legacy"])
def test_nothing_is_removed_where_somebody_elses_rule_leads_there(pod: Host, flavour: str) -> None:
    inside(pod, f"iptables-{flavour}-restore", "--noflush", stdin=IPTABLES)
    inside(pod, f"iptables-{flavour}", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "CRIU")
    before = inside(pod, f"iptables-{flavour}", "-S")

    status, said, fault = opened(pod, POD)

    assert (status, said) == (1, "")
    program = "nftables: CRIU's rules cannot be removed" if flavour == "nft" else "/usr/sbin/iptables-legacy-restore"
    assert fault.startswith(f"criu-veth: error: {program}: ")
    assert inside(pod, f"iptables-{flavour}", "-S") == before


def test_rules_of_the_same_chains_stay(pod: Host) -> None:
    inside(pod, "iptables-nft", "-A", "INPUT", "-j", "ACCEPT")
    inside(pod, "iptables-nft-restore", "--noflush", stdin=IPTABLES)
    inside(pod, "iptables-nft", "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "DROP")

    assert opened(pod, POD)[0] == 0

    assert inside(pod, "iptables-nft", "-S").splitlines() == [
        "-P INPUT ACCEPT",
        "-P FORWARD ACCEPT",
        "-P OUTPUT ACCEPT",
        "-A INPUT -j ACCEPT",
        "-A OUTPUT -p tcp -m tcp --dport 9 -j DROP",
    ]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("/run/netns/none", "/run/netns/none: there is no such file"),
        ("4194303", "there is no process 4194303"),
        ("/etc/hosts", "/etc/hosts: is not a network namespace"),
        ("/proc/self/ns/mnt", "/proc/self/ns/mnt: is not a network namespace"),
        ("/run", "/run: is not a network namespace"),
    ],
)
def test_what_is_no_network_namespace(host: Host, given: str, fault: str) -> None:
    assert opened(host, given) == (2, "", f"criu-veth: error: {fault}\n")


def test_name_of_a_namespace_may_have_a_space(host: Host) -> None:
    name = "/run/netns/my pod"
    host.run("ip", "netns", "add", "my pod")
    host.run("nsenter", f"--net={name}", "--", "iptables-nft-restore", "--noflush", stdin=IPTABLES)
    Path(host.path("/etc/criu/criu-veth.toml")).write_text("")

    checked = cli(host, "check")

    assert checked.stderr == (
        f"criu-veth: warning: network namespace {name}: CRIU has locked it and works there no more ({WHAT}): nothing"
        " gets through until a restore into it works, or the lock is removed: criu-veth gc --netns"
        " '/run/netns/my pod'\n"
    )
    assert opened(host, name) == (0, f"{name}: {WHAT}: removed, CRIU's lock\n", "")
