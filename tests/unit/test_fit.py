"""A capture is one that can be read back, whatever the kernel had: what cannot is left out and named."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from criu_veth import bounds, state
from criu_veth.errors import InputError
from criu_veth.fit import fit
from criu_veth.state import (
    Address,
    CapturedVeth,
    Container,
    FdbEntry,
    Filter,
    Host,
    Inner,
    Neighbour,
    Outer,
    Ovs,
    Qdisc,
    Route,
    Rule,
    State,
    TcClass,
    Vlan,
)

HOST = Host(hostname="alpha", kernel="6.18.0", criu_veth="0.1.0", created="2026-01-31T12:00:00+00:00")
BAD = "bad\udcff"


def a_state(inner: dict[str, Any] | None = None, outer: dict[str, Any] | None = None, **more: Any) -> State:
    veth = CapturedVeth(
        inner=Inner(**{"ifname": "eth0", **(inner or {})}), outer=Outer(**{"ifname": "web0", **(outer or {})})
    )
    return State(**{"version": 1, "host": HOST, "veths": (veth,), **more})


def written(found: State) -> State:
    """What is read of what is written."""
    return state.parse(state.encode(found), "f")


def test_what_can_be_read_back_stays_as_it_is() -> None:
    found = a_state(
        inner={"addresses": (Address(address="10.0.0.2/24"),), "routes": (Route(dst="default", family="inet"),)},
        outer={"alias": "café", "rules": (Rule(family="inet", priority=1, iif="web0"),), "port": {"cost": 5}},
        notes=("a note",),
        warnings=("a warning",),
    )
    assert fit(found) == found


@pytest.mark.parametrize(
    ("side", "field", "value", "rest", "fault"),
    [
        ("outer", "alias", BAD, None, r"its alias cannot be captured: bad\xff is not UTF-8"),
        ("outer", "alias", "a\nb", None, "its alias cannot be captured: an alias has no line break and no NUL in it"),
        ("inner", "altnames", ("a", BAD), ("a",), r"1 of its altnames cannot be captured: bad\xff is not UTF-8"),
        ("inner", "altnames", ("a" * 200,), (),
         f"1 of its altnames cannot be captured: '{'a' * 200}' is 200 bytes long; an alternative name has at most 127"),
        ("inner", "mtu", 65536, None,
         "its mtu cannot be captured: 65536 is not an MTU that a veth takes (68 to 65535)"),
        ("inner", "mtu", 1 << 40, None, "its mtu cannot be captured: Expected `int` <= 4294967295"),
        ("inner", "group", 1 << 70, None, "its group cannot be captured: Expected `int` <= 4294967295"),
        ("outer", "mac", "01:00:00:00:00:00", None,
         "its mac cannot be captured: '01:00:00:00:00:00' is a multicast address; the first byte of a device's own is"
         " even"),
        ("inner", "sysctl", {"ipv4.x/y": "1"}, {}, "its sysctl cannot be captured: 'ipv4.x/y'"),
        ("outer", "backup_port", BAD, None, r"its backup_port cannot be captured: bad\xff is not UTF-8"),
        ("outer", "port", {"new_flag": 1}, {}, "its port cannot be captured: 'new_flag' is no flag of a bridge port"),
        ("outer", "vlan", Vlan(tagged=(5000,)), None, "its vlan cannot be captured: 5000 is no VLAN"),
        ("outer", "ovs", Ovs(bridge="br0", trunks=(5000,)), None,
         "its ovs cannot be captured: 5000 is not between 0 and 4095"),
        ("outer", "ovs", Ovs(bridge=BAD), None, "its ovs cannot be captured: it is not UTF-8"),
        ("inner", "neighbours", (Neighbour(dst="10.0.0.1", lladdr="1:2"), Neighbour(dst="10.0.0.2", proxy=True)),
         (Neighbour(dst="10.0.0.2", proxy=True),),
         "1 of its neighbours cannot be captured: '1:2' is not a MAC address (six pairs of hexadecimal digits with"
         " colons between)"),
        ("outer", "fdb", (FdbEntry(mac="02:00:00:00:00:01", state="odd"),), (),
         "1 of its fdb cannot be captured: 'odd' is not static or permanent"),
        ("inner", "routes", (Route(dst="10.0.0.0/8", family="inet6"), Route(dst="default", family="inet")),
         (Route(dst="default", family="inet"),),
         "1 of its routes cannot be captured: 10.0.0.0/8 is not of the family inet6"),
        ("inner", "routes", (Route(dst="default", family="inet", table=1 << 32),), (),
         "1 of its routes cannot be captured: Expected `int` <= 4294967295 - at `$.table`"),
        ("inner", "routes", (Route(dst="default", family="inet", metrics={"new": 1}),), (),
         "1 of its routes cannot be captured: 'new' is no metric of a route"),
        ("outer", "rules", (Rule(family="inet", priority=1, iif="web0", oif=BAD),), (),
         "1 of its rules cannot be captured: it is not UTF-8"),
    ],
)  # fmt: skip
def test_what_a_restore_would_refuse(side: str, field: str, value: Any, rest: Any, fault: str) -> None:
    found = fit(a_state(**{side: {field: value}}))

    assert getattr(getattr(found.veths[0], side), field) == rest
    name = "eth0" if side == "inner" else "web0"
    (warning,) = found.warnings
    assert warning.startswith(f"{name}: {fault}")
    assert written(found) == found


def test_many_faults_of_a_kind_are_one_warning() -> None:
    routes = tuple(Route(dst=f"10.0.{n}.0/24", family="inet6" if n % 2 else "inet") for n in range(200))
    found = fit(a_state(inner={"routes": routes}))
    assert found.veths[0].inner.routes == routes[::2]
    assert found.warnings == ("eth0: 100 of its routes cannot be captured: 10.0.1.0/24 is not of the family inet6",)


def test_what_hangs_on_what_is_left_out_goes_too() -> None:
    """A class whose discipline cannot be read back, and its filter."""
    outer = {
        "qdiscs": (Qdisc(kind="htb", handle="1:", parent="root", options="xx"),),
        "classes": (TcClass(kind="htb", handle="1:1", parent="1:"),),
        "filters": (Filter(kind="u32", parent="1:1", priority=1, protocol=3),),
    }
    found = fit(a_state(outer=outer))
    assert written(found) == found
    assert (found.veths[0].outer.qdiscs, found.veths[0].outer.classes, found.veths[0].outer.filters) == ((), (), ())
    assert len(found.warnings) == 3


@pytest.mark.parametrize("name", ["all", "default", "a b", BAD, "a%b", "x" * 16])
def test_a_name_that_a_restore_would_refuse(name: str) -> None:
    found = fit(a_state(inner={"ifname": name}))
    assert found.veths == ()
    (warning,) = found.warnings
    assert warning.startswith(f"{bounds.shown(name)}: this veth is not captured: ")
    assert warning.endswith("; rename it before the dump")
    assert written(found) == found


def test_other_veths_stay() -> None:
    first, second = a_state(inner={"ifname": "default"}).veths[0], a_state().veths[0]
    found = fit(a_state(veths=(first, replace(second, namespace=1)), version=2))
    assert [veth.inner.ifname for veth in found.veths] == ["eth0"]
    assert found.version == 2
    assert fit(replace(found, veths=())).version == 1


def test_texts_of_the_host_and_of_runtimes() -> None:
    container = Container(runtime="podman", id="web", names=("web", "\ud800", "x" * 5000))
    found = fit(a_state(host=replace(HOST, hostname="a\udcff"), container=container, notes=("n" * 5000, BAD)))
    assert found.host.hostname == r"a\xff"
    assert found.container == Container(runtime="podman", id="web", names=("web",))
    assert found.notes == ("n" * 996 + " ...", r"bad\xff")
    assert written(found) == found


def test_more_veths_than_a_file_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = tuple(Route(dst=f"10.{n >> 8}.{n & 255}.0/24", family="inet") for n in range(2000))
    veth = a_state(inner={"routes": routes}).veths[0]
    veths = tuple(
        replace(veth, inner=replace(veth.inner, ifname=f"e{n}"), outer=replace(veth.outer, ifname=f"w{n}"))
        for n in range(100)
    )
    found = fit(a_state(veths=veths))
    assert 10 < len(found.veths) < 100
    left = ", ".join(f"e{n}" for n in range(len(found.veths), 100))
    count = 100 - len(found.veths)
    assert found.warnings == (f"{count} veths are not captured, there is too much to say of all: {left}",)
    assert len(state.encode(found)) < state.MAX_SIZE
    assert written(found) == found


def test_as_much_as_is_captured_can_be_read_back() -> None:
    """All ends full, of the entries that take most room, with as much said as can be."""
    rule = Rule(family="inet6", priority=1, table=2, iif="web0", oif="web0", src=f"{'2001:' * 7}1/128", fwmark=1,
                fwmask=2, goto=3, protocol=4, ip_proto=6, sport="1-2", dport="3-4", uid_range="5-6", tos=1, flags=2,
                dst=f"{'2001:' * 7}1/128", suppress_prefixlength=1, suppress_ifgroup=2)  # fmt: skip
    veth = a_state(outer={"rules": (rule,) * bounds.MOST}).veths[0]
    veths = [replace(veth, inner=replace(veth.inner, ifname=f"e{n}")) for n in range(bounds.MOST_IN_ALL // bounds.MOST)]
    veths = [
        replace(one, outer=replace(one.outer, ifname=f"w{n}", rules=(replace(rule, iif=f"w{n}"),) * bounds.MOST))
        for n, one in enumerate(veths)
    ]
    lines = tuple(itertools.repeat("é" * 1000, 300))
    found = fit(a_state(veths=tuple(veths), notes=lines, warnings=lines))
    assert len(found.veths) == len(veths)
    assert written(found) == found


def test_nothing_is_written_that_could_not_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "criu-veth.json"
    with pytest.raises(InputError) as caught:
        state.write(a_state(inner={"ifname": "a b"}), str(path))
    assert str(caught.value) == (f"{path}: veths[0].inner.ifname: 'a b' has ' ' in it, which no interface name may")
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_more_values_than_are_read() -> None:
    data = b'{"version": 1, "notes": [' + b",".join([b'""'] * (state.MAX_VALUES + 1)) + b"]}"
    with pytest.raises(InputError) as caught:
        state.parse(data, "f")
    assert str(caught.value) == "f: has 400001 values; 400000 is the most it can have"


def test_a_file_with_more_entries_than_are_read() -> None:
    routes = (Route(dst="default", family="inet"),) * (state.MAX_ENTRIES + 1)
    with pytest.raises(InputError) as caught:
        written(a_state(inner={"routes": routes}))
    assert str(caught.value) == "f: has 32769 addresses, routes, rules and the like; 32768 is the most it can have"


HOSTILE = {
    "routes": b'{"version":1,"host":{"hostname":"","kernel":"","criu_veth":"","created":""},"veths":[{"inner":{'
    b'"ifname":"e","routes":[' + b",".join([b'{"dst":"","family":""}'] * 190_000) + b"]}}]}",
    "texts": b'{"version":1,"notes":[' + b",".join([b'"x"'] * 399_000) + b"]}",
    "one text": b'{"version":1,"notes":["' + b"x" * (state.MAX_SIZE - 100) + b'"]}',
    "numbers": b'{"version":1,"veths":[' + b",".join([b"300"] * 399_000) + b"]}",
    "nested": b'{"version":1,"veths":' + b"[" * (state.MAX_SIZE - 100),
    "not even JSON": bytes(state.MAX_SIZE - 1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_at_little_cost(tmp_path: Path, kind: str) -> None:
    """Of time and of memory, in a process of its own: msgspec's is not traced."""
    path = tmp_path / "criu-veth.json"
    path.write_bytes(HOSTILE[kind])
    code = (
        "import resource, sys; from criu_veth import state, errors\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: state.read(sys.argv[1])\n"
        "except errors.InputError: used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_maxrss - before, used.ru_utime + used.ru_stime)"
    )
    argv = [sys.executable, "-c", code, str(path)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(state.__file__).parents[1]).stdout
    kilobytes, seconds = said.split()
    assert int(kilobytes) < 64 << 10
    assert float(seconds) < 2
