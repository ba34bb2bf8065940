"""LXC: it makes CRIU's options itself, and takes the hook with -A."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab import snapshot, wait_for
from lab.container import PYTHON, ROOT
from lab.node import Node

pytestmark = pytest.mark.runtime("lxc-start", "lxc-checkpoint")

HOOK = Path(__file__).parents[2] / "hooks/criu-veth"
SERVER = Path(__file__).parents[1] / "lab/echo_server.py"
CONFIG = """lxc.rootfs.path = dir:{root}
lxc.uts.name = web
lxc.net.0.type = veth
lxc.net.0.flags = up
lxc.net.0.name = eth0
lxc.net.0.veth.pair = web0
lxc.net.0.mtu = 1400
lxc.net.0.ipv4.address = 10.0.0.2/24
lxc.tty.max = 0
lxc.pty.max = 1
lxc.console.path = none
lxc.mount.auto = proc:mixed
lxc.autodev = 1
lxc.cap.drop =
"""

# Where cgroup v2 has no controller, LXC names the cgroup to CRIU without a slash, which CRIU takes for granted, and as
# that of every hierarchy. What CRIU's configuration says of one hierarchy goes before it.
CGROUP_ROOTS = """grep -q . /sys/fs/cgroup/cgroup.controllers ||
exec awk -F: '{ print "cgroup-root " $2 ":" ($2 == "" ? "/lxc.payload.web" : "/") }' \
    /proc/self/cgroup >/etc/criu/default.conf"""


def network(node: Node) -> dict[str, Any]:
    return {key: value for key, value in snapshot(node).items() if key != "programs"}


@pytest.mark.parametrize("link", [True, False])
def test_lxc(node: Node, tmp_path: Path, link: bool) -> None:
    configuration = CONFIG.format(root=ROOT) + ("lxc.net.0.link = br0\n" if link else "")
    (tmp_path / "web").mkdir()
    (tmp_path / "web/config").write_text(configuration)
    server = tmp_path / "server.py"
    server.write_text(SERVER.read_text())
    tmp_path.chmod(0o755)
    where = ("-P", str(tmp_path), "-n", "web")
    node.detached("lxc-start", *where, "-d", "--", PYTHON, "-I", "-S", str(server), "7000")
    if link:
        node.run("ip", "link", "set", "web0", "alias", "web, front")
        node.run("bridge", "link", "set", "dev", "web0", "isolated", "on")
    else:
        node.run("ip", "address", "del", "10.0.0.1/24", "dev", "br0")
        node.run("ip", "address", "add", "10.0.0.1/32", "dev", "web0")
        node.run("ip", "link", "set", "web0", "up", "txqueuelen", "500")
        node.run("ip", "route", "add", "10.0.0.2/32", "dev", "web0")
    node.run("sh", "-c", CGROUP_ROOTS)
    before = network(node)
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"

    node.run("lxc-checkpoint", *where, "-D", str(tmp_path / "images"), "-s", "-A", str(HOOK))
    node.wait_no_link("web0")
    node.detached("lxc-checkpoint", "-r", "-d", *where, "-D", str(tmp_path / "images"), "-A", str(HOOK))

    assert client.ask("again") == "2 again"
    assert network(node) == before
    captured = json.loads((tmp_path / "images/criu-veth.json").read_text())
    assert captured["container"] == {"runtime": "lxc", "id": "web", "names": ["web"]}
    node.run("lxc-stop", *where, "-k")
    wait_for(lambda: not node.has_link("web0"), "web0 to go")
