"""The kinds of input: how each is made, and what reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from criu_veth import config, match, paths, preflight, prepare, state, toml, way

from . import trees
from .judge import cleanly, command
from .source import Source

T = TypeVar("T")

SEEDS = Path(__file__).with_name("seeds")

#: Names of the image directory: the placeholder ``{image}`` has them.
IMAGE_NAMES = (
    b"web-1",
    b"web-1",
    b"web-1",
    b"a",
    b"x" * 200,
    b"\xff\xfe",
    b"\x1b[31mred",
    b"a b",
    b"a\nb",
    "ü".encode(),
    b"{inner}",
)
#: How the inner ends may come back.
WAYS: tuple[Callable[[], way.Way], ...] = (
    lambda: way.Way(told=True),
    way.Way,
    lambda: way.Way(devices=False),
)


class Lab(NamedTuple):
    """Where the inputs are put: everything in a directory, with namespaces of its own around it."""

    root: Path

    def images(self, name: bytes = b"web-1") -> Path:
        """Return an image directory without anything in it."""
        path = self.root / "images" / os.fsdecode(name)
        path.mkdir(parents=True, exist_ok=True)
        for one in path.iterdir():
            one.unlink()
        return path

    @property
    def mapping(self) -> Path:
        """The mapping file that the environment names."""
        return self.root / "etc" / "criu-veth.toml"


class Kind(NamedTuple):
    """A kind of input: ``make`` makes one by chance, ``run`` has it read, ``seeds`` are some that are valid or that
    have once ended badly.
    """

    make: Callable[[Source], Any]
    run: Callable[[Lab, Any], object]
    seeds: Callable[[], list[Any]]


def seeds(kind: str) -> list[bytes]:
    """Return what the files of one kind hold, in the order of their names."""
    return [path.read_bytes() for path in sorted((SEEDS / kind).iterdir())]


def _tree_or_bytes(
    source: Source, valid: list[bytes], read: Callable[[bytes], Any], grown: Any, write: Callable[[Any], bytes]
) -> bytes:
    """Make one input of a textual format: damaged bytes, a damaged tree, or one that has grown."""
    how = source.randrange(10)
    if how < 3:
        return source.damaged(source.choice(valid), valid)
    tree = trees.damage(source, read(source.choice(valid))) if how < 8 else trees.Grower(source).grow(grown)
    data = write(tree)
    return source.damaged(data) if source.one_in(20) else data


class Sized(NamedTuple):
    """An input, where to put it, and which of the slower readers get it too."""

    data: bytes
    image: bytes = b"web-1"
    more: int = 0


# --- the mapping file


def _toml(data: bytes) -> Any:
    return toml.loads(data.decode())


def make_mapping(source: Source) -> Sized:
    """Make a mapping file."""
    valid = [seed for seed in seeds_of("mapping") if _is_read(_toml, seed)]
    data = _tree_or_bytes(source, valid, _toml, config.File, trees.to_toml)
    return Sized(data, source.choice(IMAGE_NAMES), source.randrange(16))


def run_mapping(lab: Lab, given: Sized) -> None:
    """Read a mapping file as the hook and the commands do."""
    lab.mapping.write_bytes(given.data)
    images = lab.images(given.image)
    environ = {paths.CONFIG_VARIABLE: str(lab.mapping)}
    found = cleanly(config.load_match, str(lab.mapping))
    if found is not None:
        about = match.subject(str(images), state.Container(id="x", names=("web",)))
        cleanly(match._fits, found, about)
    compile_all(environ, str(images))
    _commands(given.more, str(lab.mapping), images)


# --- the state file


def _json(data: bytes) -> Any:
    import json

    return json.loads(data)


def make_state(source: Source) -> Sized:
    """Make a state file."""
    valid = [seed for seed in seeds_of("state") if _is_read(_json, seed)]
    data = _tree_or_bytes(source, valid, _json, state.State, trees.to_json)
    return Sized(data, source.choice(IMAGE_NAMES), source.randrange(16))


def run_state(lab: Lab, given: Sized) -> None:
    """Read a state file as the hook and the commands do."""
    images = lab.images(given.image)
    (images / paths.STATE_NAME).write_bytes(given.data)
    compile_all({}, str(images))
    _commands(given.more, None, images)
    if given.more % 3 == 0:
        command("inspect", str(images), *(["--json"] if given.more % 2 else []))


def _commands(more: int, file: str | None, images: Path) -> None:
    """Call some of the commands, by chance: these are slower than what the hook does."""
    words = [*([file] if file else []), "--images", str(images)]
    if more % 4 == 0:
        command("plan", *words, *(["--json"] if more % 8 else []))
    if more % 8 == 1:
        command("options", *words, "--format", ("args", "conf", "json")[more % 3])
    if more == 2:
        command("check", *words, "--mode", "ready")
    if more == 3:
        command("check", *words, "--json")
    if more == 5:
        command("check", *words)


def compile_all(environ: dict[str, str], image_dir: str) -> None:
    """Make the programs of what was read, without looking at this host."""
    inputs = cleanly(prepare.read, environ, image_dir)
    if inputs is None:
        return
    for make in WAYS:
        how = make()
        veths = cleanly(prepare.desired, inputs, how)
        if veths is not None:
            cleanly(prepare.make, veths, inputs, preflight.Findings((), (), {}), how)


# --- helpers

_kept: dict[str, list[bytes]] = {}


def seeds_of(kind: str) -> list[bytes]:
    """Return the seeds of a kind, read once."""
    if kind not in _kept:
        _kept[kind] = seeds(kind)
    return _kept[kind]


_valid: dict[bytes, bool] = {}


def _is_read(read: Callable[[bytes], Any], data: bytes) -> bool:
    if data not in _valid:
        try:
            read(data)
            _valid[data] = True
        except (ValueError, RecursionError):
            _valid[data] = False
    return _valid[data]


def as_files(kind: str) -> Callable[[], list[Any]]:
    """Return what makes inputs of a kind out of its seed files: each is given to all readers."""
    names = (IMAGE_NAMES[0], b"\xff\xfe", b"\x1b[31mred")
    return lambda: [Sized(data, names[more % 3], more) for data in seeds_of(kind) for more in range(6)]


KINDS: dict[str, Kind] = {
    "mapping": Kind(make_mapping, run_mapping, as_files("mapping")),
    "state": Kind(make_state, run_state, as_files("state")),
}
