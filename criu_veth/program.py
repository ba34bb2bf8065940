"""The program's file: a plan made ready to run, and how it is found, checked and handed from action to action.

A program lives in ``/run/criu-veth/programs`` under a name made from what it was made from. At pre-restore it is
linked into
``/run/criu-veth/runs/CRIU_PID`` once for each action that has operations: the shell part of the hook looks for that
link, and an action without one exits there. The directories are root's and nobody else can enter them, so the data is
trusted and `marshal` can read it, which takes no import and the least time of all.

File: `MAGIC`, the header's length as eight digits in hexadecimal, the header and one section an action, each
marshalled. The header is (inputs, checks, remarks, sections), where sections gives each action's (offset, length,
number of slots, whether it is only for IPv6 addresses).
"""

import marshal  # only what this user's own, private directory holds
import posix
import sys

from criu_veth import __version__, paths
from criu_veth.actions import POST_RESTORE
from criu_veth.errors import OperationError
from criu_veth.way import EXTERNAL, Way

#: To be raised with every change of what the operations of `execute` hold, or of the header.
FORMAT = 3
MAGIC = f"criu-veth program {FORMAT} {__version__} {sys.implementation.cache_tag}\n".encode()

#: Names in a run's directory, beside those of actions.
OWNER, ADOPTED, JOURNAL = "owner", "adopted", "journal"
_LONG = 64

#: Signature of a file: device, inode, size, mtime, ctime (both in ns), owner, mode. None: there is no such file.
Signature = tuple[int, ...] | None
Files = tuple[tuple[Signature, Signature] | tuple[str, ...], ...]
TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from typing import Any

    Tuple = tuple[Any, ...]


class Program:
    """A program that was read or has been made: the header's parts, and the operations of each action."""

    __slots__ = ("checks", "inputs", "name", "remarks", "sections")

    def __init__(
        self, name: str, inputs: "Tuple", checks: "Tuple", remarks: "Tuple", sections: "dict[str, Tuple]"
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.checks = checks
        self.remarks = remarks
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
    # Which of those that may match does, hangs on the image directory's path too.
    matched = ((str(sources.image_dir), *sources.matchable),) if sources.matchable else ()
    return (*((_directory_signature(path), signature(path)) for path in files + sources.matchable), *matched)


def name_of(sources: paths.Sources, image: str | None, way_key: str = EXTERNAL) -> str:
    """Return the name of the file in which the program of these sources is kept.

    ``way_key`` tells how the devices come back (`way.Way.key`). ``image`` is given where a placeholder used it:
    restores of several images from one mapping file may run at a time.
    """
    anchor, prefix = (sources.image_dir, "images") if sources.own else (sources.config, "config")
    found = signature(anchor) if anchor else None
    name = f"{prefix}-{found[0]:x}-{found[1]:x}" if found else "none"
    name = f"{name}-{way_key if len(way_key) < _LONG and '/' not in way_key else _checksum(way_key)}"
    return name if image is None else f"{name}-{image[:32]}"


def _checksum(text: str) -> str:
    """Return a short name for a long text (FNV-1a, 64 bits); what a program was made from tells a clash apart."""
    value = 0xCBF29CE484222325
    for byte in text.encode("utf-8", "surrogateescape"):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def image_name(image_dir: str | None) -> str:
    """Return the last part of the image directory's real path, for the placeholder ``{image}``."""
    return real_image_dir(image_dir).rstrip("/").rpartition("/")[2]


def real_image_dir(image_dir: str | None) -> str:
    """Return the path of the directory that ``/proc/PID/fd/N`` stands for; empty where there is none."""
    try:
        return posix.readlink(image_dir or "")
    except OSError:
        return image_dir or ""


def origin_of(sources: paths.Sources) -> str | None:
    """Return the path without which the program of these sources has no more use, if there is one."""
    return real_image_dir(sources.image_dir) if sources.own else sources.config


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
    header = marshal.dumps((program.inputs, program.checks, program.remarks, sections))
    return MAGIC + b"%08x" % len(header) + header + b"".join(bodies)


def save(
    program: Program, operations: "dict[str, tuple[int, Tuple]]", only_ipv6: "frozenset[str]" = frozenset()
) -> None:
    """Write the program's file, whole or not at all; parameters as those of `encode`.

    Raises OperationError.
    """
    secure_run_dir(make=True)
    path = f"{paths.PROGRAMS}/{program.name}"
    temporary = f"{path}.{posix.getpid()}"
    data = encode(program, operations, only_ipv6)
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


def find(sources: paths.Sources, hostname: str, how: Way) -> Program | None:
    """Return the program of these sources if there is one and nothing that it was made from has changed."""
    if not secure_run_dir(make=False):
        return None
    files = files_of(sources)
    images = (None, image_name(sources.image_dir))
    for key, image in [(key, image) for key in dict.fromkeys((how.key, how.names_key)) for image in images]:
        name = name_of(sources, image, key)
        data = _read(f"{paths.PROGRAMS}/{name}")
        if data is None or not data.startswith(MAGIC):
            continue
        inputs, checks, remarks, sections = marshal.loads(data[len(MAGIC) + 8 : _header_end(data)])  # noqa: S302
        wanted = (files, None if inputs[1] is None else hostname, image, key, inputs[4], origin_of(sources))
        if inputs == wanted and how.agrees(inputs[4]):
            return Program(name, inputs, checks, remarks, sections)
    return None


def run_dir(criu_pid: int) -> str:
    """Return the directory of the restore that the criu with this pid is doing."""
    return f"{paths.RUNS}/{criu_pid}"


def start_run(criu_pid: int, program: Program, *, ipv6: bool = True) -> None:
    """Link ``program`` for the later actions of this restore; whatever an earlier criu of the same pid left is dropped.

    Without ``ipv6``, actions that are only for IPv6 addresses are left out.

    Raises OperationError.
    """
    begin_run(criu_pid)
    path = run_dir(criu_pid)
    try:
        for action, section in program.sections.items():
            if section[3] and not ipv6:
                continue
            posix.link(f"{paths.PROGRAMS}/{program.name}", f"{path}/{action}")
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from None


def begin_run(criu_pid: int) -> None:
    """Make the directory of this restore; whatever an earlier criu of the same pid left is dropped.

    Raises OperationError.
    """
    secure_run_dir(make=True)
    end_run(criu_pid)
    _forget_the_dead()
    path = run_dir(criu_pid)
    try:
        posix.mkdir(path, 0o700)
        _write(f"{path}/{OWNER}", start_time(criu_pid))
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from None


def start_time(pid: int) -> str:
    """Return when a process was started, in ticks since boot; empty if there is no such process."""
    try:
        data = _read_all(f"/proc/{pid}/stat")
    except OSError:
        return ""
    return data.rpartition(b")")[2].split()[19].decode()


def _read_all(path: str) -> bytes:
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.read(descriptor, 4096)
    finally:
        posix.close(descriptor)


def _write(path: str, text: str) -> None:
    descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW, 0o600)
    try:
        posix.write(descriptor, text.encode("utf-8", "surrogateescape"))
    finally:
        posix.close(descriptor)


def adopt(criu_pid: int, names: "frozenset[bytes]") -> None:
    """Remember, for the later actions of this restore, which inner ends somebody else made."""
    if names:
        _write(f"{run_dir(criu_pid)}/{ADOPTED}", b"".join(sorted(names)).decode("utf-8", "surrogateescape"))


def adopted(criu_pid: int) -> "frozenset[bytes]":
    """Return the names that `adopt` remembered, each with its NUL."""
    data = _read(f"{run_dir(criu_pid)}/{ADOPTED}") or b""
    return frozenset(name + b"\0" for name in data.split(b"\0") if name)


def journal(criu_pid: int) -> str:
    """Return the path of the restore's journal."""
    return f"{run_dir(criu_pid)}/{JOURNAL}"


def stale_runs() -> "list[int]":
    """Return the pids of the restores whose criu has ended."""
    try:
        names = posix.listdir(paths.RUNS)
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdecimal() and not _is_running(int(name))]


def _is_running(criu_pid: int) -> bool:
    started = start_time(criu_pid)
    owner = (_read(f"{run_dir(criu_pid)}/{OWNER}") or b"").decode()
    return bool(started) and owner in ("", started)


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
    offset, length, slots, _ = sections[action]
    return slots, marshal.loads(data[end + offset : end + offset + length])  # noqa: S302


def prune(*, dry_run: bool = False) -> "list[str]":
    """Remove the programs whose images or mapping file are gone, unless ``dry_run``; return their names."""
    removed = []
    for name in posix.listdir(paths.PROGRAMS) if secure_run_dir(make=False) else ():
        path = f"{paths.PROGRAMS}/{name}"
        data = _read(path) or b""
        if data.startswith(MAGIC):
            origin = marshal.loads(data[len(MAGIC) + 8 : _header_end(data)])[0][-1]  # noqa: S302
            stale = origin is not None and not paths.exists(origin)
        else:  # another version's, or a part of one that died while it was written
            stale = not name.rpartition(".")[2].isdecimal() or not paths.exists(f"/proc/{name.rpartition('.')[2]}")
        if stale:
            if not dry_run:
                _unlink(path)
            removed.append(name)
    return removed


def finish(criu_pid: int, action: str) -> None:
    """Leave nothing to do for an action, should it be called again: CRIU 4.1.1 may run a runtime's script twice."""
    _unlink(f"{run_dir(criu_pid)}/{action}")
    if action == POST_RESTORE:  # what was made for CRIU to move has been moved
        _unlink(journal(criu_pid))


def _forget_the_dead() -> None:
    """Drop what is left of restores whose criu has ended: nobody says when a restore is over.

    A journal is kept: what it names has to be looked at first.
    """
    for pid in stale_runs():
        if not paths.exists(journal(pid)):
            end_run(pid)


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
