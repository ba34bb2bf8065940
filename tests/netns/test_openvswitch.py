"""Ports of Open vSwitch, on its userspace datapath: asked for, captured, refused, taken back, and collected."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from criu_veth.actions import RESTORE_STAGES
from lab import Container, Host, Link, Program, snapshot, wait_for
from lab.cli import cli
from lab.openvswitch import OpenVSwitch
from lab.standin import StandIn, make_pair

Restoring = Callable[..., StandIn]

ROOT = Path(__file__).parents[2]
PROGRAM = "/usr/bin/ovs-vsctl"
WEB = '[[veth]]\ninner = "eth0"\nouter = "web0"\n'
ONE = WEB + 'ovs = { bridge = "obr0", tag = 10 }\n'
SLEEP = Program(argv=["sleep", "infinity"])


@pytest.fixture
def switch(host: Host) -> OpenVSwitch:
    """Open vSwitch on the host, with the bridges obr0 and obr1."""
    found = OpenVSwitch(host)
    found.bridge("obr0")
    found.bridge("obr1")
    return found


@pytest.fixture
def container(host: Host) -> Container:
    """A container without a veth, as the tree is before CRIU restores its links."""
    return host.container((), SLEEP)


def act(restore: StandIn, action: str, container: Container | None = None) -> tuple[int, list[str]]:
    done = restore.act(action, container)
    prefix = f"criu-veth: {action}: "
    return done.returncode, [line.removeprefix(prefix) for line in done.stderr.splitlines()]


def restored(restore: StandIn, container: Container, *pairs: tuple[str, str]) -> list[str]:
    """Go through a restore with these pairs, as CRIU leaves them; return what post-restore said."""
    assert act(restore, "pre-restore") == (0, [])
    for inner, outer in pairs or (("eth0", "web0"),):
        make_pair(container, inner, outer)
    status, said = act(restore, "post-restore", container)
    assert status == 0, said
    return said


def fake(host: Host, text: str) -> None:
    """Put another ovs-vsctl in the place of the host's."""
    path = host.path("/etc/criu/ovs-vsctl")
    path.write_text(text)
    path.chmod(0o755)
    host.run("mount", "--bind", "/etc/criu/ovs-vsctl", PROGRAM)


def real(host: Host) -> None:
    host.run("umount", PROGRAM)


# --- asked for


def mark(host: Host) -> dict[str, str]:
    """How the hook marks a port of eth0: by whom it was made, and from where."""
    return {"criu-veth": "eth0", "criu-veth-netns": host.run("stat", "-Lc", "%i", "/proc/self/ns/net").stdout.strip()}


def test_all_that_a_mapping_may_ask_for(
    host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring
) -> None:
    text = """ovs = { bridge = "obr0", tag = 10, trunks = [20, "30-32"], vlan_mode = "native-untagged",
        external_ids = { "a b" = "c, \\"d\\" = ü" }, interface_external_ids = { iface-id = "lsp1" },
        ingress_policing_rate = 100000, ingress_policing_burst = 10000 }""".replace("\n", "")
    said = restored(restoring(WEB + "mtu = 1400\n" + text), container)
    assert said == [
        "eth0: outer end named web0",
        "eth0: web0 mtu 1400",
        "eth0: web0 attached to obr0, native-untagged, tag 10, trunks 20 30-32",
        "eth0: web0 up",
        "container announced",
    ]
    port, interface = switch.record("Port", "web0"), switch.record("Interface", "web0")
    assert (port["tag"], port["trunks"], port["vlan_mode"]) == (10, [20, 30, 31, 32], "native-untagged")
    assert port["external_ids"] == {"a b": 'c, "d" = ü', **mark(host)}
    assert interface["external_ids"] == {"iface-id": "lsp1"}
    assert (interface["ingress_policing_rate"], interface["ingress_policing_burst"]) == (100000, 10000)
    assert (interface["ofport"] > 0, switch.ports("obr0"), switch.ports("obr1")) == (True, ["web0"], [])
    assert {"UP", "PROMISC"} <= set(host.link("web0")["flags"])


def test_whatever_criu_called_it(host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring) -> None:
    """The device is named before the switch is told of it."""
    restored(restoring(ONE), container, ("eth0", "x0"))
    assert switch.record("Interface", "web0")["ofport"] > 0
    assert not host.has_link("x0")


def test_all_veths_in_one_transaction(switch: OpenVSwitch, container: Container, restoring: Restoring) -> None:
    text = '[defaults]\nannounce = false\novs = { bridge = "obr0" }\n' + WEB + "ovs = { tag = 10 }\n"
    text += '[[veth]]\ninner = "eth1"\nouter = "db0"\n[[veth]]\ninner = "eth2"\nouter = "x2"\nbridge = ""\n'
    text += '[[veth]]\ninner = "eth3"\nouter = "x3"\novs = { bridge = "obr1", trunks = [7] }\n'
    before = int(switch.vsctl("get", "Open_vSwitch", ".", "next_cfg"))
    said = restored(restoring(text), container, ("eth0", "y0"), ("eth1", "y1"), ("eth2", "y2"), ("eth3", "y3"))
    assert said == [
        "eth0: outer end named web0",
        "eth1: outer end named db0",
        "eth3: outer end named x3",
        "eth0: web0 attached to obr0, tag 10",
        "eth1: db0 attached to obr0",
        "eth3: x3 attached to obr1, trunks 7",
        "eth0: web0 up",
        "eth1: db0 up",
        "eth2: outer end named x2",
        "eth2: x2 up",
        "eth3: x3 up",
    ]
    assert (switch.ports("obr0"), switch.ports("obr1")) == (["db0", "web0"], ["x3"])
    assert int(switch.vsctl("get", "Open_vSwitch", ".", "next_cfg")) == before + 1


@pytest.mark.parametrize("name", ["-x", '"q', "a,b=c", "beef", "[]"])
def test_names_that_a_command_line_may_misread(
    switch: OpenVSwitch, container: Container, restoring: Restoring, name: str
) -> None:
    quoted = json.dumps(name)
    text = f'[[veth]]\ninner = "eth0"\nouter = {quoted}\novs = {{ bridge = "obr0", ingress_policing_rate = 7 }}\n'
    restored(restoring(text), container, ("eth0", "x0"))
    assert switch.ports("obr0") == [name]
    assert switch.record("Interface", name)["ingress_policing_rate"] == 7


# --- records that are there already


def test_a_record_of_a_device_that_is_gone_is_replaced(
    switch: OpenVSwitch, container: Container, restoring: Restoring
) -> None:
    switch.vsctl("add-port", "obr0", "web0", "tag=99", "external_ids:old=1")
    restore = restoring(ONE)
    assert act(restore, "pre-restore") == (0, [])
    assert switch.ports("obr0") == []
    make_pair(container, "eth0", "web0")
    assert act(restore, "post-restore", container)[0] == 0
    port = switch.record("Port", "web0")
    assert (port["tag"], port["external_ids"]) == (10, mark(restore.host))


def test_a_record_on_another_bridge_is_warned_of(
    switch: OpenVSwitch, container: Container, restoring: Restoring
) -> None:
    switch.vsctl("add-port", "obr1", "web0")
    restore = restoring(ONE)
    assert act(restore, "pre-restore") == (
        0,
        ['warning: veth eth0: Open vSwitch has a port "web0" on obr1: it will be moved to obr0'],
    )
    make_pair(container, "eth0", "web0")
    assert act(restore, "post-restore", container)[0] == 0
    assert (switch.ports("obr0"), switch.ports("obr1")) == (["web0"], [])


def test_twice_is_as_once(switch: OpenVSwitch, container: Container, restoring: Restoring, host: Host) -> None:
    restore = restoring(ONE)
    restored(restore, container)
    left = host.run("ls", f"/run/criu-veth/runs/{restore.run}").stdout.split()
    assert sorted(left) == sorted(["owner", *(f"{action}.done" for action in RESTORE_STAGES)])
    assert act(restore, "post-restore", container) == (0, [])
    assert switch.ports("obr0") == ["web0"]


def test_a_record_goes_where_the_device_becomes_a_port_of_a_bridge(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container, restoring: Restoring
) -> None:
    captured(host, hook, images, plugged)
    plugged.kill()
    plugged.wait_unplugged()
    host.bridge("br0")
    assert act(restoring(WEB + 'bridge = "br0"'), "pre-restore") == (0, [])
    assert switch.ports("obr0") == []


@pytest.mark.parametrize("missing", ["database", "program"])
def test_a_bridge_needs_no_switch(
    host: Host,
    switch: OpenVSwitch,
    hook: Path,
    images: Path,
    plugged: Container,
    container: Container,
    restoring: Restoring,
    missing: str,
) -> None:
    """Of a captured port, on a host without Open vSwitch."""
    captured(host, hook, images, plugged)
    plugged.kill()
    plugged.wait_unplugged()
    host.bridge("br0")
    if missing == "database":
        switch.database.kill()
        switch.database.wait()
    else:
        host.run("mount", "--bind", "/dev/null", PROGRAM)
    restored(restoring(WEB + 'bridge = "br0"'), container)
    assert host.link("web0")["master"] == "br0"


# --- refused before the restore


def refused(restore: StandIn) -> list[str]:
    status, said = act(restore, "pre-restore")
    assert status == 1
    return [line.removeprefix("criu-veth: error: pre-restore: ") for line in said]


def test_no_such_bridge(switch: OpenVSwitch, restoring: Restoring) -> None:
    assert refused(restoring(WEB + 'ovs = { bridge = "obr7" }')) == [
        'veth eth0: Open vSwitch has no bridge "obr7" on this host (it has obr0, obr1)'
    ]


def test_no_bridges_at_all(host: Host, restoring: Restoring) -> None:
    OpenVSwitch(host)
    assert refused(restoring(ONE)) == ['veth eth0: Open vSwitch has no bridge "obr0" on this host (it has none)']


def test_a_fake_bridge_is_a_bridge(switch: OpenVSwitch, container: Container, restoring: Restoring) -> None:
    """One that is a VLAN of another: what Open vSwitch calls so."""
    switch.vsctl("add-br", "fake0", "obr0", "77")
    restored(restoring(WEB + 'ovs = { bridge = "fake0" }'), container)
    assert (switch.ports("fake0"), switch.record("Port", "web0")["tag"]) == (["web0"], 77)


def test_no_program(host: Host, switch: OpenVSwitch, restoring: Restoring) -> None:
    host.run("mount", "--bind", "/dev/null", PROGRAM)
    fault = "Open vSwitch: there is no ovs-vsctl: install it (Debian: openvswitch-switch)"
    assert refused(restoring(ONE)) == [f"veth eth0: {fault}"]


def test_a_program_that_others_may_write(host: Host, switch: OpenVSwitch, restoring: Restoring) -> None:
    fake(host, "#!/bin/sh\n")
    host.path("/etc/criu/ovs-vsctl").chmod(0o777)
    why = f"{PROGRAM} is not run, because {PROGRAM} may be written by others (mode 0777): chmod go-w"
    assert refused(restoring(ONE)) == [f"veth eth0: Open vSwitch: {why}"]


def test_no_database(host: Host, restoring: Restoring) -> None:
    why = "its database is not there (/var/run/openvswitch/db.sock): start ovsdb-server and ovs-vswitchd"
    assert refused(restoring(ONE)) == [f"veth eth0: Open vSwitch: {why}"]


def test_a_dead_database(switch: OpenVSwitch, restoring: Restoring) -> None:
    switch.database.kill()
    switch.database.wait()
    why = "ovs-vsctl: unix:/var/run/openvswitch/db.sock: database connection failed (Connection refused)"
    assert refused(restoring(ONE)) == [f"veth eth0: Open vSwitch: {why}"]


def test_a_database_that_does_not_answer(switch: OpenVSwitch, restoring: Restoring) -> None:
    switch.database.send_signal(signal.SIGSTOP)
    assert refused(restoring(ONE)) == ["veth eth0: Open vSwitch: ovs-vsctl: no answer in time"]


def test_a_name_that_another_kind_of_port_has(switch: OpenVSwitch, restoring: Restoring) -> None:
    switch.vsctl("add-port", "obr0", "web0", "--", "set", "Interface", "web0", "type=patch", "options:peer=p")
    assert refused(restoring(ONE)) == [
        'veth eth0: the name "web0" is taken by a port of Open vSwitch of the kind patch; choose another outer name'
    ]
    assert switch.ports("obr0") == ["web0"]


@pytest.mark.parametrize("bond", ["web0", "bond0"])
def test_a_name_in_a_bond(switch: OpenVSwitch, restoring: Restoring, bond: str) -> None:
    switch.vsctl("add-bond", "obr0", bond, "web0", "e1")
    of = "an interface of a bond" if bond == "bond0" else "a port of Open vSwitch of the kind bond"
    assert refused(restoring(ONE)) == [f'veth eth0: the name "web0" is taken by {of}; choose another outer name']


def test_a_ready_program_is_not_used_when_the_bridge_is_gone(switch: OpenVSwitch, restoring: Restoring) -> None:
    assert act(restoring(ONE), "pre-restore") == (0, [])
    switch.vsctl("del-br", "obr0")
    assert refused(restoring()) == ['veth eth0: Open vSwitch has no bridge "obr0" on this host (it has obr1)']


def test_the_record_that_the_dump_left_cannot_be_removed(switch: OpenVSwitch, restoring: Restoring) -> None:
    """The database answers, the switch does not: found before CRIU has restored a byte."""
    switch.vsctl("add-port", "obr0", "web0")
    switch.switch.send_signal(signal.SIGSTOP)
    assert refused(restoring(ONE)) == [
        "eth0: web0 removed from Open vSwitch, where it is left of the device that is gone: ovs-vsctl: no answer in"
        " time"
    ]


# --- faults in the frozen window

SAYS = "#!/bin/sh\necho 'ovs-vsctl: no port named web0' >&2\nexit 1\n"
LATE = f"""#!/bin/sh
{PROGRAM}.real "$@"
case $* in *add-port*) echo "ovs-vsctl: Error detected while setting up 'web0': no.  See the log." >&2 ;; esac
"""


def begun(host: Host, container: Container, restoring: Restoring) -> tuple[StandIn, object]:
    """A restore just before post-restore, with the pair that CRIU makes, and what is on the host then."""
    restore = restoring(ONE)
    assert act(restore, "pre-restore") == (0, [])
    make_pair(container, "eth0", "x0")
    return restore, snapshot(host)


FAULTS = {
    "says why": (SAYS, "ovs-vsctl: no port named web0"),
    "says it otherwise": ("#!/bin/sh\necho one >&2\necho two >&2\nexit 3\n", "ovs-vsctl: two"),
    "says nothing": ("#!/bin/sh\nexit 3\n", "ovs-vsctl: it says nothing, and its status is 3"),
    "dies": ("#!/bin/sh\nkill -ABRT $$\n", "ovs-vsctl: it says nothing, and its status is -6"),
    "cannot be run": ("no program", "ovs-vsctl: cannot be run: Exec format error (ENOEXEC)"),
    "hangs": ("#!/bin/sh\nexec sleep 60\n", "ovs-vsctl: no answer in time"),
    "has a child that hangs": ("#!/bin/sh\nsleep 60 &\nexit 1\n", "ovs-vsctl: it says nothing, and its status is 1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_program_that_fails(
    host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring, name: str
) -> None:
    text, why = FAULTS[name]
    restore, before = begun(host, container, restoring)
    fake(host, text)
    status, said = act(restore, "post-restore", container)
    real(host)
    assert (status, said[0]) == (1, f"criu-veth: error: post-restore: eth0: web0 attached to obr0, tag 10: {why}")
    undone = f"criu-veth: error: post-restore: could not undo: eth0: web0 attached to obr0, tag 10: {why}"
    assert said[1:] == ([undone] if name in {"dies", "hangs"} else [])
    assert snapshot(host) == before
    assert switch.ports("obr0") == []
    assert act(restore, "post-restore", container)[0] == 0
    assert switch.ports("obr0") == ["web0"]


def test_a_switch_that_cannot_do_it(
    host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring
) -> None:
    """The database takes the port, ovs-vswitchd does not get along with it, and ovs-vsctl ends with status 0."""
    restore, before = begun(host, container, restoring)
    real_program = host.path("/etc/criu/real")
    real_program.write_bytes(Path(PROGRAM).read_bytes())
    real_program.chmod(0o755)
    fake(host, LATE.replace(f"{PROGRAM}.real", "/etc/criu/real"))
    status, said = act(restore, "post-restore", container)
    real(host)
    why = "ovs-vsctl: Error detected while setting up 'web0': no.  See the log."
    fault = f"criu-veth: error: post-restore: eth0: web0 attached to obr0, tag 10: {why}"
    assert (status, said) == (1, [fault])
    assert snapshot(host) == before
    assert switch.ports("obr0") == []


def test_a_switch_that_does_not_answer(
    host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring
) -> None:
    restore, before = begun(host, container, restoring)
    switch.switch.send_signal(signal.SIGSTOP)
    fault = "eth0: web0 attached to obr0, tag 10: ovs-vsctl: no answer in time"
    assert act(restore, "post-restore", container) == (1, [f"criu-veth: error: post-restore: {fault}"])
    assert switch.vsctl("--no-wait", "list-ports", "obr0") == ""
    assert snapshot(host) == before


def test_a_fault_after_it_takes_it_back(
    host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring
) -> None:
    text = '[defaults]\novs = { bridge = "obr0" }\n' + WEB + '[[veth]]\ninner = "eth1"\nouter = "db0"\n'
    restore = restoring(text + 'altnames = ["db"]\n')
    assert act(restore, "pre-restore") == (0, [])
    host.run("ip", "link", "property", "add", "dev", "lo", "altname", "db")
    for inner, outer in (("eth0", "x0"), ("eth1", "x1")):
        make_pair(container, inner, outer)
        for state in ("up", "down"):  # up once, so that it has the queue that a device keeps
            host.run("ip", "link", "set", outer, state)
    before = snapshot(host)
    fault = 'eth1: db0 altname "db": File exists (EEXIST)'
    assert act(restore, "post-restore", container) == (1, [f"criu-veth: error: post-restore: {fault}"])
    assert switch.ports("obr0") == []
    assert snapshot(host) == before


CLOSED = """import os, sys
sys.path.insert(0, sys.argv[1])
from criu_veth import execute
for descriptor in (0, 1, 2): os.close(descriptor)
found = execute.run_program((sys.argv[2],), alone=sys.argv[4] == "alone")
os.write(os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT), repr(found).encode())
"""


@pytest.mark.parametrize("whose", ["alone", "a program's"])
def test_the_program_has_all_descriptors_and_no_others(tmp_path: Path, whose: str) -> None:
    """CRIU closes stdin, and ovs-vsctl without one aborts."""
    program, result = tmp_path / "ovs-vsctl", tmp_path / "result"
    script = f"#!/bin/sh\n(ls -l /proc/$$/fd | sed -n 's/.* \\([0-9]* ->\\)/\\1/p'; env) >{tmp_path}/said\n"
    program.write_text(script)
    program.chmod(0o755)
    subprocess.run([sys.executable, "-I", "-S", "-c", CLOSED, str(ROOT), str(program), str(result), whose], check=True)
    assert result.read_text() == "(True, '')"
    said = (tmp_path / "said").read_text().splitlines()
    descriptors = dict(line.split(" -> ") for line in said if " -> " in line)
    assert {descriptors[name] for name in "012"} == {"/memfd:criu-veth (deleted)"}, (
        "files in memory, which nobody has to read"
    )
    assert set(descriptors) <= {"0", "1", "2", "10", "255"}  # the shell's own script
    assert sorted(line.split("=")[0] for line in said if " -> " not in line) == ["LC_ALL", "PATH", "PWD"]


def test_what_a_hostile_state_file_says_is_data(
    host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring, images: Path
) -> None:
    """Every text that might be more than a text is stored as one."""
    evil = ["--", "-- del-br obr1", '"', "'", ",", "=", "{}", "[]", "a,b=c", "\n", "--id=@x", "$(reboot)", "\\", "%s"]
    texts = {text: text for text in evil}
    port = {"bridge": "obr0", "external_ids": texts, "other_config": texts}
    port |= {"interface_external_ids": texts, "interface_other_config": texts, "lldp": texts, "bfd": texts}
    about = {"hostname": "a", "kernel": "b", "criu_veth": "c", "created": "d"}
    pair = {"inner": {"ifname": "eth0"}, "outer": {"ifname": "web0", "ovs": port}}
    (images / "criu-veth.json").write_text(json.dumps({"version": 1, "host": about, "veths": [pair]}))
    restored(restoring(""), container)
    assert switch.vsctl("list-br").split() == ["obr0", "obr1"]
    found, interface = switch.record("Port", "web0"), switch.record("Interface", "web0")
    assert found["external_ids"] == {**texts, **mark(host)}
    assert [found["other_config"], *(interface[key] for key in ("external_ids", "other_config", "lldp", "bfd"))] == (
        [texts] * 5
    )


# --- captured


def captured(host: Host, hook: Path, images: Path, container: Container) -> tuple[dict[str, Any], list[str]]:
    """What a dump writes of the first outer end, and what it says."""
    with StandIn(host, hook, images) as dump:
        status, said = act(dump, "pre-dump", container)
    assert status == 0, said
    found: dict[str, Any] = json.loads((images / "criu-veth.json").read_text())["veths"][0]["outer"]
    return found, said


@pytest.fixture
def plugged(host: Host, switch: OpenVSwitch) -> Container:
    """A container with a port on obr0."""
    found = host.container([Link(inner="eth0", outer="web0")], SLEEP)
    switch.port("obr0", "web0")
    return found


def test_a_port_with_nothing_set(host: Host, hook: Path, images: Path, plugged: Container) -> None:
    outer, said = captured(host, hook, images, plugged)
    assert said == ["captured eth0: web0"]
    assert outer["ovs"] == {"bridge": "obr0"}
    assert not {"master", "master_kind", "promisc"} & set(outer)


def test_everything_that_is_captured(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container
) -> None:
    switch.vsctl("set", "Port", "web0", "tag=0", "trunks=5,7", "cvlans=9", "vlan_mode=dot1q-tunnel", "protected=true")
    switch.vsctl("set", "Port", "web0", "external_ids:criu-veth=old", "external_ids:a=b", "other_config:c=d")
    columns = ["external_ids:e=f", "other_config:g=h", "options:i=j", "lldp:enable=true", "bfd:enable=false"]
    columns += ["cfm_mpid=3", "ingress_policing_rate=100000", "ingress_policing_burst=10000", "mtu_request=1400"]
    columns += ["ingress_policing_kpkts_rate=9", "ingress_policing_kpkts_burst=8", "ofport_request=42"]
    switch.vsctl("set", "Interface", "web0", *columns)
    outer, said = captured(host, hook, images, plugged)
    assert said == ["captured eth0: web0"]
    assert outer["ovs"] == {
        "bridge": "obr0",
        "tag": 0,
        "trunks": [5, 7],
        "cvlans": [9],
        "vlan_mode": "dot1q-tunnel",
        "protected": True,
        "external_ids": {"a": "b"},
        "other_config": {"c": "d"},
        "interface_external_ids": {"e": "f"},
        "interface_other_config": {"g": "h"},
        "options": {"i": "j"},
        "lldp": {"enable": "true"},
        "bfd": {"enable": "false"},
        "cfm_mpid": 3,
        "ingress_policing_rate": 100000,
        "ingress_policing_burst": 10000,
        "ingress_policing_kpkts_rate": 9,
        "ingress_policing_kpkts_burst": 8,
        "mtu_request": 1400,
        "ofport_request": 42,
    }
    assert not {"qdiscs", "filters"} & set(outer)


def test_what_is_not_carried_over_is_named(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container
) -> None:
    switch.vsctl("set", "Port", "web0", "qos=@q", "--", "--id=@q", "create", "QoS", "type=linux-htb")
    switch.vsctl(
        *("--", "--id=@p", "get", "Port", "web0", "--", "--id=@m", "create", "Mirror", "name=spy"),
        *("select_src_port=@p", "--", "set", "Bridge", "obr0", "mirrors=@m"),
    )
    outer, said = captured(host, hook, images, plugged)
    assert said == [
        "warning: web0: qos of its port on obr0 is not carried over",
        "warning: web0: its part in the mirror spy on obr0 is not put back",
        "captured eth0: web0",
    ]
    assert outer["ovs"] == {"bridge": "obr0"}
    assert not {"qdiscs", "classes", "filters"} & set(outer)


def test_what_is_more_than_a_command_line_takes_is_named(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container
) -> None:
    switch.vsctl("set", "Port", "web0", *(f"external_ids:k{number}=v" for number in range(129)))
    outer, said = captured(host, hook, images, plugged)
    why = "external_ids: has 129 keys; it may have 128"
    assert said[0] == f"warning: web0: {why}: its port on obr0 is not carried over"
    assert "ovs" not in outer


def test_a_record_of_a_device_that_is_on_a_bridge_now(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path
) -> None:
    """What a dump has left in the database is not what the device is."""
    switch.vsctl("add-port", "obr0", "web0")
    host.bridge("br0")
    container = host.container([Link(inner="eth0", outer="web0", bridge="br0")], SLEEP)
    outer, said = captured(host, hook, images, container)
    assert (said, outer["master"], "ovs" in outer) == (["captured eth0: web0"], "br0", False)


def test_no_port_beside_a_switch(host: Host, switch: OpenVSwitch, hook: Path, images: Path) -> None:
    container = host.container([Link(inner="eth0", outer="web0")], SLEEP)
    outer, said = captured(host, hook, images, container)
    assert (said, "ovs" in outer, outer["promisc"]) == (["captured eth0: web0"], False, False)


def test_a_switch_that_cannot_be_asked(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container
) -> None:
    switch.database.kill()
    switch.database.wait()
    outer, said = captured(host, hook, images, plugged)
    why = "ovs-vsctl: unix:/var/run/openvswitch/db.sock: database connection failed (Connection refused)"
    assert said == [
        f"warning: web0: if it is a port of Open vSwitch, that is not carried over: {why}",
        "captured eth0: web0",
    ]
    assert "ovs" not in outer


@pytest.mark.kernel("openvswitch")
def test_a_port_of_the_kernels_datapath_that_cannot_be_asked_for(host: Host, hook: Path, images: Path) -> None:
    """The kernel says that it is one, and no more."""
    switch = OpenVSwitch(host, "system")
    switch.bridge("obr0")
    container = host.container([Link(inner="eth0", outer="web0")], SLEEP)
    switch.port("obr0", "web0")
    switch.database.kill()
    switch.database.wait()
    outer, said = captured(host, hook, images, container)
    why = "ovs-vsctl: unix:/var/run/openvswitch/db.sock: database connection failed (Connection refused)"
    assert said == [f"warning: web0: its place in Open vSwitch is not carried over: {why}", "captured eth0: web0"]
    assert not {"ovs", "master", "master_kind"} & set(outer)


def test_remap_is_hinted_at_for_a_captured_bridge(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container, restoring: Restoring
) -> None:
    captured(host, hook, images, plugged)
    plugged.kill()
    plugged.wait_unplugged()
    switch.vsctl("del-br", "obr0")
    assert refused(restoring("")) == [
        'veth eth0: Open vSwitch has no bridge "obr0" on this host (it has obr1); if it is called differently here,'
        ' write in the mapping file: [remap] bridge = { obr0 = "..." }'
    ]


def test_inspect_shows_it(host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container) -> None:
    switch.vsctl("set", "Port", "web0", "tag=10", "external_ids:a=b")
    captured(host, hook, images, plugged)
    (images / "inventory.img").unlink(missing_ok=True)  # the stand-in left no whole checkpoint, only what was captured
    shown = cli(host, "inspect", str(images)).stdout.splitlines()
    assert [line for line in shown if " ovs: " in line] == ["eth0: outer ovs: bridge obr0 tag 10 external_ids a=b"]


# --- over RPC

NOTIFIED = """import sys
sys.path.insert(0, sys.argv[1])
import criu_veth
images, pid = sys.argv[2], int(sys.argv[3])
notifier = criu_veth.Notifier(options=["veth[eth0]:web0"])
notifier.notify("pre-restore", None, images)
sys.stdin.readline()
notifier.notify("post-restore", pid, images)
print(*notifier.said, sep="\\n")
"""


def test_a_notifier_does_the_same(
    host: Host, switch: OpenVSwitch, hook: Path, images: Path, plugged: Container, container: Container
) -> None:
    captured(host, hook, images, plugged)
    plugged.kill()
    plugged.wait_unplugged()
    (images / "inventory.img").touch()
    (images / "netdev-9.img").touch()
    words = [sys.executable, "-c", NOTIFIED, str(ROOT), str(images), str(container.pid)]
    driver = host.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_for(lambda: not switch.ports("obr0"), "the record of the dead device to go")
    make_pair(container, "eth0", "web0")
    said, _ = driver.communicate("go\n", timeout=30)
    assert "post-restore: eth0: web0 attached to obr0" in said.splitlines()
    assert switch.ports("obr0") == ["web0"]


# --- collected


def test_gc_removes_what_a_restore_made_once_its_device_is_gone(
    host: Host, switch: OpenVSwitch, container: Container, restoring: Restoring
) -> None:
    restored(restoring(ONE), container)
    switch.vsctl("add-port", "obr0", "other")  # without a device too, and somebody else's
    assert cli(host, "gc").stdout == "nothing to remove\n"
    container.kill()
    host.wait_no_link("web0")
    assert cli(host, "gc", "--dry-run").stdout == "port web0 of Open vSwitch: its device is gone\n"
    assert switch.ports("obr0") == ["other", "web0"]
    done = cli(host, "gc")
    assert (done.returncode, done.stdout) == (0, "port web0 of Open vSwitch: removed, its device is gone\n")
    assert switch.ports("obr0") == ["other"]


def test_gc_says_that_it_could_not_ask(host: Host, switch: OpenVSwitch) -> None:
    switch.database.kill()
    switch.database.wait()
    done = cli(host, "gc")
    why = "ovs-vsctl: unix:/var/run/openvswitch/db.sock: database connection failed (Connection refused)"
    assert (done.returncode, done.stderr) == (1, f"criu-veth: error: {why}\n")


# --- doctor


def findings(host: Host) -> list[dict[str, str]]:
    found = json.loads(cli(host, "doctor", "--json").stdout)["findings"]
    return [one for one in found if one["subject"] == "openvswitch"]


def test_doctor(host: Host) -> None:
    (found,) = findings(host)
    assert found["level"] == "ok"
    assert found["text"].startswith("ovs-vsctl (Open vSwitch) ")
    assert found["text"].endswith(", which does not run (/var/run/openvswitch/db.sock is not there)")
    switch = OpenVSwitch(host)
    assert findings(host)[0]["text"].endswith(", its database answers; bridges: none")
    switch.bridge("obr0")
    assert findings(host)[0]["text"].endswith(", its database answers; bridges: obr0")
    switch.database.kill()
    switch.database.wait()
    (found,) = findings(host)
    why = "ovs-vsctl: unix:/var/run/openvswitch/db.sock: database connection failed (Connection refused)"
    assert (found["level"], found["text"]) == ("error", f"no port of it can be put back: {why}")


def test_doctor_of_a_machine_without_it(host: Host) -> None:
    host.run("mount", "--bind", "/dev/null", PROGRAM)
    assert findings(host) == []


def test_its_own_limit_comes_first() -> None:
    """So that what ovs-vsctl says of a timeout is what is reported, and the hook's own kill is for what hangs."""
    from criu_veth import ovs, processes

    assert ovs.TIMEOUT < processes.PATIENCE
