"""Desired ends to operations per action, as data that describes itself. Pure.

An operation says *what*; how it is said to the kernel, and how it is undone, is `assemble`'s business.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from criu_veth import actions, ownership, ranges, rules
from criu_veth.state import (
    Address,
    Adopted,
    FdbEntry,
    Filter,
    Inner,
    Neighbour,
    Outer,
    Ovs,
    Qdisc,
    Route,
    Rule,
    TcClass,
    Veth,
    Vlan,
)
from criu_veth.way import ADOPT, EMPTY, READY, UNKNOWN

#: Order in which a device's own settings are made: the name first, so that every later message names it rightly.
LINK_SETTINGS = ("mac", "mtu", "txqueuelen", "group", "alias", "gso_max_size", "gso_max_segs", "gro_max_size")

#: Order in which a port's flags are set: that of the table.
_PORT_FLAGS = tuple(ranges.PORT)

#: Modes of devices on which there is no ARP, and nobody to be told.
_WITHOUT_NEIGHBOURS = ("l3", "l3s")

#: Device flags and the words for them.
LINK_FLAGS = ("arp", "promisc", "allmulti")


#: Values of `Operation.only` and `Operation.dress`.
MADE_HERE, ADOPTED = "made here", "adopted"
BARE, ANY = "bare", "any"
_MADE_BY_OTHERS, _LEFT_BARE = "if somebody else has made the pair", "where its maker left the kernel's default"


class Operation(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One thing to do for the veth whose inner end is ``inner`` and whose outer end is, or becomes, ``outer``."""

    inner: str
    outer: str
    inside: bool = False
    #: `MADE_HERE`: only if CRIU or the hook made the pair; `ADOPTED`: only if somebody else did.
    only: str = ""
    #: `BARE`: only where the maker left the kernel's default; `ANY`: whatever it has. Both: if the kernel takes it.
    dress: str = ""
    #: Whether the outer end is called ``outer`` by then; otherwise its name is known only when it is found.
    named: bool = True
    #: Whether it is certain, before anything is made, that somebody else makes the pair.
    certain: bool = False

    @property
    def device(self) -> str:
        """The name of the end that this is done to: the inner one if ``inside``; its maker's is not known."""
        return self.inner if self.inside else self.outer or "outer end"

    def describe(self) -> str:
        """Say in a few words what is done, as the hook logs it and ``criu-veth plan`` prints it."""
        raise NotImplementedError


def with_condition(operation: Operation) -> str:
    """Return what an operation does, and when it is done only sometimes, when."""
    when = [_MADE_BY_OTHERS] if operation.only == ADOPTED and not operation.certain else []
    when += [_LEFT_BARE] if operation.dress == BARE else []
    return operation.describe() + (f" ({', '.join(when)})" if when else "")


class Rename(Operation, frozen=True, kw_only=True):
    """Give the outer end its name, whatever CRIU called it."""

    def describe(self) -> str:  # noqa: D102
        return f"outer end named {self.outer}"


class MakePair(Operation, frozen=True, kw_only=True):
    """Make the pair: the outer end here, down; the inner end in the container, or here as ``ready`` for CRIU to move.

    ``netns`` is what the inner end should be like.
    """

    netns: Inner
    kind: str = "veth"
    kind_mode: str = ""
    ready: str = ""

    def describe(self) -> str:  # noqa: D102
        where = f"ready as {self.ready}" if self.ready else "in the container"
        what = "" if self.kind == "veth" else f"{self.kind} {self.kind_mode} "
        return f"{what}pair made: {self.outer} here, {self.inner} {where}"


class MakeDevice(Operation, frozen=True, kw_only=True):
    """Make an inner end that is no veth, on top of ``parent``, in the container or here as ``ready``."""

    netns: Inner
    kind: str
    kind_mode: str
    parent: str
    ready: str = ""

    def describe(self) -> str:  # noqa: D102
        where = f"ready as {self.ready}" if self.ready else "in the container"
        return f"{self.kind} {self.kind_mode} on {self.parent} made, {where}"


class SetLoopbackUp(Operation, frozen=True, kw_only=True):
    """Set the container's ``lo`` up."""

    def describe(self) -> str:  # noqa: D102
        return "lo up"


class SetLink(Operation, frozen=True, kw_only=True):
    """Set one attribute of the device: a key of `LINK_SETTINGS`."""

    attribute: str
    value: str | int

    def describe(self) -> str:  # noqa: D102
        value = f'"{self.value}"' if self.attribute == "alias" else self.value
        return f"{self.device} {self.attribute} {value}"


class AddAltname(Operation, frozen=True, kw_only=True):
    """Give the device an alternative name."""

    altname: str

    def describe(self) -> str:  # noqa: D102
        return f'{self.device} altname "{self.altname}"'


class SwitchOff(Operation, frozen=True, kw_only=True):
    """Switch offload features off, by the names of ``ethtool -k``."""

    features: tuple[str, ...]

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} features off: {', '.join(self.features)}"


class SetSysctl(Operation, frozen=True, kw_only=True):
    """Write a per-device sysctl; ``key`` as in the mapping file."""

    key: str
    value: str

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} sysctl {self.key} = {self.value}"


class AddAddress(Operation, frozen=True, kw_only=True):
    """Add an IP address."""

    address: Address

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} address {self.address.address}"


class SetFlag(Operation, frozen=True, kw_only=True):
    """Switch one flag of the device: a key of `LINK_FLAGS`."""

    flag: str
    on: bool

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} {self.flag} {'on' if self.on else 'off'}"


class SettleTentative(Operation, frozen=True, kw_only=True):
    """Make the inner end's IPv6 addresses usable at once: those that wait for duplicate address detection."""

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} IPv6 addresses usable at once"


class SettleAddress(Operation, frozen=True, kw_only=True):
    """Give an address that was added without duplicate address detection the flags that it had."""

    address: Address

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} address {self.address.address} settled"


class Announce(Operation, frozen=True, kw_only=True):
    """Tell switches and neighbours where the container is."""

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} announced"


class Attach(Operation, frozen=True, kw_only=True):
    """Make the device a port of ``master``, a device of kind ``master_kind``.

    ``unless_attached``: one that its caller has made CRIU attach elsewhere stays there.
    """

    master: str
    master_kind: str
    unless_attached: bool = False

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} attached to {self.master}"


class ForgetOvs(Operation, frozen=True, kw_only=True):
    """Remove the record of a port that a dump left in Open vSwitch's database, unless there is a device of its name.

    Its userspace datapath keeps the dead device open as long as there is a record, and does not open the new one of
    the same name, even where one transaction removes the record and adds another. Its daemon makes a device that
    appears under such a name a port of the kernel's datapath by itself, and then it can be attached nowhere else.

    ``required`` unless the device is to become something else than a port of Open vSwitch, which need not be there.
    """

    required: bool = True

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} removed from Open vSwitch, where it is left of the device that is gone"


class AttachOvs(Operation, frozen=True, kw_only=True):
    """Make the device a port of an Open vSwitch bridge."""

    ovs: Ovs

    def describe(self) -> str:  # noqa: D102
        words = [f"{self.device} attached to {self.ovs.bridge}"]
        words += [self.ovs.vlan_mode] if self.ovs.vlan_mode else []
        words += [f"tag {self.ovs.tag}"] if self.ovs.tag is not None else []
        words += [f"trunks {' '.join(map(str, rules.vlan_entries(self.ovs.trunks)))}"] if self.ovs.trunks else []
        return ", ".join(words)


class SetPort(Operation, frozen=True, kw_only=True):
    """Set one flag of the bridge port."""

    flag: str
    value: int

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} port {self.flag} {self.value}"


class AddVlans(Operation, frozen=True, kw_only=True):
    """Make the bridge port a member of its VLANs."""

    vlan: Vlan

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} vlan {vlan_text(self.vlan)}"


class DropOtherVlans(Operation, frozen=True, kw_only=True):
    """Take the bridge port out of every other VLAN: a bridge gives each new port one by itself."""

    vlan: Vlan

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} in no other vlan"


class SetBackupPort(Operation, frozen=True, kw_only=True):
    """Name the port that the bridge uses while this one has no carrier."""

    backup_port: str

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} port backup_port {self.backup_port}"


class AddFdb(Operation, frozen=True, kw_only=True):
    """Add an entry to the bridge's forwarding database."""

    entry: FdbEntry

    def describe(self) -> str:  # noqa: D102
        vlan = f" vlan {self.entry.vlan}" if self.entry.vlan else ""
        return f"{self.device} fdb {self.entry.mac}{vlan} {self.entry.state}"


class AddNeighbour(Operation, frozen=True, kw_only=True):
    """Add a permanent neighbour or a proxy entry."""

    entry: Neighbour

    def describe(self) -> str:  # noqa: D102
        what = "proxy" if self.entry.proxy else self.entry.lladdr
        return f"{self.device} neighbour {self.entry.dst} {what}"


class AddRule(Operation, frozen=True, kw_only=True):
    """Add a policy routing rule that names the device."""

    rule: Rule

    def describe(self) -> str:  # noqa: D102
        words = [f"iif {self.rule.iif}"] if self.rule.iif else []
        words += [f"oif {self.rule.oif}"] if self.rule.oif else []
        words += [f"from {self.rule.src}"] if self.rule.src else []
        words += [f"to {self.rule.dst}"] if self.rule.dst else []
        words += [f"table {self.rule.table}"] if self.rule.table else []
        return f"{self.device} rule {self.rule.priority}: {' '.join(words)}"


class AddQdisc(Operation, frozen=True, kw_only=True):
    """Add a queueing discipline."""

    qdisc: Qdisc

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} qdisc {self.qdisc.kind} {self.qdisc.handle} parent {self.qdisc.parent}"


class AddClass(Operation, frozen=True, kw_only=True):
    """Add a traffic class."""

    entry: TcClass

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} class {self.entry.kind} {self.entry.handle} parent {self.entry.parent}"


class AddFilter(Operation, frozen=True, kw_only=True):
    """Add a traffic filter."""

    entry: Filter

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} filter {self.entry.kind} priority {self.entry.priority} parent {self.entry.parent}"


class SetUp(Operation, frozen=True, kw_only=True):
    """Set the device up, or down (CRIU sets up what it attaches)."""

    up: bool = True

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} {'up' if self.up else 'down'}"


class AddRoute(Operation, frozen=True, kw_only=True):
    """Add a route through the device."""

    route: Route

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} route {route_text(self.route)}"


class DropRoute(Operation, frozen=True, kw_only=True):
    """Remove a route that CRIU brought back for ever, to add it again with the lifetime that it has left."""

    route: Route

    def describe(self) -> str:  # noqa: D102
        return f"{self.device} route {self.route.dst} without its lifetime removed"


def vlan_text(vlan: Vlan) -> str:
    """Write a port's VLANs in the kernel's terms."""
    words = [f"pvid {vlan.pvid}"] if vlan.pvid is not None else []
    for name, entries in (("untagged", vlan.untagged), ("tagged", vlan.tagged)):
        words += [f"{name} {' '.join(map(str, entries))}"] if entries else []
    return ", ".join(words) or "none"


def route_text(route: Route) -> str:
    """Write a route as ``ip route`` does."""
    words = [route.dst]
    if route.via:
        words += ["via", route.via]
    if route.src:
        words += ["src", route.src]
    if route.metric:
        words += ["metric", str(route.metric)]
    if route.table != 254:
        words += ["table", str(route.table)]
    if route.scope is not None:
        words += ["scope", {0: "global", 200: "site", 253: "link", 254: "host"}.get(route.scope, str(route.scope))]
    if route.onlink:
        words.append("onlink")
    if route.expires is not None:
        words += ["expires", str(route.expires)]
    return " ".join(words)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one restore does: ``veths`` as desired, ``operations`` by action (of ``actions.RESTORE_STAGES``).

    Announcements are sent ``repeat`` times more, every ``interval`` seconds.
    """

    veths: tuple[Veth, ...]
    operations: dict[str, tuple[Operation, ...]]
    repeat: int = 3
    interval: float = 1.0


def make(veths: tuple[Veth, ...], *, repeat: int = 3, interval: float = 1.0) -> Plan:
    """Plan a restore.

    Devices that CRIU does not make are made at setup-namespaces, or at post-setup-namespaces where only then can be
    seen that it has not. The outer end is attached and set up at post-restore, when the container's sockets exist: a
    segment that arrives before would be answered with a reset. Port flags precede "up", so that no frame passes an
    unguarded port.
    """
    veths = tuple(veth for veth in veths if not is_lost(veth))
    early = [operation for veth in veths if veth.mode in (EMPTY, READY) for operation in _made_here(veth)]
    # Where only the first process is there, only in its network namespace can a pair be made.
    seen = [
        operation for veth in veths if veth.mode == UNKNOWN and not veth.namespace for operation in _made_here(veth)
    ]
    seen += [_settle(veth) for veth in veths if _may_be_tentative(veth)]
    late = [operation for veth in veths for operation in _late(veth)]
    stages: dict[str, list[Operation]] = {
        actions.PRE_RESTORE: [_forget(veth) for veth in veths if _may_be_left_in_ovs(veth)],
        actions.SETUP_NAMESPACES: early,
        actions.POST_SETUP_NAMESPACES: seen,
        actions.POST_RESTORE: late,
    }
    operations = {action: tuple(listed) for action, listed in stages.items() if listed}
    return Plan(veths=veths, operations=operations, repeat=repeat, interval=interval)


def is_lost(veth: Veth) -> bool:
    """Say whether nobody can bring this veth back.

    The hook makes devices in the first process's network namespace. The others that CRIU leaves empty are not there
    for it before the processes are, and these have restored their sockets by then.
    """
    return veth.mode == EMPTY and veth.namespace > 0


def _may_be_left_in_ovs(veth: Veth) -> bool:
    return veth.paired and not ownership.is_foreign(veth.mode) and (veth.outer.ovs is not None or veth.was_ovs)


def _forget(veth: Veth) -> Operation:
    required = veth.outer.ovs is not None and not ownership.is_judged_later(veth.mode)
    return ForgetOvs(inner=veth.inner, outer=veth.outer.ifname, required=required)


def only_ipv6(made: Plan) -> frozenset[str]:
    """Return the actions that have nothing to do for a container without IPv6 addresses."""
    return frozenset(
        action
        for action, listed in made.operations.items()
        if all(isinstance(operation, SettleTentative) for operation in listed)
    )


def _settle(veth: Veth) -> Operation:
    return SettleTentative(inner=veth.inner, outer=veth.outer.ifname, inside=True)


def _may_be_tentative(veth: Veth) -> bool:
    """Say whether CRIU brings back IPv6 addresses that sockets may be bound to before they are usable."""
    if veth.mode in (EMPTY, ADOPT) or not veth.skip_dad:
        return False
    return veth.netns is None or any(":" in address.address for address in veth.netns.addresses)


def _late(veth: Veth) -> list[Operation]:
    """Plan what happens once the container's sockets exist."""
    late: list[Operation] = []
    if not ownership.is_foreign(veth.mode):
        late += _outer_end(veth) if veth.paired else []
    if veth.mode not in (EMPTY, ADOPT):
        late += _not_brought_by_criu(veth)
    if veth.adopted is not None and veth.paired:
        late = [replace(operation, only=MADE_HERE) for operation in late] if veth.mode == EMPTY else late
        certain = ownership.is_foreign(veth.mode)
        late += [replace(operation, only=ADOPTED, certain=certain) for operation in _adopted(veth, veth.adopted)]
    if _is_announced(veth):
        late.append(Announce(inner=veth.inner, outer=veth.outer.ifname, inside=True))
    return late


def _is_announced(veth: Veth) -> bool:
    """Say whether the container is announced; in a namespace that somebody else made only if a mapping names it."""
    if veth.mode == ADOPT and not veth.explicit:
        return False
    return veth.announce and veth.kind_mode not in _WITHOUT_NEIGHBOURS


def _adopted(veth: Veth, adopted: Adopted) -> list[Operation]:
    """Plan what is done to a pair that somebody else has made: what the mapping file asks for, then its dress."""
    asked = replace(veth, outer=adopted.asked, named=bool(adopted.asked.ifname))
    dress = BARE if ownership.keeps_what_its_maker_set(veth.mode) else ANY
    name: dict[str, Any] = {"inner": veth.inner, "outer": adopted.asked.ifname, "dress": dress, "named": asked.named}
    inner = _inner_dress({**name, "inside": True}, adopted.inner) if veth.mode in (EMPTY, ADOPT) else []
    return [*_outer_end(asked, adopted=True), *_dress(name, adopted.dress), *inner]


def _dress(name: dict[str, Any], outer: Outer) -> list[Operation]:
    settings = ((attribute, getattr(outer, attribute)) for attribute in LINK_SETTINGS)
    flags = ((flag, getattr(outer, flag)) for flag in LINK_FLAGS)
    return [
        *(SetLink(**name, attribute=key, value=value) for key, value in settings if value is not None),
        *(SetFlag(**name, flag=flag, on=on) for flag, on in flags if on is not None),
        *([SwitchOff(**name, features=outer.features_off)] if outer.features_off else []),
        *_vlans(name, outer.vlan),
        *(SetPort(**name, flag=flag, value=outer.port[flag]) for flag in sorted(outer.port, key=_PORT_FLAGS.index)),
        *(SetSysctl(**name, key=key, value=value) for key, value in outer.sysctl.items()),
        *_traffic_control(name, outer),
    ]


def _inner_dress(name: dict[str, Any], inner: Inner) -> list[Operation]:
    settings = ((attribute, getattr(inner, attribute)) for attribute in ("mtu", "txqueuelen", "group", "alias"))
    return [
        *(SetLink(**name, attribute=key, value=value) for key, value in settings if value is not None),
        *([SwitchOff(**name, features=inner.features_off)] if inner.features_off else []),
    ]


def _not_brought_by_criu(veth: Veth) -> list[Operation]:
    """Plan what CRIU leaves out of an inner end that it brings back: names, settings and permanent neighbours."""
    name: dict[str, Any] = {"inner": veth.inner, "outer": veth.outer.ifname, "inside": True}
    netns = veth.netns or Inner(ifname=veth.inner)
    settings = {attribute: getattr(netns, attribute) for attribute in ("txqueuelen", "group", "alias")}
    listed: list[Operation] = []
    if veth.mode == READY:  # CRIU has moved the device: the mark on both ends has served
        settings["group"] = netns.group or 0
        if veth.paired and not veth.outer.group:
            listed.append(SetLink(**{**name, "inside": False}, attribute="group", value=0))
    listed += [SetLink(**name, attribute=key, value=value) for key, value in settings.items() if value is not None]
    listed += [AddAltname(**name, altname=altname) for altname in netns.altnames]
    listed += [SwitchOff(**name, features=netns.features_off)] if netns.features_off else []
    listed += [AddNeighbour(**name, entry=entry) for entry in netns.neighbours]
    fading = [] if veth.mode == ADOPT else [route for route in netns.routes if route.expires is not None]
    return listed + [kind(**name, route=route) for route in fading for kind in (DropRoute, AddRoute)]


def _made_here(veth: Veth) -> list[Operation]:
    """Plan a device that CRIU does not make, and all that CRIU does not give its inner end."""
    name: dict[str, Any] = {"inner": veth.inner, "outer": veth.outer.ifname}
    netns = veth.netns or Inner(ifname=veth.inner)
    made: Operation
    device: dict[str, Any] = {"kind": veth.kind, "kind_mode": veth.kind_mode, "ready": veth.ready}
    if veth.paired:
        made = MakePair(**name, **device, netns=netns)
    else:
        made = MakeDevice(**name, **device, parent=veth.parent, netns=netns)
    if veth.mode == READY:
        return [made]
    return [SetLoopbackUp(**name), made, *_inner_end(veth.inner, veth.outer.ifname, netns)]


def _inner_end(inner: str, outer: str, netns: Inner) -> list[Operation]:
    name: dict[str, Any] = {"inner": inner, "outer": outer, "inside": True}
    settings = ((attribute, getattr(netns, attribute)) for attribute in ("txqueuelen", "group", "alias"))
    flags = ((flag, getattr(netns, flag)) for flag in LINK_FLAGS)
    return [
        *(SetLink(**name, attribute=key, value=value) for key, value in settings if value is not None),
        *(SetFlag(**name, flag=flag, on=on) for flag, on in flags if on is not None),
        *(AddAltname(**name, altname=altname) for altname in netns.altnames),
        *([SwitchOff(**name, features=netns.features_off)] if netns.features_off else []),
        *(SetSysctl(**name, key=key, value=value) for key, value in netns.sysctl.items()),
        *(AddAddress(**name, address=_usable_at_once(address)) for address in _as_added(netns.addresses)),
        *([SetUp(**name)] if netns.up is not False else []),
        *(SettleAddress(**name, address=address) for address in netns.addresses if _needs_settling(address)),
        *(AddNeighbour(**name, entry=entry) for entry in netns.neighbours),
        *(AddRoute(**name, route=route) for route in _to_add(netns.routes)),
    ]


def _as_added(addresses: tuple[Address, ...]) -> list[Address]:
    """Return addresses in the order in which they have to be added: the kernel lists the newest IPv6 one first."""
    newest_first = [address for address in addresses if ":" in address.address]
    return [address for address in addresses if ":" not in address.address] + newest_first[::-1]


def _needs_settling(address: Address) -> bool:
    return ":" in address.address and "nodad" not in address.flags


def _to_add(routes: tuple[Route, ...]) -> list[Route]:
    """Return routes in the order in which they have to be added: gateways are reached by those without one.

    Of those with one destination, table and metric the kernel takes one; which one `rules.route_key` tells.
    """
    first = {
        rules.route_key(route.family, route.dst, route.table, route.metric, route.tos): route for route in routes[::-1]
    }
    return sorted((route for route in routes if route in first.values()), key=lambda route: bool(route.via))


def _is_source(address: Address, routes: tuple[Route, ...]) -> bool:
    """Say whether a route names the address as its source: the kernel refuses one that is not usable yet."""
    return address.address.partition("/")[0] in [route.src for route in routes]


def _usable_at_once(address: Address) -> Address:
    """Return an address that needs no duplicate address detection: sockets are bound to it a moment later."""
    if not _needs_settling(address):
        return address
    return replace(address, flags=(*address.flags, "nodad"))


def _outer_end(veth: Veth, *, adopted: bool = False) -> list[Operation]:
    """Plan all that the outer end should have; one that is ``adopted`` has a name, and its maker has set it up."""
    outer = veth.outer
    # Open vSwitch knows its ports by their names.
    known = veth.named or outer.ovs is not None or not ownership.is_named_by_caller(veth.mode)
    named = bool(outer.ifname) and known
    name: dict[str, Any] = {"inner": veth.inner, "outer": outer.ifname, "named": named}
    settings = ((attribute, getattr(outer, attribute)) for attribute in LINK_SETTINGS)
    flags = ((flag, getattr(outer, flag)) for flag in LINK_FLAGS)
    sources = [address for address in outer.addresses if _is_source(address, outer.routes)]
    return [
        *([Rename(**name)] if named else []),
        *(SetLink(**name, attribute=key, value=value) for key, value in settings if value is not None),
        *(SetFlag(**name, flag=flag, on=on) for flag, on in flags if on is not None),
        *(AddAltname(**name, altname=altname) for altname in outer.altnames),
        *([SwitchOff(**name, features=outer.features_off)] if outer.features_off else []),
        *_port(veth, name, adopted=adopted),
        *(SetSysctl(**name, key=key, value=value) for key, value in outer.sysctl.items()),
        *(
            AddAddress(**name, address=_usable_at_once(address) if address in sources else address)
            for address in _as_added(outer.addresses)
        ),
        *_traffic_control(name, outer),
        *([] if adopted else [SetUp(**name, up=outer.up is not False)]),
        *(AddNeighbour(**name, entry=entry) for entry in outer.neighbours),
        *(AddRoute(**name, route=route) for route in _to_add(outer.routes)),
        *(SettleAddress(**name, address=address) for address in sources if _needs_settling(address)),
        *(AddRule(**name, rule=rule) for rule in outer.rules),
    ]


def _port(veth: Veth, name: dict[str, Any], *, adopted: bool) -> list[Operation]:
    outer = veth.outer
    if outer.ovs is not None:
        return [AttachOvs(**name, ovs=outer.ovs)]
    if outer.master is None and not adopted:
        return []
    attach: dict[str, Any] = {"master": outer.master, "master_kind": outer.master_kind or "bridge"}
    attach["unless_attached"] = not adopted and not veth.explicit and ownership.is_named_by_caller(veth.mode)
    return [
        *([Attach(**name, **attach)] if outer.master else []),
        *_vlans(name, outer.vlan),
        *(SetPort(**name, flag=flag, value=outer.port[flag]) for flag in sorted(outer.port, key=_PORT_FLAGS.index)),
        *([SetBackupPort(**name, backup_port=outer.backup_port)] if outer.backup_port else []),
        *(AddFdb(**name, entry=entry) for entry in outer.fdb),
    ]


def _vlans(name: dict[str, Any], vlan: Vlan | None) -> list[Operation]:
    """Add what is wanted before anything is taken away: a port that CRIU has set up already is never without."""
    if vlan is None:
        return []
    added = [AddVlans(**name, vlan=vlan)] if vlan.untagged or vlan.tagged else []
    return [*added, DropOtherVlans(**name, vlan=vlan)]


def _traffic_control(name: dict[str, Any], outer: Outer) -> list[Operation]:
    """Order qdiscs and classes so that each follows its parent; filters come last, they name classes."""
    waiting: list[AddQdisc | AddClass] = [AddQdisc(**name, qdisc=qdisc) for qdisc in outer.qdiscs]
    waiting += [AddClass(**name, entry=entry) for entry in outer.classes]
    placed: list[Operation] = []
    known = {"root", "ingress", "none"}
    while waiting:
        ready = [entry for entry in waiting if _tc_parent(entry) in known]
        if not ready:
            break  # a parent that was not captured has been warned of
        placed += ready
        known |= {_tc_handle(entry) for entry in ready}
        waiting = [entry for entry in waiting if entry not in ready]
    return placed + [AddFilter(**name, entry=entry) for entry in outer.filters]


def _tc_parent(operation: AddQdisc | AddClass) -> str:
    if isinstance(operation, AddQdisc):
        return operation.qdisc.parent
    parent = operation.entry.parent
    return operation.entry.handle.partition(":")[0] + ":" if parent == "root" else parent


def _tc_handle(operation: AddQdisc | AddClass) -> str:
    return operation.qdisc.handle if isinstance(operation, AddQdisc) else operation.entry.handle
