"""A host's network set-up as data, to compare before with after."""

from __future__ import annotations

from typing import Any

from .host import Host

# What changes although nobody set anything, or is a number that the kernel handed out.
VOLATILE = {
    "ifindex", "link_index", "link_netnsid", "operstate", "stats64", "qlen", "promiscuity",
    "allmulti", "tso_max_size", "tso_max_segs", "carrier_changes",
    "carrier_up_count", "carrier_down_count",
    "valid_life_time", "preferred_life_time", "tentative", "dadfailed", "cache",
    "root_id", "bridge_id", "designated_bridge", "designated_root", "designated_port",
    "designated_cost", "topology_change", "topology_change_ack", "topology_change_detected",
    "state", "no", "id", "config_pending", "config_pending_flag",
}  # fmt: skip
VOLATILE_FLAGS = {"LOWER_UP", "NO-CARRIER", "linkdown", "dead", "M-DOWN", "RUNNING", "PROMISC"}


def snapshot(host: Host) -> dict[str, Any]:
    """Links, addresses, routes, rules and /run/criu-veth, without what changes by itself.

    Left out: indexes, states, counters and timers, and what the kernel adds to every link that
    has a carrier (IPv6 link-local addresses and their routes, which come and go by themselves).
    """
    addresses = {
        link["ifname"]: [_stable(a) for a in link["addr_info"] if not _kernel_made(a)]
        for link in host.ip("address", "show")
    }
    routes = [
        _stable(route)
        for family in ("-4", "-6")
        for route in host.ip(family, "route", "show", "table", "all")
        if not str(route.get("dst", "")).startswith(("fe80:", "ff00:"))
    ]
    rules = [_stable(rule) for family in ("-4", "-6") for rule in host.ip(family, "rule", "show")]
    programs = host.path("/run/criu-veth")
    return {
        "links": {link["ifname"]: _stable(link) for link in host.ip("link", "show")},
        "addresses": addresses,
        "routes": sorted(routes, key=str),
        "rules": rules,
        "programs": sorted(str(p.relative_to(programs)) for p in programs.rglob("*")),
    }


def _kernel_made(address: dict[str, Any]) -> bool:
    return address["family"] == "inet6" and str(address["local"]).startswith("fe80:")


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _stable(inner) for key, inner in value.items() if key not in VOLATILE and not key.endswith("_timer")
        }
    if isinstance(value, list):
        return [_stable(inner) for inner in value if not (isinstance(inner, str) and inner in VOLATILE_FLAGS)]
    return value
