"""runc and crun: a connection goes on, and the outer end is what it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import snapshot
from lab.node import Node
from lab.oci import OVERLAY, Oci, install_on

#: What an administrator of crun writes beside the hook: CRIU makes a veth only if it is told to.
CRUN_LINES = ("external veth[eth0]:web0", "manage-cgroups=ignore")


def network(node: Node) -> dict[str, Any]:
    return {key: value for key, value in snapshot(node).items() if key != "programs"}


@pytest.mark.parametrize("cgroup", ["v1", "v2"])
@pytest.mark.parametrize("runtime", [pytest.param(name, marks=pytest.mark.runtime(name)) for name in ("runc", "crun")])
def test_own_network_namespace(node: Node, install: Callable[..., None], tmp_path: Path, runtime: str) -> None:
    install(runtime, *(CRUN_LINES if runtime == "crun" else ()))
    container = Oci(node, runtime, tmp_path)
    container.start()
    before = network(node)
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"

    container.checkpoint()
    node.wait_no_link("web0")
    container.restore()

    assert client.ask("again") == "2 again"
    assert network(node) == before
    assert container.listed() == ["web running"]
    made = "criu-veth: setup-namespaces: eth0: pair made: web0 here, eth0 in the container"
    assert (made in container.said("restore.log")) == (runtime == "runc")
    assert json.loads((container.images / "criu-veth.json").read_text())["container"] == {
        "runtime": runtime,
        "id": "web",
        "names": ["web"],
    }


@pytest.mark.parametrize("runtime", [pytest.param(name, marks=pytest.mark.runtime(name)) for name in ("runc", "crun")])
def test_a_program_that_was_made_at_the_dump_is_used(
    node: Node, install: Callable[..., None], tmp_path: Path, runtime: str
) -> None:
    install(runtime, *(CRUN_LINES if runtime == "crun" else ()))
    container = Oci(node, runtime, tmp_path)
    container.start()
    container.checkpoint()
    node.wait_no_link("web0")
    programs = node.path("/run/criu-veth/programs")
    before = {path.name: path.stat().st_mtime_ns for path in programs.iterdir()}

    container.restore()

    assert {path.name: path.stat().st_mtime_ns for path in programs.iterdir()} == before


@pytest.mark.parametrize("runtime", [pytest.param(name, marks=pytest.mark.runtime(name)) for name in ("runc", "crun")])
def test_every_script_runs_twice(node: Node, install: Callable[..., None], tmp_path: Path, runtime: str) -> None:
    """CRIU 4.1.1 does so by itself with a runtime's configuration file."""
    install(runtime, "action-script /usr/local/libexec/criu-veth/hook", *(CRUN_LINES if runtime == "crun" else ()))
    container = Oci(node, runtime, tmp_path)
    container.start()
    before = network(node)
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"

    container.checkpoint()
    node.wait_no_link("web0")
    container.restore()

    assert client.ask("again") == "2 again"
    assert network(node) == before
    assert len([line for line in container.said("dump.log") if line == "criu-veth: pre-dump: captured eth0: web0"]) == 2


@pytest.mark.runtime("runc")
def test_network_namespace_by_path(node: Node, install: Callable[..., None], tmp_path: Path) -> None:
    """Whoever made the namespace and its veth keeps them: nothing is done, and nothing is in the way."""
    install("runc")
    node.run("ip", "netns", "add", "web")
    container = Oci(node, "runc", tmp_path, netns="/run/netns/web")
    container.plug()
    container.start()
    before = network(node)
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"

    container.checkpoint()
    assert node.has_link("web0")
    container.restore()

    assert client.ask("again") == "2 again"
    assert network(node) == before


@pytest.mark.runtime("runc")
def test_a_veth_that_a_hook_of_the_bundle_makes_is_left_to_it(
    node: Node, install: Callable[..., None], tmp_path: Path
) -> None:
    """Hooks of the kind createRuntime run at the restore too, before the action script."""
    install("runc")
    script = tmp_path / "plug"
    script.write_text(
        """#!/bin/sh
set -e
pid=$(sed -n 's/.*"pid":\\([0-9]*\\).*/\\1/p')
ip link add mine0 alias "somebody's" type veth peer name eth0 netns "$pid"
ip link set mine0 master br0 up
nsenter -t "$pid" -n sh -ec 'ip link set lo up; ip address add 10.0.0.2/24 dev eth0; ip link set eth0 up'
"""
    )
    script.chmod(0o755)
    path = {"path": str(script), "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
    container = Oci(node, "runc", tmp_path, netns="", hooks={"createRuntime": [path]})
    container.plug = lambda: None  # type: ignore[method-assign]
    container.start()
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"

    container.checkpoint()
    node.wait_no_link("mine0")
    container.restore()

    assert client.ask("again") == "2 again"
    assert "criu-veth: setup-namespaces: notice: eth0: is there already, made by somebody else: adopted" in (
        container.said("restore.log")
    )


@pytest.mark.runtime("runc")
def test_mapping_file_that_matches_the_container(node: Node, install: Callable[..., None], tmp_path: Path) -> None:
    install("runc")
    directory = node.path("/etc/criu/criu-veth.d")
    directory.mkdir(mode=0o755)
    (directory / "10-db.toml").write_text('mappings = ["eth0:db0"]\n[match]\ncontainer = "db*"\n')
    (directory / "20-web.toml").write_text('mappings = ["eth0:front0@br1"]\n[match]\ncontainer = "shop/web-?/server"\n')
    node.bridge("br1")
    annotations = {
        "io.kubernetes.cri.container-name": "server",
        "io.kubernetes.cri.sandbox-name": "web-1",
        "io.kubernetes.cri.sandbox-namespace": "shop",
    }
    container = Oci(node, "runc", tmp_path, annotations=annotations)
    container.start()
    container.checkpoint()
    node.wait_no_link("web0")

    container.restore()

    assert node.link("front0")["master"] == "br1"
    assert not node.has_link("db0")


@pytest.mark.runtime("crun")
@pytest.mark.parametrize("action", ["pre-dump", "network-lock", "post-dump"])
def test_a_script_that_fails_at_the_dump(node: Node, tmp_path: Path, action: str) -> None:
    """The dump fails, and the application goes on."""
    failing(node, tmp_path, action)
    container = Oci(node, "crun", tmp_path)
    container.start()
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"

    assert container.checkpoint(check=False) != 0

    assert client.ask("again") == "2 again"


@pytest.mark.runtime("crun")
@pytest.mark.parametrize("action", ["pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore"])
def test_a_script_that_fails_at_the_restore(node: Node, tmp_path: Path, action: str) -> None:
    """The restore is given up, and the host is as it was before."""
    failing(node, tmp_path, action)
    container = Oci(node, "crun", tmp_path)
    container.start()
    container.checkpoint()
    node.wait_no_link("web0")
    before = network(node)

    assert container.restore(check=False) != 0

    node.wait_no_link("web0")
    assert network(node) == before


@pytest.mark.runtime("crun")
@pytest.mark.parametrize("action", ["network-unlock", "pre-resume", "post-resume"])
def test_a_script_that_fails_too_late_to_matter(node: Node, tmp_path: Path, action: str) -> None:
    failing(node, tmp_path, action)
    container = Oci(node, "crun", tmp_path)
    container.start()
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"
    container.checkpoint()
    node.wait_no_link("web0")

    assert container.restore(check=False) == 0

    node.run("ip", "link", "set", "web0", "master", "br0", "up")  # this script is not ours
    assert client.ask("again") == "2 again"


def failing(node: Node, tmp_path: Path, action: str) -> None:
    """Give crun a script that fails at one action and does nothing at the others."""
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != {action} ]\n')
    script.chmod(0o755)
    lines = (f"action-script {script}", *CRUN_LINES)
    node.path("/etc/criu/crun.conf").write_text("".join(f"{line}\n" for line in lines))


PLUG = """#!/bin/sh
set -e
pid=$(sed -n 's/.*"pid":\\([0-9]*\\).*/\\1/p')
ip link add {outer} type veth peer name eth0 netns "$pid"
ip link set {outer} master {bridge} up
nsenter -t "$pid" -n sh -ec '{inside}'
"""
INSIDE = "ip link set lo up; ip address add 10.0.0.2/24 dev eth0; ip link set eth0 up"


@pytest.mark.runtime("runc")
@pytest.mark.parametrize("by", ["path", "hook"])
@pytest.mark.parametrize("bridge", ["br0", "kube-br"])
def test_restored_on_another_node_whose_network_somebody_else_makes(tmp_path: Path, by: str, bridge: str) -> None:
    """CNI's namespace by path, or a createRuntime hook that plugs the veth in: names of its own, another bridge."""
    with ExitStack() as stack:
        made = {}
        for name, outer, master in (("one", "vetha1", "br0"), ("two", "vethb2", bridge)):
            node = stack.enter_context(Node("v2"))
            node.run("sh", "-ec", OVERLAY)
            node.bridge(master, "10.0.0.1/24")
            install_on(node, "runc")
            directory = tmp_path / name
            directory.mkdir()
            hooks = {}
            if by == "hook":
                script = directory / "plug"
                script.write_text(PLUG.format(outer=outer, bridge=master, inside=INSIDE))
                script.chmod(0o755)
                path = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
                hooks = {"createRuntime": [{"path": str(script), "env": path}]}
            else:
                node.run("ip", "netns", "add", "web")
                node.run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", "web")
                node.run("ip", "link", "set", outer, "master", master, "up")
                node.run("nsenter", "--net=/run/netns/web", "sh", "-ec", INSIDE)
            made[name] = Plugged(node, "runc", directory, netns="/run/netns/web" if by == "path" else "", hooks=hooks)
        one, two = made["one"], made["two"]
        one.start()
        one.node.run("ip", "link", "set", "vetha1", "alias", "web, front", "txqueuelen", "500")
        one.checkpoint()
        shutil.copytree(one.images, two.images)

        two.restore()

        link = two.node.link("vethb2")
        assert (link["master"], link["ifalias"], link["txqlen"]) == (bridge, "web, front", 500)
        assert two.node.connect("10.0.0.2").ask("hello") == "1 hello"


class Plugged(Oci):
    """A container that somebody else plugs in."""

    def plug(self) -> None:
        """Leave that to them."""
