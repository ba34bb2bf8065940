"""What happens at pre-dump: capture, state file, and the program for a restore on this host."""

import os
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from criu_veth import capture, config, container, match, paths, prepare, state
from criu_veth.errors import InputError, OperationError
from criu_veth.way import Way


def run(environ: Mapping[str, str], image_dir: str, pid: int, likely: Iterable[Way] = ()) -> list[str]:
    """Capture the container of ``pid`` into its image directory; return what is worth telling.

    A program is made for each of the ways in which a restore here is ``likely`` to be asked for.
    Raises InputError or OperationError: the dump fails then, and the application has not been touched. The mapping
    file's ``[capture]`` decides whether a capture that fails does so.
    """
    sources = paths.Sources(dict(environ), image_dir)
    if sources.matchable:
        match.choose(sources, match.subject(sources.image_dir, container.of_process(pid)))
    settings = config.load(sources.config).capture if sources.config else config.Capture()
    if not settings.enabled:
        return ["the outer ends are not captured ([capture] enabled = false)"]
    try:
        captured = write(pid, state.path_in(image_dir))
    except OperationError as error:
        if not os.path.exists(f"/proc/{pid}"):
            return [f"notice: there is no process {pid}: nothing captured"]
        if settings.on_error == "warn":
            return [f"warning: {fault}" for fault in error.faults]
        remedy = 'to dump without it: [capture] on_error = "warn" or enabled = false in the mapping file'
        raise OperationError(*(f"{fault}; {remedy}" for fault in error.faults)) from None
    warnings = _prepare_ahead(environ, image_dir, likely)
    names = ", ".join(f"{veth.inner.ifname}: {veth.outer.ifname}" for veth in captured.veths)
    return [
        *(f"warning: {warning}" for warning in (*captured.warnings, *warnings)),
        *(f"notice: {note}" for note in captured.notes),
        f"captured {names}" if names else "notice: the container has no veth to the host",
    ]


def _prepare_ahead(environ: Mapping[str, str], image_dir: str, likely: Iterable[Way]) -> list[str]:
    """Make the programs; whatever comes in between, the container has been captured and pre-restore makes them."""
    try:
        prepare.prepare_ahead(environ, image_dir, likely)
    except Exception as error:  # not even a defect is worth the dump
        return [f"no program could be made ahead: {error}"]
    return []


def write(pid: int, path: str) -> state.State:
    """Capture the container of ``pid`` and write the state file at ``path``.

    One that says the same already is left as it is: a restore may have been prepared with it. Raises OperationError.
    """
    captured = capture.capture(pid)
    if _says_the_same(path, captured):
        return captured
    try:
        state.write(captured, path)
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from None
    return captured


def _says_the_same(path: str, captured: state.State) -> bool:
    try:
        found = state.read(path)
    except InputError:
        return False
    return replace(found, host=replace(found.host, created=captured.host.created)) == captured
