"""Removes what restores have left on this host: devices that CRIU never moved, and records, Open vSwitch's too.

A device is ours if a journal names it, it is in the group that only this project uses, and the criu of that journal has
ended; never by its name alone. A port of Open vSwitch is ours if it has our mark.
"""

import os
from collections.abc import Iterable

from criu_veth import netlink, ovs, program, wire
from criu_veth.errors import OperationError, errno_text


def collect(runs: Iterable[int] | None = None) -> list[str]:
    """Remove what is stale and say what it was.

    ``runs`` are the pids of restores that are known to have failed, rather than of those whose criu has ended.

    Raises OperationError where something that is ours cannot be removed; its journal is kept.
    """
    said: list[str] = []
    faults: list[str] = []
    rtnl = wire.Rtnl()
    try:
        kernel = netlink.Kernel(rtnl)
        for pid in program.stale_runs() if runs is None else runs:
            failed = [fault for line in _journal(pid) if (fault := _remove(line, kernel, rtnl, said))]
            faults += failed
            if not failed:
                program.end_run(pid)
    finally:
        rtnl.close()
    if faults:
        raise OperationError(*faults)
    return said


def stale() -> list[str]:
    """Say what `collect` would remove."""
    rtnl = wire.Rtnl()
    try:
        kernel = netlink.Kernel(rtnl)
        names = [_ours(line, kernel) for pid in program.stale_runs() for line in _journal(pid)]
    finally:
        rtnl.close()
    return [f"{name}: left by a restore that died" for name in names if name is not None]


def stale_ports() -> list[str]:
    """Return the ports of Open vSwitch that this project made and whose device is gone; none where there is no switch.

    Raises OperationError.
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


def _journal(pid: int) -> list[str]:
    try:
        with open(program.journal(pid)) as stream:
            return stream.read().splitlines()
    except FileNotFoundError:
        return []


def _remove(line: str, kernel: netlink.Kernel, rtnl: wire.Rtnl, said: list[str]) -> str | None:
    """Remove what one line of a journal names, if it is there and ours; return why that failed."""
    name = _ours(line, kernel)
    if name is None:
        return None
    (reply,) = rtnl.request([netlink.delete_link(name)])
    if reply.errno:
        return f"{name}: left by a restore that died, cannot be removed: {errno_text(reply.errno, reply.detail)}"
    said.append(f"{name}: removed, a restore that died had left it")
    return None


def _ours(line: str, kernel: netlink.Kernel) -> str | None:
    """Return the name of the device that one line of a journal names, if it is there and ours."""
    what, _, name = line.partition(" ")
    link = kernel.link(name) if what == "link" else None
    return None if link is None or link.get("IFLA_GROUP") != wire.MARK_GROUP else name
