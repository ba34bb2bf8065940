"""Tells switches and neighbours where the container is now: frames from its inner ends, in its network namespace.

For each IPv4 address a gratuitous ARP as request and as reply (RFC 5227, section 3; some stacks learn from one, some
from the other), for each IPv6 address an unsolicited neighbour advertisement with the override flag (RFC 4861, section
7.2.6), and for a device without an address a reverse ARP request (RFC 903), so that switches learn its port. Devices on
top of an inner end (VLANs) announce their own addresses through it.

This module runs in the frozen window, so it imports only `posix` and `_socket`; what runs in the detached helper after
the container has been resumed may import more.
"""

import _socket
import posix

from criu_veth import errors, wire

TYPE_CHECKING = False
if TYPE_CHECKING:  # only the helper needs it
    import select

BROADCAST = b"\xff" * 6
_ARP, _RARP, _IPV6 = b"\x08\x06", b"\x80\x35", b"\x86\xdd"
_ARP_HEADER = b"\x00\x01\x08\x00\x06\x04"
_REQUEST, _REPLY, _REVERSE_REQUEST = b"\x00\x01", b"\x00\x02", b"\x00\x03"
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")
_ICMPV6 = 58
_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 135, 136
_OVERRIDE = b"\x20\x00\x00\x00"

_AF_PACKET = 17
_PROTOCOL_IPV6 = int.from_bytes(_IPV6, wire.ORDER)  # as it goes over the wire
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_TENTATIVE = 0x40
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_QDISC, _IFLA_OPERSTATE, _IFLA_LINK_NETNSID = 1, 3, 5, 6, 16, 37
_LINK_ATTRS, _ADDRESS_ATTRS, _AT_INDEX = 32, 24, 20
_IF_OPER_UP = 6

#: How long the link may take to come up after its outer end was set up, in tries of a millisecond.
_TRIES = 200


def gratuitous_arp(mac: bytes, address: bytes) -> "list[bytes]":
    """Return the two frames that announce an IPv4 address (4 bytes) of the device with this MAC address (6 bytes)."""
    start = BROADCAST + mac + _ARP + _ARP_HEADER
    return [
        start + _REQUEST + mac + address + bytes(6) + address,
        start + _REPLY + mac + address + BROADCAST + address,
    ]


def reverse_arp(mac: bytes) -> bytes:
    """Return a frame that announces nothing but the port of this MAC address."""
    return BROADCAST + mac + _RARP + _ARP_HEADER + _REVERSE_REQUEST + (mac + bytes(4)) * 2


def neighbour_advertisement(mac: bytes, address: bytes) -> bytes:
    """Return an unsolicited neighbour advertisement of an IPv6 address (16 bytes), to all nodes."""
    body = _OVERRIDE + address + b"\x02\x01" + mac
    return _icmpv6(mac, b"\x33\x33\x00\x00\x00\x01", address, _ALL_NODES, _NEIGHBOUR_ADVERTISEMENT, body)


def duplicate_probe(mac: bytes, address: bytes) -> bytes:
    """Return the neighbour solicitation of duplicate address detection (RFC 4862, section 5.4.2)."""
    group = _SOLICITED_NODE + address[13:]
    body = bytes(4) + address
    return _icmpv6(mac, b"\x33\x33" + group[12:], bytes(16), group, _NEIGHBOUR_SOLICITATION, body)


def _icmpv6(mac: bytes, to: bytes, source: bytes, group: bytes, kind: int, body: bytes) -> bytes:
    length = 4 + len(body)
    pseudo = source + group + length.to_bytes(4, "big") + bytes(3) + bytes([_ICMPV6])
    checksum = _checksum(pseudo + bytes([kind, 0, 0, 0]) + body)
    header = b"\x60\x00\x00\x00" + length.to_bytes(2, "big") + bytes([_ICMPV6, 255]) + source + group
    return to + mac + _IPV6 + header + bytes([kind, 0]) + checksum.to_bytes(2, "big") + body


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Announcer:
    """The frames of one container, the packet socket in its network namespace that sends them, and one that listens.

    Once it is made, it needs nobody to hold that namespace open.
    """

    def __init__(self, namespaces: wire.Namespaces) -> None:
        self._inner = namespaces.inner
        with namespaces.inside():
            self._socket = _socket.socket(_AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
            self._listener = _socket.socket(_AF_PACKET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _PROTOCOL_IPV6)
        self._listener.setblocking(False)
        self._frames: list[tuple[str, bytes]] = []
        self._probed: list[tuple[str, bytes, bytes]] = []

    def prepare(self, indexes: "frozenset[bytes]", requests: "tuple[bytes, bytes, bytes]") -> None:
        """Read what there is to announce on the devices with these ifindexes, and on those on top of them.

        ``requests`` are dumps of links, of IPv4 and of IPv6 addresses.
        """
        links, *addresses = requests
        inner = self._inner
        devices: dict[bytes, tuple[str, bytes]] = {}
        for found in inner.dump(links):
            index, below = found[_AT_INDEX : _AT_INDEX + 4], wire.find_attr(found, _LINK_ATTRS, (_IFLA_LINK,))
            local = wire.find_attr(found, _LINK_ATTRS, (_IFLA_LINK_NETNSID,)) is None
            if index in indexes or (local and below in indexes):
                name = wire.find_attr(found, _LINK_ATTRS, (_IFLA_IFNAME,)) or b""
                mac = wire.find_attr(found, _LINK_ATTRS, (_IFLA_ADDRESS,)) or b""
                if len(mac) == len(BROADCAST):
                    devices[index] = name.rstrip(b"\0").decode("utf-8", "surrogateescape"), mac
        silent = dict(devices)
        for request in addresses:
            for found in inner.dump(request):
                index = found[_AT_INDEX : _AT_INDEX + 4]
                if index in devices:
                    silent.pop(index, None)
                    self._add(found, *devices[index])
        self._frames += [(name, reverse_arp(mac)) for name, mac in silent.values()]

    def _add(self, found: bytes, name: str, mac: bytes) -> None:
        address = wire.find_attr(found, _ADDRESS_ATTRS, (_IFA_LOCAL,)) or wire.find_attr(
            found, _ADDRESS_ATTRS, (_IFA_ADDRESS,)
        )
        if address is None:
            return
        if len(address) == 4:
            self._frames += [(name, frame) for frame in gratuitous_arp(mac, address)]
            return
        flags = wire.find_attr(found, _ADDRESS_ATTRS, (_IFA_FLAGS,))
        if not (flags and wire.get_u32(flags, 0) & _IFA_F_TENTATIVE):
            self._frames.append((name, neighbour_advertisement(mac, address)))
            self._probed.append((name, mac, address))

    def send(self) -> int:
        """Send every frame once; return how many were sent."""
        sent = 0
        for name, frame in self._frames:
            try:
                self._socket.sendto(frame, (name, 0))
                sent += 1
            except OSError:
                continue  # a device that is down has nothing to announce
        return sent

    def repeat(self, times: int, interval: float, container: "select.poll", log: int | None) -> None:
        """Send again every ``interval`` seconds, and look for others that use the same IPv6 addresses.

        It ends with the container, whose process ``container`` watches. What is found is written to ``log``.
        """
        for turn in range(times):
            if container.poll(interval * 1000):
                return
            if turn == 0:
                self._probe()
            self.send()
        if times and not container.poll(interval * 1000):
            for text in self._duplicates():
                _log(log, text)

    def _probe(self) -> None:
        for name, mac, address in self._probed:
            try:
                self._socket.sendto(duplicate_probe(mac, address), (name, 0))
            except OSError:
                continue

    def _duplicates(self) -> "list[str]":
        """Return what others said to be theirs: neighbour advertisements of our addresses with another MAC address."""
        ours = {(name, address): mac for name, mac, address in self._probed}
        found = {}
        while True:
            try:
                frame, source = self._listener.recvfrom(2048)
            except BlockingIOError:
                break
            is_advertisement = len(frame) >= 78 and frame[20] == _ICMPV6 and frame[54] == _NEIGHBOUR_ADVERTISEMENT
            mac = ours.get((source[0], frame[62:78])) if is_advertisement else None
            if mac is not None and frame[6:12] != mac:
                address = _socket.inet_ntop(10, frame[62:78])
                found[source[0], address] = frame[6:12].hex(":")
        return [f"{name}: {address} is in use by {mac} too" for (name, address), mac in found.items()]


def detached(
    namespaces: wire.Namespaces,
    ends: "list[tuple[bytes, bytes | None]]",
    requests: "tuple[bytes, bytes, bytes]",
    link: bytes,
    pace: "tuple[int, float]",
    init_pid: int,
) -> None:
    """Announce from a process of its own, so that nobody waits for links to come up; CRIU goes on at once.

    ``ends`` are the ifindexes of inner and outer ends, ``requests`` dumps of links and of both families' addresses,
    ``link`` asks for one link; ``pace`` is how often more, every how many seconds. The process holds nothing of
    its caller's open and ends with the container. Raises OSError.
    """
    from criu_veth import processes  # noqa: PLC0415 - the hook needs it in the helper only

    descriptors = [namespaces.open_inner()]
    try:
        descriptors.append(posix.pidfd_open(init_pid))
        processes.start(run, descriptors, (ends, requests, link, pace))
    finally:
        for descriptor in descriptors:
            posix.close(descriptor)


def copied(
    namespaces: wire.Namespaces,
    ends: "list[tuple[bytes, bytes | None]]",
    requests: "tuple[bytes, bytes, bytes]",
    link: bytes,
    pace: "tuple[int, float]",
    init_pid: int,
) -> None:
    """Do the same as `detached` from a copy of this process, which is our own: see `processes.start`.

    All but the copying is done over there: CRIU waits for this process.
    """
    if not posix.fork():
        try:
            run([namespaces.open_inner(), posix.pidfd_open(init_pid)], ends, requests, link, pace)
        finally:
            posix._exit(0)  # noqa: SLF001 - this is a copy of the hook


def run(
    descriptors: "list[int]",
    ends: "list[tuple[bytes, bytes | None]]",
    requests: "tuple[bytes, bytes, bytes]",
    link: bytes,
    pace: "tuple[int, float]",
) -> None:
    """Announce, in a process of its own: ``descriptors`` are of the container's network namespace and first process."""
    import select  # noqa: PLC0415 - in the helper, where nobody waits

    from criu_veth import processes  # noqa: PLC0415 - as above

    log = processes.detach(descriptors)
    inner, init = descriptors
    container = select.poll()
    container.register(init, select.POLLIN)
    namespaces = wire.Namespaces(f"/proc/self/fd/{inner}")
    announcer = Announcer(namespaces)
    posix.close(inner)
    announcer.prepare(frozenset(inner for inner, _ in ends), requests)
    _wait_for_links(namespaces, ends, link)
    announcer.send()
    announcer.repeat(*pace, container, log)


def _wait_for_links(namespaces: wire.Namespaces, ends: "list[tuple[bytes, bytes | None]]", link: bytes) -> None:
    """Wait until the devices are operational, for a while at most: before that a frame is dropped without a word."""
    waiting = [(namespaces.inner, inner) for inner, _ in ends]
    waiting += [(namespaces.host, outer) for _, outer in ends if outer is not None]
    for _ in range(_TRIES):
        waiting = [(rtnl, index) for rtnl, index in waiting if not _operational(rtnl, link, index)]
        if not waiting:
            return
        _sleep_a_millisecond()


def _operational(rtnl: wire.Rtnl, link: bytes, index: bytes) -> bool:
    (reply,) = rtnl.request([link[:_AT_INDEX] + index + link[_AT_INDEX + 4 :]])
    if reply.errno or not reply.messages:
        return True  # gone: nothing to wait for
    state = wire.find_attr(reply.messages[0], _LINK_ATTRS, (_IFLA_OPERSTATE,))
    qdisc = wire.find_attr(reply.messages[0], _LINK_ATTRS, (_IFLA_QDISC,))
    return state == bytes([_IF_OPER_UP]) and qdisc != b"noop\0"


def _sleep_a_millisecond() -> None:
    import time  # noqa: PLC0415 - builtin, and seldom needed

    time.sleep(0.001)


def _log(log: int | None, text: str) -> None:
    """Write a warning to the log file, and to the system's log."""
    line = errors.line("warning: ", text).encode("utf-8", "backslashreplace")
    if log is not None:
        posix.write(log, line + b"\n")
    try:
        syslog = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        syslog.sendto(b"<28>" + line, "/dev/log")
    except OSError:
        pass
