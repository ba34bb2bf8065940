"""What only the kernel knows is known before CRIU restores anything: the program is rehearsed, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Host, snapshot
from lab.cli import cli
from lab.features import older_than
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Restoring = Callable[..., StandIn]
ROOT = Path(__file__).parents[2]

#: What an older kernel's messages lack that Linux 6.6 explains.
UNEXPLAINED = older_than("6.6", "the reasons for which addresses and limits are refused")


def refused(restore: StandIn) -> tuple[int, list[str]]:
    """Begin a restore, and return its status and what it said without the program's name."""
    done = restore.act("pre-restore")
    assert done.stdout == ""
    return done.returncode, [line.removeprefix("criu-veth: ") for line in done.stderr.splitlines()]


# --- what a mapping file asks for

REFUSED = [
    (
        'addresses = ["fd00::1/64"]\nsysctl = { "ipv6.disable_ipv6" = 1 }',
        "addresses[0]",
        "web0 address fd00::1/64: Permission denied (EACCES): ipv6: IPv6 is disabled on this device",
    ),
    (
        'routes = ["10.99.0.2/32", "10.98.0.0/24 via 192.0.2.1"]',
        "routes[1]",
        "web0 route 10.98.0.0/24 via 192.0.2.1: Network is unreachable (ENETUNREACH): Nexthop has invalid gateway",
    ),
    (
        'routes = ["10.99.0.0/24 src 192.0.2.1"]',
        "routes[0]",
        "web0 route 10.99.0.0/24 src 192.0.2.1: Invalid argument (EINVAL): Invalid prefsrc address",
    ),
    ('mtu = 1200\naddresses = ["fd00::1/64"]', "addresses[0]", "web0 address fd00::1/64: Invalid argument (EINVAL)"),
    (
        'mtu = 1400\nsysctl = { "ipv6.mtu" = 1401 }',
        'sysctl."ipv6.mtu"',
        "web0 sysctl ipv6.mtu = 1401: Invalid argument (EINVAL)",
    ),
]


@pytest.mark.parametrize(("settings", "key", "fault"), REFUSED)
def test_kernel_refuses(
    bridged: Host, mapping: Path, restoring: Restoring, settings: str, key: str, fault: str
) -> None:
    """It did so at post-restore, when the application was frozen and its old network gone."""
    before = snapshot(bridged)
    restore = restoring(f'[[veth]]\ninner = "eth0"\nouter = "web0"\n{settings}\n')
    if UNEXPLAINED:
        fault = fault.partition(": ipv6: ")[0]
    line = f"{mapping}: veth[0].{key}: this kernel refuses it: {fault}"
    assert refused(restore) == (1, [f"error: pre-restore: {line}"])
    checked = cli(bridged, "check", str(mapping))
    assert (checked.returncode, checked.stdout, checked.stderr) == (1, "", f"criu-veth: error: {line}\n")
    assert snapshot(bridged) == before


def test_all_refusals_are_said_together(restoring: Restoring, bridged: Host, mapping: Path) -> None:
    text = '[defaults]\nmtu = 1000\nsysctl = { "ipv6.accept_ra" = 0 }\n[[veth]]\ninner = "eth0"\nouter = "web0"\n'
    restore = restoring(f'mappings = ["eth1:db0@br1"]\n{text}routes = ["10.9.0.0/24 via 10.8.0.1"]\n')
    start = f"error: pre-restore: {mapping}"
    gone = "ipv6.accept_ra = 0: No such file or directory (ENOENT)"
    assert refused(restore) == (
        1,
        [
            f'{start}: defaults.sysctl."ipv6.accept_ra": this kernel refuses it: db0 sysctl {gone}',
            f'{start}: veth[0].sysctl."ipv6.accept_ra": this kernel refuses it: web0 sysctl {gone}',
            f"{start}: veth[0].routes[0]: this kernel refuses it: web0 route 10.9.0.0/24 via"
            " 10.8.0.1: Network is unreachable (ENETUNREACH): Nexthop has invalid gateway",
        ],
    )


def test_mode_empty(bridged: Host, container: Container, hook: Path, images: Path, mapping: Path) -> None:
    """A runtime may make the pair; where none has, it is said before anything is made."""
    netns = 'routes = ["default via 10.9.0.1"]'
    mapping.write_text(f'[[veth]]\ninner = "eth0"\nouter = "web0"\n[veth.netns]\n{netns}\n')
    env = {"CRIU_VETH_CONFIG": str(mapping)}
    with StandIn(bridged, hook, images, env, options=["--empty-ns", "net"]) as restore:
        assert refused(restore) == (0, [])
        before = snapshot(bridged)
        done = restore.act("setup-namespaces", container)
    assert (done.returncode, done.stderr) == (
        1,
        f"criu-veth: error: setup-namespaces: {mapping}: veth[0].netns.routes[0]: this kernel refuses it: eth0 route"
        " default via 10.9.0.1: Network is unreachable (ENETUNREACH): Nexthop has invalid gateway\n",
    )
    assert snapshot(bridged) == before


def test_kind_that_this_kernel_has_not(restoring: Restoring, bridged: Host, mapping: Path) -> None:
    made = 'kind = "macvlan"\nparent = "br1"\nmode = "empty"\n[veth.netns]\nmtu = 9000\n'
    mapping.write_text(f'[[veth]]\ninner = "eth0"\n{made}')
    done = cli(bridged, "check", str(mapping))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        f"criu-veth: error: {mapping}: veth[0].kind: this kernel refuses it: macvlan bridge on br1 made, in the"
        " container: Invalid argument (EINVAL)",
    )


# --- what would have worked goes on to work

HARMLESS = [
    'routes = ["10.99.0.0/24 src 10.0.0.1"]',  # the bridge's address
    'routes = ["10.99.0.2/32", "10.98.0.0/24 via 10.99.0.2"]',
    'routes = ["10.98.0.0/24 via 192.0.2.1 onlink"]',
    'routes = ["default via 192.0.2.1 onlink table 100"]',
    'addresses = ["fd00::1/64"]\nroutes = ["fd01::/64 src fd00::1"]',
    'addresses = ["10.0.0.1/32"]\nroutes = ["10.99.0.0/24"]',
    'bridge = "br0"\nport = { locked = false, group_fwd_mask = 8 }',
    'altnames = ["cvth-0"]',
]


@pytest.mark.parametrize("settings", HARMLESS)
def test_what_works_here(bridged: Host, container: Container, restoring: Restoring, settings: str) -> None:
    restore = restoring(f'[[veth]]\ninner = "eth0"\nouter = "web0"\n{settings}\n')
    assert refused(restore) == (0, [])
    make_pair(container, "eth0", "x0")
    done = restore.act("post-restore", container)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_source_of_routes_has_the_flags_that_it_should(
    bridged: Host, container: Container, restoring: Restoring
) -> None:
    test_what_works_here(
        bridged, container, restoring, 'addresses = ["fd00::1/64"]\nroutes = ["fd01::/64 src fd00::1"]'
    )
    (address,) = [one for one in bridged.ip("addr", "show", "dev", "web0")[0]["addr_info"] if one["local"] == "fd00::1"]
    assert "nodad" not in address
    assert [route["prefsrc"] for route in bridged.ip("-6", "route", "show", "fd01::/64")] == ["fd00::1"]


def test_gateway_that_a_rule_of_the_host_leads_to(bridged: Host, container: Container, restoring: Restoring) -> None:
    bridged.run("ip", "rule", "add", "to", "10.99.0.0/24", "lookup", "100", "priority", "50")
    settings = 'routes = ["10.99.0.2/32 table 100", "10.98.0.0/24 via 10.99.0.2 table 200"]'
    test_what_works_here(bridged, container, restoring, settings)


def test_source_that_is_the_hosts_own_in_a_table_alone(
    bridged: Host, container: Container, restoring: Restoring
) -> None:
    bridged.run("ip", "route", "add", "local", "10.77.0.1", "dev", "lo", "table", "100")
    test_what_works_here(bridged, container, restoring, 'routes = ["10.99.0.0/24 src 10.77.0.1 table 100"]')


def test_address_of_another_network_namespace_of_the_container(
    bridged: Host, container: Container, restoring: Restoring
) -> None:
    """What belongs to one end of the container is the host's own for the routes of another."""
    text = '[[veth]]\ninner = "eth1"\nouter = "db0"\naddresses = ["10.7.0.1/24"]\n'
    text += '[[veth]]\ninner = "eth0"\nouter = "web0"\nroutes = ["10.99.0.0/24 src 10.7.0.1"]\n'
    restore = restoring(text)
    assert refused(restore) == (0, [])
    for inner, outer in (("eth0", "x0"), ("eth1", "x1")):
        make_pair(container, inner, outer)
    done = restore.act("post-restore", container)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_who_may_make_no_network_namespace_rehearses_nothing(
    bridged: Host, container: Container, restoring: Restoring
) -> None:
    restore = restoring('[[veth]]\ninner = "eth0"\nouter = "web0"\nroutes = ["10.9.0.0/24 via 10.8.0.1"]\n')
    weak = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    done = restore.act("pre-restore", prefix=weak)
    assert (done.returncode, done.stderr) == (0, "")


# --- what was captured

#: What came from elsewhere is put back too, as far as the kernel takes it.
TRUST = '[trust]\nimages = "root"\n'

CAPTURE: dict[str, Any] = {
    "version": 1,
    "host": {"hostname": "a", "kernel": "6.1", "criu_veth": "0", "created": "2026-01-01T00:00:00Z"},
}
WEB = {"ifname": "web0", "up": True, "master": "br0", "master_kind": "bridge"}


def captured(images: Path, outer: dict[str, Any], inner: dict[str, Any] | None = None) -> None:
    found = {"inner": {"ifname": "eth0", **(inner or {})}, "outer": {**WEB, **outer}}
    (images / "criu-veth.json").write_text(json.dumps({**CAPTURE, "veths": [found]}))


LEFT_OUT = [
    pytest.param(
        {"port": {"mab": 1, "cost": 7}},
        "web0 port mab 1: Invalid argument (EINVAL): Bridge port must be locked and have learning enabled when MAB is"
        " enabled",
        marks=pytest.mark.kernel_since("6.2", "ports with mab"),
    ),
    ({"gso_max_segs": 70000}, "web0 gso_max_segs 70000: Invalid argument (EINVAL): too big gso_max_segs"),
    ({"qdiscs": [{"kind": "tbf", "handle": "1:", "parent": "root"}]},
     "web0 qdisc tbf 1: parent root: Invalid argument (EINVAL)"),
    ({"routes": [{"dst": "10.9.0.0/24", "family": "inet", "via": "10.8.0.1"}]}, "web0 route 10.9.0.0/24 via 10.8.0.1:"
     " Network is unreachable (ENETUNREACH): Nexthop has invalid gateway"),
    ({"sysctl": {"ipv4.arp_ignore": "none"}}, "web0 sysctl ipv4.arp_ignore = none: Invalid argument (EINVAL)"),
]  # fmt: skip


@pytest.mark.parametrize(("outer", "why"), LEFT_OUT)
def test_captured_and_refused_here(
    bridged: Host, container: Container, restoring: Restoring, images: Path, outer: dict[str, Any], why: str
) -> None:
    """Another kernel had it. It is left out and said, and the rest is put back."""
    captured(images, {**outer, "txqueuelen": 77})
    restore = restoring(TRUST)
    if UNEXPLAINED:
        why = why.partition(": too big ")[0]
    warning = f"pre-restore: warning: veth eth0: left out, because this kernel refuses it: {why}"
    assert refused(restore) == (0, [warning])
    make_pair(container, "eth0", "x0")
    done = restore.act("post-restore", container)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    link = bridged.link("web0")
    assert (link["master"], link["txqlen"]) == ("br0", 77)


def test_one_feature_is_unknown(bridged: Host, container: Container, restoring: Restoring, images: Path) -> None:
    captured(images, {"features_off": ["of-another-kernel", "tx-checksum-ip-generic"]})
    restore = restoring(TRUST)
    why = "web0 features off: of-another-kernel: Operation not supported (ENOTSUP): bit name not found"
    assert refused(restore) == (
        0,
        [f"pre-restore: warning: veth eth0: left out, because this kernel refuses it: {why}"],
    )
    make_pair(container, "eth0", "x0")
    done = restore.act("post-restore", container)
    assert "criu-veth: post-restore: eth0: web0 features off: tx-checksum-ip-generic" in done.stderr.splitlines()


def test_inner_end_of_which_criu_brings_only_a_part(
    bridged: Host, container: Container, restoring: Restoring, images: Path
) -> None:
    captured(images, {}, {"neighbours": [{"dst": "fd00::9", "lladdr": "02:00:00:00:00:09"}], "mtu": 1000})
    status, lines = refused(restoring(TRUST))
    assert (status, [line.partition("refuses it: ")[2].partition(": ")[0] for line in lines]) == (
        0,
        ["eth0 neighbour fd00::9 02:00:00:00:00:09"],
    )


def test_the_program_is_made_without_it_too(bridged: Host, restoring: Restoring, images: Path, mapping: Path) -> None:
    captured(images, {"sysctl": {"ipv4.arp_ignore": "none", "ipv4.proxy_arp": "1"}})
    bridged.path("/etc/criu/criu-veth.toml").write_text(TRUST)
    done = cli(bridged, "check", "--images", str(images), "--mode", "external")
    why = "veth eth0: left out, because this kernel refuses it: web0 sysctl ipv4.arp_ignore = none"
    assert done.stderr == f"criu-veth: warning: {why}: Invalid argument (EINVAL)\n"
    assert "sysctl ipv4.proxy_arp = 1" in done.stdout
    assert "arp_ignore" not in done.stdout
    ready = cli(bridged, "prepare", "--mode", "external", str(images))
    assert ready.stderr == done.stderr
    restore = restoring(TRUST)
    first, second = refused(restore), refused(restore)
    assert first == second == (0, [f"pre-restore: warning: {why}: Invalid argument (EINVAL)"])


# --- many

#: Accepted files of each kind; more of them by hand: see `python -m refusals --help`.
FILES = int(os.environ.get("REFUSALS", "500"))


@pytest.mark.parametrize("kind", ["mapping", "state"])
def test_the_kernel_refuses_nothing_that_was_accepted(kind: str) -> None:
    words = [sys.executable, "-m", "refusals", "--kind", kind, "--count", str(FILES), "--show"]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}/tests:{ROOT}"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=600)
    first, *others = done.stdout.splitlines()
    assert (done.returncode, done.stderr, others) == (0, "", []), done.stdout + done.stderr
    assert first.startswith(f"{kind}: 0 of {FILES} accepted files refused by the kernel")
