"""Mapping files from a seed, over all keys and their ranges."""

from __future__ import annotations

import json
from typing import Any

from criu_veth import config

from .values import BRIDGES, PARENT, U32_MAX, Values

FLAGS = [name for name in config.Port.__struct_fields__ if name not in config.PORT_RANGES]


def mapping_file(seed: int) -> str:
    """The text of a mapping file for a container with an end called eth0."""
    values = Values(seed)
    veth = _veth(values)
    lines = _lines(
        {
            "adopted": values.maybe(0.2, lambda: values.one("dress", "leave")),
            "verify": values.maybe(0.2, lambda: values.chance(0.5)),
        }
    )
    for header, table in (
        ("[defaults]", _defaults(values) if values.chance(0.3) else {}),
        ("[announcements]", {"repeat": values.number(0, 100), "interval": 0.1} if values.chance(0.2) else {}),
        ("[capture]", {"enabled": values.chance(0.5), "on_error": "warn"} if values.chance(0.2) else {}),
        ("[remap]", {"bridge": {"br9": "br0"}} if values.chance(0.2) else {}),
        ("[match]", {"container": ["*"], "hostname": "*"} if values.chance(0.1) else {}),
        ("[[veth]]", veth),
    ):
        lines += [header, *_lines(table)] if table else []
    return "\n".join(lines) + "\n"


def _defaults(values: Values) -> dict[str, Any]:
    return _common(values, likely=0.3)


def _common(values: Values, likely: float) -> dict[str, Any]:
    bridge = values.maybe(0.7, lambda: values.one(*BRIDGES))
    return {
        "bridge": bridge,
        "mtu": values.maybe(likely, lambda: values.one(values.number(68, 65535), 1400, 9000)),
        "txqueuelen": values.maybe(likely, lambda: values.number(0, U32_MAX)),
        "alias": values.maybe(likely, lambda: values.text(255)),
        "sysctl": values.sysctls(4) if values.chance(0.6) else None,
        "port": _port(values) if bridge and values.chance(0.6) else None,
        "vlan": _vlan(values) if bridge == BRIDGES[0] and values.chance(0.5) else None,
        "announce": values.maybe(likely, lambda: values.chance(0.5)),
        "ipv6_dad": values.maybe(likely, lambda: values.one("skip", "keep")),
    }


def _veth(values: Values) -> dict[str, Any]:
    if values.chance(0.06):
        return _stacked(values)
    kind = values.one(*[None] * 12, "veth", "netkit")
    families = values.one(("inet",), ("inet6",), ("inet", "inet6"))
    return {
        "inner": "eth0",
        "outer": values.one("web0", values.name(), "v-{inner}"),
        **_common(values, likely=0.4),
        "mac": values.maybe(0.4, values.mac),
        "altnames": values.maybe(0.3, lambda: values.several(3, lambda: values.one(values.name(), values.text(127)))),
        "addresses": values.maybe(0.5, lambda: values.several(3, values.address)),
        "routes": values.maybe(0.4, lambda: values.several(3, lambda: _route(values, values.one(*families)))),
        "mode": values.one(*[None] * 3, "empty", "ready" if kind is None else None),
        "adopted": values.maybe(0.2, lambda: values.one("dress", "leave")),
        "kind": kind,
        "kind_mode": values.one(None, "l2", "l3") if kind == "netkit" else None,
        "netns": _netns(values) if values.chance(0.3) else None,
    }


def _stacked(values: Values) -> dict[str, Any]:
    kind = values.one("macvlan", "ipvlan")
    return {
        "inner": "eth0",
        "kind": kind,
        "parent": PARENT,
        "kind_mode": values.maybe(0.7, lambda: values.one(*config.KIND_MODES[kind])),
        "mode": "empty",
        "netns": _netns(values) if values.chance(0.8) else None,
    }


def _netns(values: Values) -> dict[str, Any]:
    return {
        "mac": values.maybe(0.5, values.mac),
        "mtu": values.maybe(0.5, lambda: values.number(68, 65535)),
        "addresses": values.maybe(0.7, lambda: values.several(3, values.address)),
        "routes": values.maybe(0.4, lambda: values.several(2, lambda: _route(values, values.one("inet", "inet6")))),
        "sysctl": values.sysctls(3) if values.chance(0.4) else None,
    }


def _route(values: Values, family: str) -> str:
    words = [values.network(family)]
    via = values.gateway(family) if words == ["default"] or values.chance(0.4) else None
    for word, value in (
        ("via", via),
        ("src", values.maybe(0.2, lambda: values.gateway(family))),
        ("metric", values.maybe(0.2, lambda: values.number(0, U32_MAX))),
        ("table", values.maybe(0.2, lambda: values.one("main", "local", "default", values.number(1, U32_MAX)))),
        ("scope", values.maybe(0.2, lambda: values.one("global", "site", "link", "host"))),
    ):
        words += [word, str(value)] if value is not None else []
    return " ".join(words + (["onlink"] if via and values.chance(0.3) else []))


def _port(values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {flag: values.chance(0.5) for flag in values.several(5, lambda: values.one(*FLAGS))}
    for flag in values.several(2, lambda: values.one(*config.PORT_RANGES)):
        found[flag] = values.number(*config.PORT_RANGES[flag])
    return found


def _vlan(values: Values) -> dict[str, Any] | str:
    if values.chance(0.1):
        return "default"
    untagged = values.several(3, lambda: values.number(1, 2000))
    pvid = untagged[0] if untagged and values.chance(0.7) else None
    tagged = values.maybe(0.6, lambda: values.one([4094], ["3000-3100", 4000], ["2500-4094"]))
    return {"pvid": pvid, "untagged": untagged, "tagged": tagged}


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items() if one is not None)
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
