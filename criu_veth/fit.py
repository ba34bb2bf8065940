"""Makes a capture one that can be read back: what a restore would refuse is left out at the dump, and said there.

The kernel takes names, aliases and numbers that a state file cannot hold, or that its reader refuses. A restore that
failed for them would come too late: the container is gone by then.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import asdict, replace

from criu_veth import bounds, state
from criu_veth.bounds import shown
from criu_veth.state import CapturedVeth, Container, Host, State

T = TypeVar("T")

#: Where the reader says that something is wrong: ``outer.routes[3]: ...``.
_WHERE = re.compile(r"(\w+)(?:\.\w+)*(?:\[(\d+)\])?: (.*)", re.DOTALL)
#: Rounds of leaving something out: a class that goes takes its filters along, then.
_ROUNDS = 8


def fit(found: State) -> State:
    """Return ``found`` without what could not be read back; its warnings name that."""
    warnings = list(found.warnings)
    veths = [veth for one in found.veths if (veth := _veth(one, warnings)) is not None]
    fitting = _fitting(veths, warnings)
    return replace(
        found,
        version=state.version_for(fitting),
        host=Host(**{key: shown(value)[: bounds.LONGEST_LINE] for key, value in asdict(found.host).items()}),
        container=_container(found.container),
        veths=fitting,
        notes=bounds.said(list(found.notes)),
        warnings=bounds.said(warnings),
    )


def _container(found: Container) -> Container:
    """Return a container without names that are none."""

    def named(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(text for text in texts if len(text) <= bounds.LONGEST_LINE and shown(text) == text)

    (runtime,) = named([found.runtime]) or ("",)
    (number,) = named([found.id]) or ("",)
    return Container(runtime=runtime, id=number, names=named(found.names)[: bounds.MOST_LINES])


def _veth(veth: CapturedVeth, warnings: list[str]) -> CapturedVeth | None:
    """Return a veth that can be read back, or None if nothing of it can."""
    inner = _end(veth.inner, state.end_faults, warnings)
    outer = _end(veth.outer, lambda end: state.end_faults(end) + state.outer_faults(end), warnings)
    if inner is None or outer is None:
        return None
    return replace(veth, inner=inner, outer=outer)


def _end(end: T, faults_of: Callable[[T], list[str]], warnings: list[str]) -> T | None:
    name = shown(end.ifname)  # type: ignore[attr-defined]
    for _ in range(_ROUNDS):
        wrong = _unreadable(end) or _by_field(faults_of(end))
        if not wrong:
            return end
        if "ifname" in wrong:
            why = next(iter(wrong["ifname"].values()))
            warnings.append(f"{name}: this veth is not captured: {why}; rename it before the dump")
            return None
        for field, faults in wrong.items():
            end, dropped = _without(end, field, faults)
            why = shown(next(iter(faults.values())))
            what = f"its {field}" if dropped is None else f"{dropped} of its {field}"
            warnings.append(f"{name}: {what} cannot be captured: {why}")
    warnings.append(f"{name}: this veth is not captured: what is left of it could not be read back")
    return None


#: What is wrong: by the field's name, by the entry's number (None: the field as a whole), why.
Wrong = dict[str, dict[int | None, str]]


def _unreadable(end: Any) -> Wrong:
    """Return what of an end cannot be written, or cannot be read by its type."""
    if _type_fault(end, type(end)) is None:
        return {}
    wrong: Wrong = {}
    for field in msgspec.structs.fields(type(end)):
        value = getattr(end, field.name)
        fault = _type_fault(value, field.type)
        if fault is None:
            continue
        if isinstance(value, tuple):
            kind = field.type.__args__[0]
            for number, entry in enumerate(value):
                if why := _type_fault(entry, kind):
                    wrong.setdefault(field.name, {})[number] = why
        wrong.setdefault(field.name, {None: fault})
    return wrong


def _type_fault(value: object, kind: Any) -> str | None:
    try:
        msgspec.json.decode(msgspec.json.encode(value), type=kind)
    except UnicodeEncodeError:
        return "it is not UTF-8" if not isinstance(value, str) else f"{shown(value)} is not UTF-8"
    except (msgspec.ValidationError, OverflowError) as error:
        return str(error)
    return None


def _by_field(faults: Iterable[str]) -> Wrong:
    wrong: Wrong = {}
    for fault in faults:
        found = _WHERE.fullmatch(fault)
        field, number, why = found.groups() if found else ("ifname", None, fault)
        wrong.setdefault(field, {})[None if number is None else int(number)] = why
    return wrong


def _without(end: T, field: str, faults: dict[int | None, str]) -> tuple[T, int | None]:
    """Return the end without some entries of a field, and how many; None: without all of it."""
    value = getattr(end, field)
    if isinstance(value, tuple) and None not in faults:
        rest = tuple(entry for number, entry in enumerate(value) if number not in faults)
        return replace(end, **{field: rest}), len(faults)  # type: ignore[type-var]
    default = next(one for one in msgspec.structs.fields(type(end)) if one.name == field)  # type: ignore[arg-type]
    empty = default.default_factory() if default.default is msgspec.NODEFAULT else default.default
    return replace(end, **{field: empty}), None  # type: ignore[type-var]


def _fitting(veths: list[CapturedVeth], warnings: list[str]) -> tuple[CapturedVeth, ...]:
    """Return those of the veths, the first, that a state file has room for."""
    left = [
        state.MAX_SIZE - _FOR_THE_REST,
        state.MAX_VALUES - _FOR_THE_REST // 100,
        state.MAX_ENTRIES,
        state.MAX_VETHS,
    ]
    for number, veth in enumerate(veths):
        data = state.encode_part(veth)
        taken = (len(data), data.count(b","), state.entries_of(veth), 1)
        left = [before - more for before, more in zip(left, taken, strict=True)]
        if min(left) < 0:
            names = ", ".join(one.inner.ifname for one in veths[number:])
            warnings.append(f"{len(veths) - number} veths are not captured, there is too much to say of all: {names}")
            return tuple(veths[:number])
    return tuple(veths)


#: What a state file takes beside the veths: notes and warnings first of all.
_FOR_THE_REST = 4 * 2 * bounds.MOST_LINES * bounds.LONGEST_LINE
