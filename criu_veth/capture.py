"""Reads the veths of a container from the kernel: inner ends in its network namespace, outer ends in this one.

Nothing is asked of the whole host where one device can be asked for: the cost does not grow with the number of other
devices.
"""

import datetime
import os
from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from criu_veth import __version__, bounds, container, fit, netlink, ovs, pairs, rules, tcattrs, tree, wire
from criu_veth.bounds import Some, is_utf8, shown
from criu_veth.entries import Entries
from criu_veth.errors import OperationError
from criu_veth.netlink import Kernel, Link, Message
from criu_veth.state import (
    Address,
    CapturedVeth,
    End,
    FdbEntry,
    Filter,
    Host,
    Inner,
    Neighbour,
    Outer,
    Ovs,
    Qdisc,
    Route,
    Rule,
    State,
    TcClass,
    Vlan,
    version_for,
)

E = TypeVar("E", bound=End)

_IFA_F_TEMPORARY, _IFA_F_STABLE_PRIVACY = 0x01, 0x800
_IFAPROT_KERNEL_LL = 3
_FOREVER = 0xFFFFFFFF
_RT_TABLE_LOCAL = 255

#: Per-device sysctls that cannot be written, or say the same as another one.
_SYSCTL_SKIPPED = {
    "ipv4": {"mc_forwarding"},
    "ipv6": {"mc_forwarding", "mtu", "stable_secret"},
    "mpls": set(),
    "ipv4.neigh": {"base_reachable_time", "retrans_time", "unres_qlen"},
    "ipv6.neigh": {"base_reachable_time", "retrans_time", "unres_qlen"},
}

#: Said even where it is the namespace's default: that of a new namespace is another one.
_IPV6_OFF = ("ipv6", "disable_ipv6", "1")

#: Queueing disciplines that the kernel gives a device by itself.
_DEFAULT_QDISCS = {"noqueue", "pfifo_fast", "mq", "fq_codel"}
_UNCHANGED_QDISCS = {"noqueue", "noop"}
_LOST_ROUTES = {
    netlink.RTA_MULTIPATH: "with several next hops",
    netlink.RTA_NH_ID: "by a nexthop object",
    netlink.RTA_ENCAP_TYPE: "with encapsulation",
}
_INGRESS_QDISCS = {"ingress", "clsact"}
_MASTERS = {"bridge", "vrf", "bond", "team"}
_CLASSFUL = {"htb"}  # the classes of the others are made by the kernel
_TCA_HTB_INIT = 2
_U32_HASH, _U32_FLAGS, _U32_COUNTERS = 2, 11, (9, 12)  # TCA_U32_*; PCNT and the padding after it
_U32_NODE = 0xFFF
_CLS_FLAGS_HARDWARE = 0xC  # IN_HW, NOT_IN_HW


#: What there will be in the place of what an end had too many of.
_CRIUS = "CRIU brings back what it saved of them, but not into an empty network namespace"
_NOTHING = "a restore will lack them"


class _Notes:
    """Collects what is said about a capture, and counts what is captured."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.inner = bounds.Budget(self.warnings)
        self.outer = bounds.Budget(self.warnings)


def capture(pid: int) -> State:
    """Capture the network of the container whose first process is ``pid``: of every network namespace in its tree.

    Raises OperationError: the process is gone, or the kernel refused to be read.
    """
    path = f"/proc/{pid}/ns/net"
    notes = _Notes()
    try:
        inode = os.stat(path).st_ino
        veths = _capture_tree(pid, notes)
        if os.stat(path).st_ino != inode:
            raise OperationError(f"process {pid} is another one now: its container ended during the capture")
    except (FileNotFoundError, ProcessLookupError):
        raise OperationError(f"process {pid} is gone: its network cannot be captured") from None
    except OSError as error:
        raise OperationError(f"cannot capture the network of process {pid}: {error}") from None
    uname = os.uname()
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    host = Host(hostname=uname.nodename, kernel=uname.release, criu_veth=__version__, created=now.isoformat())
    return fit.fit(
        State(
            version=version_for(veths),
            host=host,
            container=container.of_process(pid),
            veths=veths,
            notes=tuple(notes.notes),
            warnings=tuple(notes.warnings),
        )
    )


def _capture_tree(pid: int, notes: _Notes) -> tuple[CapturedVeth, ...]:
    """Capture all network namespaces of the tree; what CRIU can never restore of them is warned of and left out."""
    paths = tree.paths_of(pid)
    if more := len(paths[bounds.MOST_NAMESPACES :]):
        del paths[bounds.MOST_NAMESPACES :]
        notes.warnings.append(
            f"{more} of the container's {len(paths) + more} network namespaces are not looked at"
            f" ({bounds.MOST_NAMESPACES} at most): the outer ends of veths in there are not captured"
        )
    own = os.stat("/proc/thread-self/ns/net").st_ino
    inodes = {path: _inode(path) for path in paths}
    if inodes[paths[0]] == own:
        for path in paths[1:]:
            notes.warnings += _only_inside(path)
        return ()
    seen: dict[str, list[CapturedVeth | None]] = {}
    for number, path in enumerate(paths):
        if inodes[path] in (own, 0):
            continue
        veths, others = _capture_namespace(path, paths, number, notes)
        for veth in veths:
            seen.setdefault(veth.inner.ifname, []).append(veth)
        for name in others:
            seen.setdefault(name, []).append(None)
    captured = [veths[0] for listed in seen.values() if (veths := [veth for veth in listed if veth])]
    for veth in captured:
        notes.warnings += _same_name(veth, seen[veth.inner.ifname])
    if beside := [veth.inner.ifname for veth in captured if veth.namespace]:
        notes.notes.append(
            f"{', '.join(beside)}: in another network namespace than the first process's: comes back with --external"
            " veth[] or netdev[], not with --empty-ns net"
        )
    return tuple(captured)


def _inode(path: str) -> int:
    """Return the inode of a network namespace, or 0 if its process has ended."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _same_name(veth: CapturedVeth, of_that_name: list[CapturedVeth | None]) -> list[str]:
    """Warn of a name that CRIU cannot tell apart (``veth_peer_info()``, criu/net.c): it knows no namespaces there."""
    name = veth.inner.ifname
    if len(of_that_name) == 1:
        return []
    here = [other.outer.ifname for other in of_that_name if other is not None]
    what = f"to this host ({' and '.join(here)})" if len(here) == len(of_that_name) else "that leads elsewhere"
    whose = "two network namespaces" if len(here) == len(of_that_name) else "another network namespace"
    return [
        f"{name}: {whose} of this container {'have' if whose[0] == 't' else 'has'} a veth of that name {what}, and"
        f" CRIU's option veth[{name}] means both: a restore that brings the devices back fails; rename one of them"
        " before the dump"
    ]


def _only_inside(path: str) -> list[str]:
    """Warn of the veths of a namespace that only a child of the first process has."""
    namespaces = wire.Namespaces(path)
    try:
        links = Kernel(namespaces.inner).links()
    finally:
        namespaces.close()
    names = ", ".join(link.ifname for link in links if link.kind == "veth")
    if not names:
        return []
    return [
        f"{names}: in the network namespace of a child, while the first process is in this host's: CRIU dumps that and"
        " cannot restore it; dump the child, or give the first process a network namespace of its own"
    ]


def _capture_namespace(path: str, paths: list[str], number: int, notes: _Notes) -> tuple[list[CapturedVeth], list[str]]:
    """Capture one of the tree's network namespaces (``paths``), the one with this number.

    The second part of the result are the names of its other veths.
    """
    namespaces = wire.Namespaces(path)
    try:
        return _capture_all(namespaces, path, paths, number, notes)
    except (FileNotFoundError, ProcessLookupError):
        if number and not os.path.exists(path):
            return [], []  # its process has ended meanwhile, and is not dumped either
        raise
    finally:
        namespaces.close()


def _capture_all(
    namespaces: wire.Namespaces, path: str, paths: list[str], number: int, notes: _Notes
) -> tuple[list[CapturedVeth], list[str]]:
    for rtnl in (namespaces.inner, namespaces.host):
        rtnl.strict()
    said = pairs.find(Kernel(namespaces.inner), Kernel(namespaces.host), path, paths)
    notes.notes += said.notes
    notes.warnings += said.warnings
    found = [pair for pair in said.found if _has_utf8_names(pair, notes)]
    inner_features = netlink.Generic(namespaces.generic(inner=True))
    host_features = netlink.Generic(namespaces.generic(inner=False))
    outside = _OuterEnds(namespaces.host, host_features, notes, [outer for _, outer in found])
    outside.ask_open_vswitch()
    with namespaces.inside():
        sysctls = _Sysctls()
        inner_sysctls = [sysctls.of(link.ifname) for link, _ in found]
        entries = Entries(namespaces.inner)
        inners = [
            _inner(entries, inner_features, link, sysctl, notes)
            for (link, _), sysctl in zip(found, inner_sysctls, strict=True)
        ]
    captured = [
        CapturedVeth(inner=inner, outer=outside.capture(outer), namespace=number)
        for inner, (_, outer) in zip(inners, found, strict=True)
    ]
    return captured, said.others


def _has_utf8_names(pair: tuple[Link, Link], notes: _Notes) -> bool:
    """Say whether both ends have a name that can be written down; a pair without is warned of."""
    inner, outer = pair
    for link, which in ((inner, "inner"), (outer, "outer")):
        if not is_utf8(link.ifname):
            notes.warnings.append(
                f"{shown(inner.ifname)}: the name of its {which} end, {shown(link.ifname)}, is not UTF-8: this veth is"
                " not captured, and a restore leaves its outer end as it is made; rename it before the dump"
            )
            return False
    return True


def _end(link: Link) -> dict[str, object]:
    """Return what both ends have in common and the link message itself says."""
    return {
        "ifname": link.ifname,
        "mac": link.get("IFLA_ADDRESS"),
        "mtu": link.get("IFLA_MTU"),
        "txqueuelen": link.get("IFLA_TXQLEN"),
        "group": link.get("IFLA_GROUP"),
        "alias": link.get("IFLA_IFALIAS"),
        "altnames": link.altnames,
        "up": bool(link.flags & netlink.IFF_UP),
        "arp": not link.flags & netlink.IFF_NOARP,
        "promisc": bool(link.flags & netlink.IFF_PROMISC),
        "allmulti": bool(link.flags & netlink.IFF_ALLMULTI),
        "num_tx_queues": link.get("IFLA_NUM_TX_QUEUES"),
        "num_rx_queues": link.get("IFLA_NUM_RX_QUEUES"),
        "gso_max_size": link.get("IFLA_GSO_MAX_SIZE"),
        "gso_max_segs": link.get("IFLA_GSO_MAX_SEGS"),
        "gro_max_size": link.get("IFLA_GRO_MAX_SIZE"),
    }


def _inner(entries: Entries, features: netlink.Generic, link: Link, sysctl: dict[str, str], notes: _Notes) -> Inner:
    budget = notes.inner
    addresses = budget.take(link.ifname, "addresses", entries.addresses(link.index, budget.room), _CRIUS)
    routes, lost = _routes(budget.take(link.ifname, "routes", entries.routes(link.index, budget.room), _CRIUS))
    notes.notes += [f"{link.ifname}: its {one} does not come back with --empty-ns net" for one in lost]
    neighbours = budget.take(link.ifname, "neighbours", entries.neighbours(link.index, budget.room), _NOTHING)
    return Inner(
        **_end(link),  # type: ignore[arg-type]
        ifindex=link.index,
        addresses=tuple(_address(entry, link.ifname) for entry in addresses),
        routes=tuple(routes),
        neighbours=_neighbours(neighbours),
        sysctl=sysctl,
        features_off=features.features_off(link.ifname),
    )


def _routes(entries: Iterable[Message]) -> tuple[list[Route], list[str]]:
    """Return the routes of a device, and in words those that cannot be put back."""
    found, lost = [], []
    for entry in entries:
        what = next((what for number, what in _LOST_ROUTES.items() if _has(entry, number)), None)
        if what is None:
            found.append(_route(entry))
        else:
            to = entry.get("RTA_DST")
            lost.append(f"route to {to}/{entry['dst_len']} {what}" if to else f"route to default {what}")
    return found, lost


class _OuterEnds:
    """Reads outer ends; what several of them share is read once."""

    def __init__(self, rtnl: wire.Rtnl, features: netlink.Generic, notes: _Notes, ends: list[Link]) -> None:
        self._kernel = Kernel(rtnl)
        self._entries = Entries(rtnl)
        self._ends = ends
        self._features = features
        self._notes = notes
        self._links: dict[int, Link] = {}
        self._instances: dict[int, dict[int, set[int]]] = {}
        self._sysctls = _Sysctls()
        self._ovs: ovs.Found | None = None
        self._ovs_fault = ""

    def ask_open_vswitch(self) -> None:
        """Ask Open vSwitch, where there is one, which of these are its ports: all of them at once.

        A port of its userspace datapath has no master; one of the kernel's has the device of the whole datapath.
        """
        asked = [link for link in self._ends if self._may_be_ovs_port(link)]
        if not asked or not (os.path.exists(ovs.socket_path()) or any(map(self._is_ovs_port, asked))):
            return
        try:
            self._ovs = ovs.look(link.ifname for link in asked)
        except OperationError as error:
            self._ovs_fault = "; ".join(error.faults)

    def _may_be_ovs_port(self, link: Link) -> bool:
        return not link.get("IFLA_MASTER") or self._is_ovs_port(link)

    def _is_ovs_port(self, link: Link) -> bool:
        index = link.get("IFLA_MASTER")
        return bool(index) and self._link_at(index).kind == "openvswitch"

    def _ovs_port(self, link: Link) -> Ovs | None:
        """Return what Open vSwitch has of this port, if it is one."""
        if not self._may_be_ovs_port(link):
            return None
        found = self._ovs.ports.get(link.ifname) if self._ovs else None
        if found is not None and found.is_attached:
            port, warnings = ovs.captured(link.ifname, found)
            self._notes.warnings += warnings
            return port
        if self._is_ovs_port(link) or self._ovs_fault:
            why = self._ovs_fault or self._why_unknown(link)
            if self._is_ovs_port(link):
                what = "its place in Open vSwitch is not carried over"
            else:
                what = "if it is a port of Open vSwitch, that is not carried over"
            self._notes.warnings.append(f"{link.ifname}: {what}: {why}")
        return None

    def _why_unknown(self, link: Link) -> str:
        bonded = self._ovs is not None and link.ifname in self._ovs.bonded
        return "it is an interface of a bond" if bonded else "its database does not have it as one"

    def _is_of_ovs(self, link: Link, switch: Ovs, qdisc: Message) -> bool:
        """Say whether Open vSwitch made this: those on ingress are for policing, the others for its QoS."""
        if qdisc.get("TCA_KIND") in _INGRESS_QDISCS:
            return bool(switch.ingress_policing_rate or switch.ingress_policing_kpkts_rate)
        return self._ovs is not None and bool(self._ovs.ports[link.ifname].port.get("qos"))

    def _link_at(self, index: int) -> Link:
        if index not in self._links:
            link = self._kernel.link_at(index)
            if link is None:
                raise ProcessLookupError(f"device {index} has gone away")
            self._links[index] = link
        return self._links[index]

    def capture(self, link: Link) -> Outer:
        """Return all that is known of one outer end."""
        index = link.index
        master_index = link.get("IFLA_MASTER")
        master = self._master(link, self._link_at(master_index)) if master_index else None
        port, backup = self._port(link) if master else ({}, None)
        switch = self._ovs_port(link)
        self._warn_of_programs(link)
        self._note_stacked(link)
        qdiscs, classes, filters = self._traffic_control(link, switch)
        mac = link.get("IFLA_ADDRESS")
        addresses = self._taken(link, "addresses", self._entries.addresses(index, self._notes.outer.room))
        neighbours = self._taken(link, "neighbours", self._entries.neighbours(index, self._notes.outer.room))
        common = _end(link)
        if switch is not None and not master_index:  # the userspace datapath sets it, and does so again
            common["promisc"] = None
        routes, lost = _routes(self._taken(link, "routes", self._entries.routes(index, self._notes.outer.room)))
        self._notes.warnings += [f"{link.ifname}: its {one} is not carried over" for one in lost]
        return Outer(
            **common,  # type: ignore[arg-type]
            master=master.ifname if master else None,
            master_kind=master.kind if master else None,
            port=port,
            vlan=self._vlans(link, master) if master and master.kind == "bridge" else None,
            backup_port=backup,
            fdb=self._fdb_of(master, link) if master and master.kind == "bridge" else (),
            ovs=switch,
            addresses=tuple(_address(entry, link.ifname) for entry in addresses if not _is_automatic(entry, mac)),
            routes=tuple(routes),
            rules=self._rules_of(link),
            neighbours=_neighbours(neighbours),
            sysctl=self._sysctls.of(link.ifname),
            features_off=self._features.features_off(link.ifname),
            qdiscs=qdiscs,
            classes=classes,
            filters=filters,
        )

    def _taken(self, link: Link, what: str, some: Some[Message]) -> Some[Message]:
        return self._notes.outer.take(link.ifname, what, some, _NOTHING)

    def _master(self, link: Link, master: Link) -> Link | None:
        """Return the device that this is a port of, if a netlink message can make it one again."""
        if master.kind == "openvswitch":
            return None
        if master.kind not in _MASTERS:
            what = f"a port of {master.ifname} ({master.kind or 'a device of another kind'})"
            self._notes.warnings.append(f"{link.ifname}: it is {what}; that is not carried over")
            return None
        if not is_utf8(master.ifname):
            what = f"a port of {shown(master.ifname)}, a name that is not UTF-8"
            self._notes.warnings.append(f"{link.ifname}: it is {what}; that is not carried over")
            return None
        return master

    def _vlans(self, link: Link, master: Link) -> Vlan | None:
        """Return a port's VLANs where its bridge filters them; what cannot be put back of them is warned of."""
        data = master.info("IFLA_INFO_DATA")
        if not (data and data.get_attr("IFLA_BR_VLAN_FILTERING")):
            return None
        found = self._kernel.vlans(link.index)
        self._warn_of_vlans(link, master, found)
        untagged = _ids(one for one in found if one.untagged)
        return Vlan(
            pvid=next((one.vlan for one in found if one.pvid), None),
            untagged=rules.vlan_entries(untagged),
            tagged=rules.vlan_entries(_ids(found) - untagged),
        )

    def _warn_of_vlans(self, link: Link, master: Link, found: list[netlink.PortVlan]) -> None:
        """Name what is not carried over of a port's VLANs: tunnels, states in spanning tree instances, options."""
        lost = []
        if tunnels := " ".join(f"{one.vlan} ({one.tunnel})" for one in found if one.tunnel is not None):
            lost.append(f"the tunnels of its VLANs {tunnels}")
        changed = _ids(one for one in found if one.changed or not one.forwarding)
        for instance, vlans in self._spanning_tree_of(master).items():
            if shared := _ids(found) & vlans:
                on = f"{master.ifname} (VLANs {_vlan_text(shared)})"
                lost.append(f"its states in spanning tree instance {instance} of {on}")
                changed -= shared
        if changed:
            lost.append(f"the options of its VLANs {_vlan_text(changed)}")
        self._notes.warnings += [f"{link.ifname}: {what} are not carried over" for what in lost]

    def _spanning_tree_of(self, master: Link) -> dict[int, set[int]]:
        if master.index not in self._instances:
            self._instances[master.index] = self._kernel.spanning_tree_instances(master)
        return self._instances[master.index]

    def _port(self, link: Link) -> tuple[dict[str, int], str | None]:
        if link.info("IFLA_INFO_SLAVE_KIND") != "bridge":
            return {}, None
        data = link.info("IFLA_INFO_SLAVE_DATA")
        found = {flag: data.get_attr(name) for flag, (_, name) in netlink.PORT_FLAGS.items()}
        backup = data.get_attr("IFLA_BRPORT_BACKUP_PORT")
        return (
            {flag: value for flag, value in found.items() if value is not None},
            self._link_at(backup).ifname if backup else None,
        )

    def _fdb_of(self, master: Link, link: Link) -> tuple[FdbEntry, ...]:
        ends = [end for end in self._ends if end.get("IFLA_MASTER") == master.index]
        ports = {end.index: end.raw((netlink.IFLA_ADDRESS,)) or b"" for end in ends}
        entries = self._entries.fdb(master.index, link.index, ports, self._notes.outer.room)
        states = {netlink.NUD_NOARP: "static", netlink.NUD_PERMANENT: "permanent"}
        flags = {"sticky": netlink.NTF_STICKY, "extern_learn": netlink.NTF_EXT_LEARNED}
        found = [
            FdbEntry(
                mac=entry.get("NDA_LLADDR"),
                vlan=entry.get("NDA_VLAN", 0),
                state=states[entry["state"]],
                flags=tuple(name for name, bit in flags.items() if entry["flags"] & bit),
            )
            for entry in self._taken(link, "forwarding entries", entries)
        ]
        return tuple(sorted(found, key=lambda entry: (entry.vlan, entry.mac)))

    def _rules_of(self, link: Link) -> tuple[Rule, ...]:
        rules = self._entries.rules([end.ifname for end in self._ends], link.ifname, self._notes.outer.room)
        return tuple(map(_rule, self._taken(link, "rules", rules)))

    def _warn_of_programs(self, link: Link) -> None:
        xdp = link.get("IFLA_XDP")
        if xdp is not None and xdp.get_attr("IFLA_XDP_ATTACHED"):
            self._notes.warnings.append(f"{link.ifname}: its XDP program is not carried over")

    def _note_stacked(self, link: Link) -> None:
        """Note the devices on top of an outer end; they die with it, and are not this project's business."""
        try:
            found = os.listdir(f"/sys/class/net/{link.ifname}")
        except OSError:
            return
        master = link.get("IFLA_MASTER") and self._link_at(link.get("IFLA_MASTER")).ifname
        upper = sorted(name.removeprefix("upper_") for name in found if name.startswith("upper_"))
        self._notes.notes += [
            f"{link.ifname}: {name} is on top of it, and is not put back" for name in upper if name != master
        ]

    def _traffic_control(
        self, link: Link, switch: Ovs | None
    ) -> tuple[tuple[Qdisc, ...], tuple[TcClass, ...], tuple[Filter, ...]]:
        if link.get("IFLA_QDISC") in _UNCHANGED_QDISCS and not self._kernel.has_ingress(link.index):
            return (), (), ()
        index, entries = link.index, self._entries
        all_qdiscs = self._taken(link, "queueing disciplines", entries.qdiscs(index, self._notes.outer.room))
        found = [entry for entry in all_qdiscs if not _is_default(entry)]
        if switch is not None:
            found = [entry for entry in found if not self._is_of_ovs(link, switch, entry)]
        qdiscs = [_qdisc(entry) for entry in found if not self._lost(link, _qdisc_fault(entry))]
        classful = {qdisc.handle for qdisc in qdiscs if qdisc.kind in _CLASSFUL}
        classes = [
            _class(entry)
            for entry in self._taken(link, "classes", entries.classes(index, self._notes.outer.room))
            if rules.tc_text(entry["handle"] & 0xFFFF0000) in classful and not self._lost(link, _class_fault(entry))
        ]
        filters = [
            _filter(entry)
            for parent in _filter_parents(qdiscs, classes)
            for entry in self._taken(link, "filters", entries.filters(index, parent, self._notes.outer.room))
            if not _is_implied(entry) and not self._lost(link, _filter_fault(entry))
        ]
        return tuple(qdiscs), tuple(classes), tuple(filters)

    def _lost(self, link: Link, what: str | None) -> bool:
        if what:
            self._notes.warnings.append(f"{link.ifname}: {what} is not carried over")
        return what is not None


def _ids(vlans: Iterable[netlink.PortVlan]) -> set[int]:
    return {one.vlan for one in vlans}


def _vlan_text(ids: Iterable[int]) -> str:
    return " ".join(map(str, rules.vlan_entries(ids)))


def _is_default(entry: Message) -> bool:
    return entry.get("TCA_KIND") in _DEFAULT_QDISCS and not entry["handle"]


def _qdisc_fault(entry: Message) -> str | None:
    """Say what of a queueing discipline cannot be put back."""
    kind = entry.get("TCA_KIND")
    if kind not in tcattrs.QDISCS:
        return f"its queueing discipline {kind}"
    if fault := tcattrs.qdisc_fault(kind, _qdisc_options(entry)):
        return f"its queueing discipline {kind} ({fault})"
    if entry.get("TCA_INGRESS_BLOCK") or entry.get("TCA_EGRESS_BLOCK"):
        return f"the shared filter block of its {kind}"
    return None


def _has(route: Message, number: int) -> bool:
    return wire.find_attr(route.data, netlink.ROUTE_ATTRS, (number,)) is not None


def _filter_parents(qdiscs: list[Qdisc], classes: list[TcClass]) -> list[int]:
    parents = []
    for qdisc in qdiscs:
        if qdisc.kind == "clsact":
            parents += [0xFFFFFFF2, 0xFFFFFFF3]  # TC_H_CLSACT with TC_H_MIN_INGRESS and TC_H_MIN_EGRESS
        else:
            parents.append(rules.tc_number(qdisc.handle))
    return parents + [rules.tc_number(entry.handle) for entry in classes]


def _qdisc(entry: Message) -> Qdisc:
    return Qdisc(
        kind=entry.get("TCA_KIND"),
        handle=rules.tc_text(entry["handle"]),
        parent=rules.tc_text(entry["parent"]),
        options=_qdisc_options(entry).hex(),
    )


def _qdisc_options(entry: Message) -> bytes:
    return _htb_options(entry) if entry.get("TCA_KIND") == "htb" else _options(entry)


def _htb_options(entry: Message) -> bytes:
    """Return htb's options as it takes them.

    It reports its version with a minor number in the low half, and takes the high half alone (``htb_init()``,
    net/sched/sch_htb.c); and it reports a counter among its settings.
    """
    out = b""
    for kind, payload in wire.attrs(_options(entry), 0):
        if kind == _TCA_HTB_INIT:
            version = wire.get_u32(payload, 0) >> 16
            payload = wire.u32(version) + payload[4:16] + bytes(4)  # noqa: PLW2901
        out += wire.put_attr(kind, payload)
    return out


def _class(entry: Message) -> TcClass:
    return TcClass(
        kind=entry.get("TCA_KIND"),
        handle=rules.tc_text(entry["handle"]),
        parent=rules.tc_text(entry["parent"]),
        options=_options(entry).hex(),
    )


def _class_fault(entry: Message) -> str | None:
    fault = tcattrs.class_fault(entry.get("TCA_KIND"), _options(entry))
    return f"its class {rules.tc_text(entry['handle'])} ({fault})" if fault else None


def _filter(entry: Message) -> Filter:
    return Filter(
        kind=entry.get("TCA_KIND"),
        parent=rules.tc_text(entry["parent"]),
        priority=entry["info"] >> 16,
        protocol=int.from_bytes((entry["info"] & 0xFFFF).to_bytes(2, wire.ORDER), "big"),
        handle=entry["handle"] & _U32_NODE if _in_first_table(entry) else entry["handle"],
        chain=entry.get("TCA_CHAIN") or 0,
        options=_u32_options(entry).hex(),
    )


def _u32_options(entry: Message) -> bytes:
    """Return u32's options as it takes them: without counters, and without what it says of the hardware.

    The number of a priority's first table is the kernel's choice; a filter without one goes there.
    """
    out = b""
    for kind, payload in wire.attrs(_options(entry), 0):
        if kind == _U32_FLAGS:
            flags = wire.get_u32(payload, 0) & ~_CLS_FLAGS_HARDWARE
            out += wire.put_attr(kind, wire.u32(flags)) if flags else b""
        elif kind not in _U32_COUNTERS and not (kind == _U32_HASH and _in_first_table(entry)):
            out += wire.put_attr(kind, payload)
    return out


def _in_first_table(entry: Message) -> bool:
    return bool(entry["handle"] >> 20 >= 0x800)


def _options(entry: Message) -> bytes:
    return bytes(entry.get("TCA_OPTIONS") or b"")


def _filter_fault(entry: Message) -> str | None:
    """Say what of a filter cannot be put back."""
    kind = entry.get("TCA_KIND")
    named = f"its filter {kind} (priority {entry['info'] >> 16})"
    if kind not in tcattrs.FILTERS:
        return named
    if tcattrs.action_of(kind, _options(entry)):
        return f"the action of {named}"
    fault = tcattrs.filter_fault(kind, _u32_options(entry))
    return f"{named}, for {fault}," if fault else None


def _is_implied(entry: Message) -> bool:
    """Say whether this is made by the kernel with a priority's first filter: the priority itself, u32's first table."""
    handle: int = entry["handle"]
    return not handle or (not handle & 0xFFFFF and _in_first_table(entry))


def _address(entry: Message, ifname: str) -> Address:
    local = entry.get("IFA_LOCAL") or entry.get("IFA_ADDRESS")
    peer = entry.get("IFA_ADDRESS")
    flags = entry.get("IFA_FLAGS", entry["flags"])
    label = entry.get("IFA_LABEL") or ""
    label = label if is_utf8(label) else ""
    times = entry.get("IFA_CACHEINFO")
    valid, preferred = (times["ifa_valid"], times["ifa_preferred"]) if times else (_FOREVER, _FOREVER)
    names = [name for name, bit in netlink.ADDRESS_FLAGS.items() if flags & bit]
    if entry["family"] == rules.AF_INET6:
        names += ["temporary"] if flags & _IFA_F_TEMPORARY else []
        names += ["stable_privacy"] if flags & _IFA_F_STABLE_PRIVACY else []
    return Address(
        address=f"{local}/{entry['prefixlen']}",
        peer=peer if peer and peer != local else "",
        broadcast=entry.get("IFA_BROADCAST") or "",
        label=label if label != ifname else "",
        scope=entry["scope"],
        flags=tuple(names),
        valid=None if valid == _FOREVER else valid,
        preferred=None if preferred == _FOREVER else preferred,
        metric=entry.get("IFA_RT_PRIORITY") or 0,
        protocol=entry.get("IFA_PROTO") or 0,
    )


def _is_automatic(entry: Message, mac: str) -> bool:
    """Say whether the kernel gives the device this address by itself when it comes up."""
    address = entry.get("IFA_ADDRESS")
    if entry["family"] != rules.AF_INET6 or not address.startswith("fe80:"):
        return False
    flags = entry.get("IFA_FLAGS", entry["flags"])
    made_by_kernel = entry.get("IFA_PROTO") == _IFAPROT_KERNEL_LL or bool(flags & _IFA_F_STABLE_PRIVACY)
    return made_by_kernel or address == rules.link_local(mac)


def _expiry(times: Mapping[str, int] | None) -> int | None:
    """Return the seconds that a route has left, of which the kernel tells hundredths; None: it stays."""
    ticks = times["rta_expires"] if times else 0
    return max(1, ticks // 100) if ticks > 0 else None


def _route(entry: Message) -> Route:
    family = "inet6" if entry["family"] == rules.AF_INET6 else "inet"
    destination = entry.get("RTA_DST")
    via = entry.get("RTA_GATEWAY") or (entry.get("RTA_VIA") or {}).get("addr", "")
    metrics = entry.get("RTA_METRICS")
    scope = entry["scope"]
    usual = rules.route_scope(family, bool(via))
    return Route(
        dst=f"{destination}/{entry['dst_len']}" if destination else "default",
        family=family,
        via=via,
        src=entry.get("RTA_PREFSRC") or "",
        metric=entry.get("RTA_PRIORITY") or 0,
        table=entry.get("RTA_TABLE", entry["table"]),
        scope=None if scope == usual else scope,
        protocol=entry["proto"],
        type=entry["type"],
        tos=entry["tos"],
        onlink=bool(entry["flags"] & 4),
        pref=entry.get("RTA_PREF") or None,
        expires=_expiry(entry.get("RTA_CACHEINFO")),
        metrics={name.removeprefix("RTAX_").lower(): value for name, value in metrics["attrs"]} if metrics else {},
    )


def _rule(entry: Message) -> Rule:
    def network(name: str, length: int) -> str:
        address = entry.get(name)
        return f"{address}/{length}" if address else ""

    return Rule(
        family="inet6" if entry["family"] == rules.AF_INET6 else "inet",
        priority=entry.get("FRA_PRIORITY") or 0,
        table=entry.get("FRA_TABLE", entry["table"]),
        action=entry["action"],
        flags=entry["flags"] & 0x2,  # FIB_RULE_INVERT; the others describe the moment
        tos=entry["tos"],
        iif=entry.get("FRA_IIFNAME") or "",
        oif=entry.get("FRA_OIFNAME") or "",
        src=network("FRA_SRC", entry["src_len"]),
        dst=network("FRA_DST", entry["dst_len"]),
        fwmark=entry.get("FRA_FWMARK"),
        fwmask=entry.get("FRA_FWMASK"),
        goto=entry.get("FRA_GOTO"),
        protocol=entry.get("FRA_PROTOCOL"),
        ip_proto=entry.get("FRA_IP_PROTO"),
        sport=entry.get("FRA_SPORT_RANGE") or "",
        dport=entry.get("FRA_DPORT_RANGE") or "",
        uid_range=entry.get("FRA_UID_RANGE") or "",
        suppress_prefixlength=_unless_all_ones(entry.get("FRA_SUPPRESS_PREFIXLEN")),
        suppress_ifgroup=_unless_all_ones(entry.get("FRA_SUPPRESS_IFGROUP")),
    )


def _unless_all_ones(value: int | None) -> int | None:
    return None if value == _FOREVER else value


def _neighbours(entries: Iterable[Message]) -> tuple[Neighbour, ...]:
    found = [
        Neighbour(
            dst=entry.get("NDA_DST"),
            lladdr="" if proxy else entry.get("NDA_LLADDR") or "",
            proxy=proxy,
            router=bool(entry["flags"] & netlink.NTF_ROUTER),
        )
        for entry in entries
        for proxy in [bool(entry["flags"] & netlink.NTF_PROXY)]
    ]
    return tuple(sorted(found, key=lambda entry: (entry.proxy, entry.dst)))


def with_sysctls(found: State, pid: int, asked: Mapping[str, tuple[set[str], set[str]]]) -> State:
    """Return ``found``, a capture of ``pid``, with the sysctls that are ``asked`` for also where they are at a default.

    ``asked`` gives keys by the inner end's name: (inner end's, outer end's).
    """

    def read(end: End, keys: set[str]) -> dict[str, str]:
        paths = {key: f"/proc/sys/net/{rules.sysctl_path(key, end.ifname)}" for key in sorted(keys - {*end.sysctl})}
        return {key: value for key, path in paths.items() if (value := _read_sysctl(path)) is not None}

    nothing: tuple[set[str], set[str]] = (set(), set())
    paths = tree.paths_of(pid)
    veths = []
    for veth in found.veths:
        of_inner, of_outer = asked.get(veth.inner.ifname, nothing)
        if veth.namespace < len(paths):
            with wire.Inside(paths[veth.namespace]):
                inner = _with_more(veth.inner, read(veth.inner, of_inner))
        else:
            inner = veth.inner
        outer = _with_more(veth.outer, read(veth.outer, of_outer))
        veths.append(replace(veth, inner=inner, outer=outer))
    return replace(found, veths=tuple(veths))


def _with_more(end: E, sysctl: dict[str, str]) -> E:
    return replace(end, sysctl={**end.sysctl, **sysctl})


class _Sysctls:
    """Reads per-device sysctls of this thread's network namespace; the defaults are read once."""

    def __init__(self) -> None:
        self._defaults: dict[str, dict[str, str | None]] = {}

    def of(self, ifname: str) -> dict[str, str]:
        """Return those of one device that differ from what a new device of this namespace gets."""
        found = {}
        for family, directory in rules.SYSCTL_DIRECTORIES.items():
            prefix = ".".join(family)
            for name, default in self._defaults_of(prefix, f"/proc/sys/net/{directory}").items():
                value = _read_sysctl(f"/proc/sys/net/{directory}/{ifname}/{name}")
                if value is not None and (value != default or (prefix, name, value) == _IPV6_OFF):
                    found[f"{prefix}.{name}"] = value
        return found

    def _defaults_of(self, prefix: str, base: str) -> dict[str, str | None]:
        if prefix not in self._defaults:
            # Only the machine's first namespace has neigh/default; lo is as new as any other device.
            model = next((f"{base}/{name}" for name in ("default", "lo") if os.path.isdir(f"{base}/{name}")), None)
            names = sorted(os.listdir(model)) if model else []
            skipped = _SYSCTL_SKIPPED[prefix]
            self._defaults[prefix] = {name: _read_sysctl(f"{model}/{name}") for name in names if name not in skipped}
        return self._defaults[prefix]


def _read_sysctl(path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096).decode().strip()
    except OSError:
        return None  # a value that is not set
    finally:
        os.close(descriptor)
