"""The commands about checkpoints, with those that a real CRIU makes: inspect, options, prepare, restore, verify."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Criu, Host, Link, Outcome
from lab.cli import cli

ROOT = Path(__file__).parents[2]
HOOK = ROOT / "hooks" / "criu-veth"
LINKS = [
    Link(
        inner="eth0",
        outer="web0",
        bridge="br0",
        addresses=("10.0.0.2/24", "2001:db8::2/64"),
        mtu=9000,
        gateway="10.0.0.1",
        outer_args=("alias", 'web, "front"', "txqueuelen", "500"),
    ),
    Link(inner="eth1", outer="db0"),
]
OUTER = """
ip link property add dev web0 altname veth-web-front-end
ip address add 169.254.1.1/32 dev db0
ip route add 10.9.0.0/24 dev db0
echo 1 >/proc/sys/net/ipv4/conf/db0/proxy_arp
bridge link set dev web0 hairpin on isolated on
bridge fdb add 02:00:00:00:00:10 dev web0 master static
ip neigh add 169.254.1.9 lladdr 02:00:00:00:00:09 dev db0
tc qdisc add dev web0 root tbf rate 10mbit burst 32k latency 50ms
"""
INNER = """
ip link set eth1 txqueuelen 77
ip route add 10.7.0.0/16 via 10.0.0.1 dev eth0
echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter
"""
MODES = ["external", "ready", "empty"]


@pytest.fixture
def container(host: Host) -> Container:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container(LINKS)
    host.run("sh", "-ec", OUTER)
    container.run("sh", "-ec", INNER)
    return container


@pytest.fixture
def dumped(container: Container, criu: Criu, images: Path) -> Path:
    """Images that were made with the hook; their container is gone."""
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    return images


def said(host: Host, *words: object) -> str:
    shown = cli(host, *words)
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout


def restore(host: Host, criu: Criu, images: Path, *words: str) -> Outcome:
    """Restore with what ``criu-veth options`` says, and nothing else."""
    conf = images / "restore.conf"
    conf.write_text(said(host, "options", "--images", images, "--format", "conf", *words))
    return criu.restore(host, images, external=(), args=["--config", str(conf)])


def programs(host: Host) -> dict[str, tuple[int, int]]:
    found = sorted(host.path("/run/criu-veth/programs").iterdir())
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def forget_programs(host: Host) -> None:
    """Be another host, on which nothing has been prepared."""
    host.run("rm", "-rf", "/run/criu-veth")


@pytest.mark.parametrize("mode", MODES)
def test_all_that_was_captured_is_restored_and_verified(host: Host, criu: Criu, dumped: Path, mode: str) -> None:
    restored = restore(host, criu, dumped, "--mode", mode)

    assert host.connect("10.0.0.2").ask("hello") == "1 hello"
    verify = ("verify", "--pid", restored.pid, "--images", dumped, "--mode", mode)
    assert said(host, *verify) == f"equal: 2 veths ({dumped}/criu-veth.json)\n"

    host.run("ip", "link", "set", "web0", "mtu", "1500")
    shown = cli(host, *verify)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert shown.stdout == "veths[eth0].outer.mtu: wanted 9000, found 1500\n"


def test_verify_without_the_hook_says_what_criu_lost(host: Host, criu: Criu, dumped: Path) -> None:
    restored = criu.restore(host, dumped, external=["veth[eth0]:web0@br0", "veth[eth1]:db0"])

    shown = cli(host, "verify", "--pid", restored.pid, "--images", dumped)

    assert (shown.returncode, shown.stderr) == (1, "")
    lines = shown.stdout.splitlines()
    assert {
        "veths[eth0].outer.mtu: wanted 9000, found 1500",
        'veths[eth0].outer.alias: wanted web, "front", found nothing',
        "veths[eth0].outer.altnames[veth-web-front-end]: wanted, but not there",
        "veths[eth0].outer.port.isolated: wanted 1, found 0",
        "veths[eth0].outer.fdb[02:00:00:00:00:10]: wanted, but not there",
        "veths[eth1].outer.up: wanted on, found off",
        "veths[eth1].outer.addresses[169.254.1.1/32]: wanted, but not there",
        "veths[eth1].outer.routes[10.9.0.0/24]: wanted, but not there",
        'veths[eth1].outer.sysctl."ipv4.proxy_arp": wanted 1, found 0',
        "veths[eth1].outer.neighbours[169.254.1.9]: wanted, but not there",
        "veths[eth1].inner.txqueuelen: wanted 77, found 1000",
    } <= set(lines)
    assert not [line for line in lines if ".inner.mtu" in line or ".inner.addresses" in line or ".inner.route" in line]


def test_a_mapping_file_in_the_images_says_what_is_different(host: Host, criu: Criu, dumped: Path) -> None:
    host.bridge("lan", "10.0.0.254/24")
    (dumped / "criu-veth.toml").write_text(
        '[remap]\nbridge = { br0 = "lan" }\n[[veth]]\ninner = "eth1"\nouter = "front0"\nmtu = 1400\n'
    )

    restored = restore(host, criu, dumped)

    assert host.link("web0")["master"] == "lan"
    assert said(host, "verify", "--pid", restored.pid, "--images", dumped) == (
        f"equal: 2 veths ({dumped}/criu-veth.toml, {dumped}/criu-veth.json)\n"
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_restore_starts_with_what_was_prepared(host: Host, criu: Criu, dumped: Path, mode: str) -> None:
    forget_programs(host)
    assert said(host, "prepare", "--mode", mode, dumped) == (
        f"ready: eth0: web0, eth1: db0 ({dumped}/criu-veth.json)\n"
    )
    before = programs(host)

    restored = restore(host, criu, dumped, "--mode", mode)

    assert programs(host) == before
    assert cli(host, "verify", "--pid", restored.pid, "--images", dumped, "--mode", mode).returncode == 0


def test_a_migrations_target_is_prepared_while_the_source_runs(
    host: Host, host_factory: Callable[[], Host], criu: Criu, container: Container, images: Path
) -> None:
    target = host_factory()
    (images / "criu-veth.json").write_text(said(host, "capture", "--pid", container.pid))
    shown = cli(target, "prepare", images)
    assert (shown.returncode, shown.stdout) == (1, "")
    because = (
        "not put back, because this host did not capture it itself; to allow it, write in the mapping file: [trust]"
    )
    assert shown.stderr == (
        f'criu-veth: warning: veth eth0: the forwarding entry for 02:00:00:00:00:10: {because} allow = ["fdb"]\n'
        f'criu-veth: warning: veth eth1: the route to 10.9.0.0/24: {because} allow = ["routes"]\n'
        f'criu-veth: warning: veth eth1: the neighbour 169.254.1.9: {because} allow = ["neighbours"]\n'
        'criu-veth: error: veth eth0: bridge "br0" does not exist on this host (it has none); if it is called'
        ' differently here, write in the mapping file: [remap] bridge = { br0 = "..." }\n'
    )

    target.bridge("lan", "10.0.0.1/24")
    (images / "criu-veth.toml").write_text(
        '[remap]\nbridge = { br0 = "lan" }\n[trust]\nallow = ["fdb", "routes", "neighbours"]\n'
    )
    assert said(target, "prepare", images) == (
        f"ready: eth0: web0, eth1: db0 ({images}/criu-veth.toml, {images}/criu-veth.json)\n"
    )
    before = programs(target)
    criu.dump(container, images)  # without the hook: the state file stays as it is
    restored = restore(target, criu, images)

    assert programs(target) == before
    assert target.link("web0")["master"] == "lan"
    assert said(target, "verify", "--pid", restored.pid, "--images", images) == (
        f"equal: 2 veths ({images}/criu-veth.toml, {images}/criu-veth.json)\n"
    )
    restored.container.kill()  # it has the mark of the host that it came from


def test_a_program_that_is_out_of_date_is_made_anew(host: Host, criu: Criu, dumped: Path) -> None:
    said(host, "prepare", dumped)
    before = programs(host)
    (dumped / "criu-veth.toml").write_text('[[veth]]\ninner = "eth1"\nmtu = 1400\n')

    restore(host, criu, dumped)

    after = programs(host)
    assert [name for name in before if after[name] != before[name]] == [
        name for name in before if name.endswith("-external")
    ]
    assert host.link("db0")["mtu"] == 1400


def test_gc_finds_nothing_after_a_restore_that_worked(host: Host, criu: Criu, dumped: Path) -> None:
    restore(host, criu, dumped, "--mode", "ready")

    assert said(host, "gc", "--dry-run") == "nothing to remove\n"
    assert said(host, "gc") == "nothing to remove\n"
    assert host.has_link("web0")
    assert host.connect("10.0.0.2").ask("hello") == "1 hello"


# --- inspect

#: What else a container may have, which is not the hook's.
MORE = """
ip link add v0 type veth peer name v1
ip link add bridge0 type bridge
ip link set v0 master bridge0 up
ip -6 route add default via 2001:db8::1 dev eth0
"""


def as_ip_says(container: Container) -> list[dict[str, Any]]:
    """The container's devices as `ip` shows them, in the words of ``criu-veth inspect --json``."""
    links = {link["ifname"]: link for link in container.ip("address", "show")}
    return [
        {
            "name": name,
            "ifindex": link["ifindex"],
            "mtu": link["mtu"],
            "mac": None if name == "lo" else link["address"],
            "addresses": [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"]],
            "master": links[link["master"]]["ifindex"] if "master" in link else None,
            "up": "UP" in link["flags"],
        }
        for name, link in links.items()
    ]


def as_images_say(devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **{key: device[key] for key in ("name", "ifindex", "mtu")},
            "mac": device.get("mac"),
            "addresses": device.get("addresses", []),
            "master": device.get("master"),
            "up": "UP" in device["flags"],
        }
        for device in devices
    ]


@pytest.mark.parametrize("hook", [HOOK, None], ids=["with the hook", "without"])
def test_inspect_tells_what_crius_images_tell(
    host: Host, criu: Criu, container: Container, images: Path, hook: Path | None
) -> None:
    container.run("sh", "-ec", MORE)
    links, outer = as_ip_says(container), host.link("web0")
    criu.dump(container, images, hook=hook)

    report = json.loads(said(host, "inspect", "--json", images))

    (namespace,) = report["namespaces"]
    assert as_images_say(namespace["devices"]) == links
    kinds = {device["name"]: device["kind"] for device in namespace["devices"]}
    assert kinds == {
        "lo": "loopback",
        "eth0": "veth",
        "eth1": "veth",
        "v0": "veth",
        "v1": "veth",
        "bridge0": "bridge",
    }
    eth0, v0 = (next(one for one in namespace["devices"] if one["name"] == name) for name in ("eth0", "v0"))
    assert (eth0["peer_ifindex"], eth0.get("peer_namespace")) == (outer["ifindex"], None)
    assert v0["peer_namespace"] == namespace["id"]
    assert eth0["routes"] == [
        "default via 10.0.0.1",
        "10.7.0.0/16 via 10.0.0.1",
        "default via 2001:db8::1 metric 1024",
    ]
    assert (report["state"] is None) == (hook is None)


def test_inspect_prints_both_ends(host: Host, dumped: Path) -> None:
    lines = said(host, "inspect", dumped).splitlines()

    assert {
        "eth0: inner mtu: 9000",
        'eth0: outer alias: web, "front"',
        "eth0: outer master: br0",
        "eth0: outer port: isolated 1",
        "eth1: outer routes: 10.9.0.0/24",
        "eth1: outer sysctl: ipv4.proxy_arp 1",
        "eth0: criu kind: veth",
        "eth0: criu mtu: 9000",
        "eth0: criu addresses: 10.0.0.2/24",
    } <= set(lines)


def test_inspect_without_the_hook_has_no_outer_end(host: Host, criu: Criu, container: Container, images: Path) -> None:
    criu.dump(container, images)

    shown = cli(host, "inspect", images)

    assert shown.returncode == 0
    assert shown.stderr == (
        "criu-veth: notice: no criu-veth.json: the outer ends were not captured, which a dump with the hook does\n"
    )
    assert {line.partition(": ")[2].partition(" ")[0] for line in shown.stdout.splitlines()} == {"criu"}


def test_an_external_network_namespace(host: Host, criu: Criu, container: Container, images: Path) -> None:
    inode = os.stat(f"/proc/{container.pid}/ns/net").st_ino
    criu.dump(container, images, hook=HOOK, args=["--external", f"net[{inode}]:web"])

    shown = cli(host, "inspect", images)
    assert shown.stdout.splitlines()[-1] == (
        "CRIU saved no devices: the network namespace is external to it, by the key web"
    )
    shown = cli(host, "options", "--images", images, "--no-action-script")
    assert (shown.returncode, shown.stdout) == (0, "\n")
    assert shown.stderr == (
        "criu-veth: notice: the network namespace is external to CRIU: what it was dumped with (--external"
        " net[INODE]:KEY) takes --inherit-fd fd[N]:KEY now\n"
    )


def test_a_dump_of_an_empty_network_namespace(host: Host, criu: Criu, container: Container, images: Path) -> None:
    criu.dump(container, images, hook=HOOK, args=["--empty-ns", "net"])
    container.wait_unplugged()
    assert said(host, "options", "--images", images, "--no-action-script") == "--empty-ns net\n"

    restored = restore(host, criu, images)

    assert host.connect("10.0.0.2").ask("hello") == "1 hello"
    assert said(host, "verify", "--pid", restored.pid, "--images", images) == (
        f"equal: 2 veths ({images}/criu-veth.json)\n"
    )
