"""Which veths of a container lead to this host, and where the others lead.

The container chooses its own ifindexes, so a number alone says nothing: what counts is the namespace that the kernel
names beside it, asked from both sides. No id at all is no answer, either: two namespaces may both be without.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from criu_veth.netlink import Kernel, Link

#: Where ``ip netns`` keeps a name for a network namespace.
_NAMES = ("/run/netns", "/var/run/netns")


class Pairs(NamedTuple):
    """``found`` are pairs of an inner and an outer end; the rest is what is to be said of other devices.

    ``others`` are the names of the veths that do not lead to this host.
    """

    found: list[tuple[Link, Link]]
    notes: list[str]
    warnings: list[str]
    others: list[str]


@contextmanager
def opened(paths: Iterable[str]) -> Iterator[list[int]]:
    """Hold network namespaces open while the body runs.

    Raises OSError.
    """
    descriptors: list[int] = []
    try:
        for path in paths:
            descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def find(links: Iterable[Link], inner: Kernel, host: Kernel, path: str, tree: Iterable[str]) -> Pairs:
    """Sort out the ``links`` of the network namespace at ``path``, which the kernel ``inner`` reads.

    ``tree`` are the paths of all network namespaces of the container. Raises ProcessLookupError if an outer end goes
    away meanwhile.
    """
    said = Pairs([], [], [], [])
    with opened([path, "/proc/thread-self/ns/net", *tree]) as (own, home, *others):
        known = {inner.nsid_of(descriptor) for descriptor in others} - {-1}
        host_id = inner.nsid_of(home)
        for link in links:
            nsid = link.get("IFLA_LINK_NETNSID")
            if link.kind != "veth":
                if link.ifname != "lo":
                    said.notes.append(f"{link.ifname}: {link.kind or 'another kind of'} device, not touched")
            elif nsid is None or nsid in known:
                said.others.append(link.ifname)
                said.notes.append(f"{link.ifname}: its peer is in the container too, not touched")
            elif nsid != host_id or nsid < 0:
                said.others.append(link.ifname)
                said.warnings.append(f"{link.ifname}: {_elsewhere(link.ifname, nsid, inner)}")
            else:
                said.found.append((link, _outer_end(link, own, host)))
    return said


def _outer_end(inner: Link, own: int, host: Kernel) -> Link:
    """Return the device of this host that is the other end: a veth that leads back to the inner end."""
    outer = host.link_at(inner.get("IFLA_LINK"))
    if outer is not None and leads_back(outer, inner, host.nsid_of(own)):
        return outer
    raise ProcessLookupError(f"the outer end of {inner.ifname} has gone away")


def leads_back(outer: Link, inner: Link, nsid: int) -> bool:
    """Say whether a device of this host is the other end of ``inner``, whose network namespace has the id ``nsid``."""
    back = outer.get("IFLA_LINK"), outer.get("IFLA_LINK_NETNSID", -1)
    return nsid >= 0 and outer.kind == inner.kind and back == (inner.index, nsid)


def _elsewhere(ifname: str, nsid: int, kernel: Kernel) -> str:
    """Say in which network namespace a peer is that is neither the container's nor this host's."""
    name = _name_of(nsid, kernel)
    where = f'the network namespace "{name}"' if name else f"a network namespace without a name in {_NAMES[0]}"
    move = f"ip link set NAME netns {name}" if name else "ip link set NAME netns PID"
    return (
        f"its peer is in {where}, neither the container's nor this host's, and is not captured: a restore with"
        f" --external veth[{ifname}]:NAME makes it here; move it there afterwards: {move}"
    )


def _name_of(nsid: int, kernel: Kernel) -> str:
    if nsid < 0:
        return ""
    for directory in _NAMES:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            try:
                with opened([f"{directory}/{name}"]) as (descriptor,):
                    if kernel.nsid_of(descriptor) == nsid:
                        return name
            except OSError:
                continue  # a name that nothing is mounted on
    return ""
