"""What can be known to fail, found before CRIU restores a byte: desired ends against this host, all faults together."""

import os
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from msgspec.structs import replace

from criu_veth import netlink, ovs, ownership, plan, rules, tenants, wire
from criu_veth.bounds import shown
from criu_veth.errors import OperationError
from criu_veth.state import Veth

#: How long a name may stay taken by the device of a container that is being killed, in seconds.
DYING_WAIT = 2.0
_POLL = 0.005


class Findings(NamedTuple):
    """``faults`` prevent the restore, ``warnings`` do not; ``bridges`` is what was seen of each bridge.

    ``deferred`` has, by the inner end's name, what prevents it only if the hook has to make that pair; ``doubles`` are
    the inner ends whose MAC address or addresses a living container on this host has. ``left_out`` are operations that
    this kernel refuses, each with what is done instead, if anything: see `rehearsal`.
    """

    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    bridges: dict[str, netlink.BridgeFacts]
    deferred: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    doubles: frozenset[str] = frozenset()
    left_out: tuple[tuple[plan.Operation, plan.Operation | None], ...] = ()

    def with_warnings(self, more: tuple[str, ...]) -> "Findings":
        """Return these and what somebody else has found."""
        return self._replace(warnings=(*self.warnings, *more))


def preflight(
    veths: tuple[Veth, ...],
    kernel: netlink.Kernel,
    *,
    wait: float = DYING_WAIT,
    ahead: bool = False,
    decided: bool = False,
) -> Findings:
    """Compare the desired ends with the host that ``kernel`` reads; ``wait`` seconds at most for dying devices.

    ``ahead``: the devices live still, and what each takes itself is not looked at: its names and its routes.
    ``decided``: the hook makes all pairs that it makes unless somebody else does.
    """
    check = _Preflight(kernel, () if decided else [v.inner for v in veths if ownership.is_judged_later(v.mode)])
    for veth in veths:
        check.lost(veth)
    veths = tuple(veth for veth in veths if not plan.is_lost(veth))
    check.open_vswitch([veth for veth in veths if veth.outer.ovs])
    if ahead:
        veths = tuple(_without_names(veth) for veth in veths)
    for veth in veths:
        check.master(veth)
    check.names(veths, time.monotonic() + wait)
    for veth in veths:
        check.routes(veth)
        check.parent(veth)
        check.backup_port(veth, veths)
        check.sysctls(veth)
        check.duplicates(veth)
        if not ahead:
            check.double(veth)
    return Findings(
        faults=tuple(check.faults),
        warnings=tuple(dict.fromkeys(check.warnings)),
        bridges=check.bridges,
        deferred={inner: tuple(faults) for inner, faults in check.deferred.items()},
        doubles=frozenset(check.doubles),
    )


def _without_names(veth: Veth) -> Veth:
    """Return ``veth`` with nothing that the device, while it lives, takes itself: its names and its routes."""
    return replace(veth, outer=replace(veth.outer, ifname="", altnames=(), routes=()))


class _Preflight:
    def __init__(self, kernel: netlink.Kernel, undecided: Iterable[str]) -> None:
        self._kernel = kernel
        self._undecided = frozenset(undecided)
        self.faults: list[str] = []
        self.deferred: dict[str, list[str]] = {}
        self.doubles: set[str] = set()
        self.warnings: list[str] = []
        self.bridges: dict[str, netlink.BridgeFacts] = {}
        self._checked: dict[str, str | None] = {}

    def _fault(self, veth: Veth, text: str) -> None:
        faults = self.deferred.setdefault(veth.inner, []) if veth.inner in self._undecided else self.faults
        faults.append(text)

    def lost(self, veth: Veth) -> None:
        """Warn of what an empty network namespace will stay without."""
        if plan.is_lost(veth):
            self.warnings.append(
                f"veth {veth.inner}: it was in another network namespace than the first process's, which --empty-ns net"
                " leaves empty: it does not come back"
            )

    def master(self, veth: Veth) -> None:
        """Check the device that the outer end becomes a port of."""
        name, kind = veth.outer.master, veth.outer.master_kind or "bridge"
        if name is None:
            return
        if name not in self._checked:
            self._checked[name] = self._master_fault(name, kind)
        fault = self._checked[name]
        if fault:
            remedy = _remap_hint(veth, name) if kind == "bridge" else ""
            self._fault(veth, f"veth {veth.inner}: {fault}{remedy}")
            return
        self._vlans(veth, name)
        self._port_flags(veth)
        if name in self.bridges and self.bridges[name].stp_state != bytes(4):
            delay = wire.get_u32(self.bridges[name].forward_delay, 0) / 100
            if delay:
                self.warnings.append(
                    f'veth {veth.inner}: bridge "{name}" has spanning tree on and a forward delay of {delay:g} s:'
                    f" its port will be silent for {2 * delay:g} s after the restore"
                )

    def _vlans(self, veth: Veth, bridge: str) -> None:
        """Check that the bridge tells VLANs apart, where the port is to have some."""
        filtering = self.bridges[bridge].vlan_filtering if bridge in self.bridges else None
        if veth.outer.vlan is None or (filtering and filtering != b"\0"):
            return
        if filtering is None:
            what, remedy = "this kernel's bridges do not filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING)", ""
        else:
            what = f'bridge "{bridge}" does not filter VLANs'
            remedy = f"switch that on: ip link set {bridge} type bridge vlan_filtering 1"
        if veth.captured:
            remedy += (", or " if remedy else "") + 'write in its [[veth]]: vlan = "default"'
        self._fault(veth, f"veth {veth.inner}: {what}; {remedy or 'leave vlan out'}")

    def _port_flags(self, veth: Veth) -> None:
        """Warn of port flags that an old kernel would ignore."""
        for flag, since in netlink.unknown_port_flags(name for name, value in veth.outer.port.items() if value):
            self.warnings.append(
                f"veth {veth.inner}: port flag {flag} came with Linux {since}, and this is {os.uname().release}:"
                " unless that was ported back to it, it will ignore the flag"
            )

    def _master_fault(self, name: str, kind: str) -> str | None:
        link = self._kernel.link(name)
        if link is None:
            there = sorted(shown(found.ifname) for found in self._kernel.links() if found.kind == kind)
            has = f"it has {', '.join(there)}" if there else "it has none"
            return f'{kind} "{name}" does not exist on this host ({has})'
        if link.kind != kind:
            return f'"{name}" is not a {kind} but {_a_kind(link)}'
        if kind == "bridge":
            data = link.info("IFLA_INFO_DATA")
            filtering = data.get_attr("IFLA_BR_VLAN_FILTERING")
            self.bridges[name] = netlink.BridgeFacts(
                stp_state=wire.u32(data.get_attr("IFLA_BR_STP_STATE") or 0),
                forward_delay=wire.u32(data.get_attr("IFLA_BR_FORWARD_DELAY") or 0),
                vlan_filtering=None if filtering is None else bytes([filtering]),
            )
        return None

    def open_vswitch(self, veths: list[Veth]) -> None:
        """Check the bridges of Open vSwitch, and what its database has of the ports' names."""
        if not veths:
            return
        try:
            found = ovs.look(veth.outer.ifname for veth in veths)
        except OperationError as error:
            for veth in veths:
                for fault in error.faults:
                    self._fault(veth, f"veth {veth.inner}: Open vSwitch: {fault}")
            return
        for veth in veths:
            wanted = veth.outer.ovs
            if wanted is not None and wanted.bridge not in found.bridges:
                has = f"it has {', '.join(sorted(found.bridges))}" if found.bridges else "it has none"
                fault = f'Open vSwitch has no bridge "{wanted.bridge}" on this host ({has})'
                self._fault(veth, f"veth {veth.inner}: {fault}{_remap_hint(veth, wanted.bridge)}")
            elif wanted is not None:
                self._record(veth, wanted.bridge, found)

    def _record(self, veth: Veth, bridge: str, found: ovs.Found) -> None:
        """Check the record that there is of a port of this name: only one that a dump has left may be replaced."""
        name = veth.outer.ifname
        port = found.ports.get(name)
        kind = "bond" if name in found.bonded else port and port.other_kind
        if kind:
            of = f"an interface of a {kind}" if name in found.bonded else f"a port of Open vSwitch of the kind {kind}"
            self._fault(veth, f'veth {veth.inner}: the name "{name}" is taken by {of}; choose another outer name')
        elif port is not None and port.bridge != bridge:
            self.warnings.append(
                f'veth {veth.inner}: Open vSwitch has a port "{name}" on {port.bridge}: it will be moved to {bridge}'
            )

    def names(self, veths: tuple[Veth, ...], deadline: float) -> None:
        """Find names that are taken; one that a dying device has is waited for."""
        wanted = [
            (veth, name) for veth in veths for name in (veth.outer.ifname, *veth.outer.altnames, veth.ready) if name
        ]
        alive: netlink.Lifeline | None = None
        while wanted:
            taken = []
            for veth, name in wanted:
                link = self._kernel.link(name)
                if link is None:
                    continue
                alive = alive or netlink.Lifeline(self._kernel)
                if alive.is_dying(link):
                    taken.append((veth, name))
                elif not (ownership.is_foreign(veth.mode) and link.kind == "veth"):  # that may be its own name already
                    taken_by = tenants.who_has(name, link, self._kernel) or _taken(name, link)
                    self._fault(veth, f"veth {veth.inner}: {taken_by}")
            wanted = taken
            if wanted and time.monotonic() > deadline:
                for veth, name in wanted:
                    self._fault(
                        veth,
                        f'veth {veth.inner}: the name "{name}" is still taken by a device that is going away, after'
                        f" {DYING_WAIT:g} s; try again",
                    )
                return
            if wanted:
                time.sleep(_POLL)

    def backup_port(self, veth: Veth, veths: tuple[Veth, ...]) -> None:
        """Check the port that stands in for this one; it may be another veth of the same container."""
        name = veth.outer.backup_port
        if name and name not in [other.outer.ifname for other in veths] and self._kernel.link(name) is None:
            self._fault(veth, f'veth {veth.inner}: its backup port "{name}" does not exist on this host')

    def parent(self, veth: Veth) -> None:
        """Check the device that an inner end is made on top of."""
        if veth.parent and self._kernel.link(veth.parent) is None:
            self._fault(veth, f'{veth.kind} {veth.inner}: its parent "{veth.parent}" does not exist on this host')

    def sysctls(self, veth: Veth) -> None:
        """Check that this kernel has the settings; every device has the same ones, lo among them."""
        for key in veth.outer.sysctl:
            if not os.path.exists(f"/proc/sys/net/{rules.sysctl_path(key, 'lo')}"):
                self._fault(veth, f"veth {veth.inner}: this kernel has no sysctl {key} for a device")

    def duplicates(self, veth: Veth) -> None:
        """Warn of duplicate address detection that is kept, where CRIU brings the addresses back."""
        if not veth.skip_dad and not ownership.may_be_foreign(veth.mode):
            self.warnings.append(
                f'veth {veth.inner}: ipv6_dad = "keep": a socket that is bound to one of its IPv6 addresses cannot be'
                " restored before duplicate address detection is over, and CRIU does not wait"
            )

    def double(self, veth: Veth) -> None:
        """Warn of a living container on this host with the MAC address or an address of this one; see `clones`."""
        identity = ownership.identity_inside(veth)
        if identity is None:
            return
        for name in dict.fromkeys(name for name in (veth.outer.master, veth.was) if name):
            found = self._kernel.double(name, *identity)
            link = None if found is None else self._kernel.link(found[0])
            if found is None or link is None or netlink.Lifeline(self._kernel).is_killed(link):
                continue
            self.doubles.add(veth.inner)
            self.warnings.append(f"veth {veth.inner}: {_doubled(veth, found[0], found[1] == identity[0])}")
            return

    def routes(self, veth: Veth) -> None:
        if ownership.is_foreign(veth.mode):  # it may be there already, by its maker
            return
        for route in veth.outer.routes:
            index = self._kernel.route_to(route)
            link = self._kernel.link_at(index) if index else None
            if link is not None:
                self._fault(
                    veth,
                    f"veth {veth.inner}: there is a route to {route.dst} already, through"
                    f' "{shown(link.ifname)}"; delete it: ip route del {route.dst} dev {shown(link.ifname)}',
                )


def _doubled(veth: Veth, port: str, same_mac: bool) -> str:
    entries = veth.netns.addresses if veth.netns else ()
    addresses = ", ".join(entry.address for entry in entries if not entry.address.startswith("fe80:"))
    what = f"the MAC address {veth.netns.mac}" if veth.netns and same_mac else "an address"
    return (
        f'a living container behind "{port}" has {what} of this one too ({addresses or "no IP address"}): they will'
        " disturb each other; this one is not announced"
    )


def _remap_hint(veth: Veth, name: str) -> str:
    if not veth.captured:
        return ""
    return f'; if it is called differently here, write in the mapping file: [remap] bridge = {{ {name} = "..." }}'


def _a_kind(link: netlink.Link) -> str:
    return f"a {link.kind} device" if link.kind else "a device of another kind"


def _taken(name: str, link: netlink.Link) -> str:
    also = "" if link.ifname == name else f' (an alternative name of "{shown(link.ifname)}")'
    return f'the name "{name}" is taken by {_a_kind(link)}{also}; delete or rename it, or choose another outer name'
