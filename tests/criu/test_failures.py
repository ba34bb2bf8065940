"""Restores that fail, or whose criu is killed: what is left of them on the host."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lab import Criu, Host, Link, Outcome, snapshot
from lab.cli import cli

REPOSITORY = Path(__file__).resolve().parents[2]
HOOK = REPOSITORY / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"))
READY = "cvready0"

#: What CRIU is told in each of the three ways.
WAYS = {
    "external": ["--external", "veth[eth0]:web0"],
    "ready": ["--external", f"netdev[eth0]:{READY}"],
    "empty": ["--empty-ns", "net"],
}
NOTHING = ["nothing to remove"]
ACTIONS = ("pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore")

#: What the outer end has beside its name and its place on the bridge.
HOST = """
ip address add 10.7.0.1/24 dev web0
ip route add 10.66.0.0/24 via 10.7.0.2 dev web0
ip link set web0 type bridge_slave hairpin on
sysctl -qw net.ipv4.conf.web0.proxy_arp=1
"""


@pytest.fixture
def before(host: Host, criu: Criu, images: Path) -> dict[str, object]:
    """What the host is like after the dump of a container with one veth."""
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    container = host.container([WEB])
    host.run("sh", "-ec", HOST)
    with host.connect("10.0.0.2") as client:
        assert client.ask("before") == "1 before"
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    return network(host)


def network(host: Host) -> dict[str, object]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


def restored(criu: Criu, host: Host, images: Path, way: str, *scripts: Path, check: bool = False) -> Outcome:
    """Restore with these action scripts; CRIU runs the last one first."""
    more = [word for file in scripts[1:] for word in ("--action-script", str(file))]
    return criu.restore(host, images, external=(), args=[*WAYS[way], *more], hook=scripts[0], check=check)


def script(file: Path, action: str, text: str) -> Path:
    """Write an action script that does something at one action; CRIU closes its stdin."""
    file.write_text(f'#!/bin/sh\nexec </dev/null\n[ "$CRTOOLS_SCRIPT_ACTION" = {action} ] || exit 0\n{text}\n')
    file.chmod(0o755)
    return file


def collect(host: Host) -> list[str]:
    """What ``criu-veth gc`` says."""
    shown = cli(host, "gc")
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.splitlines()


def runs(host: Host) -> list[str]:
    directory = host.path("/run/criu-veth/runs")
    return os.listdir(directory) if directory.exists() else []


@pytest.mark.parametrize("order", ["before ours", "after ours"])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_host_is_as_before_a_restore_that_failed(
    host: Host, criu: Criu, images: Path, before: dict[str, object], way: str, action: str, order: str
) -> None:
    failing = script(images.parent / "failing", action, "exit 1")
    scripts = (HOOK, failing) if order == "before ours" else (failing, HOOK)

    outcome = restored(criu, host, images, way, *scripts)

    assert outcome.returncode != 0
    assert any(str(failing) in error for error in outcome.log_errors())
    leaks = way == "ready" and action == "setup-namespaces"
    if leaks:
        assert host.has_link(READY)
        assert collect(host) == [f"{READY}: removed, a restore that died had left it"]
    host.wait_no_link("web0", READY)
    assert network(host) == before
    if not leaks:
        assert collect(host) == NOTHING
    assert runs(host) == []
    restored(criu, host, images, way, HOOK, check=True)
    assert host.connect("10.0.0.2").ask("after") == "2 after"


KILL = 'kill -9 "$CRTOOLS_INIT_PID" "$PPID"'


@pytest.fixture
def killed(host: Host, criu: Criu, images: Path, before: dict[str, object]) -> dict[str, object]:
    """The same after criu was killed between setup-namespaces and the move of a ready device."""
    killer = script(images.parent / "killer", "setup-namespaces", KILL)
    outcome = restored(criu, host, images, "ready", killer, HOOK)
    assert outcome.returncode != 0
    assert host.link(READY)["linkinfo"]["info_kind"] == "veth"
    return before


def test_device_that_a_killed_criu_left_is_collected(host: Host, killed: dict[str, object]) -> None:
    assert collect(host) == [f"{READY}: removed, a restore that died had left it"]
    assert network(host) == killed
    assert runs(host) == []
    assert collect(host) == NOTHING


def test_next_restore_collects_it_too(host: Host, criu: Criu, images: Path, killed: dict[str, object]) -> None:
    outcome = restored(criu, host, images, "ready", HOOK, check=True)

    assert outcome.said("criu-veth: pre-restore:") == [
        f"criu-veth: pre-restore: {READY}: removed, a restore that died had left it"
    ]
    assert host.connect("10.0.0.2").ask("after") == "2 after"
    outcome.container.kill()
    host.wait_no_link("web0")
    assert network(host) == killed


@pytest.mark.parametrize("kind", [("type", "bridge"), ("type", "veth", "peer", "name", "other0")])
def test_device_of_the_same_name_that_is_not_ours_is_left_alone(
    host: Host, criu: Criu, images: Path, killed: dict[str, object], kind: tuple[str, ...]
) -> None:
    """It is what its maker wants CRIU to move in; whether CRIU can is not for the hook to judge."""
    host.run("ip", "link", "delete", READY)
    host.run("ip", "link", "add", READY, *kind)
    theirs = network(host)

    assert collect(host) == NOTHING

    assert network(host) == theirs
    outcome = restored(criu, host, images, "ready", HOOK)
    assert not any("error" in line for line in outcome.said("criu-veth:"))
    if "bridge" in kind:
        assert network(host) == theirs
    else:
        assert host.has_link("other0")
        assert not host.has_link("web0")


def test_device_of_a_restore_that_goes_on_is_left_alone(
    host: Host, criu: Criu, images: Path, before: dict[str, object]
) -> None:
    """The command runs while criu waits, just after the pair was made."""
    call = f'PYTHONPATH="{REPOSITORY}" "{sys.executable}" -m criu_veth gc | sed "s/^/gc: /"'
    other = script(images.parent / "gc", "setup-namespaces", call)

    outcome = restored(criu, host, images, "ready", other, HOOK, check=True)

    assert outcome.said("gc: ") == [f"gc: {NOTHING[0]}"]
    assert host.connect("10.0.0.2").ask("after") == "2 after"


@pytest.mark.parametrize("way", WAYS)
def test_criu_killed_later_leaves_nothing(
    host: Host, criu: Criu, images: Path, before: dict[str, object], way: str
) -> None:
    killer = script(images.parent / "killer", "post-restore", KILL)

    assert restored(criu, host, images, way, killer, HOOK).returncode != 0

    host.wait_no_link("web0", READY)
    assert network(host) == before
    assert collect(host) == NOTHING
    assert runs(host) == []
