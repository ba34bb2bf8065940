"""The one place that names pyroute2: encodes the messages of a program, and reads what the kernel says.

pyroute2's package imports all of its parts when it is imported, 130 ms; the message classes alone take 25. They are
loaded here without running ``pyroute2/__init__.py``, and the bare package is taken away again, so that a program that
imports this module and pyroute2 gets the whole pyroute2.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, NamedTuple

from criu_veth import clones, holders, rules, wire
from criu_veth.errors import errno_text
from criu_veth.state import Address, FdbEntry, Filter, Inner, Neighbour, Qdisc, Route, Rule, TcClass, Vlan


@contextmanager
def _without_its_init(name: str) -> Iterator[None]:
    """Have ``import name.part`` not run ``name/__init__.py``, unless that has been run already."""
    if name in sys.modules:
        yield
        return
    spec = PathFinder.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]


with _without_its_init("pyroute2"):
    from pyroute2.netlink import genlmsg, nlmsg
    from pyroute2.netlink.rtnl.fibmsg import fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 40, 41, 42
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
RTM_NEWLINKPROP, RTM_DELLINKPROP = 108, 109
RTM_GETVLAN = 114
RTM_GETNSID = 90
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
IFF_UP, IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x80, 0x100, 0x200
RTPROT_KERNEL = 2
NTF_MASTER, NTF_PROXY, NTF_EXT_LEARNED, NTF_STICKY, NTF_ROUTER = 0x04, 0x08, 0x10, 0x40, 0x80
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
ETHTOOL_MSG_FEATURES_GET, ETHTOOL_MSG_FEATURES_SET = 11, 12
GENERIC_ATTRS = 20
FEATURES_INDEX_OFFSET = 28
#: What can be switched on a veth and is off on a new one.
NEW_FEATURES_OFF = {"rx-gro", "rx-gro-list", "rx-udp-gro-forwarding", "tx-nocache-copy"}
TC_H_ROOT, TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
RTM_F_CLONED = 0x200
AF_BRIDGE = 7
RTEXT_FILTER_SKIP_STATS = 8

#: Where struct ifinfomsg, ifaddrmsg, ndmsg and tcmsg keep the interface's index; the nlmsghdr is counted.
INDEX_OFFSET = 20
LINK_ATTRS = 32
_LINK_FLAGS_OFFSET = 24  # ifi_flags
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO = 1, 3, 4, 5, 10, 12
IFLA_TXQLEN, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_GROUP, IFLA_LINK_NETNSID = 13, 18, 20, 27, 37
IFLA_PROP_LIST, IFLA_ALT_IFNAME = 52, 53
INFO_KIND, INFO_DATA, INFO_SLAVE_DATA = (IFLA_LINKINFO, 1), (IFLA_LINKINFO, 2), (IFLA_LINKINFO, 5)
BR_FORWARD_DELAY, BR_STP_STATE, BR_VLAN_FILTERING = (*INFO_DATA, 1), (*INFO_DATA, 5), (*INFO_DATA, 7)
_IFLA_AF_SPEC, _IFLA_BRIDGE_VLAN_INFO = 26, 2
VLAN_PVID, VLAN_UNTAGGED, _VLAN_RANGE_BEGIN, _VLAN_RANGE_END = 0x2, 0x4, 0x8, 0x10
_VLANDB_ATTRS = 24  # behind struct br_vlan_msg
_VLANDB_ENTRY, _VLANDB_GLOBAL_OPTIONS = 1, 2
_VLANDB_DUMP_FLAGS, _VLANDB_DUMPF_STATS, _VLANDB_DUMPF_GLOBAL = 1, 1, 2
_ENTRY_INFO, _ENTRY_STATE, _ENTRY_TUNNEL = 1, 3, 4
_ENTRY_USUAL = {6: b"\x01", 8: bytes(4), 9: b"\0"}  # multicast router, most groups, neighbour suppression
_STATE_FORWARDING = b"\x03"
_GOPTS_ID, _GOPTS_RANGE, _GOPTS_MSTI = 1, 2, 18
_BR_MULTI_BOOLOPT, _BOOLOPT_MST_ENABLE = (*INFO_DATA, 46), 1 << 2  # struct br_boolopt_multi
SLAVE_KIND_BRIDGE = wire.put_attr(4, b"bridge\0")
NETNSA_NSID, NETNSA_PID, NETNSA_FD = 1, 2, 3
NSID_ATTRS = 20
ROUTE_ATTRS = 28
ADDRESS_ATTRS, ADDRESS_FLAGS_OFFSET = 24, 18
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x02, 0x08, 0x40
RTA_PREFSRC, RTA_MULTIPATH, RTA_ENCAP_TYPE, RTA_NH_ID = 7, 9, 21, 30
ROUTE_LENGTH_OFFSET = 17  # rtm_dst_len
RTA_OIF, RTA_PRIORITY, RTA_TABLE, RTA_EXPIRES = 4, 6, 15, 23
_RTNH_F_ONLINK = 4
_RTM_F_FIB_MATCH = 0x2000
_IP6_RT_PRIO_USER = 1024

#: VETH_INFO_PEER and IFLA_NETKIT_PEER_INFO.
_PEER_INFO = 1
_IFLA_NET_NS_PID = 19
#: By kind of device: the attribute with the mode, its size in bytes, and the modes (``linux/if_link.h``).
_MODES = {
    "macvlan": (1, 4, {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}),
    "ipvlan": (1, 2, {"l2": 0, "l3": 1, "l3s": 2}),
    "netkit": (5, 4, {"l2": 0, "l3": 1}),
}

#: `SetLink` attribute to (netlink attribute, pyroute2's name).
LINK_SETTINGS = {
    "mac": (IFLA_ADDRESS, "IFLA_ADDRESS"),
    "mtu": (IFLA_MTU, "IFLA_MTU"),
    "txqueuelen": (IFLA_TXQLEN, "IFLA_TXQLEN"),
    "alias": (IFLA_IFALIAS, "IFLA_IFALIAS"),
    "group": (IFLA_GROUP, "IFLA_GROUP"),
    "gso_max_size": (41, "IFLA_GSO_MAX_SIZE"),
    "gso_max_segs": (40, "IFLA_GSO_MAX_SEGS"),
    "gro_max_size": (58, "IFLA_GRO_MAX_SIZE"),
}

#: Names of IFA_F_* that an address can be added with.
ADDRESS_FLAGS = {
    "nodad": 0x02,
    "optimistic": 0x04,
    "home": 0x10,
    "mngtmpaddr": 0x100,
    "noprefixroute": 0x200,
    "autojoin": 0x400,
}
_FOREVER = 0xFFFFFFFF

#: Bridge port flag (``bridge link set``'s name) to (IFLA_BRPORT_* number, its name in pyroute2).
PORT_FLAGS = {
    "priority": (2, "IFLA_BRPORT_PRIORITY"),
    "cost": (3, "IFLA_BRPORT_COST"),
    "hairpin": (4, "IFLA_BRPORT_MODE"),
    "guard": (5, "IFLA_BRPORT_GUARD"),
    "root_block": (6, "IFLA_BRPORT_PROTECT"),
    "fastleave": (7, "IFLA_BRPORT_FAST_LEAVE"),
    "learning": (8, "IFLA_BRPORT_LEARNING"),
    "flood": (9, "IFLA_BRPORT_UNICAST_FLOOD"),
    "proxy_arp": (10, "IFLA_BRPORT_PROXYARP"),
    "proxy_arp_wifi": (12, "IFLA_BRPORT_PROXYARP_WIFI"),
    "mcast_router": (25, "IFLA_BRPORT_MULTICAST_ROUTER"),
    "mcast_flood": (27, "IFLA_BRPORT_MCAST_FLOOD"),
    "mcast_to_unicast": (28, "IFLA_BRPORT_MCAST_TO_UCAST"),
    "vlan_tunnel": (29, "IFLA_BRPORT_VLAN_TUNNEL"),
    "bcast_flood": (30, "IFLA_BRPORT_BCAST_FLOOD"),
    "group_fwd_mask": (31, "IFLA_BRPORT_GROUP_FWD_MASK"),
    "neigh_suppress": (32, "IFLA_BRPORT_NEIGH_SUPPRESS"),
    "isolated": (33, "IFLA_BRPORT_ISOLATED"),
    "locked": (39, "IFLA_BRPORT_LOCKED"),
    "mab": (40, "IFLA_BRPORT_MAB"),
    "mcast_max_groups": (42, "IFLA_BRPORT_MCAST_MAX_GROUPS"),
    "neigh_vlan_suppress": (43, "IFLA_BRPORT_NEIGH_VLAN_SUPPRESS"),
}


#: The first Linux with a port flag, if some that are in use are older: those ignore what they do not know.
PORT_FLAGS_SINCE = {"locked": (5, 18), "mab": (6, 2), "mcast_max_groups": (6, 3), "neigh_vlan_suppress": (6, 4)}


def _encode(message: Any, kind: int, flags: int, fields: dict[str, Any], attrs: Iterable[tuple[str, Any]]) -> bytes:
    message.update(fields)
    message["attrs"] = list(attrs)
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message.encode()
    return bytes(message.data)


def _link(kind: int, attrs: Iterable[tuple[str, Any]], flags: int = 0) -> bytes:
    return _encode(ifinfmsg(), kind, flags, {}, attrs)


def set_link(*attrs: tuple[str, Any]) -> bytes:
    """RTM_SETLINK of the device whose index is filled in at INDEX_OFFSET."""
    return _link(RTM_SETLINK, attrs)


def set_alias(alias: str) -> bytes:
    """RTM_SETLINK of the alias, without the NUL that pyroute2 adds: with it the kernel takes 254 bytes, not 255."""
    return _appended(set_link(), wire.put_attr(IFLA_IFALIAS, alias.encode() or b"\0"))


def set_flags(flags: int, mask: int) -> bytes:
    """RTM_SETLINK that changes the ``mask`` bits of the device's flags (IFF_*) to ``flags``."""
    return _encode(ifinfmsg(), RTM_SETLINK, 0, {"flags": flags, "change": mask}, ())


def renames_what_is_up() -> bool:
    """Whether this kernel lets a device that is up be renamed: Linux 6.2 does, before it was EBUSY."""
    return _linux(os.uname().release) >= (6, 2)


def renews_added_routes(release: str = "") -> bool:
    """Whether a router's advertisement renews a route with a lifetime that somebody else than the kernel has added.

    It is the kernel of that ``release``, this one by default. Linux 6.9 does. Before, it tries to add its own, without
    a lifetime yet, finds this one, and lets it expire at once; a route that lasts for ever it leaves alone.
    """
    return _linux(release or os.uname().release) >= (6, 9)


def unknown_port_flags(names: Iterable[str]) -> list[tuple[str, str]]:
    """Those of these port flags that this kernel is too old for, each with the first Linux that has it, like "6.2".

    That is told from the kernel's version: one to which its distributor has ported the flag back knows it all the same.
    """
    linux = _linux(os.uname().release)
    first = {name: PORT_FLAGS_SINCE[name] for name in names if name in PORT_FLAGS_SINCE}
    return [(name, f"{since[0]}.{since[1]}") for name, since in first.items() if linux < since]


def _linux(release: str) -> tuple[int, int]:
    major, minor = release.replace("-", ".").split(".")[:2]
    return int(major), int(minor)


def change_link() -> bytes:
    """RTM_NEWLINK that changes an existing device; attributes are appended."""
    return _link(RTM_NEWLINK, ())


def change_port(flag: str, value: int) -> bytes:
    """RTM_NEWLINK that changes one flag of a bridge port."""
    return _link(RTM_NEWLINK, [_slave_data([(PORT_FLAGS[flag][1], value)])])


def change_backup_port() -> bytes:
    """RTM_NEWLINK that names a bridge port's backup; its index is the message's last four bytes."""
    return _link(RTM_NEWLINK, [_slave_data([("IFLA_BRPORT_BACKUP_PORT", 0)])])


def add_vlans(vlan: Vlan) -> bytes:
    """RTM_SETLINK that adds VLANs to the bridge port whose index is filled in at INDEX_OFFSET."""
    untagged, tagged = rules.parse_vlans(vlan.untagged), rules.parse_vlans(vlan.tagged)
    infos = b""
    for ids, flags in ((tagged, 0), (untagged, VLAN_UNTAGGED)):
        infos += b"".join(_vlan_range(run, flags) for run in rules.vlan_ranges(ids - {vlan.pvid}))
    if vlan.pvid is not None:  # it may not be in a range
        infos += _vlan_info(vlan.pvid, VLAN_PVID | (VLAN_UNTAGGED if vlan.pvid in untagged else 0))
    return _change_vlans(RTM_SETLINK, infos)


def drop_other_vlans(vlan: Vlan) -> bytes:
    """RTM_DELLINK that takes the bridge port whose index is filled in at INDEX_OFFSET out of all VLANs but these."""
    wanted = rules.parse_vlans((*vlan.untagged, *vlan.tagged))
    others = (one for one in range(rules.VLAN_MIN, rules.VLAN_MAX + 1) if one not in wanted)
    return _change_vlans(RTM_DELLINK, b"".join(_vlan_range(run, 0) for run in rules.vlan_ranges(others)))


def _change_vlans(kind: int, infos: bytes) -> bytes:
    body = bytes([AF_BRIDGE]) + bytes(15) + wire.put_attr(_IFLA_AF_SPEC | wire.NLA_F_NESTED, infos)
    return wire.message(kind, 0, body)


def _vlan_range(run: tuple[int, int], flags: int) -> bytes:
    first, last = run
    if first == last:
        return _vlan_info(first, flags)
    return _vlan_info(first, flags | _VLAN_RANGE_BEGIN) + _vlan_info(last, flags | _VLAN_RANGE_END)


def _vlan_info(vlan: int, flags: int) -> bytes:
    """IFLA_BRIDGE_VLAN_INFO with a struct bridge_vlan_info."""
    return wire.put_attr(_IFLA_BRIDGE_VLAN_INFO, flags.to_bytes(2, wire.ORDER) + vlan.to_bytes(2, wire.ORDER))


def _slave_data(attrs: list[tuple[str, Any]]) -> tuple[str, Any]:
    info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", {"attrs": attrs})]
    return ("IFLA_LINKINFO", {"attrs": info})


def make_pair(outer: str, inner: Inner, inner_name: str, kind: str, kind_mode: str, *, mark: bool) -> bytes:
    """RTM_NEWLINK of a pair, both ends down: ``outer`` here, the other one as ``inner`` says under ``inner_name``.

    With ``mark`` both ends are here and in the group MARK_GROUP; without, the inner end is made in the network
    namespace of the process whose pid is filled in as the message's last four bytes, with its ifindex.
    """
    peer = _new_link_attrs(inner, inner_name, mark=mark)
    attrs: list[tuple[str, Any]] = [("IFLA_IFNAME", outer)]
    fields = {}
    if mark:
        attrs.append(("IFLA_GROUP", wire.MARK_GROUP))
    else:
        peer.append(("IFLA_NET_NS_PID", 0))
        fields["index"] = inner.ifindex or 0
    info = wire.put_attr(_PEER_INFO, _encode(ifinfmsg(), 0, 0, fields, peer)[wire.HEADER :])
    data = _mode(kind, kind_mode) + info
    return _appended(_link(RTM_NEWLINK, attrs, NLM_F_CREATE | NLM_F_EXCL), _link_info(kind, data))


def make_device(name: str, inner: Inner, kind: str, kind_mode: str, *, inside: bool) -> bytes:
    """RTM_NEWLINK of a device on top of another one, whose index is filled in as the message's last four bytes.

    With ``inside`` it is made in the network namespace of a process: its pid goes where the last twelve bytes begin.
    """
    fields = {"index": inner.ifindex or 0} if inside else {}
    attrs = _new_link_attrs(inner, name, mark=not inside)
    message = _encode(ifinfmsg(), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, fields, attrs)
    above = wire.put_attr(_IFLA_NET_NS_PID, bytes(4)) if inside else b""
    above += wire.put_attr(IFLA_LINK, bytes(4))
    return _appended(message, _link_info(kind, _mode(kind, kind_mode)) + above)


def _appended(message: bytes, attrs: bytes) -> bytes:
    """Return a message with more attributes at its end, and the length that it has with them."""
    return wire.u32(len(message) + len(attrs)) + message[4:] + attrs


def _link_info(kind: str, data: bytes) -> bytes:
    """IFLA_LINKINFO of a new device."""
    return wire.put_attr(IFLA_LINKINFO, wire.put_attr(1, kind.encode() + b"\0") + wire.put_attr(2, data))


def _mode(kind: str, kind_mode: str) -> bytes:
    """Return the attribute of IFLA_INFO_DATA that has the mode of a kind of device, if it has modes."""
    if kind not in _MODES:
        return b""
    number, size, modes = _MODES[kind]
    return wire.put_attr(number, modes[kind_mode].to_bytes(size, wire.ORDER))


def _new_link_attrs(inner: Inner, name: str, *, mark: bool) -> list[tuple[str, Any]]:
    optional = (
        ("IFLA_ADDRESS", inner.mac),
        ("IFLA_MTU", inner.mtu),
        ("IFLA_NUM_TX_QUEUES", inner.num_tx_queues),
        ("IFLA_NUM_RX_QUEUES", inner.num_rx_queues),
        ("IFLA_GROUP", wire.MARK_GROUP if mark else None),
    )
    return [("IFLA_IFNAME", name), *((key, value) for key, value in optional if value is not None)]


def delete_link(name: str) -> bytes:
    """RTM_DELLINK by name."""
    return _link(RTM_DELLINK, [("IFLA_IFNAME", name)])


def link_property(altname: str, *, delete: bool = False) -> bytes:
    """RTM_NEWLINKPROP or RTM_DELLINKPROP of one alternative name."""
    kind = RTM_DELLINKPROP if delete else RTM_NEWLINKPROP
    flags = 0 if delete else NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND
    return _link(kind, [("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", altname)]})], flags)


def get_link(name: str | None = None) -> bytes:
    """RTM_GETLINK by name (an alternative name counts), or by the index filled in at INDEX_OFFSET; without
    statistics.
    """
    attrs: list[tuple[str, Any]] = [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    if name is not None:
        longest = rules.IFNAMSIZ - 1
        attrs.append(("IFLA_IFNAME" if len(name.encode()) <= longest else "IFLA_ALT_IFNAME", name))
    return _link(RTM_GETLINK, attrs)


def dump_links() -> bytes:
    """RTM_GETLINK for a dump, without statistics."""
    return _link(RTM_GETLINK, [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)])


def address(entry: Address, *, delete: bool = False, replace: bool = False) -> bytes:
    """RTM_NEWADDR (refused if it is there, unless ``replace``) or RTM_DELADDR; the index comes at INDEX_OFFSET."""
    local, length = rules.parse_interface(entry.address)
    attrs: list[tuple[str, Any]] = [("IFA_ADDRESS", entry.peer or local), ("IFA_LOCAL", local)]
    fields = {"family": rules.family_of(local), "prefixlen": length, "scope": entry.scope}
    if delete:
        return _encode(ifaddrmsg(), RTM_DELADDR, 0, fields, attrs)
    flags = sum(ADDRESS_FLAGS.get(name, 0) for name in entry.flags)
    optional = (
        ("IFA_BROADCAST", entry.broadcast),
        ("IFA_LABEL", entry.label),
        ("IFA_FLAGS", flags),
        ("IFA_RT_PRIORITY", entry.metric),
        ("IFA_PROTO", entry.protocol),
    )
    attrs += [(name, value) for name, value in optional if value]
    if entry.valid is not None or entry.preferred is not None:
        valid, preferred = (_FOREVER if time is None else time for time in (entry.valid, entry.preferred))
        times = {"ifa_preferred": preferred, "ifa_valid": valid, "cstamp": 0, "tstamp": 0}
        attrs.append(("IFA_CACHEINFO", times))
    return _encode(ifaddrmsg(), RTM_NEWADDR, NLM_F_REPLACE if replace else NLM_F_CREATE | NLM_F_EXCL, fields, attrs)


def route(entry: Route, *, delete: bool = False) -> bytes:
    """RTM_NEWROUTE (refused if it is there) or RTM_DELROUTE; the index of RTA_OIF is the message's last four bytes."""
    family = rules.AF_INET6 if entry.family == "inet6" else rules.AF_INET
    attrs: list[tuple[str, Any]] = []
    length = 0
    if entry.dst != "default":
        destination, length = rules.parse_interface(entry.dst)
        attrs.append(("RTA_DST", destination))
    if entry.via and rules.family_name(entry.via) == entry.family:
        attrs.append(("RTA_GATEWAY", entry.via))
    elif entry.via:  # an IPv6 gateway of an IPv4 route
        attrs.append(("RTA_VIA", {"family": rules.family_of(entry.via), "addr": entry.via}))
    if entry.src:
        attrs.append(("RTA_PREFSRC", entry.src))
    if entry.metric:
        attrs.append(("RTA_PRIORITY", entry.metric))
    if entry.metrics:
        metrics = [(f"RTAX_{name.upper()}", value) for name, value in entry.metrics.items()]
        attrs.append(("RTA_METRICS", {"attrs": metrics}))
    if entry.pref:
        attrs.append(("RTA_PREF", entry.pref))
    attrs += [("RTA_TABLE", entry.table), ("RTA_OIF", 0)]
    fields = {
        "family": family,
        "dst_len": length,
        "tos": entry.tos,
        "table": entry.table if entry.table < 256 else 0,
        "proto": entry.protocol,
        "scope": rules.route_scope(entry.family, bool(entry.via)) if entry.scope is None else entry.scope,
        "type": entry.type,
        "flags": _RTNH_F_ONLINK if entry.onlink else 0,
    }
    if delete:
        return _encode(RouteMessage(), RTM_DELROUTE, 0, fields, attrs)
    message = _encode(RouteMessage(), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, fields, attrs)
    if entry.expires is not None:  # pyroute2 has no number for this one
        message = _appended(message[:-8], wire.put_attr(RTA_EXPIRES, wire.u32(entry.expires)) + message[-8:])
    return message


def rule(entry: Rule, *, delete: bool = False) -> bytes:
    """RTM_NEWRULE (refused if it is there) or RTM_DELRULE."""
    fields: dict[str, Any] = {
        "family": rules.AF_INET6 if entry.family == "inet6" else rules.AF_INET,
        "tos": entry.tos,
        "table": entry.table if entry.table < 256 else 0,
        "action": entry.action,
        "flags": entry.flags,
    }
    attrs: list[tuple[str, Any]] = []
    for name, field, network in (("FRA_SRC", "src_len", entry.src), ("FRA_DST", "dst_len", entry.dst)):
        if network:
            found, fields[field] = rules.parse_interface(network)
            attrs.append((name, found))
    optional = (
        ("FRA_IIFNAME", entry.iif or None),
        ("FRA_OIFNAME", entry.oif or None),
        ("FRA_PRIORITY", entry.priority),
        ("FRA_TABLE", entry.table or None),
        ("FRA_FWMARK", entry.fwmark),
        ("FRA_FWMASK", entry.fwmask),
        ("FRA_GOTO", entry.goto),
        ("FRA_PROTOCOL", entry.protocol),
        ("FRA_IP_PROTO", entry.ip_proto),
        ("FRA_SPORT_RANGE", entry.sport or None),
        ("FRA_DPORT_RANGE", entry.dport or None),
        ("FRA_UID_RANGE", entry.uid_range or None),
        ("FRA_SUPPRESS_PREFIXLEN", entry.suppress_prefixlength),
        ("FRA_SUPPRESS_IFGROUP", entry.suppress_ifgroup),
    )
    attrs += [(name, value) for name, value in optional if value is not None]
    if delete:
        return _encode(fibmsg(), RTM_DELRULE, 0, fields, attrs)
    return _encode(fibmsg(), RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, fields, attrs)


def neighbour(entry: Neighbour, *, delete: bool = False) -> bytes:
    """RTM_NEWNEIGH or RTM_DELNEIGH of a permanent neighbour or a proxy entry."""
    flags = (NTF_PROXY if entry.proxy else 0) | (NTF_ROUTER if entry.router else 0)
    fields = {"family": rules.family_of(entry.dst), "state": NUD_PERMANENT, "flags": flags}
    attrs: list[tuple[str, Any]] = [("NDA_DST", entry.dst)]
    if entry.lladdr and not delete:
        attrs.append(("NDA_LLADDR", entry.lladdr))
    return _encode_neighbour(fields, attrs, delete)


def fdb(entry: FdbEntry, *, delete: bool = False) -> bytes:
    """RTM_NEWNEIGH or RTM_DELNEIGH of an entry in the forwarding database of the port's bridge."""
    extra = {"sticky": NTF_STICKY, "extern_learn": NTF_EXT_LEARNED}
    flags = NTF_MASTER | sum(extra.get(name, 0) for name in entry.flags)
    state = NUD_PERMANENT if entry.state == "permanent" else NUD_NOARP
    attrs: list[tuple[str, Any]] = [("NDA_LLADDR", entry.mac)]
    if entry.vlan:
        attrs.append(("NDA_VLAN", entry.vlan))
    return _encode_neighbour({"family": AF_BRIDGE, "state": state, "flags": flags}, attrs, delete)


def _encode_neighbour(fields: dict[str, Any], attrs: list[tuple[str, Any]], delete: bool) -> bytes:
    if delete:
        return _encode(ndmsg(), RTM_DELNEIGH, 0, fields, attrs)
    return _encode(ndmsg(), RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, fields, attrs)


def qdisc(entry: Qdisc, *, delete: bool = False) -> bytes:
    """RTM_NEWQDISC (in place of the kernel's own) or RTM_DELQDISC."""
    fields = {"handle": rules.tc_number(entry.handle), "parent": rules.tc_number(entry.parent)}
    kinds, flags = (RTM_NEWQDISC, RTM_DELQDISC), NLM_F_CREATE | NLM_F_REPLACE
    return _traffic_control(kinds, flags, fields, entry, delete)


def traffic_class(entry: TcClass, *, delete: bool = False) -> bytes:
    """RTM_NEWTCLASS (refused if it is there) or RTM_DELTCLASS."""
    fields = {"handle": rules.tc_number(entry.handle), "parent": rules.tc_number(entry.parent)}
    return _traffic_control((RTM_NEWTCLASS, RTM_DELTCLASS), NLM_F_CREATE | NLM_F_EXCL, fields, entry, delete)


def traffic_filter(entry: Filter, *, delete: bool = False) -> bytes:
    """RTM_NEWTFILTER (refused if it is there), or RTM_DELTFILTER of all that the device has of this priority."""
    protocol = int.from_bytes(entry.protocol.to_bytes(2, "big"), wire.ORDER)
    fields = {
        "handle": 0 if delete else entry.handle,
        "parent": rules.tc_number(entry.parent),
        "info": entry.priority << 16 | protocol,
    }
    return _traffic_control((RTM_NEWTFILTER, RTM_DELTFILTER), NLM_F_CREATE | NLM_F_EXCL, fields, entry, delete)


def _traffic_control(
    kinds: tuple[int, int], flags: int, fields: dict[str, Any], entry: Qdisc | TcClass | Filter, delete: bool
) -> bytes:
    attrs: list[tuple[str, Any]] = [("TCA_KIND", entry.kind)]
    if delete:
        return _encode(TcMessage(), kinds[1], 0, fields, attrs)
    if entry.options:
        attrs.append(("TCA_OPTIONS", bytes.fromhex(entry.options)))
    if isinstance(entry, Filter) and entry.chain:
        attrs.append(("TCA_CHAIN", entry.chain))
    return _encode(TcMessage(), kinds[0], flags, fields, attrs)


def get_route(entry: Route) -> bytes:
    """RTM_GETROUTE that finds the routing table's entry for the destination of ``entry`` (RTM_F_FIB_MATCH)."""
    destination = rules.parse_interface(entry.dst)[0] if entry.dst != "default" else ""
    family = rules.AF_INET6 if entry.family == "inet6" else rules.AF_INET
    anywhere = "::" if family == rules.AF_INET6 else "0.0.0.0"  # noqa: S104 - a destination, nothing is bound
    length = 128 if family == rules.AF_INET6 else 32
    fields = {"family": family, "dst_len": length, "flags": _RTM_F_FIB_MATCH}
    return _encode(RouteMessage(), RTM_GETROUTE, 0, fields, [("RTA_DST", destination or anywhere)])


def route_key(entry: Route) -> tuple[int, int, int]:
    """Return (prefix length, table, metric): the kernel takes one route to a destination for each."""
    length = 0 if entry.dst == "default" else rules.parse_interface(entry.dst)[1]
    return length, entry.table, entry.metric or (_IP6_RT_PRIO_USER if entry.family == "inet6" else 0)


def get_nsid(pid: int) -> bytes:
    """RTM_GETNSID: the id that the asking namespace has for the network namespace of process ``pid``."""
    return wire.message(RTM_GETNSID, 0, bytes(4) + wire.put_attr(NETNSA_PID, wire.u32(pid)))


class RouteMessage(rtmsg):  # type: ignore[misc]
    """struct rtmsg with each metric that the kernel knows: pyroute2 lacks the last, and before 0.9.7 the one before."""

    class metrics(rtmsg.metrics):  # type: ignore[misc] # noqa: N801, D106 - the name by which pyroute2 finds it
        nla_map = (
            *rtmsg.metrics.nla_map[:16],
            ("RTAX_CC_ALGO", "asciiz"),
            ("RTAX_FASTOPEN_NO_COOKIE", "uint32"),
        )


class TcMessage(nlmsg):  # type: ignore[misc]
    """struct tcmsg with its options left as bytes: what was dumped is what is sent back."""

    prefix = "TCA_"
    fields = (
        ("family", "B"),
        ("pad1", "B"),
        ("pad2", "H"),
        ("index", "i"),
        ("handle", "I"),
        ("parent", "I"),
        ("info", "I"),
    )
    nla_map = (
        (1, "TCA_KIND", "asciiz"),
        (2, "TCA_OPTIONS", "cdata"),
        (11, "TCA_CHAIN", "uint32"),
        (13, "TCA_INGRESS_BLOCK", "uint32"),
        (14, "TCA_EGRESS_BLOCK", "uint32"),
    )


class GenericMessage(genlmsg):  # type: ignore[misc]
    """struct genlmsghdr with attributes left as bytes.

    Those that nest others say so, without which ethtool's family refuses a message ("NLA_F_NESTED is missing").
    """

    nla_map = (
        (1 | wire.NLA_F_NESTED, "FIRST", "cdata"),
        (2, "SECOND", "cdata"),
        (3 | wire.NLA_F_NESTED, "THIRD", "cdata"),
    )


def _generic(family: int, command: int, attrs: Iterable[tuple[str, Any]]) -> bytes:
    return _encode(GenericMessage(), family, 0, {"cmd": command, "version": 1, "reserved": 0}, attrs)


def _ethtool_device(ifname: str) -> tuple[str, bytes]:
    """ETHTOOL_A_FEATURES_HEADER with the device's name."""
    return ("FIRST", wire.put_attr(2, ifname.encode() + b"\0"))


def features_off(family: int, names: Iterable[str]) -> bytes:
    """ETHTOOL_MSG_FEATURES_SET that switches features off, by the kernel's names (``tx-checksum-ip-generic``).

    The device's index comes at FEATURES_INDEX_OFFSET.
    """
    nested = 1 | wire.NLA_F_NESTED
    bits = b"".join(wire.put_attr(nested, wire.put_attr(2, name.encode() + b"\0")) for name in names)
    wanted = wire.put_attr(3 | wire.NLA_F_NESTED, bits)
    device = ("FIRST", wire.put_attr(1, bytes(4)))  # ETHTOOL_A_HEADER_DEV_INDEX
    return _generic(family, ETHTOOL_MSG_FEATURES_SET, [device, ("THIRD", wanted)])


class Generic:
    """Reads offload features through a generic netlink socket.

    Source: ``linux/ethtool_netlink.h``; the family's id is looked up once.
    """

    def __init__(self, rtnl: wire.Rtnl) -> None:
        self._rtnl = rtnl
        request = _generic(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, [("SECOND", b"ethtool\0")])
        (reply,) = rtnl.request([request])
        found = wire.find_attr(reply.messages[0], GENERIC_ATTRS, (1,)) if reply.messages else None
        #: The id of ethtool's family in this kernel, 0 where it has none.
        self.family = wire.get_u16(found, 0) if found else 0

    def features_off(self, ifname: str) -> tuple[str, ...]:
        """Return the features that a new veth has on, that can be switched, and that are off; sorted."""
        if not self.family:
            return ()
        request = _generic(self.family, ETHTOOL_MSG_FEATURES_GET, [_ethtool_device(ifname)])
        (reply,) = self._rtnl.request([request])
        if reply.errno or not reply.messages:
            return ()
        hardware, wanted = (_bits(reply.messages[0], number) for number in (2, 3))
        return tuple(sorted(hardware - wanted - NEW_FEATURES_OFF))


@cache
def ethtool_family() -> int:
    """Return the id of ethtool's generic netlink family in this kernel, 0 where it has none."""
    namespaces = wire.Namespaces(None)
    try:
        return Generic(namespaces.generic(inner=False)).family
    finally:
        namespaces.close()


def _bits(message: bytes, number: int) -> set[str]:
    """Return the names of the bits that are set in a bitset attribute (verbose form).

    One without a mask lists those alone; one with a mask lists all that it is about, and says which are set.
    """
    listed = wire.find_attr(message, GENERIC_ATTRS, (number, 3))
    without_mask = wire.find_attr(message, GENERIC_ATTRS, (number, 1)) is not None
    found = set()
    for _, bit in wire.attrs(listed or b"", 0):
        parts = dict(wire.attrs(bit, 0))
        if without_mask or 3 in parts:
            found.add(parts[2].rstrip(b"\0").decode())
    return found


#: Attributes that are names. The kernel takes any bytes for most of them; those that are not UTF-8 are escaped.
_NAMES = {"IFLA_IFNAME", "IFLA_IFALIAS", "IFLA_QDISC", "IFA_LABEL", "FRA_IIFNAME", "FRA_OIFNAME", "TCA_KIND"}
#: Attributes of a link that are read without decoding the rest, which takes a thousand times as long.
_NUMBERS = {"IFLA_LINK": IFLA_LINK, "IFLA_MASTER": IFLA_MASTER, "IFLA_LINK_NETNSID": IFLA_LINK_NETNSID}


def _text(value: Any) -> Any:
    """Return a name, which pyroute2 leaves as bytes where it is not UTF-8."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class Message:
    """One decoded message: fields by subscript, attributes by pyroute2's names, and its ``data`` as it came."""

    def __init__(self, kind: type, data: bytes) -> None:
        self.data = data
        self._message = kind(data)
        self._message.decode()

    def __getitem__(self, field: str) -> Any:
        return self._message[field]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ``default``."""
        found = self._message.get_attr(name, default)
        return _text(found) if name in _NAMES else found


#: Kinds of messages, for `asked` and `Message`.
ADDRESS, ROUTE, RULE, NEIGHBOUR, TRAFFIC = ifaddrmsg, RouteMessage, fibmsg, ndmsg, TcMessage


def asked(kind: type, number: int, fields: dict[str, Any], attrs: Iterable[tuple[str, Any]] = ()) -> bytes:
    """Return a request of this number for a dump."""
    return _encode(kind(), number, 0, fields, attrs)


def dump_addresses4() -> bytes:
    """RTM_GETADDR for a dump of IPv4 addresses."""
    return _encode(ifaddrmsg(), RTM_GETADDR, 0, {"family": rules.AF_INET}, ())


def dump_addresses6() -> bytes:
    """RTM_GETADDR for a dump of IPv6 addresses."""
    return _encode(ifaddrmsg(), RTM_GETADDR, 0, {"family": rules.AF_INET6}, ())


def dump_routes6() -> bytes:
    """RTM_GETROUTE for a dump of IPv6 routes."""
    return _encode(RouteMessage(), RTM_GETROUTE, 0, {"family": rules.AF_INET6}, ())


def _dump_vlans(index: int, flags: int) -> bytes:
    """RTM_GETVLAN for a dump of one device's VLANs."""
    body = bytes([AF_BRIDGE, 0, 0, 0]) + wire.u32(index)
    return wire.message(RTM_GETVLAN, 0, body + wire.put_attr(_VLANDB_DUMP_FLAGS, wire.u32(flags)))


def dump_port_vlans() -> bytes:
    """RTM_GETVLAN for a dump of the VLANs of the bridge port whose index is filled in at INDEX_OFFSET, each alone."""
    return _dump_vlans(0, _VLANDB_DUMPF_STATS)


def get_ingress() -> bytes:
    """RTM_GETQDISC that finds an ingress or clsact qdisc; the device's index comes at INDEX_OFFSET."""
    return _encode(TcMessage(), RTM_GETQDISC, 0, {"parent": TC_H_INGRESS}, ())


def _nested(data: bytes, kind: int) -> list[dict[int, bytes]]:
    """Return the attributes within each attribute of this type in a message about VLANs."""
    return [dict(wire.attrs(payload, 0)) for found, payload in wire.attrs(data, _VLANDB_ATTRS) if found == kind]


class Link:
    """One device as the kernel describes it; attributes by pyroute2's names, decoded when one is asked for.

    Names that are not UTF-8 are decoded with ``surrogateescape``.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._message: Any = None
        self.index = wire.get_s32(data, INDEX_OFFSET)
        self.flags = wire.get_u32(data, _LINK_FLAGS_OFFSET)
        self.ifname = self._raw_text((IFLA_IFNAME,))

    def _raw_text(self, path: tuple[int, ...]) -> str:
        return (self.raw(path) or b"").rstrip(b"\0").decode("utf-8", "surrogateescape")

    def _decoded(self) -> Any:
        if self._message is None:
            self._message = ifinfmsg(self._data)
            self._message.decode()
        return self._message

    def get(self, name: str, default: Any = None) -> Any:
        """Return the attribute ``name`` (``IFLA_MTU``), or ``default``."""
        if name in _NUMBERS:
            found = self.raw((_NUMBERS[name],))
            return default if found is None else wire.get_s32(found)
        value = self._decoded().get_attr(name, default)
        return _text(value) if name in _NAMES else value

    @property
    def altnames(self) -> tuple[str, ...]:
        """Its alternative names."""
        properties = wire.attrs(self.raw((IFLA_PROP_LIST,)) or b"", 0)
        names = [value.rstrip(b"\0") for kind, value in properties if kind == IFLA_ALT_IFNAME]
        return tuple(name.decode("utf-8", "surrogateescape") for name in names)

    @property
    def data(self) -> bytes:
        """The message as it came."""
        return self._data

    def raw(self, path: tuple[int, ...]) -> bytes | None:
        """Return the payload of an attribute that pyroute2 has no name for, by the types on the way to it."""
        return wire.find_attr(self._data, LINK_ATTRS, path)

    def info(self, part: str) -> Any:
        """Return ``IFLA_INFO_KIND``, ``IFLA_INFO_SLAVE_KIND``, ``IFLA_INFO_DATA`` or ``IFLA_INFO_SLAVE_DATA``, or
        None.
        """
        linkinfo = self._decoded().get_attr("IFLA_LINKINFO")
        return linkinfo.get_attr(part) if linkinfo is not None else None

    @property
    def kind(self) -> str:
        """The kind of device (``veth``, ``bridge``), empty for a physical one."""
        return self._raw_text(INFO_KIND)


class BridgeFacts(NamedTuple):
    """What preflight says of a bridge, as the kernel reports it.

    Four bytes each (the forward delay in 1/100 s), and one of VLAN filtering: None where this kernel has none.
    """

    stp_state: bytes
    forward_delay: bytes
    vlan_filtering: bytes | None


class PortVlan(NamedTuple):
    """One VLAN of a bridge port.

    ``tunnel`` is its tunnel id, ``forwarding`` its state in the spanning tree, ``changed`` whether it has an option
    that a new VLAN has not.
    """

    vlan: int
    pvid: bool
    untagged: bool
    tunnel: int | None
    forwarding: bool
    changed: bool


class Kernel:
    """Reads one network namespace through a routing netlink socket."""

    def __init__(self, rtnl: wire.Rtnl) -> None:
        self._rtnl = rtnl

    def link(self, name: str) -> Link | None:
        """Return the device called ``name``, or None."""
        return self._one_link(get_link(name), name)

    def link_at(self, index: int) -> Link | None:
        """Return the device with this ifindex, or None."""
        message = bytearray(get_link())
        message[INDEX_OFFSET : INDEX_OFFSET + 4] = wire.u32(index)
        return self._one_link(bytes(message), f"ifindex {index}")

    def _one_link(self, message: bytes, what: str) -> Link | None:
        (reply,) = self._rtnl.request([message])
        if reply.errno == errno.ENODEV:
            return None
        if reply.errno:
            raise OSError(reply.errno, f"cannot read {what}: {errno_text(reply.errno, reply.detail)}")
        return Link(reply.messages[0])

    def double(self, name: str, mac: bytes, addresses: tuple[bytes, ...]) -> tuple[str, bytes] | None:
        """Return the port that leads to a living container with this identity: see `clones.double`."""
        link = self.link(name)
        return None if link is None else clones.double(self._rtnl, link.data, mac, addresses)

    def each_link(self, begin: Callable[[], Callable[[Link], object]]) -> None:
        """Hand every device, as it is told, to what ``begin`` returns; see `wire.Rtnl.select`."""

        def taking() -> Callable[[bytes], object]:
            take = begin()
            return lambda data: take(Link(data))

        self._rtnl.select(dump_links(), taking)

    def links(self) -> list[Link]:
        """Return every device."""
        return [Link(data) for data in self._rtnl.dump(dump_links())]

    def raw_routes(self, wanted: Callable[[bytes], bool]) -> list[bytes]:
        """Return the messages of those routes that are ``wanted``, those that the kernel made itself too."""
        found: list[bytes] = []
        for family in (rules.AF_INET, rules.AF_INET6):
            kept: list[bytes] = []

            def begin(kept: list[bytes] = kept) -> Callable[[bytes], object]:
                kept.clear()
                return lambda data: kept.append(data) if wanted(data) else None

            self._rtnl.select(asked(RouteMessage, RTM_GETROUTE, {"family": family}), begin)
            found += kept
        return found

    def raw_addresses6(self) -> list[bytes]:
        """Return the messages of every IPv6 address."""
        return self._rtnl.dump(dump_addresses6())

    def vlans(self, port: int) -> list[PortVlan]:
        """Return the VLANs of one bridge port.

        With statistics each is told of alone. Without, Linux 6.1 leaves out those that follow the pvid and are as it
        is: it takes them for one range, and then writes no range of a pvid.
        """
        found = []
        for data in self._rtnl.dump(_dump_vlans(port, _VLANDB_DUMPF_STATS)):
            for entry in _nested(data, _VLANDB_ENTRY):
                flags, vlan = wire.get_u16(entry[_ENTRY_INFO], 0), wire.get_u16(entry[_ENTRY_INFO], 2)
                tunnel = dict(wire.attrs(entry.get(_ENTRY_TUNNEL, b""), 0)).get(1)
                found.append(
                    PortVlan(
                        vlan=vlan,
                        pvid=bool(flags & VLAN_PVID),
                        untagged=bool(flags & VLAN_UNTAGGED),
                        tunnel=wire.get_u32(tunnel, 0) if tunnel else None,
                        forwarding=entry.get(_ENTRY_STATE, _STATE_FORWARDING) == _STATE_FORWARDING,
                        changed=any(entry.get(option, usual) != usual for option, usual in _ENTRY_USUAL.items()),
                    )
                )
        return found

    def spanning_tree_instances(self, bridge: Link) -> dict[int, set[int]]:
        """Return, by instance, the VLANs that a bridge has put into one of their own (MST)."""
        options = bridge.raw(_BR_MULTI_BOOLOPT)
        if options is None or not wire.get_u32(options, 0) & _BOOLOPT_MST_ENABLE:
            return {}
        found: dict[int, set[int]] = {}
        for data in self._rtnl.dump(_dump_vlans(bridge.index, _VLANDB_DUMPF_GLOBAL)):
            for entry in _nested(data, _VLANDB_GLOBAL_OPTIONS):
                first = wire.get_u16(entry[_GOPTS_ID], 0)
                last = wire.get_u16(entry[_GOPTS_RANGE], 0) if _GOPTS_RANGE in entry else first
                instance = wire.get_u16(entry.get(_GOPTS_MSTI, bytes(2)), 0)
                if instance:
                    found.setdefault(instance, set()).update(range(first, last + 1))
        return found

    def has_ingress(self, index: int) -> bool:
        """Say whether a device has an ingress or clsact qdisc; cheap, where a dump reads every device's."""
        message = get_ingress()
        (reply,) = self._rtnl.request([message[:INDEX_OFFSET] + wire.u32(index) + message[INDEX_OFFSET + 4 :]])
        return not reply.errno

    def nsid(self, pid: int) -> int:
        """Return this namespace's id for the network namespace of ``pid``; -1: it has none."""
        return self._nsid((NETNSA_PID, pid))

    def nsid_of(self, descriptor: int) -> int:
        """Return this namespace's id for the network namespace that is open as ``descriptor``; -1: it has none."""
        return self._nsid((NETNSA_FD, descriptor))

    def _nsid(self, holder: tuple[int, int]) -> int:
        kind, number = holder  # asked so often that pyroute2 would take too long
        (reply,) = self._rtnl.request([wire.message(RTM_GETNSID, 0, bytes(4) + wire.put_attr(kind, wire.u32(number)))])
        if reply.errno:
            raise OSError(reply.errno, os.strerror(reply.errno))
        found = wire.find_attr(reply.messages[0], NSID_ATTRS, (NETNSA_NSID,))
        return wire.get_s32(found) if found else -1

    def living_nsids(self, *, ending: bool = False) -> set[int]:
        """Return the ids of all network namespaces that a process is in or a mount holds.

        With ``ending``, of those that processes are in which have been killed.
        """
        found = set()
        seen: set[int] = set()
        for path in holders.netns_files(ending=ending):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # the process has ended
            try:
                inode = os.fstat(descriptor).st_ino
                if inode not in seen:
                    found.add(self._nsid((NETNSA_FD, descriptor)))
                seen.add(inode)
            except OSError:
                continue  # a mount that is not a network namespace
            finally:
                os.close(descriptor)
        return found

    def route_to(self, entry: Route) -> int | None:
        """Return the ifindex that a route which this one would clash with leads through, or None."""
        (reply,) = self._rtnl.request([get_route(entry)])
        if reply.errno or not reply.messages:
            return None
        message = RouteMessage(reply.messages[0])
        message.decode()
        found = (message["dst_len"], message.get_attr("RTA_TABLE"), message.get_attr("RTA_PRIORITY") or 0)
        oif: int | None = message.get_attr("RTA_OIF")
        return oif if found == route_key(entry) else None


class Lifeline:
    """Tells a veth whose container has been killed from one that lives.

    The kernel takes a network namespace apart some milliseconds after its last process. A veth whose peer is in a
    namespace that nothing holds any more (no process, no mount) goes away by itself.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._living: set[int] | None = None
        self._ending: set[int] | None = None

    def is_dying(self, link: Link) -> bool:
        """Say whether the device ``link`` is a veth that is going away."""
        nsid = link.get("IFLA_LINK_NETNSID")
        if link.kind != "veth" or nsid is None:
            return False
        if nsid < 0:  # NETNSA_NSID_NOT_ASSIGNED: the namespace's id is gone already
            return True
        if self._living is None:
            self._living = self._kernel.living_nsids()
        return nsid not in self._living

    def is_killed(self, link: Link) -> bool:
        """Say whether the container behind a veth is seen to die: a process that was killed is left of it, none else.

        What is held by nothing that can be seen from here may live in another PID namespace.
        """
        nsid = link.get("IFLA_LINK_NETNSID")
        if nsid is None or not self.is_dying(link):
            return False
        if self._ending is None:
            self._ending = self._kernel.living_nsids(ending=True)
        return nsid < 0 or nsid in self._ending
