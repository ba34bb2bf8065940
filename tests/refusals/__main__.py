"""The command line of the count."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from criu_veth import config, state
from criu_veth.errors import InputError
from criu_veth.way import EMPTY, EXTERNAL, READY

from . import world
from .capture import state_file
from .mapping import mapping_file

#: Of so many defects it is enough.
MOST_DEFECTS = 1000

NAMES = {"mapping": "criu-veth.toml", "state": "criu-veth.json"}


class Count(NamedTuple):
    """What became of the files of one kind."""

    kind: str
    accepted: int
    refused: dict[int, str]
    defects: dict[int, str]
    tried: int


def written(kind: str, seed: int, images: Path) -> str:
    """Write the file of this seed, and return by which mode it is to be restored."""
    for name in NAMES.values():
        (images / name).unlink(missing_ok=True)
    data = mapping_file(seed).encode() if kind == "mapping" else state_file(seed)
    (images / NAMES[kind]).write_bytes(data)
    if kind == "state":  # and all of it is to be put back
        (images / NAMES["mapping"]).write_text('[trust]\nimages = "root"\n')
        return (EXTERNAL, EXTERNAL, EMPTY, READY)[seed % 4]
    mode = re.search(rb'^mode = "(\w+)"', data, re.MULTILINE)
    return mode[1].decode() if mode else EXTERNAL


def read(kind: str, images: Path) -> world.Ended | None:
    """Read the file as it is read first, so that one which is wrong costs no network namespaces."""
    path = str(images / NAMES[kind])
    try:
        if kind == "mapping":
            config.load(path)
        else:
            state.read(path)
    except InputError as error:
        return world.Ended(accepted=False, said=error.faults)
    return None


def count(kind: str, seed: int, wanted: int, images: Path) -> Count:
    """Restore from files of one kind, from this seed on, until so many have been accepted."""
    accepted, tried = 0, 0
    refused: dict[int, str] = {}
    defects: dict[int, str] = {}
    with world.World(images) as host:
        while accepted < wanted and len(defects) < MOST_DEFECTS:
            mode = written(kind, seed, images)
            ended = read(kind, images) or host.restore(mode)
            tried += 1
            accepted += ended.accepted
            if ended.refused:
                refused[seed] = ended.refused
            if ended.defect:
                defects[seed] = ended.defect
            seed += 1
    return Count(kind, accepted, refused, defects, tried)


def shape(text: str) -> str:
    """Leave of what the kernel said only what is common to faults of one kind."""
    text = text.partition(" | ")[0]
    text = re.sub(r"^([\w-]+): \S+: ", r"\1: ", text)
    return re.sub(r"(?<=sysctl )(\S+) = .*?(?=: )|(?<=(?:dress|route|alias) ).*?(?=: )|\d+", r"\1", text)


def main() -> int:
    """Count, and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m refusals", description=__doc__)
    parser.add_argument("--kind", choices=[*NAMES, "both"], default="both")
    parser.add_argument("--count", type=int, default=1000, help="accepted files of each kind (1000)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--show", action="store_true", help="each refusal, not only its kind")
    options = parser.parse_args()
    world.own_namespaces()
    found = 0
    with tempfile.TemporaryDirectory(prefix="criu-veth-refusals-") as directory:
        for kind in NAMES if options.kind == "both" else [options.kind]:
            start = time.monotonic()
            result = count(kind, options.seed, options.count, Path(directory))
            took = time.monotonic() - start
            print(
                f"{kind}: {len(result.refused)} of {result.accepted} accepted files refused by the kernel"
                f" ({result.tried} tried from seed {options.seed}, {len(result.defects)} defects, {took:.0f} s)"
            )
            for text, number in Counter(map(shape, result.refused.values())).most_common():
                print(f"  {number:5}  {text}")
            if options.show:
                for seed, text in result.refused.items():
                    print(f"  seed {seed}: {text}")
            for text, number in Counter(text.splitlines()[-1] for text in result.defects.values()).most_common(20):
                seed = next(seed for seed, said in result.defects.items() if said.splitlines()[-1] == text)
                print(f"  defect: {number:5}  {text} (seed {seed})")
            found += len(result.refused) + len(result.defects)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
