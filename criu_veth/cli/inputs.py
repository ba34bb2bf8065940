"""What the commands read: the mapping file and the state file, found as the hook finds them, and what they ask for."""

import os
from typing import NamedTuple

from criu_veth import config, paths, prepare
from criu_veth.cli import ways
from criu_veth.errors import InputError
from criu_veth.state import Container, Veth
from criu_veth.way import Way


class Inputs(NamedTuple):
    """What was ``read``, by which ``way`` the inner ends are to come back, and what a restore should make of it."""

    read: prepare.Inputs
    way: Way
    veths: tuple[Veth, ...]

    @property
    def sources(self) -> paths.Sources:
        """The files that there are."""
        return self.read.sources

    @property
    def notices(self) -> tuple[str, ...]:
        """What was noticed when the files were read, and what of the capture criu is told otherwise."""
        return (*self.read.notices, *(veth.overruled for veth in self.veths if veth.overruled))

    @property
    def refused(self) -> list[str]:
        """What the state file asks for and may not have done, each with the line that would allow it."""
        return prepare.refusals(self.veths, self.read)

    def chosen(self, *, always: bool = False) -> list[str]:
        """Return which mapping files there were to choose from, and why each was used or not.

        With ``always`` something is said where there was no choice, too.
        """
        if always and not self.read.chosen and self.sources.config is not None:
            return [f"{self.sources.config}: used: it goes before those in {paths.MATCH_DIR}, or there are none"]
        return _explained(self.read)

    def names(self) -> list[str]:
        """Return the paths that were read."""
        return [path for path in (self.sources.config, self.sources.state) if path is not None]


def find(file: str | None, images: str | None) -> paths.Sources:
    """Find what the hook would find, or ``file`` if that is given."""
    return paths.Sources(_environ(file), images)


def read(
    file: str | None,
    images: str | None,
    mode: str | None = None,
    container: str | None = None,
    external: tuple[str, ...] = (),
) -> Inputs:
    """Read the sources and resolve them for this host, the inner ends coming back by ``mode`` as far as can be.

    ``external`` are the values of criu's option of that name. ``container`` is a name that the container has beside
    those that the images tell. Raises InputError.
    """
    found = prepare.read(_environ(file), images, Container(names=(container,)) if container else None)
    if found.config is None and found.state is None:
        raise InputError(_nothing(found.sources), *_explained(found))
    if images is None and found.config is not None:
        _refuse_unknown_image(found.config)
    way = ways.choose(found, images, mode, external)
    return Inputs(found, way, prepare.desired(found, way))


def _explained(found: prepare.Inputs) -> list[str]:
    return [f"{path}: {'used' if used else 'not used'}: {why}" for path, used, why in found.chosen]


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
