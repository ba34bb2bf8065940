"""Netlink framing: requests out in batches, replies and acknowledgements in.

Messages are opaque here apart from ``struct nlmsghdr`` and ``struct nlattr`` (``linux/netlink.h``). This module runs in
the frozen window, so it imports only `_socket`: `struct` would cost half a millisecond and `socket` four.
"""

import _socket
import posix
import sys

Buffer = bytes | bytearray | memoryview

ORDER = sys.byteorder
HEADER = 16  # struct nlmsghdr
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLA_F_NESTED = 0x8000
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLM_F_DUMP_INTR = 0x10
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_SO_RCVBUFFORCE = 33
_NETLINK_GENERIC = 16
_CLONE_NEWNET = 0x40000000

#: Group of a device that this project has made for CRIU to move, until it has been: "cvth".
MARK_GROUP = 0x63767468

#: Requests sent before their replies are read. An acknowledgement takes about 1 KiB of the receive buffer (skb
#: truesize), a link about 4 KiB.
BATCH = 128
_RECEIVE_BUFFER = 1 << 20
_DUMP_TRIES = 5


class Reply:
    """What the kernel answered to one request: ``errno`` (0: done), ``detail`` (its own words) and ``messages``."""

    __slots__ = ("detail", "errno", "messages")

    def __init__(self) -> None:
        self.errno = 0
        self.detail = ""
        self.messages: list[bytes] = []


def get_u16(data: Buffer, offset: int) -> int:
    """Read an unsigned 16-bit integer in host order."""
    return int.from_bytes(data[offset : offset + 2], ORDER)


def get_u32(data: Buffer, offset: int) -> int:
    """Read an unsigned 32-bit integer in host order."""
    return int.from_bytes(data[offset : offset + 4], ORDER)


def get_s32(data: Buffer, offset: int = 0) -> int:
    """Read a signed 32-bit integer in host order."""
    return int.from_bytes(data[offset : offset + 4], ORDER, signed=True)


def u32(value: int) -> bytes:
    """Encode an unsigned 32-bit integer in host order."""
    return value.to_bytes(4, ORDER)


def find_attr(data: Buffer, offset: int, path: tuple[int, ...]) -> bytes | None:
    """Return the payload of the attribute that ``path`` (attribute types, outermost first) leads to, or None.

    ``offset`` is where the first attribute starts: nlmsghdr and the family's own header are skipped.
    """
    end = len(data)
    for wanted in path:
        while offset + 4 <= end:
            length = get_u16(data, offset)
            if length < 4:
                return None
            if get_u16(data, offset + 2) & 0x3FFF == wanted:
                end = min(end, offset + length)
                offset += 4
                break
            offset += (length + 3) & ~3
        else:
            return None
    return bytes(data[offset:end])


def attrs(data: Buffer, offset: int) -> "list[tuple[int, bytes]]":
    """Return all attributes from ``offset`` on, as (type, payload)."""
    found = []
    while offset + 4 <= len(data):
        length = get_u16(data, offset)
        if length < 4:
            break
        found.append((get_u16(data, offset + 2) & 0x3FFF, bytes(data[offset + 4 : offset + length])))
        offset += (length + 3) & ~3
    return found


def put_attr(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    length = 4 + len(payload)
    return length.to_bytes(2, ORDER) + kind.to_bytes(2, ORDER) + payload + bytes(-length % 4)


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Return a message of this type: nlmsghdr and ``body``, which starts with the family's own header."""
    header = u32(HEADER + len(body)) + kind.to_bytes(2, ORDER) + flags.to_bytes(2, ORDER) + bytes(8)
    return header + body


class Rtnl:
    """A routing netlink socket of the network namespace in which it was made."""

    def __init__(self, protocol: int = 0) -> None:
        self._socket = _socket.socket(16, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)  # AF_NETLINK
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def strict(self) -> None:
        """Have the kernel apply the filters in dump requests (NETLINK_GET_STRICT_CHK) instead of ignoring them."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def request(self, messages: "list[bytes]") -> list[Reply]:
        """Send requests, each with NLM_F_ACK set here, and return one Reply each, in order.

        The kernel works through a batch to its end, also past a request that fails.
        """
        replies: list[Reply] = []
        for start in range(0, len(messages), BATCH):
            replies += self._request_batch(messages[start : start + BATCH])
        return replies

    def _request_batch(self, messages: "list[bytes]") -> list[Reply]:
        first = self._sequence + 1
        out = bytearray()
        for message in messages:
            self._append(out, message, NLM_F_REQUEST | NLM_F_ACK)
        self._socket.send(out)
        replies = [Reply() for _ in messages]
        waiting = len(messages)
        while waiting:
            for kind, flags, sequence, message in self._receive():
                index = sequence - first
                if not 0 <= index < len(replies):
                    continue
                if kind == NLMSG_ERROR:
                    _read_error(message, flags, replies[index])
                    waiting -= 1
                else:
                    replies[index].messages.append(message)
        return replies

    def _append(self, out: bytearray, message: bytes, flags: int) -> None:
        """Append a message to a batch, with the next sequence number and these flags beside its own."""
        self._sequence += 1
        at = len(out)
        out += message
        out[at + 6 : at + 8] = (get_u16(message, 6) | flags).to_bytes(2, ORDER)
        out[at + 8 : at + 12] = u32(self._sequence)
        out += bytes(-len(out) % 4)

    def transaction(self, begin: bytes, messages: "list[bytes]", end: bytes) -> list[Reply]:
        """Send requests that are done all together or not at all, and return one Reply each.

        ``begin`` and ``end`` are what the subsystem puts around them (``linux/netfilter/nfnetlink.h``); the kernel
        answers ``begin`` only if it refuses the whole, which is then what every reply says.
        """
        first = self._sequence + 1
        out = bytearray()
        self._append(out, begin, NLM_F_REQUEST)
        for message in messages:
            self._append(out, message, NLM_F_REQUEST | NLM_F_ACK)
        self._append(out, end, NLM_F_REQUEST)
        self._socket.send(out)
        replies = [Reply() for _ in messages]
        waiting = len(messages)
        while waiting:
            for kind, flags, sequence, message in self._receive():
                index = sequence - first - 1
                if kind != NLMSG_ERROR or not -1 <= index < len(replies):
                    continue
                if index < 0:
                    for reply in replies:
                        _read_error(message, flags, reply)
                    return replies
                _read_error(message, flags, replies[index])
                waiting -= 1
        return replies

    def dump(self, message: bytes) -> list[bytes]:
        """Send a dump request and return its messages; an inconsistent dump is repeated.

        Raises OSError with the kernel's errno.
        """
        messages, interrupted = self._dump_once(message)
        for _ in range(_DUMP_TRIES):
            if not interrupted:
                break
            messages, interrupted = self._dump_once(message)
        return messages

    def _dump_once(self, message: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        out = bytearray(message)
        out[6:8] = (get_u16(message, 6) | NLM_F_REQUEST | NLM_F_DUMP).to_bytes(2, ORDER)
        out[8:12] = u32(self._sequence)
        self._socket.send(out)
        messages: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, part in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    number = -get_s32(part, HEADER) if len(part) >= HEADER + 4 else 0
                    if number:
                        raise OSError(number, posix.strerror(number))
                    return messages, interrupted
                messages.append(part)

    def _receive(self) -> "list[tuple[int, int, int, bytes]]":
        data = self._socket.recv(1 << 18)
        found = []
        offset = 0
        while offset + HEADER <= len(data):
            length = get_u32(data, offset)
            part = data[offset : offset + length]
            found.append((get_u16(part, 4), get_u16(part, 6), get_u32(part, 8), part))
            offset += (length + 3) & ~3
        return found


def _read_error(message: bytes, flags: int, reply: Reply) -> None:
    reply.errno = -get_s32(message, HEADER)
    if flags & _NLM_F_ACK_TLVS:
        original = HEADER if flags & _NLM_F_CAPPED else get_u32(message, HEADER + 4)
        text = find_attr(message, HEADER + 4 + ((original + 3) & ~3), (_NLMSGERR_ATTR_MSG,))
        if text:
            reply.detail = text.rstrip(b"\0").decode("utf-8", "replace")


def socket_of(descriptor: int) -> "_socket.socket":
    """Return the socket that a descriptor is of, which is closed with it."""
    return _socket.socket(fileno=descriptor)


def enter_netns(fd: int) -> None:
    """Move this thread into the network namespace of the open file ``fd``.

    Raises OSError.
    """
    if hasattr(posix, "setns"):  # Python 3.12
        posix.setns(fd, _CLONE_NEWNET)
        return
    import _ctypes  # noqa: PLC0415 - ctypes itself would take 2 ms

    program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type] # None: this program itself
    address = _ctypes.dlsym(program, "setns")
    if _ctypes.call_function(address, (fd, _CLONE_NEWNET)) != 0:
        raise PermissionError(1, "setns() was refused: CAP_SYS_ADMIN is needed in both namespaces")


class Namespaces:
    """Routing netlink sockets of the host's network namespace and of the container's, each made when first used.

    ``inner_path`` is ``/proc/PID/ns/net`` of the container, or None where there is none yet; ``descriptor`` one that is
    closed with the sockets.
    """

    def __init__(self, inner_path: str | None, descriptor: int | None = None) -> None:
        self._inner_path = inner_path
        self._descriptor = descriptor
        self._others: list[Namespaces] = []
        self._host: Rtnl | None = None
        self._inner: Rtnl | None = None
        self._generic: dict[bool, Rtnl] = {}

    @property
    def host(self) -> Rtnl:
        """The socket of the namespace in which this process runs."""
        if self._host is None:
            self._host = Rtnl()
        return self._host

    @property
    def inner(self) -> Rtnl:
        """The socket of the container's namespace."""
        if self._inner is None:
            with self.inside():
                self._inner = Rtnl()
        return self._inner

    def generic(self, *, inner: bool) -> Rtnl:
        """Return the generic netlink socket of one of the two namespaces."""
        if inner not in self._generic:
            if inner:
                with self.inside():
                    self._generic[inner] = Rtnl(_NETLINK_GENERIC)
            else:
                self._generic[inner] = Rtnl(_NETLINK_GENERIC)
        return self._generic[inner]

    def inside(self) -> "Inside":
        """Return a context in which this thread is in the container's network namespace."""
        if self._inner_path is None:
            raise ValueError("there is no container network namespace at this action")
        return Inside(self._inner_path)

    def keep(self, other: "Namespaces") -> None:
        """Have those of another network namespace of the same container closed with these."""
        self._others.append(other)

    def close(self) -> None:
        """Close all sockets; one that is used again is made anew."""
        for other in self._others:
            other.close()
        if self._descriptor is not None:
            posix.close(self._descriptor)
        self._others, self._descriptor = [], None
        for rtnl in (self._host, self._inner, *self._generic.values()):
            if rtnl is not None:
                rtnl.close()
        self._host = self._inner = None
        self._generic = {}


class Inside:
    """Context manager: this thread in the network namespace at ``path``, and back again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._home = -1

    def __enter__(self) -> None:
        self._home = posix.open("/proc/thread-self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
        target = -1
        try:
            target = posix.open(self._path, posix.O_RDONLY | posix.O_CLOEXEC)
            enter_netns(target)
        except BaseException:
            posix.close(self._home)
            raise
        finally:
            if target >= 0:
                posix.close(target)

    def __exit__(self, *_: object) -> None:
        enter_netns(self._home)
        posix.close(self._home)
