"""By which way the inner ends should come back, decided before a restore: criu has not been told anything yet."""

from criu_veth import images, paths, prepare, session, way
from criu_veth.config import VethConfig, has_no_mac
from criu_veth.errors import InputError
from criu_veth.way import EMPTY, EXTERNAL, READY, Way

#: What ``--external`` says of a device, by the kind that it begins with.
_DEVICES = {"veth": "OUTER[@BRIDGE]", "netdev": "NAME", "macvlan": "PARENT"}


def choose(inputs: prepare.Inputs, image_dir: str | None, mode: str | None, external: tuple[str, ...] = ()) -> Way:
    """Return the way of a restore by ``mode``: ``external``, ``ready``, ``empty``, or None for what the images take.

    A mapping file's own ``mode`` goes before it, and what is no veth is made ready. ``external`` are values of criu's
    option of that name; what they name comes back as they say, where CRIU brings devices back at all. Raises
    InputError for what cannot be had together.
    """
    entries = {entry.inner: entry for entry in inputs.config.veths} if inputs.config else {}
    checkpoint = _checkpoint(inputs.sources.images)
    chosen = _told(external)
    if checkpoint and any(namespace.external_key for namespace in checkpoint):
        _refuse(entries, mode, "the images say that the network namespace is external", (EMPTY, EXTERNAL, READY))
        chosen.adopt, chosen.devices = True, False
        return chosen
    empty = _why_empty(entries, mode, checkpoint)
    if empty is not None:
        _refuse(entries, mode, empty, (EXTERNAL, READY))
        chosen.empty = True
        return chosen
    captured = [veth.inner.ifname for veth in inputs.state.veths] if inputs.state else []
    inners = dict.fromkeys([*captured, *entries])
    named = {*chosen.external, *chosen.ready}
    ready = [inner for inner in inners if inner not in named and _mode(entries.get(inner), mode) == READY]
    if ready and image_dir is None:
        raise InputError(
            f'"{ready[0]}" is to be made ready, under a name that is made from the image directory\'s: add --images DIR'
        )
    session.see_what_is_made(chosen)
    chosen.ready |= {inner: way.ready_name(str(image_dir), inner) for inner in ready}
    return chosen


def _told(external: tuple[str, ...]) -> Way:
    """Take in the values of ``--external``.

    Raises InputError for one that criu would take for something else than was meant.
    """
    told = Way(told=True)
    faults = []
    for value in external:
        kind, _, rest = value.partition("[")
        if kind in _DEVICES and not all(rest.partition("]:")[::2]):
            faults.append(f"--external {value}: is not as criu takes it: {kind}[INNER]:{_DEVICES[kind]}")
        told.read_option("external", value)
    if faults:
        raise InputError(*faults)
    return told


def _checkpoint(directory: paths.Directory | None) -> tuple[images.Namespace, ...] | None:
    """Return what CRIU's images hold, or None as long as they are not there."""
    return None if directory is None else images.read(directory)


def _why_empty(
    entries: dict[str, VethConfig], mode: str | None, checkpoint: tuple[images.Namespace, ...] | None
) -> str | None:
    if mode == EMPTY:
        return "--mode empty leaves the whole network namespace to the hook"
    for entry in entries.values():
        if entry.mode == EMPTY:
            return f'{entry.where}.mode = "{EMPTY}" leaves the whole network namespace to the hook'
        if has_no_mac(entry.kind, entry.kind_mode):
            return f"CRIU can move no {entry.kind} {entry.kind_mode} in ({entry.where}): the hook has to make it inside"
    if checkpoint is not None and not any(namespace.devices for namespace in checkpoint):
        return "the images hold no devices: the network namespace will be empty"
    return None


def _mode(entry: VethConfig | None, mode: str | None) -> str:
    if entry is not None and entry.mode is not None:
        return entry.mode
    return READY if entry is not None and entry.kind != "veth" else mode or EXTERNAL


def _refuse(entries: dict[str, VethConfig], mode: str | None, why: str, refused: tuple[str, ...]) -> None:
    faults = [f'{entry.where}.mode = "{entry.mode}", but {why}' for entry in entries.values() if entry.mode in refused]
    faults += [f"--mode {mode}, but {why}"] if mode in refused else []
    if faults:
        raise InputError(*faults)
