"""Every action called twice, as CRIU 4.1.1 does with the scripts of a runtime's configuration file: harmless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import Container, Host, Link, Program, snapshot
from lab.standin import StandIn, make_pair

WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"), mtu=1400)
SLEEP = Program(argv=["sleep", "infinity"])


def network(host: Host) -> dict[str, Any]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


def inside(container: Container) -> list[tuple[str, str]]:
    return sorted(
        (link["ifname"], entry["local"])
        for link in container.ip("address", "show")
        for entry in link["addr_info"]
        if not entry["local"].startswith("fe80:")
    )


@pytest.mark.parametrize("way", ["external", "ready", "empty"])
def test_each_action_twice(bridged: Host, hook: Path, images: Path, way: str) -> None:
    dumped = bridged.container([WEB], SLEEP)
    bridged.run("ip", "link", "set", "web0", "alias", "web, front", "txqueuelen", "500")
    before, addresses = network(bridged), inside(dumped)
    options = {"external": ["--external", "veth[eth0]:web0"], "ready": ["--external", "netdev[eth0]:cv0"]}.get(way, [])

    def twice(restore: StandIn, action: str, container: Container | None = None) -> None:
        for _ in range(2):
            done = restore.act(action, container)
            assert done.returncode == 0, (action, done.stderr)

    with StandIn(bridged, hook, images) as dump:
        for action in ("pre-dump", "network-lock", "post-dump"):
            twice(dump, action, dumped)
    dumped.kill()
    bridged.wait_no_link("web0")

    container = bridged.container((), SLEEP)
    container.run("ip", "link", "set", "lo", "down")
    if way == "empty":
        options = ["--empty-ns", "net"]
    with StandIn(bridged, hook, images, options=options) as restore:
        twice(restore, "pre-restore")
        twice(restore, "setup-namespaces", container)
        if way == "external":
            make_pair(container, "eth0", "x0")
        if way == "ready":
            move = ["ip", "link", "set", "cv0", "name", "eth0", "mtu", "1400", "up", "netns", str(container.pid)]
            bridged.run(*move)
            container.run("ip", "link", "set", "eth0", "up")
        if way != "empty":
            for address in WEB.addresses:
                container.run("ip", "address", "add", address, "dev", "eth0")
        for action in ("post-setup-namespaces", "post-restore", "network-unlock", "pre-resume", "post-resume"):
            twice(restore, action, container)

    assert network(bridged) == before
    assert [entry for entry in inside(container) if entry[0] != "lo"] == [e for e in addresses if e[0] != "lo"]
