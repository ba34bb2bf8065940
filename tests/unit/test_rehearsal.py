"""What is rehearsed, what follows from a refusal, and who asked for what. `tests/netns/test_rehearsal.py` rehearses."""

from __future__ import annotations

from typing import Any

import pytest

from criu_veth import asked, config, plan, rehearsal, scratch
from criu_veth.preflight import Findings
from criu_veth.state import Address, FdbEntry, Outer, Route, Veth, Vlan

NOTHING = Findings((), (), {})


def veth(**outer: Any) -> Veth:
    return Veth(inner="eth0", outer=Outer(ifname="web0", up=True, **outer), where="veth[0]", captured=True)


CERTAIN = veth(mac="02:00:00:00:00:01", mtu=1400, txqueuelen=5, alias="web", altnames=("front",), master="br0")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[rehearsal.Refusal]:
    """What the kernel refuses in every rehearsal."""
    refusals: list[rehearsal.Refusal] = []
    monkeypatch.setattr(scratch, "run", lambda _: list(refusals))
    monkeypatch.setattr(rehearsal.scenery, "look", lambda *_: None)
    return refusals


def test_what_the_kernel_takes_anyway_is_not_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "run", lambda _: pytest.fail("rehearsed"))
    assert rehearsal.rehearse((CERTAIN,), NOTHING, None) is NOTHING
    found = Findings(("a fault",), (), {})
    assert rehearsal.rehearse((veth(sysctl={"ipv4.proxy_arp": "1"}),), found, None) is found


def test_too_many(refused: list[rehearsal.Refusal]) -> None:
    routes = tuple(Route(dst=f"10.{number >> 8}.{number & 255}.0/24", family="inet") for number in range(5000))
    found = rehearsal.rehearse((veth(routes=routes),), NOTHING, None)
    assert found == NOTHING.with_warnings(("5004 operations are too many to be rehearsed",))


@pytest.mark.parametrize(
    ("error", "warnings"),
    [
        (PermissionError(1, "Operation not permitted"), ()),
        (
            OSError(28, "No space left on device"),
            ("what is asked for could not be rehearsed: [Errno 28] No space left on device",),
        ),
    ],
)
def test_no_network_namespace_can_be_made(
    monkeypatch: pytest.MonkeyPatch, error: OSError, warnings: tuple[str, ...]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(scratch, "run", fail)
    monkeypatch.setattr(rehearsal.scenery, "look", lambda *_: None)
    found = rehearsal.rehearse((veth(sysctl={"ipv4.proxy_arp": "1"}),), NOTHING, None)
    assert found == NOTHING.with_warnings(warnings)


@pytest.mark.parametrize("errno", [1, 4, 11, 12, 16, 23, 24])
def test_what_may_work_the_next_time_is_no_refusal(refused: list[rehearsal.Refusal], errno: int) -> None:
    refused.append(rehearsal.Refusal("eth0: web0 sysctl ipv4.proxy_arp = 1", errno, ""))
    assert rehearsal.rehearse((veth(sysctl={"ipv4.proxy_arp": "1"}),), NOTHING, None) == NOTHING


def test_what_was_captured_is_left_out(refused: list[rehearsal.Refusal]) -> None:
    refused.append(rehearsal.Refusal("eth0: web0 features off: b", 95, "bit name not found"))
    refused.append(rehearsal.Refusal("eth0: web0 fdb 02:00:00:00:00:09 static", 22, ""))
    end = veth(master="br0", features_off=("a", "b"), fdb=(FdbEntry(mac="02:00:00:00:00:09"),))
    found = rehearsal.rehearse((end,), NOTHING, None)
    assert (found.faults, found.warnings) == (
        (),
        (
            "veth eth0: left out, because this kernel refuses it: web0 features off: b: Operation not supported"
            " (ENOTSUP): bit name not found",
            "veth eth0: left out, because this kernel refuses it: web0 fdb 02:00:00:00:00:09 static: Invalid argument"
            " (EINVAL)",
        ),
    )
    made = rehearsal.without(plan.make((end,)), found.left_out)
    said = [one.describe() for one in made.operations["post-restore"]]
    assert said == ["outer end named web0", "web0 features off: a", "web0 attached to br0", "web0 up", "eth0 announced"]


def test_what_it_needs_is_never_left_out(refused: list[rehearsal.Refusal]) -> None:
    refused.append(rehearsal.Refusal("eth0: web0 up", 22, ""))
    found = rehearsal.rehearse((veth(sysctl={"ipv4.proxy_arp": "1"}),), NOTHING, None)
    assert found.faults == ("veth eth0: this kernel refuses it: web0 up: Invalid argument (EINVAL)",)


FILE = """
mappings = ["eth1:db0@br1"]
[defaults]
mtu = 1300
[[veth]]
inner = "eth0"
outer = "web0"
bridge = "br0"
mac = "02:00:00:00:00:01"
altnames = ["a", "b"]
addresses = ["10.0.0.1/24", "fd00::1/64"]
routes = ["10.1.0.0/24", "default via 10.0.0.9"]
sysctl = { "ipv4.proxy_arp" = 1 }
port = { hairpin = true }
vlan = { untagged = [7] }
[veth.netns]
mac = "02:00:00:00:00:02"
addresses = ["10.0.0.2/24"]
"""
SHORT, LONG = config.parse(FILE, "web.toml").veths
NAME: dict[str, Any] = {"inner": "eth0", "outer": "web0"}


@pytest.mark.parametrize(
    ("operation", "key"),
    [
        (plan.Rename(**NAME), "veth[0].outer"),
        (plan.Attach(**NAME, master="br0", master_kind="bridge"), "veth[0].bridge"),
        (plan.SetLink(**NAME, attribute="mac", value="02:00:00:00:00:01"), "veth[0].mac"),
        (plan.SetLink(**NAME, attribute="group", value=7), None),
        (plan.AddAltname(**NAME, altname="b"), "veth[0].altnames[1]"),
        (plan.AddAddress(**NAME, address=Address(address="fd00::1/64", flags=("nodad",))), "veth[0].addresses[1]"),
        (plan.AddAddress(**NAME, inside=True, address=Address(address="10.0.0.2/24")), "veth[0].netns.addresses[0]"),
        (plan.AddAddress(**NAME, inside=True, address=Address(address="10.0.0.3/24")), None),
        (plan.AddRoute(**NAME, route=Route(dst="10.1.0.0/24", family="inet")), "veth[0].routes[0]"),
        (plan.AddRoute(**NAME, route=Route(dst="10.1.0.0/24", family="inet", tos=8)), None),
        (plan.SetSysctl(**NAME, key="ipv4.proxy_arp", value="1"), 'veth[0].sysctl."ipv4.proxy_arp"'),
        (plan.SetSysctl(**NAME, key="ipv4.proxy_arp", value="1", inside=True), None),
        (plan.SetPort(**NAME, flag="hairpin", value=1), "veth[0].port.hairpin"),
        (plan.SetPort(**NAME, flag="mab", value=1), None),
        (plan.AddVlans(**NAME, vlan=Vlan(untagged=(7,))), "veth[0].vlan"),
        (plan.SetUp(**NAME), None),
        (plan.MakePair(**NAME, netns=LONG.netns or pytest.fail("no inner end")), "veth[0].netns.mac"),
    ],
)
def test_who_asked_for_it(operation: plan.Operation, key: str | None) -> None:
    assert asked.key_of(operation, LONG) == key
    assert asked.key_of(operation, None) is None


def test_short_forms_and_defaults() -> None:
    assert asked.key_of(plan.Rename(**NAME), SHORT) == "mappings[0]"
    assert asked.key_of(plan.SetLink(**NAME, attribute="mtu", value=1300), SHORT) == "defaults.mtu"
