"""What every veth should look like after a restore: mapping file over captured state over the kernel's defaults.

Pure.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from criu_veth import ownership, policy, rules
from criu_veth.config import Config, VethConfig, expand, has_no_mac
from criu_veth.errors import InputError
from criu_veth.state import PAIRS, Adopted, CapturedVeth, End, Inner, Outer, Ovs, State, Veth
from criu_veth.way import EMPTY, EXTERNAL, MADE, READY, UNKNOWN, Way

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

_RTPROT_RA = 9  # linux/rtnetlink.h

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


def resolve(
    config: Config | None,
    state: State | None,
    placeholders: Mapping[str, str],
    way: Way | None = None,
    *,
    foreign: str = "",
    inside: policy.Inside | None = None,
) -> tuple[Veth, ...]:
    """Return the desired ends: those captured, in their order, then those that only the mapping file names.

    ``placeholders`` gives ``hostname`` and ``image``; ``way`` how the inner ends come back (by default CRIU makes
    them all); ``foreign`` why the state file is not this host's own, if it is not, and ``inside`` what CRIU's images
    say of the container: `criu_veth.policy` decides then what counts. Raises InputError with every name that comes out
    impossible, and every contradiction.
    """
    faults: list[str] = []
    entries = {entry.inner: entry for entry in config.veths} if config else {}
    limits = (policy.own(state, inside), policy.trust(config, foreign))
    made = _Resolver(config, placeholders, way, faults, limits)
    veths = []
    for number, captured in enumerate(state.veths if state else ()):
        base = _as_captured(captured, made.remap, f"veths[{number}] of the state file")
        veths.append(made.veth(base, entries.pop(base.inner, None)))
    for entry in entries.values():
        bare = Veth(inner=entry.inner, outer=Outer(ifname="", up=True), where=entry.where)
        veths.append(made.veth(bare, entry))
    faults += _clashes(veths)
    for veth in veths:
        for name in (veth.outer.ifname, veth.outer.ovs.bridge) if veth.outer.ovs else ():
            fault = rules.ovs_name_fault(name) if name else None
            faults += [f"{veth.where}: {fault}"] if fault else []
    if faults:
        path = f"{config.path}: " if config else ""
        raise InputError(*(f"{path}{fault}" for fault in faults))
    return tuple(veths)


class _Resolver:
    """Resolves one veth after the other; what is wrong with them is collected in ``faults``."""

    def __init__(
        self,
        config: Config | None,
        placeholders: Mapping[str, str],
        way: Way | None,
        faults: list[str],
        limits: tuple[policy.Own, policy.Trust],
    ) -> None:
        self.remap = config.remap_bridge if config else {}
        self._adopted = config.adopted if config else "dress"
        self._placeholders = placeholders
        self._way = way
        self._faults = faults
        self._limits = limits

    def veth(self, captured: Veth, entry: VethConfig | None) -> Veth:
        """Return one veth as it should be: what ``entry`` says over what was ``captured``, as far as it is ours."""
        if self._way is None:
            captured = self._limited(captured, entry, "")
            return _overlay(captured, entry, self._placeholders, self._faults) if entry else captured
        mode = _mode(captured, entry, self._way, self._faults)
        if entry is not None and entry.netns is not None and (why := ownership.inner_fault(entry.netns, mode)):
            self._faults.append(f'{entry.where}.netns: "{entry.inner}": {why}')
        told = self._way.names_of(captured.inner) if ownership.is_made_with_what_was_told(mode) else ("", "")
        captured = msgspec.structs.replace(_as_told(captured, entry, *told), mode=mode)
        captured = self._limited(captured, entry, told[0])
        veth = captured
        if entry is not None:
            of_others: list[str] = []  # what only matters where the pair is made here
            faults = of_others if ownership.is_foreign(mode) else self._faults
            veth = _overlay(captured, entry, self._placeholders, faults)
        if mode == READY:
            veth = msgspec.structs.replace(veth, ready=self._ready_name(veth))
        if ownership.may_be_foreign(mode):
            veth = self._as_adopted(veth, captured, entry)
        return veth

    def _limited(self, captured: Veth, entry: VethConfig | None, told: str) -> Veth:
        """Leave out what the state file may not have done."""
        before = captured.outer.ifname
        limited = policy.limit(captured, entry, told, *self._limits)
        return msgspec.structs.replace(limited, outer=_renamed(limited.outer, before))

    def _ready_name(self, veth: Veth) -> str:
        """Return the name that criu was told for the device that is to be ready, if there can be a device of it."""
        name = self._way.ready.get(veth.inner) if self._way else None
        if name is None:  # said already
            return ""
        if fault := rules.ifname_fault(name):
            self._faults.append(f'{veth.where}: criu was told to move a device in as "{veth.inner}": {fault}')
            return ""
        return name

    def _as_adopted(self, veth: Veth, captured: Veth, entry: VethConfig | None) -> Veth:
        """Add what is done to a pair that somebody else has made; that is all if it is certain that somebody has."""
        asked = Outer(ifname="")
        keep = entry.adopted if entry is not None and entry.adopted is not None else self._adopted
        dress = ownership.dress(captured.outer) if keep == "dress" and captured.captured else Outer(ifname="")
        if entry is not None:
            blank = msgspec.structs.replace(captured, outer=asked)
            ignored: list[str] = []
            foreign = ownership.is_foreign(veth.mode)
            asked = _overlay(blank, entry, self._placeholders, self._faults if foreign else ignored, adopted=True).outer
            dress = _without(dress, asked)
        own = entry.netns if entry is not None else None
        netns = veth.netns if keep == "dress" else own
        inner = ownership.inner_dress(netns, veth.inner)
        adopted = Adopted(asked=asked, dress=dress, inner=inner)
        outer = asked if ownership.is_foreign(veth.mode) else veth.outer
        return msgspec.structs.replace(veth, adopted=adopted, outer=outer)


def _as_told(captured: Veth, entry: VethConfig | None, told_name: str, told_bridge: str) -> Veth:
    """Have what criu was told win over what was captured, where the mapping file does not overrule both.

    A captured name with an ``@`` cannot be told to criu: there the caller had to choose another one.
    """
    outer = captured.outer
    changes: dict[str, Any] = {}
    if told_name and told_name != outer.ifname and "@" not in outer.ifname and not rules.ifname_fault(told_name):
        changes["ifname"] = told_name
    if told_bridge and told_bridge != outer.master and not rules.ifname_fault(told_bridge):
        changes.update(master=told_bridge, master_kind="bridge", ovs=None)
    if not changes:
        return captured
    own = {"ifname": entry and entry.outer, "master": entry and entry.bridge}  # the mapping file overrules both
    said = [
        f'{what} "{changes[key]}" as criu was told, not "{before}" as at the dump'
        for key, what, before in (
            ("ifname", "named", outer.ifname),
            ("master", "attached to", outer.master or (outer.ovs.bridge if outer.ovs else "")),
        )
        if key in changes and before and own[key] is None
    ]
    return msgspec.structs.replace(
        captured,
        outer=_renamed(msgspec.structs.replace(outer, **changes), outer.ifname),
        overruled=f"veth {captured.inner}: {', '.join(said)}" if said else "",
    )


def _without(dress: Outer, asked: Outer) -> Outer:
    """Leave out of what was captured what the mapping file says itself."""
    changes: dict[str, Any] = {key: None for key in ("mtu", "txqueuelen", "alias") if getattr(asked, key) is not None}
    changes["port"] = {flag: value for flag, value in dress.port.items() if flag not in asked.port}
    changes["sysctl"] = {key: value for key, value in dress.sysctl.items() if key not in asked.sysctl}
    if asked.vlan is not None:
        changes["vlan"] = None
    return msgspec.structs.replace(dress, **changes)


def lasting_routes(inner: Inner) -> Inner:
    """Return ``inner`` with the routes that a router has advertised as CRIU brings them back: for ever."""
    routes = (
        msgspec.structs.replace(route, expires=None) if route.protocol == _RTPROT_RA else route
        for route in inner.routes
    )
    return msgspec.structs.replace(inner, routes=tuple(routes))


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
    same = _as_new(outer)
    port = {flag: value for flag, value in outer.port.items() if value != NEW_PORT.get(flag, 0)}
    master = remap.get(outer.master, outer.master) if outer.master else None
    ovs = outer.ovs and msgspec.structs.replace(outer.ovs, bridge=remap.get(outer.ovs.bridge, outer.ovs.bridge))
    outer = msgspec.structs.replace(outer, **same, port=port, master=master, ovs=ovs)
    netns = msgspec.structs.replace(captured.inner, **_as_new(captured.inner))
    was_ovs = captured.outer.ovs is not None
    return Veth(
        inner=captured.inner.ifname,
        outer=outer,
        netns=netns,
        where=where,
        captured=True,
        was=captured.outer.ifname,
        was_ovs=was_ovs,
        namespace=captured.namespace,
    )


def _as_new(end: End) -> dict[str, None]:
    """Return the fields that a new device has by itself, to be left out."""
    return {key: None for key, value in NEW_LINK.items() if getattr(end, key) == value}


def _overlay(
    base: Veth, entry: VethConfig, placeholders: Mapping[str, str], faults: list[str], *, adopted: bool = False
) -> Veth:
    """Put what the mapping file says over what was captured.

    ``adopted``: somebody else has made the device, so that it has a name and may be a port of a bridge already.
    """
    changes = _texts(base, entry, {**placeholders, "inner": entry.inner}, faults, adopted=adopted)
    for key in ("mac", "mtu", "txqueuelen", "altnames", "addresses", "routes"):
        if getattr(entry, key) is not None:
            changes[key] = getattr(entry, key)
    changes["port"] = {**base.outer.port, **entry.port}
    faults += _port_faults(changes["port"], entry, adopted=adopted)
    if entry.vlan is not None or entry.default_vlan:
        changes["vlan"] = entry.vlan
    if entry.bridge is not None:
        changes["master"] = entry.bridge or None
        changes["master_kind"] = "bridge" if entry.bridge else None
        changes["ovs"] = None
    ovs = _as_ovs_port(base.outer.ovs, entry, faults)
    if ovs is not None:
        changes.update(ovs=ovs, master=None, master_kind=None, backup_port=None, port={}, fdb=())
    if not adopted and not changes.get("master", base.outer.master):
        changes["vlan"] = None
        faults += [
            f'{entry.where}.{key}: "{entry.inner}" has no bridge, so its outer end is no port: write bridge = "..."'
            for key, own in (("port", entry.own_port), ("vlan", entry.own_vlan))
            if own
        ]
    changes["sysctl"] = {**base.outer.sysctl, **entry.sysctl}
    veth = msgspec.structs.replace(
        base,
        netns=_inner_end(base.netns, entry.netns),
        explicit=True,
        named=base.named or entry.outer is not None,
        kind=entry.kind,
        parent=entry.parent,
        kind_mode=entry.kind_mode,
        outer=_renamed(msgspec.structs.replace(base.outer, **changes), base.outer.ifname),
        announce=entry.announce is not False,
        skip_dad=entry.ipv6_dad != "keep",
        where=entry.where,
    )
    return veth if veth.kind == "veth" else _of_its_kind(veth)


def _port_faults(port: dict[str, int], entry: VethConfig, *, adopted: bool) -> list[str]:
    """Find what a port cannot have together (``br_setport()``, net/bridge/br_netlink.c)."""
    if adopted or not entry.port.get("mab"):  # of a port that somebody else has made the rest is not known
        return []
    needed = ("locked", port.get("locked", 0)), ("learning", port.get("learning", 1))
    return [f"{entry.where}.port.mab: needs {name} = true as well" for name, value in needed if not value]


def _of_its_kind(veth: Veth) -> Veth:
    """Leave out what was captured of a veth and another kind of device has not."""
    netns, outer = veth.netns, veth.outer if veth.paired else Outer(ifname="")
    if has_no_mac(veth.kind, veth.kind_mode):
        netns = netns and msgspec.structs.replace(netns, mac=None)
        outer = msgspec.structs.replace(outer, mac=None)
    return msgspec.structs.replace(veth, netns=netns, outer=outer)


def _as_ovs_port(captured: Ovs | None, entry: VethConfig, faults: list[str]) -> Ovs | None:
    """Put what the mapping file says of a port of Open vSwitch over what was captured of one."""
    if entry.ovs is None:
        return None
    if captured is None and "bridge" not in entry.ovs:
        if entry.own_ovs:
            faults.append(f'{entry.where}.ovs: "{entry.inner}" is no port of Open vSwitch yet: write bridge = "..."')
        return None
    found = {**(msgspec.structs.asdict(captured) if captured else {}), **entry.ovs}
    for key in ("external_ids", "interface_external_ids"):
        found[key] = {**(getattr(captured, key) if captured else {}), **entry.ovs.get(key, {})}
    return Ovs(**found)


def _renamed(outer: Outer, before: str) -> Outer:
    """Have rules and address labels follow a captured device to its new name."""
    name = outer.ifname
    if not before or name == before:
        return outer
    rules_ = tuple(
        msgspec.structs.replace(
            rule,
            iif=name if rule.iif == before else rule.iif,
            oif=name if rule.oif == before else rule.oif,
        )
        for rule in outer.rules
    )
    addresses = tuple(
        msgspec.structs.replace(address, label=name + address.label.removeprefix(before))
        if address.label.startswith(before + ":")
        else address
        for address in outer.addresses
    )
    return msgspec.structs.replace(outer, rules=rules_, addresses=addresses)


def _texts(
    base: Veth, entry: VethConfig, values: Mapping[str, str], faults: list[str], *, adopted: bool
) -> dict[str, Any]:
    """Return the values that may have placeholders, filled in, and find those that come out impossible."""
    changes: dict[str, Any] = {} if adopted else {"up": True}
    if entry.outer is not None:
        changes["ifname"] = expand(entry.outer, values)
        if fault := rules.ifname_fault(changes["ifname"]):
            faults.append(f"{entry.where}.outer: {entry.outer!r} becomes a name that is impossible: {fault}")
    elif not base.outer.ifname and entry.kind in PAIRS and not adopted:
        faults.append(f'{entry.where}: the outer end has no name: write outer = "..." for "{entry.inner}"')
    if entry.alias is not None:
        changes["alias"] = expand(entry.alias, values)
        if fault := rules.alias_fault(changes["alias"]):
            faults.append(f"{entry.where}.alias: {fault}")
    return changes


def _inner_end(captured: Inner | None, asked: Inner | None) -> Inner | None:
    """Put what ``[veth.netns]`` says over what was captured of the inner end."""
    if captured is None or asked is None:
        return asked or captured
    changes = {key: getattr(asked, key) for key in ("mac", "mtu", "addresses", "routes") if getattr(asked, key)}
    return msgspec.structs.replace(captured, **changes, sysctl={**captured.sysctl, **asked.sysctl})


def _mode(veth: Veth, entry: VethConfig | None, way: Way, faults: list[str]) -> str:
    """Decide how the inner end comes back: criu's options and the images, then what the mapping file insists on."""
    seen = way.mode_of(veth.inner)
    if entry is None:
        return seen
    mode = seen
    if entry.mode is not None and (entry.mode, seen) != (READY, MADE):
        mode = entry.mode
        if seen not in (mode, UNKNOWN):
            faults.append(f'{entry.where}.mode: "{mode}" contradicts what {_SAYS[seen]} ({seen}); leave the mode out')
    if mode == READY and seen == UNKNOWN:
        option = f"--external 'netdev[{veth.inner}]:NAME'"
        faults.append(f"{entry.where}.mode: ready needs {option}, which criu was not seen to be given")
    if has_no_mac(entry.kind, entry.kind_mode) and mode in (EXTERNAL, READY, MADE):
        faults.append(
            f"{entry.where}.kind: CRIU makes no {entry.kind}, and cannot move one in mode {entry.kind_mode} in: it"
            " gives a ready device the MAC address of the images, which the kernel refuses: give it --empty-ns net"
        )
    elif entry.kind != "veth" and mode == EXTERNAL:
        faults.append(f"{entry.where}.kind: CRIU makes no {entry.kind}: give it --external 'netdev[{veth.inner}]:NAME'")
    return mode


_SAYS = {
    EXTERNAL: "criu was told",
    READY: "criu was told with --external netdev[]",
    MADE: "criu was told with --external netdev[] of a device that is there",
    EMPTY: "criu was told, or the images without devices say",
    "adopt": "criu was told of an external network namespace",
}
