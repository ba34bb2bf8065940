"""What of traffic control is captured and put back: an allow-list of kinds, and of the attributes of their options.

TCA_OPTIONS is handed to the kernel as it was captured, so a file that anybody may have written could ask for anything
in it: for an action, which redirects the container's packets to any device. Only what is listed here is put back.
Sources: linux/pkt_sched.h, linux/pkt_cls.h, and ``tbf_change()``, ``htb_init()``, ``htb_change_class()``,
``fifo_init()``, ``u32_change()`` (net/sched).
"""

from msgspec.structs import replace

from criu_veth import wire
from criu_veth.state import Filter, Outer, Qdisc, TcClass

#: Queueing disciplines without attributes, and the lengths that their options may have: a struct or nothing.
_PLAIN: dict[str, tuple[int, ...]] = {"pfifo": (0, 4), "bfifo": (0, 4), "ingress": (0,), "clsact": (0,)}
#: Kind to the attributes that its options may have.
_QDISCS: dict[str, frozenset[int]] = {
    "tbf": frozenset({1, 2, 3, 4, 5, 6, 7, 8}),  # PARMS, RTAB, PTAB, RATE64, PRATE64, BURST, PBURST, PAD
    "htb": frozenset({2, 5, 8}),  # INIT, DIRECT_QLEN, PAD
}
_CLASSES: dict[str, frozenset[int]] = {"htb": frozenset({1, 3, 4, 6, 7, 8})}  # PARMS, CTAB, RTAB, RATE64, CEIL64, PAD
_U32_LINK, _U32_SEL, _U32_POLICE, _U32_ACT = 3, 5, 6, 7
#: CLASSID, HASH, LINK, DIVISOR, SEL, INDEV, PCNT, MARK, FLAGS, PAD.
_FILTERS: dict[str, frozenset[int]] = {"u32": frozenset({1, 2, _U32_LINK, 4, _U32_SEL, 8, 9, 10, 11, 12})}

QDISCS = frozenset(_QDISCS) | frozenset(_PLAIN)
FILTERS = frozenset(_FILTERS)

_CLSACT = {"ffff:fff2", "ffff:fff3"}  # its two sides, to which filters are attached

_ACT_KIND = 1  # TCA_ACT_KIND


def limited(outer: Outer) -> tuple[Outer, list[str]]:
    """Return an outer end without what is never put back of its traffic control, and a line on each such thing.

    Filters go with the queueing discipline or class that they are on; `plan` sees to the classes.
    """
    faults = {number: fault for number, one in enumerate(_all(outer)) if (fault := _fault(one))}
    if not faults:
        return outer, []
    left = [one for number, one in enumerate(_all(outer)) if number not in faults]
    gone = [one for number, one in enumerate(_all(outer)) if number in faults]
    qdiscs = tuple(one for one in left if isinstance(one, Qdisc))
    classes = tuple(one for one in left if isinstance(one, TcClass))
    there = {one.handle for one in qdiscs} | {one.handle for one in classes} | {one.parent for one in qdiscs}
    there |= _CLSACT if any(one.kind == "clsact" for one in qdiscs) else set()
    if any(isinstance(one, Filter) and _is_table(one) for one in gone):
        there = set()  # the other filters are in that table, or lead to it
    filters = tuple(one for one in left if isinstance(one, Filter) and one.parent in there)
    return replace(outer, qdiscs=qdiscs, classes=classes, filters=filters), list(faults.values())


def _all(outer: Outer) -> list[Qdisc | TcClass | Filter]:
    return [*outer.qdiscs, *outer.classes, *outer.filters]


def _fault(one: Qdisc | TcClass | Filter) -> str | None:
    options = bytes.fromhex(one.options)
    if isinstance(one, Qdisc):
        what, fault = f"queueing discipline {one.kind} ({one.handle})", qdisc_fault(one.kind, options)
    elif isinstance(one, TcClass):
        what, fault = f"class {one.kind} ({one.handle})", class_fault(one.kind, options)
    else:
        what, fault = f"filter {one.kind} (priority {one.priority})", filter_fault(one.kind, options)
    return f"its {what} is not put back: {fault}" if fault else None


def qdisc_fault(kind: str, options: bytes) -> str | None:
    """Say why a queueing discipline is not one that is put back."""
    if kind in _PLAIN:
        return None if len(options) in _PLAIN[kind] else "its options are not of that kind's length"
    return _options_fault(_QDISCS.get(kind), options)


def class_fault(kind: str, options: bytes) -> str | None:
    """Say why a class is not one that is put back."""
    return _options_fault(_CLASSES.get(kind), options)


def filter_fault(kind: str, options: bytes) -> str | None:
    """Say why a filter is not one that is put back."""
    return action_of(kind, options) or _options_fault(_FILTERS.get(kind), options)


def action_of(kind: str, options: bytes) -> str | None:
    """Say which action, or which policing, a filter has."""
    if kind not in FILTERS:
        return None
    for number, payload in _split(options) or wire.attrs(options, 0):
        if number == _U32_POLICE:
            return "it has a policer"
        if number == _U32_ACT:
            return f"it has an action ({', '.join(_action_kinds(payload)) or 'of no known kind'})"
    return None


def _is_table(one: Filter) -> bool:
    """Say whether a u32 filter is a table that others are in."""
    return all(number != _U32_SEL for number, _ in wire.attrs(bytes.fromhex(one.options), 0))


def _action_kinds(listed: bytes) -> list[str]:
    """Return the kinds of a list of actions (TCA_ACT_TAB): numbered attributes, each with one of the kind."""
    actions = (wire.attrs(action, 0) for _, action in wire.attrs(listed, 0))
    kinds = [payload for action in actions for kind, payload in action if kind == _ACT_KIND]
    return [kind.rstrip(b"\0").decode("ascii", "replace")[:16] for kind in kinds]


def _options_fault(allowed: frozenset[int] | None, options: bytes) -> str | None:
    if allowed is None:
        return "it is of a kind that is not put back"
    found = _split(options)
    if found is None:
        return "its options are no list of attributes"
    unknown = [number for number, _ in found if number not in allowed]
    return f"its options have an attribute that is not put back ({unknown[0]})" if unknown else None


def _split(data: bytes) -> list[tuple[int, bytes]] | None:
    """Return attributes as `wire.attrs` does, or None if they do not fill ``data`` exactly."""
    offset = 0
    while offset < len(data):
        length = wire.get_u16(data, offset) if offset + 4 <= len(data) else 0
        if length < 4 or offset + length > len(data):
            return None
        offset += (length + 3) & ~3
    return wire.attrs(data, 0)
