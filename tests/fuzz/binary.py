"""The kinds of input that are no text: CRIU's images, what runtimes keep, programs; and the environment of a call."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from criu_veth import actions, container, hook, images, paths, preflight, prepare, program, runs, way

from .judge import Said, Stderr, cleanly, command, judge
from .kinds import SEEDS, Kind, Lab
from .packed import image_files, kept_files
from .source import TEXTS, Source

# --- CRIU's images


_images: dict[str, bytes] = {}


def _real_images() -> dict[str, bytes]:
    if not _images:
        _images.update({path.name: path.read_bytes() for path in sorted((SEEDS / "images").iterdir())})
    return _images


class Images(NamedTuple):
    """The files of an image directory, and which of the slower readers get it."""

    files: dict[str, bytes]
    more: int = 0


def make_images(source: Source) -> Images:
    """Make an image directory."""
    return Images(image_files(source, _real_images()), source.randrange(12))


def run_images(lab: Lab, given: Images) -> None:
    """Read an image directory as the hook and the commands do."""
    directory = lab.images()
    for name, data in given.files.items():
        (directory / name).write_bytes(data)
    path = str(directory)
    cleanly(images.read, path)
    way.images_hold_devices(path)
    way.images_share_netns(path)
    way.images_need_ipv6(path)
    way._inherits_netns(["key"], path)
    way.images_have_external_netns(path)
    if given.more < 2:
        command("inspect", path, *(["--json"] if given.more else []))


# --- what runtimes keep of a container


def run_container(lab: Lab, files: dict[str, bytes]) -> None:
    """Ask which container a process belongs to."""
    root = lab.root / "kept"
    places = {
        "state.json": "runc/c1", "status": "crun/c1", "config.json": "crun/c1", "containers.json": "overlay-containers",
        "config.v2.json": "docker", "cgroup": "proc/7", "stat": "proc/7", "cmdline": "proc/3",
    }  # fmt: skip
    for name, data in files.items():
        place = root / places[name]
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    container._PROC = str(root / "proc")  # type: ignore[misc]
    container._STATES = ((f"{root}/runc", "runc", "state.json"), (f"{root}/crun", "crun", "status"))  # type: ignore[assignment]
    container.of_process(7)
    container.of_images(f"{root}/overlay-containers/{'a' * 64}/userdata/checkpoint")


# --- programs, and what else is in /run/criu-veth


class Program(NamedTuple):
    """The file of a program, and those of a run."""

    data: bytes
    owner: bytes = b"4026531840 4026531836 4026531834 9b3b3b3b-0000-0000-0000-000000000000"
    adopted: bytes = b"eth0\0"
    journal: bytes = b"in 4026531840 4026531836\nlink web0\n"
    run: str = "7-7-7"


_programs: list[bytes] = []


def _real_programs() -> list[bytes]:
    if not _programs:
        for path in sorted((SEEDS / "mapping").iterdir()):
            inputs = cleanly(prepare.read, {paths.CONFIG_VARIABLE: str(path)}, None)
            for how in (way.Way(told=True), way.Way(devices=False)) if inputs else ():
                veths = cleanly(prepare.desired, inputs, how) or ()
                _programs.append(prepare.make(veths, inputs, preflight.Findings((), (), {}), how).data)
    return _programs


def make_program(source: Source) -> Program:
    """Make what lies in ``/run/criu-veth``: a program that was damaged, or one that says something else."""
    data = source.choice(_real_programs())
    data = source.damaged(data, _real_programs()) if source.one_in(2) else _forged(source, data)
    usual = Program(data, run=source.choice(("7-7-7", "7", "7-7", "99999999999-1-1", "9" * 200 + "-1-1", "\u0661-1-1")))
    return usual._replace(
        **{name: source.damaged(getattr(usual, name)) for name in ("owner", "adopted", "journal") if source.one_in(3)}
    )


def _forged(source: Source, data: bytes) -> bytes:
    """Return a program as whoever knows its format might write it, with values that it never has."""
    made = program.decode(data)
    assert made is not None
    header = _changed(source, (made.inputs, made.checks, made.remarks, made.sections))
    return program._file(header, data[program._header_end(data) :])


def _changed(source: Source, value: Any) -> Any:
    """Return a value of any shape with something else in a place of it."""
    parts = list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else []
    if not parts or source.one_in(4):
        return source.choice((source.integer(), source.text(), b"\0", None, (), {}, 1.5, (1,) * 7, {"pre-restore": ()}))
    at = source.randrange(len(parts))
    parts[at] = _changed(source, parts[at])
    return dict(zip(value, parts, strict=True)) if isinstance(value, dict) else tuple(parts)


def run_program(_: Lab, given: Program) -> None:
    """Look for a program, and look at a run."""
    found = program.decode(given.data)
    for action in actions.RESTORE_STAGES if found else ():
        assert found is not None
        cleanly(found.operations, action)
    runs.secure(make=True)
    for name in runs.names():
        runs.Run(name).end()
    run = runs.Run(given.run)
    run.begin()
    for name, data in (("owner", given.owner), ("adopted", given.adopted), ("journal", given.journal)):
        paths.unlink(f"{run.path}/{name}")
        run.write(name, data)
    run.write(actions.POST_RESTORE, given.data)
    program.operations(run, actions.POST_RESTORE)
    run.adopted(), run.made(), run.netns()
    judge = runs.Judge()
    runs.forget(runs.over(judge), judge)
    paths.unlink(f"{paths.PROGRAMS}/none-external")
    paths.write(f"{paths.PROGRAMS}/none-external", given.data)
    program.find(paths.Sources({}, None), "host", way.Way(told=True))
    program.prune()


# --- the environment, criu's command line and its configuration files


class Call(NamedTuple):
    """The environment of a call, the words of criu's command line, and its configuration file."""

    environ: dict[bytes, bytes]
    words: list[bytes]
    conf: bytes


_VARIABLES = (
    "CRTOOLS_SCRIPT_ACTION", "CRIU_SCRIPT_ACTION", "CRTOOLS_IMAGE_DIR", "CRTOOLS_INIT_PID", "CRIU_VETH_CONFIG", "HOME",
    "CRIU_CONFIG_FILE",
)  # fmt: skip
_PLACES = ("/proc/self/fd/9", "/proc/1/fd/-1", "/proc/99999999/fd/3", "/run", ".", "/", f"/proc/{'9' * 5000}/fd/1")
_WORDS = (
    "restore", "dump", "swrk", "service", "--external", "veth[eth0]:web0@br0", "--external=netdev[eth0]:nd0",
    "--empty-ns", "net", "--inherit-fd", "fd[3]:key", "--join-ns", "net:/x", "--veth-pair", "eth0=web0", "--config",
    "--config=/run/conf", "veth[eth0]", "veth[]:", "netdev[eth1]:", "net[1]:key", "criu: restore --rpc",
    "--no-default-config", "veth[a]:b@c@d",
)  # fmt: skip


_KEYS = (
    "veth[eth0]:",
    "netdev[eth0]:",
    "veth[eth0]:web0@",
    "netdev[eth1]:",
    "veth[",
    "net[",
    "netdev[",
    "veth[eth1]:a@",
)


def _text(source: Source) -> bytes:
    text = source.text().replace("\0", "").encode("utf-8", "surrogatepass")
    return text if source.one_in(2) else text.replace(b"\xed", b"\xff")


def _word(source: Source) -> bytes:
    how = source.randrange(4)
    if how == 0:
        return _text(source)
    if how == 1:
        return b"--external=" + source.choice(_KEYS).encode() + _text(source)
    return source.choice(_WORDS).encode()


def make_call(source: Source) -> Call:
    """Make one call of the hook."""
    environ: dict[bytes, bytes] = {}
    usual = {
        "CRTOOLS_SCRIPT_ACTION": lambda: source.choice((*actions.KNOWN, "pre-restore", "pre-restore")),
        "CRTOOLS_IMAGE_DIR": lambda: source.choice((*("IMAGES",) * 8, *_PLACES)),
        "CRTOOLS_INIT_PID": lambda: str(source.choice((source.integer(), 4194303, "SELF", "SELF", "SELF"))),
        "CRIU_VETH_CONFIG": lambda: source.choice(("", "MAPPING")),
    }
    for name in _VARIABLES:
        if name in usual and source.randrange(8):
            environ[name.encode()] = usual[name]().encode()
        elif source.one_in(4):
            environ[name.encode()] = _text(source)
    words = [_word(source) for _ in range(source.randrange(9))]
    lines = [b"external veth[eth0]:web0\n", b"empty-ns net\n", b"inherit-fd fd[1]:x # y\n", b"external=netdev[a]:b\n"]
    conf = b"".join(source.choice(lines) if source.one_in(2) else _text(source) for _ in range(source.randrange(4)))
    return Call(environ, [b"criu", *words], conf)


_stderr: list[Stderr] = []


def run_call(lab: Lab, given: Call) -> None:
    """Run the hook in this process; what CRIU would be asked of is nowhere to be found."""
    directory = lab.images()
    for name, data in _real_images().items() if len(given.words) % 2 else ():
        (directory / name).write_bytes(data)
    lab.mapping.write_text('mappings = ["eth0:web0"]\n')
    (lab.root / "conf").write_bytes(given.conf)
    places = {b"IMAGES": str(directory), b"MAPPING": str(lab.mapping), b"SELF": str(os.getpid())}
    environ = {os.fsdecode(name): places.get(value) or os.fsdecode(value) for name, value in given.environ.items()}
    if b"CRIU_CONFIG_FILE" in given.environ:
        environ["CRIU_CONFIG_FILE"] = str(lab.root / "conf")
    commands = [os.fsdecode(word) for word in given.words]
    way._command_of = lambda _: commands  # type: ignore[assignment]
    if not _stderr:
        _stderr.append(Stderr())
    status = hook.guarded(environ)
    judge(Said(status, b"", _stderr[0].take()))


def _calls() -> list[Call]:
    texts = [text.replace("\0", "").encode("utf-8", "surrogatepass") for text in TEXTS]
    return [Call({b"CRTOOLS_SCRIPT_ACTION": text}, [], b"") for text in texts]


MORE: dict[str, Kind] = {
    "images": Kind(make_images, run_images, lambda: [Images(_real_images(), more) for more in range(3)]),
    "container": Kind(kept_files, run_container, lambda: [kept_files(Source("container", -1))]),
    "program": Kind(make_program, run_program, lambda: [Program(data) for data in _real_programs()]),
    "environment": Kind(make_call, run_call, _calls),
}
