"""Finds network namespaces that CRIU has locked and left so, and opens them.

CRIU locks the network of what it dumps, and unlocks it at the end of the restore. A network namespace that is not
CRIU's own to make, a pod's, outlives both. If the restore fails, its rules stay, and nothing gets through there any
more (CRIU issues 2828 and 3135). A restore that works opens what its own dump has locked.

A lock is needed while a criu works in the namespace: without it a peer's segment meets no socket, and is answered with
a reset. So it is left alone then.
"""

import fcntl
import os
import shlex
import stat
from typing import NamedTuple

from criu_veth import orphans, packetfilter, procfs, wire
from criu_veth.errors import InputError, OperationError, errno_text

_CLONE_NEWNET = 0x40000000
#: ``_IO(0xb7, 3)``: some machines have a bit that says that nothing is read or written (``asm/ioctl.h``).
_NS_GET_NSTYPE = 0x2000B703 if os.uname().machine.startswith(("alpha", "mips", "ppc", "sparc")) else 0xB703

#: How many network namespaces are looked at.
MOST = 1024


class Namespace(NamedTuple):
    """A network namespace: its inode, a ``path`` to open it, and what gc and people call it, a path or a pid."""

    inode: int
    path: str
    name: str

    @property
    def remedy(self) -> str:
        """The command that opens it."""
        return f"criu-veth gc --netns {shlex.quote(self.name)}"


def resolve(given: str) -> Namespace:
    """Return the network namespace that a path, or a pid, stands for.

    Raises InputError.
    """
    path = f"/proc/{given}/ns/net" if given.isdecimal() else given
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        what = f"there is no process {given}" if given.isdecimal() else f"{given}: there is no such file"
        raise InputError(what) from None
    except OSError as error:
        raise InputError(f"{given}: cannot be opened: {errno_text(error.errno or 0)}") from None
    try:
        if not _is_netns(descriptor):
            raise InputError(f"{given}: is not a network namespace")
        return Namespace(os.fstat(descriptor).st_ino, path, given)
    finally:
        os.close(descriptor)


def find(namespace: Namespace) -> list[str]:
    """Return what CRIU's lock consists of in a network namespace, in words; nothing: it is not locked.

    Raises OperationError.
    """
    try:
        with wire.Inside(namespace.path):
            return [lock.what for lock in packetfilter.find()]
    except OSError as error:
        raise OperationError(f"{namespace.name}: {error}") from None


def open_up(namespace: Namespace) -> list[str]:
    """Remove CRIU's lock from a network namespace, and say what it was.

    Raises OperationError; nothing is removed where a criu is at work.
    """
    refuse_at_work(namespace)
    try:
        with wire.Inside(namespace.path):
            return packetfilter.take_away()
    except OSError as error:
        raise OperationError(f"{namespace.name}: {error}") from None


def refuse_at_work(namespace: Namespace) -> None:
    """Raise OperationError if a criu is at work in a network namespace."""
    worker = at_work(namespace.inode)
    if worker is not None:
        raise OperationError(
            f"{namespace.name}: {worker}, and needs the lock: without it connections are reset; wait until it has ended"
        )


def at_work(inode: int, but: int = 0) -> str | None:
    """Say which criu, ``but`` one, dumps or restores in a network namespace; None: there is none.

    A criu that begins a restore has nothing there yet, and what it is told over RPC, or keeps in a socket, cannot be
    seen: it counts. One that a PID namespace hides cannot be seen at all, but for what it holds.
    """
    living = [pid for pid in procfs.pids() if procfs.netns(pid) == inode]
    half = [pid for pid in living if pid != but and _is_half_restored(pid)]
    left = _left_behind() if half else set()
    for pid in living:
        worker = _works_on(pid, but)
        if worker is None and pid in half and pid not in left:
            worker = f"criu is at work: process {pid} is being restored"
        if worker is not None:
            return worker
    for pid in procfs.pids():
        if pid not in (but, *left) and procfs.may_be_criu(pid) and procfs.is_criu(pid):
            if inode in open_namespaces(pid):
                return f"criu (process {pid}) is at work there"
            if _begins_a_restore(pid, inode):
                return f"criu (process {pid}) begins a restore, which may be into there"
    return None


def _works_on(pid: int, but: int) -> str | None:
    """Say which criu, ``but`` one, traces a process."""
    for thread in procfs.threads(pid):
        tracer = procfs.tracer(pid, thread)
        if tracer and tracer != but and procfs.is_criu(tracer):
            return f"criu (process {tracer}) is at work on process {pid}"
        if not tracer and _is_held(pid, thread):
            return f"process {pid} is held by one that is not to be seen from here"
    return None


def _begins_a_restore(pid: int, inode: int) -> bool:
    """Say whether a criu restores, and has no process yet by which it could be told into which network namespace.

    It is one that was started in this network namespace, or in that one.
    """
    words = (procfs.read(f"/proc/{pid}/cmdline") or "").split("\0")
    if not any(word in ("restore", "swrk") or word.startswith("criu: restore") for word in words):
        return False
    own = procfs.netns(pid)
    if own not in (inode, procfs.netns(wire.own_thread())) or orphans.waits_for_criu(pid) is not None:
        return False
    return not any(
        pid in (procfs.parent(other), procfs.tracer(other, other)) and procfs.netns(other) not in (own, None)
        for other in procfs.pids()
    )


def _is_held(pid: int, thread: int) -> bool:
    """Say whether a thread is stopped by a tracer: state t, of a stop by a signal T."""
    text = procfs.read(f"/proc/{pid}/task/{thread}/stat") or ""
    return text.rpartition(")")[2].split()[:1] == ["t"]


def _is_half_restored(pid: int) -> bool:
    return orphans.waits_for_criu(pid) is not None or procfs.is_criu(pid)


def _left_behind() -> set[int]:
    return {pid for orphan in orphans.find() for pid in orphan.members}


def open_namespaces(pid: int) -> set[int]:
    """Return the namespaces, by inode, that a process has open descriptors of."""
    device = os.stat("/proc/self/ns/net").st_dev
    found: set[int] = set()
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for number in numbers:
        try:
            info = os.stat(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        if info.st_dev == device and stat.S_ISREG(info.st_mode):
            found.add(info.st_ino)
    return found


def _is_netns(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def everywhere() -> list[str]:
    """Return a line for each network namespace on this host that CRIU has locked, and where it works no more."""
    return [describe(namespace, found) for namespace, found in _locked()]


def _locked(but: int = 0) -> list[tuple[Namespace, list[str]]]:
    """Return the locked network namespaces in which no criu, ``but`` one, is at work, and their locks."""
    locked = []
    mounted = procfs.netns_mounts()
    for namespace in _all()[:MOST]:
        try:
            found = find(namespace)
            if found and namespace.inode not in mounted and not procfs.leads_here(namespace.path):
                continue  # a process of another host's, or one that has no network anyway
        except OperationError:
            continue  # it is gone, or is not ours to enter
        if found and at_work(namespace.inode, but) is None:
            locked.append((namespace, found))
    return locked


def describe(namespace: Namespace, found: list[str]) -> str:
    """Say that a network namespace is locked, and how it is opened."""
    return (
        f"network namespace {namespace.name}: CRIU has locked it and works there no more ({'; '.join(found)}): nothing"
        " gets through until a restore into it works, or the lock is removed:"
        f" {namespace.remedy}"
    )


def _all() -> list[Namespace]:
    """Return the network namespaces that mounts and processes keep, but for what a killed criu has left."""
    found = {inode: Namespace(inode, path, path) for inode, path in procfs.netns_mounts().items()}
    left = _left_behind()
    living: dict[int, list[int]] = {}
    for pid in procfs.pids():
        inode = None if pid in left else procfs.netns(pid)
        if inode is not None and inode not in found:
            living.setdefault(inode, []).append(pid)
    for inode, pids in living.items():
        first = procfs.first(pids)
        found[inode] = Namespace(inode, f"/proc/{first}/ns/net", str(first))
    return list(found.values())


def before(criu_pid: int) -> list[str]:
    """Say, before a restore into a network namespace that is ready, which ones are locked.

    Which of them it is to be is seen only when the restore has gone on: criu keeps what it is given in a socket.
    """
    return [
        f"network namespace {namespace.name} is locked by CRIU ({'; '.join(found)}): a restore of what was dumped there"
        " opens it; if that fails the lock stays, and nothing gets through:"
        f" {namespace.remedy} removes it"
        for namespace, found in _locked(but=criu_pid)
    ]


def after_failure(criu_pid: int, init_pid: int | None) -> list[str]:
    """Say, when an action has failed, which network namespaces stay locked: before there is a process, all."""
    return [
        f"CRIU's lock stays in network namespace {namespace.name} ({'; '.join(found)}), and nothing gets through there:"
        f" {namespace.remedy} removes it"
        for namespace, found in (_locked(but=criu_pid) if init_pid is None else _of_process(init_pid))
    ]


def _of_process(pid: int) -> list[tuple[Namespace, list[str]]]:
    """Return the network namespace of a process that is being restored, if that is locked, and others keep it."""
    inode = procfs.netns(pid)
    found = dict(procfs.netns_mounts())
    for other in sorted(procfs.pids()):
        if procfs.netns(other) == inode and inode is not None and not _is_half_restored(other):
            found.setdefault(inode, str(other))
    if inode is None or inode == procfs.netns(wire.own_thread()) or inode not in found:
        return []
    namespace = resolve(found[inode])
    locks = find(namespace)
    return [(namespace, locks)] if locks else []
