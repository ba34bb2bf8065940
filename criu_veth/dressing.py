"""What of a captured end is put back on one that somebody else has made, each with what tells whether to do it.

An item is (label, (test, whether what the maker set gives way) or None, operations as `execute` runs them); `dress`
says what the tests are.
"""

from collections.abc import Callable, Iterable
from typing import Any

from criu_veth import netlink, plan, resolve, rules, wire
from criu_veth.dress import ATTRIBUTE, FLAG, MTU, SETTING, TRAFFIC, VLANS
from criu_veth.state import Vlan

Tuple = tuple[Any, ...]
Slots = Callable[[str, str], int]

#: What a new veth has of the attributes that the kernel always reports.
_NEW = {**resolve.NEW_LINK, "mtu": 1500}
#: What is put back together, or not at all.
_TRAFFIC = (plan.AddQdisc, plan.AddClass, plan.AddFilter)
_OF_VLANS = (plan.AddVlans, plan.DropOtherVlans)
_BITS = {"arp": netlink.IFF_NOARP, "promisc": netlink.IFF_PROMISC, "allmulti": netlink.IFF_ALLMULTI}


def items(operations: list[plan.Operation], slots: Slots, assemble: Callable[[plan.Operation], Tuple]) -> Tuple:
    """Return the items of these operations, all of which are dress; those of traffic control are one."""
    traffic = [o for o in operations if isinstance(o, _TRAFFIC)]
    vlans = [o for o in operations if isinstance(o, _OF_VLANS)]
    alone = [o for o in operations if not isinstance(o, (*_TRAFFIC, *_OF_VLANS))]
    found: list[Tuple] = [(_label(o), _any(o, _test(o, slots)), (assemble(o),)) for o in alone]
    if vlans:
        wanted = _vlans(next(o.vlan for o in vlans))
        test = (VLANS, slots("before", vlans[0].inner), netlink.dump_port_vlans(), wanted)
        found.append(("VLANs", _any(vlans[0], test), tuple(assemble(o) for o in vlans)))
    if traffic:
        test = _traffic_test(traffic, slots)
        found.append(("queueing disciplines", _any(traffic[0], test), tuple(assemble(o) for o in traffic)))
    return tuple(found)


def _any(operation: plan.Operation, test: Tuple | None) -> Tuple | None:
    """Return (test, whether what the maker set gives way)."""
    return None if test is None else (test, operation.dress == plan.ANY)


def _label(operation: plan.Operation) -> str:
    where = "inner " if operation.inside else ""
    match operation:
        case plan.SetLink():
            return where + operation.attribute
        case plan.SetFlag():
            return where + operation.flag
        case plan.SetPort():
            return f"port {operation.flag}"
        case plan.SetSysctl():
            return f"sysctl {operation.key}"
        case plan.SwitchOff():
            return f"{where}features off: {', '.join(operation.features)}"
    return operation.describe()


def _test(operation: plan.Operation, slots: Slots) -> Tuple | None:
    slot = slots("inner before" if operation.inside else "before", operation.inner)
    match operation:
        case plan.SetLink(attribute="mtu"):
            other = slots("before" if operation.inside else "inner before", operation.inner)
            return (MTU, slot, other, wire.u32(int(operation.value)))
        case plan.SetLink():
            number, _ = netlink.LINK_SETTINGS[operation.attribute]
            return (ATTRIBUTE, slot, (number,), *_payloads(operation))
        case plan.SetFlag():
            on = operation.on is not (operation.flag == "arp")  # the kernel's flag says the opposite
            return (FLAG, slot, _BITS[operation.flag], on, False)
        case plan.SetPort():
            number, _ = netlink.PORT_FLAGS[operation.flag]
            size = 4 if operation.flag in {"cost", "mcast_max_groups"} else 2 if operation.flag in _TWO_BYTES else 1
            new = resolve.NEW_PORT.get(operation.flag, 0).to_bytes(size, wire.ORDER)
            wanted = operation.value.to_bytes(size, wire.ORDER)
            return (ATTRIBUTE, slot, (*netlink.INFO_SLAVE_DATA, number), wanted, (new,))
        case plan.SetSysctl():
            parts = tuple(rules.sysctl_path(operation.key, "/").split("///"))
            default = rules.sysctl_path(operation.key, "default")
            return (SETTING, slot, parts, operation.value.encode(), default)
    return None


_TWO_BYTES = ("priority", "group_fwd_mask")


def _payloads(operation: plan.SetLink) -> tuple[bytes, tuple[bytes | None, ...]]:
    """Return what the attribute's payload should be, and those that a new device has."""
    if operation.attribute == "alias":
        return str(operation.value).encode() + b"\0", (None, b"\0")
    if operation.attribute == "mac":
        raise AssertionError("a MAC address is no dress")
    return wire.u32(int(operation.value)), (wire.u32(_NEW[operation.attribute]),)


def _vlans(vlan: Vlan) -> tuple[tuple[int, int], ...]:
    """Return (VLAN, flags) of each, as the kernel lists them."""
    tagged, untagged = rules.parse_vlans(vlan.tagged), rules.parse_vlans(vlan.untagged)
    flags = {one: netlink.VLAN_UNTAGGED if one in untagged else 0 for one in tagged | untagged}
    if vlan.pvid is not None:
        flags[vlan.pvid] |= netlink.VLAN_PVID
    return tuple(sorted(flags.items()))


def _traffic_test(operations: Iterable[plan.Operation], slots: Slots) -> Tuple:
    qdiscs = [o.qdisc for o in operations if isinstance(o, plan.AddQdisc)]
    root = next((qdisc.kind for qdisc in qdiscs if qdisc.parent == "root"), "noqueue").encode() + b"\0"
    ingress = any(qdisc.kind in {"ingress", "clsact"} for qdisc in qdiscs)
    inner = next(iter(operations)).inner
    return (TRAFFIC, slots("before", inner), netlink.get_ingress(), root, ingress)
