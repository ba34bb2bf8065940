"""Dump and restore with real CRIU: the outer ends come back, and the same server answers again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import Container, Criu, Host, Link, Outcome, snapshot, wait_for
from lab.criu import name_taken_meanwhile

pytestmark = pytest.mark.vm

HOOK = Path(__file__).parents[2] / "hooks/criu-veth"

WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"))

MAPPING = 'mappings = ["veth[eth0]:web0@br0"]\n'

SAID = [
    "criu-veth: post-restore: eth0: outer end named web0",
    "criu-veth: post-restore: eth0: web0 attached to br0",
    "criu-veth: post-restore: eth0: web0 up",
]


@pytest.fixture
def bridged(host: Host) -> Host:
    """A host with br0 (10.0.0.1/24, fd00::1/64) and br1 (10.1.0.1/24)."""
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    host.bridge("br1", "10.1.0.1/24")
    return host


def mapped(host: Host, text: str) -> None:
    """Write the host's own mapping file, which needs no variable: what starts CRIU may pass none on."""
    host.path("/etc/criu/criu-veth.toml").write_text(text)


def dumped(criu: Criu, host: Host, images: Path, *links: Link) -> int:
    """Run a server behind these links, have it answer once, and dump it without the hook; return its pid then."""
    container = host.container(links)
    with host.connect(links[0].addresses[0].partition("/")[0]) as client:
        assert client.ask("before") == "1 before"
    criu.dump(container, images)
    container.wait_unplugged()
    return container.pid


def restored(criu: Criu, host: Host, images: Path, *external: str, hook: Path | str = HOOK) -> Outcome:
    return criu.restore(host, images, external=external, hook=hook)


def said(outcome: Outcome) -> list[str]:
    """What the hook said of the outer ends. The inner ones are its business too, but not the matter here."""
    inner = ("container announced", "IPv6 addresses usable at once:")
    return [line for line in outcome.said("criu-veth:") if not any(words in line for words in inner)]


def failed(
    criu: Criu, host: Host, images: Path, *external: str, args: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Restore in vain; return what the hook said, and CRIU's last word on why it failed."""
    outcome = criu.restore(host, images, external=external, hook=HOOK, args=args, check=False)
    assert outcome.returncode != 0
    return said(outcome), outcome.log_errors()


def end(container: Container, links: Sequence[Link]) -> None:
    """Kill what was restored and wait until its outer ends are gone."""
    container.kill()
    container.host.wait_no_link(*(link.outer for link in links))


def without_programs(host: Host) -> dict[str, object]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


def test_outer_end_by_its_mapping(bridged: Host, criu: Criu, images: Path) -> None:
    mapped(
        bridged,
        """
        [[veth]]
        inner = "eth0"
        outer = "web0"
        bridge = "br0"
        mac = "02:00:00:00:00:01"
        mtu = 1400
        alias = "web, front"
        altnames = ["the-outer-end-of-the-web-server"]
        port = { hairpin = true }
        sysctl = { "ipv4.proxy_arp" = 1 }
        """,
    )
    dumped(criu, bridged, images, WEB)
    outcome = restored(criu, bridged, images, WEB.external_detached)
    assert said(outcome) == [
        "criu-veth: post-restore: eth0: outer end named web0",
        "criu-veth: post-restore: eth0: web0 mac 02:00:00:00:00:01",
        "criu-veth: post-restore: eth0: web0 mtu 1400",
        'criu-veth: post-restore: eth0: web0 alias "web, front"',
        'criu-veth: post-restore: eth0: web0 altname "the-outer-end-of-the-web-server"',
        "criu-veth: post-restore: eth0: web0 attached to br0",
        "criu-veth: post-restore: eth0: web0 port hairpin 1",
        "criu-veth: post-restore: eth0: web0 sysctl ipv4.proxy_arp = 1",
        "criu-veth: post-restore: eth0: web0 up",
    ]
    link = bridged.link("web0")
    assert (link["master"], link["address"], link["mtu"]) == ("br0", "02:00:00:00:00:01", 1400)
    assert (link["ifalias"], link["altnames"]) == ("web, front", ["the-outer-end-of-the-web-server"])
    assert link["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert bridged.sysctl("ipv4.conf.web0.proxy_arp") == "1"
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"
    assert bridged.connect("fd00::2").ask("and over IPv6") == "3 and over IPv6"


def test_established_connection_goes_on(bridged: Host, criu: Criu, images: Path) -> None:
    """The outer end is attached when the sockets are there, so nothing of the peer's is answered with a reset."""
    mapped(bridged, MAPPING)
    container = bridged.container([WEB])
    client = bridged.connect("10.0.0.2")
    assert client.ask("before") == "1 before"
    criu.dump(container, images, tcp_established=True)
    container.wait_unplugged()  # a dump without the hook may answer with a reset until then
    client.send("while it is away")
    outcome = criu.restore(
        bridged, images, external=[WEB.external_detached], hook=HOOK, tcp_established=True, links=[WEB]
    )
    assert said(outcome) == SAID
    assert client.receive() == "2 while it is away"
    assert client.ask("and after") == "3 and after"


def test_attached_by_criu(bridged: Host, criu: Criu, images: Path) -> None:
    mapped(bridged, MAPPING)
    dumped(criu, bridged, images, WEB)
    assert said(restored(criu, bridged, images, "veth[eth0]:web0@br0")) == SAID
    assert bridged.link("web0")["master"] == "br0"
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"


def test_attached_by_criu_to_another_bridge(bridged: Host, criu: Criu, images: Path) -> None:
    mapped(bridged, MAPPING)
    dumped(criu, bridged, images, WEB)
    assert said(restored(criu, bridged, images, "veth[eth0]:tmp0@br1")) == SAID
    assert bridged.link("web0")["master"] == "br0"
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"


def test_named_otherwise_by_criu(bridged: Host, criu: Criu, images: Path) -> None:
    mapped(bridged, MAPPING)
    dumped(criu, bridged, images, WEB)
    assert said(restored(criu, bridged, images, "veth[eth0]:veth1a2b3c")) == SAID
    assert not bridged.has_link("veth1a2b3c")
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"


def test_three_veths_on_two_bridges(bridged: Host, criu: Criu, images: Path) -> None:
    links = [
        WEB,
        Link(inner="eth1", outer="db0", bridge="br1", addresses=("10.1.0.2/24",)),
        Link(inner="eth2", outer="web1", bridge="br0", addresses=("10.0.0.3/24",)),
    ]
    mapped(bridged, 'mappings = ["eth0:web0@br0", "veth[eth1]:db0@br1", "eth2=web1@br0"]\n')
    dumped(criu, bridged, images, *links)
    outcome = restored(criu, bridged, images, *(link.external_detached for link in links))
    assert said(outcome) == [
        'criu-veth: pre-restore: warning: mappings[2]: "eth2=web1@br0" is the obsolete --veth-pair form; today it is'
        ' "veth[eth2]:web1@br0"',
        *(
            f"criu-veth: post-restore: {inner}: {what}"
            for inner, outer, bridge in (("eth0", "web0", "br0"), ("eth1", "db0", "br1"), ("eth2", "web1", "br0"))
            for what in (f"outer end named {outer}", f"{outer} attached to {bridge}", f"{outer} up")
        ),
    ]
    inside = {link["ifindex"]: link["ifname"] for link in outcome.container.ip("link", "show")}
    for link in links:
        found = bridged.link(link.outer)
        assert (found["master"], inside[found["link_index"]]) == (link.bridge, link.inner)
    for number, address in enumerate(("10.0.0.2", "10.1.0.2"), 2):
        assert bridged.connect(address).ask("after") == f"{number} after"


def test_routed_without_a_bridge(host: Host, criu: Criu, images: Path) -> None:
    link = Link(inner="eth0", outer="cali0", addresses=("10.99.0.2/32",))
    container = host.container([link])
    container.run("ip", "route", "add", "169.254.1.1", "dev", "eth0")
    container.run("ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
    host.run("ip", "address", "add", "10.5.0.1/32", "dev", "lo")
    criu.dump(container, images)
    container.wait_unplugged()
    mapped(
        host,
        """
        [[veth]]
        inner = "eth0"
        outer = "cali0"
        addresses = ["169.254.1.1/32"]
        routes = ["10.99.0.2/32"]
        """,
    )
    restored(criu, host, images, link.external_detached)
    assert host.connect("10.99.0.2").ask("after") == "1 after"


def test_restored_twice_in_a_row(bridged: Host, criu: Criu, images: Path) -> None:
    """The second time the program is there already, and right after the kill the name is still taken."""
    mapped(bridged, MAPPING)
    before = without_programs(bridged)
    dumped(criu, bridged, images, WEB)
    first = restored(criu, bridged, images, WEB.external_detached)
    programs = {path.name: path.stat().st_ino for path in bridged.path("/run/criu-veth/programs").iterdir()}
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"
    first.container.kill()
    second = restored(criu, bridged, images, WEB.external_detached)
    assert said(second) == said(first) == SAID
    assert set(programs) == {path.name for path in bridged.path("/run/criu-veth/programs").iterdir()}
    assert bridged.connect("10.0.0.2").ask("again") == "2 again"
    end(second.container, [WEB])
    assert without_programs(bridged) == before


def test_failing_preflight(bridged: Host, criu: Criu, images: Path) -> None:
    """CRIU is stopped before it has restored a byte."""
    mapped(bridged, 'mappings = ["eth0:web0@br7", "eth1:br1"]\n')
    dumped(criu, bridged, images, WEB)
    before = snapshot(bridged)
    faults, errors = failed(criu, bridged, images, WEB.external_detached)
    assert faults == [
        'criu-veth: error: pre-restore: veth eth0: bridge "br7" does not exist on this host (it has br0, br1)',
        'criu-veth: error: pre-restore: veth eth1: the name "br1" is taken by a bridge device; delete or rename it, or'
        " choose another outer name",
    ]
    assert "Aborting restore due to pre-restore script" in errors[-1]
    assert snapshot(bridged) == before
    mapped(bridged, MAPPING)
    restored(criu, bridged, images, WEB.external_detached)
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"


def test_failing_post_restore(bridged: Host, criu: Criu, images: Path) -> None:
    """CRIU kills the tree, the host is as it was, and nothing is in the way of another try."""
    mapped(
        bridged,
        '[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\naltnames = ["front"]\naddresses = ["10.7.0.1/24"]\n',
    )
    pid = dumped(criu, bridged, images, WEB)
    before = without_programs(bridged)
    taken = name_taken_meanwhile(bridged, "front")
    faults, errors = failed(criu, bridged, images, "veth[eth0]:tmp0", args=taken)
    assert faults == [
        'criu-veth: error: post-restore: eth0: web0 altname "front": File exists (EEXIST)',
    ]
    bridged.run("ip", "link", "property", "del", "dev", "lo", "altname", "front")
    assert any("Aborting restore due to post-restore script" in error for error in errors)
    bridged.wait_no_link("tmp0", "web0")
    assert not Path(f"/proc/{pid}").exists()
    assert without_programs(bridged) == before
    mapped(bridged, MAPPING)
    assert said(restored(criu, bridged, images, "veth[eth0]:tmp0")) == SAID
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"
    assert len(list(bridged.path("/run/criu-veth/runs").iterdir())) == 1, "of the restore that failed nothing is left"


def test_mapping_whose_inner_end_is_not_there(bridged: Host, criu: Criu, images: Path) -> None:
    mapped(bridged, 'mappings = ["eth0:web0@br0", "eth7:web7"]\n')
    dumped(criu, bridged, images, WEB)
    before = without_programs(bridged)
    faults, _ = failed(criu, bridged, images, WEB.external_detached)
    assert faults == [
        "criu-veth: error: post-setup-namespaces: veth eth7: the container has no device of that name (mappings[1])",
    ]
    bridged.wait_no_link("web0")
    assert without_programs(bridged) == before


def test_veth_without_a_mapping(bridged: Host, criu: Criu, images: Path) -> None:
    other = Link(inner="eth1", outer="db0", addresses=("10.1.0.2/24",))
    mapped(bridged, MAPPING)
    dumped(criu, bridged, images, WEB, other)
    outcome = restored(criu, bridged, images, WEB.external_detached, other.external_detached)
    assert said(outcome) == [
        "criu-veth: post-restore: notice: eth1: left alone, no mapping names it",
        *SAID,
    ]
    assert "UP" not in bridged.link("db0")["flags"]


def test_spanning_tree_is_warned_of(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24", stp_state=0)
    mapped(host, MAPPING)
    dumped(criu, host, images, WEB)
    host.run("ip", "link", "set", "br0", "type", "bridge", "stp_state", "1", "forward_delay", "200")
    assert said(restored(criu, host, images, WEB.external_detached)) == [
        'criu-veth: pre-restore: warning: veth eth0: bridge "br0" has spanning tree on and a forward delay of 2 s:'
        " its port will be silent for 4 s after the restore",
        *SAID,
    ]


# --- how CRIU is given the hook


def test_hook_by_a_relative_path(bridged: Host, criu: Criu, images: Path) -> None:
    mapped(bridged, MAPPING)
    dumped(criu, bridged, images, WEB)
    relative = os.path.relpath(HOOK, images)  # from CRIU's work directory, not from where it was started
    assert said(restored(criu, bridged, images, WEB.external_detached, hook=relative)) == SAID


def test_hook_by_a_link(bridged: Host, criu: Criu, images: Path, tmp_path: Path) -> None:
    mapped(bridged, MAPPING)
    dumped(criu, bridged, images, WEB)
    (tmp_path / "first").symlink_to(HOOK)
    (tmp_path / "second").symlink_to("first")
    assert said(restored(criu, bridged, images, WEB.external_detached, hook=tmp_path / "second")) == SAID


def test_hook_given_twice(bridged: Host, criu: Criu, images: Path) -> None:
    """On the command line and in a configuration file: then CRIU runs it twice for every action."""
    mapped(bridged, MAPPING)
    dumped(criu, bridged, images, WEB)
    bridged.path("/etc/criu/default.conf").write_text(f"action-script {HOOK}\n")
    outcome = restored(criu, bridged, images, WEB.external_detached)
    assert said(outcome) == SAID
    assert bridged.connect("10.0.0.2").ask("after") == "2 after"


def test_mapping_file_in_the_images(bridged: Host, criu: Criu, images: Path) -> None:
    mapped(bridged, 'mappings = ["eth0:default0"]\n')
    dumped(criu, bridged, images, WEB)
    (images / "criu-veth.toml").write_text(MAPPING)
    assert said(restored(criu, bridged, images, WEB.external_detached)) == SAID


def test_mapping_file_by_the_environment(bridged: Host, criu: Criu, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text(MAPPING)
    dumped(criu, bridged, images, WEB)
    env = {"CRIU_VETH_CONFIG": str(file), "PATH": "/usr/bin:/bin"}
    outcome = criu.restore(bridged, images, external=[WEB.external_detached], hook=HOOK, env=env)
    assert said(outcome) == SAID


@pytest.mark.parametrize("option", ["veth[eth0]:web0", "veth[eth0]:web0@br0", "veth[eth0]:tmp0", "veth[eth0]:v@x"])
def test_link_local_address_is_that_of_its_own_mac_address(
    bridged: Host, criu: Criu, images: Path, tmp_path: Path, option: str
) -> None:
    """CRIU makes the outer end with a random MAC address, and somebody sets it up before the hook's turn."""
    named = "v@x" if option.endswith("v@x") else "web0"
    container = bridged.container([Link(inner="eth0", outer=named, addresses=("10.0.0.2/24",))])
    before = link_local(bridged, named)
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    first = tmp_path / "first"
    made = option.partition(":")[2].partition("@")[0]
    first.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-setup-namespaces ] || ip link set {made} up\n')
    first.chmod(0o755)
    if named == "v@x":
        bridged.bridge("x")
        mapped(bridged, '[[veth]]\ninner = "eth0"\nbridge = ""\n')

    restored = criu.restore(bridged, images, external=[option], hook=HOOK, args=["--action-script", str(first)])

    name = "tmp0" if option.endswith("tmp0") else named
    assert before == link_local(bridged, name)
    assert restored.container.ip("link", "show", "dev", "eth0")[0]["operstate"] == "UP"


def link_local(host: Host, ifname: str) -> list[str]:
    """The link-local addresses of a device, once there is one."""

    def found() -> list[str]:
        return [entry["local"] for entry in host.ip("-6", "address", "show", "dev", ifname)[0]["addr_info"]]

    return wait_for(found, "a link-local address")
