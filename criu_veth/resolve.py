"""What every veth should look like after a restore: mapping file over captured state over the kernel's defaults.

Pure.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from criu_veth import rules
from criu_veth.config import Config, VethConfig, expand
from criu_veth.errors import InputError
from criu_veth.state import CapturedVeth, Outer, State, Veth

#: What a pair has that CRIU or this program makes anew; a captured value that is the same needs no message.
NEW_LINK: dict[str, Any] = {
    "txqueuelen": 1000,
    "group": 0,
    "arp": True,
    "promisc": False,
    "allmulti": False,
    "gso_max_size": 65536,
    "gso_max_segs": 65535,
    "gro_max_size": 65536,
}

#: What a bridge port is made with (``new_nbp()``, net/bridge/br_if.c; the cost is that of a veth's 10 Gbit/s).
NEW_PORT = {
    "priority": 32,
    "cost": 2,
    "learning": 1,
    "flood": 1,
    "mcast_flood": 1,
    "bcast_flood": 1,
    "mcast_router": 1,
}


def resolve(config: Config | None, state: State | None, placeholders: Mapping[str, str]) -> tuple[Veth, ...]:
    """Return the desired ends: those captured, in their order, then those that only the mapping file names.

    ``placeholders`` gives ``hostname`` and ``image``. Raises InputError with every name that comes out impossible.
    """
    faults: list[str] = []
    entries = {entry.inner: entry for entry in config.veths} if config else {}
    remap = config.remap_bridge if config else {}
    veths = []
    for number, captured in enumerate(state.veths if state else ()):
        base = _as_captured(captured, remap, f"veths[{number}] of the state file")
        entry = entries.pop(base.inner, None)
        veths.append(_overlay(base, entry, placeholders, faults) if entry else base)
    for entry in entries.values():
        bare = Veth(inner=entry.inner, outer=Outer(ifname="", up=True), where=entry.where)
        veths.append(_overlay(bare, entry, placeholders, faults))
    faults += _clashes(veths)
    if faults:
        path = f"{config.path}: " if config else ""
        raise InputError(*(f"{path}{fault}" for fault in faults))
    return tuple(veths)


def _clashes(veths: list[Veth]) -> list[str]:
    """Find what one host cannot have twice: names of devices, alternative ones too, and routes."""
    faults: list[str] = []
    seen: dict[object, str] = {}
    for veth in veths:
        outer = veth.outer
        things: dict[object, str] = {name: f'the name "{name}"' for name in (outer.ifname, *outer.altnames) if name}
        for route in outer.routes:
            things[route.family, route.dst, route.table, route.metric, route.tos] = f"the route to {route.dst}"
        for key, what in things.items():
            if key in seen:
                faults.append(f"{veth.where}: {what} is given already by {seen[key]}")
            seen.setdefault(key, veth.where)
    return faults


def _as_captured(captured: CapturedVeth, remap: Mapping[str, str], where: str) -> Veth:
    outer = captured.outer
    same = {key: None for key, value in NEW_LINK.items() if getattr(outer, key) == value}
    port = {flag: value for flag, value in outer.port.items() if value != NEW_PORT.get(flag, 0)}
    master = remap.get(outer.master, outer.master) if outer.master else None
    outer = msgspec.structs.replace(outer, **same, port=port, master=master)
    return Veth(inner=captured.inner.ifname, outer=outer, netns=captured.inner, where=where)


def _overlay(base: Veth, entry: VethConfig, placeholders: Mapping[str, str], faults: list[str]) -> Veth:
    """Put what the mapping file says over what was captured."""
    changes = _texts(base, entry, {**placeholders, "inner": entry.inner}, faults)
    for key in ("mac", "mtu", "txqueuelen"):
        if getattr(entry, key) is not None:
            changes[key] = getattr(entry, key)
    for key in ("altnames", "addresses", "routes"):
        if getattr(entry, key):
            changes[key] = getattr(entry, key)
    if entry.bridge is not None:
        changes["master"] = entry.bridge or None
        changes["master_kind"] = "bridge" if entry.bridge else None
    changes["port"] = {**base.outer.port, **entry.port}
    changes["sysctl"] = {**base.outer.sysctl, **entry.sysctl}
    return msgspec.structs.replace(
        base,
        outer=msgspec.structs.replace(base.outer, **changes),
        announce=entry.announce is not False,
        where=entry.where,
    )


def _texts(base: Veth, entry: VethConfig, values: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    """Return the values that may have placeholders, filled in, and find those that come out impossible."""
    changes: dict[str, Any] = {"up": True}
    if entry.outer is not None:
        changes["ifname"] = expand(entry.outer, values)
        if fault := rules.ifname_fault(changes["ifname"]):
            faults.append(f"{entry.where}.outer: {entry.outer!r} becomes a name that is impossible: {fault}")
    elif not base.outer.ifname:
        faults.append(f'{entry.where}: the outer end has no name: write outer = "..." for "{entry.inner}"')
    if entry.alias is not None:
        changes["alias"] = expand(entry.alias, values)
        if fault := rules.alias_fault(changes["alias"]):
            faults.append(f"{entry.where}.alias: {fault}")
    return changes
