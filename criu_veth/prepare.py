"""The slow path: mapping file and state file to program. Done while nobody waits, where that can be arranged."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec

from criu_veth import (
    actions,
    assemble,
    config,
    execute,
    images,
    lacking,
    match,
    netlink,
    ownership,
    paths,
    plan,
    policy,
    preflight,
    program,
    provenance,
    rehearsal,
    resolve,
    segments,
    state,
    unrestorable,
    wire,
)
from criu_veth.container import of_process
from criu_veth.errors import InputError, OperationError
from criu_veth.provenance import Provenance
from criu_veth.state import Container, Veth
from criu_veth.way import Way

#: The usual way: CRIU was told to make every pair.
_MADE_BY_CRIU = Way(told=True)


class Inputs(NamedTuple):
    """What was read: ``config`` and ``state``, None where there is no such file; ``files`` is how these were before.

    ``chosen`` says how the mapping file was found, where several were to choose from; ``provenance`` where the state
    file comes from; ``lacking`` is a notice of what this host lacks and ``state`` is therefore without.
    """

    sources: paths.Sources
    files: program.Files
    config: config.Config | None
    state: state.State | None
    chosen: tuple[match.Decision, ...] = ()
    provenance: Provenance = Provenance()
    lacking: str | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What was noticed when the files were read."""
        return (*(self.config.notices if self.config else ()), *([self.lacking] if self.lacking else []))


def read(
    environ: Mapping[str, str],
    image_dir: paths.Directory | str | None,
    container: Container | None = None,
    *,
    ahead: bool = False,
) -> Inputs:
    """Read the mapping file and the state file, where there are any.

    ``container`` is what is known of the container beside what the images say; ``ahead`` if those are not written yet.
    Raises InputError.
    """
    sources = paths.Sources(dict(environ), image_dir)
    files = program.files_of(sources)  # first: a file that changes after it was read is a change
    found, origin = None, Provenance()
    if sources.state:
        data = state.read_bytes(sources.state, sources.images)
        found = state.parse(data, sources.state)
        origin = provenance.of(data, found, sources.state, sources.images, with_images=not ahead)
    known = [one for one in (container, found.container if found else None) if one is not None]
    chosen = match.choose(sources, match.subject(sources.image_dir, *known))
    here, without = lacking.fit(found, _has_sysctl) if found else (None, None)
    mapping = config.load(sources.config, sources.within(sources.config)) if sources.config else None
    return Inputs(sources, files, mapping, here, tuple(chosen), origin, without)


def _has_sysctl(path: str) -> bool:
    return os.path.exists(f"/proc/sys/net/{path}")


def nothing_to_go_by(sources: paths.Sources) -> str:
    """Say what was looked for, where there is neither a mapping file nor a state file."""
    there = [path for path in sources.candidates if path.rpartition("/")[0] != sources.image_dir]
    looked = " or ".join([*there, *([f"one in {paths.MATCH_DIR} that matches"] if sources.matchable else [])])
    return (
        f"the images hold no {paths.STATE_NAME}, and there is no mapping file ({looked}, or {paths.CONFIG_IN_IMAGES} in"
        f" the images): the network is left as CRIU makes it; dumped with the hook, or with a mapping such as"
        f' mappings = ["veth[eth0]:NAME@BRIDGE"], a container gets its outer ends back'
    )


def desired(inputs: Inputs, way: Way | None = None) -> tuple[Veth, ...]:
    """Return the ends that a restore of these images on this host should have.

    ``way`` is how the inner ends come back; by default CRIU makes them. Raises InputError, or OperationError if the
    kernel cannot be asked.
    """
    placeholders = {"hostname": os.uname().nodename, "image": program.image_name(inputs.sources)}
    veths = resolve.resolve(inputs.config, inputs.state, placeholders, way, **inputs.provenance._asdict())
    try:
        veths = segments.limit(veths)
    except OSError as error:
        raise OperationError(f"cannot ask this host for its routes: {error}") from None
    if netlink.renews_added_routes():
        return veths
    return tuple(
        msgspec.structs.replace(veth, netns=resolve.lasting_routes(veth.netns)) if veth.netns else veth
        for veth in veths
    )


def refusals(veths: tuple[Veth, ...], inputs: Inputs) -> list[str]:
    """Say what the state file asks for and may not have done, and the line of the mapping file that would allow it."""
    return policy.lines(veths, inputs.config.trust.allow if inputs.config else ())


def preflight_here(veths: tuple[Veth, ...], *, ahead: bool = False, decided: bool = False) -> preflight.Findings:
    """Compare the desired ends with this host; ``ahead`` and ``decided`` as in `preflight.preflight`.

    Raises OperationError.
    """
    rtnl = wire.Rtnl()
    try:
        return preflight.preflight(veths, netlink.Kernel(rtnl), ahead=ahead, decided=decided)
    except OSError as error:
        raise OperationError(f"cannot look at this host: {error}") from None
    finally:
        rtnl.close()


def prepare(
    environ: Mapping[str, str],
    image_dir: paths.Directory | str | None,
    way: Way = _MADE_BY_CRIU,
    pid: int | None = None,
    *,
    begun: bool = False,
) -> program.Program:
    """Make the program for this host, preflight it, keep it where that can be.

    ``pid`` is the container's first process, where there is one already. A restore that has ``begun`` may hold itself
    what preflight asks for.
    Raises InputError for the files, OperationError for what this host cannot do.
    """
    inputs = read(environ, image_dir, of_process(pid) if pid else None)
    veths, found = possible(inputs, way, ahead=begun)
    made = make(veths, inputs, found, way)
    with suppress(OperationError):  # this restore's own files say so if they cannot be written either
        program.save(made)
    return made


def lost_in_images(image_dir: paths.Directory | str | None, way: Way) -> tuple[str, ...]:
    """Return what the images in ``image_dir`` hold that CRIU cannot restore ``way``; what cannot be read is CRIU's."""
    if image_dir is None or not unrestorable.matters(way):
        return ()
    try:
        return tuple(fault for facts in images.facts(image_dir) for fault in unrestorable.judge(facts, way.macvlans))
    except (InputError, OSError):
        return ()


def judge(
    environ: Mapping[str, str],
    image_dir: paths.Directory | str | None,
    way: Way,
    pid: int | None,
    present: frozenset[bytes],
) -> None:
    """Find out what prevents the pairs from being made that nobody else has made; ``present`` are the others.

    Called when a restore's network namespace is there and something is not as it was when the program was made.
    Raises OperationError with all that this host cannot do, in the words of pre-restore.
    """
    inputs = read(environ, image_dir, of_process(pid) if pid else None)
    veths = tuple(veth for veth in desired(inputs, way) if veth.inner.encode() + b"\0" not in present)
    veths = tuple(veth for veth in veths if ownership.is_judged_later(veth.mode))
    found = rehearse(veths, inputs, preflight_here(veths, decided=True), decided=True)
    if found.faults:
        raise OperationError(*found.faults)


def possible(inputs: Inputs, way: Way, *, ahead: bool = False) -> tuple[tuple[Veth, ...], preflight.Findings]:
    """Return the desired ends, and what was found of this host and of the images; ``ahead`` as for `preflight_here`.

    Raises InputError, or OperationError with all that this host cannot do.
    """
    veths = desired(inputs, way)
    found = rehearse(veths, inputs, preflight_here(veths, ahead=ahead))
    if found.faults:
        raise OperationError(*found.faults)
    return veths, found.with_warnings(lost_in_images(inputs.sources.images, way))


def rehearse(
    veths: tuple[Veth, ...], inputs: Inputs, found: preflight.Findings, *, decided: bool = False
) -> preflight.Findings:
    """Add to what preflight ``found`` what this kernel refuses; ``decided`` as in `preflight.preflight`.

    Raises OperationError.
    """
    try:
        return rehearsal.rehearse(veths, found, inputs.config, decided=decided)
    except OSError as error:
        raise OperationError(f"cannot look at this host: {error}") from None


def prepare_ahead(
    environ: Mapping[str, str], image_dir: paths.Directory | str, ways: Iterable[Way], lost: tuple[str, ...] = ()
) -> list[program.Program]:
    """Make programs for this host at the dump, while the devices that they are to make are still there.

    One for each of ``ways``: how the restore will be asked for is not known yet. Names that are taken are no fault
    now. Where something else is, that program is left out: the restore may be meant for another host, and pre-restore
    looks again. ``lost`` is what CRIU is going to dump and cannot restore.
    """
    made = []
    for way in ways:
        try:
            inputs = read(environ, image_dir, ahead=True)
            veths = desired(inputs, way)
            found = preflight_here(veths, ahead=True)
            if inputs.config is not None:  # what was captured here and now is known to be possible
                found = rehearse(veths, inputs, found)
            if not found.faults:
                said = found.with_warnings(lost) if unrestorable.matters(way) else found
                made.append(save(veths, inputs, said, way))
        except (InputError, OperationError):
            continue
    return made


def save(
    veths: tuple[Veth, ...], inputs: Inputs, found: preflight.Findings, way: Way = _MADE_BY_CRIU
) -> program.Program:
    """Assemble the program and write it.

    Raises OperationError.
    """
    made = make(veths, inputs, found, way)
    program.save(made)
    return made


def make(
    veths: tuple[Veth, ...], inputs: Inputs, found: preflight.Findings, way: Way = _MADE_BY_CRIU
) -> program.Program:
    """Assemble the program.

    Raises OperationError.
    """
    entries = inputs.config.veths if inputs.config else ()
    uses = " ".join(text for entry in entries for text in (entry.outer, entry.alias) if text)
    sources = inputs.sources
    image = program.image_name(sources) if "{image}" in uses else None
    hostname = os.uname().nodename if "{hostname}" in uses or sources.matchable else None
    key = way.names_key if any(veth.overruled for veth in veths) else way.key
    made = program.Program(
        name=program.name_of(sources, image, key),
        inputs=program.inputs_of(sources, inputs.files, hostname, image, key, _names(veths, inputs.config)),
        checks=assemble.checks(veths, found.bridges, again=not found.doubles),
        remarks=remarks(veths, inputs, found, way),
        sections={},
    )
    made.data = program.encode(made, *operations(veths, inputs, found, way))
    return made


def _names(veths: tuple[Veth, ...], mapping: config.Config | None) -> tuple[tuple[str, str | None, str | None], ...]:
    """Return for which names and bridges, told to criu, the program is: see `way.Way.agrees`."""
    entries = {entry.inner: entry for entry in mapping.veths} if mapping else {}
    nothing = config.VethConfig(where="", inner="")
    return tuple(
        (
            veth.inner,
            veth.outer.ifname if entries.get(veth.inner, nothing).outer is None and "@" not in veth.was else None,
            veth.outer.master or "" if entries.get(veth.inner, nothing).bridge is None else None,
        )
        for veth in veths
        if ownership.is_made_with_what_was_told(veth.mode)
    )


def remarks(veths: tuple[Veth, ...], inputs: Inputs, found: preflight.Findings, way: Way) -> tuple[str, ...]:
    """Return what is said at pre-restore, each with ``warning: `` or ``notice: `` before it."""
    warnings = [*(inputs.config.notices if inputs.config else ()), *refusals(veths, inputs), *found.warnings]
    notices = [inputs.lacking] if inputs.lacking else []
    notices += [veth.overruled for veth in veths if veth.overruled]
    if not (inputs.config or inputs.state) and (way.devices or way.adopt):
        notices.append(nothing_to_go_by(inputs.sources))
    return (*(f"warning: {text}" for text in warnings), *(f"notice: {text}" for text in notices))


def without_doubles(veths: tuple[Veth, ...], found: preflight.Findings) -> tuple[Veth, ...]:
    """Have those ends not announced, and not given a MAC address, that a living container has the double of."""

    def silent(veth: Veth) -> Veth:
        outer = msgspec.structs.replace(veth.outer, mac=None) if veth.captured else veth.outer
        return msgspec.structs.replace(veth, announce=False, outer=outer)

    return tuple(silent(veth) if veth.inner in found.doubles else veth for veth in veths)


def operations(
    veths: tuple[Veth, ...], inputs: Inputs, found: preflight.Findings, way: Way
) -> tuple[dict[str, tuple[int, assemble.Tuple]], frozenset[str]]:
    """Return what to do, by action, and the actions that are only for IPv6 addresses: see `program.encode`."""
    if not (inputs.config or inputs.state):
        listed = assemble.settle_all() if way.devices else {}
        return listed, frozenset(listed)
    sent = inputs.config.announcements if inputs.config else config.Announcements()
    made = plan.make(without_doubles(veths, found), repeat=sent.repeat, interval=sent.interval)
    made = rehearsal.without(made, found.left_out)
    listed = assemble.assemble(made, assemble.late_checks(veths, found.bridges, found.deferred))
    if inputs.config and not veths:
        listed = assemble.name_strays()
    if inputs.config and inputs.config.verify:
        verify = (execute.VERIFY, msgspec.json.encode(veths), msgspec.json.encode(inputs.state))
        listed[actions.POST_RESUME] = (execute.FIRST_SLOT, (verify,))
    return listed, plan.only_ipv6(made)
