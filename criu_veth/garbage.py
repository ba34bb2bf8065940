"""Removes what restores have left on this host: devices that CRIU never moved, and records, Open vSwitch's too.

A device is ours if a journal names it, it is in the group that only this project uses, and the criu of that journal has
ended (`runs.Judge`); never by its name alone. A port of Open vSwitch is ours if it has our mark. Both only where they
were made in this network namespace: what is in another one is not to be seen from here.
"""

import errno
import os
from collections.abc import Iterable, Iterator

from criu_veth import netlink, ovs, runs, wire
from criu_veth.errors import errno_text


def collect(failed: Iterable[runs.Run] | None = None) -> tuple[list[str], list[str]]:
    """Remove what is stale; return what it was, and why something that is ours could not be removed.

    ``failed`` are restores that are known to have failed, rather than those whose criu has ended. The journal of what
    cannot be removed is kept. Several processes may be at it at the same time.
    """
    said: list[str] = []
    faults: list[str] = []
    rtnl = wire.Rtnl()
    try:
        for run, names in _left(failed, netlink.Kernel(rtnl)):
            found = [fault for name in names if (fault := _remove(name, rtnl, said))]
            faults += found
            if not found:
                run.end()
    finally:
        rtnl.close()
    return said, faults


def stale() -> list[str]:
    """Say what `collect` would remove."""
    rtnl = wire.Rtnl()
    try:
        names = [name for _, found in _left(None, netlink.Kernel(rtnl)) for name in found]
    finally:
        rtnl.close()
    return [f"{name}: left by a restore that died" for name in names]


def _left(failed: Iterable[runs.Run] | None, kernel: netlink.Kernel) -> Iterator[tuple[runs.Run, list[str]]]:
    """Yield the restores that are over, with the devices of each that are here and ours.

    One of another network namespace, or of an unknown one in which nothing of it is here, is left alone with its
    journal.
    """
    judge = runs.Judge()
    for run in runs.over(judge) if failed is None else failed:
        netns = run.netns()
        names = [name for name in run.made() if _is_ours(name, kernel)] if netns in (0, judge.netns) else []
        if names or netns == judge.netns or not os.path.exists(run.journal):
            yield run, names


def stale_ports() -> list[str]:
    """Return the ports of Open vSwitch that were made from this network namespace and whose device is gone.

    None where there is no switch. Raises OperationError.
    """
    if not os.path.exists(ovs.socket_path()):
        return []
    rtnl = wire.Rtnl()
    try:
        kernel = netlink.Kernel(rtnl)
        return [name for name in ovs.marked_ports() if kernel.link(name) is None]
    finally:
        rtnl.close()


def collect_ports() -> list[str]:
    """Remove these ports and say which they were.

    Raises OperationError.
    """
    names = stale_ports()
    if names:
        ovs.remove(names)
    return names


def _remove(name: str, rtnl: wire.Rtnl, said: list[str]) -> str | None:
    """Remove a device; return why that failed. One that somebody else has removed by now is as good."""
    (reply,) = rtnl.request([netlink.delete_link(name)])
    if reply.errno == errno.ENODEV:
        return None
    if reply.errno:
        return f"{name}: left by a restore that died, cannot be removed: {errno_text(reply.errno, reply.detail)}"
    said.append(f"{name}: removed, a restore that died had left it")
    return None


def _is_ours(name: str, kernel: netlink.Kernel) -> bool:
    link = kernel.link(name)
    return link is not None and link.get("IFLA_GROUP") == wire.MARK_GROUP
