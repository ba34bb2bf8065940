r"""Names and aliases that are not UTF-8: the kernel takes any bytes but for some of ASCII.

A shell makes such names, as no text of a test could be shown if it had them; what is said of them has ``\xNN``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Host, Link, Program
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Restoring = Callable[..., StandIn]
SLEEPER = Program(argv=["sleep", "infinity"])
CAPTURED = "criu-veth: pre-dump: captured eth0: web0"
#: The byte 0xff between two letters, for a shell.
ODD = r"$(printf 'w\377b')"

PAIR = """ip link add "$(printf 'p\\3760')" type veth peer name "$(printf 'p\\3761')\""""


@pytest.fixture
def plugged(bridged: Host) -> Container:
    """A container with a veth on br0."""
    return bridged.container([Link(inner="eth0", outer="web0", bridge="br0")], SLEEPER)


def shell(where: Container | Host, *commands: str) -> None:
    where.run("sh", "-ec", "\n".join(commands))


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return sorted(done.stderr.splitlines())


def captured(images: Path) -> Any:
    return json.loads((images / "criu-veth.json").read_text())


@pytest.mark.parametrize("which", ["eth0", "web0"])
def test_an_alias(restoring: Restoring, plugged: Container, images: Path, which: str) -> None:
    where = plugged if which == "eth0" else plugged.host
    shell(where, f"ip link set {which} alias \"$(printf 'caf\\351 \\377')\"")

    assert said(restoring("").act("pre-dump", plugged)) == [
        CAPTURED,
        rf"criu-veth: pre-dump: warning: {which}: its alias cannot be captured: caf\xe9 \xff is not UTF-8",
    ]
    (veth,) = captured(images)["veths"]
    assert "alias" not in veth["inner"]
    assert "alias" not in veth["outer"]
    assert veth["outer"]["master"] == "br0", "all else is there"


def test_an_alias_that_is_utf_8_is_kept(restoring: Restoring, plugged: Container, images: Path) -> None:
    plugged.host.run("ip", "link", "set", "web0", "alias", "café ☕")
    assert said(restoring("").act("pre-dump", plugged)) == [CAPTURED]
    assert captured(images)["veths"][0]["outer"]["alias"] == "café ☕"


def test_an_alias_with_a_line_break(restoring: Restoring, plugged: Container, images: Path) -> None:
    """The kernel takes it; the reader of a state file does not."""
    plugged.host.run("ip", "link", "set", "web0", "alias", "one\ntwo")
    assert said(restoring("").act("pre-dump", plugged)) == [
        CAPTURED,
        "criu-veth: pre-dump: warning: web0: its alias cannot be captured: an alias has no line break and no NUL in it",
    ]


def test_an_alternative_name(restoring: Restoring, plugged: Container, images: Path) -> None:
    for name in ("good", "$(printf 'bad\\377')", "better"):
        shell(plugged.host, f'ip link property add dev web0 altname "{name}"')

    assert said(restoring("").act("pre-dump", plugged)) == [
        CAPTURED,
        r"criu-veth: pre-dump: warning: web0: 1 of its altnames cannot be captured: bad\xff is not UTF-8",
    ]
    assert captured(images)["veths"][0]["outer"]["altnames"] == ["good", "better"]


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_the_name_of_an_end(restoring: Restoring, plugged: Container, images: Path, which: str) -> None:
    """That veth is not captured; the dump goes on, and the other veths are there."""
    plugged.plug(Link(inner="eth1", outer="web1", bridge="br1"))
    where, name = (plugged, "eth0") if which == "inner" else (plugged.host, "web0")
    shell(where, f"ip link set {name} down", f'ip link set {name} name "{ODD}"')

    inner = r"w\xffb" if which == "inner" else "eth0"
    assert said(restoring("").act("pre-dump", plugged)) == [
        "criu-veth: pre-dump: captured eth1: web1",
        rf"criu-veth: pre-dump: warning: {inner}: the name of its {which} end, w\xffb, is not UTF-8: this veth is not"
        " captured, and a restore leaves its outer end as it is made; rename it before the dump",
    ]
    assert [veth["inner"]["ifname"] for veth in captured(images)["veths"]] == ["eth1"]


def test_a_bridge(restoring: Restoring, plugged: Container, images: Path) -> None:
    host = plugged.host
    shell(host, f'ip link add "{ODD}" type bridge', f'ip link set web0 master "{ODD}"')

    assert said(restoring("").act("pre-dump", plugged)) == [
        CAPTURED,
        r"criu-veth: pre-dump: warning: web0: it is a port of w\xffb, a name that is not UTF-8; that is not carried"
        " over",
    ]
    (veth,) = captured(images)["veths"]
    assert not {"master", "master_kind", "port", "vlan", "fdb"} & set(veth["outer"])


def test_what_is_on_top_of_an_outer_end(restoring: Restoring, plugged: Container) -> None:
    shell(plugged.host, "ip link set web0 nomaster", f'ip link add link web0 "{ODD}" type macvlan')
    assert said(restoring("").act("pre-dump", plugged)) == [
        CAPTURED,
        r"criu-veth: pre-dump: notice: web0: w\xffb is on top of it, and is not put back",
    ]


def test_a_rule_with_another_device(restoring: Restoring, plugged: Container, images: Path) -> None:
    host = plugged.host
    host.run("ip", "rule", "add", "iif", "web0", "table", "100", "priority", "100")
    shell(host, f'ip rule add iif web0 oif "{ODD}" table 101 priority 101')

    assert said(restoring("").act("pre-dump", plugged)) == [
        CAPTURED,
        "criu-veth: pre-dump: warning: web0: 1 of its rules cannot be captured: it is not UTF-8",
    ]
    assert [rule["priority"] for rule in captured(images)["veths"][0]["outer"]["rules"]] == [100]


def test_other_devices_of_the_container(restoring: Restoring, plugged: Container) -> None:
    shell(plugged, f'ip link add "{ODD}" type bridge', PAIR)
    assert said(restoring("").act("pre-dump", plugged)) == [
        CAPTURED,
        r"criu-veth: pre-dump: notice: p\xfe0: its peer is in the container too, not touched",
        r"criu-veth: pre-dump: notice: p\xfe1: its peer is in the container too, not touched",
        r"criu-veth: pre-dump: notice: w\xffb: bridge device, not touched",
    ]


def test_other_devices_of_the_host(
    restoring: Restoring, plugged: Container, container: Container, images: Path
) -> None:
    """Neither the dump nor the restore trips over them, and a bridge that is missed is told from them."""
    host = plugged.host
    alias = """ip link set "$(printf 'p\\3760')" alias "$(printf '\\377')" master br0 up"""
    shell(host, f'ip link add "{ODD}" type bridge', PAIR, alias)
    restore = restoring("")
    assert said(restore.act("pre-dump", plugged)) == [CAPTURED]
    plugged.kill()
    plugged.wait_unplugged()

    for action in ("pre-restore", "setup-namespaces", "post-setup-namespaces"):
        assert said(restore.act(action, *([] if action == "pre-restore" else [container]))) == []
    make_pair(container, "eth0", "web0")
    assert restore.act("post-restore", container).returncode == 0
    assert host.link("web0")["master"] == "br0"

    container.kill()
    host.wait_no_link("web0")
    host.run("ip", "link", "del", "br0")
    done = restoring("").act("pre-restore")
    assert (done.returncode, done.stderr) == (
        1,
        'criu-veth: error: pre-restore: veth eth0: bridge "br0" does not exist on this host (it has br1, w\\xffb); if'
        ' it is called differently here, write in the mapping file: [remap] bridge = { br0 = "..." }\n',
    )


def test_a_host_s_own_name(restoring: Restoring, plugged: Container, images: Path) -> None:
    script = "import socket; socket.sethostname(b'a\\xff')"
    plugged.host.run("python3", "-c", script)
    assert said(restoring("").act("pre-dump", plugged)) == [CAPTURED]
    assert captured(images)["host"]["hostname"] == r"a\xff"


def test_a_route_of_this_host_is_in_the_way(restoring: Restoring, host: Host, plugged: Container) -> None:
    shell(host, PAIR, """ip link set "$(printf 'p\\3760')" up""", """ip link set "$(printf 'p\\3761')" up""")
    shell(host, """ip route add 10.88.0.0/24 dev "$(printf 'p\\3761')\"""")
    done = restoring('[[veth]]\ninner = "eth1"\nouter = "web1"\nroutes = ["10.88.0.0/24"]\n').act("pre-restore")
    assert (done.returncode, done.stderr) == (
        1,
        'criu-veth: error: pre-restore: veth eth1: there is a route to 10.88.0.0/24 already, through "p\\xfe1";'
        " delete it: ip route del 10.88.0.0/24 dev p\\xfe1\n",
    )
