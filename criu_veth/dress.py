"""Tells what an end that somebody else has made has already, and what its maker has left as the kernel makes it.

A test is a tuple, made by `dressing`: ``(ATTRIBUTE, slot, path, wanted, defaults)``, ``(MTU, slot, other end's slot,
wanted)``, ``(FLAG, slot, bit, wanted, default)``, ``(SETTING, slot, (directory, file), wanted, default's path)``,
``(VLANS, slot, request, wanted)`` or ``(TRAFFIC, slot, request, root, ingress)``. ``slot`` holds the RTM_NEWLINK of the
end as it was found.

This module runs in the frozen window, so it imports only what speaks netlink.
"""

import posix

from criu_veth import wire

ATTRIBUTE, MTU, FLAG, SETTING, VLANS, TRAFFIC = range(6)

_IFLA_MTU, _IFLA_QDISC = 4, 6
_LINK_ATTRS, _AT_INDEX, _AT_FLAGS = 32, 20, 24
_SLAVE_KIND = (18, 4)  # IFLA_LINKINFO, IFLA_INFO_SLAVE_KIND
_NEW_MTU = wire.u32(1500)
_VLAN_ATTRS, _VLAN_ENTRY, _VLAN_ENTRY_INFO, _PVID_UNTAGGED = 24, 1, 1, 0x6

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Callable
    from typing import Any

    Test = tuple[Any, ...]


class Ends:
    """The ends of pairs as they were found: ``slot`` gives an RTM_NEWLINK by its number, ``host`` asks."""

    def __init__(self, slot: "Callable[[int], bytes]", name_in: "Callable[[bytes], str]", host: wire.Rtnl) -> None:
        self._slot = slot
        self._name_in = name_in
        self._host = host

    def have(self, test: "Test") -> bool:
        """Say whether the end has already what it should have."""
        kind = test[0]
        if kind == TRAFFIC:
            return self._traffic(test) == tuple(test[3:5])
        wanted: object = test[3].split() if kind == SETTING else test[3]
        return self._found(test) == wanted

    def can_have(self, test: "Test") -> bool:
        """Say whether an end has such a thing: only the port of a bridge has flags and VLANs."""
        if test[0] == VLANS or (test[0] == ATTRIBUTE and len(test[2]) > 1):
            return self._attribute(test[1], _SLAVE_KIND) == b"bridge\0"
        return True

    def are_bare(self, test: "Test") -> bool:
        """Say whether the end has what a new device has."""
        kind = test[0]
        if kind == ATTRIBUTE:
            return any(self._found(test) == new for new in test[4])
        if kind == MTU:  # of both ends: a frame that is longer than the other end's MTU is dropped
            return {self._attribute(one, (_IFLA_MTU,)) for one in test[1:3]} == {_NEW_MTU}
        if kind == FLAG:
            return self._found(test) is test[4]
        if kind == SETTING:
            return self._found(test) == _words(test[4])
        if kind == VLANS:
            return [flags for _, flags in self._vlans(test)] == [_PVID_UNTAGGED]
        return self._traffic(test) == (b"noqueue\0", False)

    def _found(self, test: "Test") -> object:
        """Return what the end has, in the form that the test's ``wanted`` has."""
        kind, slot = test[:2]
        if kind == FLAG:
            return bool(self._flags(slot) & test[2])
        if kind == SETTING:
            return self._setting(slot, test[2])
        if kind == VLANS:
            return self._vlans(test)
        return self._attribute(slot, (_IFLA_MTU,) if kind == MTU else test[2])

    def _traffic(self, test: "Test") -> "tuple[bytes | None, bool]":
        return self._attribute(test[1], (_IFLA_QDISC,)), self._has_ingress(test)

    def _attribute(self, slot: int, path: "tuple[int, ...]") -> bytes | None:
        return wire.find_attr(self._slot(slot), _LINK_ATTRS, path)

    def _flags(self, slot: int) -> int:
        return wire.get_u32(self._slot(slot), _AT_FLAGS)

    def _setting(self, slot: int, parts: "tuple[str, str]") -> "list[bytes] | None":
        directory, leaf = parts
        return _words(f"{directory}/{self._name_in(self._slot(slot))}/{leaf}")

    def _asked_of(self, test: "Test") -> bytes:
        """Return the test's request with the end's index in it."""
        request: bytes = test[2]
        return request[:_AT_INDEX] + self._slot(test[1])[_AT_INDEX : _AT_INDEX + 4] + request[_AT_INDEX + 4 :]

    def _has_ingress(self, test: "Test") -> bool:
        (reply,) = self._host.request([self._asked_of(test)])
        return not reply.errno

    def _vlans(self, test: "Test") -> "tuple[tuple[int, int], ...]":
        found = []
        for message in self._host.dump(self._asked_of(test)):
            for kind, entry in wire.attrs(message, _VLAN_ATTRS):
                info = wire.find_attr(entry, 0, (_VLAN_ENTRY_INFO,)) if kind == _VLAN_ENTRY else None
                if info:
                    found.append((wire.get_u16(info, 2), wire.get_u16(info, 0) & _PVID_UNTAGGED))
        return tuple(sorted(found))


def _words(path: str) -> "list[bytes] | None":
    """Return the words of a file below ``/proc/sys/net``; None if it cannot be read."""
    try:
        descriptor = posix.open("/proc/sys/net/" + path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return posix.read(descriptor, 4096).split()
    except OSError:
        return None
    finally:
        posix.close(descriptor)
