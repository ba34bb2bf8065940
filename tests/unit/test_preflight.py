"""What only another kernel would answer to preflight."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_mock import MockerFixture

from criu_veth import netlink, preflight
from criu_veth.state import Outer, Veth, Vlan


def faults(mocker: MockerFixture, attributes: dict[str, Any], *, captured: bool) -> tuple[str, ...]:
    """Preflight of a port with VLANs, on a kernel that says this of a bridge."""
    bridge = mocker.create_autospec(netlink.Link, instance=True, ifname="br0", kind="bridge")
    bridge.info.return_value = mocker.Mock(get_attr=attributes.get)
    kernel = mocker.create_autospec(netlink.Kernel, instance=True)
    kernel.link.side_effect = lambda name: bridge if name == "br0" else None
    outer = Outer(ifname="web0", master="br0", vlan=Vlan(tagged=(7,)))
    return preflight.preflight((Veth(inner="eth0", outer=outer, captured=captured),), kernel).faults


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
    assert faults(mocker, attributes, captured=captured) == said
