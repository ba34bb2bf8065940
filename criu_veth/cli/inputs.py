"""What the commands read: the mapping file and the state file, found as the hook finds them, and what they ask for."""

import os
from typing import NamedTuple

from criu_veth import config, paths, prepare
from criu_veth.errors import InputError
from criu_veth.state import Veth


class Inputs(NamedTuple):
    """The ends that a restore on this host should have, and what reading the mapping file gave to notice."""

    veths: tuple[Veth, ...]
    notices: tuple[str, ...]


def find(file: str | None, images: str | None) -> paths.Sources:
    """Find what the hook would find, or ``file`` if that is given."""
    return paths.Sources(_environ(file), images)


def read(file: str | None, images: str | None) -> Inputs:
    """Read the sources and resolve them for this host.

    Raises InputError.
    """
    found = prepare.read(_environ(file), images)
    if found.config is None and found.state is None:
        raise InputError(_nothing(found.sources))
    if images is None and found.config is not None:
        _refuse_unknown_image(found.config)
    return Inputs(prepare.desired(found), found.config.notices if found.config else ())


def _environ(file: str | None) -> dict[str, str]:
    return dict(os.environ) if file is None else {**os.environ, paths.CONFIG_VARIABLE: file}


def _nothing(sources: paths.Sources) -> str:
    looked = " or ".join(sources.candidates)
    if sources.image_dir is None:
        return f"there is no mapping file ({looked}): write one, or add --images DIR for what was captured at the dump"
    return f"there is no mapping file ({looked}), and {sources.image_dir} holds no {paths.STATE_NAME}"


def _refuse_unknown_image(found: config.Config) -> None:
    faults = [
        f"{found.path}: {veth.where}: {{image}} stands for the image directory's name, which is not known: add"
        " --images DIR"
        for veth in found.veths
        if "{image}" in f"{veth.outer} {veth.alias}"
    ]
    if faults:
        raise InputError(*faults)
