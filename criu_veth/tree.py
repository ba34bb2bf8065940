"""The network namespaces of a container's process tree: those beside its first process's.

Nested containers have them, and a router beside an application. At the dump, and once a restore has made the processes,
each namespace is that of a process of the tree. Before, only the first process is there: CRIU has made the others'
namespaces and keeps a descriptor of each for later, in the receive queue of a socket (``criu/fdstore.c``, since
CRIU 3.3): the hook peeks at them, as CRIU does, while everything waits for it.

The frozen window imports this only where a container has several, so it imports no more than that does.
"""

import _socket
import posix

from criu_veth import paths, wire

_LINK_ATTRS = 32
_IFLA_IFNAME, _IFLA_LINK_NETNSID = 3, 37
_KIND, _VETH = (18, 1), b"veth\0"
_RTM_GETNSID, _NETNSA_NSID, _NETNSA_PID, _NSID_ATTRS, _NOT_ASSIGNED = 90, 1, 2, 20, b"\xff" * 4
#: Number of pidfd_getfd(2): new calls have one number on all machines, but for where they begin.
_PIDFD_GETFD, _FIRST_ON_MIPS64 = 438, 5000
_SO_PEEK_OFF = 42
_STORE = "@/criu-fdstore-"
_MOST = 1 << 16

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from _socket import socket as Socket  # noqa: N812 - a type
    from collections.abc import Iterator


def paths_of(pid: int) -> "list[str]":
    """Return a path to each network namespace of the tree below ``pid``: its own first, then in the tree's order.

    Each thread counts. Who ends meanwhile is left out; but for ``pid`` itself, which raises OSError.
    """
    own = f"/proc/{pid}/ns/net"
    found = {posix.stat(own).st_ino: own}
    for path in _threads(pid):
        try:
            found.setdefault(posix.stat(f"{path}/ns/net").st_ino, f"{path}/ns/net")
        except OSError:
            continue
    return list(found.values())


def _threads(pid: int) -> "Iterator[str]":
    """Yield the path of every thread of a process and of its descendants, in the tree's order."""
    waiting = [pid]
    while waiting:
        process = waiting.pop(0)
        try:
            tasks = sorted(map(int, posix.listdir(f"/proc/{process}/task")))
        except OSError:
            continue
        for task in tasks:
            path = f"/proc/{process}/task/{task}"
            yield path
            waiting += map(int, (paths.read(f"{path}/children") or b"").split())


def find(
    namespaces: wire.Namespaces, init_pid: int, names: "frozenset[bytes]", links: bytes, *, early: bool
) -> "wire.Namespaces | None":
    """Return the namespace beside the first process's in which all of ``names`` are veths to this process's namespace.

    ``links`` asks for a dump of links; ``early``: CRIU has not made the other processes yet. The result is closed with
    ``namespaces``.
    """
    for path in paths_of(init_pid)[1:]:
        other = wire.Namespaces(path)
        namespaces.keep(other)
        if _has(other, names, links):
            return other
    for descriptor in _kept(init_pid) if early else ():
        other = wire.Namespaces(f"/proc/self/fd/{descriptor}", descriptor)
        namespaces.keep(other)
        if _has(other, names, links):
            return other
    return None


def _has(namespaces: wire.Namespaces, names: "frozenset[bytes]", links: bytes) -> bool:
    own = bytes(4) + wire.put_attr(_NETNSA_PID, wire.u32(wire.own_thread()))
    try:
        found = namespaces.inner.dump(links)
        (reply,) = namespaces.inner.request([wire.message(_RTM_GETNSID, 0, own)])
    except OSError:  # its process has ended
        return False
    here = wire.find_attr(reply.messages[0], _NSID_ATTRS, (_NETNSA_NSID,)) if reply.messages else None
    if here is None or here == _NOT_ASSIGNED:
        return False
    veths = {
        wire.find_attr(link, _LINK_ATTRS, (_IFLA_IFNAME,))
        for link in found
        if wire.find_attr(link, _LINK_ATTRS, _KIND) == _VETH
        and wire.find_attr(link, _LINK_ATTRS, (_IFLA_LINK_NETNSID,)) == here
    }
    return names <= veths


def _kept(init_pid: int) -> "Iterator[int]":
    """Yield descriptors of the network namespaces that CRIU keeps for the processes which it has not made yet.

    The first process shares CRIU's store. Neither its own namespace nor the host's is among them.
    """
    store = _store(init_pid)
    if store is None:
        return
    known = {posix.readlink(f"/proc/{pid}/ns/net") for pid in ("thread-self", init_pid)}
    try:
        for number in range(_MOST):
            descriptor = _peek(store, number)
            if descriptor is None:
                return
            target = posix.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith("net:[") and target not in known:
                known.add(target)
                yield descriptor
            else:
                posix.close(descriptor)
    finally:
        store.close()


def _store(init_pid: int) -> "Socket | None":
    """Return a copy of the socket in which CRIU keeps descriptors, if this process has it."""
    lines = (paths.read("/proc/thread-self/net/unix") or b"").decode("utf-8", "surrogateescape").splitlines()
    inodes = {fields[6] for line in lines if len(fields := line.split()) > 7 and fields[7].startswith(_STORE)}
    try:
        names = posix.listdir(f"/proc/{init_pid}/fd") if inodes else []
    except OSError:
        return None
    for name in names:
        try:
            target = posix.readlink(f"/proc/{init_pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:[") and target[8:-1] in inodes:
            return _copy(init_pid, int(name))
    return None


def _copy(pid: int, number: int) -> "Socket | None":
    """Return a copy of another process's socket (``pidfd_getfd()``, Linux 5.6), or None."""
    import _ctypes  # noqa: PLC0415 - ctypes itself would take 2 ms

    handle = posix.pidfd_open(pid)
    try:
        call = _ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall")  # type: ignore[arg-type] # None: this program itself
        first = _FIRST_ON_MIPS64 if posix.uname().machine == "mips64" else 0
        descriptor = _ctypes.call_function(call, (first + _PIDFD_GETFD, handle, number, 0))
    finally:
        posix.close(handle)
    return wire.socket_of(descriptor) if descriptor >= 0 else None


def _peek(store: "Socket", number: int) -> int | None:
    """Return the descriptor with this number in CRIU's store, which stays there.

    CRIU sets the offset before each of its own looks, too.
    """
    try:
        store.setsockopt(_socket.SOL_SOCKET, _SO_PEEK_OFF, number)
        _, controls, _, _ = store.recvmsg(1, 64, _socket.MSG_PEEK)
    except OSError:  # there are no more
        return None
    for level, kind, data in controls:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            return wire.get_s32(data)
    return None
