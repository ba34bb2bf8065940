"""Netlink framing: requests out in batches, replies and acknowledgements in.

Messages are opaque here apart from ``struct nlmsghdr`` and ``struct nlattr`` (``linux/netlink.h``). This module runs in
the frozen window, so it imports only `_socket`: `struct` would cost half a millisecond and `socket` four.

What comes from anybody but the kernel is not believed: root in a container's user namespace may write to every socket
in the container's network namespace (``netlink_sendmsg()``, net/netlink/af_netlink.c).
"""

import _socket
import _thread
import posix
import sys

from criu_veth import errors

Buffer = bytes | bytearray | memoryview
TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Callable, Iterator

    Take = Callable[[bytes], object]
    Part = tuple[int, int, int, bytes, bool]

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
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SO_SNDBUFFORCE_ON_MIPS = 31
_NETLINK_GENERIC = 16
_CLONE_NEWNET = 0x40000000

#: Group of a device that this project has made for CRIU to move, until it has been: "cvth".
MARK_GROUP = 0x63767468

#: Requests sent before their replies are read, and so many bytes of them: the kernel copies a batch in one piece, and
#: refuses one that is larger than the socket's send buffer.
BATCH, BATCH_BYTES = 128, 1 << 16
#: What fits into any send buffer (half of SOCK_MIN_SNDBUF, ``net/sock.h``), and what is taken off one
#: (``netlink_sendmsg()``).
_ALWAYS_FITS, _SEND_RESERVE = 2048, 32
#: The kernel doubles it. Each reply that waits takes some of it: an acknowledgement about 1 KiB (skb truesize), a link
#: with all its attributes up to 8 KiB.
_RECEIVE_BUFFER, _REPLY_ROOM = 1 << 20, 8192
#: A datagram may be as large as this; where one is larger, it is asked for again with more room, up to the limit. A
#: dump comes in pieces of 32 KiB, but for a device with hundreds of virtual functions (``rtnl_calcit()``).
_DATAGRAM, _LARGEST_DATAGRAM = 1 << 16, 16 << 20
#: So often is a list read that changes meanwhile.
DUMP_TRIES = 10
_MSG_TRUNC, _MSG_DONTWAIT = 0x20, 0x40
_LOST = "its answer was lost, and whether it was done is not known"
_NOT_SENT = "it was not sent"


class Reply:
    """What the kernel answered to one request: ``errno`` (0: done), ``detail`` (its own words) and ``messages``.

    With ``lost`` it was sent and the answer did not come: it may have been done. ``errno`` says why.
    """

    __slots__ = ("detail", "errno", "lost", "messages")

    def __init__(self, number: int = 0, detail: str = "") -> None:
        self.errno = number
        self.detail = detail
        self.lost = False
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
    """A netlink socket (of routing, by default) of the network namespace in which it was made.

    It is connected to the kernel, which then refuses what others send to it; what they had sent before that has the
    sender's number on it (``netlink_getsockbyportid()``, ``netlink_recvmsg()``).
    """

    def __init__(self, protocol: int = 0) -> None:
        self._socket = _socket.socket(16, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)  # AF_NETLINK
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._most = BATCH
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except OSError:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _RECEIVE_BUFFER)
            room = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF)
            self._most = max(1, min(BATCH, room // _REPLY_ROOM))
        self._socket.connect((0, 0))
        self._sequence = 0
        self._datagram = _DATAGRAM

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def strict(self) -> None:
        """Have the kernel apply the filters in dump requests (NETLINK_GET_STRICT_CHK) instead of ignoring them."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def request(self, messages: "list[bytes]") -> list[Reply]:
        """Send requests, each with NLM_F_ACK set here, and return one Reply each, in order.

        The kernel works through a batch to its end, also past a request that fails. Raises OSError if none could be
        sent. Once one has been, it is the replies that say what went wrong: what is `lost` may have been done, and
        after that nothing more is sent.
        """
        replies: list[Reply] = []
        number = 0
        for batch in self._batches(messages):
            try:
                replies += self._request_batch(batch)
            except OSError as error:
                if not replies:
                    raise
                number = error.errno or 0
                break
            if replies[-1].lost:
                number = replies[-1].errno
                break
        return replies + [Reply(number, _NOT_SENT) for _ in messages[len(replies) :]]

    def _batches(self, messages: "list[bytes]") -> "list[list[bytes]]":
        """Cut requests into batches; one that is larger than a batch may be is alone."""
        total = sum(map(len, messages))
        if total <= _ALWAYS_FITS and len(messages) <= self._most:
            return [messages] if messages else []
        room = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF) - _SEND_RESERVE
        bound, size = min(BATCH_BYTES, room), 0
        batches: list[list[bytes]] = [[]]
        for message in messages:
            length = (len(message) + 3) & ~3
            if batches[-1] and (size + length > bound or len(batches[-1]) >= self._most):
                batches.append([])
                size = 0
            batches[-1].append(message)
            size += length
        return batches

    def _request_batch(self, messages: "list[bytes]") -> list[Reply]:
        first = self._sequence + 1
        out = bytearray()
        for message in messages:
            self._append(out, message, NLM_F_REQUEST | NLM_F_ACK)
        self._send(out)
        replies = [Reply() for _ in messages]
        for index in self._answer(first, replies):  # only what is asked for is large, and may be asked for again
            (replies[index],) = self._request_batch([messages[index]])
        return replies

    def _answer(self, first: int, replies: "list[Reply]") -> "set[int]":
        """Read the answers to requests, the ``first`` of which has this number; return whose are too large."""
        waiting = set(range(len(replies)))
        cut = set()
        for kind, flags, sequence, message, whole in self._answers(waiting, replies):
            index = sequence - first
            if index not in waiting:
                continue
            if kind == NLMSG_ERROR:
                _read_error(message, flags, replies[index])
                waiting.remove(index)
            elif whole:
                replies[index].messages.append(message)
            else:
                cut.add(index)
        return cut

    def _answers(self, waiting: "set[int]", replies: "list[Reply]") -> "Iterator[Part]":
        """Yield what comes until nobody is ``waiting``; the replies of those whose answer is lost say so.

        When the receive buffer is full, the kernel tells that once, and drops all answers until it has been emptied
        (``netlink_overrun()``). The requests have been done by then: the kernel does them while they are sent.
        """
        try:
            while waiting:
                yield from self._receive()
        except OSError as error:
            try:
                while waiting:
                    yield from self._receive(_MSG_DONTWAIT)
            except OSError:  # it is empty
                pass
            for index in waiting:
                replies[index].errno, replies[index].detail, replies[index].lost = error.errno or 0, _LOST, True

    def _append(self, out: bytearray, message: bytes, flags: int) -> None:
        """Append a message to a batch, with the next sequence number and these flags beside its own."""
        self._sequence += 1
        at = len(out)
        out += message
        out[at + 6 : at + 8] = (get_u16(message, 6) | flags).to_bytes(2, ORDER)
        out[at + 8 : at + 12] = u32(self._sequence)
        out += bytes(-len(out) % 4)

    def _send(self, out: bytearray) -> None:
        """Send a batch, in a larger send buffer if it needs one: single requests may be as large as they are."""
        try:
            self._socket.send(out)
        except OSError as error:
            import errno  # noqa: PLC0415 - builtin, but only an error needs it

            if error.errno != errno.EMSGSIZE:
                raise
            on_mips = posix.uname().machine.startswith("mips")
            try:
                option = _SO_SNDBUFFORCE_ON_MIPS if on_mips else _SO_SNDBUFFORCE
                self._socket.setsockopt(_socket.SOL_SOCKET, option, len(out))
            except OSError:
                self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, len(out))
            self._socket.send(out)

    def transaction(self, begin: bytes, messages: "list[bytes]", end: bytes) -> list[Reply]:
        """Send requests that are done all together or not at all, and return one Reply each.

        ``begin`` and ``end`` are what the subsystem puts around them (``linux/netfilter/nfnetlink.h``); the kernel
        answers ``begin`` only if it refuses the whole, which is then what every reply says. Raises OSError.
        """
        first = self._sequence + 1
        out = bytearray()
        self._append(out, begin, NLM_F_REQUEST)
        for message in messages:
            self._append(out, message, NLM_F_REQUEST | NLM_F_ACK)
        self._append(out, end, NLM_F_REQUEST)
        self._send(out)
        replies = [Reply() for _ in messages]
        waiting = set(range(len(messages)))
        while waiting:
            for kind, flags, sequence, message, _ in self._receive():
                index = sequence - first - 1
                if kind == NLMSG_ERROR and index == -1:
                    for reply in replies:
                        _read_error(message, flags, reply)
                    return replies
                if kind == NLMSG_ERROR and index in waiting:
                    _read_error(message, flags, replies[index])
                    waiting.remove(index)
        return replies

    def dump(self, message: bytes) -> list[bytes]:
        """Send a dump request and return its messages; an inconsistent dump is repeated.

        Raises OSError with the kernel's errno, and UnsteadyError if it never was consistent.
        """
        for _ in range(DUMP_TRIES):
            messages: list[bytes] = []
            if self._dump_once(message, messages.append):
                return messages
        raise _unsteady(message)

    def select(self, message: bytes, begin: "Callable[[], Take]") -> None:
        """Do a `dump` whose messages are not kept: what ``begin`` returns gets each as it comes.

        That is called anew where the dump is repeated. Raises what `dump` raises.
        """
        for _ in range(DUMP_TRIES):
            if self._dump_once(message, begin()):
                return
        raise _unsteady(message)

    def _dump_once(self, message: bytes, take: "Take") -> bool:
        """Hand on the messages of one dump; return False if it was interrupted, or one of them did not fit."""
        out = bytearray()
        self._append(out, message, NLM_F_REQUEST | NLM_F_DUMP)
        self._send(out)
        steady = True
        while True:
            for kind, flags, sequence, part, whole in self._receive():
                if sequence != self._sequence:
                    continue
                steady = steady and whole and not flags & _NLM_F_DUMP_INTR
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    number = -get_s32(part, HEADER) if len(part) >= HEADER + 4 else 0
                    if number:
                        raise OSError(number, posix.strerror(number))
                    return steady
                if whole:
                    take(part)

    def _receive(self, flags: int = 0) -> "list[Part]":
        """Return the parts of a datagram: type, flags, sequence number, the message and whether it is whole.

        What the kernel has not sent has none. Raises OSError.
        """
        data, _, about, sender = self._socket.recvmsg(self._datagram, 0, flags)
        if sender[0] != 0:
            return []
        if about & _MSG_TRUNC:
            if self._datagram >= _LARGEST_DATAGRAM:
                import errno  # noqa: PLC0415 - builtin, but only an error needs it

                raise OSError(errno.EMSGSIZE, f"the kernel's answer has more than {_LARGEST_DATAGRAM} bytes")
            self._datagram *= 2
        found = []
        offset = 0
        while offset + HEADER <= len(data):
            length = get_u32(data, offset)
            part = data[offset : offset + length]
            if len(part) < HEADER:
                break
            found.append((get_u16(part, 4), get_u16(part, 6), get_u32(part, 8), part, len(part) == length))
            offset += (length + 3) & ~3
        if about & _MSG_TRUNC and found:  # it may have been cut between two messages
            found[-1] = (*found[-1][:4], False)
        return found


def _unsteady(message: bytes) -> errors.UnsteadyError:
    return errors.UnsteadyError(
        f"the kernel's list (request {get_u16(message, 4)}) changed each of the {DUMP_TRIES} times that it was"
        " read: try again when fewer devices, addresses and routes come and go"
    )


def _read_error(message: bytes, flags: int, reply: Reply) -> None:
    reply.errno = -get_s32(message, HEADER)
    reply.detail = ""
    if flags & _NLM_F_ACK_TLVS:
        original = HEADER if flags & _NLM_F_CAPPED else get_u32(message, HEADER + 4)
        text = find_attr(message, HEADER + 4 + ((original + 3) & ~3), (_NLMSGERR_ATTR_MSG,))
        if text:
            reply.detail = text.rstrip(b"\0").decode("utf-8", "replace")


def socket_of(descriptor: int) -> "_socket.socket":
    """Return the socket that a descriptor is of, which is closed with it."""
    return _socket.socket(fileno=descriptor)


def own_thread() -> int:
    """Return this thread's id: the kernel takes it for a process's where it asks whose network namespace is meant.

    A program's threads may each be in another one (``get_net_ns_by_pid()``, net/core/net_namespace.c).
    """
    return _thread.get_native_id()


def enter_netns(fd: int) -> None:
    """Move this thread into the network namespace of the open file ``fd``.

    Raises OSError.
    """
    if hasattr(posix, "setns"):  # Python 3.12
        posix.setns(fd, _CLONE_NEWNET)
    else:
        _setns(fd, _CLONE_NEWNET)


def _setns(fd: int, kind: int) -> None:
    """Call setns(2), which Python 3.11 has no function for; `ctypes` itself would take 2 ms."""
    import _ctypes  # noqa: PLC0415 - as above

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO

    program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type] # None: this program itself
    if Function(_ctypes.dlsym(program, "setns"))(fd, kind) != 0:
        number = _ctypes.get_errno()
        raise OSError(number, posix.strerror(number))


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

    def open_inner(self) -> int:
        """Return a descriptor of the container's network namespace.

        Raises NamespaceError.
        """
        return open_netns(self.inside().path)

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
    """Context manager: this thread in the network namespace at ``path``, and back again.

    Raises NamespaceError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._home = -1

    def __enter__(self) -> None:
        self._home = open_netns("/proc/thread-self/ns/net")
        target = -1
        try:
            target = open_netns(self.path)
            try:
                enter_netns(target)
            except OSError as error:
                raise errors.no_entry(self.path, error) from None
        except BaseException:
            posix.close(self._home)
            raise
        finally:
            if target >= 0:
                posix.close(target)

    def __exit__(self, *_: object) -> None:
        try:
            enter_netns(self._home)
        except OSError as error:
            raise errors.no_entry("that this began in", error, "cannot go back to") from None
        finally:
            posix.close(self._home)


def open_netns(path: str) -> int:
    """Return a descriptor of the network namespace at ``path``.

    Raises NamespaceError.
    """
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise errors.no_entry(path, error, "cannot open") from None
