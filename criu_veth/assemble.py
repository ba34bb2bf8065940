"""A plan's operations to the tuples that `execute` runs: messages, the places to fill in, what "already so" means,
undo.
"""

import errno
from collections.abc import Callable
from typing import Any

from criu_veth import actions, netlink, plan, rules, wire
from criu_veth.execute import FIRST_SLOT, HOST, INDEX, INNER, NETLINK, QUERY, REFUSE, SLOT_OWN_PID, SYSCTL
from criu_veth.plan import Plan
from criu_veth.state import Route, Veth

Tuple = tuple[Any, ...]

_AT_INDEX = netlink.INDEX_OFFSET
_FLAGS_OFFSET = 24  # ifi_flags


class _Slots:
    """Hands out slot numbers by name."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def __call__(self, what: str, name: str) -> int:
        return self._numbers.setdefault((what, name), FIRST_SLOT + len(self._numbers))

    @property
    def count(self) -> int:
        return FIRST_SLOT + len(self._numbers)


def assemble(made: Plan, unexplained: str | None = None) -> dict[str, tuple[int, Tuple]]:
    """Return, by action, the number of slots and the operations; an action without any is left out.

    ``unexplained`` is given where nothing says what veths should be like: a container that has one then fails.
    """
    if unexplained is not None:
        return {actions.POST_RESTORE: (FIRST_SLOT, (_refuse_veths(unexplained),))}
    out = {}
    for action in actions.RESTORE_STAGES:
        operations = made.operations.get(action, ())
        if operations:
            out[action] = _assemble_action(made.veths, operations)
    return out


def _assemble_action(veths: tuple[Veth, ...], operations: tuple[plan.Operation, ...]) -> tuple[int, Tuple]:
    slots = _Slots()
    listed = _find_ends(veths, slots)
    masters = {o.master: o.master_kind for o in operations if isinstance(o, plan.Attach)}
    listed += [_find_master(name, kind, slots) for name, kind in masters.items()]
    backups = dict.fromkeys(o.backup_port for o in operations if isinstance(o, plan.SetBackupPort))
    listed += [_find_device(name, slots) for name in backups if name not in masters]
    listed += [_ASSEMBLERS[type(operation)](operation, slots) for operation in operations]
    return slots.count, tuple(listed)


def _refuse_veths(why: str) -> Tuple:
    """Fail if the container has a veth: nobody said where its outer end belongs."""
    fault = f'veth %s: {why}; write a mapping such as mappings = ["veth[%s]:NAME@BRIDGE"]'
    return (
        REFUSE,
        INNER,
        netlink.dump_links(),
        netlink.LINK_ATTRS,
        (netlink.IFLA_IFNAME,),
        netlink.INFO_KIND,
        b"veth\0",
        fault,
        why,
    )


def _find_ends(veths: tuple[Veth, ...], slots: _Slots) -> list[Tuple]:
    """Find the inner ends by name, and each outer end by following the inner end's peer, whatever it is called."""
    wanted = []
    for veth in veths:
        binds = (
            (slots("inner", veth.inner), _AT_INDEX),
            (slots("peer", veth.inner), (netlink.IFLA_LINK,)),
            (slots("peer netns", veth.inner), (netlink.IFLA_LINK_NETNSID,)),
        )
        missing = f"veth {veth.inner}: the container has no device of that name ({veth.where})"
        other = f'veth {veth.inner}: the container\'s "{veth.inner}" is no veth ({veth.where})'
        expects = (((netlink.LINK_ATTRS, netlink.INFO_KIND), b"veth\0", other),)
        wanted.append((veth.inner.encode() + b"\0", binds, expects, missing))
    stray = "%s: left alone, no mapping names it"
    index: Tuple = (
        INDEX,
        INNER,
        netlink.dump_links(),
        netlink.LINK_ATTRS,
        (netlink.IFLA_IFNAME,),
        tuple(wanted),
        ((netlink.INFO_KIND, b"veth\0", stray),),
    )
    own_nsid = slots("host netns", "")
    nsid: Tuple = (
        QUERY,
        INNER,
        netlink.get_nsid(0),
        ((netlink.NSID_ATTRS + 4, SLOT_OWN_PID),),
        ((own_nsid, netlink.NSID_ATTRS + 4),),
        (),
        "cannot tell the host's network namespace",
    )
    outer = [
        (
            QUERY,
            HOST,
            netlink.get_link(),
            ((_AT_INDEX, slots("peer", veth.inner)),),
            (
                (slots("outer", veth.inner), _AT_INDEX),
                (slots("flags", veth.inner), _FLAGS_OFFSET),
                (slots("before", veth.inner), None),
            ),
            (
                (
                    slots("peer netns", veth.inner),
                    own_nsid,
                    f"veth {veth.inner}: its outer end is not in this network namespace",
                ),
            ),
            f"veth {veth.inner}: cannot find its outer end",
        )
        for veth in veths
    ]
    return [index, nsid, *outer]


def _find_master(name: str, kind: str, slots: _Slots) -> Tuple:
    expected = ((netlink.LINK_ATTRS, netlink.INFO_KIND), kind.encode() + b"\0", f'"{name}" is not a {kind}')
    binds = ((slots("device", name), _AT_INDEX),)
    return (QUERY, HOST, netlink.get_link(name), (), binds, (expected,), f'{kind} "{name}"')


def _find_device(name: str, slots: _Slots) -> Tuple:
    return (QUERY, HOST, netlink.get_link(name), (), ((slots("device", name), _AT_INDEX),), (), f'device "{name}"')


def _text(operation: plan.Operation) -> str:
    return f"{operation.inner}: {operation.describe()}"


def _at_outer(operation: plan.Operation, slots: _Slots) -> Tuple:
    return ((_AT_INDEX, slots("outer", operation.inner)),)


def _link_undo(operation: plan.Operation, slots: _Slots, attribute: int, default: bytes | None = None) -> Tuple:
    """Undo by setting the attribute to what it was when the outer end was found."""
    copy = (slots("before", operation.inner), (attribute,), (), default)
    return (HOST, netlink.set_link(), _at_outer(operation, slots), (copy,), _text(operation))


def _netlink(
    operation: plan.Operation,
    slots: _Slots,
    message: bytes,
    undo: Tuple | None,
    *,
    patches: Tuple | None = None,
    already: Tuple | None = None,
    tolerated: tuple[int, ...] = (),
) -> Tuple:
    patches = _at_outer(operation, slots) if patches is None else patches
    return (NETLINK, HOST, message, patches, tolerated, already, undo, _text(operation))


def _rename(operation: plan.Rename, slots: _Slots) -> Tuple:
    message = netlink.set_link(("IFLA_IFNAME", operation.outer))
    return _netlink(operation, slots, message, _link_undo(operation, slots, netlink.IFLA_IFNAME))


def _set_link(operation: plan.SetLink, slots: _Slots) -> Tuple:
    number, name = netlink.LINK_SETTINGS[operation.attribute]
    default = b"" if operation.attribute == "alias" else None
    message = netlink.set_link((name, operation.value))
    return _netlink(operation, slots, message, _link_undo(operation, slots, number, default))


def _add_altname(operation: plan.AddAltname, slots: _Slots) -> Tuple:
    message = netlink.link_property(operation.altname)
    delete = netlink.link_property(operation.altname, delete=True)
    undo = (HOST, delete, _at_outer(operation, slots), (), _text(operation))
    ours = (netlink.get_link(operation.altname), (), (_index_of_reply(slots, operation),))
    return _netlink(operation, slots, message, undo, already=((errno.EEXIST,), ours))


def _index_of_reply(slots: _Slots, operation: plan.Operation) -> Tuple:
    """Expect that the device found is the outer end."""
    return ((_AT_INDEX, 4), slots("outer", operation.inner), "")


def _set_sysctl(operation: plan.SetSysctl, _: _Slots) -> Tuple:
    path = rules.sysctl_path(operation.key, operation.outer)
    return (SYSCTL, HOST, path, operation.value.encode(), _text(operation))


def _add_address(operation: plan.AddAddress, slots: _Slots) -> Tuple:
    entry = operation.address
    return _add_and_delete(operation, slots, netlink.address(entry), netlink.address(entry, delete=True))


def _attach(operation: plan.Attach, slots: _Slots) -> Tuple:
    message = netlink.set_link(("IFLA_MASTER", 0))
    patches = (*_at_outer(operation, slots), (len(message) - 4, slots("device", operation.master)))
    return _netlink(
        operation, slots, message, _link_undo(operation, slots, netlink.IFLA_MASTER, bytes(4)), patches=patches
    )


def _set_port(operation: plan.SetPort, slots: _Slots) -> Tuple:
    number, _ = netlink.PORT_FLAGS[operation.flag]
    kind, data = netlink.INFO_SLAVE_DATA
    copy = (
        slots("before", operation.inner),
        (*netlink.INFO_SLAVE_DATA, number),
        ((kind, netlink.SLAVE_KIND_BRIDGE), (data, b"")),
        None,
    )
    undo = (HOST, netlink.change_link(), _at_outer(operation, slots), (copy,), _text(operation))
    return _netlink(operation, slots, netlink.change_port(operation.flag, operation.value), undo)


def _set_flag(operation: plan.SetFlag, slots: _Slots) -> Tuple:
    bit = {"arp": netlink.IFF_NOARP, "promisc": netlink.IFF_PROMISC, "allmulti": netlink.IFF_ALLMULTI}[operation.flag]
    on = operation.on is not (operation.flag == "arp")  # the kernel's flag says the opposite
    return _change_flags(operation, slots, bit if on else 0, bit)


def _set_up(operation: plan.SetUp, slots: _Slots) -> Tuple:
    return _change_flags(operation, slots, netlink.IFF_UP if operation.up else 0, netlink.IFF_UP)


def _change_flags(operation: plan.Operation, slots: _Slots, flags: int, mask: int) -> Tuple:
    message = netlink.set_flags(flags, mask)
    patches = (*_at_outer(operation, slots), (_FLAGS_OFFSET, slots("flags", operation.inner)))
    undo = (HOST, message, patches, (), _text(operation))
    return _netlink(operation, slots, message, undo)


def _set_backup_port(operation: plan.SetBackupPort, slots: _Slots) -> Tuple:
    message = netlink.change_backup_port()
    patches = (*_at_outer(operation, slots), (len(message) - 4, slots("device", operation.backup_port)))
    return _netlink(operation, slots, message, None, patches=patches)


def _add_and_delete(operation: plan.Operation, slots: _Slots, message: bytes, delete: bytes) -> Tuple:
    """Add something that the device has; it being there already is fine."""
    undo = (HOST, delete, _at_outer(operation, slots), (), _text(operation))
    return _netlink(operation, slots, message, undo, tolerated=(errno.EEXIST,))


def _add_fdb(operation: plan.AddFdb, slots: _Slots) -> Tuple:
    entry = operation.entry
    return _add_and_delete(operation, slots, netlink.fdb(entry), netlink.fdb(entry, delete=True))


def _add_neighbour(operation: plan.AddNeighbour, slots: _Slots) -> Tuple:
    entry = operation.entry
    return _add_and_delete(operation, slots, netlink.neighbour(entry), netlink.neighbour(entry, delete=True))


def _add_qdisc(operation: plan.AddQdisc, slots: _Slots) -> Tuple:
    entry = operation.qdisc
    return _add_and_delete(operation, slots, netlink.qdisc(entry), netlink.qdisc(entry, delete=True))


def _add_class(operation: plan.AddClass, slots: _Slots) -> Tuple:
    entry = operation.entry
    return _add_and_delete(operation, slots, netlink.traffic_class(entry), netlink.traffic_class(entry, delete=True))


def _add_filter(operation: plan.AddFilter, slots: _Slots) -> Tuple:
    entry = operation.entry
    return _add_and_delete(operation, slots, netlink.traffic_filter(entry), netlink.traffic_filter(entry, delete=True))


def _add_rule(operation: plan.AddRule, slots: _Slots) -> Tuple:
    message, delete = netlink.rule(operation.rule), netlink.rule(operation.rule, delete=True)
    undo = (HOST, delete, (), (), _text(operation))
    return _netlink(operation, slots, message, undo, patches=(), tolerated=(errno.EEXIST,))


def _add_route(operation: plan.AddRoute, slots: _Slots) -> Tuple:
    def at_oif(message: bytes) -> Tuple:
        return ((len(message) - 4, slots("outer", operation.inner)),)

    message = netlink.route(operation.route)
    delete = netlink.route(operation.route, delete=True)
    undo = (HOST, delete, at_oif(delete), (), _text(operation))
    ours = (
        netlink.get_route(operation.route),
        (),
        (
            ((netlink.ROUTE_ATTRS, (netlink.RTA_OIF,)), slots("outer", operation.inner), ""),
            *_as_route(operation.route),
        ),
    )
    return _netlink(operation, slots, message, undo, patches=at_oif(message), already=((errno.EEXIST,), ours))


def _as_route(route: Route) -> Tuple:
    """Expect the routing table's entry that a new route would clash with."""
    length, table, metric = netlink.route_key(route)
    return (
        ((netlink.ROUTE_LENGTH_OFFSET, 1), bytes([length]), ""),
        ((netlink.ROUTE_ATTRS, (netlink.RTA_TABLE,)), wire.u32(table), ""),
        ((netlink.ROUTE_ATTRS, (netlink.RTA_PRIORITY,)), wire.u32(metric) if metric else None, ""),
    )


_ASSEMBLERS: dict[type[plan.Operation], Callable[[Any, _Slots], Tuple]] = {
    plan.Rename: _rename,
    plan.SetLink: _set_link,
    plan.AddAltname: _add_altname,
    plan.SetSysctl: _set_sysctl,
    plan.AddAddress: _add_address,
    plan.Attach: _attach,
    plan.SetPort: _set_port,
    plan.SetUp: _set_up,
    plan.AddRoute: _add_route,
    plan.SetFlag: _set_flag,
    plan.SetBackupPort: _set_backup_port,
    plan.AddFdb: _add_fdb,
    plan.AddNeighbour: _add_neighbour,
    plan.AddRule: _add_rule,
    plan.AddQdisc: _add_qdisc,
    plan.AddClass: _add_class,
    plan.AddFilter: _add_filter,
}


def checks(veths: tuple[Veth, ...], bridges: dict[str, netlink.BridgeFacts]) -> Tuple:
    """Return what must still hold at pre-restore for the program to be run as it is (see ``execute.checks_hold``).

    The outer ends' names and routes are free; each bridge is one, with spanning tree and forward delay as they were.
    """
    names = [name for veth in veths for name in (veth.outer.ifname, *veth.outer.altnames)]
    routes = [route for veth in veths for route in veth.outer.routes]
    free: list[Tuple] = [(netlink.get_link(name), errno.ENODEV, ()) for name in names]
    free += [(netlink.get_route(route), None, _as_route(route)) for route in routes]
    same: list[Tuple] = [
        (
            netlink.get_link(name),
            0,
            (
                ((netlink.LINK_ATTRS, netlink.INFO_KIND), b"bridge\0", ""),
                ((netlink.LINK_ATTRS, netlink.BR_STP_STATE), facts.stp_state, ""),
                ((netlink.LINK_ATTRS, netlink.BR_FORWARD_DELAY), facts.forward_delay, ""),
            ),
        )
        for name, facts in bridges.items()
    ]
    return tuple(free + same)
