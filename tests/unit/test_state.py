"""The state file: what is written is read, and what nobody would write is refused with the place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from criu_veth import state
from criu_veth.errors import InputError

VETH = {"inner": {"ifname": "eth0"}, "outer": {"ifname": "web0"}}
HOST = {"hostname": "a", "kernel": "6.1", "criu_veth": "0.1.0", "created": "2026-01-01T00:00:00+00:00"}

MAC = "02:00:00:00:00:01"
RULE = {"family": "inet", "priority": 1, "iif": "web0"}
ROUTE = {"dst": "default", "family": "inet"}
FILTER = {"kind": "u32", "parent": "ffff:fff2", "priority": 1, "protocol": 2048}

EMPTY = state.State(version=1, host=state.Host(hostname="a", kernel="b", criu_veth="c", created="d"))


def text(**changes: Any) -> bytes:
    return json.dumps({"version": 1, "host": HOST, "veths": [VETH], **changes}).encode()


def fault(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        state.parse(data, "F")
    return str(caught.value)


def read_fault(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        state.read(str(path))
    return str(caught.value).replace(str(path), "F")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    outer = state.Outer(
        ifname="web0",
        alias="ü",
        port={"hairpin": 1},
        addresses=(state.Address(address="10.0.0.1/24", valid=5),),
        routes=(state.Route(dst="default", family="inet", via="10.0.0.9", metrics={"mtu": 1300}),),
        qdiscs=(state.Qdisc(kind="tbf", handle="1:", parent="root", options="00ff"),),
    )
    written = state.State(
        version=1,
        host=state.Host(hostname="a", kernel="b", criu_veth="c", created="d"),
        veths=(state.CapturedVeth(inner=state.Inner(ifname="eth0", ifindex=7), outer=outer),),
        warnings=("w",),
    )
    path = tmp_path / "criu-veth.json"

    state.write(written, str(path))

    assert state.read(str(path)) == written
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["criu-veth.json"]
    assert path.read_text().startswith('{\n  "version": 1,\n  "host": {\n')


def test_writing_again_replaces(tmp_path: Path) -> None:
    path = tmp_path / "criu-veth.json"
    first, second = (
        state.State(version=1, host=state.Host(hostname=name, kernel="b", criu_veth="c", created="d"))
        for name in ("one", "two")
    )
    state.write(first, str(path))
    state.write(second, str(path))
    assert state.read(str(path)) == second


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    path, target = tmp_path / "criu-veth.json", tmp_path / "target"
    path.symlink_to(target)
    state.write(
        state.State(version=1, host=state.Host(hostname="a", kernel="b", criu_veth="c", created="d")), str(path)
    )
    assert not target.exists()
    assert path.is_file()
    assert not path.is_symlink()


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path, mocker: Any) -> None:
    path = tmp_path / "criu-veth.json"
    path.write_text("before")
    mocker.patch("os.fsync", side_effect=OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        state.write(
            state.State(version=1, host=state.Host(hostname="", kernel="", criu_veth="", created="")), str(path)
        )
    assert os.listdir(tmp_path) == ["criu-veth.json"]
    assert path.read_text() == "before"


def test_a_directory_that_cannot_be_synced(tmp_path: Path, mocker: Any) -> None:
    """Not every file system can; the file is there."""
    mocker.patch("os.fsync", side_effect=[None, OSError(22, "Invalid argument")])
    path = str(tmp_path / "criu-veth.json")
    state.write(EMPTY, path)
    assert state.read(path) == EMPTY


def test_link(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.symlink_to("elsewhere")
    assert read_fault(path) == "F: the state file is a symbolic link"


def test_directory(tmp_path: Path) -> None:
    assert read_fault(tmp_path) == "F: the state file is not a regular file"


def test_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    assert read_fault(tmp_path / "f") == "F: the state file is not a regular file"


def test_absent(tmp_path: Path) -> None:
    assert read_fault(tmp_path / "f") == "F: the state file cannot be read: No such file or directory"


def test_what_a_process_of_the_same_number_left_is_no_hindrance(tmp_path: Path) -> None:
    left = tmp_path / f".criu-veth.json.{os.getpid()}"
    left.symlink_to(tmp_path / "elsewhere")
    state.write(EMPTY, str(tmp_path / "criu-veth.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["criu-veth.json"]


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as stream:
        stream.truncate(100 << 20)
    assert read_fault(path) == "F: the state file is 104857600 bytes long; 16777216 is the most it can be"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "F: is damaged: Input data was truncated"),
        (text()[:40], "F: is damaged: Input data was truncated"),
        (b"\x80", "F: is damaged: JSON is malformed: invalid character (byte 0)"),
        (b'{"veths": []}', "F: Object missing required field `version`"),
        (b"[]", "F: Expected `object`, got `array`"),
        (text(version="1"), "F: version: Expected `int`, got `str`"),
        (
            b'{"version": 3, "anything": []}',
            "F: is of version 3, and this criu-veth knows up to 2: install the criu-veth that made the dump, or a"
            " newer one",
        ),
        (text(extra=1), "F: Object contains unknown field `extra`"),
        (
            text(veths=[{**VETH, "outer": {"ifname": "web0", "mtu": "9000"}}]),
            "F: veths[0].outer.mtu: Expected `int | null`, got `str`",
        ),
        (
            text(veths=[{**VETH, "outer": {"ifname": "web0", "mtu": -1}}]),
            "F: veths[0].outer.mtu: Expected `int` >= 0",
        ),
    ],
)
def test_not_what_it_should_be(data: bytes, message: str) -> None:
    assert fault(data) == message


@pytest.mark.parametrize(
    ("outer", "message"),
    [
        ({"addresses": [{"address": "10.0.0.1", "scope": 256}]}, "addresses[0].scope: Expected `int` <= 255"),
        ({"addresses": [{"address": "10.0.0.1", "protocol": 256}]}, "addresses[0].protocol: Expected `int` <= 255"),
        (
            {"addresses": [{"address": "10.0.0.1", "valid": 1 << 32}]},
            "addresses[0].valid: Expected `int` <= 4294967295",
        ),
        (
            {"addresses": [{"address": "10.0.0.1", "label": "a" * 16}]},
            "addresses[0].label: Expected `str` of length <= 15",
        ),
        ({"routes": [{**ROUTE, "tos": 256}]}, "routes[0].tos: Expected `int` <= 255"),
        ({"routes": [{**ROUTE, "type": 256}]}, "routes[0].type: Expected `int` <= 255"),
        ({"routes": [{**ROUTE, "scope": 256}]}, "routes[0].scope: Expected `int` <= 255"),
        ({"routes": [{**ROUTE, "pref": 256}]}, "routes[0].pref: Expected `int` <= 255"),
        ({"routes": [{**ROUTE, "protocol": -1}]}, "routes[0].protocol: Expected `int` >= 0"),
        ({"routes": [{**ROUTE, "table": 1 << 32}]}, "routes[0].table: Expected `int` <= 4294967295"),
        ({"rules": [{**RULE, "action": 256}]}, "rules[0].action: Expected `int` <= 255"),
        ({"rules": [{**RULE, "tos": 256}]}, "rules[0].tos: Expected `int` <= 255"),
        ({"rules": [{**RULE, "ip_proto": 256}]}, "rules[0].ip_proto: Expected `int` <= 255"),
        ({"rules": [{**RULE, "protocol": 256}]}, "rules[0].protocol: Expected `int` <= 255"),
        ({"fdb": [{"mac": MAC, "vlan": 4095}]}, "fdb[0].vlan: Expected `int` <= 4094"),
        ({"filters": [{**FILTER, "priority": 65536}]}, "filters[0].priority: Expected `int` <= 65535"),
        ({"filters": [{**FILTER, "protocol": 65536}]}, "filters[0].protocol: Expected `int` <= 65535"),
        ({"filters": [{**FILTER, "options": "00" * 32769}]}, "filters[0].options: Expected `str` of length <= 65536"),
        ({"features_off": ["a" * 32]}, "features_off[0]: Expected `str` of length <= 31"),
    ],
)
def test_what_fits_no_attribute(outer: dict[str, Any], message: str) -> None:
    refused = fault(text(veths=[{**VETH, "outer": {"ifname": "web0", **outer}}]))
    assert refused.replace("int | null", "int") == f"F: veths[0].outer.{message}"


def test_an_index_that_is_no_interfaces() -> None:
    veths = [{**VETH, "inner": {"ifname": "eth0", "ifindex": 1 << 31}}]
    assert fault(text(veths=veths)) == "F: veths[0].inner.ifindex: Expected `int` <= 2147483647"


def test_no_utf8() -> None:
    data = text(notes=["x"])
    assert fault(data.replace(b'"x"', b'"\xff"')) == f"F: is damaged: it is not UTF-8: byte {data.index(b'x')} is 0xff"


def test_more_veths_than_a_container_has() -> None:
    veths = [{"inner": {"ifname": f"a{number}"}, "outer": {"ifname": f"b{number}"}} for number in range(16385)]
    assert fault(text(veths=veths)) == "F: veths: there are 16385; 16384 is the most that is read"


def test_more_entries_than_are_ever_captured() -> None:
    routes = [{"dst": "10.0.0.1/32", "family": "inet"}] * 20_000
    veths = [{"inner": {"ifname": name, "routes": routes}, "outer": {"ifname": name}} for name in ("a", "b")]
    assert fault(text(veths=veths)) == (
        "F: has 40000 addresses, routes, rules and the like; 32768 is the most it can have"
    )


def test_nested_deeply() -> None:
    assert fault(b'{"version": 1, "host": ' + b"[" * 200_000) == "F: is damaged: nested too deeply"


def test_names_that_no_kernel_accepts() -> None:
    veths = [
        {"inner": {"ifname": "a" * 16}, "outer": {"ifname": "x/y"}},
        {"inner": {"ifname": "eth1"}, "outer": {"ifname": "..", "master": "br 0"}},
    ]
    assert fault(text(veths=veths)).splitlines() == [
        "F: veths[0].inner.ifname: 'aaaaaaaaaaaaaaaa' is 16 bytes long; an interface name has at most 15",
        "F: veths[0].outer.ifname: 'x/y' has '/' in it, which no interface name may",
        "F: veths[1].outer.ifname: '..' is not an interface name",
        "F: veths[1].outer.master: 'br 0' has ' ' in it, which no interface name may",
    ]


def test_two_veths_of_one_name() -> None:
    veths = [VETH, {"inner": {"ifname": "eth1"}, "outer": {"ifname": "web0"}}]
    assert fault(text(veths=veths)) == 'F: veths[1].outer.ifname: "web0" is the name of veths[0].outer too'


@pytest.mark.parametrize(
    ("outer", "message"),
    [
        (
            {"mac": "01:00:00:00:00:01"},
            "mac: '01:00:00:00:00:01' is a multicast address; the first byte of a device's own is even",
        ),
        ({"mtu": 67}, "mtu: 67 is not an MTU that a veth takes (68 to 65535)"),
        (
            {"sysctl": {"ipv4.../../x": "1"}},
            "sysctl: 'ipv4.../../x' is not a per-device sysctl;"
            " these are: ipv4.NAME, ipv6.NAME, mpls.NAME, ipv4.neigh.NAME, ipv6.neigh.NAME",
        ),
        ({"addresses": [{"address": "10.0.0/24"}]}, "addresses[0]: '10.0.0' is not an IP address"),
        (
            {"addresses": [{"address": "::/64"}]},
            "addresses[0]: '::/64' is the unspecified address, which no device has",
        ),
        (
            {"addresses": [{"address": "ff02::5/64", "flags": ["autojoin"]}, {"address": "ff02::5/64"}]},
            "addresses[1]: 'ff02::5/64' is a multicast address, which no device has",
        ),
        (
            {"routes": [{"dst": "default", "family": "inet6", "type": 7}]},
            "routes[0]: a route of type 7 leads through no device",
        ),
        ({"routes": [{"dst": "default", "family": "x"}]}, "routes[0]: 'x' is not inet or inet6"),
        (
            {"routes": [{"dst": "default", "family": "inet", "metrics": {"speed": 1}}]},
            "routes[0]: 'speed' is no metric of a route",
        ),
        (
            {"routes": [{"dst": "default", "family": "inet", "metrics": {"mtu": "big"}}]},
            "routes[0]: the metric 'mtu' is a number",
        ),
        (
            {"routes": [{"dst": "default", "family": "inet", "metrics": {"cc_algo": 1}}]},
            "routes[0]: the metric 'cc_algo' is a name",
        ),
        ({"vlan": {"untagged": [0]}}, "vlan: 0 is no VLAN: an ID from 1 to 4094, or a range such as '30-39'"),
        ({"vlan": {"tagged": ["9-8"]}}, "vlan: '9-8' ends before it begins"),
        ({"vlan": {"pvid": 7, "tagged": [8]}}, "vlan: the pvid 7 is neither untagged nor tagged: write untagged = [7]"),
        ({"vlan": {"untagged": [7], "tagged": ["7-8"]}}, "vlan: 7 is both untagged and tagged"),
        ({"alias": "a" * 256}, "alias: the alias is 256 bytes long; the kernel takes at most 255"),
        ({"port": {"cost": 65536}}, "port: cost: 65536 is not between 1 and 65535"),
        ({"port": {"priority": 64}}, "port: priority: 64 is not between 0 and 63"),
        ({"port": {"hairpin": 256}}, "port: hairpin: 256 is not between 0 and 1"),
        ({"port": {"mcast_router": 4}}, "port: mcast_router: 4 is not between 0 and 3"),
        ({"features_off": ["x"] * 4097}, "features_off: there are 4097; 4096 is the most"),
        ({"sysctl": {f"ipv4.a{number}": "1" for number in range(4097)}}, "sysctl: there are 4097; 4096 is the most"),
        ({"ovs": {"bridge": "br0", "trunks": [1] * 4097}}, "ovs.trunks: there are 4097; 4096 is the most"),
        ({"port": {"speed": 1}}, "port: 'speed' is no flag of a bridge port"),
        ({"addresses": [{"address": "10.0.0.1/24", "flags": ["x"]}]}, "addresses[0]: 'x' is no flag of an address"),
        (
            {"addresses": [{"address": "10.0.0.1/24", "flags": ["nodad", "nodad"]}]},
            "addresses[0]: 'nodad' is there twice",
        ),
        (
            {"addresses": [{"address": "10.0.0.1/24", "peer": "fd00::1"}]},
            "addresses[0]: 10.0.0.1/24 is of another family than its peer or broadcast address",
        ),
        (
            {"routes": [{"dst": "fd00::/8", "family": "inet6", "via": "10.0.0.1"}]},
            "routes[0]: fd00::/8 is not of the family inet6",
        ),
        ({"fdb": [{"mac": MAC, "flags": ["sticky"] * 5}]}, "fdb[0]: 'sticky' is there twice"),
        ({"rules": [{**RULE, "sport": "80-90"}]}, "rules[0]: '80-90' is not two numbers with a colon between"),
        ({"rules": [{**RULE, "dport": "90:80"}]}, "rules[0]: '90:80' is no span of numbers up to 65535"),
        ({"rules": [{**RULE, "dport": "1:65536"}]}, "rules[0]: '1:65536' is no span of numbers up to 65535"),
        (
            {"rules": [{**RULE, "uid_range": "1:" + "9" * 20}]},
            f"rules[0]: '1:{'9' * 20}' is not two numbers with a colon between",
        ),
        ({"rules": [{**RULE, "src": "fd00::/8"}]}, "rules[0]: fd00::/8 is not of the family inet"),
        (
            {"qdiscs": [{"kind": "htb", "handle": "-1:", "parent": "root"}]},
            "qdiscs[0]: '-1:': a handle is MAJOR:MINOR in hexadecimal",
        ),
        (
            {"qdiscs": [{"kind": "htb", "handle": "1:fffff", "parent": "root"}]},
            "qdiscs[0]: '1:fffff': a handle is MAJOR:MINOR in hexadecimal",
        ),
        (
            {"vlan": {"tagged": ["1-4094"] * 9}},
            "vlan: names 20470 VLANs with those that are there more than once; there are 4094",
        ),
    ],
)
def test_values_that_no_kernel_reports(outer: dict[str, Any], message: str) -> None:
    assert fault(text(veths=[{**VETH, "outer": {"ifname": "web0", **outer}}])) == f"F: veths[0].outer.{message}"
