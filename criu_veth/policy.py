"""What captured data may do by itself, and what needs a line in the mapping file. Pure; the one place that decides it.

The state file lies with CRIU's images, which come from anywhere. What this host captured itself (see `criu_veth.seal`)
is put back as it was. Anything else may do what an ordinary migration needs and no more: it may give this restore's
own ends their dress, attach them to bridges that exist, and lead to the container's own addresses. What goes beyond
that is left out, and named together with the word that allows it (``[trust] allow``).

Whatever the trust, there is what the capture never writes and no file can have put back: see `criu_veth.tcattrs`.
"""

import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

from msgspec.structs import replace

from criu_veth import harmless, ownership, rules, tcattrs
from criu_veth.addresses import Networks, broadcast_of, is_link_local, is_ordinary, network_of
from criu_veth.config import Config, VethConfig
from criu_veth.state import Address, FdbEntry, Neighbour, Refused, Route, Rule, State, Veth

#: What only ``[trust] images = "root"`` allows.
ROOT = "root"

#: One thing and several of each kind, by the word of ``[trust] allow`` that lets it in; "root" is that of `images`.
WORDS = {
    "names": ("the name", "the names"),
    "macs": ("the outer end's MAC address", ""),
    "masters": ("being a port", ""),
    "addresses": ("the address", "the addresses"),
    "default-route": ("the default route", "the default routes"),
    "routes": ("the route", "the routes"),
    "rules": ("the policy rule", "the policy rules"),
    "sysctls": ("the sysctl", "the sysctls"),
    "neighbours": ("the neighbour", "the neighbours"),
    "fdb": ("the forwarding entry for", "the forwarding entries for"),
    ROOT: ("the inverted policy rule", "the inverted policy rules"),
}
_MOST = 6  # things of a kind that are named
_LONG, _LONGEST = 80, 300

_UNICAST, _TABLE_LOCAL = 1, 255  # RTN_UNICAST, RT_TABLE_LOCAL
_INVERT = 0x2  # FIB_RULE_INVERT; the kernel keeps the others for itself


class Trust(NamedTuple):
    """How far a state file is trusted.

    ``foreign`` says why it is not this host's own; it is empty where it is. ``allow`` are words of `config.ALLOW`,
    ``root`` whether whoever writes images is trusted with everything.
    """

    foreign: str = ""
    allow: frozenset[str] = frozenset()
    root: bool = False

    @property
    def everything(self) -> bool:
        """Whether all that the capture can have written is put back."""
        return not self.foreign or self.root


def trust(config: Config | None, foreign: str) -> Trust:
    """Return how far a mapping file has a state file trusted."""
    if config is None:
        return Trust(foreign)
    return Trust(foreign, frozenset(config.trust.allow), config.trust.images == "root")


class Inside(NamedTuple):
    """What the container has inside: packed ``addresses``, the ``gateways`` of its default routes, its ``macs``."""

    addresses: frozenset[bytes]
    gateways: frozenset[bytes]
    macs: frozenset[str]


class Own(NamedTuple):
    """What counts as the container's own: what it has ``inside``, and the names of its outer ends."""

    inside: Inside
    outers: frozenset[str]


def own(state: State | None, seen: Inside | None) -> Own:
    """Return what counts as the container's own of what a state file says, by what is ``seen`` in CRIU's images.

    An address that no container can have for itself does not count. Where the images have no devices, the inner ends
    are made by the hook, and have what the state file says.
    """
    veths = state.veths if state else ()
    routes = (route for veth in veths for route in veth.inner.routes)
    said = Inside(
        addresses=_packed(rules.parse_interface(one.address)[0] for veth in veths for one in veth.inner.addresses),
        gateways=_packed(route.via for route in routes if route.via and _is_default(route)),
        macs=frozenset(veth.inner.mac.lower() for veth in veths if veth.inner.mac),
    )
    if seen is not None:
        said = Inside(said.addresses & seen.addresses, said.gateways & seen.gateways, said.macs & seen.macs)
    return Own(said, frozenset(veth.outer.ifname for veth in veths))


def _packed(texts: Iterable[str]) -> frozenset[bytes]:
    return frozenset(packed for packed in map(rules.packed, texts) if is_ordinary(packed))


def limit(veth: Veth, entry: VethConfig | None, told: str, own: Own, trust: Trust) -> Veth:
    """Return a captured ``veth`` without what its state file may not have done, which is in ``refused``.

    ``entry`` is what the mapping file says of it: what that replaces is not judged. ``told`` is the name that criu was
    told for the outer end.
    """
    if not veth.captured:
        return veth
    outer, faults = tcattrs.limited(veth.outer)
    judge = _Judge(replace(veth, outer=outer), entry, told, own, trust)
    if not trust.everything:
        judge.sysctls()
        if not ownership.is_foreign(veth.mode):  # else the identity is its maker's
            judge.identity()
    refused = [Refused(kind="", things=tuple(faults))] if faults else []
    refused += [Refused(kind=kind, things=tuple(things), why=trust.foreign) for kind, things in judge.refused.items()]
    doubtful = {"claimed": tuple(judge.claimed), "led": tuple(judge.led)}
    return replace(veth, outer=judge.outer, refused=tuple(refused), **doubtful)


def lines(veths: Iterable[Veth], allow: Iterable[str] = ()) -> list[str]:
    """Say what of these was refused, a line a kind, and what would allow it; ``allow`` is allowed already."""
    return [line for veth in veths for refused in veth.refused for line in _lines(veth.inner, refused, allow)]


def _lines(inner: str, refused: Refused, allow: Iterable[str]) -> list[str]:
    things = [_shortened(thing) for thing in refused.things]
    more = len(things) - _MOST
    if not refused.kind:
        rest = [f"veth {inner}: {more} more things of its traffic control are not put back"] if more > 0 else []
        return [f"veth {inner}: {thing[:_LONGEST]}" for thing in refused.things[:_MOST]] + rest
    listed = ", ".join(things[:_MOST]) + (f" and {more} more" if more > 0 else "")
    words = ", ".join(f'"{word}"' for word in (*allow, refused.kind))
    line = 'images = "root"' if refused.kind == ROOT else f"allow = [{words}]"
    return [
        f"veth {inner}: {WORDS[refused.kind][len(things) > 1]} {listed}: not put back, because {refused.why}; to"
        f" allow it, write in the mapping file: [trust] {line}"
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."


class _Judge:
    """Judges one outer end: ``outer`` is what is left of it, ``refused`` what is not, by the word that allows it.

    ``claimed`` are the addresses that it may have, and ``led`` those that may be led to it, where nobody else on this
    host's segments has them.
    """

    def __init__(self, veth: Veth, entry: VethConfig | None, told: str, own: Own, trust: Trust) -> None:
        self.outer = veth.outer
        self.refused: dict[str, list[str]] = {}
        self.claimed: list[str] = []
        self.led: list[str] = []
        self._veth = veth
        self._entry = entry
        self._told = told
        self._outers = own.outers
        self._trust = trust
        self._inside = own.inside
        self._subnets_of_own: dict[int, frozenset[tuple[bytes, int]]] = {}

    def _refuse(self, kind: str, thing: str) -> None:
        self.refused.setdefault(kind, []).append(thing)

    def _keep(self, key: str, fault: Callable[[Any], tuple[str, str] | None]) -> None:
        """Keep those of the outer end's ``key`` without a fault, which is (word that allows it, what it is)."""
        kept = []
        for one in getattr(self.outer, key):
            found = fault(one)
            if found is None or found[0] in self._trust.allow:
                kept.append(one)
            else:
                self._refuse(*found)
        self.outer = replace(self.outer, **{key: tuple(kept)})

    def _says(self, key: str) -> bool:
        """Say whether the mapping file replaces this of what was captured."""
        return self._entry is not None and getattr(self._entry, key) is not None

    def identity(self) -> None:
        """Judge what the end is known by, and what leads to it."""
        self._names()
        self._mac()
        self._masters()
        if not self._says("addresses"):
            self._keep("addresses", self._address)
        if not self._says("routes"):
            self._keep("routes", self._route)
            self._sources()
        self._keep("rules", _rule)
        self._keep("neighbours", self._neighbour)
        self._keep("fdb", self._fdb)

    def _sources(self) -> None:
        """Have no route prefer an address that is refused: the kernel would refuse the route, too."""
        before, left = (
            {address.address.partition("/")[0] for address in addresses}
            for addresses in (self._veth.outer.addresses, self.outer.addresses)
        )
        gone = before - left
        routes = (replace(one, src="") if one.src in gone else one for one in self.outer.routes)
        self.outer = replace(self.outer, routes=tuple(routes))

    def sysctls(self) -> None:
        """Judge the settings of the outer end; the inner end's are inside the container."""
        said = self._entry.sysctl if self._entry else {}
        if "sysctls" in self._trust.allow:
            return
        harmful = {
            key: value
            for key, value in self.outer.sysctl.items()
            if key not in said and not harmless.is_harmless_sysctl(key, value)
        }
        for key, value in harmful.items():
            self._refuse("sysctls", f"{key} = {value}")
        left = {key: value for key, value in self.outer.sysctl.items() if key not in harmful}
        self.outer = replace(self.outer, sysctl=left)

    def _names(self) -> None:
        if "names" in self._trust.allow:
            return
        name = self.outer.ifname
        theirs = ownership.is_named_by_caller(self._veth.mode) and self.outer.ovs is None
        if not (self._says("outer") or name == self._told or theirs) and harmless.looks_like_infrastructure(name):
            made = f"veth{zlib.crc32(f'{self._veth.inner} {name}'.encode()):08x}"
            self._refuse("names", f'"{name}" (it is {made} instead)')
            self.outer = replace(self.outer, ifname=made)
        if not self._says("altnames"):
            self._keep("altnames", _altname)

    def _mac(self) -> None:
        """Judge the outer end's MAC address: a bridge keeps to itself what is sent to that of one of its ports.

        Those that make veths make locally administered ones; the others are of hardware, and somebody has it.
        """
        mac = self.outer.mac
        if mac is not None and not self._says("mac") and not int(mac[:2], 16) & 2 and "macs" not in self._trust.allow:
            self._refuse("macs", mac)
            self.outer = replace(self.outer, mac=None)

    def _masters(self) -> None:
        """Judge what the end becomes a port of: in a bond or a team this host's own traffic would leave through it."""
        outer = self.outer
        if "masters" in self._trust.allow or self._says("bridge") or self._says("ovs"):
            return
        if outer.master is not None and outer.master_kind not in (None, "bridge"):
            self._refuse("masters", f"of {outer.master_kind} {outer.master}")
            self.outer = replace(outer, master=None, master_kind=None, port={}, vlan=None, backup_port=None, fdb=())
        elif outer.backup_port is not None and outer.backup_port not in self._outers:
            self._refuse("masters", f'that "{outer.backup_port}" stands in for')
            self.outer = replace(outer, backup_port=None)

    def _address(self, entry: Address) -> tuple[str, str] | None:
        if not self._is_ordinary_address(entry):
            return "addresses", entry.address
        if "addresses" not in self._trust.allow and not is_link_local(rules.packed(entry.address.partition("/")[0])):
            self.claimed.append(entry.address)
        return None

    def _is_ordinary_address(self, entry: Address) -> bool:
        """Say whether an end may have this address: a link-local one, or the container's own gateway."""
        text, length = rules.parse_interface(entry.address)
        packed = rules.packed(text)
        alone = length == 8 * len(packed)
        if entry.peer:  # the prefix is the peer's then
            if rules.packed(entry.peer) not in self._inside.addresses or not alone:
                return False
        elif not (alone or self._is_shared(packed, length)):
            return False
        if entry.broadcast and rules.packed(entry.broadcast) not in (broadcast_of(packed, length), b"\xff" * 4):
            return False
        return is_ordinary(packed) and (is_link_local(packed) or packed in self._inside.gateways)

    def _is_shared(self, packed: bytes, length: int) -> bool:
        """Say whether a subnet is one of the container's own, and small enough not to be this host's others as well."""
        if is_link_local(packed):
            return length >= (24 if len(packed) == 4 else 64)
        small = length >= (16 if len(packed) == 4 else 64)
        return small and network_of(packed, length) in self._around(length)

    def _around(self, length: int) -> frozenset[tuple[bytes, int]]:
        """Return the subnets of this length that the container's own addresses are in."""
        if length not in self._subnets_of_own:
            mine = (one for one in self._inside.addresses if length <= 8 * len(one))
            self._subnets_of_own[length] = frozenset(network_of(one, length) for one in mine)
        return self._subnets_of_own[length]

    def _route(self, route: Route) -> tuple[str, str] | None:
        if _is_ordinary(route, default=True) and _is_default(route):
            return "default-route", f"via {route.via}" if route.via else "of this host"
        if _is_ordinary(route) and (not route.via or self._reaches(route)):
            text, length = rules.parse_interface(route.dst)
            packed = rules.packed(text)
            alone = length == 8 * len(packed)
            if packed in self._inside.addresses if alone else self._subnets.have(packed, length):
                self.led += [route.dst] if alone and "routes" not in self._trust.allow else []
                return None
        of_type = "" if route.type == _UNICAST else f" of type {route.type}"
        return "routes", f"to {route.dst}{of_type}" + ("" if route.table == 254 else f" in table {route.table}")

    def _reaches(self, route: Route) -> bool:
        """Say whether the gateway of a route is the container, and the kernel will know that it is on this end."""
        via = rules.packed(route.via)
        if via not in self._inside.addresses:
            return False
        link_local = len(via) == 16 and is_link_local(via)
        on_end = self._subnets.have(via, 8 * len(via))
        return route.onlink or link_local or on_end or via in self._direct

    @property
    def _addresses(self) -> tuple[Address, ...]:
        """The addresses that the outer end will have; those captured have been judged by now."""
        said = self._entry.addresses if self._entry else None
        return self.outer.addresses if said is None else said

    @cached_property
    def _subnets(self) -> Networks:
        """The subnets of those addresses."""
        return Networks.of(entry.address for entry in self._addresses if not entry.peer)

    @cached_property
    def _direct(self) -> frozenset[bytes]:
        """The addresses that a route, or an address's peer, will have directly on this end."""
        peers = [entry.peer for entry in self._addresses if entry.peer]
        routes = [route.dst for route in self.outer.routes if _is_ordinary(route) and not route.via]
        pairs = map(rules.parse_interface, (*peers, *routes))
        return frozenset(packed for text, length in pairs if 8 * len(packed := rules.packed(text)) == length)

    def _neighbour(self, entry: Neighbour) -> tuple[str, str] | None:
        """Judge an entry: a proxy one may answer the container for its gateway, another may name the container."""
        packed = rules.packed(entry.dst)
        if entry.proxy:
            ordinary = is_ordinary(packed) and (packed in self._inside.gateways or is_link_local(packed))
            return None if ordinary else ("neighbours", f"{entry.dst} (proxy)")
        known = packed in self._inside.addresses or entry.lladdr.lower() in self._inside.macs
        return None if known else ("neighbours", entry.dst)

    def _fdb(self, entry: FdbEntry) -> tuple[str, str] | None:
        return None if entry.mac.lower() in self._inside.macs else ("fdb", entry.mac)


def _is_default(route: Route) -> bool:
    return route.dst == "default" or rules.parse_interface(route.dst)[1] == 0


def _is_ordinary(route: Route, *, default: bool = False) -> bool:
    return route.type == _UNICAST and route.table != _TABLE_LOCAL and (default or not _is_default(route))


def _altname(name: str) -> tuple[str, str] | None:
    return ("names", f'"{name}"') if harmless.looks_like_infrastructure(name) else None


def _rule(rule: Rule) -> tuple[str, str] | None:
    """Judge a policy rule: it stays when the device goes, and an inverted one is for everybody's packets then."""
    return ROOT if rule.flags & _INVERT else "rules", f"{rule.priority} ({rule.family})"
