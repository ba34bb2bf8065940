"""What happens at pre-dump: capture, state file, and the program for a restore on this host."""

import os
from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from criu_veth import bounds, capture, config, container, match, paths, prepare, seal, state, tree, unrestorable, wire
from criu_veth.errors import InputError, OperationError
from criu_veth.netlink import Kernel
from criu_veth.way import Way


def run(
    environ: Mapping[str, str], image_dir: paths.Directory | str, pid: int, likely: Iterable[Way] = ()
) -> list[str]:
    """Capture the container of ``pid`` into its image directory; return what is worth telling.

    A program is made for each of the ways in which a restore here is ``likely`` to be asked for.
    Raises InputError or OperationError: the dump fails then, and the application has not been touched. The mapping
    file's ``[capture]`` decides whether a capture that fails does so, and whether what CRIU cannot restore does.
    """
    sources = paths.Sources(dict(environ), image_dir)
    if sources.matchable:
        match.choose(sources, match.subject(sources.image_dir, container.of_process(pid)))
    mapping = config.load(sources.config, sources.within(sources.config)) if sources.config else None
    settings = mapping.capture if mapping else config.Capture()
    if not settings.enabled:
        return ["the outer ends are not captured ([capture] enabled = false)"]
    try:
        captured, unsealed = write(pid, state.path_in(str(sources.image_dir)), sources.images)
    except OperationError as error:
        if not os.path.exists(f"/proc/{pid}"):
            return [f"notice: there is no process {pid}: nothing captured"]
        if settings.on_error == "warn":
            return [f"warning: {fault}" for fault in error.faults]
        remedy = 'to dump without it: [capture] on_error = "warn" or enabled = false in the mapping file'
        raise OperationError(*(f"{fault}; {remedy}" for fault in error.faults)) from None
    ways = tuple(likely)
    lost = _unrestorable(pid, ways, settings)
    warnings = [*lost, *_prepare_ahead(environ, sources.images or str(image_dir), ways, lost)]
    names = ", ".join(f"{veth.inner.ifname}: {veth.outer.ifname}" for veth in captured.veths)
    return [
        *(f"warning: {warning}" for warning in (*captured.warnings, *warnings)),
        *(f"notice: {note}" for note in (*captured.notes, *unsealed)),
        f"captured {names}" if names else "notice: the container has no veth to the host",
    ]


def _unrestorable(pid: int, likely: Iterable[Way], settings: config.Capture) -> tuple[str, ...]:
    """Return what CRIU is going to dump and cannot restore, if it is to bring the network back.

    Raises OperationError with it where ``[capture] on_error = "error"`` was written.
    """
    if not any(map(unrestorable.matters, likely)):
        return ()
    try:
        found = tuple(fault for facts in _facts(pid) for fault in unrestorable.judge(facts))
    except OSError:
        return ()  # it ends; the dump says so
    if found and settings.on_error == "error":
        remedy = 'to dump it all the same: [capture] on_error = "warn" in the mapping file, or no on_error'
        raise OperationError(*(f"{fault}; {remedy}" for fault in found))
    return found


def _facts(pid: int) -> Iterator[unrestorable.Facts]:
    """Yield what decides whether CRIU can restore them, of the tree's network namespaces but this process's.

    Raises OSError.
    """
    here = os.stat("/proc/self/ns/net")
    for path in tree.paths_of(pid)[: bounds.MOST_NAMESPACES]:
        if os.path.samestat(os.stat(path), here):
            continue
        namespaces = wire.Namespaces(path)
        try:
            kernel = Kernel(namespaces.inner)
            devices = {
                link.index: unrestorable.Device(
                    bounds.shown(link.ifname), link.kind or "", inside=link.get("IFLA_LINK_NETNSID") is None
                )
                for link in kernel.links()
            }
            yield unrestorable.Facts(devices, kernel.raw_routes(unrestorable.may_matter), kernel.raw_addresses6())
        finally:
            namespaces.close()


def _prepare_ahead(
    environ: Mapping[str, str], image_dir: paths.Directory | str, likely: Iterable[Way], lost: tuple[str, ...]
) -> list[str]:
    """Make the programs; whatever comes in between, the container has been captured and pre-restore makes them."""
    try:
        prepare.prepare_ahead(environ, image_dir, likely, lost)
    except Exception as error:  # not even a defect is worth the dump
        return [f"no program could be made ahead: {error}"]
    return []


def write(pid: int, path: str, within: paths.Directory | None = None) -> tuple[state.State, list[str]]:
    """Capture the container of ``pid``, write the state file at ``path`` and seal it as this host's own.

    ``within`` is as for `state.write`.

    One that says the same already is left as it is: a restore may have been prepared with it. The second part of the
    result says why it is not sealed, if it is not. Raises OperationError.
    """
    captured = capture.capture(pid)
    there = _the_same(path, within, captured)
    unsealed = sealed(there or state.encode(captured), path, within)
    if there is not None:
        return captured, unsealed
    try:
        state.write(captured, path, within)
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from None
    return captured, unsealed


def sealed(data: bytes, path: str, within: paths.Directory | None = None) -> list[str]:
    """Seal what the state file at ``path`` holds or is about to hold; return why that could not be, which harms little.

    The seal comes first: what is made ahead of a restore hangs on the state file, and then finds it.
    """
    try:
        seal.write(data, path, within)
    except seal.NoKeyError as error:
        return [f"the capture is not marked as this host's own: {error}"]
    except OSError as error:
        return [f"the capture is not marked as this host's own: {seal.path_for(path)}: {error.strerror}"]
    return []


def _the_same(path: str, within: paths.Directory | None, captured: state.State) -> bytes | None:
    """Return what the state file at ``path`` holds, if it says the same as ``captured``."""
    try:
        data = state.read_bytes(path, within)
        found = state.parse(data, path)
    except InputError:
        return None
    same = replace(found, host=replace(found.host, created=captured.host.created)) == captured
    return data if same else None
