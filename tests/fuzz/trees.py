"""Inputs with a shape: trees of tables and arrays, damaged in a place or grown from the types that read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from .source import MARKERS, Source

#: What a key usually holds, so that a tree gets further than to the first check.
USUAL: dict[str, tuple[Any, ...]] = {
    "inner": ("eth0", "eth1"),
    "outer": ("web0", "{inner}-{image}", "w.{hostname}"),
    "ifname": ("eth0", "eth1", "web0", "web1"),
    "bridge": ("br0", "br1", ""),
    "master": ("br0", "vrf1"),
    "backup_port": ("web9",),
    "mac": ("02:00:00:00:00:01", "0e:11:22:33:44:55"),
    "lladdr": ("02:00:00:00:00:09", ""),
    "addresses": ("10.0.0.2/24", "fd00::2/64"),
    "address": ("10.0.0.2/24", "fd00::2/64"),
    "peer": ("10.0.0.9", "fd00::9"),
    "broadcast": ("10.0.0.255",),
    "routes": ("default via 10.0.0.1", "10.9.0.0/16 metric 5 table 7", "fd01::/64 via fd00::1"),
    "mappings": ("eth0:web0@br0", "veth[eth1]:web1", "eth2=web2"),
    "dst": ("default", "10.9.0.0/16", "fd01::/64", "10.0.0.7"),
    "via": ("10.0.0.1", "fe80::1"),
    "src": ("10.0.0.2", "fd00::2"),
    "family": ("inet", "inet6"),
    "kind": ("tbf", "htb", "u32", "ingress", "veth", "macvlan", "ipvlan", "netkit"),
    "handle": ("1:", "ffff:", "1:10"),
    "parent": ("root", "1:", "ingress", "eth7"),
    "options": ("", "0c000100" + "00" * 8),
    "protocol": (4, 2048),
    "flags": ("nodad", "noprefixroute", "sticky", "extern_learn"),
    "iif": ("web0",),
    "oif": ("web0",),
    "sport": ("80:90",),
    "dport": ("443:443",),
    "uid_range": ("0:1000",),
    "state": ("static", "permanent"),
    "features_off": ("rx-gro", "tx-checksum-ip-generic"),
    "pvid": (10,),
    "untagged": (10, "20-29"),
    "tagged": (30, "40-49"),
    "trunks": (5, "30-39"),
}
_KEYS = {
    "sysctl": ("ipv4.proxy_arp", "ipv6.accept_ra", "ipv4.neigh.app_solicit", "ipv4.rp_filter"),
    "port": ("priority", "cost", "hairpin", "group_fwd_mask", "mcast_router", "locked", "mcast_max_groups"),
    "metrics": ("mtu", "advmss", "cc_algo", "features", "lock", "quickack"),
}


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each (table or array, key or index) of a tree."""
    pending = [tree]
    while pending:
        at = pending.pop()
        found = list(at.items()) if isinstance(at, dict) else list(enumerate(at)) if isinstance(at, list) else []
        for key, value in found:
            yield at, key
            pending.append(value)


def damage(source: Source, tree: Any) -> Any:
    """Return a copy of ``tree`` with some of its values changed, most often into others of their type."""
    tree = json.loads(json.dumps(tree, default=str))
    for _ in range(source.choice((1, 1, 1, 2, 3, 6))):
        found = list(places(tree))
        if not found:
            return source.value()
        at, key = source.choice(found)
        _damage_place(source, at, key)
    return tree


def _damage_place(source: Source, at: Any, key: Any) -> None:
    value = at[key]
    how = source.randrange(12)
    if how == 0:
        at[key] = source.value()
    elif how == 1 and isinstance(at, dict):
        del at[key]
    elif how == 2 and isinstance(at, dict):
        at[source.text()] = value
    elif how == 3 and isinstance(at, list):
        at.extend([value] * (source.choice((1, 2, 300)) if len(str(at)) < 5000 else 1))
    elif isinstance(value, bool):
        at[key] = source.choice((not value, source.integer()))
    elif isinstance(value, int | float):
        at[key] = source.integer() if source.randrange(8) else source.choice((0.5, 1e300))
    elif isinstance(value, str):
        at[key] = value + source.text() if source.one_in(4) else source.text()
    elif isinstance(value, dict):
        value[source.choice((*_KEYS.get(str(key), ("x",)), source.text()))] = source.value(2)
    elif isinstance(value, list):
        value.append(source.value(2))


class Grower:
    """Grows trees from a type that msgspec reads; each value is an unlikely one in one of ``wild`` cases."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._wild = source.choice((5, 20, 60, 200))
        self._full = source.random()

    def grow(self, kind: Any) -> Any:
        """Return a tree for a Python type."""
        return self._grow(_info(kind), "")

    def _grow(self, info: Any, name: str) -> Any:
        source = self._source
        if source.one_in(self._wild):
            return source.value()
        if isinstance(info, msgspec.inspect.StructType):
            return {
                field.encode_name: self._grow(field.type, field.encode_name)
                for field in info.fields
                if field.required or source.random() < self._full
            }
        if isinstance(info, msgspec.inspect.UnionType):
            return self._grow(source.choice(info.types), name)
        if isinstance(info, msgspec.inspect.DictType):
            keys = _KEYS.get(name, ("a", "key", "iface-id"))
            return {source.choice(keys): self._grow(info.value_type, "") for _ in range(source.randrange(4))}
        if isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            return [self._grow(info.item_type, name) for _ in range(source.randrange(3))]
        return self._leaf(info, name)

    def _leaf(self, info: Any, name: str) -> Any:
        source = self._source
        if isinstance(info, msgspec.inspect.LiteralType):
            return source.choice(info.values)
        if isinstance(info, msgspec.inspect.BoolType):
            return source.one_in(2)
        usual = [
            one for one in USUAL.get(name, ()) if isinstance(one, str) is isinstance(info, msgspec.inspect.StrType)
        ]
        if usual:
            return source.choice(usual)
        if isinstance(info, msgspec.inspect.IntType):
            return source.randrange(3) if source.one_in(2) else source.integer()
        if isinstance(info, msgspec.inspect.FloatType):
            return source.random() * 70
        return None if isinstance(info, msgspec.inspect.NoneType) else source.choice(("x", "1", "a" * 15))


_infos: dict[Any, Any] = {}


def _info(kind: Any) -> Any:
    if kind not in _infos:
        _infos[kind] = msgspec.inspect.type_info(kind)
    return _infos[kind]


def to_json(tree: Any) -> bytes:
    """Write a tree as JSON; what is no Unicode becomes bytes that are no UTF-8."""
    return _marked(json.dumps(tree, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"), 0)


def to_toml(tree: Any) -> bytes:
    """Write a table as TOML: a key a line, all below it in one line."""
    if not isinstance(tree, dict):
        return _marked(_toml(tree), 1)
    return _marked(b"".join(_toml_text(key) + b" = " + _toml(value) + b"\n" for key, value in tree.items()), 1)


def _marked(data: bytes, form: int) -> bytes:
    for marker, instead in MARKERS.items():
        data = data.replace(b'"%s"' % marker.encode(), instead[form])
    return data


def _toml(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, dict):
        return b"{" + b", ".join(_toml_text(key) + b" = " + _toml(one) for key, one in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(_toml, value)) + b"]"
    if isinstance(value, int):
        return b"%d" % value
    return repr(value).encode() if isinstance(value, float) else _toml_text(str(value))


def _toml_text(text: object) -> bytes:
    out = json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")
    return out.encode("utf-8", "surrogatepass")
