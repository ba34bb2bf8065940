"""Which veths of a container lead to this host, and where the others lead.

The container chooses its own ifindexes, so a number alone says nothing: what counts is the namespace that the kernel
names beside it, asked from both sides. No id at all is no answer, either: two namespaces may both be without.
"""

import os
from collections.abc import Callable, Iterable, Iterator
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


def find(inner: Kernel, host: Kernel, path: str, tree: Iterable[str]) -> Pairs:
    """Sort out the links of the network namespace at ``path``, which the kernel ``inner`` reads.

    ``tree`` are the paths of all network namespaces of the container. Raises ProcessLookupError if an outer end goes
    away meanwhile.
    """
    with opened([path, "/proc/thread-self/ns/net", *tree]) as (own, home, *others):
        inner.each_link(
            lambda: _nothing
        )  # the kernel gives namespaces an id here when it names them for the first time
        known = {inner.nsid_of(descriptor) for descriptor in others} - {-1}
        host_id = inner.nsid_of(home)
        sorting = _Sorting(inner, known, host_id)
        inner.each_link(sorting.begin)
        back = host.nsid_of(own) if sorting.mine else -1
        found = [(link, _outer_end(link, back, host)) for link in sorting.mine]
    return Pairs(found, sorting.notes, sorting.warnings, sorting.others)


def _nothing(_: Link) -> None:
    """Take a link, and that is all."""


class _Sorting:
    """Sorts links as they come, so that those of a container that made many are not there all together."""

    def __init__(self, inner: Kernel, known: set[int], host_id: int) -> None:
        self._inner = inner
        self._known = known
        self._host_id = host_id
        self._away: list[tuple[str, int]] = []

    def begin(self) -> Callable[[Link], None]:
        self.mine: list[Link] = []
        self.notes: list[str] = []
        self.others: list[str] = []
        self._away = []
        return self._take

    def _take(self, link: Link) -> None:
        if link.kind != "veth":
            if link.ifname != "lo":
                self.notes.append(f"{link.ifname}: {link.kind or 'another kind of'} device, not touched")
            return
        nsid = link.get("IFLA_LINK_NETNSID")
        if nsid is None or nsid in self._known:
            self.others.append(link.ifname)
            self.notes.append(f"{link.ifname}: its peer is in the container too, not touched")
        elif nsid != self._host_id or nsid < 0:
            self.others.append(link.ifname)
            self._away.append((link.ifname, nsid))
        else:
            self.mine.append(link)

    @property
    def warnings(self) -> list[str]:
        """What is to be said of veths that lead elsewhere; names are looked for once the dump is over."""
        names: dict[int, str] = {}
        for _, nsid in self._away:
            if nsid not in names:
                names[nsid] = _name_of(nsid, self._inner)
        return [f"{ifname}: {_elsewhere(ifname, names[nsid])}" for ifname, nsid in self._away]


def _outer_end(inner: Link, nsid: int, host: Kernel) -> Link:
    """Return the device of this host that is the other end: a veth that leads back to the inner end.

    ``nsid`` is this host's id for the inner end's network namespace.
    """
    outer = host.link_at(inner.get("IFLA_LINK"))
    if outer is not None and leads_back(outer, inner, nsid):
        return outer
    raise ProcessLookupError(f"the outer end of {inner.ifname} has gone away")


def leads_back(outer: Link, inner: Link, nsid: int) -> bool:
    """Say whether a device of this host is the other end of ``inner``, whose network namespace has the id ``nsid``."""
    back = outer.get("IFLA_LINK"), outer.get("IFLA_LINK_NETNSID", -1)
    return nsid >= 0 and outer.kind == inner.kind and back == (inner.index, nsid)


def _elsewhere(ifname: str, name: str) -> str:
    """Say in which network namespace a peer is that is neither the container's nor this host's; it may have a name."""
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
