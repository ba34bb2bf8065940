"""The three ways in which a container's devices come back, and what else a restore may find."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Criu, Host, Link, Outcome, snapshot
from lab.frames import RESETS, Tap
from lab.traffic import Talker, traffic_server

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


def captured(host: Host, pid: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run(sys.executable, "-c", CAPTURE.format(pid)).stdout)
    return without_moment(found)


def without_moment(state: dict[str, Any]) -> dict[str, Any]:
    """A capture without what differs from one moment to the next."""
    return {**state, "host": {**state["host"], "created": ""}}


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
        print(f"{way}: {RESTORES} restores, {seen.sent} messages, {seen.lost} lost, wrong {seen.wrong!r},")
        print(f"{knocks} knocks, {refused} refused, {len(resets.sent_by(WEB.mac))} resets, worst gap {seen.gap:.3f} s")
        assert (seen.error, seen.wrong, seen.lost) == ("", "", 0)
        assert (refused, resets.sent_by(WEB.mac)) == (0, [])
