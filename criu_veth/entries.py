"""Reads what a device may have any number of: addresses, routes, rules, neighbours, forwarding entries, and the like.

A container's root may have made a hundred thousand of each. The kernel's messages are looked at as they come, those
that do not count or are too many are dropped before they cost anything, and one is decoded when its turn has come.
Offsets are those of struct rtmsg, ndmsg and tcmsg, with the nlmsghdr before them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from criu_veth import netlink, rules, wire
from criu_veth.bounds import Kept, Room, Some
from criu_veth.netlink import INDEX_OFFSET, Message

_FAMILIES = (rules.AF_INET, rules.AF_INET6)
_PROTOCOL_OFFSET, _ROUTE_FLAGS_OFFSET = 21, 24
_STATE_OFFSET, _NEIGHBOUR_FLAGS_OFFSET, _NEIGHBOUR_ATTRS = 24, 26, 28
_RULE_ATTRS, _FRA_IIFNAME, _FRA_OIFNAME = 28, 3, 17
_NDA_LLADDR, _NDA_MASTER = 2, 9

Wanted = Callable[[bytes], bool]


class Entries:
    """Reads one network namespace through a socket on which filters count (`wire.Rtnl.strict`)."""

    def __init__(self, rtnl: wire.Rtnl) -> None:
        self._rtnl = rtnl
        self._ports: dict[int, dict[int, Some[Message]]] = {}
        self._rules: dict[str, list[bytes]] | None = None

    def addresses(self, index: int, room: Room) -> Some[Message]:
        """Return the addresses of one device, the first of each family, IPv4 first."""
        requests = [({"family": family, "index": index}, ()) for family in _FAMILIES]
        return self._some(netlink.ADDRESS, netlink.RTM_GETADDR, requests, room)

    def routes(self, index: int, room: Room) -> Some[Message]:
        """Return the routes through one device, in every table, those that the kernel made itself left out.

        Those to the largest networks are kept, the default routes first of all.
        """
        requests = [({"family": family}, [("RTA_OIF", index)]) for family in _FAMILIES]
        return self._some(netlink.ROUTE, netlink.RTM_GETROUTE, requests, room, _is_lasting_route, _prefix_length)

    def rules(self, names: Collection[str], ifname: str, room: Room) -> Some[Message]:
        """Return the policy routing rules that name a device; of those with these ``names`` all are read at once."""
        if self._rules is None:
            self._rules = self._rules_by_name(names, room.most)
        kept = self._rules.get(ifname, [])
        return Some(lambda data: Message(netlink.RULE, data), [data for data in kept[: room.left] if data], len(kept))

    def _rules_by_name(self, names: Collection[str], most: int) -> dict[str, list[bytes]]:
        wanted = {name.encode() + b"\0": name for name in names}
        found: dict[str, list[bytes]] = {}
        for family in _FAMILIES:
            begun: dict[str, list[bytes]] = {}

            def begin(begun: dict[str, list[bytes]] = begun) -> Callable[[bytes], None]:
                begun.clear()

                def take(data: bytes) -> None:
                    attrs = dict(wire.attrs(data, _RULE_ATTRS))
                    devices = {wanted.get(attrs.get(number, b"")) for number in (_FRA_IIFNAME, _FRA_OIFNAME)}
                    for name in devices - {None}:
                        listed = begun.setdefault(str(name), [])
                        # One too many tells that there are more; of a whole host's, no more are kept.
                        listed.append(data if len(listed) < most else b"")

                return take

            self._rtnl.select(netlink.asked(netlink.RULE, netlink.RTM_GETRULE, {"family": family}), begin)
            for name, listed in begun.items():
                found.setdefault(name, []).extend(listed)
        return {name: sorted(listed, key=lambda data: not data) for name, listed in found.items()}

    def neighbours(self, index: int, room: Room) -> Some[Message]:
        """Return the neighbours of one device that somebody has set, and its proxy entries."""
        device = wire.u32(index)

        def wanted(data: bytes) -> bool:
            set_by_hand = bool(wire.get_u16(data, _STATE_OFFSET) == netlink.NUD_PERMANENT)
            proxy = bool(data[_NEIGHBOUR_FLAGS_OFFSET] & netlink.NTF_PROXY)
            return (set_by_hand or proxy) and data[INDEX_OFFSET : INDEX_OFFSET + 4] == device

        requests = [
            ({"family": family, "flags": flags}, [("NDA_IFINDEX", index)])
            for family in _FAMILIES
            for flags in (0, netlink.NTF_PROXY)
        ]
        return self._some(netlink.NEIGHBOUR, netlink.RTM_GETNEIGH, requests, room, wanted)

    def fdb(self, bridge: int, port: int, ports: Mapping[int, bytes], room: Room) -> Some[Message]:
        """Return the forwarding entries of a bridge that lead to a port and were not learnt.

        Those of all of its ``ports`` that will be asked for, each with its own address, are read at once. The bridge
        has an entry of a port's own address for each of its VLANs; these do not count.
        """
        if bridge not in self._ports:
            self._ports[bridge] = self._fdb(bridge, ports, room.most)
        return self._ports[bridge].get(port, Some(_neighbour, [], 0)).first(room.left)

    def _fdb(self, bridge: int, ports: Mapping[int, bytes], most: int) -> dict[int, Some[Message]]:
        kept = {port: Kept(most) for port in ports}

        def begin() -> Callable[[bytes], None]:
            takes = {wire.u32(port): (one.begin(), ports[port]) for port, one in kept.items()}

            def take(data: bytes) -> None:
                keep, own = takes.get(data[INDEX_OFFSET : INDEX_OFFSET + 4], (None, b""))
                if keep is not None and _is_configured(data, own):
                    keep(data)

            return take

        request = ({"family": netlink.AF_BRIDGE}, [("NDA_MASTER", bridge)])
        self._rtnl.select(netlink.asked(netlink.NEIGHBOUR, netlink.RTM_GETNEIGH, *request), begin)
        return {port: Some(_neighbour, one.found(), one.total) for port, one in kept.items()}

    def qdiscs(self, index: int, room: Room) -> Some[Message]:
        """Return the queueing disciplines of one device; the kernel tells those of every device."""
        wanted = wire.u32(index)

        def of_device(data: bytes) -> bool:
            return data[INDEX_OFFSET : INDEX_OFFSET + 4] == wanted

        return self._some(netlink.TRAFFIC, netlink.RTM_GETQDISC, [({"index": index}, ())], room, of_device)

    def classes(self, index: int, room: Room) -> Some[Message]:
        """Return the traffic classes of one device."""
        return self._some(netlink.TRAFFIC, netlink.RTM_GETTCLASS, [({"index": index}, ())], room)

    def filters(self, index: int, parent: int, room: Room) -> Some[Message]:
        """Return the traffic filters of one qdisc or class."""
        fields = {"index": index, "parent": parent}
        return self._some(netlink.TRAFFIC, netlink.RTM_GETTFILTER, [(fields, ())], room)

    def _some(
        self,
        kind: type,
        number: int,
        requests: Iterable[tuple[dict[str, Any], Iterable[tuple[str, Any]]]],
        room: Room,
        wanted: Wanted | None = None,
        rank: Callable[[bytes], int] | None = None,
    ) -> Some[Message]:
        """Return what several dumps tell, so many of each."""
        found: list[bytes] = []
        total = 0
        for fields, attrs in requests:
            kept = Kept(min(room.most, room.left - len(found)), wanted, rank)
            self._rtnl.select(netlink.asked(kind, number, fields, attrs), kept.begin)
            found += kept.found()
            total += kept.total
        return Some(lambda data: Message(kind, data), found, total)


def _is_configured(data: bytes, own: bytes) -> bool:
    """Say whether a forwarding entry is the bridge's, was not learnt, and is not of the port's ``own`` address."""
    if wire.get_u16(data, _STATE_OFFSET) not in (netlink.NUD_PERMANENT, netlink.NUD_NOARP):
        return False
    attrs = dict(wire.attrs(data, _NEIGHBOUR_ATTRS))
    return _NDA_MASTER in attrs and attrs.get(_NDA_LLADDR) != own


def _neighbour(data: bytes) -> Message:
    return Message(netlink.NEIGHBOUR, data)


def _is_lasting_route(data: bytes) -> bool:
    cloned = wire.get_u32(data, _ROUTE_FLAGS_OFFSET) & netlink.RTM_F_CLONED
    return data[_PROTOCOL_OFFSET] != netlink.RTPROT_KERNEL and not cloned


def _prefix_length(data: bytes) -> int:
    return data[netlink.ROUTE_LENGTH_OFFSET]
