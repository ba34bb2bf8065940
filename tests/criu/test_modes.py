"""The three ways in which a container's devices come back, and what else a restore may find."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from criu_veth.actions import RESTORE_STAGES
from lab import Container, Criu, Host, Link, Outcome, snapshot
from lab.frames import RESETS, Tap
from lab.traffic import Talker, traffic_server

pytestmark = pytest.mark.vm

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
CAPTURE = "from criu_veth import capture, state; import sys; sys.stdout.buffer.write(state.encode(capture.capture({})))"
WEB = Link(
    inner="eth0",
    outer="web0",
    bridge="br0",
    mac="02:00:00:00:00:02",
    addresses=("10.0.0.2/24", "fd00::2/64"),
)
RESTORES = int(os.environ.get("CRIU_VETH_RESTORES", "5"))
"""How often one connection has to live through a restore."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """What CRIU is told at a restore."""

    external: tuple[str, ...]
    args: tuple[str, ...] = ()


WAYS = {
    "external": Way(external=("veth[eth0]:web0",)),
    "ready": Way(external=("netdev[eth0]:cvready0",)),
    "empty": Way(external=(), args=("--empty-ns", "net")),
}


@pytest.fixture
def bridged(host: Host) -> Host:
    """A host with br0 (10.0.0.1/24, fd00::1/64)."""
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    return host


def restored(criu: Criu, host: Host, images: Path, way: Way, *, check: bool = True, **more: Any) -> Outcome:
    return criu.restore(
        host,
        images,
        external=way.external,
        args=[*way.args, *more.pop("args", ())],
        hook=more.pop("hook", HOOK),
        tcp_established=True,
        check=check,
        **more,
    )


def captured(host: Host, pid: int) -> list[str]:
    """A capture, line by line, without what differs from one moment to the next."""
    found: dict[str, Any] = json.loads(host.run(sys.executable, "-c", CAPTURE.format(pid)).stdout)
    return json.dumps({**found, "host": {**found["host"], "created": ""}}, indent=1).splitlines()


def network(host: Host) -> dict[str, object]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


# --- one connection across many restores


@pytest.mark.parametrize("way", WAYS)
def test_connection_is_never_reset(bridged: Host, criu: Criu, tmp_path: Path, way: str) -> None:
    """While one connection goes on, somebody else knocks all the time: a socket that is not there yet would answer."""
    container = bridged.container([WEB], traffic_server())
    before = captured(bridged, container.pid)
    with Tap(bridged, "br0", RESETS) as resets:
        talker = Talker(bridged, "10.0.0.2")
        knocks = refused = 0
        for number in range(RESTORES):
            talker.wait_answered()
            images = tmp_path / str(number)
            criu.dump(container, images, hook=HOOK, tcp_established=True)
            knocker = Talker(bridged, "10.0.0.2", "knock")
            container.wait_unplugged()
            container = restored(criu, bridged, images, WAYS[way], links=[WEB]).container
            knocker.wait_done()
            seen = knocker.stop()
            knocks += seen.sent
            refused += seen.refused + seen.reset
        assert captured(bridged, container.pid) == before
        seen = talker.stop()
        assert WEB.mac
        print(f"\n{way}: {RESTORES} restores, {seen.sent} messages, {seen.lost} lost, wrong {seen.wrong!r},")
        print(f"{knocks} knocks, {refused} refused, {len(resets.sent_by(WEB.mac))} resets, worst gap {seen.gap:.3f} s")
        assert (seen.error, seen.wrong, seen.lost) == ("", "", 0)
        assert (refused, resets.sent_by(WEB.mac)) == (0, [])


# --- what comes back in each way

INSIDE = """
ip address add 10.0.0.3/24 dev eth0
ip -6 address add fd00::77/64 dev eth0 nodad noprefixroute
ip -6 address add fd00::79 peer fd00::80/128 dev eth0 nodad
ip link set eth0 txqueuelen 77 alias "the inner one"
ip route add default via 10.0.0.1
ip route add 10.77.0.0/16 via 10.0.0.9 src 10.0.0.3 metric 7
ip -6 route add fd09::/64 via fd00::1
ip neighbour add 10.0.0.9 lladdr 02:00:00:00:00:11 dev eth0 nud permanent
sysctl -qw net.ipv4.conf.eth0.rp_filter=2 net.ipv6.conf.eth0.accept_ra=0
"""


@pytest.mark.parametrize("way", WAYS)
def test_all_is_equal_afterwards(bridged: Host, criu: Criu, images: Path, way: str) -> None:
    container = bridged.container([WEB])
    bridged.run(*"ip link set web0 mtu 1400 txqueuelen 55".split(), "alias", "web, front")
    bridged.run(*"bridge link set dev web0 hairpin on".split())
    container.run("sh", "-ec", INSIDE + "ip link set eth0 mtu 1400\n")
    before = captured(bridged, container.pid)
    as_was = network(bridged)
    inside = {key: container.ip(key, "show") for key in ("address", "link")}
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    back = restored(criu, bridged, images, WAYS[way]).container

    assert captured(bridged, back.pid) == before
    assert network(bridged) == as_was
    assert [link["ifindex"] for link in back.ip("link", "show")] == [link["ifindex"] for link in inside["link"]]
    assert names_and_addresses(back) == names_and_addresses_in(inside["address"])
    assert bridged.connect("fd00::77").ask("hello") == "1 hello"


def names_and_addresses(container: Container) -> list[tuple[str, str]]:
    return names_and_addresses_in(container.ip("address", "show"))


def names_and_addresses_in(links: Any) -> list[tuple[str, str]]:
    return sorted((link["ifname"], f"{a['local']}/{a['prefixlen']}") for link in links for a in link["addr_info"])


@pytest.mark.parametrize("way", WAYS)
def test_inner_end_by_the_mapping_file_alone(bridged: Host, criu: Criu, images: Path, way: str) -> None:
    """Images that were made without the hook; where CRIU brings nothing, the file has to say what is inside."""
    container = bridged.container([WEB])
    criu.dump(container, images)
    container.wait_unplugged()
    inside = (
        '[veth.netns]\nmac = "02:00:00:00:00:02"\naddresses = ["10.0.0.2/24", "fd00::2/64"]\n'
        'routes = ["default via 10.0.0.1"]\n'
    )
    bridged.path("/etc/criu/criu-veth.toml").write_text(
        '[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\n' + (inside if way == "empty" else "")
    )

    back = restored(criu, bridged, images, WAYS[way]).container

    assert bridged.link("web0")["master"] == "br0"
    assert back.ip("link", "show", "dev", "eth0")[0]["address"] == WEB.mac
    assert bridged.connect("10.0.0.2").ask("hello") == "1 hello"
    assert bridged.connect("fd00::2").ask("and over IPv6") == "2 and over IPv6"


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_reached_before_post_restore(bridged: Host, criu: Criu, images: Path, way: str) -> None:
    """A second script, registered first and so called last, looks at the outer end at every action."""
    looker = script(
        images.parent / "looker", 'ip -o link show dev web0 2>/dev/null | sed "s/^/look: $CRTOOLS_SCRIPT_ACTION /"'
    )
    container = bridged.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    outcome = restored(criu, bridged, images, WAYS[way], hook=looker, args=["--action-script", str(HOOK)])

    looks = [line.removeprefix("look: ").split(None, 1) for line in outcome.said("look: ")]
    reachable = [action for action, link in looks if "UP" in link.partition("<")[2].partition(">")[0].split(",")]
    attached = [action for action, link in looks if " master br0 " in link]
    assert "post-setup-namespaces" in [action for action, _ in looks]
    assert reachable == attached == ["post-restore", "network-unlock", "pre-resume", "post-resume"]


def script(file: Path, text: str) -> Path:
    """Write an action script. CRIU closes its stdin, and some programs do not like that."""
    file.write_text(f"#!/bin/sh\nexec </dev/null\n{text}\n")
    file.chmod(0o755)
    return file


# --- somebody else has been there before

# An OCI createRuntime hook does this: it is called just before the action script.
MAKES_THE_PAIR = """
[ "$CRTOOLS_SCRIPT_ACTION" = setup-namespaces ] || exit 0
set -e
ip link add theirs0 type veth peer name eth0 address 02:00:00:00:00:02 netns "$CRTOOLS_INIT_PID"
ip link set theirs0 master br0 up
nsenter --net=/proc/$CRTOOLS_INIT_PID/ns/net ip address add 10.0.0.2/24 dev eth0
nsenter --net=/proc/$CRTOOLS_INIT_PID/ns/net ip link set eth0 up
"""


def test_pair_that_is_there_already_is_adopted(bridged: Host, criu: Criu, images: Path) -> None:
    maker = script(images.parent / "maker", MAKES_THE_PAIR)
    container = bridged.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()

    outcome = restored(criu, bridged, images, WAYS["empty"], args=["--action-script", str(maker)])

    assert outcome.said("criu-veth:")[0] == (
        "criu-veth: setup-namespaces: notice: eth0: is there already, made by somebody else: adopted"
    )
    assert not bridged.has_link("web0")
    assert bridged.link("theirs0")["master"] == "br0"
    assert bridged.connect("10.0.0.2").ask("hello") == "1 hello"


def test_adopted_pair_gets_what_the_mapping_file_says(bridged: Host, criu: Criu, images: Path) -> None:
    maker = script(images.parent / "maker", MAKES_THE_PAIR)
    container = bridged.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    bridged.path("/etc/criu/criu-veth.toml").write_text('[[veth]]\ninner = "eth0"\nalias = "adopted"\n')

    restored(criu, bridged, images, WAYS["empty"], args=["--action-script", str(maker)])

    assert bridged.link("theirs0")["ifalias"] == "adopted"
    assert not bridged.has_link("web0"), "the file names no outer end, so its maker's name stays"
    assert bridged.connect("10.0.0.2").ask("hello") == "1 hello"


# --- what cannot be


MACVLAN = 'kind = "macvlan"\nparent = "br0"\n'
IPVLAN = 'kind = "ipvlan"\nparent = "br0"\n'
NETKIT = 'kind = "netkit"\nkind_mode = "l3"\nouter = "web0"\n'
IN_EMPTY = (
    "veth[0].kind: CRIU makes no {}, and cannot move one in mode {} in: it gives a ready device the MAC address of the"
    " images, which the kernel refuses: give it --empty-ns net"
)
NETNS = "[veth.netns]\nmtu = 1400\n"
BROUGHT = (
    'veth[0].netns: "eth0": CRIU brings the inner end back as it is in the images, and nothing of this would be done;'
    ' leave it out, or have the network namespace made empty (mode = "empty", and criu restore --empty-ns net)'
)
CONTRADICTIONS = {
    ("external", 'mode = "ready"\n'): (
        'veth[0].mode: "ready" contradicts what criu was told (external); leave the mode out'
    ),
    ("external", 'mode = "empty"\n'): (
        'veth[0].mode: "empty" contradicts what criu was told (external); leave the mode out'
    ),
    ("ready", 'mode = "external"\n'): (
        'veth[0].mode: "external" contradicts what criu was told with --external netdev[] (ready); leave the mode out'
    ),
    ("empty", 'mode = "ready"\n'): (
        'veth[0].mode: "ready" contradicts what criu was told, or the images without devices say (empty); leave the'
        " mode out"
    ),
    ("external", NETNS): BROUGHT,
    ("ready", NETNS): BROUGHT,
    ("external", MACVLAN): "veth[0].kind: CRIU makes no macvlan: give it --external 'netdev[eth0]:NAME'",
    ("ready", IPVLAN): IN_EMPTY.format("ipvlan", "l2"),
    ("external", IPVLAN): IN_EMPTY.format("ipvlan", "l2"),
    ("ready", NETKIT): IN_EMPTY.format("netkit", "l3"),
    ("external", NETKIT.replace("l3", "l2")): (
        "veth[0].kind: CRIU makes no netkit: give it --external 'netdev[eth0]:NAME'"
    ),
}


@pytest.mark.parametrize(("way", "words"), CONTRADICTIONS)
def test_contradiction_is_an_error_before_anything_is_made(
    bridged: Host, criu: Criu, images: Path, way: str, words: str
) -> None:
    outer = "" if "kind" in words else 'outer = "web0"\n'
    bridged.path("/etc/criu/criu-veth.toml").write_text(f'[[veth]]\ninner = "eth0"\n{outer}{words}')
    container = bridged.container([WEB])
    criu.dump(container, images)
    container.wait_unplugged()
    before = network(bridged)

    outcome = restored(criu, bridged, images, WAYS[way], check=False)

    fault = CONTRADICTIONS[way, words]
    assert outcome.said("criu-veth:") == [f"criu-veth: error: pre-restore: /etc/criu/criu-veth.toml: {fault}"]
    assert network(bridged) == before


# --- other devices, and other namespaces


def stacked(kind: str, mode: str, way: str, *features: str) -> Any:
    return pytest.param(kind, mode, way, id=f"{kind} {mode} {way}", marks=pytest.mark.kernel(*features))


@pytest.mark.parametrize(
    ("kind", "mode", "way"),
    [
        stacked("macvlan", "bridge", "ready"),
        stacked("macvlan", "bridge", "empty"),
        stacked("ipvlan", "l2", "empty", "ipvlan"),
        stacked("ipvlan", "l3", "empty", "ipvlan"),
        stacked("ipvlan", "l3s", "empty", "ipvlan"),
    ],
)
def test_device_on_top_of_another(
    host_factory: Callable[[], Host], criu: Criu, images: Path, kind: str, mode: str, way: str
) -> None:
    """What was behind a veth comes back on a device of the host, and has no outer end."""
    host, peer = host_factory(), host_factory()
    host.bridge("br0")
    peer.veth("cable0", "uplink0", host, addresses=["10.0.0.1/24"])
    host.run("ip", "link", "set", "uplink0", "up")
    mac = 'mac = "02:00:00:00:00:02"\n' if kind == "macvlan" else ""
    inside = f'[veth.netns]\n{mac}addresses = ["10.0.0.2/24"]\n' if way == "empty" else ""
    host.path("/etc/criu/criu-veth.toml").write_text(
        f'[[veth]]\ninner = "eth0"\nkind = "{kind}"\nparent = "uplink0"\nkind_mode = "{mode}"\n{inside}'
    )
    if mode in ("l3", "l3s"):  # nobody answers for it: the peer has to know where it is
        lladdr = host.link("uplink0")["address"]
        peer.run("ip", "neighbour", "add", "10.0.0.2", "lladdr", lladdr, "dev", "cable0", "nud", "permanent")
    container = host.container([WEB])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    host.run("ip", "link", "del", "br0")  # the captured outer end is nobody's business any more

    back = restored(criu, host, images, WAYS[way]).container

    link = back.ip("link", "show", "dev", "eth0")[0]
    assert (link["linkinfo"]["info_kind"], link["linkinfo"]["info_data"]["mode"]) == (kind, mode)
    assert link["address"] == (WEB.mac if kind == "macvlan" else host.link("uplink0")["address"])
    assert link["group"] == "default"
    assert peer.connect("10.0.0.2").ask("hello") == "1 hello"


@pytest.mark.kernel("netkit")
@pytest.mark.parametrize(("mode", "way"), [("l2", "ready"), ("l2", "empty"), ("l3", "empty")])
def test_netkit(host: Host, criu: Criu, images: Path, mode: str, way: str) -> None:
    """What was behind a veth comes back on another kind of pair, routed; the connection goes on."""
    host.bridge("br0", "10.0.0.1/24")
    host.path("/etc/criu/criu-veth.toml").write_text(
        f'verify = true\n[[veth]]\ninner = "eth0"\nkind = "netkit"\nkind_mode = "{mode}"\nbridge = ""\n'
        'addresses = ["10.0.0.1/32"]\nroutes = ["10.0.0.2/32"]\nalias = "netkit of {inner}"\n'
    )
    container = host.container(
        [Link(inner="eth0", outer="web0", bridge="br0", mac=WEB.mac, addresses=("10.0.0.2/24",))]
    )
    client = host.connect("10.0.0.2")
    assert client.ask("before") == "1 before"
    criu.dump(container, images, hook=HOOK, tcp_established=True)
    container.wait_unplugged()
    host.run("ip", "link", "del", "br0")

    outcome = restored(criu, host, images, WAYS[way])

    link, outer = outcome.container.ip("link", "show", "dev", "eth0")[0], host.link("web0")
    assert [one["linkinfo"]["info_kind"] for one in (link, outer)] == ["netkit", "netkit"]
    assert (link["group"], outer["group"], outer["ifalias"]) == ("default", "default", "netkit of eth0")
    assert client.ask("after") == "2 after"


#: CRIU 4.1 writes the range of groups that may ping as it was outside the user namespace; 4.2 maps it.
PING_GROUPS = pytest.mark.criu_broken("4.1", "4.2", "net.ipv4.ping_group_range in a user namespace")


@pytest.mark.parametrize("way", [pytest.param("ready", marks=PING_GROUPS), "empty"])
def test_user_namespace(bridged: Host, criu: Criu, images: Path, way: str) -> None:
    """CRIU cannot make the pair from within a user namespace, so it has to find it made."""
    container = bridged.container([WEB], namespaces=["user", "net", "pid", "mount"])
    client = bridged.connect("10.0.0.2")
    assert client.ask("before") == "1 before"
    criu.dump(container, images, hook=HOOK, tcp_established=True)
    open_to_all(images)
    container.wait_unplugged()

    back = restored(criu, bridged, images, WAYS[way]).container

    assert client.ask("after") == "2 after"
    own = os.stat("/proc/self/ns/user").st_ino
    assert os.stat(f"/proc/{back.pid}/ns/user").st_ino != own
    assert bridged.link("web0")["master"] == "br0"


def open_to_all(images: Path) -> None:
    """Let root of a user namespace read the images and go through the directories above."""
    for directory in (images, *images.parents):
        if directory.is_relative_to("/tmp/"):
            directory.chmod(0o755)
    for file in images.iterdir():
        file.chmod(0o644)


def test_external_network_namespace(bridged: Host, criu: Criu, images: Path) -> None:
    """The namespace outlives the dump, with all that is in it: nothing is made, moved or silenced."""
    container = bridged.container([WEB])
    bridged.run("sh", "-ec", f"touch /run/kept; mount --bind /proc/{container.pid}/ns/net /run/kept")
    inode = os.stat(f"/proc/{container.pid}/ns/net").st_ino
    before = network(bridged)
    client = bridged.connect("10.0.0.2")
    assert client.ask("before") == "1 before"
    external = ["--external", f"net[{inode}]:kept"]

    criu.dump(container, images, hook=HOOK, args=external, tcp_established=True)
    assert network(bridged) == before
    program = script(images.parent / "criu", f'exec 9</run/kept\nexec {criu.path} "$@"')
    outcome = Criu(program).restore(
        bridged, images, external=(), args=["--inherit-fd", "fd[9]:kept"], hook=HOOK, tcp_established=True
    )

    assert client.ask("after") == "2 after"
    assert network(bridged) == before
    assert not [line for line in outcome.said("criu-veth:") if "error" in line]


def test_without_a_network_namespace(bridged: Host, criu: Criu, images: Path) -> None:
    container = bridged.container(namespaces=["pid", "mount"])
    before = network(bridged)

    dumped = criu.dump(container, images, hook=HOOK)
    outcome = criu.restore(bridged, images, external=(), hook=HOOK)

    assert dumped.said("criu-veth:") == ["criu-veth: pre-dump: notice: the container has no veth to the host"]
    assert outcome.said("criu-veth:") == []
    (run,) = bridged.path("/run/criu-veth/runs").iterdir()
    done = {path.name.removesuffix(".done") for path in run.iterdir() if path.name.endswith(".done")}
    assert done == set(RESTORE_STAGES), "all later actions end in the shell"
    assert network(bridged) == before
    assert bridged.connect("127.0.0.1").ask("hello") == "1 hello"
