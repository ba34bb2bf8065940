"""The program's file: a plan made ready to run, and how it is found, checked and handed from action to action.

A program lives in ``/run/criu-veth/programs`` under a name made from what it was made from. At pre-restore it is
linked into
``/run/criu-veth/runs/CRIU_PID`` once for each action that has operations: the shell part of the hook looks for that
link, and an action without one exits there. The directories are root's and nobody else can enter them, so the data is
trusted and `marshal` can read it, which takes no import and the least time of all.

File: `MAGIC`, the header's length as eight digits in hexadecimal, the header and one section an action, each
marshalled. The header is (inputs, checks, warnings, sections), where sections gives each action's (offset, length,
number of slots).
"""

import marshal  # only what this user's own, private directory holds
import posix
import sys

from criu_veth import __version__, paths
from criu_veth.errors import OperationError

MAGIC = f"criu-veth program {__version__} {sys.implementation.cache_tag}\n".encode()

#: Signature of a file: device, inode, size, mtime, ctime (both in ns), owner, mode. None: there is no such file.
Signature = tuple[int, ...] | None
Files = tuple[tuple[Signature, Signature], ...]
TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from typing import Any

    Tuple = tuple[Any, ...]


class Program:
    """A program that was read or has been made: the header's parts, and the operations of each action."""

    __slots__ = ("checks", "inputs", "name", "sections", "warnings")

    def __init__(
        self, name: str, inputs: "Tuple", checks: "Tuple", warnings: "Tuple", sections: "dict[str, Tuple]"
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.checks = checks
        self.warnings = warnings
        self.sections = sections


def signature(path: str) -> Signature:
    """Return what tells one version of a file from another."""
    try:
        info = posix.stat(path)
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


def _directory_signature(path: str) -> Signature:
    """Return what decides whether a directory is trusted; its times change with every file in it."""
    found = signature(path.rpartition("/")[0] or "/")
    return found and (found[0], found[1], found[5], found[6])


def files_of(sources: paths.Sources) -> Files:
    """Return the state of the files that a program of these sources depends on; a difference makes it stale."""
    files = [*sources.candidates] + ([f"{sources.image_dir}/{paths.STATE_NAME}"] if sources.image_dir else [])
    if not sources.own:  # any image directory that holds nothing of ours gives the same program
        files = [sources.config] if sources.config else []
    return tuple((_directory_signature(path), signature(path)) for path in files)


def name_of(sources: paths.Sources, image: str | None) -> str:
    """Return the name of the file in which the program of these sources is kept.

    ``image`` is given where a placeholder used it: restores of several images from one mapping file may run at a time.
    """
    anchor, prefix = (sources.image_dir, "images") if sources.own else (sources.config, "config")
    found = signature(anchor) if anchor else None
    name = f"{prefix}-{found[0]:x}-{found[1]:x}" if found else "none"
    return name if image is None else f"{name}-{image[:32]}"


def image_name(image_dir: str | None) -> str:
    """Return the last part of the image directory's real path, for the placeholder ``{image}``."""
    if not image_dir:
        return ""
    try:
        image_dir = posix.readlink(image_dir)
    except OSError:
        pass
    return image_dir.rstrip("/").rpartition("/")[2]


def secure_run_dir(*, make: bool) -> bool:
    """Make sure that ``/run/criu-veth`` is a directory of ours that nobody else can enter; say whether it is there.

    Raises OperationError.
    """
    for path in (paths.RUN_DIR, paths.PROGRAMS, paths.RUNS):
        try:
            if make:
                try:
                    posix.mkdir(path, 0o700)
                except FileExistsError:
                    pass
            info = posix.lstat(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise OperationError(f"cannot use {path}: {error.strerror}") from None
        if info.st_mode & 0o170077 != 0o040000 or info.st_uid != posix.geteuid():
            raise OperationError(f"cannot trust {path}: it must be a directory of this user with mode 0700; remove it")
    return True


def encode(program: Program, operations: "dict[str, tuple[int, Tuple]]") -> bytes:
    """Return the file of ``program`` with these operations: by action, the number of slots and the operations."""
    sections, bodies, offset = {}, [], 0
    for action, (slots, listed) in operations.items():
        body = marshal.dumps(listed)
        sections[action] = (offset, len(body), slots)
        offset += len(body)
        bodies.append(body)
    program.sections = sections
    header = marshal.dumps((program.inputs, program.checks, program.warnings, sections))
    return MAGIC + b"%08x" % len(header) + header + b"".join(bodies)


def save(program: Program, operations: "dict[str, tuple[int, Tuple]]") -> None:
    """Write the program's file, whole or not at all.

    Raises OperationError.
    """
    secure_run_dir(make=True)
    path = f"{paths.PROGRAMS}/{program.name}"
    temporary = f"{path}.{posix.getpid()}"
    data = encode(program, operations)
    try:
        descriptor = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[posix.write(descriptor, view) :]
        finally:
            posix.close(descriptor)
        posix.rename(temporary, path)
    except OSError as error:
        _unlink(temporary)
        raise OperationError(f"cannot write {path}: {error.strerror}") from None


def _read(path: str) -> bytes | None:
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        size = posix.fstat(descriptor).st_size
        data = posix.read(descriptor, size)
        while len(data) < size:
            more = posix.read(descriptor, size - len(data))
            if not more:
                return None
            data += more
        return data
    finally:
        posix.close(descriptor)


def _header_end(data: bytes) -> int:
    start = len(MAGIC) + 8
    return start + int(data[len(MAGIC) : start], 16)


def find(sources: paths.Sources, hostname: str) -> Program | None:
    """Return the program of these sources if there is one and nothing that it was made from has changed."""
    if not secure_run_dir(make=False):
        return None
    files = files_of(sources)
    for image in (None, image_name(sources.image_dir)):
        name = name_of(sources, image)
        data = _read(f"{paths.PROGRAMS}/{name}")
        if data is None or not data.startswith(MAGIC):
            continue
        inputs, checks, warnings, sections = marshal.loads(data[len(MAGIC) + 8 : _header_end(data)])  # noqa: S302
        if inputs == (files, None if inputs[1] is None else hostname, image):
            return Program(name, inputs, checks, warnings, sections)
    return None


def run_dir(criu_pid: int) -> str:
    """Return the directory of the restore that the criu with this pid is doing."""
    return f"{paths.RUNS}/{criu_pid}"


def start_run(criu_pid: int, program: Program) -> None:
    """Link ``program`` for the later actions of this restore; whatever an earlier criu of the same pid left is dropped.

    Raises OperationError.
    """
    secure_run_dir(make=True)
    end_run(criu_pid)
    _forget_the_dead()
    path = run_dir(criu_pid)
    try:
        posix.mkdir(path, 0o700)
        for action in program.sections:
            posix.link(f"{paths.PROGRAMS}/{program.name}", f"{path}/{action}")
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from None


def has_run(criu_pid: int) -> bool:
    """Say whether pre-restore was seen for this restore."""
    return paths.exists(run_dir(criu_pid))


def operations(criu_pid: int, action: str) -> "tuple[int, Tuple] | None":
    """Return (number of slots, operations) of one action of this restore, or None where it has none."""
    if not secure_run_dir(make=False):
        return None
    data = _read(f"{run_dir(criu_pid)}/{action}")
    if data is None or not data.startswith(MAGIC):
        return None
    end = _header_end(data)
    sections = marshal.loads(data[len(MAGIC) + 8 : end])[3]  # noqa: S302
    offset, length, slots = sections[action]
    return slots, marshal.loads(data[end + offset : end + offset + length])  # noqa: S302


def finish(criu_pid: int, action: str) -> None:
    """Leave nothing to do for an action, should it be called again: CRIU 4.1.1 may run a runtime's script twice."""
    _unlink(f"{run_dir(criu_pid)}/{action}")


def _forget_the_dead() -> None:
    """Drop what is left of restores whose criu has ended: nobody says when a restore is over."""
    for name in posix.listdir(paths.RUNS):
        if name.isdecimal() and not paths.exists(f"/proc/{name}"):
            end_run(int(name))


def end_run(criu_pid: int) -> None:
    """Forget a restore."""
    path = run_dir(criu_pid)
    try:
        for name in posix.listdir(path):
            _unlink(f"{path}/{name}")
        posix.rmdir(path)
    except FileNotFoundError:
        pass


def _unlink(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass
