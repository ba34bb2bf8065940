"""Netlink framing, with bytes written by hand after linux/netlink.h, and a socket that answers them."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from criu_veth import wire
from criu_veth.errors import UnsteadyError

ERROR, DONE = 2, 3
MULTI, DUMP_INTR, CAPPED, ACK_TLVS = 0x2, 0x10, 0x100, 0x200
TRUNCATED, SO_SNDBUFFORCE = 0x20, 32
LOST = "its answer was lost, and whether it was done is not known"


def message(kind: int, flags: int, sequence: int, payload: bytes = b"") -> bytes:
    """A netlink message, padded to four bytes."""
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload + bytes(-len(payload) % 4)


def attr(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def ack(sequence: int, number: int = 0, *, original: bytes = b"", flags: int = CAPPED, attrs: bytes = b"") -> bytes:
    """NLMSG_ERROR: the errno, the request's header (with its payload unless CAPPED), then attributes."""
    request = struct.pack("=IHHII", 16 + len(original), 18, 5, sequence, 0)
    payload = b"" if flags & CAPPED else original + bytes(-len(original) % 4)
    return message(ERROR, flags, sequence, struct.pack("=i", -number) + request + payload + attrs)


def text(words: str) -> bytes:
    """NLMSGERR_ATTR_MSG, the kernel's own words."""
    return attr(1, words.encode() + b"\0")


class Peer:
    """The kernel's end of the socket: gives the prepared answers, in these portions, and keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        #: What comes, from the kernel; from somebody else if it is a (port, bytes); or how reading fails.
        self.portions: list[bytes | tuple[int, bytes] | OSError] = []
        self.sndbuf = 212992
        self.failing: list[OSError | None] = []

    def send(self, data: bytes) -> int:
        failure = self.failing.pop(0) if self.failing else None
        if failure is not None:
            raise failure
        if len(data) > self.sndbuf - 32:  # netlink_sendmsg()
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        self.sent.append(bytes(data))
        return len(data)

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_SNDBUF)
        return self.sndbuf

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, SO_SNDBUFFORCE)
        self.sndbuf = 2 * value

    def recvmsg(self, size: int, controls: int, flags: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        if flags and not self.portions:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        portion = self.portions.pop(0)
        if isinstance(portion, OSError):
            raise portion
        sender, portion = portion if isinstance(portion, tuple) else (0, portion)
        return portion[:size], [], TRUNCATED if len(portion) > size else 0, (sender, 0)

    def close(self) -> None:
        pass


@pytest.fixture
def rtnl() -> Iterator[wire.Rtnl]:
    """A socket whose kernel is a Peer."""
    made = wire.Rtnl()
    made._socket.close()
    made._socket = Peer()  # type: ignore[assignment]
    yield made
    made.close()


def peer(rtnl: wire.Rtnl) -> Peer:
    assert isinstance(rtnl._socket, Peer)
    return rtnl._socket


def request(kind: int = 18, flags: int = 0, payload: bytes = b"") -> bytes:
    """A request as it lies in a program: without sequence number, NLM_F_REQUEST and NLM_F_ACK."""
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 0, 0) + payload


def test_a_batch_is_one_send_and_each_request_asks_for_its_acknowledgement(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [ack(1) + ack(2)]
    replies = rtnl.request([request(18, 0, b"abcde"), request(16, 0x600, b"wxyz")])
    assert peer(rtnl).sent == [message(18, 0x5, 1, b"abcde") + message(16, 0x605, 2, b"wxyz")]
    assert [(reply.errno, reply.detail, reply.messages) for reply in replies] == [(0, "", []), (0, "", [])]


def test_sequence_numbers_go_on(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [ack(1), ack(2)]
    rtnl.request([request()])
    rtnl.request([request()])
    assert [sent[8:12] for sent in peer(rtnl).sent] == [wire.u32(1), wire.u32(2)]


def test_answers_find_their_requests_in_any_portions(rtnl: wire.Rtnl) -> None:
    link = message(16, 0, 2, b"link")
    peer(rtnl).portions = [ack(1, errno.EEXIST), link + ack(2), ack(3, errno.ENODEV)]
    first, second, third = rtnl.request([request(), request(), request()])
    assert (first.errno, first.messages) == (errno.EEXIST, [])
    assert (second.errno, second.messages) == (0, [link])
    assert (third.errno, third.messages) == (errno.ENODEV, [])


def test_answers_to_nobody_are_passed_over(rtnl: wire.Rtnl) -> None:
    """Such as the rest of an answer whose request was given up."""
    peer(rtnl).portions = [ack(1)]
    rtnl.request([request()])
    peer(rtnl).portions = [ack(1, errno.EIO) + message(16, 0, 0, b"news") + ack(3, errno.EIO) + ack(2)]
    (reply,) = rtnl.request([request()])
    assert (reply.errno, reply.messages) == (0, [])


def test_large_batches_are_cut(rtnl: wire.Rtnl) -> None:
    count = wire.BATCH + 1
    peer(rtnl).portions = [b"".join(ack(n) for n in range(1, count)), ack(count, errno.EBUSY)]
    replies = rtnl.request([request()] * count)
    assert [len(sent) for sent in peer(rtnl).sent] == [16 * wire.BATCH, 16]
    assert [reply.errno for reply in replies] == [0] * wire.BATCH + [errno.EBUSY]


def test_large_requests_are_cut_by_their_bytes(rtnl: wire.Rtnl) -> None:
    """The kernel copies a batch in one piece, and refuses what is larger than the send buffer."""
    sizes = [16, 30000, 30000, 5515, 100, 70000, 16]  # 65535 is padded to 65536
    peer(rtnl).portions = [b"".join(map(ack, batch)) for batch in ([1, 2, 3, 4], [5], [6], [7])]
    replies = rtnl.request([request(18, 0, bytes(size - 16)) for size in sizes])
    assert [len(sent) for sent in peer(rtnl).sent] == [16 + 60000 + 5516, 100, 70000, 16]
    assert [(reply.errno, reply.lost) for reply in replies] == [(0, False)] * 7


def test_batches_are_no_larger_than_the_send_buffer(rtnl: wire.Rtnl) -> None:
    """A host may have set net.core.wmem_default so low; one request that does not fit has it grow."""
    peer(rtnl).sndbuf = 4608
    peer(rtnl).portions = [ack(1), ack(2), ack(3)]
    rtnl.request([request(18, 0, bytes(4000)), request(18, 0, bytes(548)), request(18, 0, bytes(9000))])
    assert [len(sent) for sent in peer(rtnl).sent] == [4016, 564, 9016]
    assert peer(rtnl).sndbuf == 2 * 9016


def test_what_is_not_from_the_kernel_is_passed_over(rtnl: wire.Rtnl) -> None:
    """Root in a container's user namespace knows the port and the next number."""
    peer(rtnl).portions = [(4711, ack(1)), ack(1, errno.ENODEV)]
    (reply,) = rtnl.request([request()])
    assert reply.errno == errno.ENODEV
    done = message(DONE, MULTI, 2, wire.u32(0))
    link = message(16, MULTI, 2, b"link")
    peer(rtnl).portions = [(4711, message(16, MULTI, 2, b"forged") + done), link, (1, done), done]
    assert rtnl.dump(request()) == [link]
    around = [request(16), request(17)]
    peer(rtnl).portions = [(4711, ack(3, errno.EPERM)), (4711, ack(4)), ack(4, errno.ENOENT)]
    (reply,) = rtnl.transaction(around[0], [request(18)], around[1])
    assert reply.errno == errno.ENOENT


def test_an_answer_that_comes_twice_is_no_other_ones_answer(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [ack(1) + ack(1), ack(2, errno.EEXIST)]
    assert [reply.errno for reply in rtnl.request([request()] * 2)] == [0, errno.EEXIST]


def test_lost_answers(rtnl: wire.Rtnl) -> None:
    """The kernel has done it all; what fitted into the receive buffer comes after the error."""
    full = OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
    peer(rtnl).portions = [ack(1), full, ack(2, errno.EEXIST)]
    replies = rtnl.request([request()] * 4)
    assert [(reply.errno, reply.detail, reply.lost) for reply in replies] == [
        (0, "", False),
        (errno.EEXIST, "", False),
        (errno.ENOBUFS, LOST, True),
        (errno.ENOBUFS, LOST, True),
    ]


@pytest.mark.parametrize("how", ["send", "receive"])
def test_a_batch_that_fails_after_another(rtnl: wire.Rtnl, how: str) -> None:
    """What the first has done is known, and the rest is not sent."""
    failure = OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
    first = b"".join(ack(n + 1, errno.EEXIST if n == 3 else 0) for n in range(wire.BATCH))
    peer(rtnl).portions = [first, failure]
    peer(rtnl).failing = [None, failure] if how == "send" else []
    replies = rtnl.request([request()] * (2 * wire.BATCH + 1))
    assert [reply.errno for reply in replies[:5]] == [0, 0, 0, errno.EEXIST, 0]
    not_sent = [(reply.errno, reply.lost) for reply in replies if reply.detail == "it was not sent"]
    lost = [(reply.errno, reply.lost) for reply in replies if reply.detail == LOST]
    count = wire.BATCH + 1 if how == "send" else 1
    assert not_sent == [(errno.ENOBUFS, False)] * count
    assert lost == [(errno.ENOBUFS, True)] * (wire.BATCH + 1 - count)
    assert len(peer(rtnl).sent) == (1 if how == "send" else 2)


def test_the_first_batch_that_cannot_be_sent_is_an_error(rtnl: wire.Rtnl) -> None:
    peer(rtnl).failing = [OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))]
    with pytest.raises(OSError, match="No buffer space available"):
        rtnl.request([request()] * 200)


def test_an_answer_that_does_not_fit_is_asked_for_again(rtnl: wire.Rtnl) -> None:
    long, short = message(16, 0, 1, bytes(100000)), message(16, 0, 2, b"a short one!")
    peer(rtnl).portions = [long, ack(1), short, ack(2), message(16, 0, 3, bytes(100000)), ack(3)]
    first, second = rtnl.request([request(), request()])
    assert [len(found) for found in first.messages] == [16 + 100000]
    assert second.messages == [short]
    assert [sent[8:12] for sent in peer(rtnl).sent] == [wire.u32(1), wire.u32(3)]


def test_a_dump_that_does_not_fit_is_asked_for_again(rtnl: wire.Rtnl) -> None:
    one, two = message(16, MULTI, 1, bytes(40000)), message(16, MULTI, 1, bytes(40000))
    again = [message(16, MULTI, 2, bytes(40000))] * 2
    done = [message(DONE, MULTI, number, wire.u32(0)) for number in (1, 2)]
    peer(rtnl).portions = [one + two, done[0], again[0] + again[1], done[1]]
    assert rtnl.dump(request()) == again


def test_nothing_to_ask(rtnl: wire.Rtnl) -> None:
    assert rtnl.request([]) == []
    assert peer(rtnl).sent == []


@pytest.mark.parametrize("original", [b"", b"abcd", b"abcdefg"])
@pytest.mark.parametrize("capped", [CAPPED, 0])
def test_the_kernels_own_words(rtnl: wire.Rtnl, original: bytes, capped: int) -> None:
    """They follow the request that was refused: all of it, or with NLM_F_CAPPED its header only."""
    attrs = attr(2, wire.u32(28)) + text("mtu less than device minimum")
    peer(rtnl).portions = [ack(1, errno.EINVAL, original=original, flags=capped | ACK_TLVS, attrs=attrs)]
    (reply,) = rtnl.request([request()])
    assert (reply.errno, reply.detail) == (errno.EINVAL, "mtu less than device minimum")


def test_attributes_without_words(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [ack(1, errno.EINVAL, flags=CAPPED | ACK_TLVS, attrs=attr(2, wire.u32(28)))]
    (reply,) = rtnl.request([request()])
    assert (reply.errno, reply.detail) == (errno.EINVAL, "")


def test_words_without_the_flag_are_no_attributes(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [ack(1, errno.EINVAL, original=text("not me"), flags=0)]
    (reply,) = rtnl.request([request()])
    assert (reply.errno, reply.detail) == (errno.EINVAL, "")


def test_words_that_are_not_utf_8(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [ack(1, errno.EINVAL, flags=CAPPED | ACK_TLVS, attrs=attr(1, b"br\xff\0"))]
    (reply,) = rtnl.request([request()])
    assert reply.detail == "br�"


def test_dump_goes_on_until_it_is_done(rtnl: wire.Rtnl) -> None:
    one, two, three = (message(16, MULTI, 1, name) for name in (b"eth0", b"eth1", b"eth2"))
    peer(rtnl).portions = [one + two, three, message(DONE, MULTI, 1, wire.u32(0))]
    assert rtnl.dump(request(18)) == [one, two, three]
    assert peer(rtnl).sent == [message(18, 0x301, 1)]


def test_dump_that_is_refused(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [ack(1, errno.EPERM)]
    with pytest.raises(PermissionError) as raised:
        rtnl.dump(request())
    assert raised.value.errno == errno.EPERM


def test_dump_that_fails_at_its_end(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [message(16, MULTI, 1), message(DONE, MULTI, 1, struct.pack("=i", -errno.ENOMEM))]
    with pytest.raises(OSError, match="Cannot allocate memory"):
        rtnl.dump(request())


def test_dump_that_a_change_ran_into_is_repeated(rtnl: wire.Rtnl) -> None:
    torn = message(16, MULTI | DUMP_INTR, 1, b"torn") + message(DONE, MULTI, 1, wire.u32(0))
    whole = message(16, MULTI, 2, b"good")
    peer(rtnl).portions = [torn, whole + message(DONE, MULTI, 2, wire.u32(0))]
    assert rtnl.dump(request()) == [whole]
    assert len(peer(rtnl).sent) == 2


def test_dump_whose_end_a_change_ran_into_is_repeated(rtnl: wire.Rtnl) -> None:
    peer(rtnl).portions = [
        message(16, MULTI, 1, b"torn") + message(DONE, MULTI | DUMP_INTR, 1, wire.u32(0)),
        message(DONE, MULTI, 2, wire.u32(0)),
    ]
    assert rtnl.dump(request()) == []


def test_dump_that_changes_all_the_time(rtnl: wire.Rtnl) -> None:
    torn = [message(DONE, MULTI | DUMP_INTR, number + 1, wire.u32(0)) for number in range(wire.DUMP_TRIES)]
    peer(rtnl).portions = list(torn)
    with pytest.raises(UnsteadyError) as raised:
        rtnl.dump(request())
    assert raised.value.faults == (
        "the kernel's list (request 18) changed each of the 10 times that it was read: try again when fewer devices,"
        " addresses and routes come and go",
    )
    assert isinstance(raised.value, OSError), "for those who can do without"
    assert len(peer(rtnl).sent) == 10


def test_attributes_are_found_by_their_path() -> None:
    nested = attr(1, b"veth\0") + attr(2, b"\1\2\3")
    data = b"head" + attr(3, b"eth0\0") + attr(18 | 0x8000, nested) + attr(4, wire.u32(1500))
    assert wire.find_attr(data, 4, (3,)) == b"eth0\0"
    assert wire.find_attr(data, 4, (18, 1)) == b"veth\0"
    assert wire.find_attr(data, 4, (18, 2)) == b"\1\2\3"
    assert wire.find_attr(data, 4, (4,)) == wire.u32(1500)
    assert wire.find_attr(data, 4, (18, 4)) is None, "not the one that follows the nest"
    assert wire.find_attr(data, 4, (5,)) is None
    assert wire.find_attr(data, 4, (18, 5)) is None
    assert wire.find_attr(b"", 0, (1,)) is None


@pytest.mark.parametrize("data", [b"\0\0\3\0rest", b"\3\0\3\0", b"\4\0", attr(1, b"")[:3]])
def test_damaged_attributes_end_the_search(data: bytes) -> None:
    assert wire.find_attr(data, 0, (3,)) is None


@pytest.mark.parametrize("payload", [b"", b"a", b"abc", b"abcd", b"abcde"])
def test_attributes_are_padded(payload: bytes) -> None:
    assert wire.put_attr(7, payload) == attr(7, payload)
    assert wire.find_attr(wire.put_attr(7, payload), 0, (7,)) == payload


def test_integers_are_in_host_order() -> None:
    data = struct.pack("=BHIi", 0, 0x1234, 0x89ABCDEF, -2)
    assert wire.get_u16(data, 1) == 0x1234
    assert wire.get_u32(data, 3) == 0x89ABCDEF
    assert wire.get_s32(data, 7) == -2
    assert wire.u32(0x89ABCDEF) == struct.pack("=I", 0x89ABCDEF)


def test_numbers_are_those_of_the_headers() -> None:
    """`_socket` alone has no names for them."""
    assert socket.AF_NETLINK == 16
    sock = wire.Rtnl()
    try:
        assert sock._socket.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_NETLINK
        assert sock._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == 0
        assert sock._socket.getsockname()[0] != 0, "bound"
    finally:
        sock.close()


def test_nobody_else_has_a_netlink_socket() -> None:
    """What is checked of the kernel's answers is checked here."""
    package = Path(wire.__file__).parent
    others = [path for path in package.rglob("*.py") if path.name != "wire.py"]
    assert len(others) > 50
    assert [
        path.name for path in others if re.search(r"AF_NETLINK|socket\(16|IPRoute|NetlinkSocket", path.read_text())
    ] == []


def test_no_container_yet() -> None:
    with pytest.raises(ValueError, match="there is no container network namespace at this action"):
        wire.Namespaces(None).inside()
