"""What CRIU dumps without a word, and then cannot restore. Pure: facts from the kernel or from images come in.

CRIU brings routes back with ``ip route restore``, address family by address family and only those of the main table;
the kernel refuses some of what it has itself reported, and the whole restore fails. Of devices it makes those kinds
that it knows, and a macvlan only on a parent that it is told. All of this was tried with CRIU 4.2.1. None of it
matters where the network namespace is made empty: the hook then makes the veths with their routes, and nothing else.
"""

import _socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from criu_veth import rules, wire
from criu_veth.way import Way

_RTM_NEWROUTE, _RTM_NEWADDR = 24, 20
_RTM_F_CLONED = 0x200
_RT_TABLE_MAIN = 254
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE, _RTA_NH_ID = 1, 4, 7, 9, 15, 30
_ROUTE_ATTRS, _ROUTE_FLAGS, _ADDRESS_ATTRS = 28, 24, 24
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
#: RTNH_F_DEAD and RTNH_F_LINKDOWN: reported by the kernel, refused by it (``fib_create_info()``,
#: net/ipv4/fib_semantics.c).
_WITHOUT_CARRIER = 0x01 | 0x10

EMPTY_REMEDY = "restore it with --empty-ns net, where the hook makes the veths and their routes"
_OR_EMPTY = f"before the dump, or {EMPTY_REMEDY}"
_WITHOUT_IT = "restore it with --empty-ns net, where the hook makes the veths, without that route"
#: Destinations that are named of those with the same fault.
_NAMED = 3


class Device(NamedTuple):
    """What is known of one device: ``inside`` is whether what it lies on is in the container too; None: not known."""

    name: str
    kind: str
    inside: bool | None = None


class Facts(NamedTuple):
    """One network namespace: devices by ifindex, and messages of its routes and addresses as the kernel dumps them."""

    devices: Mapping[int, Device]
    routes: Iterable[bytes] = ()
    addresses: Iterable[bytes] = ()


def matters(way: Way) -> bool:
    """Say whether CRIU itself brings the network namespace back, or may do so, where it comes back by ``way``."""
    return way.devices and not way.empty and not way.adopt


def judge(facts: Facts, macvlans: Collection[str] = ()) -> tuple[str, ...]:
    """Return what of ``facts`` CRIU cannot restore: each the thing, the reason and the remedy.

    ``macvlans`` are those whose parent criu was told.
    """
    found = [_macvlan(device) for device in facts.devices.values() if _is_lost(device, macvlans)]
    unready = set(_checked_for_duplicates(facts))
    routes: dict[tuple[str, str], dict[str, None]] = {}  # by device and reason
    for message in facts.routes:
        if wire.get_u16(message, 4) == _RTM_NEWROUTE and len(message) >= _ROUTE_ATTRS:
            for device, to, why in _route(message, facts.devices, unready):
                routes.setdefault((device, why), {})[to] = None
    return (
        *found,
        *(f"{device}: CRIU cannot restore its {_routes(list(to))}: {why}" for (device, why), to in routes.items()),
    )


def may_matter(message: bytes) -> bool:
    """Say whether a route's message is one that `judge` may have something to say of; of most it has not."""
    if wire.get_u32(message, _ROUTE_FLAGS) & _WITHOUT_CARRIER:
        return True
    return any(number in (_RTA_PREFSRC, _RTA_MULTIPATH, _RTA_NH_ID) for number, _ in wire.attrs(message, _ROUTE_ATTRS))


def _routes(destinations: list[str]) -> str:
    if len(destinations) == 1:
        return f"route to {destinations[0]}"
    more = f" and {len(destinations) - _NAMED} more" if len(destinations) > _NAMED else ""
    return f"routes to {', '.join(destinations[:_NAMED])}{more}"


def _is_lost(device: Device, macvlans: Collection[str]) -> bool:
    return device.kind == "macvlan" and (device.inside or (device.inside is None and device.name not in macvlans))


def _macvlan(device: Device) -> str:
    """Say why (``restore_one_macvlan()``, criu/net.c: it wants a parent, and looks for it in its own namespace)."""
    option = f"--external 'macvlan[{device.name}]:PARENT'"
    if device.inside:
        return (
            f"{device.name}: CRIU cannot restore this macvlan, whose parent is in the container: it makes one only on a"
            f" parent outside; delete it before the dump, or {EMPTY_REMEDY}, without the macvlan"
        )
    return (
        f"{device.name}: CRIU restores this macvlan only with {option} and a parent outside the container; if its"
        f" parent was inside, {EMPTY_REMEDY}, without the macvlan"
    )


def _route(message: bytes, devices: Mapping[int, Device], unready: set[bytes]) -> Iterator[tuple[str, str, str]]:
    """Yield the device, the destination, and why CRIU cannot restore this route, if it cannot."""
    attrs = dict(wire.attrs(message, _ROUTE_ATTRS))
    table = wire.get_u32(attrs[_RTA_TABLE], 0) if _RTA_TABLE in attrs else message[20]
    flags = wire.get_u32(message, _ROUTE_FLAGS)
    if table != _RT_TABLE_MAIN or flags & _RTM_F_CLONED:
        return
    family = message[16]
    hops = [(flags, wire.get_u32(attrs[_RTA_OIF], 0))] if _RTA_OIF in attrs else []
    hops += _hops(attrs.get(_RTA_MULTIPATH, b""))
    name = next((devices[index].name for _, index in hops if index in devices), "lo")
    to = _destination(attrs.get(_RTA_DST), family, message[17])
    dark = [index for hop_flags, index in hops if hop_flags & _WITHOUT_CARRIER and family == rules.AF_INET]
    if _RTA_NH_ID in attrs:
        yield (
            name,
            to,
            f"it goes by a nexthop object, and CRIU saves none; write it without one before the dump, or {_WITHOUT_IT}",
        )
    elif dark:
        device = devices[dark[0]].name if dark[0] in devices else name
        yield device, to, f"the device has no carrier; set its other end up or delete the route, {_OR_EMPTY}"
    elif family == rules.AF_INET6 and attrs.get(_RTA_PREFSRC) in unready:
        source = _socket.inet_ntop(family, attrs[_RTA_PREFSRC])
        yield (
            name,
            to,
            f"unless accept_dad is 0, the preferred source {source} is not usable yet when CRIU adds the route; give"
            f" that address nodad (ip address change {source}/LENGTH dev {name} nodad), {_OR_EMPTY}",
        )


def _hops(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (flags, ifindex) of each next hop: struct rtnexthop is length, flags, weight and ifindex."""
    offset = 0
    while offset + 8 <= len(data):
        length = wire.get_u16(data, offset)
        if length < 8:
            return
        yield data[offset + 2], wire.get_u32(data, offset + 4)
        offset += (length + 3) & ~3


def _destination(packed: bytes | None, family: int, length: int) -> str:
    if packed is None or len(packed) != {rules.AF_INET: 4, rules.AF_INET6: 16}.get(family):
        return "default"
    return f"{_socket.inet_ntop(family, packed)}/{length}"


def _checked_for_duplicates(facts: Facts) -> Iterator[bytes]:
    """Yield the IPv6 addresses that are tentative after CRIU has added them: not those of lo, nor those with nodad."""
    for message in facts.addresses:
        attrs = dict(wire.attrs(message, _ADDRESS_ATTRS))
        flags = wire.get_u32(attrs[_IFA_FLAGS], 0) if _IFA_FLAGS in attrs else message[18]
        device = facts.devices.get(wire.get_u32(message, 20))
        if message[16] == rules.AF_INET6 and not flags & _IFA_F_NODAD and not (device and device.name == "lo"):
            yield from [attrs[number] for number in (_IFA_LOCAL, _IFA_ADDRESS) if number in attrs][:1]
