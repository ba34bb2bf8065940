"""What ``/proc`` tells of a process: its namespace, its threads, what it has mapped, and whether it is criu.

Every function answers for a process that may end at any moment: what is gone is None or empty.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from criu_veth import wire

_LARGEST_READ = 4 << 20
_GETNSID, _NETNSA_NSID, _NETNSA_FD, _NSID_ATTRS = 90, 1, 3, 20
_DUMP_LINKS = wire.message(18, 0, bytes(16))  # RTM_GETLINK, struct ifinfomsg
_LINK_ATTRS, _LINK_NETNSID = 32, 37


class Mapping(NamedTuple):
    """One mapping of a process's memory; ``file`` is what it is of: (device, inode), as ``maps`` writes them."""

    start: int
    end: int
    flags: str
    file: tuple[str, str]
    path: str


class Waiting(NamedTuple):
    """The system call in which a thread waits: its ``number``, its first ``argument``, and where it was called."""

    number: int
    argument: int
    caller: int


def pids() -> Iterator[int]:
    """Yield the processes that there are."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield int(name)


def is_ours() -> bool:
    """Say whether ``/proc`` is that of this process's PID namespace: otherwise its numbers are others'."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def read(path: str) -> str | None:
    """Return the text of a file below ``/proc``; None if it is gone, or may not be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(_LARGEST_READ)
    except OSError:
        return None


def netns(pid: int) -> int | None:
    """Return the inode of the network namespace that a process is in; None if it is gone, or cannot be seen."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` behind the name, the state first; none if it is gone."""
    return (read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()


def parent(pid: int) -> int:
    """Return a process's parent: 0 if that is in a PID namespace outside of this one's, or it is gone."""
    fields = stat(pid)
    return int(fields[1]) if fields else 0


def started(pid: int) -> int:
    """Return when a process started, in clock ticks since the boot; 0 if it is gone."""
    fields = stat(pid)
    return int(fields[19]) if fields else 0


def name(pid: int) -> str:
    """Return what a process calls itself."""
    return (read(f"/proc/{pid}/comm") or "?").rstrip("\n")


def first(pids: list[int]) -> int:
    """Return the process by which people know a container: the first of its PID namespace, or else the oldest."""
    return min(pids, key=lambda pid: (not _is_init(pid), started(pid), pid)) if len(pids) > 1 else pids[0]


def _is_init(pid: int) -> bool:
    for line in (read(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1] == "1"
    return False


def threads(pid: int) -> list[int]:
    """Return the threads of a process."""
    try:
        return [int(found) for found in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def tracer(pid: int, thread: int) -> int:
    """Return who traces a thread, 0 if nobody (that this PID namespace shows) does."""
    for line in (read(f"/proc/{pid}/task/{thread}/status") or "").splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0


def waiting(pid: int, thread: int) -> Waiting | None:
    """Return the system call in which a thread waits; None if it does not wait."""
    words = (read(f"/proc/{pid}/task/{thread}/syscall") or "").split()
    if len(words) < 9:
        return None
    return Waiting(number=int(words[0]), argument=int(words[1], 16), caller=int(words[8], 16))


def maps(pid: int) -> list[Mapping]:
    """Return what a process has mapped; nothing for a kernel thread, a zombie, or one that is gone."""
    found = []
    for line in (read(f"/proc/{pid}/maps") or "").splitlines():
        words = line.split(None, 5)
        start, _, end = words[0].partition("-")
        path = words[5] if len(words) > 5 else ""
        found.append(Mapping(int(start, 16), int(end, 16), words[1], (words[3], words[4]), path))
    return found


def mapping_at(found: list[Mapping], address: int) -> Mapping | None:
    """Return the mapping in which an address is."""
    return next((one for one in found if one.start <= address < one.end), None)


def maps_criu(found: list[Mapping]) -> bool:
    """Say whether one of these mappings is criu's code: a dynamic linker may have been started with it."""
    return any("x" in one.flags and one.path.rpartition("/")[2].startswith("criu") for one in found)


def is_criu(pid: int) -> bool:
    """Say whether a process runs criu's code: criu, a helper of its, or what will be a restored process."""
    return maps_criu(maps(pid))


def may_be_criu(pid: int) -> bool:
    """Say whether a process has criu's name somewhere on its command line; that costs less than `is_criu`."""
    return "criu" in name(pid) or "criu" in (read(f"/proc/{pid}/cmdline") or "")


def leads_here(path: str) -> bool | None:
    """Say whether a veth of the network namespace at ``path`` has its other end in this thread's.

    None: no veth of it leads anywhere. A namespace that is gone, or cannot be entered, is none that leads here.
    """
    try:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with wire.Inside(path):
                rtnl = wire.Rtnl()
            try:
                links = [wire.find_attr(link, _LINK_ATTRS, (_LINK_NETNSID,)) for link in rtnl.dump(_DUMP_LINKS)]
                asked = wire.message(_GETNSID, 0, bytes(4) + wire.put_attr(_NETNSA_FD, wire.u32(own)))
                (reply,) = rtnl.request([asked])
            finally:
                rtnl.close()
        finally:
            os.close(own)
    except OSError:
        return False
    found = [nsid for nsid in links if nsid is not None]
    here = wire.find_attr(reply.messages[0], _NSID_ATTRS, (_NETNSA_NSID,)) if reply.messages else None
    return here in found if found else None


def netns_mounts() -> dict[int, str]:
    """Return the network namespaces that are mounted where this process sees it: inode to path."""
    found: dict[int, str] = {}
    for line in (read("/proc/self/mountinfo") or "").splitlines():
        words = line.split()
        if " - nsfs " in line and words[3].startswith("net:["):
            found.setdefault(int(words[3][5:-1]), unescaped(words[4]))
    return found


def unescaped(text: str) -> str:
    r"""Undo how ``mountinfo`` writes a space, ``\040``, and other characters."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
