"""What proves that a device of this host is the other end of one in a container."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_mock import MockerFixture

from criu_veth import netlink, pairs

LEADS_BACK: dict[str, Any] = {"kind": "veth", "IFLA_LINK": 7, "IFLA_LINK_NETNSID": 3}


@pytest.mark.parametrize(
    ("device", "nsid", "proved"),
    [
        (LEADS_BACK, 3, True),
        (LEADS_BACK, 4, False),
        ({**LEADS_BACK, "IFLA_LINK": 8}, 3, False),
        ({**LEADS_BACK, "kind": "vlan"}, 3, False),
        ({**LEADS_BACK, "IFLA_LINK_NETNSID": -1}, -1, False),
        ({"kind": "veth", "IFLA_LINK": 7}, -1, False),
    ],
)
def test_it_leads_back(mocker: MockerFixture, device: dict[str, Any], nsid: int, proved: bool) -> None:
    """Two namespaces without an id are not the same one for that."""
    inner = mocker.create_autospec(netlink.Link, instance=True, kind="veth", index=7)
    outer = mocker.create_autospec(netlink.Link, instance=True, kind=device["kind"])
    outer.get.side_effect = device.get
    assert pairs.leads_back(outer, inner, nsid) is proved
