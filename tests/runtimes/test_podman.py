"""Podman: a bridge network that is its own, and a container without one that was plugged in by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import snapshot
from lab.container import ECHO_SERVER, PYTHON, ROOT
from lab.node import Node, find_program
from lab.process import CommandError

pytestmark = pytest.mark.runtime("podman")

CRUN_LINES = ("external veth[eth0]:web0", "manage-cgroups=ignore")


class Podman:
    """The podman with all of its storage below `directory`."""

    def __init__(self, node: Node, runtime: str, directory: Path) -> None:
        self.node = node
        self.storage = directory / "storage"
        self._log = directory / "podman.log"
        (directory / "containers.conf").write_text(
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{directory}/networks"\n'
        )
        self._env = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "TMPDIR": str(directory)}
        self._env["CONTAINERS_CONF"] = str(directory / "containers.conf")
        self._options = ["--root", str(self.storage), "--runroot", "/run/podman", "--tmpdir", "/run/podman-tmp"]
        self._options += ["--runtime", str(find_program(runtime)), "--cgroup-manager", "cgroupfs"]
        self._options += ["--events-backend", "file", "--storage-driver", "vfs"]

    def __call__(self, *words: str) -> str:
        argv = ["podman", *self._options, *words]
        with self._log.open("w") as log:
            status = self.node.popen(*argv, env=self._env, stdout=log, stderr=log).wait(60)
        text = self._log.read_text()
        if status:
            raise CommandError(argv, f"exit status {status}", text, "")
        return text

    def start(self, network: str) -> tuple[str, str]:
        """Start the container "web"; return its first process and its address."""
        options = ["--network", network, "--log-driver", "none", "--pids-limit", "-1", "--rootfs", ROOT]
        self("run", "-d", "--name", "web", *options, PYTHON, "-I", "-S", "-c", ECHO_SERVER, "7000")
        (inspected,) = json.loads(self("inspect", "web"))
        return str(inspected["State"]["Pid"]), str(inspected["NetworkSettings"]["IPAddress"])

    def state(self) -> dict[str, Any]:
        """The state file of the last checkpoint."""
        (path,) = self.storage.glob("vfs-containers/*/userdata/checkpoint/criu-veth.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def network(node: Node) -> dict[str, Any]:
    return {key: value for key, value in snapshot(node).items() if key != "programs"}


def outer_end(node: Node) -> str:
    (link,) = node.ip("link", "show", "type", "veth")
    return str(link["ifname"])


@pytest.mark.parametrize(
    ("runtime", "cgroup"),
    [
        pytest.param("runc", "v1", marks=pytest.mark.runtime("runc", "podman")),
        pytest.param("crun", "v2", marks=pytest.mark.runtime("crun", "podman")),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_bridge_network(node: Node, install: Callable[..., None], tmp_path: Path, runtime: str, mapped: bool) -> None:
    """The veth is made anew by podman, which owns its name and MAC address; what was set on it since comes back."""
    install(runtime, "tcp-established", *(CRUN_LINES[1:] if runtime == "crun" else ()))
    if mapped:
        node.path("/etc/criu/criu-veth.d").mkdir(mode=0o755)
        text = '[match]\ncontainer = "web"\n[[veth]]\ninner = "eth0"\nalias = "mapped"\n'
        node.path("/etc/criu/criu-veth.d/web.toml").write_text(text)
    podman = Podman(node, runtime, tmp_path)
    _, address = podman.start("bridge")
    outer = outer_end(node)
    node.run("ip", "link", "set", outer, "alias", "web, front", "txqueuelen", "500")
    node.run("bridge", "link", "set", "dev", outer, "isolated", "on")
    before = node.link(outer)
    client = node.connect(address)
    assert client.ask("hello") == "1 hello"

    podman("container", "checkpoint", "--tcp-established", "--keep", "web")
    assert podman.state()["container"]["names"] == ["web"]
    podman("container", "restore", "--tcp-established", "--keep", "web")

    assert client.ask("again") == "2 again"
    after = node.link(outer_end(node))
    assert after["master"] == "podman0"
    same = ("mtu", "master", "txqlen", "flags")
    assert {key: after.get(key) for key in same} == {key: before.get(key) for key in same}
    assert after["ifalias"] == ("mapped" if mapped else "web, front")
    assert after["linkinfo"]["info_slave_data"]["isolated"] is True
    podman("rm", "-f", "-t", "0", "web")


@pytest.mark.runtime("crun", "podman")
@pytest.mark.parametrize("cgroup", ["v1", "v2"])
def test_no_network_of_its_own(node: Node, install: Callable[..., None], tmp_path: Path) -> None:
    install("crun", "tcp-established", *CRUN_LINES)
    podman = Podman(node, "crun", tmp_path)
    pid, _ = podman.start("none")
    node.run("ip", "link", "add", "web0", "mtu", "1400", "type", "veth", "peer", "name", "eth0", "netns", pid)
    inside = "ip address add 10.0.0.2/24 dev eth0 && ip link set lo up && ip link set eth0 up"
    node.run("nsenter", "-t", pid, "-n", "sh", "-ec", inside)
    node.run("ip", "link", "set", "web0", "master", "br0", "alias", "web, front", "up")
    before = network(node)
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"

    podman("container", "checkpoint", "--tcp-established", "--keep", "web")
    node.wait_no_link("web0")
    podman("container", "restore", "--tcp-established", "--keep", "web")

    assert client.ask("again") == "2 again"
    assert network(node) == before
    podman("rm", "-f", "-t", "0", "web")


ALIAS_ONLY = '[match]\ncontainer = "web"\n[[veth]]\ninner = "eth0"\nalias = "mapped"\n'


@pytest.fixture
def taken(node: Node, install: Callable[..., None], tmp_path: Path) -> Podman:
    """Podman with runc, a mapping file that names the container, and the container on podman's own network."""
    install("runc")
    node.path("/etc/criu/criu-veth.d").mkdir(mode=0o755)
    node.path("/etc/criu/criu-veth.d/web.toml").write_text(ALIAS_ONLY)
    podman = Podman(node, "runc", tmp_path)
    podman.start("bridge")
    return podman


@pytest.mark.runtime("runc", "podman")
@pytest.mark.parametrize("cgroup", ["v1"])
def test_name_that_another_container_has_meanwhile(node: Node, taken: Podman) -> None:
    """Netavark calls outer ends veth0, veth1, ... by what is free: the captured name may be anybody's by now."""
    was = outer_end(node)
    taken("container", "checkpoint", "--keep", "web")
    node.run("ip", "link", "add", was, "type", "veth", "peer", "name", "other0")

    taken("container", "restore", "--keep", "web")

    (link,) = node.ip("link", "show", "master", "podman0")
    assert link["ifname"] != was
    assert link["ifalias"] == "mapped"
    assert "ifalias" not in node.link(was)
    taken("rm", "-f", "-t", "0", "-a")
