"""A plan's operations to the tuples that `execute` runs: messages, the places to fill in, what "already so" means,
undo.
"""

import errno
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from criu_veth import actions, dressing, netlink, ovs, ownership, plan, rules, wire
from criu_veth.execute import (
    ALWAYS,
    ANNOUNCE,
    CLONE,
    COMPARE,
    DRESS,
    FIRST_SLOT,
    GROUP,
    HOST,
    HOST_GENERIC,
    IF_ADOPTED,
    INDEX,
    INNER,
    INNER_GENERIC,
    JOURNAL,
    JUDGE,
    NETLINK,
    NEVER,
    PRESENT,
    QUERY,
    RUN,
    RUN_UNLESS,
    SETTLE,
    SLOT_INIT_PID,
    SLOT_OWN_PID,
    SYSCTL,
    SYSCTL_OF,
    TRY,
    UNLESS_ALL,
    UNLESS_ATTACHED,
    WITHIN,
)
from criu_veth.plan import Plan
from criu_veth.state import Route, Veth

Tuple = tuple[Any, ...]

_AT_INDEX = netlink.INDEX_OFFSET
_FLAGS_OFFSET = 24  # ifi_flags
#: NETNSA_NSID_NOT_ASSIGNED, which is nobody's id: two namespaces without one are not the same.
_NO_NSID = b"\xff\xff\xff\xff"
#: What asks for the id of this process's network namespace, and where the answer has it.
_OWN_NSID = (netlink.get_nsid(0), ((netlink.NSID_ATTRS + 4, SLOT_OWN_PID),), netlink.NSID_ATTRS + 4)


class _Slots:
    """Hands out slot numbers by name."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def __call__(self, what: str, name: str) -> int:
        return self._numbers.setdefault((what, name), FIRST_SLOT + len(self._numbers))

    @property
    def count(self) -> int:
        return FIRST_SLOT + len(self._numbers)


def assemble(made: Plan, late: Tuple = ()) -> dict[str, tuple[int, Tuple]]:
    """Return, by action, the number of slots and the operations; an action without any is left out.

    ``late`` is what has to hold when the hook makes pairs into an empty network namespace (see `late_checks`).
    """
    out = {}
    for action in actions.RESTORE_STAGES:
        operations = made.operations.get(action, ())
        if not operations:
            continue
        touched = {operation.inner for operation in operations}
        veths = tuple(veth for veth in made.veths if veth.inner in touched)
        slots = _Slots()
        if action == actions.PRE_RESTORE:
            listed = _forget(operations)
        elif action == actions.SETUP_NAMESPACES:  # what is made here is moved by CRIU, or is the first process's
            listed = _make(veths, operations, slots, late)
        else:
            stage = partial(_stage, action, made, late)
            mine = tuple(veth for veth in veths if not veth.namespace)
            listed = stage(mine, operations, slots) if mine else []
            listed += _beside(veths, operations, stage, required=action == actions.POST_RESTORE)
        if listed:
            out[action] = (slots.count, tuple(listed))
    return out


def _stage(
    action: str, made: Plan, late: Tuple, veths: tuple[Veth, ...], operations: tuple[plan.Operation, ...], slots: _Slots
) -> list[Tuple]:
    """Return what is done for the veths of one network namespace."""
    inners = {veth.inner for veth in veths}
    mine = tuple(operation for operation in operations if operation.inner in inners)
    if action == actions.POST_RESTORE:
        return _finish(veths, mine, made, slots)
    return _make(veths, mine, slots, late)


def _beside(
    veths: tuple[Veth, ...],
    operations: tuple[plan.Operation, ...],
    stage: Callable[[tuple[Veth, ...], tuple[plan.Operation, ...], _Slots], list[Tuple]],
    *,
    required: bool,
) -> list[Tuple]:
    """Return what is done in the network namespaces that the container has beside its first process's."""
    listed: list[Tuple] = []
    for number in sorted({veth.namespace for veth in veths} - {0}):
        mine = tuple(veth for veth in veths if veth.namespace == number)
        slots = _Slots()
        steps = tuple(stage(mine, operations, slots))
        names = ", ".join(veth.inner for veth in mine)
        fault = f"veth {names}: no process of the container is in a network namespace that has it ({mine[0].where})"
        if not required:
            fault = f"{names}: its network namespace cannot be entered yet: its IPv6 addresses are as CRIU made them"
        inners = tuple(_name_bytes(veth) for veth in mine)
        listed.append((WITHIN, inners, netlink.dump_links(), slots.count, steps, fault, required))
    return listed


def name_strays() -> dict[str, tuple[int, Tuple]]:
    """Return the operations of a mapping file that names no veth of the container: those it has are said to be left."""
    slots = _Slots()
    index, _, _ = _find_ends((), slots)
    return {actions.POST_RESTORE: (slots.count, (index,))}


def settle_all() -> dict[str, tuple[int, Tuple]]:
    """Return the operations of a restore of which nothing is known: its IPv6 addresses are made usable, nothing else.

    CRIU alone cannot restore a socket that is bound to one of them.
    """
    return {actions.POST_SETUP_NAMESPACES: (FIRST_SLOT, (_settle_operation(()),))}


def _finish(veths: tuple[Veth, ...], operations: tuple[plan.Operation, ...], made: Plan, slots: _Slots) -> list[Tuple]:
    """Find both ends of every pair, and give the outer one what it should have."""
    index, nsid, outer = _find_ends(veths, slots)
    ours = [o for o in operations if o.only != plan.ADOPTED]
    theirs = _by_inner([o for o in operations if o.only == plan.ADOPTED])
    listed = [index, nsid, *_find_masters(veths, ours, slots)]
    by_inner = _by_inner(ours)
    for veth in veths:
        if veth.inner in outer and _is_changed(by_inner.get(veth.inner, ())):
            listed += _if_made_here(veth, [outer[veth.inner], *_called_otherwise(veth, slots)])
    before, after = _around_open_vswitch(veths, by_inner)
    for veth in veths:
        listed += _if_made_here(veth, [step for o in before[veth.inner] for step in _steps(o, slots)])
    listed += _attach_to_open_vswitch(veths, by_inner)
    for veth in veths:
        listed += _if_made_here(veth, [step for o in after[veth.inner] for step in _steps(o, slots)])
    for veth in veths:  # a backup port has to be one: it may be another veth of this container
        for operation in by_inner.get(veth.inner, ()):
            if isinstance(operation, plan.SetBackupPort):
                find = _find_device(operation.backup_port, slots)
                listed += _if_made_here(veth, [find, _assemble(operation, slots)])
    for veth in veths:
        if veth.inner in theirs:
            listed += _if_adopted(veth, [outer[veth.inner]], _adopted(veth, theirs[veth.inner], slots))
    announced = [veth for veth in veths if any(isinstance(o, plan.Announce) for o in by_inner.get(veth.inner, ()))]
    return listed + _announce(announced, made, slots)


def _is_changed(operations: Iterable[plan.Operation]) -> bool:
    """Say whether anything is done to the outer end."""
    return any(not operation.inside for operation in operations)


def _called_otherwise(veth: Veth, slots: _Slots) -> list[Tuple]:
    """Say so where criu's caller, whose words could not be read, has chosen another name than was captured."""
    if veth.named or veth.outer.ovs or not ownership.is_named_by_caller(veth.mode):
        return []
    text = f'{veth.inner}: named "%s" by whoever called criu, not "{veth.outer.ifname}" as at the dump'
    return [(COMPARE, slots("before", veth.inner), veth.outer.ifname, f"{veth.inner}: ", text)]


def _adopted(veth: Veth, operations: list[plan.Operation], slots: _Slots) -> list[Tuple]:
    """Return what is done to an end that somebody else has made: first what the mapping file asks for."""
    asked = [o for o in operations if not o.dress]
    masters = {o.master: o.master_kind for o in asked if isinstance(o, plan.Attach)}
    listed = [_find_master(name, kind, slots) for name, kind in masters.items()]
    switched = [o for o in asked if isinstance(o, plan.AttachOvs)]
    parts = tuple(
        (b"", ovs.attach_words(o.outer, o.ovs, veth.inner), ovs.detach_words(o.outer), _text(o)) for o in switched
    )
    for operation in asked:
        if isinstance(operation, plan.AttachOvs):
            listed.append((RUN, ovs.command(), parts, ovs.undo_command()))
        elif isinstance(operation, plan.Rename) and not netlink.renames_what_is_up():
            down = _down(operation, slots)
            listed += [down, _assemble(operation, slots), _as_before(down)]
        else:
            listed.append(_assemble(operation, slots))
    dressed = [o for o in operations if o.dress]
    items = dressing.items(dressed, slots, lambda operation: _assemble(operation, slots))
    keeps = ownership.IDENTITY_WORDS
    return [*listed, (DRESS, veth.inner, veth.was, slots("before", veth.inner), items, keeps)]


def _around_open_vswitch(
    veths: tuple[Veth, ...], by_inner: dict[str, list[plan.Operation]]
) -> tuple[dict[str, list[plan.Operation]], dict[str, list[plan.Operation]]]:
    """Return, by inner end, what is done before the transaction that makes all ports of Open vSwitch, and after it.

    Before it is only what precedes that in a veth's plan, its name above all; then the switch finds the device.
    """
    before: dict[str, list[plan.Operation]] = {}
    after: dict[str, list[plan.Operation]] = {}
    for veth in veths:
        mine = [o for o in by_inner.get(veth.inner, ()) if not isinstance(o, _TOGETHER)]
        at = next((number for number, o in enumerate(mine) if isinstance(o, plan.AttachOvs)), None)
        before[veth.inner] = [] if at is None else mine[:at]
        after[veth.inner] = mine if at is None else mine[at + 1 :]
    return before, after


def _attach_to_open_vswitch(veths: tuple[Veth, ...], by_inner: dict[str, list[plan.Operation]]) -> list[Tuple]:
    """Make all ports of Open vSwitch in one transaction: each would take its daemon as long as all do."""
    parts = [
        (
            _name_bytes(veth) if veth.adopted else b"",
            ovs.attach_words(o.outer, o.ovs, veth.inner),
            ovs.detach_words(o.outer),
            _text(o),
        )
        for veth in veths
        for o in by_inner.get(veth.inner, ())
        if isinstance(o, plan.AttachOvs)
    ]
    return [(RUN, ovs.command(), tuple(parts), ovs.undo_command())] if parts else []


def _forget(operations: tuple[plan.Operation, ...]) -> list[Tuple]:
    """Remove the records of ports whose device is not there; where no port is wanted, only if there is one."""
    required = {o.outer for o in operations if isinstance(o, plan.ForgetOvs) and o.required}
    wanted = required | ovs.left({o.outer for o in operations} - required)
    parts = [(netlink.get_link(o.outer), ovs.detach_words(o.outer), _text(o)) for o in operations if o.outer in wanted]
    return [(RUN_UNLESS, HOST, ovs.command(), tuple(parts))] if parts else []


#: What is done once all ends are ports and up.
_TOGETHER = (plan.Announce, plan.SetBackupPort)


def _by_inner(operations: Iterable[plan.Operation]) -> dict[str, list[plan.Operation]]:
    found: dict[str, list[plan.Operation]] = {}
    for operation in operations:
        found.setdefault(operation.inner, []).append(operation)
    return found


def _announce(veths: list[Veth], made: Plan, slots: _Slots) -> list[Tuple]:
    """Announce all of these ends, at last and together: they have to come up first."""
    if not veths:
        return []
    devices = tuple(
        (
            slots("inner", veth.inner),
            slots("outer", veth.inner) if veth.paired else None,
            _name_bytes(veth) if veth.adopted and not veth.explicit else b"",
        )
        for veth in veths
    )
    requests = (netlink.dump_links(), netlink.dump_addresses4(), netlink.dump_addresses6())
    text = "container announced"
    return [(ANNOUNCE, devices, requests, netlink.get_link(), made.repeat, made.interval, text)]


def _if_made_here(veth: Veth, operations: list[Tuple]) -> list[Tuple]:
    """Leave a device alone that somebody else made."""
    if not operations or not veth.adopted:
        return operations
    return [(GROUP, _name_bytes(veth), False, tuple(operations))]


def _if_adopted(veth: Veth, find: list[Tuple], operations: list[Tuple]) -> list[Tuple]:
    """Do this to a device that somebody else made; unless the mapping file names it, it may be missing, or no veth."""
    listed = [*find, *operations] if veth.explicit else [(TRY, _name_bytes(veth), tuple(find), tuple(operations))]
    return listed if ownership.is_foreign(veth.mode) else [(GROUP, _name_bytes(veth), True, tuple(listed))]


def _name_bytes(veth: Veth) -> bytes:
    return veth.inner.encode() + b"\0"


def _make(veths: tuple[Veth, ...], operations: tuple[plan.Operation, ...], slots: _Slots, late: Tuple) -> list[Tuple]:
    """Make the devices that are not there, then give the inner ends what they should have."""
    making = (plan.MakePair, plan.MakeDevice)
    made_here = {operation.inner for operation in operations if isinstance(operation, making)}
    inside = [veth for veth in veths if not veth.ready and veth.inner in made_here]
    by_inner = _by_inner(operations)
    settle = [veth for veth in veths if any(isinstance(o, plan.SettleTentative) for o in by_inner[veth.inner])]
    if not made_here:
        return _settle(settle, slots)
    unknown = any(ownership.is_named_by_caller(veth.mode) for veth in inside)
    present: Tuple = (
        PRESENT,
        INNER,
        netlink.dump_links(),
        netlink.LINK_ATTRS,
        (netlink.IFLA_IFNAME,),
        tuple(_name_bytes(veth) for veth in inside),
        not unknown,
        "%s: is there already, made by somebody else: adopted",
    )
    parents = dict.fromkeys(o.parent for o in operations if isinstance(o, plan.MakeDevice))
    ready = tuple(f"link {veth.ready}" for veth in veths if veth.ready)
    listed = [present] if inside else []
    listed += [(JUDGE, late)] if late and not unknown else []
    listed += [_find_device(name, slots) for name in parents]
    listed += [(JOURNAL, ready)] if ready else []
    for veth in veths:
        made = [_assemble(o, slots) for o in by_inner[veth.inner] if isinstance(o, making)]
        listed.append((GROUP, _name_bytes(veth), False, tuple(made)))
    if not inside:
        return listed
    loopback = next(o for o in operations if isinstance(o, plan.SetLoopbackUp))
    listed += [_index_inner(inside, slots), _assemble(loopback, slots)]
    apart = (*making, plan.SetLoopbackUp, plan.SettleTentative)
    for veth in inside:
        rest = [_assemble(o, slots) for o in by_inner[veth.inner] if not isinstance(o, apart)]
        listed.append((GROUP, _name_bytes(veth), False, tuple(rest)))
    return listed + _settle(settle, slots)


def _settle(veths: list[Veth], slots: _Slots) -> list[Tuple]:
    """Make the IPv6 addresses of these inner ends usable: all of them in one batch."""
    if not veths:
        return []
    devices = tuple((slots("inner", veth.inner), veth.inner) for veth in veths)
    return [_index_inner(veths, slots, always=True), _settle_operation(devices)]


def _settle_operation(devices: Tuple) -> Tuple:
    """Return the operation that settles the addresses of these devices, or of all if there are none."""
    addresses = (
        netlink.dump_addresses6(),
        netlink.ADDRESS_ATTRS,
        netlink.IFA_FLAGS,
        netlink.ADDRESS_FLAGS_OFFSET,
        netlink.IFA_F_TENTATIVE,
        netlink.IFA_F_DADFAILED,
        netlink.IFA_F_NODAD,
        netlink.IFA_ADDRESS,
        netlink.RTM_DELADDR,
    )
    routes = (netlink.dump_routes6(), netlink.ROUTE_ATTRS, netlink.RTA_PREFSRC)
    return (SETTLE, INNER, devices, addresses, routes, "%s: IPv6 addresses usable at once: %d")


def _index_inner(veths: list[Veth], slots: _Slots, *, always: bool = False) -> Tuple:
    wanted = []
    for veth in veths:
        binds = ((slots("inner", veth.inner), _AT_INDEX), (slots("inner flags", veth.inner), _FLAGS_OFFSET))
        wanted.append((_name_bytes(veth), binds, (), _missing(veth), always, NEVER))
    loopback = ((slots("inner", "lo"), _AT_INDEX), (slots("inner flags", "lo"), _FLAGS_OFFSET))
    wanted.append((b"lo\0", loopback, (), "the container has no lo", True, NEVER))
    return (INDEX, INNER, netlink.dump_links(), netlink.LINK_ATTRS, (netlink.IFLA_IFNAME,), tuple(wanted), ())


def _steps(operation: plan.Operation, slots: _Slots) -> list[Tuple]:
    """Assemble an operation on an outer end that will be set up, on a kernel that may want the device down for it."""
    step = _assemble(operation, slots)
    anew = isinstance(operation, plan.SetLink) and operation.attribute == "mac" and not operation.inside
    if netlink.renames_what_is_up():
        return [_down(operation, slots), step] if anew else [step]
    if isinstance(operation, plan.Rename) or (anew and not operation.named):
        return [_down(operation, slots), step]
    if isinstance(operation, plan.SetUp) and not operation.inside:
        # The name is taken back while the device is down; `_down` comes last and knows what it was before.
        undo = (HOST, netlink.set_flags(0, netlink.IFF_UP), _at_end(operation, slots), (), _text(operation))
        return [(*step[:6], undo, step[7])]
    return [step]


def _down(operation: plan.Operation, slots: _Slots) -> Tuple:
    """Set the outer end down, if CRIU or a manager has set it up; nobody is told, for it comes up again at the end.

    A kernel before 6.2 renames no device that is up; and every kernel makes a device's link-local address out of the
    MAC address with which it comes up, and does not look at that again (``addrconf_notify()``, net/ipv6/addrconf.c).
    """
    _, ns, message, patches, tolerated, already, undo, _ = _change_flags(operation, slots, 0, netlink.IFF_UP)
    return (NETLINK, ns, message, patches, tolerated, already, undo, "")


def _as_before(down: Tuple) -> Tuple:
    """Return what sets an end that was set down up again, if it was up: the undo of setting it down."""
    _, ns, message, _, tolerated, already, (_, _, patches, *_), text = down
    return (NETLINK, ns, message, patches, tolerated, already, None, text)


def _assemble(operation: plan.Operation, slots: _Slots) -> Tuple:
    return _ASSEMBLERS[type(operation)](operation, slots)


def _find_ends(veths: tuple[Veth, ...], slots: _Slots) -> tuple[Tuple, Tuple, dict[str, Tuple]]:
    """Find the inner ends by name, and each outer end by following the inner end's peer, whatever it is called.

    The last part of the result gives the operation that finds an outer end, by its inner end's name.
    """
    wanted: list[Tuple] = []
    for veth in veths:
        binds: Tuple = (
            (slots("inner", veth.inner), _AT_INDEX),
            (slots("peer", veth.inner), (netlink.IFLA_LINK,)),
            (slots("peer netns", veth.inner), (netlink.IFLA_LINK_NETNSID,)),
        )
        missing = _missing(veth)
        if not veth.paired:
            wanted.append((_name_bytes(veth), binds[:1], (), missing, veth.explicit, NEVER))
            continue
        other = f'veth {veth.inner}: the container\'s "{veth.inner}" is no {veth.kind} ({veth.where})'
        expects = (((netlink.LINK_ATTRS, netlink.INFO_KIND), veth.kind.encode() + b"\0", other),)
        optional = (
            NEVER if not veth.adopted or veth.explicit else ALWAYS if ownership.is_foreign(veth.mode) else IF_ADOPTED
        )
        binds += ((slots("inner before", veth.inner), None),) if veth.adopted else ()
        wanted.append((_name_bytes(veth), binds, expects, missing, True, optional))
    stray = "%s: left alone, no mapping names it"
    index: Tuple = (
        INDEX,
        INNER,
        netlink.dump_links(),
        netlink.LINK_ATTRS,
        (netlink.IFLA_IFNAME,),
        tuple(wanted),
        ((netlink.INFO_KIND, b"veth\0", (netlink.IFLA_LINK_NETNSID,), _OWN_NSID, stray),),
    )
    own_nsid = slots("host netns", "")
    message, patches, at = _OWN_NSID  # the kernel gives one with the dump of links before this
    nsid: Tuple = (
        QUERY,
        INNER,
        message,
        patches,
        ((own_nsid, at),),
        (),
        "cannot tell the host's network namespace",
    )
    outer = {
        veth.inner: (
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
                *(
                    (
                        slots("peer netns", veth.inner),
                        right,
                        f"veth {veth.inner}: its outer end is not in this network namespace",
                    )
                    for right in (own_nsid, (_NO_NSID,))
                ),
                # It leads back, and into another namespace: an ifindex alone may be any device's.
                (
                    (netlink.LINK_ATTRS, (netlink.IFLA_LINK,)),
                    slots("inner", veth.inner),
                    f"veth {veth.inner}: its outer end has gone away",
                ),
                (
                    (netlink.LINK_ATTRS, netlink.INFO_KIND),
                    veth.kind.encode() + b"\0",
                    f"veth {veth.inner}: its outer end has gone away",
                ),
            ),
            f"veth {veth.inner}: cannot find its outer end",
        )
        for veth in veths
        if veth.paired
    }
    return index, nsid, outer


def _missing(veth: Veth) -> str:
    return f"veth {veth.inner}: the container has no device of that name ({veth.where})"


def _find_masters(veths: tuple[Veth, ...], operations: Iterable[plan.Operation], slots: _Slots) -> list[Tuple]:
    """Find the devices that outer ends become ports of, each once; not those of pairs that others have made."""
    adopted = {veth.inner: _name_bytes(veth) for veth in veths if veth.adopted}
    kinds: dict[str, str] = {}
    ports: dict[str, list[str]] = {}
    for operation in operations:
        if isinstance(operation, plan.Attach):
            kinds[operation.master] = operation.master_kind
            ports.setdefault(operation.master, []).append(operation.inner)
    listed: list[Tuple] = []
    for name, inners in ports.items():
        find = _find_master(name, kinds[name], slots)
        names = tuple(adopted[inner] for inner in inners if inner in adopted)
        listed.append((UNLESS_ALL, names, (find,)) if len(names) == len(inners) else find)
    return listed


def _find_master(name: str, kind: str, slots: _Slots) -> Tuple:
    expected = ((netlink.LINK_ATTRS, netlink.INFO_KIND), kind.encode() + b"\0", f'"{name}" is not a {kind}')
    binds = ((slots("device", name), _AT_INDEX),)
    return (QUERY, HOST, netlink.get_link(name), (), binds, (expected,), f'{kind} "{name}"')


def _find_device(name: str, slots: _Slots) -> Tuple:
    return (QUERY, HOST, netlink.get_link(name), (), ((slots("device", name), _AT_INDEX),), (), f'device "{name}"')


def _text(operation: plan.Operation) -> str:
    return f"{operation.inner}: {operation.describe()}"


def _ns(operation: plan.Operation) -> int:
    return INNER if operation.inside else HOST


def _end(operation: plan.Operation, slots: _Slots) -> int:
    """Return the slot that holds the ifindex of the end that this is done to."""
    return slots("inner" if operation.inside else "outer", operation.inner)


def _at_end(operation: plan.Operation, slots: _Slots) -> Tuple:
    return ((_AT_INDEX, _end(operation, slots)),)


def _make_pair(operation: plan.MakePair, _: _Slots) -> Tuple:
    message = netlink.make_pair(
        operation.outer,
        operation.netns,
        operation.ready or operation.inner,
        operation.kind,
        operation.kind_mode,
        mark=bool(operation.ready),
    )
    undo = (HOST, netlink.delete_link(operation.outer), (), (), _text(operation))
    patches = () if operation.ready else ((len(message) - 4, SLOT_INIT_PID),)
    return (NETLINK, HOST, message, patches, (), None, undo, _text(operation))


def _make_device(operation: plan.MakeDevice, slots: _Slots) -> Tuple:
    message = netlink.make_device(
        operation.ready or operation.inner,
        operation.netns,
        operation.kind,
        operation.kind_mode,
        inside=not operation.ready,
    )
    parent = slots("device", operation.parent)
    ns = HOST if operation.ready else INNER
    undo = (ns, netlink.delete_link(operation.ready or operation.inner), (), (), _text(operation))
    if operation.ready:
        patches: Tuple = ((len(message) - 4, parent),)
    else:
        patches = ((len(message) - 12, SLOT_INIT_PID), (len(message) - 4, parent))
    return (NETLINK, HOST, message, patches, (), None, undo, _text(operation))


def _set_loopback_up(operation: plan.SetLoopbackUp, slots: _Slots) -> Tuple:
    message = netlink.set_flags(netlink.IFF_UP, netlink.IFF_UP)
    patches = ((_AT_INDEX, slots("inner", "lo")),)
    return (NETLINK, INNER, message, patches, (), None, None, _text(operation))


def _link_undo(operation: plan.Operation, slots: _Slots, attribute: int, default: bytes | None = None) -> Tuple:
    """Undo by setting the attribute to what it was when the outer end was found."""
    copy = (slots("before", operation.inner), (attribute,), (), default)
    return (HOST, netlink.set_link(), _at_end(operation, slots), (copy,), _text(operation))


def _netlink(
    operation: plan.Operation,
    slots: _Slots,
    message: bytes,
    undo: Tuple | list[Tuple] | None,
    *,
    patches: Tuple | None = None,
    already: Tuple | None = None,
    tolerated: tuple[int, ...] = (),
) -> Tuple:
    patches = _at_end(operation, slots) if patches is None else patches
    if operation.inside:
        undo = None  # the inner end is taken back as a whole
    return (NETLINK, _ns(operation), message, patches, tolerated, already, undo, _text(operation))


def _rename(operation: plan.Rename, slots: _Slots) -> Tuple:
    message = netlink.set_link(("IFLA_IFNAME", operation.outer))
    return _netlink(operation, slots, message, _link_undo(operation, slots, netlink.IFLA_IFNAME))


def _set_link(operation: plan.SetLink, slots: _Slots) -> Tuple:
    number, name = netlink.LINK_SETTINGS[operation.attribute]
    if operation.attribute == "alias":
        undo = _link_undo(operation, slots, number, b"")
        return _netlink(operation, slots, netlink.set_alias(str(operation.value)), undo)
    message = netlink.set_link((name, operation.value))
    return _netlink(operation, slots, message, _link_undo(operation, slots, number))


def _add_altname(operation: plan.AddAltname, slots: _Slots) -> Tuple:
    message = netlink.link_property(operation.altname)
    delete = netlink.link_property(operation.altname, delete=True)
    undo = (HOST, delete, _at_end(operation, slots), (), _text(operation))
    ours = (netlink.get_link(operation.altname), (), (((_AT_INDEX, 4), _end(operation, slots), ""),))
    return _netlink(operation, slots, message, undo, already=((errno.EEXIST,), ours))


def _set_sysctl(operation: plan.SetSysctl, slots: _Slots) -> Tuple:
    if not operation.inside and not operation.named:
        parts = rules.sysctl_path(operation.key, "/").split("///")
        return (SYSCTL_OF, tuple(parts), slots("before", operation.inner), operation.value.encode(), _text(operation))
    path = rules.sysctl_path(operation.key, operation.device)
    return (SYSCTL, _ns(operation), path, operation.value.encode(), _text(operation))


def _settle_address(operation: plan.SettleAddress, slots: _Slots) -> Tuple:
    return _netlink(operation, slots, netlink.address(operation.address, replace=True), None)


def _attach(operation: plan.Attach, slots: _Slots) -> Tuple:
    message = netlink.set_link(("IFLA_MASTER", 0))
    patches = (*_at_end(operation, slots), (len(message) - 4, slots("device", operation.master)))
    undo = _link_undo(operation, slots, netlink.IFLA_MASTER, bytes(4))
    step = _netlink(operation, slots, message, undo, patches=patches)
    if not operation.unless_attached:
        return step
    text = (
        f"{operation.inner}: left on the bridge that whoever called criu chose, not {operation.master} as at the dump"
    )
    return (UNLESS_ATTACHED, slots("before", operation.inner), slots("device", operation.master), step, text)


def _set_port(operation: plan.SetPort, slots: _Slots) -> Tuple:
    number, _ = netlink.PORT_FLAGS[operation.flag]
    kind, data = netlink.INFO_SLAVE_DATA
    copy = (
        slots("before", operation.inner),
        (*netlink.INFO_SLAVE_DATA, number),
        ((kind, netlink.SLAVE_KIND_BRIDGE), (data, b"")),
        None,
    )
    undo = (HOST, netlink.change_link(), _at_end(operation, slots), (copy,), _text(operation))
    return _netlink(operation, slots, netlink.change_port(operation.flag, operation.value), undo)


def _add_vlans(operation: plan.AddVlans, slots: _Slots) -> Tuple:
    return _netlink(operation, slots, netlink.add_vlans(operation.vlan), _rejoin(operation, slots))


def _drop_other_vlans(operation: plan.DropOtherVlans, slots: _Slots) -> Tuple:
    return _netlink(operation, slots, netlink.drop_other_vlans(operation.vlan), _rejoin(operation, slots))


def _rejoin(operation: plan.Operation, slots: _Slots) -> list[Tuple]:
    """Undo what was done to a port's VLANs: it loses them as it leaves, and gets new ones where it was before."""
    leave = (HOST, netlink.set_link(("IFLA_MASTER", 0)), _at_end(operation, slots), (), _text(operation))
    return [_link_undo(operation, slots, netlink.IFLA_MASTER, bytes(4)), leave]


def _set_flag(operation: plan.SetFlag, slots: _Slots) -> Tuple:
    bit = {"arp": netlink.IFF_NOARP, "promisc": netlink.IFF_PROMISC, "allmulti": netlink.IFF_ALLMULTI}[operation.flag]
    on = operation.on is not (operation.flag == "arp")  # the kernel's flag says the opposite
    return _change_flags(operation, slots, bit if on else 0, bit)


def _flags(operation: plan.Operation, slots: _Slots) -> int:
    return slots("inner flags" if operation.inside else "flags", operation.inner)


def _set_up(operation: plan.SetUp, slots: _Slots) -> Tuple:
    return _change_flags(operation, slots, netlink.IFF_UP if operation.up else 0, netlink.IFF_UP)


def _change_flags(operation: plan.Operation, slots: _Slots, flags: int, mask: int) -> Tuple:
    message = netlink.set_flags(flags, mask)
    patches = (*_at_end(operation, slots), (_FLAGS_OFFSET, _flags(operation, slots)))
    undo = (HOST, message, patches, (), _text(operation))
    return _netlink(operation, slots, message, undo)


def _set_backup_port(operation: plan.SetBackupPort, slots: _Slots) -> Tuple:
    message = netlink.change_backup_port()
    patches = (*_at_end(operation, slots), (len(message) - 4, slots("device", operation.backup_port)))
    return _netlink(operation, slots, message, None, patches=patches)


def _switch_off(operation: plan.SwitchOff, slots: _Slots) -> Tuple:
    message = netlink.features_off(netlink.ethtool_family(), operation.features)
    ns = INNER_GENERIC if operation.inside else HOST_GENERIC
    patches = ((netlink.FEATURES_INDEX_OFFSET, _end(operation, slots)),)
    return (NETLINK, ns, message, patches, (), None, None, _text(operation))


#: Things that a device has: the operation's attribute that holds one, and what adds or deletes it.
_THINGS: dict[type[plan.Operation], tuple[str, Callable[..., bytes]]] = {
    plan.AddAddress: ("address", netlink.address),
    plan.AddFdb: ("entry", netlink.fdb),
    plan.AddNeighbour: ("entry", netlink.neighbour),
    plan.AddQdisc: ("qdisc", netlink.qdisc),
    plan.AddClass: ("entry", netlink.traffic_class),
    plan.AddFilter: ("entry", netlink.traffic_filter),
}


def _add_thing(operation: plan.Operation, slots: _Slots) -> Tuple:
    """Add something that the device has; it being there already is fine."""
    attribute, build = _THINGS[type(operation)]
    thing = getattr(operation, attribute)
    undo = (HOST, build(thing, delete=True), _at_end(operation, slots), (), _text(operation))
    return _netlink(operation, slots, build(thing), undo, tolerated=(errno.EEXIST,))


def _add_rule(operation: plan.AddRule, slots: _Slots) -> Tuple:
    message, delete = netlink.rule(operation.rule), netlink.rule(operation.rule, delete=True)
    undo = (HOST, delete, (), (), _text(operation))
    return _netlink(operation, slots, message, undo, patches=(), tolerated=(errno.EEXIST,))


def _drop_route(operation: plan.DropRoute, slots: _Slots) -> Tuple:
    message = netlink.route(operation.route, delete=True)
    at_oif = ((len(message) - 4, _end(operation, slots)),)
    return _netlink(operation, slots, message, None, patches=at_oif, tolerated=(errno.ESRCH,))


def _add_route(operation: plan.AddRoute, slots: _Slots) -> Tuple:
    def at_oif(message: bytes) -> Tuple:
        return ((len(message) - 4, _end(operation, slots)),)

    message = netlink.route(operation.route)
    delete = netlink.route(operation.route, delete=True)
    undo = (HOST, delete, at_oif(delete), (), _text(operation))
    ours = (
        netlink.get_route(operation.route),
        (),
        (
            ((netlink.ROUTE_ATTRS, (netlink.RTA_OIF,)), _end(operation, slots), ""),
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
    plan.MakePair: _make_pair,
    plan.MakeDevice: _make_device,
    plan.SetLoopbackUp: _set_loopback_up,
    plan.Rename: _rename,
    plan.SetLink: _set_link,
    plan.AddAltname: _add_altname,
    plan.SetSysctl: _set_sysctl,
    plan.SettleAddress: _settle_address,
    plan.Attach: _attach,
    plan.SetPort: _set_port,
    plan.AddVlans: _add_vlans,
    plan.DropOtherVlans: _drop_other_vlans,
    plan.SetUp: _set_up,
    plan.AddRoute: _add_route,
    plan.DropRoute: _drop_route,
    plan.SetFlag: _set_flag,
    plan.SwitchOff: _switch_off,
    plan.SetBackupPort: _set_backup_port,
    plan.AddRule: _add_rule,
    **dict.fromkeys(_THINGS, _add_thing),
}


def checks(veths: tuple[Veth, ...], bridges: dict[str, netlink.BridgeFacts], *, again: bool = True) -> Tuple:
    """Return what must still hold at pre-restore for the program to be run as it is (see ``execute.checks_hold``).

    The outer ends' names and routes are free; each bridge is one, with spanning tree, forward delay and VLAN
    filtering as they were. What a runtime may make instead is judged later. Unless the program may be run ``again``,
    nothing ever holds.
    """
    if not again:
        return ((netlink.get_link("lo"), errno.ENODEV, ()),)
    return _checks([veth for veth in veths if not ownership.is_judged_later(veth.mode)], bridges)


def late_checks(
    veths: tuple[Veth, ...], bridges: dict[str, netlink.BridgeFacts], deferred: Mapping[str, object]
) -> Tuple:
    """Return, for each pair that the hook makes unless a runtime does, what must hold when its turn has come.

    Each is (the inner end's name, checks); None instead of checks where something is known to be ``deferred``: a fault
    by the inner end's name, which matters only if the pair is made here.
    """
    return tuple(
        (_name_bytes(veth), None if veth.inner in deferred else _checks([veth], bridges))
        for veth in veths
        if ownership.is_judged_later(veth.mode)
    )


def _checks(veths: list[Veth], bridges: dict[str, netlink.BridgeFacts]) -> Tuple:
    names = [name for veth in veths for name in (veth.outer.ifname, *veth.outer.altnames, veth.ready) if name]
    routes = [route for veth in veths for route in veth.outer.routes if not ownership.is_foreign(veth.mode)]
    free: list[Tuple] = [(netlink.get_link(name), errno.ENODEV, ()) for name in names]
    free += [(netlink.get_route(route), None, _as_route(route)) for route in routes]
    parents = dict.fromkeys(veth.parent for veth in veths if veth.parent)
    there: list[Tuple] = [(netlink.get_link(name), 0, ()) for name in parents]
    # Its local port is a device of the bridge's name, with the userspace datapath too.
    there += [(netlink.get_link(name), 0, ()) for name in {v.outer.ovs.bridge for v in veths if v.outer.ovs}]
    masters = {o.master: o.master_kind or "bridge" for o in (veth.outer for veth in veths) if o.master}
    for name, kind in masters.items():
        expects: list[Tuple] = [((netlink.LINK_ATTRS, netlink.INFO_KIND), kind.encode() + b"\0", "")]
        if name in bridges:
            facts = bridges[name]
            expects += [
                ((netlink.LINK_ATTRS, netlink.BR_STP_STATE), facts.stp_state, ""),
                ((netlink.LINK_ATTRS, netlink.BR_FORWARD_DELAY), facts.forward_delay, ""),
                ((netlink.LINK_ATTRS, netlink.BR_VLAN_FILTERING), facts.vlan_filtering, ""),
            ]
        there.append((netlink.get_link(name), 0, tuple(expects)))
    return tuple(free + there + [check for veth in veths for check in _clone_checks(veth)])


def _clone_checks(veth: Veth) -> list[Tuple]:
    """Return the checks that no living container has this veth's inner MAC address or addresses."""
    identity = ownership.identity_inside(veth)
    if identity is None or not veth.announce:
        return []
    names = dict.fromkeys(name for name in (veth.outer.master, veth.was) if name)
    return [(netlink.get_link(name), CLONE, identity) for name in names]
