"""What of a host decides whether the kernel takes an operation, read from it and made again in a scratch namespace.

That is, for each outer end: its bridge as it filters VLANs, the device that an inner end is on top of, which of the
addresses that its routes name are the host's own, the policy rules by which a gateway is looked up, and whether new
devices have IPv6. Names that are taken, routes that are there and what other devices have is preflight's business.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from criu_veth import netlink, rules, wire
from criu_veth.state import Outer, Veth

_RTM_NEWADDR, _RTM_NEWRULE, _RTM_GETRULE, _RTM_GETROUTE = 20, 32, 34, 26
_FAMILIES = (rules.AF_INET, rules.AF_INET6)
_RTN_LOCAL, _RTA_TABLE = 2, 15
#: Unspecified, default, main, local: where the kernel looks for an address of its own anyway.
_TABLES_OF_ALL = (0, 253, 254, 255)
_RTM_TYPE_AT = wire.HEADER + 7
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
#: Of a bridge (IFLA_BR_*): multicast snooping; whether it filters VLANs, and if so their protocol and the default one.
_BR_MCAST_SNOOPING, _BR_VLANS, _BR_MULTI_BOOLOPT = 23, (7, 28, 39), 46
_FRA_PRIORITY = 6
_RULE_ATTRS = 28
#: Priorities of the rules that every network namespace has.
_DEFAULT_RULES = (0, 32766, 32767)
_IPV6_SWITCHES = tuple(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6" for which in ("all", "default"))


class Scenery(NamedTuple):
    """Requests that make it, in order; ``ports`` of bridges by name; the values of files below ``/proc/sys``."""

    requests: tuple[bytes, ...]
    ports: tuple[tuple[str, str], ...]
    files: dict[str, bytes]


def look(veths: Iterable[Veth], rtnl: wire.Rtnl, coming: frozenset[str] = frozenset()) -> Scenery:
    """Read what a restore of ``veths`` depends on from this host, which will have the addresses ``coming`` by then.

    Raises OSError.
    """
    kernel = netlink.Kernel(rtnl)
    veths = tuple(veths)
    requests = [_up("lo")]
    bridges = {o.master for o in _outers(veths) if o.master and o.master_kind in (None, "bridge")}
    for name in sorted(bridges):
        found = kernel.link(name)
        if found is not None and found.kind == "bridge":
            requests += [_bridge(found), _up(name)]
    for name in dict.fromkeys(veth.parent for veth in veths if veth.parent):
        found = kernel.link(name)
        if found is not None:
            requests += [_parent(found), _up(name)]
    backups = _backup_ports(veths, kernel)
    requests += [_parent(link) for link, _ in backups]
    requests += [_own_address(address) for address in _own_addresses(veths, rtnl, coming)]
    requests += _rules(veths, rtnl)
    ports = tuple((link.ifname, master.ifname) for link, master in backups if master is not None)
    return Scenery(tuple(requests), ports, {path: value for path in _IPV6_SWITCHES if (value := _read(path))})


def make(scenery: Scenery, rtnl: wire.Rtnl) -> None:
    """Make it in the network namespace of this thread; what the kernel refuses is not there.

    Raises OSError, PermissionError among them.
    """
    for path, value in scenery.files.items():
        with open(path, "wb", buffering=0) as file:
            file.write(value)
    first, *_ = rtnl.request(list(scenery.requests))
    if first.errno:  # this process may make network namespaces and nothing in them
        raise OSError(first.errno, os.strerror(first.errno))
    kernel = netlink.Kernel(rtnl)
    for port, bridge in scenery.ports:
        master = kernel.link(bridge)
        if master is not None:
            rtnl.request([_link(netlink.RTM_NEWLINK, 0, port, wire.put_attr(_IFLA_MASTER, wire.u32(master.index)))])


def _outers(veths: Iterable[Veth]) -> list[Outer]:
    return [outer for veth in veths for outer in (veth.outer, veth.adopted.asked if veth.adopted else None) if outer]


def _rules(veths: Iterable[Veth], rtnl: wire.Rtnl) -> list[bytes]:
    """Return the policy rules, by which gateways are looked up, where there are any."""
    if not any(route.via for outer in _outers(veths) for route in outer.routes):
        return []
    found = [
        data for family in _FAMILIES for data in rtnl.dump(wire.message(_RTM_GETRULE, 0, bytes([family, *[0] * 11])))
    ]
    return [
        wire.message(_RTM_NEWRULE, wire.NLM_F_CREATE | wire.NLM_F_EXCL, data[wire.HEADER :])
        for data in found
        if _priority(data) not in _DEFAULT_RULES
    ]


def _link(kind: int, flags: int, name: str, attrs: bytes = b"", *, up: bool = False) -> bytes:
    state = wire.u32(netlink.IFF_UP if up else 0) * 2  # ifi_flags, ifi_change
    return wire.message(kind, flags, bytes(8) + state + wire.put_attr(_IFLA_IFNAME, name.encode() + b"\0") + attrs)


def _up(name: str) -> bytes:
    return _link(netlink.RTM_NEWLINK, 0, name, up=True)


def _new(name: str, kind: str, data: bytes, attrs: bytes) -> bytes:
    info = wire.put_attr(1, kind.encode() + b"\0") + wire.put_attr(2, data)
    info = wire.put_attr(netlink.IFLA_LINKINFO, info)
    return _link(netlink.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, name, attrs + info)


def _bridge(link: netlink.Link) -> bytes:
    """Leave out what is not in use: a kernel that cannot do a thing refuses to hear that it is off, too."""
    filters = link.raw(netlink.BR_VLAN_FILTERING) == b"\1"
    numbers = (_BR_MCAST_SNOOPING, *(_BR_VLANS if filters else ()))
    found = [(number, link.raw((*netlink.INFO_DATA, number))) for number in numbers]
    switches = link.raw((*netlink.INFO_DATA, _BR_MULTI_BOOLOPT))
    if switches is not None and any(switches[:4]):  # struct br_boolopt_multi: those that are on
        found.append((_BR_MULTI_BOOLOPT, switches[:4] * 2))
    data = b"".join(wire.put_attr(number, value) for number, value in found if value is not None)
    return _new(link.ifname, "bridge", data, _same(link, _IFLA_ADDRESS))


def _parent(link: netlink.Link) -> bytes:
    """One end of a pair stands for whatever an inner end is on top of: every kernel that has veth can make it."""
    peer = wire.put_attr(1, bytes(16))
    return _new(link.ifname, "veth", peer, _same(link, _IFLA_ADDRESS) + _same(link, _IFLA_MTU))


def _same(link: netlink.Link, number: int) -> bytes:
    value = link.raw((number,))
    return b"" if value is None else wire.put_attr(number, value)


def _backup_ports(veths: Iterable[Veth], kernel: netlink.Kernel) -> list[tuple[netlink.Link, netlink.Link | None]]:
    """Return those that are no outer ends of these veths, each with what it is a port of."""
    own = {veth.outer.ifname for veth in veths}
    found = []
    for name in sorted({o.backup_port for o in _outers(veths) if o.backup_port} - own):
        link = kernel.link(name)
        if link is not None:
            found.append((link, kernel.link_at(link.get("IFLA_MASTER")) if link.get("IFLA_MASTER") else None))
    return found


def _priority(data: bytes) -> int:
    found = wire.find_attr(data, _RULE_ATTRS, (_FRA_PRIORITY,))
    return wire.get_u32(found, 0) if found else 0


def _own_addresses(veths: Iterable[Veth], rtnl: wire.Rtnl, coming: frozenset[str]) -> list[str]:
    """Return which of the addresses that routes name as gateway or source are this host's own."""
    routes = [route for outer in _outers(veths) for route in outer.routes]
    named = list(dict.fromkeys(address for route in routes for address in (route.via, route.src) if address))
    replies = rtnl.request([_where_to(address) for address in named])
    others = {route.src for route in routes if route.src and _has_local_routes(route.family, route.table)}
    return [
        address
        for address, reply in zip(named, replies, strict=True)
        if address in coming | others or (reply.messages and reply.messages[0][_RTM_TYPE_AT] == _RTN_LOCAL)
    ]


def _has_local_routes(family: str, table: int) -> bool:
    """Say whether a table of the host's own has local routes: an address is a source there that is none elsewhere."""
    if table in _TABLES_OF_ALL:
        return False
    header = bytes([rules.AF_INET6 if family == "inet6" else rules.AF_INET, *[0] * 6, _RTN_LOCAL]) + bytes(4)
    rtnl = wire.Rtnl()
    try:
        rtnl.strict()
        return bool(rtnl.dump(wire.message(_RTM_GETROUTE, 0, header + wire.put_attr(_RTA_TABLE, wire.u32(table)))))
    except OSError:  # there is no such table
        return False
    finally:
        rtnl.close()


def _where_to(address: str) -> bytes:
    packed = rules.packed(address)
    header = bytes([rules.family_of(address), len(packed) * 8]) + bytes(10)
    return wire.message(_RTM_GETROUTE, 0, header + wire.put_attr(1, packed))


def _own_address(address: str) -> bytes:
    packed = rules.packed(address)
    nodad = 2
    header = bytes([rules.family_of(address), len(packed) * 8, nodad, 0]) + wire.u32(1)  # lo is the first device
    body = header + wire.put_attr(1, packed) + wire.put_attr(2, packed)
    return wire.message(_RTM_NEWADDR, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
