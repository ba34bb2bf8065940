"""State files from a seed, over all fields and their ranges."""

from __future__ import annotations

import json
from typing import Any

from criu_veth import ranges

from .values import BRIDGES, U32_MAX, Values

FEATURES = ("tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation", "tx-vlan-hw-insert", "no-such",
            "rx-checksum", "highdma")  # fmt: skip
#: TCA_OPTIONS of a tbf with 1 Mbit/s, of an htb, and of a class of one.
TBF = "2800010000000000000000000000000048e801000000000000000000000000000000000050c30000e8030000000000000000000000000000"
HTB = "180002000300110000000a0000000000000000000000000000000000"


def state_file(seed: int) -> bytes:
    """The bytes of a state file with one pair, eth0 inside and web0 outside."""
    values = Values(seed)
    found = {
        "version": 1,
        "host": {"hostname": "a", "kernel": "6.1", "criu_veth": "0", "created": "2026-01-01T00:00:00Z"},
        "veths": [{"inner": _inner(values), "outer": _outer(values)}],
    }
    return json.dumps(_without_none(found)).encode()


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _end(values: Values) -> dict[str, Any]:
    return {
        "mac": values.maybe(0.8, values.mac),
        "mtu": values.maybe(0.5, lambda: values.one(1500, 1400, values.number(68, 65535))),
        "txqueuelen": values.maybe(0.3, lambda: values.number(0, U32_MAX)),
        "group": values.maybe(0.2, lambda: values.number(0, U32_MAX)),
        "alias": values.maybe(0.2, lambda: values.text(255)),
        "altnames": values.maybe(0.2, lambda: values.several(2, lambda: values.name(15))),
        "up": values.one(True, True, True, False, None),
        "arp": values.maybe(0.2, lambda: values.chance(0.5)),
        "promisc": values.maybe(0.2, lambda: values.chance(0.5)),
        "allmulti": values.maybe(0.2, lambda: values.chance(0.5)),
        "num_tx_queues": values.maybe(0.2, lambda: values.number(1, 4096)),
        "num_rx_queues": values.maybe(0.2, lambda: values.number(1, 4096)),
        "gso_max_size": values.maybe(0.1, lambda: values.one(65536, 32768, values.number(0, U32_MAX))),
        "gso_max_segs": values.maybe(0.1, lambda: values.number(0, U32_MAX)),
        "gro_max_size": values.maybe(0.1, lambda: values.one(65536, values.number(0, U32_MAX))),
        "addresses": values.maybe(0.6, lambda: values.several(3, lambda: _address(values))),
        "routes": values.maybe(0.4, lambda: values.several(3, lambda: _route(values))),
        "neighbours": values.maybe(0.2, lambda: values.several(2, lambda: _neighbour(values))),
        "sysctl": {key: str(value) for key, value in values.sysctls(3).items()} if values.chance(0.4) else None,
        "features_off": values.maybe(0.2, lambda: values.several(3, lambda: values.one(*FEATURES))),
    }


def _inner(values: Values) -> dict[str, Any]:
    return {"ifname": "eth0", **_end(values), "ifindex": values.maybe(0.3, lambda: values.number(2, 5000))}


def _outer(values: Values) -> dict[str, Any]:
    bridge = values.one(None, *BRIDGES)
    return {
        "ifname": "web0",
        **_end(values),
        "master": bridge,
        "master_kind": "bridge" if bridge else None,
        "port": _port(values) if bridge and values.chance(0.6) else None,
        "vlan": _vlan(values) if bridge == BRIDGES[0] and values.chance(0.5) else None,
        "fdb": values.several(2, lambda: _fdb(values)) if bridge and values.chance(0.3) else None,
        "rules": values.maybe(0.3, lambda: values.several(2, lambda: _rule(values))),
        **(_traffic(values) if values.chance(0.3) else {}),
    }


def _address(values: Values) -> dict[str, Any]:
    address = values.address()
    family4 = ":" not in address
    flags = ("noprefixroute", "nodad", "home", "optimistic", "mngtmpaddr", "autojoin", "temporary", "stable_privacy")
    return {
        "address": address,
        "peer": values.maybe(0.1, lambda: values.one("10.99.0.7") if family4 else "fd00::7"),
        "broadcast": values.maybe(0.2, lambda: "10.99.0.255") if family4 else None,
        "label": values.maybe(0.1, lambda: values.one("web0:1", "web0")) if family4 else None,
        "scope": values.maybe(0.2, lambda: values.one(0, 200, 253, 254)),
        "flags": values.maybe(0.2, lambda: values.several(2, lambda: values.one(*flags))),
        "valid": values.maybe(0.1, lambda: values.number(0, U32_MAX)),
        "preferred": values.maybe(0.1, lambda: values.number(0, U32_MAX)),
        "metric": values.maybe(0.1, lambda: values.number(0, U32_MAX)),
        "protocol": values.maybe(0.1, lambda: values.number(0, 255)),
    }


def _route(values: Values) -> dict[str, Any]:
    family = values.one("inet", "inet6")
    via = values.maybe(0.4, lambda: values.gateway(values.one(family, family, family, "inet6")))
    known = ("mtu", "advmss", "hoplimit", "initcwnd", "quickack", "features", "lock")
    metrics = {name: values.number(1, 2000) for name in values.several(1, lambda: values.one(*known))}
    return {
        "dst": values.network(family),
        "family": family,
        "via": via,
        "src": values.maybe(0.2, lambda: values.gateway(family)),
        "metric": values.maybe(0.2, lambda: values.number(0, U32_MAX)),
        "table": values.maybe(0.2, lambda: values.one(100, 254, 255, values.number(1, U32_MAX))),
        "scope": values.maybe(0.3, lambda: values.one(0, 200, 253, 254)),
        "protocol": values.maybe(0.5, lambda: values.number(2, 255)),
        "type": values.one(*[None] * 10, values.number(1, 11)),
        "tos": values.maybe(0.1, lambda: values.number(0, 255)),
        "onlink": values.maybe(0.2, lambda: bool(via)),
        "pref": values.maybe(0.1, lambda: values.number(0, 3)),
        "expires": values.maybe(0.1, lambda: values.number(0, U32_MAX)),
        "metrics": values.maybe(0.2, lambda: metrics),
    }


def _neighbour(values: Values) -> dict[str, Any]:
    proxy = values.chance(0.3)
    return {
        "dst": values.gateway(values.one("inet", "inet6")),
        "lladdr": None if proxy else values.mac(multicast=0.1),
        "proxy": proxy,
        "router": values.maybe(0.2, lambda: True),
    }


def _rule(values: Values) -> dict[str, Any]:
    family = values.one("inet", "inet6")
    return {
        "family": family,
        "priority": values.number(1, U32_MAX),
        "table": values.one(100, 254, values.number(0, U32_MAX)),
        "action": values.one(*[None] * 6, values.number(1, 8)),
        "flags": values.one(None, None, 0, 2),
        values.one("iif", "oif"): "web0",
        "src": values.maybe(0.3, lambda: values.network(family).replace("default", "10.0.0.0/8")),
        "fwmark": values.maybe(0.2, lambda: values.number(0, U32_MAX)),
        "fwmask": values.maybe(0.1, lambda: values.number(0, U32_MAX)),
        "protocol": values.maybe(0.2, lambda: values.number(0, 255)),
        "ip_proto": values.maybe(0.1, lambda: values.number(0, 255)),
        "tos": values.maybe(0.1, lambda: values.number(0, 255)),
        "suppress_prefixlength": values.maybe(0.1, lambda: values.number(0, 128)),
        "suppress_ifgroup": values.maybe(0.1, lambda: values.number(0, U32_MAX)),
    }


def _port(values: Values) -> dict[str, Any]:
    flags = {}
    for flag in values.several(6, lambda: values.one(*ranges.PORT)):
        wide = {"priority": 63, "cost": 65535, "group_fwd_mask": 65535, "mcast_max_groups": U32_MAX, "mcast_router": 2}
        flags[flag] = values.number(0, wide.get(flag, 1))
    return flags


def _vlan(values: Values) -> dict[str, Any]:
    untagged = values.several(3, lambda: values.number(1, 2000))
    pvid = untagged[0] if untagged and values.chance(0.7) else None
    return {"pvid": pvid, "untagged": untagged, "tagged": values.one([], [4094], ["3000-3100"])}


def _fdb(values: Values) -> dict[str, Any]:
    return {
        "mac": values.mac(multicast=0.2),
        "vlan": values.maybe(0.3, lambda: values.number(1, 4094)),
        "state": values.one("static", "permanent"),
        "flags": values.maybe(0.3, lambda: values.several(2, lambda: values.one("sticky", "extern_learn"))),
    }


def _traffic(values: Values) -> dict[str, Any]:
    handle = values.one("1:", "8001:", "ffff:")
    kind = values.one("tbf", "htb", "pfifo", "fq_codel", "ingress", "clsact", "nosuch", "noqueue")
    ingress = kind in {"ingress", "clsact"}
    options = {"tbf": TBF, "htb": HTB}.get(kind, "")
    if values.chance(0.1):
        options = values.random.randbytes(4 * values.number(1, 8)).hex()
    qdisc = {"kind": kind, "handle": "ffff:" if ingress else handle, "parent": "ingress" if ingress else "root",
             "options": options}  # fmt: skip
    filters = [{"kind": values.one("u32", "matchall", "flower"), "parent": qdisc["handle"], "priority":
                values.number(1, 65535), "protocol": values.one(3, 2048), "options": ""}]  # fmt: skip
    return {"qdiscs": [qdisc], "filters": filters if values.chance(0.4) else None}
