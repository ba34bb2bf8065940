"""The slow path: mapping file and state file to program. Done while nobody waits, where that can be arranged."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from criu_veth import assemble, config, netlink, paths, plan, preflight, program, resolve, state, wire
from criu_veth.errors import InputError, OperationError
from criu_veth.state import Veth


class Inputs(NamedTuple):
    """What was read: ``config`` and ``state``, None where there is no such file; ``files`` is how these were before."""

    sources: paths.Sources
    files: program.Files
    config: config.Config | None
    state: state.State | None


def read(environ: Mapping[str, str], image_dir: str | None) -> Inputs:
    """Read the mapping file and the state file, where there are any.

    Raises InputError.
    """
    sources = paths.Sources(dict(environ), image_dir)
    return Inputs(
        sources,
        program.files_of(sources),  # first: a file that changes after it was read is a change
        config.load(sources.config) if sources.config else None,
        state.read(sources.state) if sources.state else None,
    )


def nothing_to_go_by(sources: paths.Sources) -> str:
    """Say what was looked for, where there is neither a mapping file nor a state file."""
    looked = " or ".join(sources.candidates)
    return f"there is no mapping file ({looked}), and the images hold no {paths.STATE_NAME}"


def desired(inputs: Inputs) -> tuple[Veth, ...]:
    """Return the ends that a restore of these images on this host should have.

    Raises InputError.
    """
    placeholders = {"hostname": os.uname().nodename, "image": program.image_name(inputs.sources.image_dir)}
    return resolve.resolve(inputs.config, inputs.state, placeholders)


def preflight_here(veths: tuple[Veth, ...], *, wait: float = preflight.DYING_WAIT) -> preflight.Findings:
    """Compare the desired ends with this host; ``wait`` seconds at most for names that dying devices have."""
    rtnl = wire.Rtnl()
    try:
        return preflight.preflight(veths, netlink.Kernel(rtnl), wait=wait)
    finally:
        rtnl.close()


def prepare(environ: Mapping[str, str], image_dir: str | None) -> program.Program:
    """Make the program for this host, preflight it, save it.

    Raises InputError for the files, OperationError for what this host cannot do.
    """
    inputs = read(environ, image_dir)
    veths = desired(inputs)
    found = preflight_here(veths)
    if found.faults:
        raise OperationError(*found.faults)
    return save(veths, inputs, found)


def prepare_ahead(environ: Mapping[str, str], image_dir: str) -> program.Program | None:
    """Make the program for this host at the dump, while the devices that it is to make are still there.

    Names that are taken are no fault then. Where something else is, None is returned: the restore may be meant for
    another host, and pre-restore looks again.
    """
    try:
        inputs = read(environ, image_dir)
        veths = desired(inputs)
        found = preflight_here(tuple(preflight.without_names(veth) for veth in veths))
        return None if found.faults else save(veths, inputs, found)
    except (InputError, OperationError):
        return None


def save(veths: tuple[Veth, ...], inputs: Inputs, found: preflight.Findings) -> program.Program:
    """Assemble the program and write it.

    Raises OperationError.
    """
    entries = inputs.config.veths if inputs.config else ()
    uses = " ".join(text for entry in entries for text in (entry.outer, entry.alias) if text)
    sources = inputs.sources
    image = program.image_name(sources.image_dir) if "{image}" in uses else None
    result = program.Program(
        name=program.name_of(sources, image),
        inputs=(
            inputs.files,
            os.uname().nodename if "{hostname}" in uses else None,
            image,
        ),
        checks=assemble.checks(veths, found.bridges),
        warnings=(*(inputs.config.notices if inputs.config else ()), *found.warnings),
        sections={},
    )
    explain = None if inputs.config or inputs.state else nothing_to_go_by(sources)
    program.save(result, assemble.assemble(plan.make(veths), explain))
    return result
