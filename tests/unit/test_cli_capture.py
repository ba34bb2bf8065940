"""``criu-veth capture``, as far as it needs no container, and ``inspect`` of a directory that was made by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import Result

from criu_veth import capture, state
from criu_veth.cli import host, output
from criu_veth.cli.app import app
from criu_veth.state import (
    Address,
    CapturedVeth,
    FdbEntry,
    Host,
    Inner,
    Neighbour,
    Outer,
    Qdisc,
    Route,
    State,
)
from lab.cli import on_a_terminal, runner

CAPTURED = State(
    version=1,
    host=Host(hostname="alpha", kernel="6.18", criu_veth="0.1.0", created="2026-01-31T12:00:00+00:00"),
    veths=(
        CapturedVeth(
            inner=Inner(
                ifname="eth0",
                ifindex=2,
                mtu=9000,
                txqueuelen=1000,
                up=True,
                addresses=(Address(address="10.0.0.2/24"), Address(address="10.1.0.1/32", peer="10.1.0.2")),
                routes=(Route(dst="default", family="inet", via="10.0.0.1"),),
            ),
            outer=Outer(
                ifname="web0",
                txqueuelen=500,
                alias="web\x1b[2J",
                altnames=("front", "web"),
                master="br0",
                port={"hairpin": 1, "learning": 1, "cost": 2},
                fdb=(FdbEntry(mac="02:00:00:00:00:10", vlan=7, flags=("sticky",)),),
                neighbours=(Neighbour(dst="10.0.0.9", proxy=True),),
                sysctl={"ipv4.proxy_arp": "1"},
                qdiscs=(Qdisc(kind="tbf", handle="1:", parent="root", options="00ff"),),
            ),
        ),
    ),
    notes=("wg0: wireguard device, not touched",),
    warnings=("web0: its XDP program is not carried over",),
)
LINES = [
    "captured on alpha at 2026-01-31T12:00:00+00:00 (kernel 6.18, criu-veth 0.1.0)",
    "eth0: inner ifname: eth0",
    "eth0: inner mtu: 9000",
    "eth0: inner up: yes",
    "eth0: inner addresses: 10.0.0.2/24",
    "eth0: inner addresses: 10.1.0.1/32 peer 10.1.0.2",
    "eth0: inner routes: default via 10.0.0.1",
    "eth0: inner ifindex: 2",
    "eth0: outer ifname: web0",
    "eth0: outer txqueuelen: 500",
    "eth0: outer alias: web\\x1b[2J",
    "eth0: outer altnames: front",
    "eth0: outer altnames: web",
    "eth0: outer neighbours: dst 10.0.0.9 proxy",
    "eth0: outer sysctl: ipv4.proxy_arp 1",
    "eth0: outer master: br0",
    "eth0: outer fdb: mac 02:00:00:00:00:10 vlan 7 flags sticky",
    "eth0: outer qdiscs: kind tbf handle 1: parent root",
    "eth0: outer port: hairpin 1",
]
SAID = (
    "criu-veth: notice: wg0: wireguard device, not touched\n"
    "criu-veth: warning: web0: its XDP program is not carried over\n"
)


def run(*words: str | Path) -> Result:
    return runner().invoke(app, [*map(str, words)])


def test_capture_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "refuse_no_container", lambda _: None)
    monkeypatch.setattr(capture, "capture", lambda _: CAPTURED)

    shown = run("capture", "--pid", "7")

    assert (shown.exit_code, shown.stderr) == (0, SAID)
    assert state.parse(shown.stdout.encode(), "stdout") == CAPTURED


@pytest.fixture
def captured(images: Path) -> Path:
    state.write(CAPTURED, state.path_in(str(images)))
    return images


def test_inspect_prints_lines(captured: Path) -> None:
    shown = run("inspect", captured)

    assert (shown.exit_code, shown.stderr) == (0, SAID)
    assert sorted(shown.stdout.splitlines()) == sorted(LINES)


def test_inspect_prints_json(captured: Path) -> None:
    shown = run("inspect", "--json", captured)

    assert (shown.exit_code, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == {
        "state": json.loads((captured / "criu-veth.json").read_text()),
        "namespaces": None,
    }


def test_inspect_of_a_checkpoint_without_devices(images: Path) -> None:
    (images / "inventory.img").touch()

    shown = run("inspect", images)

    assert shown.exit_code == 0
    assert shown.stdout == (
        "CRIU saved no devices: the network namespace is the host's, or was left out (--empty-ns net)\n"
    )
    assert shown.stderr == (
        "criu-veth: notice: no criu-veth.json: the outer ends were not captured, which a dump with the hook does\n"
    )
    assert json.loads(run("inspect", "--json", images).stdout) == {"state": None, "namespaces": []}


def test_inspect_of_an_external_network_namespace(images: Path) -> None:
    (images / "inventory.img").touch()
    (images / "netns-10.img").write_bytes(bytes.fromhex("19435654 52379355 06000000 4204") + b"we\nb")

    assert run("inspect", images).stdout == (
        "CRIU saved no devices: the network namespace is external to it, by the key we\\nb\n"
    )


def test_inspect_of_something_else(images: Path) -> None:
    shown = run("inspect", images)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: {images}: is no checkpoint: it holds neither inventory.img nor criu-veth.json\n"
    )

    shown = run("inspect", images / "nowhere")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: inspect: invalid value for 'IMAGES': Directory '{images}/nowhere' does not exist;"
        " see criu-veth inspect --help\n"
    )


def test_inspect_of_a_damaged_state_file(captured: Path) -> None:
    os.truncate(captured / "criu-veth.json", 100)

    shown = run("inspect", captured)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == f"criu-veth: error: {captured}/criu-veth.json: is damaged: Input data was truncated\n"


def test_inspect_on_a_terminal_is_a_table(captured: Path) -> None:
    lines = on_a_terminal("inspect", captured, columns=100)

    assert lines[1:6] == [
        [],
        ["veth", "eth0"],
        ["inner", "end", "outer", "end"],
        ["ifname", "eth0", "web0"],
        ["mtu", "9000"],
    ]
    assert ["alias", "web\\x1b[2J"] in lines
    at = lines.index(["altnames", "front"])
    assert lines[at + 1] == ["web"]


def test_json_has_nothing_in_it_that_moves_a_cursor() -> None:
    given = {"alias": "a\x1b\x7f\x9b\u202e\U000e0001ü\n", "name": "x\\"}
    text = output.json_text(msgspec.json.format(msgspec.json.encode(given), indent=2))
    assert json.loads(text) == given
    assert text.replace("\n", "").isprintable()
    assert "ü" in text
