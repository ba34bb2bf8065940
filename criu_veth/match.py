"""Which mapping file is this container's? The first one of ``/etc/criu/criu-veth.d`` whose ``[match]`` fits.

A file named by ``$CRIU_VETH_CONFIG`` and one in the image directory go before; the default one is for the rest.
"""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from criu_veth import config, container, paths
from criu_veth.config import Match
from criu_veth.state import Container


class Subject(NamedTuple):
    """What patterns are compared with: the container's ``names`` and id, the image directory, this host's name."""

    names: tuple[str, ...]
    image_dir: str
    hostname: str


class Decision(NamedTuple):
    """What became of one file: whether it is the one that is ``used``, and ``why``."""

    path: str
    used: bool
    why: str


def subject(image_dir: str | None, *containers: Container) -> Subject:
    """Return what is known of a container from its image directory's path and from ``containers``."""
    known = [*containers, container.of_images(image_dir or "")]
    names = dict.fromkeys(name for one in known for name in (*one.names, one.id) if name)
    return Subject(tuple(names), image_dir or "", os.uname().nodename)


def choose(sources: paths.Sources, about: Subject) -> list[Decision]:
    """Make the file that is for this container the one of ``sources``; return what became of each that was looked at.

    Raises InputError for a file that cannot be read: it might have been the one.
    """
    decisions = []
    for path in sources.matchable:
        used, why = _fits(config.load_match(path), about)
        decisions.append(Decision(path, used, why))
        if used:
            sources.config = path
            return decisions
    if sources.matchable and sources.config is not None:
        decisions.append(Decision(sources.config, True, f"none of {paths.MATCH_DIR} is for this container"))
    return decisions


def _fits(match: Match, about: Subject) -> tuple[bool, str]:
    """Say whether a file is for this container, and which keys said so (or the first one that did not)."""
    image = about.image_dir.rstrip("/")
    said = []
    for key, patterns, values in (
        ("container", match.container, about.names),
        ("image", match.image, (os.path.basename(image), image)),
        ("hostname", match.hostname, (about.hostname,)),
    ):
        listed = [patterns] if isinstance(patterns, str) else patterns
        if not listed:
            continue
        found = _first_fit(listed, [value for value in values if value], path=key == "image")
        if found is None:
            wanted = " or ".join(f'"{pattern}"' for pattern in listed)
            known = ", ".join(f'"{value}"' for value in values if value) or "nothing: it is not known"
            return False, f"{key} = {wanted} does not match {known}"
        said.append('{} = "{}" matches "{}"'.format(key, *found))
    return True, ", ".join(said) or "it has no [match], so it is for every container"


def _first_fit(patterns: Sequence[str], values: Sequence[str], *, path: bool) -> tuple[str, str] | None:
    for pattern in patterns:
        for value in values:
            if path and ("/" in pattern) != ("/" in value):
                continue
            if fnmatchcase(value, pattern):
                return pattern, value
    return None
