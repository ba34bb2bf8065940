"""The program's file: a plan made ready to run, and how it is found, checked and handed from action to action.

A program lives in ``/run/criu-veth/programs`` under a name made from what it was made from. At pre-restore each later
action that has operations gets a file of its own in the restore's directory (`runs`). The directories are root's and
nobody else can enter them, so the data is trusted and `marshal` can read it, which takes no import and the least time
of all. It may still be damaged, or another version's: then there is no program, and it is made anew.

File: `MAGIC`, the checksum of the rest and the header's length as eight digits in hexadecimal each, the header and one
section an action, each marshalled. The header is (inputs, checks, remarks, sections), where sections gives each
action's (offset, length, number of slots, whether it is only for IPv6 addresses).
"""

import _thread
import marshal  # only what this user's own, private directory holds
import posix
import sys

from criu_veth import __version__, paths, runs
from criu_veth.actions import RESTORE_STAGES
from criu_veth.errors import OperationError
from criu_veth.way import EXTERNAL, Way

#: To be raised with every change of what the operations of `execute` hold, or of the header.
FORMAT = 6
MAGIC = f"criu-veth program {FORMAT} {__version__} {sys.implementation.cache_tag}\n".encode()

#: So many programs are kept, and so many bytes of them; the oldest go first. One that is gone is made anew.
MOST, MOST_BYTES = 256, 16 << 20
#: What is being written has a name with this before it; after so many seconds its writer has died.
_UNFINISHED, _PATIENCE = ".", 60
#: The largest prime below 2 ** 30: so small that Python divides by it in one pass.
_PRIME = (1 << 30) - 35
_LONG = 64
#: So many things a program is made from, see `inputs_of`.
_INPUTS = 7

#: Signature of a file: device, inode, size, mtime, ctime (both in ns), owner, mode. None: there is no such file.
Signature = tuple[int, ...] | None
Files = tuple[tuple[Signature, Signature] | tuple[str, ...], ...]
TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from typing import Any

    Tuple = tuple[Any, ...]


#: What `marshal` raises for bytes that it has not written.
_UNREADABLE = (EOFError, ValueError, TypeError, MemoryError)


class DamagedError(OperationError):
    """A program is none, although its checksum says that it was written like this."""


class Program:
    """A program that was read or has been made: the header's parts, and in ``data`` the whole file."""

    __slots__ = ("checks", "data", "inputs", "name", "remarks", "sections")

    def __init__(
        self, name: str, inputs: "Tuple", checks: "Tuple", remarks: "Tuple", sections: "dict[str, Tuple]"
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.checks = checks
        self.remarks = remarks
        self.sections = sections
        self.data = b""

    def operations(self, action: str) -> "tuple[int, Tuple] | None":
        """Return (number of slots, operations) of an action, or None where it has none.

        Raises DamagedError where the checksum holds and all the same it is none.
        """
        if action not in self.sections:
            return None
        offset, length, slots, _ = self.sections[action]
        start = _header_end(self.data) + offset
        try:
            listed = marshal.loads(self.data[start : start + length])  # noqa: S302
        except _UNREADABLE:
            listed = None
        if not isinstance(listed, tuple):
            raise DamagedError(f"cannot read the program {self.name or 'of this restore'}: remove {paths.PROGRAMS}")
        return slots, listed

    def part(self, action: str) -> bytes:
        """Return the file of a program of this action alone."""
        offset, length, *rest = self.sections[action]
        start = _header_end(self.data) + offset
        return _file(((), (), (), {action: (0, length, *rest)}), self.data[start : start + length])


def signature(path: str, directory: int | None = None) -> Signature:
    """Return what tells one version of a file from another; ``path`` may be relative to an open directory.

    A link in there is not followed: neither is it when the file is read.
    """
    try:
        info = posix.stat(path, dir_fd=directory, follow_symlinks=directory is None)
    except OSError:
        return None
    return (
        info.st_dev,
        info.st_ino,
        info.st_size,
        info.st_mtime_ns,
        info.st_ctime_ns,
        info.st_uid,
        info.st_mode,
    )


def _directory_signature(path: "str | int") -> Signature:
    """Return what decides whether a directory is trusted; its times change with every file in it."""
    try:
        info = posix.stat(path)
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_uid, info.st_mode)


def files_of(sources: paths.Sources) -> Files:
    """Return the state of the files that a program of these sources depends on; a difference makes it stale."""
    files = [*sources.candidates] + ([f"{sources.image_dir}/{paths.STATE_NAME}"] if sources.image_dir else [])
    if not sources.own:  # any image directory that holds nothing of ours gives the same program
        files = [sources.config] if sources.config else []
    # Which of those that may match does, hangs on the image directory's path too.
    matched = ((str(sources.image_dir), *sources.matchable),) if sources.matchable else ()
    return (*(_state_of(sources, path) for path in files + sources.matchable), *matched)


def _state_of(sources: paths.Sources, path: str) -> "tuple[Signature, Signature]":
    directory, _, name = path.rpartition("/")
    images = sources.within(path)
    if images is None:
        return _directory_signature(directory or "/"), signature(path)
    return _directory_signature(images.descriptor), signature(name, images.descriptor)


def name_of(sources: paths.Sources, image: str | None, way_key: str = EXTERNAL) -> str:
    """Return the name of the file in which the program of these sources is kept.

    ``way_key`` tells how the devices come back (`way.Way.key`). ``image`` is given where a placeholder used it:
    restores of several images from one mapping file may run at a time.
    """
    anchor, prefix = (_anchor_of(sources.images), "images") if sources.own else (sources.config, "config")
    found = _directory_signature(anchor) if anchor is not None else None
    name = f"{prefix}-{found[0]:x}-{found[1]:x}" if found else "none"
    name = f"{name}-{way_key if len(way_key) < _LONG and '/' not in way_key else _checksum(way_key)}"
    return name if image is None else f"{name}-{image[:32]}"


def _checksum(text: str) -> str:
    """Return a short name for a long text (FNV-1a, 64 bits); what a program was made from tells a clash apart."""
    value = 0xCBF29CE484222325
    for byte in text.encode("utf-8", "surrogateescape"):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def _anchor_of(images: "paths.Directory | None") -> int | None:
    return images.descriptor if images else None


def image_name(sources: paths.Sources) -> str:
    """Return the last part of the image directory's real path, for the placeholder ``{image}``."""
    return _real_image_dir(sources).rstrip("/").rpartition("/")[2]


def _real_image_dir(sources: paths.Sources) -> str:
    return sources.images.real_name if sources.images else sources.image_dir or ""


def origin_of(sources: paths.Sources) -> str | None:
    """Return the path without which the program of these sources has no more use, if there is one."""
    return _real_image_dir(sources) if sources.own else sources.config


def encode(
    program: Program, operations: "dict[str, tuple[int, Tuple]]", only_ipv6: "frozenset[str]" = frozenset()
) -> bytes:
    """Return the file of ``program`` with these operations: by action, the number of slots and the operations.

    The actions ``only_ipv6`` have nothing to do for a container without IPv6 addresses that matter.
    """
    sections, bodies, offset = {}, [], 0
    for action, (slots, listed) in operations.items():
        body = marshal.dumps(listed)
        sections[action] = (offset, len(body), slots, action in only_ipv6)
        offset += len(body)
        bodies.append(body)
    program.sections = sections
    return _file((program.inputs, program.checks, program.remarks, sections), b"".join(bodies))


def _file(header: "Tuple", bodies: bytes) -> bytes:
    packed = marshal.dumps(header)
    rest = b"%08x" % len(packed) + packed + bodies
    return MAGIC + b"%08x" % _sum(rest) + rest


def _sum(data: bytes) -> int:
    # Zeros at the end add nothing to the number, and a file that was cut may have lost some.
    return (int.from_bytes(data, "little") + len(data)) % _PRIME


def decode(data: bytes | None, name: str = "") -> Program | None:
    """Return the program whose file this is; None if it is damaged, of another version, or not there."""
    start = len(MAGIC)
    if data is None or not data.startswith(MAGIC) or data[start : start + 8] != b"%08x" % _sum(data[start + 8 :]):
        return None
    try:
        end = _header_end(data)
        header = marshal.loads(data[start + 16 : end])  # noqa: S302 - as it was written
    except _UNREADABLE:
        return None
    if not _is_header(header, len(data) - end):
        return None
    program = Program(name, *header)
    program.data = data
    return program


def _is_header(header: "Any", room: int) -> bool:
    """Say whether this is a header whose sections lie within the ``room`` behind it."""
    if not isinstance(header, tuple) or [type(part) for part in header] != [tuple, tuple, tuple, dict]:
        return False
    inputs, _, remarks, sections = header
    if not all(isinstance(text, str) for text in remarks) or (inputs and not _is_made_from(inputs)):
        return False
    return all(
        isinstance(section, tuple)
        and [type(part) for part in section] == [int, int, int, bool]
        and min(section) >= 0
        and section[0] + section[1] <= room
        for section in sections.values()
    )


def _is_made_from(inputs: "Tuple") -> bool:
    """Say whether these are what `inputs_of` returns; the part of one action names none."""
    return (
        len(inputs) == _INPUTS
        and isinstance(inputs[4], tuple)
        and all(isinstance(name, tuple) and len(name) == 3 for name in inputs[4])
        and (inputs[-1] is None or isinstance(inputs[-1], str))
    )


def save(program: Program) -> None:
    """Write the program's file, whole or not at all, and let the oldest go where there are too many.

    Raises OperationError, see `runs.secure`.
    """
    runs.secure(make=True)
    path, temporary = (
        f"{paths.PROGRAMS}/{before}{program.name}" for before in ("", f"{_UNFINISHED}{_thread.get_native_id()}-")
    )
    paths.unlink(temporary)
    try:
        paths.write(temporary, program.data)
        posix.rename(temporary, path)
    except OSError as error:
        paths.unlink(temporary)
        raise runs.UnusableError(f"cannot write {path}: {error.strerror}") from None
    _limit(program.name)


def _limit(newest: str) -> None:
    """Let the oldest programs go where there are too many or too large ones, and what its writer has left unfinished.

    None is read for that: what a dump costs does not hang on how many are kept.
    """
    found = []
    try:
        with_times = [(name, posix.lstat(f"{paths.PROGRAMS}/{name}")) for name in posix.listdir(paths.PROGRAMS)]
    except OSError:
        return  # somebody else is at it
    now = max(info.st_mtime for _, info in with_times)
    for name, info in with_times:
        if not name.startswith(_UNFINISHED):
            found.append((name != newest, -info.st_mtime_ns, info.st_size, name))
        elif info.st_mtime < now - _PATIENCE:
            paths.unlink(f"{paths.PROGRAMS}/{name}")
    size = 0
    for number, (other, _, length, name) in enumerate(sorted(found)):
        size += length
        if other and (number >= MOST or size > MOST_BYTES):
            paths.unlink(f"{paths.PROGRAMS}/{name}")


def _header_end(data: bytes) -> int:
    start = len(MAGIC) + 16
    return start + int(data[start - 8 : start], 16)


def find(sources: paths.Sources, hostname: str, how: Way) -> Program | None:
    """Return the program of these sources if there is one and nothing that it was made from has changed.

    Raises OperationError, see `runs.secure`.
    """
    if not runs.secure(make=False):
        return None
    files = files_of(sources)
    images = (None, image_name(sources))
    for key, image in [(key, image) for key in dict.fromkeys((how.key, how.names_key)) for image in images]:
        name = name_of(sources, image, key)
        found = decode(paths.read(f"{paths.PROGRAMS}/{name}"), name)
        if found is None or not found.inputs:
            continue
        names = found.inputs[4]
        wanted = inputs_of(sources, files, None if found.inputs[1] is None else hostname, image, key, names)
        if found.inputs == wanted and how.agrees(names):
            return found
    return None


def inputs_of(
    sources: paths.Sources, files: Files, hostname: str | None, image: str | None, way_key: str, names: "Tuple"
) -> "Tuple":
    """Return what a program is made from. The network namespace is in what is told to Open vSwitch."""
    return (files, hostname, image, way_key, names, runs.inode("/proc/thread-self/ns/net"), origin_of(sources))


def start_run(run: runs.Run, program: Program, *, ipv6: bool = True) -> None:
    """Write down for the later actions of this restore what they have to do, and which have nothing.

    Without ``ipv6``, actions that are only for IPv6 addresses have nothing to do.

    Raises OperationError, see `runs.secure`.
    """
    run.begin()
    for action in RESTORE_STAGES:
        section = program.sections.get(action)
        if section is None or (section[3] and not ipv6):
            run.finish(action)
        else:
            run.write(action, program.part(action))


def operations(run: runs.Run, action: str) -> "tuple[int, Tuple] | None":
    """Return (number of slots, operations) of one action of this restore, or None if its program cannot be used.

    Raises OperationError, see `runs.secure`.
    """
    found = decode(run.read(action))
    try:
        return None if found is None else found.operations(action)
    except DamagedError:
        return None


def prune(*, dry_run: bool = False) -> "list[str]":
    """Remove the programs that cannot be used, and those whose images or mapping file are gone, unless ``dry_run``.

    Return their names. Raises OperationError, see `runs.secure`.
    """
    removed = []
    for name in sorted(posix.listdir(paths.PROGRAMS)) if runs.secure(make=False) else ():
        if name.startswith(_UNFINISHED):
            continue
        found = decode(paths.read(f"{paths.PROGRAMS}/{name}"))
        if found is None or not found.inputs or (found.inputs[-1] is not None and not paths.exists(found.inputs[-1])):
            if not dry_run:
                paths.unlink(f"{paths.PROGRAMS}/{name}")
            removed.append(name)
    return removed
