"""Who made an outer end, and what becomes of it: pairs of a caller, of a runtime, of a namespace by path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Criu, Host, Link, Outcome
from lab.cli import cli
from lab.frames import Tap
from lab.waiting import wait_for

pytestmark = pytest.mark.vm

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))
STAY = "its name, MAC address, bridge, addresses and routes stay"

#: What is set on the outer end; the capture has it all.
DRESS = """
ip link set web0 alias 'web, front' txqueuelen 500
bridge link set dev web0 hairpin on isolated on
tc qdisc add dev web0 root handle 1: tbf rate 100mbit burst 32k latency 50ms
echo 1 >/proc/sys/net/ipv4/conf/web0/proxy_arp
"""
PLUG = """
ip link add {outer} type veth peer name {inner} netns {pid}
ip link set {outer} master {bridge} up
nsenter -t {pid} -n sh -ec 'ip link set lo up; ip address add 10.0.0.2/24 dev {inner}; ip link set {inner} up'
"""


@pytest.fixture
def bridged(host: Host) -> Host:
    host.bridge("br0", "10.0.0.1/24")
    host.bridge("br1", "10.0.1.1/24")
    return host


@pytest.fixture
def images_of(bridged: Host, criu: Criu, images: Path) -> Callable[..., Path]:
    """Dumps a dressed container that a client has talked to, and waits until its outer end is gone."""

    def dump(*args: str, hook: Path | None = HOOK) -> Path:
        container = bridged.container([WEB])
        bridged.run("sh", "-ec", DRESS)
        assert bridged.connect("10.0.0.2").ask("before") == "1 before"
        criu.dump(container, images, hook=hook, args=args, tcp_established=True)
        container.wait_unplugged()
        return images

    return dump


def restore(criu: Criu, host: Host, images: Path, *external: str, check: bool = True, **more: Any) -> Outcome:
    return criu.restore(host, images, external=external, hook=HOOK, tcp_established=True, check=check, **more)


def outer(host: Host, ifname: str) -> dict[str, Any]:
    """What the tests look at of one outer end."""
    link = host.link(ifname)
    return {
        "master": link.get("master"),
        "alias": link.get("ifalias"),
        "txqlen": link["txqlen"],
        "hairpin": link.get("linkinfo", {}).get("info_slave_data", {}).get("hairpin"),
        "qdisc": link["qdisc"],
        "proxy_arp": host.sysctl(f"ipv4.conf.{ifname}.proxy_arp"),
    }


DRESSED = {"alias": "web, front", "txqlen": 500, "hairpin": True, "qdisc": "tbf", "proxy_arp": "1"}


def veths(host: Host) -> list[str]:
    return sorted(link["ifname"] for link in host.ip("link", "show", "type", "veth"))


def a_script(path: Path, action: str, text: str) -> Path:
    path.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" = {action} ] || exit 0\nset -e\n{text}\n')
    path.chmod(0o755)
    return path


# --- the caller has made the pair: --external netdev[eth0]:NAME, and NAME is there


@pytest.fixture
def ready_made(bridged: Host, images_of: Callable[..., Path]) -> Path:
    """Images, and a pair that somebody has made to be moved in."""
    images = images_of()
    bridged.run("ip", "link", "add", "vethIN", "type", "veth", "peer", "name", "vethOUT")
    bridged.run("ip", "link", "set", "vethOUT", "master", "br0", "alias", "theirs", "up")
    return images


def test_pair_that_the_caller_has_made_is_dressed(bridged: Host, criu: Criu, ready_made: Path) -> None:
    mac = bridged.link("vethOUT")["address"]

    outcome = restore(criu, bridged, ready_made, "netdev[eth0]:vethIN")

    assert veths(bridged) == ["vethOUT"]
    assert bridged.link("vethOUT")["address"] == mac
    assert outer(bridged, "vethOUT") == {"master": "br0", **DRESSED}, "what the caller set gives way to the capture"
    assert bridged.connect("10.0.0.2").ask("hello") == "2 hello"
    assert [line for line in outcome.said("criu-veth:") if "notice" in line] == [
        f"criu-veth: post-restore: notice: eth0: vethOUT was made by somebody else (at the dump it was web0): {STAY};"
        " put back: txqueuelen, alias, port hairpin, port isolated, sysctl ipv4.proxy_arp, queueing disciplines"
    ]


def test_mapping_file_overrules_the_caller_by_what_it_says(bridged: Host, criu: Criu, ready_made: Path) -> None:
    text = 'adopted = "leave"\n[[veth]]\ninner = "eth0"\nouter = "web9"\nbridge = "br1"\n'
    (ready_made / "criu-veth.toml").write_text(text)

    restore(criu, bridged, ready_made, "netdev[eth0]:vethIN")

    assert veths(bridged) == ["web9"]
    assert "UP" in bridged.link("web9")["flags"], "as its maker left it"
    new = {"alias": "theirs", "txqlen": 1000, "hairpin": False, "qdisc": "noqueue", "proxy_arp": "0"}
    assert outer(bridged, "web9") == {"master": "br1", **new}


def test_restore_of_a_ready_made_pair_that_fails_leaves_it_as_it_was(
    bridged: Host, criu: Criu, ready_made: Path, tmp_path: Path
) -> None:
    before = outer(bridged, "vethOUT")
    fails = a_script(tmp_path / "fails", "setup-namespaces", "exit 1")

    outcome = restore(
        criu, bridged, ready_made, "netdev[eth0]:vethIN", check=False, args=["--action-script", str(fails)]
    )

    assert not outcome.restored
    assert veths(bridged) == ["vethIN", "vethOUT"]
    assert outer(bridged, "vethOUT") == before


# --- criu was told other names than were captured


def test_what_criu_was_told_wins_over_the_capture(bridged: Host, criu: Criu, images_of: Callable[..., Path]) -> None:
    images = images_of()
    bridged.run("ip", "link", "add", "web0", "type", "veth", "peer", "name", "other0")

    outcome = restore(criu, bridged, images, "veth[eth0]:lxc7@br1")

    assert outer(bridged, "lxc7") == {"master": "br1", **DRESSED}
    assert outcome.said("criu-veth: pre-restore:") == [
        'criu-veth: pre-restore: notice: veth eth0: named "lxc7" as criu was told, not "web0" as at the dump, attached'
        ' to "br1" as criu was told, not "br0" as at the dump'
    ]


def test_mapping_file_wins_over_what_criu_was_told(bridged: Host, criu: Criu, images_of: Callable[..., Path]) -> None:
    images = images_of()
    (images / "criu-veth.toml").write_text('mappings = ["eth0:mapped0@br1"]\n')

    outcome = restore(criu, bridged, images, "veth[eth0]:told0")

    assert outer(bridged, "mapped0")["master"] == "br1"
    assert outcome.said("criu-veth: pre-restore:") == []


def test_a_program_for_other_names_is_not_used(bridged: Host, criu: Criu, images_of: Callable[..., Path]) -> None:
    """The dump has made one for the captured names."""
    images = images_of()
    restore(criu, bridged, images, "veth[eth0]:first0").container.kill()
    bridged.wait_no_link("first0")

    restore(criu, bridged, images, "veth[eth0]:web0")

    assert outer(bridged, "web0") == {"master": "br0", **DRESSED}


# --- an empty network namespace: whatever --external says, and whoever comes first


@pytest.mark.parametrize("external", [(), ("veth[eth0]:web0",), ("veth[eth0]:web0@br0",), ("netdev[eth0]:any0",)])
@pytest.mark.parametrize("dumped", [(), ("--empty-ns", "net")])
def test_an_empty_namespace_wins_over_single_devices(
    bridged: Host, criu: Criu, images_of: Callable[..., Path], dumped: tuple[str, ...], external: tuple[str, ...]
) -> None:
    images = images_of(*dumped)

    restore(criu, bridged, images, *external, args=["--empty-ns", "net"])

    assert outer(bridged, "web0") == {"master": "br0", **DRESSED}
    assert bridged.connect("10.0.0.2").ask("hello") == "2 hello"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """Makes a pair of its own, with a queue length of its own, on another bridge."""
    plug = PLUG.format(outer="theirs0", inner="eth0", bridge="br1", pid="$CRTOOLS_INIT_PID")
    return a_script(tmp_path / "runtime", "setup-namespaces", plug + "ip link set theirs0 txqueuelen 77\n")


@pytest.mark.parametrize("bridge", ["there", "gone"])
def test_pair_of_a_runtime_is_dressed_where_it_is_bare(
    bridged: Host, criu: Criu, images_of: Callable[..., Path], runtime: Path, bridge: str
) -> None:
    images = images_of("--empty-ns", "net")
    if bridge == "gone":
        bridged.run("ip", "link", "delete", "br0")

    args = ["--empty-ns", "net", "--action-script", str(runtime)]
    outcome = restore(criu, bridged, images, args=args)

    assert outer(bridged, "theirs0") == {"master": "br1", **DRESSED, "txqlen": 77}
    assert veths(bridged) == ["theirs0"]
    assert outcome.said("criu-veth: post-restore:") == [
        f"criu-veth: post-restore: notice: eth0: theirs0 was made by somebody else (at the dump it was web0): {STAY};"
        " put back: alias, port hairpin, port isolated, sysctl ipv4.proxy_arp, queueing disciplines; left as its maker"
        " set it: txqueuelen"
    ]
    verified = cli(bridged, "verify", "--pid", outcome.pid, "--images", images)
    assert "eth0: theirs0 was made by somebody else: its name, MAC" in verified.stderr
    assert verified.stdout == "veths[eth0].outer.txqueuelen: wanted 500, found 77\n"


def test_pair_of_a_runtime_is_left_if_that_is_asked_for(
    bridged: Host, criu: Criu, images_of: Callable[..., Path], runtime: Path
) -> None:
    images = images_of("--empty-ns", "net")
    (images / "criu-veth.toml").write_text('adopted = "leave"\n')

    restore(criu, bridged, images, args=["--empty-ns", "net", "--action-script", str(runtime)])

    bare = {"alias": None, "txqlen": 77, "hairpin": False, "qdisc": "noqueue", "proxy_arp": "0"}
    assert outer(bridged, "theirs0") == {"master": "br1", **bare}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            "ip link delete br0",
            'veth eth0: bridge "br0" does not exist on this host (it has br1); if it is called differently here, write'
            ' in the mapping file: [remap] bridge = { br0 = "..." }',
        ),
        (
            "ip link add name web0 type bridge",
            'veth eth0: the name "web0" is taken by a bridge device; delete or rename it, or choose another outer name',
        ),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_nobody_else_made_is_judged_when_its_turn_comes(
    bridged: Host,
    criu: Criu,
    images_of: Callable[..., Path],
    tmp_path: Path,
    break_it: str,
    said: str,
    when: str,
) -> None:
    """In the words of pre-restore, whether it was so then or has become so since."""
    images = images_of("--empty-ns", "net")
    if when == "before":
        bridged.run("sh", "-ec", break_it)
    breaks = a_script(tmp_path / "breaks", "setup-namespaces", break_it if when == "after" else "")

    args = ["--empty-ns", "net", "--action-script", str(breaks)]
    outcome = restore(criu, bridged, images, args=args, check=False)

    assert not outcome.restored
    assert outcome.said("criu-veth:") == [f"criu-veth: error: setup-namespaces: {said}"]
    assert veths(bridged) == []


@pytest.mark.kernel("vlan-filtering")
@pytest.mark.parametrize("own", [False, True])
def test_vlans_of_a_runtimes_port(bridged: Host, criu: Criu, images: Path, runtime: Path, own: bool) -> None:
    """They are put back where the port has no more than the one that its bridge gives each."""
    for name in ("br0", "br1"):
        bridged.run("ip", "link", "set", name, "type", "bridge", "vlan_filtering", "1")
    container = bridged.container([WEB])
    bridged.run("bridge", "vlan", "add", "dev", "web0", "vid", "10", "pvid", "untagged")
    bridged.run("bridge", "vlan", "del", "dev", "web0", "vid", "1")
    criu.dump(container, images, hook=HOOK, args=["--empty-ns", "net"])
    container.wait_unplugged()
    if own:
        with runtime.open("a") as script:
            script.write("bridge vlan add dev theirs0 vid 30\n")

    restore(criu, bridged, images, args=["--empty-ns", "net", "--action-script", str(runtime)])

    (port,) = [port for port in bridged.bridge_json("vlan", "show") if port["ifname"] == "theirs0"]
    assert [vlan["vlan"] for vlan in port["vlans"]] == ([1, 30] if own else [10])


# --- a network namespace by path, which is not CRIU's business


def make_pod(host: Host, outer: str, bridge: str) -> None:
    """A network namespace that something else than the dumped process keeps, as CNI leaves it."""
    host.run("ip", "netns", "add", "pod")
    host.run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", "pod")
    host.run("ip", "link", "set", outer, "master", bridge, "up")
    inside = "ip link set lo up; ip address add 10.0.0.2/24 dev eth0; ip link set eth0 up"
    host.run("ip", "netns", "exec", "pod", "sh", "-ec", inside)


@pytest.mark.parametrize("mapped", ["", '[[veth]]\ninner = "eth0"\nalias = "mapped"\n'])
def test_restored_into_the_pod_of_another_host(
    host_factory: Callable[[], Host], criu: Criu, images: Path, mapped: str
) -> None:
    """Other names, no bridge of the captured name; routes that would clash are the pod's own."""
    one, other = host_factory(), host_factory()
    one.bridge("br0", "10.0.0.1/24")
    other.bridge("lan", "10.0.0.1/24")
    make_pod(one, "web0", "br0")
    one.run("sh", "-ec", DRESS + "ip route add 10.0.0.2/32 dev web0\n")
    sleeps = "exec </dev/null >/dev/null 2>&1; exec sleep 1000"
    app = one.popen("nsenter", "--net=/run/netns/pod", "--", "sh", "-c", sleeps)
    wait_for(lambda: Path(f"/proc/{app.pid}/comm").read_text() == "sleep\n", "the pod's process")
    inode = os.stat(f"/proc/{app.pid}/ns/net").st_ino
    criu.dump(Container(one, app.pid), images, hook=HOOK, args=["--external", f"net[{inode}]:pod"])
    assert outer(one, "web0")["master"] == "br0"
    app.wait(10)
    (images / "criu-veth.toml").write_text(mapped)
    make_pod(other, "cni7", "lan")
    other.run("ip", "route", "add", "10.0.0.2/32", "dev", "cni7")
    before = other.link("cni7")

    words = [str(criu.path), "restore", "-D", str(images), "-o", "restore.log", "-d", "--action-script", str(HOOK)]
    opened = f'exec 7</run/netns/pod; exec {" ".join(words)} --inherit-fd "fd[7]:pod" --pidfile {images}/pid'
    other.run("sh", "-ec", opened)

    after = other.link("cni7")
    assert {key: after[key] for key in ("ifname", "address", "master")} == {
        key: before[key] for key in ("ifname", "address", "master")
    }
    dressed = {**DRESSED, "alias": "mapped"} if mapped else DRESSED
    assert outer(other, "cni7") == {"master": "lan", **dressed}
    other.run("kill", "-9", (images / "pid").read_text().strip())


# --- checkpoints of which nothing is known


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_checkpoint_without_the_hook_is_restored_as_without_it(
    bridged: Host, criu: Criu, images: Path, family: str
) -> None:
    """Better, even: alone CRIU cannot restore a connection over IPv6."""
    bridged.run("ip", "address", "add", "fd00::1/64", "dev", "br0", "nodad")
    addresses = ("fd00::2/64",) if family == "IPv6" else ("10.0.0.2/24",)
    link = Link(inner="eth0", outer="web0", bridge="br0", addresses=addresses)
    container = bridged.container([link])
    client = bridged.connect(addresses[0].partition("/")[0])
    assert client.ask("before") == "1 before"
    criu.dump(container, images, tcp_established=True)
    container.wait_unplugged()

    outcome = restore(criu, bridged, images, "veth[eth0]:web0@br0")

    assert bridged.link("web0")["master"] == "br0"
    assert client.ask("after") == "2 after"
    notices = [line for line in outcome.said("criu-veth:") if "notice" in line]
    assert notices == [
        "criu-veth: pre-restore: notice: the images hold no criu-veth.json, and there is no mapping file"
        " (/etc/criu/criu-veth.toml, or criu-veth.toml in the images): the network is left as CRIU makes it; dumped"
        ' with the hook, or with a mapping such as mappings = ["veth[eth0]:NAME@BRIDGE"], a container gets its outer'
        " ends back"
    ]


# --- beside the living original


def is_gratuitous(frame: bytes) -> bool:
    """Whether it is an ARP message about the sender's own address."""
    return frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]


def test_a_double_is_warned_of_and_not_announced(bridged: Host, criu: Criu, images: Path) -> None:
    original = bridged.container([WEB])
    client = bridged.connect("10.0.0.2")
    assert client.ask("one") == "1 one"
    criu.dump(original, images, hook=HOOK, args=["--leave-running"], tcp_established=True)
    (images / "criu-veth.toml").write_text('mappings = ["eth0:copy0"]\n')
    mac = original.ip("link", "show", "dev", "eth0")[0]["address"]
    said = (
        f'criu-veth: pre-restore: warning: veth eth0: a living container behind "web0" has the MAC address {mac} of'
        " this one too (10.0.0.2/24): they will disturb each other; this one is not announced"
    )

    with Tap(bridged, "br0") as tap:
        outcome = criu.restore(
            bridged, images, external=["veth[eth0]:copy0"], hook=HOOK, args=["--tcp-close"], tcp_established=True
        )
        announced = [frame for frame in tap.sent_by(mac) if is_gratuitous(frame)]

    assert said in outcome.said("criu-veth:")
    assert not any("announced" in line for line in outcome.said("criu-veth: post-restore:"))
    assert announced == []
    assert bridged.link("copy0")["address"] != bridged.link("web0")["address"]


def test_somebody_else_with_the_same_address(bridged: Host, criu: Criu, images_of: Callable[..., Path]) -> None:
    """Another container, on another MAC address; the host has spoken to it."""
    images = images_of()
    other = bridged.container([Link(inner="eth0", outer="other0", bridge="br0", addresses=("10.0.0.2/24",))])
    assert bridged.connect("10.0.0.2").ask("hello") == "1 hello"
    mac = other.ip("link", "show", "dev", "eth0")[0]["address"]

    with Tap(bridged, "br0") as tap:
        outcome = restore(criu, bridged, images, "veth[eth0]:web0")
        announced = [frame for frame in tap.sent_by(inner_mac(outcome)) if is_gratuitous(frame)]

    assert outcome.said("criu-veth: pre-restore:") == [
        'criu-veth: pre-restore: warning: veth eth0: a living container behind "other0" has an address of this one too'
        " (10.0.0.2/24): they will disturb each other; this one is not announced"
    ]
    assert mac != inner_mac(outcome)
    assert announced == []


def inner_mac(outcome: Outcome) -> str:
    return str(outcome.container.ip("link", "show", "dev", "eth0")[0]["address"])
