"""What preflight says of this host, asked by an operator: the container may not have been checkpointed yet."""

import os
from typing import NamedTuple

from criu_veth import netlink, ownership, preflight, rehearsal, tenants, wire
from criu_veth.config import Config
from criu_veth.errors import InputError, OperationError, errno_text
from criu_veth.state import Route, Veth

_IFLA_TARGET_NETNSID = 46


class Examined(NamedTuple):
    """What preflight ``found``, and a warning for each outer end whose container is ``running``, counted as gone.

    ``notices`` says where a fault may be none, because a runtime makes the pair.
    """

    found: preflight.Findings
    running: tuple[str, ...]
    notices: tuple[str, ...] = ()


def examine(veths: tuple[Veth, ...], mapping: Config | None) -> Examined:
    """Do a preflight of ``veths``, of which ``mapping`` asks for something, and rehearse what is done to them.

    Raises OperationError if the kernel cannot be asked.
    """
    try:
        rtnl = wire.Rtnl()
        try:
            kernel = AfterTheDump(rtnl, veths)
            found = preflight.preflight(veths, kernel, decided=True)
            found = rehearsal.rehearse(veths, found, mapping, decided=True)
            return Examined(found, tuple(kernel.running), _may_be_made_by_others(veths, found))
        finally:
            rtnl.close()
    except OSError as error:
        raise OperationError(f"cannot read this host's network: {errno_text(error.errno or 0, str(error))}") from None


def _may_be_made_by_others(veths: tuple[Veth, ...], found: preflight.Findings) -> tuple[str, ...]:
    inners = [veth.inner for veth in veths if ownership.is_judged_later(veth.mode)]
    if not inners or not found.faults:
        return ()
    return (f"a runtime that makes {' and '.join(inners)} itself in the empty network namespace needs none of this",)


def refuse_no_container(pid: int) -> None:
    """Raise InputError unless ``pid`` is in a network namespace of its own."""
    try:
        inner = os.stat(f"/proc/{pid}/ns/net")
    except FileNotFoundError:
        raise InputError(f"there is no process {pid}") from None
    except OSError as error:
        raise OperationError(f"cannot look at process {pid}: {errno_text(error.errno or 0)}; be root") from None
    if os.path.samestat(inner, os.stat("/proc/self/ns/net")):
        raise InputError(f"process {pid} is in this host's own network namespace: it is no container's")


class AfterTheDump(netlink.Kernel):
    """This host as it will be once the containers behind ``veths`` are gone: their outer ends are hidden.

    ``running`` has a warning for each.
    """

    def __init__(self, rtnl: wire.Rtnl, veths: tuple[Veth, ...]) -> None:
        super().__init__(rtnl)
        self._rtnl = rtnl
        self._hidden: set[int] = set()
        self.running: list[str] = []
        alive = netlink.Lifeline(self)
        for veth in veths:
            link = super().link(veth.outer.ifname) if veth.outer.ifname else None
            if link is None or alive.is_dying(link) or self._peer_name(link) != veth.inner:
                continue
            if tenants.orphan_behind(link, self) is None:  # that one goes away only if somebody kills it
                self._hidden.add(link.index)
                self.running.append(
                    f'veth {veth.inner}: "{link.ifname}" is there, with a container behind it whose end is'
                    f' "{veth.inner}": both must be gone before the restore'
                )

    def link(self, name: str) -> netlink.Link | None:
        """Return the device called ``name``, or None."""
        found = super().link(name)
        return None if found is not None and found.index in self._hidden else found

    def double(self, name: str, mac: bytes, addresses: tuple[bytes, ...]) -> tuple[str, bytes] | None:
        """Return the port that leads to a living container with this identity, unless it is the one to be dumped."""
        found = super().double(name, mac, addresses)
        return found if found is not None and self.link(found[0]) is not None else None

    def route_to(self, entry: Route) -> int | None:
        """Return the ifindex that a route with exactly this destination leads through, or None."""
        found = super().route_to(entry)
        return None if found in self._hidden else found

    def _peer_name(self, link: netlink.Link) -> str | None:
        """Return the name of the other end of a veth that is in another network namespace, or None."""
        nsid, index = link.get("IFLA_LINK_NETNSID"), link.get("IFLA_LINK")
        if link.kind != "veth" or nsid is None or not index:
            return None
        message = bytearray(netlink.get_link())
        message += wire.put_attr(_IFLA_TARGET_NETNSID, nsid.to_bytes(4, wire.ORDER, signed=True))
        message[0:4] = wire.u32(len(message))
        message[netlink.INDEX_OFFSET : netlink.INDEX_OFFSET + 4] = wire.u32(index)
        (reply,) = self._rtnl.request([bytes(message)])
        return netlink.Link(reply.messages[0]).ifname if not reply.errno and reply.messages else None
