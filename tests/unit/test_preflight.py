"""What only another kernel would answer to preflight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_mock import MockerFixture

from criu_veth import netlink, preflight
from criu_veth.state import Outer, Veth, Vlan


def findings(mocker: MockerFixture, attributes: dict[str, Any], outer: Outer, **more: Any) -> preflight.Findings:
    """Preflight of a port of br0, on a kernel that says this of the bridge."""
    bridge = mocker.create_autospec(netlink.Link, instance=True, ifname="br0", kind="bridge")
    bridge.info.return_value = mocker.Mock(get_attr=attributes.get)
    kernel = mocker.create_autospec(netlink.Kernel, instance=True)
    kernel.link.side_effect = lambda name: bridge if name == "br0" else None
    return preflight.preflight((Veth(inner="eth0", outer=outer, **more),), kernel)


NONE = "veth eth0: this kernel's bridges do not filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING)"
OFF = 'veth eth0: bridge "br0" does not filter VLANs; switch that on: ip link set br0 type bridge vlan_filtering 1'
IN_FILE = 'write in its [[veth]]: vlan = "default"'


@pytest.mark.parametrize(
    ("attributes", "captured", "said"),
    [
        ({}, False, (f"{NONE}; leave vlan out",)),
        ({}, True, (f"{NONE}; {IN_FILE}",)),
        ({"IFLA_BR_VLAN_FILTERING": 0}, False, (OFF,)),
        ({"IFLA_BR_VLAN_FILTERING": 0}, True, (f"{OFF}, or {IN_FILE}",)),
        ({"IFLA_BR_VLAN_FILTERING": 1}, True, ()),
    ],
)
def test_vlans(mocker: MockerFixture, attributes: dict[str, Any], captured: bool, said: tuple[str, ...]) -> None:
    outer = Outer(ifname="web0", master="br0", vlan=Vlan(tagged=(7,)))
    assert findings(mocker, attributes, outer, captured=captured).faults == said


FLAGS = {"locked": 1, "mab": 1, "mcast_max_groups": 11, "neigh_vlan_suppress": 0, "flood": 1}


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("5.15.0-91-generic", [("locked", "5.18"), ("mab", "6.2"), ("mcast_max_groups", "6.3")]),
        ("6.2.0-rc3", [("mcast_max_groups", "6.3")]),
        ("6.12.117+deb13-amd64", []),
    ],
)
def test_port_flags_of_newer_kernels(
    mocker: MockerFixture, linux: Callable[[str], None], release: str, said: list[tuple[str, str]]
) -> None:
    """Those that are off are what such a kernel does anyway."""
    linux(release)
    found = findings(mocker, {}, Outer(ifname="web0", master="br0", port=FLAGS))
    assert found.faults == ()
    assert found.warnings == tuple(
        f"veth eth0: port flag {flag} came with Linux {since}, and this is {release}:"
        " unless that was ported back to it, it will ignore the flag"
        for flag, since in said
    )
