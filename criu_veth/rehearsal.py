"""A rehearsal: the program of a restore, run in scratch network namespaces where nobody waits, and nothing is lost.

What the kernel will refuse at post-restore, when the application is frozen, is known only to the kernel: whether a
value suits a setting, which flags of a port go together, whether a gateway can be reached through the device. So the
same messages are sent to the same kernel, for a pair, a bridge and a parent of the same kinds (`scenery`), and each
refusal is kept instead of ending the run.

A rehearsal must not prevent a restore that would have worked. It judges only what is the same in both places:

- not what another program does (Open vSwitch), nor what is only tried (the dress of a pair that somebody else made);
- not what depends on devices that are not made again: routes of a port of anything but a bridge (a VRF has tables of
  its own), or of a pair that somebody else makes, with addresses that are not known yet, and the flags of one that is
  somebody else's port already;
- no refusal for want of something that may be there the next time (`_OF_THE_MOMENT`).

What a mapping file asked for and the kernel refuses is a fault. What was captured, perhaps on another kernel, is left
out with a warning: with it, the restore would have failed.
"""

import errno
from collections.abc import Iterable
from typing import Any, NamedTuple

from msgspec.structs import replace

from criu_veth import actions, asked, assemble, execute, netlink, ownership, plan, rules, scenery, scratch, wire
from criu_veth.config import Config
from criu_veth.errors import OperationError, errno_text
from criu_veth.preflight import Findings
from criu_veth.state import Outer, Veth
from criu_veth.way import EMPTY, READY, UNKNOWN

_OF_THE_MOMENT = (
    errno.EPERM, errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.EBUSY, errno.ENFILE, errno.EMFILE,
)  # fmt: skip
#: What another program does, and what has another time or is said elsewhere.
_NOT_REHEARSED = (
    execute.RUN,
    execute.RUN_UNLESS,
    execute.JOURNAL,
    execute.JUDGE,
    execute.SETTLE,
    execute.ANNOUNCE,
    execute.DRESS,
    execute.COMPARE,
)
#: Of more operations than these nothing is rehearsed: a restore of them takes seconds itself.
MOST_OPERATIONS = 5000
#: What the outer end of a pair that CRIU would make is called in a rehearsal.
_MADE_BY_CRIU = "cvth-%d"
#: What the kernel takes whatever the value, if `rules` has let it pass and what it names is there.
_CERTAIN = (
    plan.Rename,
    plan.AddAltname,
    plan.Attach,
    plan.SetUp,
    plan.Announce,
    plan.SettleTentative,
    plan.ForgetOvs,
    plan.AttachOvs,
)
_CERTAIN_SETTINGS = ("mac", "mtu", "txqueuelen", "alias")
_USUAL_QUEUE = 1000
_OF_A_PORT = (plan.SetPort, plan.AddVlans, plan.DropOtherVlans, plan.SetBackupPort, plan.AddFdb)
_OF_THE_ROUTING = (plan.AddRoute, plan.AddRule, plan.AddNeighbour)


class Refusal(NamedTuple):
    """What the kernel answered to what the operation ``text`` asked for."""

    text: str
    errno: int
    detail: str


def rehearse(veths: tuple[Veth, ...], found: Findings, mapping: Config | None, *, decided: bool = False) -> Findings:
    """Return what preflight ``found``, and with it what the kernel refuses of ``veths``.

    ``decided`` as in `preflight.preflight`. Where faults have been found, or this process may make no network
    namespaces, nothing is rehearsed. Raises OSError if this host cannot be read.
    """
    made = plan.make(veths)
    size = sum(len(listed) for listed in made.operations.values())
    if found.faults or not any(_is_doubtful(operation) for listed in made.operations.values() for operation in listed):
        return found
    if size > MOST_OPERATIONS:
        return found._replace(warnings=(*found.warnings, f"{size} operations are too many to be rehearsed"))
    refusals: list[Refusal] = []
    try:
        for number in sorted({veth.namespace for veth in made.veths}):
            refusals += _refusals(made.veths, number)
    except PermissionError:
        return found
    except (OSError, OperationError, AssertionError) as error:  # the rehearsal's own: the restore may do well
        return found._replace(warnings=(*found.warnings, f"what is asked for could not be rehearsed: {error}"))
    return _Judge(made, mapping, decided=decided).judge(refusals, found)


def without(made: plan.Plan, left_out: tuple[tuple[plan.Operation, plan.Operation | None], ...]) -> plan.Plan:
    """Return a plan with these operations left out, or with less in their place."""
    if not left_out:
        return made
    operations = {}
    for action, listed in made.operations.items():
        kept = [next((less for one, less in left_out if one == operation), operation) for operation in listed]
        operations[action] = tuple(operation for operation in kept if operation is not None)
    return replace(made, operations={action: listed for action, listed in operations.items() if listed})


def _refusals(everybody: tuple[Veth, ...], number: int) -> list[Refusal]:
    """Run the program of the veths of one of the container's network namespaces; return what the kernel refused."""
    veths = _doubtful(tuple(replace(veth, namespace=0) for veth in everybody if veth.namespace == number))
    others = [
        veth for veth in everybody if veth.inner not in {mine.inner for mine in veths} or veth.namespace != number
    ]
    if not veths:
        return []
    coming = frozenset(rules.parse_interface(one.address)[0] for veth in others for one in veth.outer.addresses)
    rtnl = wire.Rtnl()
    try:
        seen = scenery.look(veths, rtnl, coming)
    finally:
        rtnl.close()
    stages = assemble.assemble(_taken_apart(plan.make(veths)))

    def work(container: int) -> list[Refusal]:
        namespaces = wire.Namespaces(f"/proc/{container}/ns/net")
        try:
            scenery.make(seen, namespaces.host)
            return _run(veths, stages, namespaces, container)
        finally:
            namespaces.close()

    return scratch.run(work)


def _doubtful(veths: tuple[Veth, ...]) -> tuple[Veth, ...]:
    """Leave out the veths of which the kernel can refuse nothing, unless another one needs them."""
    if any(veth.outer.backup_port for veth in veths):
        return veths
    listed = [operation for operations in plan.make(veths).operations.values() for operation in operations]
    doubtful = {operation.inner for operation in listed if _is_doubtful(operation)}
    return tuple(veth for veth in veths if veth.inner in doubtful)


def _is_doubtful(operation: plan.Operation) -> bool:
    if operation.dress:
        return False
    if isinstance(operation, plan.SetLink):
        # How long a queue may be is another number for each kernel; all take what a new device has.
        return operation.attribute not in _CERTAIN_SETTINGS or (
            operation.attribute == "txqueuelen" and int(operation.value) > _USUAL_QUEUE
        )
    return not isinstance(operation, _CERTAIN)


def _taken_apart(made: plan.Plan) -> plan.Plan:
    """Have each feature switched off alone: one that this kernel does not know is no reason to keep the others on."""
    operations = {
        action: tuple(part for operation in listed for part in _parts(operation))
        for action, listed in made.operations.items()
    }
    return replace(made, operations=operations)


def _parts(operation: plan.Operation) -> tuple[plan.Operation, ...]:
    if not isinstance(operation, plan.SwitchOff):
        return (operation,)
    return tuple(replace(operation, features=(feature,)) for feature in operation.features)


def _run(
    veths: tuple[Veth, ...], stages: dict[str, tuple[int, Any]], namespaces: wire.Namespaces, container: int
) -> list[Refusal]:
    refusals: list[Refusal] = []
    try:
        for action in (actions.SETUP_NAMESPACES, actions.POST_SETUP_NAMESPACES, actions.POST_RESTORE):
            if action in stages:
                _run_stage(stages[action], namespaces, container, refusals)
            if action == actions.SETUP_NAMESPACES:
                _as_criu(veths, namespaces, container)
    except OperationError:  # what was to be found has been refused before
        if not refusals:
            raise
    return refusals


def _run_stage(program: tuple[int, Any], namespaces: wire.Namespaces, container: int, refusals: list[Refusal]) -> None:
    """Run the operations of one action, and add to ``refusals``.

    Raises OperationError if something that they need is not there.
    """
    slots, operations = program
    _Rehearser(namespaces, slots, container, refusals).run(operations)


def _as_criu(veths: tuple[Veth, ...], namespaces: wire.Namespaces, container: int) -> None:
    """Make what CRIU, or somebody else, brings by now; what of it the kernel refuses here is not the question.

    A device that was made ready for CRIU has served. A pair takes its place, as it does that of one without an outer
    end.
    """
    moved = [veth.ready for veth in veths if veth.mode == READY]
    namespaces.host.request([netlink.delete_link(name) for name in moved])
    there = tuple(
        replace(
            veth,
            kind=veth.kind if veth.paired else "veth",
            mode=EMPTY,
            ready="",
            outer=Outer(ifname=_MADE_BY_CRIU % number),
            adopted=None,
        )
        for number, veth in enumerate(veths)
        if veth.mode not in (EMPTY, UNKNOWN)
    )
    if not there:
        return
    try:
        _run_stage(assemble.assemble(plan.make(there))[actions.SETUP_NAMESPACES], namespaces, container, [])
    except OperationError:  # not even the pair was made
        bare = tuple(replace(veth, netns=None) for veth in there)
        _run_stage(assemble.assemble(plan.make(bare))[actions.SETUP_NAMESPACES], namespaces, container, [])


class _Rehearser(execute.Executor):
    """Runs operations to their end, and keeps what was refused."""

    def __init__(self, namespaces: wire.Namespaces, slots: int, container: int, refusals: list[Refusal]) -> None:
        super().__init__(namespaces, slots, container)
        self._slots[execute.SLOT_OWN_PID] = wire.u32(scratch.own_id())
        for kind in _NOT_REHEARSED:
            self._handlers[kind] = _pass_over
        self.refusals = refusals

    def _acknowledged(self, operation: assemble.Tuple, reply: wire.Reply) -> str:
        fault = super()._acknowledged(operation, reply)
        if not fault or reply.lost:
            return fault
        self.refusals.append(Refusal(operation[-1] or operation[-2][-1], reply.errno, reply.detail))
        return ""

    def _sysctl(self, operation: assemble.Tuple) -> None:
        try:
            super()._sysctl(operation)
        except OperationError as error:
            refused = error.__context__
            number = refused.errno if isinstance(refused, OSError) else 0
            self.refusals.append(Refusal(operation[-1], number or 0, ""))


def _pass_over(operation: assemble.Tuple) -> None:
    """Do nothing in place of an operation that is not rehearsed."""


class _Judge:
    """Says of refusals whether they count, and what follows."""

    def __init__(self, made: plan.Plan, mapping: Config | None, *, decided: bool) -> None:
        self._path = f"{mapping.path}: " if mapping else ""
        self._entries = {entry.inner: entry for entry in mapping.veths} if mapping else {}
        self._decided = decided
        self._operations: dict[str, list[tuple[Veth, plan.Operation, plan.Operation]]] = {}
        for veth in made.veths:
            for operation in (one for listed in made.operations.values() for one in listed if one.inner == veth.inner):
                for part in _parts(operation) if _is_judged(operation, veth) else ():
                    text = f"{operation.inner}: {part.describe()}"
                    self._operations.setdefault(text, []).append((veth, operation, part))

    def judge(self, refusals: Iterable[Refusal], found: Findings) -> Findings:
        """Return ``found`` with what follows from ``refusals``."""
        faults: list[str] = []
        warnings: list[str] = []
        deferred = {inner: list(texts) for inner, texts in found.deferred.items()}
        left_out: dict[int, tuple[plan.Operation, plan.Operation | None]] = {}
        for refusal in dict.fromkeys(refusals):
            for veth, operation, part in self._operations.get(refusal.text, ()):
                if refusal.errno in _OF_THE_MOMENT:
                    continue
                if refusal.errno == errno.EEXIST and isinstance(operation, asked.NEEDED):
                    continue  # a name or an index that is taken over there: preflight knows which are taken here
                why = f"{part.describe()}: {errno_text(refusal.errno, refusal.detail)}"
                key = asked.key_of(operation, self._entries.get(veth.inner))
                if key is None and veth.captured and not isinstance(operation, asked.NEEDED):
                    warnings.append(f"veth {veth.inner}: left out, because this kernel refuses it: {why}")
                    _, less = left_out.get(id(operation), (operation, operation))
                    left_out[id(operation)] = (operation, _less(less, part))
                    continue
                later = ownership.is_judged_later(veth.mode) and not self._decided
                where = f"{self._path}{key}" if key else f"veth {veth.inner}"
                (deferred.setdefault(veth.inner, []) if later else faults).append(
                    f"{where}: this kernel refuses it: {why}"
                )
        return found._replace(
            faults=(*found.faults, *dict.fromkeys(faults)),
            warnings=(*found.warnings, *dict.fromkeys(warnings)),
            deferred={inner: tuple(dict.fromkeys(texts)) for inner, texts in deferred.items()},
            left_out=tuple(left_out.values()),
        )


def _less(operation: plan.Operation | None, part: plan.Operation) -> plan.Operation | None:
    """Return what is left of an operation without one part of it."""
    if not isinstance(operation, plan.SwitchOff) or not isinstance(part, plan.SwitchOff):
        return None
    features = tuple(feature for feature in operation.features if feature not in part.features)
    return replace(operation, features=features) if features else None


def _is_judged(operation: plan.Operation, veth: Veth) -> bool:
    """Say whether an operation meets in a rehearsal all that it will meet here; see above."""
    foreign = ownership.is_foreign(veth.mode)
    if operation.dress or (operation.only == plan.ADOPTED and not foreign):
        return False
    master, kind = veth.outer.master, veth.outer.master_kind or "bridge"
    if isinstance(operation, _OF_THE_ROUTING) and not operation.inside:
        return not foreign and (master is None or kind == "bridge")
    if isinstance(operation, _OF_A_PORT):
        return master is not None and kind == "bridge"
    return not isinstance(operation, plan.Attach) or kind == "bridge"
