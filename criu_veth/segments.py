"""Whether an address that a state file claims for a container is somebody's on a segment of this host.

A routed container's gateway is an address of its outer end, often the same one on every host. A bridged container's is
the router's, and with that this host would answer for the router: the kernel answers ARP for any address that it has on
any device. So what this host would reach directly through another device is not put back; nor is an address whose
subnet is on another device.

A routed container's own addresses are led to it. One of a segment that this host has may be the container's all the
same (proxy ARP), but not if a neighbour with another MAC address has it there.
"""

import _socket
from collections.abc import Iterable

from msgspec.structs import replace

from criu_veth import rules, wire
from criu_veth.addresses import Networks, network_of
from criu_veth.state import Refused, Route, Veth

_RTM_GETROUTE, _RTM_GETNEIGH = 26, 30
_ROUTE_ATTRS = _NEIGHBOUR_ATTRS = 28  # nlmsghdr, and rtmsg or ndmsg
_RTM_TYPE = 23  # rtmsg.rtm_type
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_VIA = 1, 4, 5, 18
_NDA_DST, _NDA_LLADDR = 1, 2
_NDM_STATE = 24
_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT: somebody has answered

WHY = "this host has that segment on another device"
NEIGHBOUR = "this host has a neighbour with that address"


def limit(veths: tuple[Veth, ...]) -> tuple[Veth, ...]:
    """Leave out the claimed addresses, and the routes to addresses, that are somebody's here.

    Raises OSError.
    """
    if not any(veth.claimed or veth.led for veth in veths):
        return veths
    rtnl = wire.Rtnl()
    try:
        return tuple(_unled(_without(veth, _taken(veth, rtnl)), rtnl) for veth in veths)
    finally:
        rtnl.close()


def _unled(veth: Veth, rtnl: wire.Rtnl) -> Veth:
    """Leave out the routes to addresses that a neighbour has."""
    taken = _neighbours(veth, rtnl) if veth.led else frozenset()
    if not taken:
        return veth
    routes = tuple(route for route in veth.outer.routes if route.dst not in taken)
    refused = Refused(kind="routes", things=tuple(f"to {dst}" for dst in sorted(taken)), why=NEIGHBOUR)
    return replace(veth, outer=replace(veth.outer, routes=routes), refused=(*veth.refused, refused))


def _neighbours(veth: Veth, rtnl: wire.Rtnl) -> frozenset[str]:
    """Return those destinations that a neighbour on another device has, with another MAC address than the container."""
    packed = [rules.packed(rules.parse_interface(dst)[0]) for dst in veth.led]
    replies = rtnl.request([_get_route(one) for one in packed])
    asked = [
        (dst, _get_neighbour(one, _device(bytes(reply.messages[0]))))
        for dst, one, reply in zip(veth.led, packed, replies, strict=True)
        if reply.messages and _is_elsewhere(bytes(reply.messages[0]), veth.outer.ifname, is_own=True)
    ]
    own = bytes.fromhex(((veth.netns and veth.netns.mac) or "").replace(":", ""))
    found = zip(asked, rtnl.request([message for _, message in asked]), strict=True)
    return frozenset(
        dst for (dst, _), reply in found if reply.messages and _mac(bytes(reply.messages[0])) not in (None, own)
    )


def _get_neighbour(packed: bytes, device: int) -> bytes:
    """RTM_GETNEIGH of one entry (Linux 5.0)."""
    body = bytes([_family(packed), 0, 0, 0]) + wire.u32(device) + bytes(4) + wire.put_attr(_NDA_DST, packed)
    return wire.message(_RTM_GETNEIGH, 0, body)


def _mac(neighbour: bytes) -> bytes | None:
    """Return the MAC address of a neighbour that has answered."""
    known = wire.get_u16(neighbour, _NDM_STATE) & _KNOWN
    return wire.find_attr(neighbour, _NEIGHBOUR_ATTRS, (_NDA_LLADDR,)) if known else None


def _without(veth: Veth, taken: frozenset[str]) -> Veth:
    if not taken:
        return veth
    sources, subnets = {text.partition("/")[0] for text in taken}, Networks.of(taken)
    outer = veth.outer
    gone = [route for route in outer.routes if _hangs_on(route, subnets)]
    left = [route for route in outer.routes if not _hangs_on(route, subnets)]
    things = (*sorted(taken), *(f"the route to {route.dst}" for route in gone))
    return replace(
        veth,
        outer=replace(
            outer,
            addresses=tuple(one for one in outer.addresses if one.address not in taken),
            routes=tuple(replace(one, src="") if one.src in sources else one for one in left),
        ),
        refused=(*veth.refused, Refused(kind="addresses", things=things, why=WHY)),
    )


def _hangs_on(route: Route, subnets: Networks) -> bool:
    """Say whether a route needs one of these subnets, or is to a part of one that is more than one address."""
    if route.via and subnets.have_address(rules.packed(route.via)):
        return True
    if route.dst == "default":
        return False
    text, length = rules.parse_interface(route.dst)
    packed = rules.packed(text)
    return length < 8 * len(packed) and subnets.have(packed, length)


def _taken(veth: Veth, rtnl: wire.Rtnl) -> frozenset[str]:
    """Return those claimed addresses, with prefix lengths, that are on another device's segment."""
    asked = [(text, packed, is_own) for text in veth.claimed for packed, is_own in _questions(text)]
    replies = rtnl.request([_get_route(packed) for _, packed, _ in asked])
    return frozenset(
        text
        for (text, _, is_own), reply in zip(asked, replies, strict=True)
        if reply.messages and _is_elsewhere(bytes(reply.messages[0]), veth.outer.ifname, is_own=is_own)
    )


def _questions(text: str) -> Iterable[tuple[bytes, bool]]:
    """Return the addresses to ask for, and whether each is the claimed one: that, and another one of its subnet."""
    address, length = rules.parse_interface(text)
    packed = rules.packed(address)
    if length == 8 * len(packed):
        return [(packed, True)]
    first = int.from_bytes(network_of(packed, length)[0], "big")
    others = ((first + number).to_bytes(len(packed), "big") for number in (1, 2))
    return [(packed, True), (next(other for other in others if other != packed), False)]


def _get_route(packed: bytes) -> bytes:
    """RTM_GETROUTE: how this host would send to an address."""
    body = bytes([_family(packed), 8 * len(packed), *bytes(10)])
    return wire.message(_RTM_GETROUTE, 0, body + wire.put_attr(_RTA_DST, packed))


def _family(packed: bytes) -> int:
    return rules.AF_INET if len(packed) == 4 else rules.AF_INET6


def _device(route: bytes) -> int:
    return wire.get_u32(wire.find_attr(route, _ROUTE_ATTRS, (_RTA_OIF,)) or bytes(4), 0)


def _is_elsewhere(route: bytes, ifname: str, *, is_own: bool) -> bool:
    """Say whether a route leads to another device than ``ifname`` without a gateway.

    The claimed address may be this host's already: a gateway that all its containers share.
    """
    if route[_RTM_TYPE] == _RTN_LOCAL:
        return not is_own
    if route[_RTM_TYPE] != _RTN_UNICAST:
        return False
    if any(wire.find_attr(route, _ROUTE_ATTRS, (kind,)) for kind in (_RTA_GATEWAY, _RTA_VIA)):
        return False
    try:
        return _socket.if_indextoname(_device(route)) != ifname
    except OSError:
        return False  # it has gone away
