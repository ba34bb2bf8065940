"""Desired ends to operations per action, as data that describes itself. Pure.

An operation says *what*; how it is said to the kernel, and how it is undone, is `assemble`'s business.
"""

import msgspec

from criu_veth import actions
from criu_veth.state import Address, FdbEntry, Filter, Neighbour, Outer, Qdisc, Route, Rule, TcClass, Veth

#: Order in which a device's own settings are made: the name first, so that every later message names it rightly.
LINK_SETTINGS = ("mac", "mtu", "txqueuelen", "group", "alias", "gso_max_size", "gso_max_segs", "gro_max_size")

#: Device flags and the words for them.
LINK_FLAGS = ("arp", "promisc", "allmulti")


class Operation(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One thing to do for the veth whose inner end is ``inner`` and whose outer end is, or becomes, ``outer``."""

    inner: str
    outer: str

    def describe(self) -> str:
        """Say in a few words what is done, as the hook logs it and ``criu-veth plan`` prints it."""
        raise NotImplementedError


class Rename(Operation, frozen=True, kw_only=True):
    """Give the outer end its name, whatever CRIU called it."""

    def describe(self) -> str:  # noqa: D102
        return f"outer end named {self.outer}"


class SetLink(Operation, frozen=True, kw_only=True):
    """Set one attribute of the device: a key of `LINK_SETTINGS`."""

    attribute: str
    value: str | int

    def describe(self) -> str:  # noqa: D102
        value = f'"{self.value}"' if self.attribute == "alias" else self.value
        return f"{self.outer} {self.attribute} {value}"


class AddAltname(Operation, frozen=True, kw_only=True):
    """Give the device an alternative name."""

    altname: str

    def describe(self) -> str:  # noqa: D102
        return f'{self.outer} altname "{self.altname}"'


class SetSysctl(Operation, frozen=True, kw_only=True):
    """Write a per-device sysctl; ``key`` as in the mapping file."""

    key: str
    value: str

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} sysctl {self.key} = {self.value}"


class AddAddress(Operation, frozen=True, kw_only=True):
    """Add an IP address."""

    address: Address

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} address {self.address.address}"


class SetFlag(Operation, frozen=True, kw_only=True):
    """Switch one flag of the device: a key of `LINK_FLAGS`."""

    flag: str
    on: bool

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} {self.flag} {'on' if self.on else 'off'}"


class Attach(Operation, frozen=True, kw_only=True):
    """Make the device a port of ``master``, a device of kind ``master_kind``."""

    master: str
    master_kind: str

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} attached to {self.master}"


class SetPort(Operation, frozen=True, kw_only=True):
    """Set one flag of the bridge port."""

    flag: str
    value: int

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} port {self.flag} {self.value}"


class SetBackupPort(Operation, frozen=True, kw_only=True):
    """Name the port that the bridge uses while this one has no carrier."""

    backup_port: str

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} port backup_port {self.backup_port}"


class AddFdb(Operation, frozen=True, kw_only=True):
    """Add an entry to the bridge's forwarding database."""

    entry: FdbEntry

    def describe(self) -> str:  # noqa: D102
        vlan = f" vlan {self.entry.vlan}" if self.entry.vlan else ""
        return f"{self.outer} fdb {self.entry.mac}{vlan} {self.entry.state}"


class AddNeighbour(Operation, frozen=True, kw_only=True):
    """Add a permanent neighbour or a proxy entry."""

    entry: Neighbour

    def describe(self) -> str:  # noqa: D102
        what = "proxy" if self.entry.proxy else self.entry.lladdr
        return f"{self.outer} neighbour {self.entry.dst} {what}"


class AddRule(Operation, frozen=True, kw_only=True):
    """Add a policy routing rule that names the device."""

    rule: Rule

    def describe(self) -> str:  # noqa: D102
        words = [f"iif {self.rule.iif}"] if self.rule.iif else []
        words += [f"oif {self.rule.oif}"] if self.rule.oif else []
        words += [f"from {self.rule.src}"] if self.rule.src else []
        words += [f"to {self.rule.dst}"] if self.rule.dst else []
        words += [f"table {self.rule.table}"] if self.rule.table else []
        return f"{self.outer} rule {self.rule.priority}: {' '.join(words)}"


class AddQdisc(Operation, frozen=True, kw_only=True):
    """Add a queueing discipline."""

    qdisc: Qdisc

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} qdisc {self.qdisc.kind} {self.qdisc.handle} parent {self.qdisc.parent}"


class AddClass(Operation, frozen=True, kw_only=True):
    """Add a traffic class."""

    entry: TcClass

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} class {self.entry.kind} {self.entry.handle} parent {self.entry.parent}"


class AddFilter(Operation, frozen=True, kw_only=True):
    """Add a traffic filter."""

    entry: Filter

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} filter {self.entry.kind} priority {self.entry.priority} parent {self.entry.parent}"


class SetUp(Operation, frozen=True, kw_only=True):
    """Set the device up, or down (CRIU sets up what it attaches)."""

    up: bool = True

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} {'up' if self.up else 'down'}"


class AddRoute(Operation, frozen=True, kw_only=True):
    """Add a route through the device."""

    route: Route

    def describe(self) -> str:  # noqa: D102
        return f"{self.outer} route {route_text(self.route)}"


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
    return " ".join(words)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one restore does: ``veths`` as desired, ``operations`` by action (the keys of
    ``actions.RESTORE_STAGES``).
    """

    veths: tuple[Veth, ...]
    operations: dict[str, tuple[Operation, ...]]


def make(veths: tuple[Veth, ...]) -> Plan:
    """Plan a restore in which CRIU makes the pairs (``--external veth[INNER]:OUTER``).

    The outer end is attached and set up at post-restore, when the container's sockets exist: a segment that arrives
    before would be answered with a reset. Port flags precede "up", so that no frame passes an unguarded port.
    """
    late = [operation for veth in veths for operation in _outer_end(veth.inner, veth.outer)]
    return Plan(veths=veths, operations={actions.POST_RESTORE: tuple(late)})


def _outer_end(inner: str, outer: Outer) -> list[Operation]:
    name = {"inner": inner, "outer": outer.ifname}
    settings = ((attribute, getattr(outer, attribute)) for attribute in LINK_SETTINGS)
    flags = ((flag, getattr(outer, flag)) for flag in LINK_FLAGS)
    return [
        Rename(**name),
        *(SetLink(**name, attribute=key, value=value) for key, value in settings if value is not None),
        *(SetFlag(**name, flag=flag, on=on) for flag, on in flags if on is not None),
        *(AddAltname(**name, altname=altname) for altname in outer.altnames),
        *_port(name, outer),
        *(SetSysctl(**name, key=key, value=value) for key, value in outer.sysctl.items()),
        *(AddAddress(**name, address=address) for address in outer.addresses),
        *_traffic_control(name, outer),
        SetUp(**name, up=outer.up is not False),
        *(AddNeighbour(**name, entry=entry) for entry in outer.neighbours),
        *(AddRoute(**name, route=route) for route in sorted(outer.routes, key=lambda route: bool(route.via))),
        *(AddRule(**name, rule=rule) for rule in outer.rules),
    ]


def _port(name: dict[str, str], outer: Outer) -> list[Operation]:
    if outer.master is None:
        return []
    return [
        Attach(**name, master=outer.master, master_kind=outer.master_kind or "bridge"),
        *(SetPort(**name, flag=flag, value=value) for flag, value in outer.port.items()),
        *([SetBackupPort(**name, backup_port=outer.backup_port)] if outer.backup_port else []),
        *(AddFdb(**name, entry=entry) for entry in outer.fdb),
    ]


def _traffic_control(name: dict[str, str], outer: Outer) -> list[Operation]:
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
