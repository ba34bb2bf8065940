"""Says who has an outer end's name: the container, or what is left of one, at the other end of that device."""

import os

from criu_veth import netlink, orphans, procfs
from criu_veth.bounds import shown


def who_has(name: str, link: netlink.Link, kernel: netlink.Kernel) -> str | None:
    """Say who lives behind ``link``, which has the name that is wanted, and what to do; None: nobody."""
    inode, living = _behind(link, kernel)
    if inode is None:
        return None
    also = "" if link.ifname == name else f' (an alternative name of "{shown(link.ifname)}")'
    orphan = orphans.living_in(inode)
    if orphan is not None:
        return (
            f'the name "{name}"{also} is taken by a restore that cannot go on: its criu is gone, and'
            f" {orphan.describe()} waits for it; kill that: criu-veth gc --kill-orphans"
        )
    first = procfs.first(living)
    return (
        f'the name "{name}"{also} is taken by a container that runs: process {first} ({procfs.name(first)}) lives at'
        " the other end; end that container, or choose another outer name"
    )


def orphan_behind(link: netlink.Link, kernel: netlink.Kernel) -> orphans.Orphan | None:
    """Return what a killed criu has left, if that is who lives behind ``link``."""
    inode, _ = _behind(link, kernel)
    return None if inode is None else orphans.living_in(inode)


def _behind(link: netlink.Link, kernel: netlink.Kernel) -> tuple[int | None, list[int]]:
    """Return the inode of the network namespace at the other end of a veth, and the processes that live there."""
    nsid = link.get("IFLA_LINK_NETNSID")
    if link.kind not in ("veth", "netkit") or nsid is None or nsid < 0:
        return None, []
    living: dict[int, list[int]] = {}
    for pid in procfs.pids():
        inode = procfs.netns(pid)
        if inode is not None:
            living.setdefault(inode, []).append(pid)
    for inode, pids in living.items():
        if _nsid(pids, kernel) == nsid:
            return inode, pids
    return None, []


def _nsid(pids: list[int], kernel: netlink.Kernel) -> int | None:
    """Return the number that the kernel gives the network namespace of these processes."""
    for pid in pids:
        try:
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # the process has ended
        try:
            return kernel.nsid_of(descriptor)
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return None
