"""Who keeps a network namespace alive: threads, descriptors, sockets and mounts, as far as /proc shows them.

A thread whose namespace cannot be told counts as a holder. But nobody can see everything: another PID namespace's
processes, a descriptor that lies in a unix socket, a mount namespace without a process, the descriptors of a process
with more privileges (this host's first one, for a hook with fewer). So "nobody" is what was seen, and whoever acts upon
it must be able to take it back. Sources: proc(5), namespaces(7); ``fs/nsfs.c``, which gives a namespace's mount the
root ``net:[INODE]``; ``fs/proc/generic.c``, which gives each namespace's /proc/net files inode numbers of their own.
"""

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from criu_veth import procfs, wire

_PF_EXITING, _PF_POSTCOREDUMP = 0x4, 0x8
_SIGKILL_PENDING = 1 << 8
#: Tables of a network namespace's sockets, each with the column of the inode.
_SOCKET_TABLES = {
    **dict.fromkeys(("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6"), 9),
    "packet": 8,
    "unix": 6,
}
#: A process is gone, or going: ENOENT, ESRCH, EINVAL (its mount namespace was let go).
_GONE = (FileNotFoundError, ProcessLookupError)


class Netns(NamedTuple):
    """What tells a network namespace: its inode, that of its /proc/net/dev, and what descriptors of it are called."""

    inode: int
    table: int
    names: frozenset[str]


def look_at(netns: str) -> Netns:
    """Return what tells the network namespace at this path, and the sockets that are in it by now.

    Raises OSError.
    """
    inode = os.stat(netns).st_ino
    with wire.Inside(netns):
        sockets = _sockets()
        return Netns(inode, os.stat("/proc/thread-self/net/dev").st_ino, sockets | {f"net:[{inode}]"})


def is_held(netns: Netns, *, but: Collection[int] = ()) -> bool:
    """Say whether a living thread, a descriptor, a mount or a socket is seen to keep this network namespace.

    This process, and the processes ``but`` with their descendants, do not count.
    """
    seen: set[int] = set()
    for pid in _pids("/proc"):
        if pid == os.getpid():
            continue
        try:
            held = _holds(pid, netns, seen) and not _descends(pid, but)
        except OSError:
            held = not _descends(pid, but)
        if held:
            return True
    return False


def _sockets() -> frozenset[str]:
    """Return what descriptors of the sockets in this thread's network namespace are called; closed ones have none."""
    found = set()
    for name, column in _SOCKET_TABLES.items():
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="utf-8", errors="replace") as rows:
                found |= {fields[column] for row in rows if len(fields := row.split()) > column}
        except FileNotFoundError:
            continue  # a protocol that this kernel lacks
    return frozenset(f"socket:[{number}]" for number in found if number.isdecimal() and number != "0")


def netns_files(*, ending: bool = False) -> Iterator[str]:
    """Yield the path of every living thread's network namespace, then every mount of one that this process can reach.

    Several may be of the same namespace: each of its threads may end before the path is opened. With ``ending``, those
    of threads that have been killed, and no mounts.
    """
    for pid in _pids("/proc"):
        for thread in _pids(f"/proc/{pid}/task"):
            if is_ending(pid, thread) == ending:
                yield f"/proc/{pid}/task/{thread}/ns/net"
    if not ending:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            yield from [procfs.unescaped(line.split()[4]) for line in mounts if " - nsfs " in line]


def is_ending(pid: int, thread: int | None = None) -> bool:
    """Say whether a process has been killed; while it gives gigabytes back it still is in its namespaces."""
    path = f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat"
    try:
        with open(path, "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except _GONE:
        return True
    flags, pending = int(fields[6]), int(fields[28])
    return bool(flags & (_PF_EXITING | _PF_POSTCOREDUMP) or pending & _SIGKILL_PENDING)


def _pids(path: str) -> Iterator[int]:
    try:
        names = os.listdir(path)
    except _GONE:
        return
    yield from (int(name) for name in names if name.isdecimal())


def _holds(pid: int, netns: Netns, seen: set[int]) -> bool:
    """Say whether this process keeps the namespace: by a thread, a descriptor, or a mount that it sees.

    ``seen`` are the mount namespaces that have been read. A process whose first thread has exited has its descriptors
    with the others. Raises OSError.
    """
    threads = [thread for thread in _pids(f"/proc/{pid}/task") if not is_ending(pid, thread)]
    for thread in threads:
        if _is_inside(f"/proc/{pid}/task/{thread}", netns):
            return True
    if not threads:
        return False
    base = f"/proc/{pid}/task/{threads[0]}"
    return _has_open(f"{base}/fd", netns) or _sees_mounted(base, netns.inode, seen)


def _is_inside(base: str, netns: Netns) -> bool:
    try:
        try:
            return os.stat(f"{base}/ns/net").st_ino == netns.inode
        except PermissionError:  # this one may be read all the same
            return os.stat(f"{base}/net/dev").st_ino == netns.table
    except _GONE:
        return False


def _has_open(directory: str, netns: Netns) -> bool:
    try:
        names = os.listdir(directory)
    except (*_GONE, PermissionError):
        return False
    for name in names:
        try:
            if os.readlink(f"{directory}/{name}") in netns.names:
                return True
        except _GONE:
            continue
        except PermissionError:
            return False
    return False


def _sees_mounted(base: str, inode: int, seen: set[int]) -> bool:
    """Say whether the namespace is mounted anywhere in this thread's mount namespace, hidden below another or not."""
    try:
        namespace = _mount_namespace(base)
        if namespace in seen:
            return False
        with open(f"{base}/mountinfo", "rb") as stream:
            found = b" net:[%d] " % inode in stream.read()
    except _GONE:
        return False
    if not found and namespace:
        seen.add(namespace)
    return found


def _mount_namespace(base: str) -> int:
    """Return the inode of a thread's mount namespace; 0 where it cannot be read, although its mounts can."""
    try:
        return os.stat(f"{base}/ns/mnt").st_ino
    except PermissionError:
        return 0


def _descends(pid: int, roots: Collection[int]) -> bool:
    """Say whether this process is one of ``roots`` or a descendant of one."""
    while pid > 0:
        if pid in roots:
            return True
        pid = procfs.parent(pid)
    return False
