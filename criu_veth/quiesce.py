"""Keeps a dumped container's network namespace from answering in its last milliseconds.

CRIU locks the network of what it dumps with packet filter rules inside. When the processes have been killed, the kernel
takes the namespace apart: the rules first, and only after a grace period the devices. A peer's segment that arrives in
between meets no rule and no socket, and is answered with a reset. So a process of its own, from pre-dump on, holds the
namespace open until its first process is dead, has the outer ends on this host drop what comes out of it, and lets go.

It must never harm what lives on, and cannot see all that keeps a namespace (`criu_veth.holders`). So:

- it acts outside, on the outer ends, and by what the kernel takes back when this process ends (`criu_veth.bpf`);
- it acts only after CRIU has killed: it ends with criu, and when criu has let the application go;
- it leaves alone what is external to CRIU, and what others are seen to keep;
- it takes back what it did if the kernel has not begun to take the namespace apart soon after. That is told by the
  namespace's id, which is gone from then on (``cleanup_net()`` in ``net/core/net_namespace.c``) and never before.
  Until then the namespace has CRIU's lock on, so that the drop takes from those who keep it what they did not have.
"""

import os
import re
import select
import time
from collections.abc import Collection, Mapping

from criu_veth import holders, images, netlink, pairs, paths, processes, procfs, way, wire
from criu_veth.errors import InputError

#: How long a dropped device may be there, in seconds, without a sign that the kernel takes its namespace apart.
_BOUND = 0.5
#: How long one may be there that the kernel is taking apart, and a process that has been killed.
_PATIENCE = 60.0
#: How long others may take to let the namespace go after the container's first process has, in seconds.
_LAST_BREATH = 1.0
_POLL = 0.01
#: How often it is looked whether criu has let the application go.
_LOOK = 0.02
_PAIRS = {"veth", "netkit"}
#: Options of criu without a value, written together: ``-sR``.
_STAYS = re.compile(r"-[dSsRjl]*[sR][dSsRjl]*|--leave-[rs].*")


def start(
    init_pid: int,
    criu_pid: int,
    image_dir: paths.Directory | str,
    environ: Mapping[str, str],
    *,
    alone: bool = False,
) -> list[str]:
    """Start the process that quiets the network of ``init_pid`` once the criu with this pid has killed it.

    Return warnings: without it the dump goes on all the same. ``alone`` is as in `processes.start`.
    """
    if not is_wanted(criu_pid, environ):
        return []
    descriptors: list[int] = []
    try:
        opened = image_dir if isinstance(image_dir, paths.Directory) else paths.Directory(image_dir)
        directory = f"/proc/thread-self/fd/{opened.descriptor}"
        for path in (f"/proc/{init_pid}/ns/net", directory, "/proc/thread-self/ns/net"):
            descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        if os.path.sameopenfile(descriptors[0], descriptors[2]):
            return []
        descriptors += [os.pidfd_open(init_pid), os.pidfd_open(criu_pid)]
    except OSError:
        _close(descriptors)
        return []  # whoever is gone already has nothing left to answer
    try:
        ours = (init_pid, criu_pid, os.getpid() if alone else 0)  # a process that goes on may mean to keep it
        processes.start(run, descriptors, (ours,), alone=alone)
    except OSError as error:
        return [not_started(error)]
    finally:
        _close(descriptors)
    return []


def not_started(error: OSError) -> str:
    """Return the warning that the process could not be started."""
    return (
        f"warning: cannot start a process: {error.strerror}; nobody quiets the container's network when the dump ends:"
        f" peers may be answered with a reset"
    )


def is_wanted(criu_pid: int, environ: Mapping[str, str]) -> bool:
    """Say whether criu may be about to kill what it dumps, in a namespace of its own and with its network locked.

    What it was told over RPC is not to be read; the kernel, and the images, tell later.
    """
    told = _Told()
    command = way.read_command(told, criu_pid, dict(environ))
    stays = told.stays or any(_STAYS.fullmatch(word) for word in command)
    unlocked = told.unlocked or re.search(r"\0--network-lock[=\0]skip\0", "\0".join(command))
    return not (stays or unlocked or told.adopt or "pre-dump" in command)


class _Told(way.Way):
    """Criu's options, with those that matter for a dump: whether what is dumped stays, and is locked."""

    __slots__ = ("stays", "unlocked")

    def __init__(self) -> None:
        super().__init__()
        self.stays = self.unlocked = False

    def read_option(self, option: str, value: str) -> None:
        super().read_option(option, value)
        self.stays = self.stays or option in {"leave-running", "leave-stopped"}
        self.unlocked = self.unlocked or (option == "network-lock" and value == "skip")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def run(descriptors: list[int], ours: tuple[int, int, int]) -> None:
    """Do it, in a process of its own; what it did ends with its descriptors.

    ``ours`` are the pids of the container's first process, of criu and of the caller, whose descriptors do not count.
    """
    processes.detach(descriptors)
    namespace, directory, _, init, criu = descriptors
    netns = holders.look_at(f"/proc/self/fd/{namespace}")
    shared = holders.is_held(netns, but=ours)
    program = _load()
    if program is None or not _was_killed(ours[0], init, criu) or _is_external(directory):
        return
    if shared and not _is_left(netns, ours):
        return
    drops = _Drops(namespace)
    drops.attach(program)
    os.close(namespace)
    if not holders.is_held(netns, but=ours):
        drops.wait()


def _load() -> int | None:
    from criu_veth import bpf  # noqa: PLC0415 - ctypes, which only this process needs

    try:
        return bpf.load_drop()
    except OSError:
        return None  # a kernel without it: as with CRIU alone


def _was_killed(init_pid: int, init: int, criu: int) -> bool:
    """Wait until the container's first process is dead; say whether that was criu's doing.

    If criu ends first, or lets the process go that it has traced, the process lives on, unless its end has been
    ordered. ``init`` and ``criu`` are descriptors of the two.
    """
    both = select.poll()
    both.register(init, select.POLLIN)
    both.register(criu, select.POLLIN)
    traced = False
    while not (ended := {descriptor for descriptor, _ in both.poll(_LOOK * 1000)}):
        now = procfs.tracer(init_pid, init_pid) != 0
        if traced and not now and not holders.is_ending(init_pid):
            return False
        traced = traced or now
    if init in ended:
        return True
    both.unregister(criu)
    return holders.is_ending(init_pid) and bool(both.poll(_PATIENCE * 1000))


def _is_left(netns: holders.Netns, ours: Collection[int]) -> bool:
    """Wait until the others who were seen to keep the namespace have let it go; say whether that came true.

    The parent of a container's first process may be in there, and dies of its child's death.
    """
    end = time.monotonic() + _LAST_BREATH
    while holders.is_held(netns, but=ours):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _is_external(directory: int) -> bool:
    """Say whether the images name a namespace that is not CRIU's to restore; what cannot be read may."""
    try:
        found = images.read(f"/proc/self/fd/{directory}") or ()
    except InputError:
        return True
    return any(namespace.external_key is not None for namespace in found)


class _Drops:
    """The outer ends on this host of one network namespace, and the drops on them."""

    def __init__(self, namespace: int) -> None:
        self._kernel = netlink.Kernel(wire.Rtnl())
        self._nsid, self._indexes = self._find(namespace)
        self._links: list[int] = []

    def _find(self, namespace: int) -> tuple[int, list[int]]:
        """Return the id that this namespace has here, and the ifindexes of the outer ends of its pairs.

        An outer end is a device of the same kind here whose own link leads back to the inner end in that namespace.
        """
        namespaces = wire.Namespaces(f"/proc/self/fd/{namespace}")
        try:
            inner = netlink.Kernel(namespaces.inner).links()
        finally:
            namespaces.close()
        found = [(link, self._kernel.link_at(link.get("IFLA_LINK"))) for link in inner if _leads_away(link)]
        nsid = self._kernel.nsid_of(namespace)
        indexes = [outer.index for link, outer in found if outer is not None and pairs.leads_back(outer, link, nsid)]
        return nsid, indexes

    def attach(self, program: int) -> None:
        """Have the outer ends drop all that comes out of the namespace."""
        from criu_veth import bpf  # noqa: PLC0415 - as above

        for index in self._indexes:
            try:
                self._links.append(bpf.attach(program, index))
            except OSError:
                continue  # it is gone, or has a program of its own

    def wait(self) -> None:
        """Wait until the devices are gone, or ought to be."""
        start = time.monotonic()
        left = self._indexes
        while left:
            states = [link.get("IFLA_LINK_NETNSID") for index in left if (link := self._kernel.link_at(index))]
            left = left if states else []
            dying = all(state is not None and state < 0 for state in states)
            if time.monotonic() - start > (_PATIENCE if dying else _BOUND):
                return
            time.sleep(_POLL)


def _leads_away(link: netlink.Link) -> bool:
    return link.kind in _PAIRS and bool(link.get("IFLA_LINK")) and link.get("IFLA_LINK_NETNSID") is not None
