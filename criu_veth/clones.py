"""Finds the living container on this host that a restored one would be the double of: same MAC address, same bridge.

Only what is certain counts: a port that is a veth, whose other end, in a namespace that lives, has the MAC address. A
container that is migrated here has been behind the port to its old host just before, and that port is none.

The hook's cheap path imports this module, so it imports only what speaks netlink.
"""

from criu_veth import wire

_RTM_GETLINK, _RTM_GETNEIGH = 18, 30
_AF_BRIDGE, _AF_INET, _AF_INET6 = 7, 2, 10
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _INFO_KIND = 1, 3, 5, 18, 1
_IFLA_EXT_MASK, _IFLA_LINK_NETNSID, _IFLA_TARGET_NETNSID = 29, 37, 46
_SKIP_STATS = wire.put_attr(_IFLA_EXT_MASK, wire.u32(8))
_LINK_ATTRS, _NEIGHBOUR_ATTRS, _AT_INDEX = 32, 28, 20


def double(rtnl: wire.Rtnl, link: bytes, mac: bytes, addresses: "tuple[bytes, ...]" = ()) -> "tuple[str, bytes] | None":
    """Return (name of the port, MAC address behind it) of the living container with ``mac`` or one of ``addresses``.

    ``link`` is the RTM_NEWLINK of the bridge, or of one veth that may lead to such a container.
    """
    if wire.find_attr(link, _LINK_ATTRS, (_IFLA_LINKINFO, _INFO_KIND)) != b"bridge\0":
        return _behind(rtnl, link, mac)
    bridge = link[_AT_INDEX : _AT_INDEX + 4]
    macs = [mac]
    for reply in rtnl.request([_neighbour(bridge, address) for address in addresses]):
        found = wire.find_attr(reply.messages[0], _NEIGHBOUR_ATTRS, (_NDA_LLADDR,)) if reply.messages else None
        macs += [found] if found and found not in macs else []
    for reply, one in zip(rtnl.request([_forwarding_entry(bridge, one) for one in macs]), macs, strict=True):
        if reply.errno or not reply.messages:
            continue
        (port,) = rtnl.request([_get_link(reply.messages[0][_AT_INDEX : _AT_INDEX + 4])])
        found_there = _behind(rtnl, port.messages[0], one) if port.messages else None
        if found_there is not None:
            return found_there
    return None


def _behind(rtnl: wire.Rtnl, link: bytes, mac: bytes) -> "tuple[str, bytes] | None":
    """Return the name of a veth and ``mac``, if the veth's other end, in another namespace, has it."""
    if wire.find_attr(link, _LINK_ATTRS, (_IFLA_LINKINFO, _INFO_KIND)) != b"veth\0":
        return None
    peer = wire.find_attr(link, _LINK_ATTRS, (_IFLA_LINK,))
    nsid = wire.find_attr(link, _LINK_ATTRS, (_IFLA_LINK_NETNSID,))
    if peer is None or nsid is None:
        return None
    (reply,) = rtnl.request([_get_link(peer, wire.put_attr(_IFLA_TARGET_NETNSID, nsid))])
    if not reply.messages or wire.find_attr(reply.messages[0], _LINK_ATTRS, (_IFLA_ADDRESS,)) != mac:
        return None
    name = wire.find_attr(link, _LINK_ATTRS, (_IFLA_IFNAME,)) or b""
    return name.rstrip(b"\0").decode("utf-8", "surrogateescape"), mac


def _get_link(index: bytes, attrs: bytes = b"") -> bytes:
    return wire.message(_RTM_GETLINK, 0, bytes(4) + index + bytes(8) + _SKIP_STATS + attrs)


def _forwarding_entry(bridge: bytes, mac: bytes) -> bytes:
    """RTM_GETNEIGH of one entry of a bridge's forwarding database (``rtnl_fdb_get()``, net/core/rtnetlink.c)."""
    attrs = wire.put_attr(_NDA_LLADDR, mac) + wire.put_attr(_NDA_MASTER, bridge)
    return wire.message(_RTM_GETNEIGH, 0, bytes([_AF_BRIDGE]) + bytes(11) + attrs)


def _neighbour(device: bytes, address: bytes) -> bytes:
    """RTM_GETNEIGH of one neighbour of a device (``neigh_get()``, net/core/neighbour.c)."""
    family = _AF_INET if len(address) == 4 else _AF_INET6
    body = bytes([family, 0, 0, 0]) + device + bytes(4)
    return wire.message(_RTM_GETNEIGH, 0, body + wire.put_attr(_NDA_DST, address))
