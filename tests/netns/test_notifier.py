"""`criu_veth.Notifier` in a process of its own on a host, told what CRIU would tell it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Host, Link, Program, snapshot
from lab.standin import make_pair

ROOT = Path(__file__).parents[2]
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",), mtu=1400)
SLEEP = Program(argv=["sleep", "infinity"])

# A line is one thing to do, the answer is one line of JSON.
DRIVER = """import json, sys
sys.path.insert(0, sys.argv[1])
import criu_veth
from criu_veth.errors import CriuVethError
notifier = None
for line in sys.stdin:
    what, *rest = json.loads(line)
    said, fault = None, None
    try:
        if what == "external":
            said = criu_veth.external(*rest)
        elif what == "new":
            notifier = criu_veth.Notifier(rest[0], options=rest[1])
        elif what == "close":
            notifier.close()
        else:
            notifier.notify(what, *rest)
        said = said if said is not None else notifier.said
    except CriuVethError as error:
        fault = [error.exit_code, *error.faults]
    print(json.dumps([said, fault]), flush=True)
"""


class Driver:
    def __init__(self, host: Host) -> None:
        pipe = subprocess.PIPE
        self._process = host.popen(sys.executable, "-c", DRIVER, str(ROOT), stdin=pipe, stdout=pipe, stderr=None)

    def __call__(self, *what: object) -> tuple[Any, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        said, fault = json.loads(self._process.stdout.readline())
        return said, fault


def network(host: Host) -> dict[str, Any]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


@pytest.fixture
def driver(bridged: Host) -> Driver:
    return Driver(bridged)


@pytest.fixture
def dumped(bridged: Host, driver: Driver, images: Path) -> dict[str, Any]:
    """A checkpoint that was made with a Notifier; returns how the host's network was."""
    container = bridged.container([WEB], SLEEP)
    bridged.run("ip", "link", "set", "web0", "alias", "web, front")
    before = network(bridged)
    (images / "inventory.img").touch()  # of a checkpoint without devices: the network namespace comes back empty
    assert driver("new", None, []) == ([], None)
    assert driver("pre-dump", container.pid, str(images)) == (["pre-dump: captured eth0: web0"], None)
    container.kill()
    bridged.wait_no_link("web0")
    return before


@pytest.fixture
def fresh(bridged: Host) -> Container:
    return bridged.container((), SLEEP)


def test_external(bridged: Host, driver: Driver, dumped: dict[str, Any], images: Path, mapping: Path) -> None:
    mapping.write_text('mappings = ["eth1:front0@br1"]')

    assert driver("external", None, str(images)) == (["veth[eth0]:web0"], None)
    assert driver("external", str(mapping)) == (["veth[eth1]:front0"], None)
    assert driver("external", str(mapping), str(images)) == (["veth[eth0]:web0", "veth[eth1]:front0"], None)


def test_empty_network_namespace(
    bridged: Host, driver: Driver, dumped: dict[str, Any], fresh: Container, images: Path
) -> None:
    driver("new", None, [])
    assert driver("pre-restore", None, str(images)) == ([], None)
    said, fault = driver("setup-namespaces", fresh.pid, str(images))
    assert fault is None
    assert said[0] == "setup-namespaces: eth0: pair made: web0 here, eth0 in the container"
    for action in ("post-setup-namespaces", "post-restore", "network-unlock", "pre-resume", "post-resume"):
        assert driver(action, None, str(images))[1] is None

    assert network(bridged) == dumped


def test_verified_if_the_mapping_file_says_so(
    bridged: Host, driver: Driver, dumped: dict[str, Any], fresh: Container, images: Path, mapping: Path
) -> None:
    mapping.write_text("verify = true")
    driver("new", str(mapping), [])
    driver("pre-restore", None, str(images))
    driver("setup-namespaces", fresh.pid, str(images))
    assert driver("post-restore", None, str(images))[1] is None
    bridged.run("ip", "link", "set", "web0", "mtu", "1300")

    said, fault = driver("post-resume", None, str(images))

    assert fault is None
    assert any(line.startswith("post-resume: warning: verify: ") and "mtu" in line for line in said)


def test_made_ready(bridged: Host, driver: Driver, dumped: dict[str, Any], fresh: Container, images: Path) -> None:
    (images / "inventory.img").touch()
    (images / "netdev-9.img").touch()
    driver("new", None, ["netdev[eth0]:cv0"])
    assert driver("pre-restore", None, str(images))[1] is None
    assert driver("setup-namespaces", fresh.pid, str(images))[1] is None
    bridged.run("ip", "link", "set", "cv0", "name", "eth0", "netns", str(fresh.pid))
    fresh.run("ip", "link", "set", "eth0", "up")
    assert driver("post-restore", None, str(images))[1] is None
    assert driver("close")[1] is None

    assert network(bridged) == dumped
    assert list(bridged.path("/run/criu-veth/runs").iterdir()) == []


def test_what_criu_never_moved_is_removed(
    bridged: Host, driver: Driver, dumped: dict[str, Any], fresh: Container, images: Path
) -> None:
    (images / "inventory.img").touch()
    (images / "netdev-9.img").touch()
    before = network(bridged)
    driver("new", None, ["netdev[eth0]:cv0"])
    driver("pre-restore", None, str(images))
    driver("setup-namespaces", fresh.pid, str(images))
    assert bridged.has_link("cv0")

    said, fault = driver("close")

    assert fault is None
    assert said[-1].endswith("removed, a restore that died had left it")
    assert network(bridged) == before


def test_a_restore_that_cannot_go_on(
    bridged: Host, driver: Driver, dumped: dict[str, Any], fresh: Container, images: Path
) -> None:
    bridged.run("ip", "link", "del", "br0")
    driver("new", None, [])

    assert driver("pre-restore", None, str(images))[1] is None, "a runtime may make the pair"
    said, fault = driver("setup-namespaces", fresh.pid, str(images))

    assert said is None
    assert fault[0] == 1
    assert fault[1].startswith('veth eth0: bridge "br0" does not exist on this host (it has br1)')


def test_an_action_that_fails_leaves_nothing(
    bridged: Host, driver: Driver, dumped: dict[str, Any], fresh: Container, images: Path
) -> None:
    driver("new", None, [])
    driver("pre-restore", None, str(images))
    bridged.run("ip", "link", "add", "web0", "type", "dummy", check=False)
    bridged.run("ip", "link", "add", "name", "web0", "type", "bridge", check=False)
    before = network(bridged)

    _, fault = driver("setup-namespaces", fresh.pid, str(images))

    taken = 'veth eth0: the name "web0" is taken by a bridge device; delete or rename it, or choose another outer name'
    assert fault == [1, taken]
    assert network(bridged) == before


def test_without_a_process(driver: Driver, images: Path) -> None:
    driver("new", None, [])

    assert driver("pre-dump", None, str(images)) == (
        None,
        [2, "pre-dump: the container's first process is not known: pid is None"],
    )
    assert driver("no-such-action", None, str(images)) == ([], None)


@pytest.mark.parametrize(("bridge", "master"), [(None, "br0"), ("br1", "br1")])
def test_names_that_the_caller_told_criu_and_nobody_else(
    bridged: Host,
    driver: Driver,
    dumped: dict[str, Any],
    fresh: Container,
    images: Path,
    bridge: str | None,
    master: str,
) -> None:
    """Over RPC the options cannot be read, but what CRIU has made of them can be seen."""
    (images / "netdev-9.img").touch()
    driver("new", None, [])
    assert driver("pre-restore", None, str(images)) == ([], None)
    make_pair(fresh, "eth0", "lxc7", bridge)
    driver("post-setup-namespaces", fresh.pid, str(images))

    said, fault = driver("post-restore", fresh.pid, str(images))

    assert fault is None
    link = bridged.link("lxc7")
    assert (link["master"], link["ifalias"], link["mtu"]) == (master, "web, front", 1400)
    assert not bridged.has_link("web0")
    elsewhere = (
        ["post-restore: notice: eth0: left on the bridge that whoever called criu chose, not br0 as at the dump"]
        if bridge
        else []
    )
    assert [line for line in said if "notice" in line] == [
        'post-restore: notice: eth0: named "lxc7" by whoever called criu, not "web0" as at the dump',
        *elsewhere,
    ]
    assert 'post-restore: eth0: lxc7 alias "web, front"' in said
    assert not any("web0 " in line for line in said if "notice" not in line)


def test_namespace_that_was_external_to_criu(
    bridged: Host, driver: Driver, dumped: dict[str, Any], fresh: Container, images: Path
) -> None:
    """The images say so, and the pair in it is left as its maker made it, but for what it lacks."""
    (images / "netns-9.img").write_bytes(bytes.fromhex("1943565452379355080000004206") + b"podNet")
    make_pair(fresh, "eth0", "cni7", "br1")
    driver("new", None, [])
    assert driver("pre-restore", None, str(images)) == ([], None)
    for action in ("setup-namespaces", "post-setup-namespaces"):
        assert driver(action, fresh.pid, str(images)) == ([], None)

    said, fault = driver("post-restore", fresh.pid, str(images))

    assert fault is None
    assert said == [
        "post-restore: notice: eth0: cni7 was made by somebody else (at the dump it was web0): its name, MAC address,"
        " bridge, addresses and routes stay; put back: mtu, alias, inner mtu"
    ]
    link = bridged.link("cni7")
    assert (link["master"], link["ifalias"], link["mtu"]) == ("br1", "web, front", 1400)
