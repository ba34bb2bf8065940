"""The dump's side: what the hook does at pre-dump, and what it says when that cannot be done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Container, Host, Link, Program
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Restoring = Callable[..., StandIn]
REMEDY = 'to dump without it: [capture] on_error = "warn" or enabled = false in the mapping file'
SLEEPER = Program(argv=["sleep", "infinity"])


@pytest.fixture
def plugged(bridged: Host) -> Container:
    """A container with a veth on br0."""
    return bridged.container([Link(inner="eth0", outer="web0", bridge="br0")], SLEEPER)


def test_captured_and_said(restoring: Restoring, plugged: Container, images: Path) -> None:
    done = restoring("").act("pre-dump", plugged)

    assert (done.returncode, done.stderr) == (0, "criu-veth: pre-dump: captured eth0: web0\n")
    state = json.loads((images / "criu-veth.json").read_text())
    (veth,) = state["veths"]
    assert (veth["inner"]["ifname"], veth["outer"]["ifname"]) == ("eth0", "web0")
    assert veth["outer"]["mac"] == plugged.host.link("web0")["address"]
    assert veth["outer"]["master"] == "br0"


def test_every_metric_of_a_route(restoring: Restoring, plugged: Container, container: Container) -> None:
    host = plugged.host
    host.run("ip", "address", "add", "10.9.0.1/24", "dev", "web0")
    metrics = "mtu 1300 advmss 1200 hoplimit 9 initcwnd 20 quickack 1 congctl reno fastopen_no_cookie 1".split()
    host.run("ip", "route", "add", "10.99.0.0/24", "via", "10.9.0.2", "dev", "web0", *metrics)
    before = host.run("ip", "route", "show", "10.99.0.0/24").stdout
    restore = restoring("")
    assert restore.act("pre-dump", plugged).stderr == "criu-veth: pre-dump: captured eth0: web0\n"
    plugged.kill()
    plugged.wait_unplugged()

    for action in ("pre-restore", "setup-namespaces", "post-setup-namespaces"):
        done = restore.act(action, *([] if action == "pre-restore" else [container]))
        assert (done.returncode, done.stderr) == (0, "")
    make_pair(container, "eth0", "web0")
    assert restore.act("post-restore", container).returncode == 0

    assert host.run("ip", "route", "show", "10.99.0.0/24").stdout == before


def test_nothing_is_added_to_the_host(restoring: Restoring, plugged: Container) -> None:
    before = plugged.host.ip("link", "show")
    assert restoring("").act("pre-dump", plugged).returncode == 0
    assert [link["ifname"] for link in plugged.host.ip("link", "show")] == [link["ifname"] for link in before]


def test_switched_off(restoring: Restoring, plugged: Container, images: Path) -> None:
    done = restoring("[capture]\nenabled = false\n").act("pre-dump", plugged)
    assert (done.returncode, done.stderr) == (
        0,
        "criu-veth: pre-dump: the outer ends are not captured ([capture] enabled = false)\n",
    )
    assert not (images / "criu-veth.json").exists()


@pytest.mark.parametrize("text", ["", '[capture]\non_error = "warn"\n'])
def test_process_is_gone(restoring: Restoring, bridged: Host, text: str) -> None:
    """CRIU's own error tells the caller."""
    done = restoring(text).act("pre-dump", gone := _ended())
    assert (done.returncode, done.stderr) == (
        0,
        f"criu-veth: pre-dump: notice: there is no process {gone}: nothing captured\n",
    )


def _ended() -> int:
    """The number of a process that has ended and been reaped."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_network_of_the_host_itself(restoring: Restoring, bridged: Host, images: Path) -> None:
    bridged.veth("veth0", "veth1")
    done = restoring("").act("pre-dump", bridged.pid)
    assert (done.returncode, done.stderr) == (
        0,
        "criu-veth: pre-dump: notice: the container has no veth to the host\n",
    )
    assert "veths" not in json.loads((images / "criu-veth.json").read_text())


def test_other_devices_are_noted(restoring: Restoring, plugged: Container) -> None:
    plugged.run("sh", "-ec", "ip link add br9 type bridge; ip link add pair0 type veth peer name pair1")
    done = restoring("").act("pre-dump", plugged)
    assert (done.returncode, sorted(done.stderr.splitlines())) == (
        0,
        [
            "criu-veth: pre-dump: captured eth0: web0",
            "criu-veth: pre-dump: notice: br9: bridge device, not touched",
            "criu-veth: pre-dump: notice: pair0: its peer is in the container too, not touched",
            "criu-veth: pre-dump: notice: pair1: its peer is in the container too, not touched",
        ],
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [("ro", "Read-only file system"), ("size=4k,nr_inodes=2", "No space left on device")],
)
def test_image_directory_that_takes_nothing(
    host: Host, hook: Path, plugged: Container, mapping: Path, options: str, why: str
) -> None:
    mapping.write_text("")
    script = f"""
mkdir /run/images; mount -t tmpfs -o {options} images /run/images; cd /run/images; [ {options} = ro ] || : >x
exec 9</run/images
CRTOOLS_SCRIPT_ACTION=pre-dump CRTOOLS_IMAGE_DIR=/proc/$$/fd/9 CRTOOLS_INIT_PID={plugged.pid} "$1"
"""
    done = host.run("sh", "-c", script, "criu", str(hook), env={"CRIU_VETH_CONFIG": str(mapping)}, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(f"criu-veth.json: {why}; {REMEDY}\n")
    assert host.run("ls", "-A", "/run/images").stdout in ("", "x\n")


def test_bridge_of_another_host(restoring: Restoring, plugged: Container, host: Host) -> None:
    assert restoring("").act("pre-dump", plugged).returncode == 0
    plugged.kill()
    plugged.wait_unplugged()
    host.run("ip", "link", "del", "br0")

    done = restoring("").act("pre-restore")

    assert (done.returncode, done.stderr) == (
        1,
        'criu-veth: error: pre-restore: veth eth0: bridge "br0" does not exist on this host (it has br1); if it is'
        ' called differently here, write in the mapping file: [remap] bridge = { br0 = "..." }\n',
    )


def test_bridge_of_another_host_is_called_differently(restoring: Restoring, plugged: Container, host: Host) -> None:
    assert restoring("").act("pre-dump", plugged).returncode == 0
    plugged.kill()
    plugged.wait_unplugged()
    host.run("ip", "link", "del", "br0")

    done = restoring('[remap]\nbridge = { br0 = "br1" }\n').act("pre-restore")

    assert (done.returncode, done.stderr) == (0, "")


def test_damaged_state_file(restoring: Restoring, images: Path, container: Container) -> None:
    (images / "criu-veth.json").write_text('{"version": 1, "host": {')
    restore = restoring("")
    done = restore.act("pre-restore")
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: pre-restore: {images}/criu-veth.json: is damaged: Input data was truncated\n",
    )


def test_a_capture_reads_no_other_device(restoring: Restoring, plugged: Container) -> None:
    """What is asked of the kernel does not grow with the number of devices on the host."""
    for where in (plugged, plugged.host):  # no addresses that come by themselves between two counts
        where.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    few = _requests(plugged)
    plugged.host.run("ip", "-batch", "-", stdin="".join(f"link add v{n} type veth peer name w{n}\n" for n in range(60)))
    assert _requests(plugged) == few


def _requests(container: Container) -> int:
    script = (
        "from criu_veth import capture, wire\n"
        "count = 0\n"
        "receive = wire.Rtnl._receive\n"
        "def counting(self):\n"
        "    global count\n"
        "    found = receive(self)\n"
        "    count += len(found)\n"
        "    return found\n"
        "wire.Rtnl._receive = counting\n"
        f"capture.capture({container.pid})\n"
        "print(count)\n"
    )
    return int(container.host.run(sys.executable, "-c", script).stdout)
