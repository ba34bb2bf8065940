"""Open vSwitch, from the mapping file and the state file to the words of ovs-vsctl."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from criu_veth import actions, config, ovs, plan, resolve, state
from criu_veth.errors import InputError, OperationError
from criu_veth.state import CapturedVeth, Host, Inner, Outer, Ovs, State, Veth

PLACEHOLDERS = {"hostname": "node7", "image": "ckpt3"}
HOST = Host(hostname="node1", kernel="6.1", criu_veth="0", created="2026-01-01T00:00:00Z")
HEAD = '[[veth]]\ninner = "eth0"\nouter = "web0"\n'


def veth(settings: str) -> str:
    return HEAD + settings


def faults(text: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        config.parse(text, "F")
    return [fault.removeprefix("F: ") for fault in raised.value.faults]


def captured(**outer: Any) -> State:
    return State(
        version=1, host=HOST, veths=(CapturedVeth(inner=Inner(ifname="eth0"), outer=Outer(ifname="web0", **outer)),)
    )


def desired(text: str, known: State | None = None) -> Veth:
    (found,) = resolve.resolve(config.parse(text, "F"), known, PLACEHOLDERS)
    return found


# --- the mapping file


def test_all_that_a_port_may_have() -> None:
    text = """ovs = { bridge = "obr0", tag = 10, trunks = [30, "20-22", 20], vlan_mode = "native-tagged",
        external_ids = { k = "v" }, interface_external_ids = { iface-id = "lsp1" }, ingress_policing_rate = 1000,
        ingress_policing_burst = 100 }""".replace("\n", "")
    assert desired(veth(text)).outer == Outer(
        ifname="web0",
        up=True,
        ovs=Ovs(
            bridge="obr0",
            tag=10,
            trunks=(20, 21, 22, 30),
            vlan_mode="native-tagged",
            external_ids={"k": "v"},
            interface_external_ids={"iface-id": "lsp1"},
            ingress_policing_rate=1000,
            ingress_policing_burst=100,
        ),
    )
    assert config.parse(veth(text), "F").notices == ()


NO_VLAN = 'is no VLAN from 0 to 4095, and no range of them such as "30-39"'


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ('ovs = "obr0"', 'ovs: expected a table, got "str"'),
        ("ovs = { bridges = 1 }", 'ovs: unknown key "bridges"'),
        ('ovs = { vlan_mode = "tagged" }', "ovs.vlan_mode: invalid enum value 'tagged'"),
        ('bridge = "br0"\novs = { bridge = "obr0" }', "ovs: goes without bridge: a device is a port of one of them"),
        (
            'ovs = { bridge = "obr0" }\nport = { hairpin = true }',
            "ovs: goes without port: those are flags of a port of a Linux bridge",
        ),
        (
            'ovs = { bridge = "obr0" }\nvlan = { pvid = 10, untagged = [10] }',
            "ovs: goes without vlan: it has tag and trunks of its own",
        ),
        ('ovs = { bridge = "a/b" }', "ovs.bridge: 'a/b' has '/' in it, which no interface name may"),
        ('ovs = { bridge = "--" }', "ovs.bridge: '--' cannot be a name in Open vSwitch"),
        ("ovs = { tag = 4096 }", "ovs.tag: 4096 is not between 0 and 4095"),
        ("ovs = { tag = -1 }", "ovs.tag: -1 is not between 0 and 4095"),
        ("ovs = { trunks = [10, 4096] }", f"ovs.trunks: 4096 {NO_VLAN}"),
        ('ovs = { trunks = ["39-30"] }', f"ovs.trunks: '39-30' {NO_VLAN}"),
        ('ovs = { trunks = ["30-"] }', f"ovs.trunks: '30-' {NO_VLAN}"),
        ('ovs = { trunks = ["-30"] }', f"ovs.trunks: '-30' {NO_VLAN}"),
        ('ovs = { trunks = ["1-2-3"] }', f"ovs.trunks: '1-2-3' {NO_VLAN}"),
        ('ovs = { trunks = ["\u0661"] }', f"ovs.trunks: '\u0661' {NO_VLAN}"),
        ('ovs = { external_ids = { "" = "v" } }', "ovs.external_ids: has an empty key"),
        (
            'ovs = { interface_external_ids = { k = "a\\u0000" } }',
            "ovs.interface_external_ids: 'k' has a NUL in it or in its value",
        ),
        ("ovs = { ingress_policing_rate = -1 }", "ovs.ingress_policing_rate: -1 is not between 0 and 4294967295"),
        (
            "ovs = { ingress_policing_burst = 4294967296 }",
            "ovs.ingress_policing_burst: 4294967296 is not between 0 and 4294967295",
        ),
    ],
)
def test_what_is_wrong_is_named(settings: str, fault: str) -> None:
    assert faults(veth(settings)) == [f"veth[0].{fault}"]
    in_defaults = faults("[defaults]\n" + settings)
    assert in_defaults == [f"defaults.{fault}"]


def test_trunks_that_will_be_ignored_are_a_notice() -> None:
    found = config.parse(veth('ovs = { bridge = "obr0", tag = 10, trunks = [20] }'), "F")
    assert found.notices == (
        "veth[0].ovs: with a tag and without a vlan_mode the port is an access port, whose trunks are ignored",
    )


def test_a_macvlan_has_none() -> None:
    text = '[[veth]]\ninner = "eth0"\nkind = "macvlan"\nparent = "eth5"\novs = { bridge = "obr0" }'
    assert faults(text) == ["veth[0].ovs: a macvlan has no outer end"]


def test_defaults_are_merged_key_by_key() -> None:
    text = '[defaults.ovs]\nbridge = "obr0"\ntag = 10\nexternal_ids = { a = "1", b = "2" }\n' + veth(
        'ovs = { tag = 20, external_ids = { b = "3" } }'
    )
    assert desired(text).outer.ovs == Ovs(bridge="obr0", tag=20, external_ids={"a": "1", "b": "3"})


@pytest.mark.parametrize(
    ("defaults", "own", "master", "bridge"),
    [
        ('bridge = "br0"', 'ovs = { bridge = "obr0" }', None, "obr0"),
        ('ovs = { bridge = "obr0" }', 'bridge = "br0"', "br0", None),
        ('ovs = { bridge = "obr0" }', "mtu = 1400", None, "obr0"),
        ('ovs = { bridge = "obr0" }', 'bridge = ""', None, None),
    ],
)
def test_a_veths_own_bridge_or_switch_goes_before_that_of_defaults(
    defaults: str, own: str, master: str | None, bridge: str | None
) -> None:
    outer = desired(f"[defaults]\n{defaults}\n{veth(own)}").outer
    assert (outer.master, outer.ovs.bridge if outer.ovs else None) == (master, bridge)


# --- over what was captured


def test_the_file_wins_over_the_capture_key_by_key() -> None:
    known = captured(ovs=Ovs(bridge="obr0", tag=10, external_ids={"a": "1"}, protected=True))
    outer = desired(veth('ovs = { tag = 20, external_ids = { b = "2" } }'), known).outer
    assert outer.ovs == Ovs(bridge="obr0", tag=20, external_ids={"a": "1", "b": "2"}, protected=True)


def test_a_captured_port_comes_back_without_being_named() -> None:
    (found,) = resolve.resolve(None, captured(ovs=Ovs(bridge="obr0", tag=10)), PLACEHOLDERS)
    assert found.outer.ovs == Ovs(bridge="obr0", tag=10)


def test_remap_is_for_its_bridges_too() -> None:
    text = '[remap]\nbridge = { obr0 = "lan", lan = "x" }'
    (found,) = resolve.resolve(config.parse(text, "F"), captured(ovs=Ovs(bridge="obr0", tag=10)), PLACEHOLDERS)
    assert found.outer.ovs == Ovs(bridge="lan", tag=10)


def test_it_replaces_a_captured_bridge_with_all_that_goes_with_it() -> None:
    known = captured(
        master="br0",
        master_kind="bridge",
        port={"hairpin": 1},
        backup_port="web1",
        fdb=(state.FdbEntry(mac="02:00:00:00:00:01"),),
    )
    assert desired(veth('ovs = { bridge = "obr0" }'), known).outer == Outer(
        ifname="web0", up=True, ovs=Ovs(bridge="obr0")
    )


def test_a_bridge_replaces_a_captured_port_of_it() -> None:
    outer = desired(veth('bridge = "br0"'), captured(ovs=Ovs(bridge="obr0"))).outer
    assert outer == Outer(ifname="web0", up=True, master="br0", master_kind="bridge")


@pytest.mark.parametrize("known", [None, captured(master="br0", master_kind="bridge")], ids=["new", "on a bridge"])
def test_without_a_bridge_it_is_no_port(known: State | None) -> None:
    with pytest.raises(InputError) as raised:
        desired(veth("ovs = { tag = 10 }"), known)
    assert raised.value.faults == (
        'F: veth[0].ovs: "eth0" is no port of Open vSwitch yet: write bridge = "..."',
    )  # fmt: skip


def test_in_defaults_without_a_bridge_it_is_for_those_that_are_ports() -> None:
    text = "[defaults]\novs = { tag = 20 }\n" + HEAD
    assert desired(text).outer.ovs is None
    assert desired(text, captured(ovs=Ovs(bridge="obr0"))).outer.ovs == Ovs(bridge="obr0", tag=20)


def test_port_flags_need_a_bridge_of_the_kernel() -> None:
    with pytest.raises(InputError) as raised:
        desired(veth("port = { hairpin = true }"), captured(ovs=Ovs(bridge="obr0")))
    assert raised.value.faults == (
        'F: veth[0].port: "eth0" has no bridge, so its outer end is no port: write bridge = "..."',
    )


def test_a_name_that_separates_commands_is_refused() -> None:
    with pytest.raises(InputError) as raised:
        desired('[[veth]]\ninner = "eth0"\nouter = "--"\novs = { bridge = "obr0" }')
    assert raised.value.faults == ("F: veth[0]: '--' cannot be a name in Open vSwitch",)
    with pytest.raises(InputError):
        desired('[remap]\nbridge = { obr0 = "--" }', captured(ovs=Ovs(bridge="obr0")))


# --- the state file


def parsed(port: dict[str, Any], **outer: Any) -> State:
    veths = [{"inner": {"ifname": "eth0"}, "outer": {"ifname": "web0", "ovs": port, **outer}}]
    host = msgspec.to_builtins(HOST)
    return state.parse(json.dumps({"version": 1, "host": host, "veths": veths}).encode(), "F")


def test_what_is_written_is_read() -> None:
    everything = Ovs(
        bridge="obr0",
        tag=0,
        trunks=(1, 4095),
        cvlans=(2,),
        vlan_mode="dot1q-tunnel",
        protected=True,
        external_ids={"ü": '"\n'},
        other_config={"a": ""},
        interface_external_ids={"b": "c"},
        interface_other_config={"d": "e"},
        options={"f": "g"},
        lldp={"enable": "true"},
        bfd={"enable": "false"},
        cfm_mpid=1,
        ingress_policing_rate=1,
        ingress_policing_burst=2,
        ingress_policing_kpkts_rate=3,
        ingress_policing_kpkts_burst=4,
        mtu_request=1400,
        ofport_request=7,
    )
    written = captured(ovs=everything)
    assert state.parse(state.encode(written), "F") == written


@pytest.mark.parametrize(
    ("port", "fault"),
    [
        ({}, "veths[0].outer.ovs: Object missing required field `bridge`"),
        ({"bridge": "b", "qos": "x"}, "veths[0].outer.ovs: Object contains unknown field `qos`"),
        ({"bridge": "--"}, "veths[0].outer.ovs.bridge: '--' cannot be a name in Open vSwitch"),
        ({"bridge": "a b"}, "veths[0].outer.ovs.bridge: 'a b' has ' ' in it, which no interface name may"),
        ({"bridge": "b", "tag": "10 -- del-br b"}, "veths[0].outer.ovs.tag: Expected `int | null`, got `str`"),
        ({"bridge": "b", "tag": 4096}, "veths[0].outer.ovs.tag: 4096 is not between 0 and 4095"),
        ({"bridge": "b", "trunks": [1, 5000]}, "veths[0].outer.ovs.trunks: 5000 is not between 0 and 4095"),
        ({"bridge": "b", "cvlans": [5000]}, "veths[0].outer.ovs.cvlans: 5000 is not between 0 and 4095"),
        (
            {"bridge": "b", "vlan_mode": "trunk tag=1"},
            "veths[0].outer.ovs.vlan_mode: 'trunk tag=1' is not one of access, trunk, native-tagged, native-untagged,"
            " dot1q-tunnel",
        ),
        ({"bridge": "b", "mtu_request": 1}, "veths[0].outer.ovs.mtu_request: 1 is not an MTU that a veth takes (68 to"
         " 65535)"),
        ({"bridge": "b", "ofport_request": 0}, "veths[0].outer.ovs.ofport_request: 0 is not between 1 and 65279"),
        (
            {"bridge": "b", "options": {str(number): "" for number in range(129)}},
            "veths[0].outer.ovs.options: has 129 keys; it may have 128",
        ),
        ({"bridge": "b", "lldp": {"a\0": ""}}, "veths[0].outer.ovs.lldp: 'a\\x00' has a NUL in it or in its value"),
    ],
)  # fmt: skip
def test_what_nobody_would_have_captured_is_refused(port: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError) as raised:
        parsed(port)
    assert raised.value.faults == (f"F: {fault}",)


def test_a_port_of_two_switches_is_refused() -> None:
    with pytest.raises(InputError) as raised:
        parsed({"bridge": "obr0"}, master="br0", master_kind="bridge")
    assert raised.value.faults == ("F: veths[0].outer: is a port of both a bridge and Open vSwitch",)


# --- the plan


def test_it_is_attached_after_its_name_and_before_it_is_up() -> None:
    wanted = Veth(inner="eth0", outer=Outer(ifname="web0", mtu=1400, up=True, ovs=Ovs(bridge="obr0", tag=10)))
    made = plan.make((wanted,))
    assert {action: [o.describe() for o in listed] for action, listed in made.operations.items()} == {
        actions.PRE_RESTORE: ["web0 removed from Open vSwitch, where it is left of the device that is gone"],
        actions.POST_SETUP_NAMESPACES: ["eth0 IPv6 addresses usable at once"],
        actions.POST_RESTORE: [
            "outer end named web0",
            "web0 mtu 1400",
            "web0 attached to obr0, tag 10",
            "web0 up",
            "eth0 announced",
        ],
    }


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (Ovs(bridge="obr0"), "web0 attached to obr0"),
        (Ovs(bridge="obr0", tag=0), "web0 attached to obr0, tag 0"),
        (
            Ovs(bridge="obr0", tag=10, trunks=(20, 30), vlan_mode="native-tagged"),
            "web0 attached to obr0, native-tagged, tag 10, trunks 20 30",
        ),
        (Ovs(bridge="obr0", trunks=(1, 2, 3, 5, 7, 8)), "web0 attached to obr0, trunks 1-3 5 7-8"),
    ],
)
def test_it_describes_itself(port: Ovs, words: str) -> None:
    assert plan.AttachOvs(inner="eth0", outer="web0", ovs=port).describe() == words


def test_a_record_is_removed_too_where_the_device_goes_elsewhere() -> None:
    """Or Open vSwitch would take the device as soon as CRIU has made it."""
    wanted = desired(veth('bridge = "br0"'), captured(ovs=Ovs(bridge="obr0")))
    made = plan.make((wanted,))
    assert made.operations[actions.PRE_RESTORE] == (plan.ForgetOvs(inner="eth0", outer="web0", required=False),)
    assert actions.PRE_RESTORE not in plan.make((desired(veth('bridge = "br0"')),)).operations


# --- the words


#: From where it was made.
NETNS = f'external_ids:"criu-veth-netns"="{os.stat("/proc/self/ns/net").st_ino}"'


def test_the_least() -> None:
    assert ovs.attach_words("web0", Ovs(bridge="obr0"), "eth0") == (
        "--", "--if-exists", "del-port", "web0",
        "--", "add-port", "obr0", "web0", 'external_ids:"criu-veth"="eth0"', NETNS,
    )  # fmt: skip


def test_every_column_is_one_word_or_one_a_key() -> None:
    port = Ovs(
        bridge="obr0",
        tag=0,
        trunks=(20, 30),
        vlan_mode="trunk",
        protected=True,
        external_ids={"a b": 'x=1 -- del-br "obr0"', "--": "--"},
        options={"k": "v"},
        mtu_request=1400,
    )
    assert ovs.attach_words("-x", port, "eth0") == (
        "--", "--if-exists", "del-port", "-x",
        "--", "add-port", "obr0", "-x", "tag=0", "trunks=20,30", 'vlan_mode="trunk"', "protected=true",
        'external_ids:"a b"="x=1 -- del-br \\"obr0\\""', 'external_ids:"--"="--"', 'external_ids:"criu-veth"="eth0"',
        NETNS,
        "--", "set", "Interface", "-x", 'options:"k"="v"', "mtu_request=1400",
    )  # fmt: skip


def test_every_field_has_its_column() -> None:
    """A field that is given is among the words: none is captured in vain."""
    samples: dict[type, Any] = {int: 7, str: "access", bool: True}
    for field in msgspec.structs.fields(Ovs):
        if field.name == "bridge":
            continue
        value = {"k": "v"} if isinstance(field.default_factory, type) or field.default == {} else None
        value = (7,) if field.default == () else value
        if value is None:
            kinds = [kind for kind in samples if kind.__name__ in str(field.type)]
            value = samples[kinds[0]]
        port = Ovs(**{"bridge": "obr0", field.name: value})
        assert len(ovs.attach_words("web0", port, "eth0")) > len(ovs.attach_words("web0", Ovs(bridge="obr0"), "eth0"))


# --- the program


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ovs-vsctl that is the only one."""
    path = tmp_path / "ovs-vsctl"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(ovs, "_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    return path


def test_it_is_found_in_the_usual_places(fake: Path) -> None:
    assert ovs.program_path() == str(fake)


def test_it_is_not_there(fake: Path) -> None:
    fake.unlink()
    with pytest.raises(OperationError) as raised:
        ovs.program_path()
    assert raised.value.faults == ("there is no ovs-vsctl: install it (Debian: openvswitch-switch)",)


def test_one_that_others_may_write_is_not_run(fake: Path) -> None:
    fake.chmod(0o777)
    with pytest.raises(OperationError) as raised:
        ovs.program_path()
    assert raised.value.faults == (
        f"{fake} is not run, because {fake} may be written by others (mode 0777): chmod go-w",
    )
    fake.chmod(0o755)
    fake.parent.chmod(0o777)
    with pytest.raises(OperationError) as raised:
        ovs.program_path()
    assert raised.value.faults == (
        f"{fake} is not run, because {fake.parent} may be written by others (mode 0777): chmod go-w",
    )


def test_the_socket_is_where_ovs_vsctl_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVS_RUNDIR", raising=False)
    assert ovs.socket_path() == "/var/run/openvswitch/db.sock"
    monkeypatch.setenv("OVS_RUNDIR", "/srv/ovs")
    assert ovs.socket_path() == "/srv/ovs/db.sock"
