"""Keeps a dumped container's network namespace from answering in its last milliseconds.

CRIU locks the network of what it dumps with packet filter rules inside. When the processes have been killed, the kernel
takes the namespace apart: the rules first, and only after a grace period the devices. A peer's segment that arrives in
between meets no rule and no socket, and is answered with a reset. How often depends on the load: with a client of 200
messages a second, none of 60 dumps by stock CRIU on an idle machine, 3 of 50 on a busy one. So a helper, forked at
pre-dump, holds the namespace open until its processes are dead, sets its devices down, and only then lets go.

The application runs on if the dump fails or was not to end it; the helper then ends with criu and has changed nothing.
Nor has it where something else keeps the namespace.
"""

import os
import posix
import select
import time

from criu_veth import announce, netlink, wire

_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8

#: How long others in the namespace may take to die after the container's first process, in seconds.
_LAST_BREATH = 1.0
_POLL = 0.01


def silence_at_the_end(init_pid: int, criu_pid: int) -> None:
    """Fork a helper that sets down the devices of the network namespace of ``init_pid`` once nobody lives in it."""
    descriptors: list[int] = []
    try:
        for path in (f"/proc/{init_pid}/ns/net", "/proc/self/ns/net"):
            descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        namespace, own = descriptors
        descriptors += [os.pidfd_open(init_pid), os.pidfd_open(criu_pid)]
        if not os.path.sameopenfile(namespace, own) and not posix.fork():
            _helper(namespace, *descriptors[2:])
    except OSError:
        pass  # whoever is gone already has nothing left to answer
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _helper(namespace: int, init: int, criu: int) -> None:
    try:
        announce.detach()
        if _ends_before(init, criu) and _is_left_alone(os.fstat(namespace).st_ino):
            _set_down(f"/proc/self/fd/{namespace}")
    finally:
        posix._exit(0)  # noqa: SLF001 - this is a copy of the hook


def _ends_before(init: int, criu: int) -> bool:
    """Wait until one of the two processes has ended, and say whether the first one has."""
    both = select.poll()
    both.register(init, select.POLLIN)
    both.register(criu, select.POLLIN)
    if all(descriptor != init for descriptor, _ in both.poll()):
        both.unregister(criu)  # criu's last order may have been the kill
        return bool(both.poll(_LAST_BREATH * 1000))
    return True


def _is_left_alone(inode: int) -> bool:
    """Wait until no process is in the namespace and no mount keeps it; say whether that came true."""
    end = time.monotonic() + _LAST_BREATH
    while inode in netlink.living_netns():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _set_down(path: str) -> None:
    namespaces = wire.Namespaces(path)
    try:
        rtnl = namespaces.inner
        down = netlink.set_flags(0, _IFF_UP)
        at = netlink.INDEX_OFFSET
        messages = []
        for found in rtnl.dump(netlink.dump_links()):
            flags = wire.get_u32(found, at + 4)
            if flags & _IFF_UP and not flags & _IFF_LOOPBACK:
                messages.append(down[:at] + found[at : at + 4] + down[at + 4 :])
        rtnl.request(messages)
    finally:
        namespaces.close()
