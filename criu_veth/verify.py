"""What a restore should have made against what the kernel has, as a list of differences. Pure.

Left out is what no restore can bring back: ifindexes, and the numbers of queues of a pair that CRIU made. The time that
an address has left may have become less, and that of a route more, too, as its router renews it; inside, duplicate
address detection may have been skipped.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from criu_veth import netlink, ownership, plan, resolve
from criu_veth.state import (
    Address,
    Adopted,
    CapturedVeth,
    End,
    FdbEntry,
    Filter,
    Inner,
    Neighbour,
    Outer,
    Ovs,
    Qdisc,
    Route,
    Rule,
    State,
    TcClass,
    Veth,
)
from criu_veth.way import EMPTY, MADE

E = TypeVar("E", bound=End)

_IMPOSSIBLE = {"ifindex", "num_tx_queues", "num_rx_queues"}
_LIFETIMES = {"valid", "preferred", "expires"}
_USUAL_IPV6_METRIC = 1024  # IP6_RT_PRIO_USER: what the kernel gives a route without one


class Difference(NamedTuple):
    """One thing that is not as it should be; ``path`` is as in ``veths[eth0].outer.mtu``.

    ``wanted`` and ``found`` are what a state file has there; None is nothing, or a sysctl's default. A path that ends
    in a bracket is of a thing that one side lacks.
    """

    path: str
    wanted: Any
    found: Any

    def __str__(self) -> str:
        """Write it as one line."""
        if self.path.endswith("]"):
            return f"{self.path}: {'there, but not wanted' if self.wanted is None else 'wanted, but not there'}"
        return f"{self.path}: wanted {self._text(self.wanted)}, found {self._text(self.found)}"

    def _text(self, value: object) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        if value is None and ".sysctl." in self.path:
            return "the default"
        if isinstance(value, list):
            return " ".join(map(str, value)) or "nothing"
        return "nothing" if value in {None, ""} else str(value)


def compare(wanted: tuple[Veth, ...] | State, found: State, captured: State | None = None) -> list[Difference]:
    """Return how ``found`` in the kernel differs from what is ``wanted``.

    Of a `Veth`, that is compared which it asks for; if ``captured`` has the veth too, all that both ends had then. A
    `State` is compared in full. ``found`` should have the sysctls of `sysctls_of`, those at their defaults too.
    """
    if isinstance(wanted, State):
        captured = wanted
        wanted = resolve.resolve(None, wanted, {})
    then = {veth.inner.ifname: veth for veth in captured.veths} if captured else {}
    now = {veth.inner.ifname: veth for veth in found.veths}
    # Advertised routes are restored without their lifetimes then.
    lasting = not netlink.renews_added_routes(found.host.kernel)
    differences = []
    for veth in wanted:
        path = f"veths[{veth.inner}]"
        pair = now.pop(veth.inner, None)
        if veth.kind != "veth":  # a capture has none of these
            continue
        if pair is None:
            differences.append(Difference(path, _names(veth.inner, veth.outer), None))
        elif veth.adopted is not None and ownership.is_made_by_others(veth, pair):
            inner = (then[veth.inner].inner, pair.inner) if veth.inner in then and veth.mode == MADE else None
            differences += _of_others(path, veth.adopted, pair, inner)
        elif veth.inner in then:
            full = _in_full(veth, then[veth.inner])
            inner = full.inner, pair.inner
            if lasting:
                inner = resolve.lasting_routes(inner[0]), resolve.lasting_routes(inner[1])
            differences += _inner_ends(f"{path}.inner", *inner, full=True)
            # Where the captured one is refused, the device has whatever the kernel gave it.
            chosen = any(refused.kind == "macs" for refused in veth.refused)
            there = replace(pair.outer, mac=None) if chosen else pair.outer
            differences += _outer_ends(f"{path}.outer", full.outer, there, full=True)
        else:
            if veth.netns is not None and veth.mode == EMPTY:
                differences += _inner_ends(f"{path}.inner", veth.netns, pair.inner, full=False)
            differences += _outer_ends(f"{path}.outer", veth.outer, pair.outer, full=False)
    if captured is not None:  # it has all veths that the container had
        differences += [Difference(f"veths[{name}]", None, _names(name, pair.outer)) for name, pair in now.items()]
    return differences


def _of_others(path: str, adopted: Adopted, pair: CapturedVeth, inner: tuple[Inner, Inner] | None) -> list[Difference]:
    """Compare a pair that somebody else has made: what the mapping file asks for, and its dress.

    The inner end is compared in full where CRIU has brought it back.
    """
    asked, dress = adopted.asked, adopted.dress
    said = {
        name: value for name in asked.__struct_fields__ if (value := getattr(asked, name)) not in (None, (), {}, "")
    }
    own = {
        "ifname": asked.ifname or pair.outer.ifname,
        "master": asked.master or pair.outer.master,
        "port": {**dress.port, **asked.port},
        "sysctl": {**dress.sysctl, **asked.sysctl},
        "up": None,
    }
    wanted = replace(dress, **{**said, **own})
    if inner is not None:
        differences = _inner_ends(f"{path}.inner", *inner, full=True)
    else:
        differences = _inner_ends(f"{path}.inner", adopted.inner, pair.inner, full=False)
    return differences + _outer_ends(f"{path}.outer", wanted, pair.outer, full=False)


def sysctls_of(wanted: tuple[Veth, ...]) -> dict[str, tuple[set[str], set[str]]]:
    """Return, by the inner end's name, the per-device sysctls that are asked for: (inner end's, outer end's)."""

    def outer(veth: Veth) -> set[str]:
        return {*veth.outer.sysctl, *(veth.adopted.dress.sysctl if veth.adopted else ())}

    return {veth.inner: (set(veth.netns.sysctl if veth.netns else ()), outer(veth)) for veth in wanted}


def _names(inner: str, outer: Outer) -> dict[str, str]:
    return {"inner": inner, "outer": outer.ifname}


def _in_full(veth: Veth, captured: CapturedVeth) -> CapturedVeth:
    """Put back what `resolve` leaves out because a new veth, or a new port, has it anyway."""
    outer, inner = _with_usual(veth.outer, captured.outer), captured.inner
    if veth.mode == EMPTY and veth.netns is not None:
        inner = _with_usual(veth.netns, inner)
    port = {**captured.outer.port, **outer.port} if outer.master else {}
    return CapturedVeth(inner=inner, outer=replace(outer, port=port))


def _with_usual(end: E, captured: E) -> E:
    usual = {key: getattr(captured, key) for key in resolve.NEW_LINK if getattr(end, key) is None}
    return replace(end, **usual)


def _inner_ends(path: str, wanted: Inner, found: Inner, *, full: bool) -> list[Difference]:
    ends = [
        replace(
            end,
            addresses=tuple(replace(a, flags=tuple(f for f in a.flags if f != "nodad")) for a in end.addresses),
            routes=_routes(end.routes),
        )
        for end in (wanted, found)
    ]
    return _differences(path, _flat(ends[0], defaults=full), _flat(ends[1], defaults=True), full=full)


def _outer_ends(path: str, wanted: Outer, found: Outer, *, full: bool) -> list[Difference]:
    of_master: dict[str, Any] = {"master_kind": None, "backup_port": None, "port": {}, "vlan": None, "fdb": ()}
    if wanted.master != found.master:  # one difference, not all of these
        wanted, found = replace(wanted, **of_master), replace(found, **of_master)
    if (wanted.ovs and wanted.ovs.bridge) != (found.ovs and found.ovs.bridge):
        wanted, found = (replace(end, ovs=end.ovs and Ovs(bridge=end.ovs.bridge)) for end in (wanted, found))
    # A kernel may know more of a port than that of the dump, or less.
    port = {flag: found.port.get(flag, resolve.NEW_PORT.get(flag, 0)) for flag in wanted.port}
    vlan = None if wanted.vlan is None else found.vlan  # left to the bridge
    found = replace(found, port=port, vlan=vlan, routes=_routes(found.routes))
    wanted = replace(wanted, routes=_routes(wanted.routes))
    return _differences(path, _flat(wanted, defaults=full), _flat(found, defaults=True), full=full)


def _routes(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    return tuple(
        replace(route, metric=0) if route.family == "inet6" and route.metric == _USUAL_IPV6_METRIC else route
        for route in routes
    )


class _Thing(NamedTuple):
    """One of several things of a kind: what it is as a whole, and that by which two of the same key may differ."""

    whole: Any
    fields: dict[str, Any]


def _differences(path: str, wanted: Mapping[str, Any], found: Mapping[str, Any], *, full: bool) -> list[Difference]:
    """Compare two flattened ends; unless ``full``, only where something is wanted."""
    out = []
    for key in [*wanted, *(key for key in found if full and key not in wanted)]:
        one, other = wanted.get(key), found.get(key)
        if isinstance(one, _Thing) and isinstance(other, _Thing):
            out += _differences(f"{path}.{key}", one.fields, other.fields, full=full)
        elif isinstance(one, _Thing) or isinstance(other, _Thing):
            wholes = (thing.whole if isinstance(thing, _Thing) else None for thing in (one, other))
            out.append(Difference(f"{path}.{key}", *wholes))
        elif not _same(key, one, other):
            out.append(Difference(f"{path}.{key}", one, other))
    return out


def _same(key: str, wanted: Any, found: Any) -> bool:
    if key in _LIFETIMES and wanted is not None and found is not None:
        return bool(found <= wanted) or key == "expires"
    if key.startswith("sysctl.") and wanted is not None and found is not None:
        return bool(wanted.split() == found.split())
    return bool(wanted == found) or not (wanted or found or isinstance(wanted, int) or isinstance(found, int))


def _flat(end: msgspec.Struct, *, defaults: bool) -> dict[str, Any]:
    """Return the values of a struct by path; those that are as the type has them only with ``defaults``."""
    out: dict[str, Any] = {}
    for field in msgspec.structs.fields(end):
        value = getattr(end, field.name)
        if field.name in _IMPOSSIBLE or (not defaults and not field.required and value == field.default):
            continue
        if isinstance(value, msgspec.Struct):
            within = _flat(value, defaults=False)
            out.update({f"{field.name}.{path}": one for path, one in within.items()})
        elif isinstance(value, dict):
            out.update({f"{field.name}.{_quoted(key)}": one for key, one in value.items()})
        elif isinstance(value, tuple) and any(isinstance(one, msgspec.Struct) for one in value):
            out.update(_things(field.name, value, defaults=defaults))
        elif isinstance(value, tuple):
            out.update({f"{field.name}[{one}]": _Thing(one, {}) for one in value})
        else:
            out[field.name] = value
    return out


def _quoted(key: str) -> str:
    return f'"{key}"' if "." in key else key


def _things(name: str, values: tuple[Any, ...], *, defaults: bool) -> dict[str, _Thing]:
    out: dict[str, _Thing] = {}
    for number, value in enumerate(values):
        key, of_key = _KEYS.get(type(value), _BY_PLACE)
        label = f"{name}[{key(value) or number}]"
        while label in out:
            label = f"{label.removesuffix(']')} again]"
        fields = {path: one for path, one in _flat(value, defaults=defaults).items() if path not in of_key}
        out[label] = _Thing(msgspec.to_builtins(value), fields)
    return out


def _route_key(route: Route) -> str:
    family = "inet6 " if route.family == "inet6" and ":" not in route.dst + route.via else ""
    return family + plan.route_text(replace(route, expires=None))


#: By what one thing of a kind is told from another, and the fields that say that.
_KEYS: dict[type, tuple[Callable[[Any], str], set[str]]] = {
    Address: (lambda one: one.address + (f" peer {one.peer}" if one.peer else ""), {"address", "peer"}),
    Route: (_route_key, {"dst", "via", "src", "metric", "table", "scope", "onlink"}),
    Rule: (lambda one: f"{one.family} {one.priority}", {"family", "priority"}),
    Neighbour: (lambda one: one.dst + (" proxy" if one.proxy else ""), {"dst", "proxy"}),
    FdbEntry: (lambda one: one.mac + (f" vlan {one.vlan}" if one.vlan else ""), {"mac", "vlan"}),
    Qdisc: (lambda one: str(one.handle), {"handle"}),
    TcClass: (lambda one: str(one.handle), {"handle"}),
    Filter: (lambda one: f"{one.parent} {one.priority} {one.handle:x}", {"parent", "priority", "handle"}),
}
_BY_PLACE: tuple[Callable[[Any], str], set[str]] = (lambda _: "", set())
