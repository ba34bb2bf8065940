"""Netlink framing, with bytes written by hand after linux/netlink.h, and a socket that answers them."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from criu_veth import wire

ERROR, DONE = 2, 3
MULTI, DUMP_INTR, CAPPED, ACK_TLVS = 0x2, 0x10, 0x100, 0x200


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
        self.portions: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def recv(self, size: int) -> bytes:
        portion = self.portions.pop(0)
        assert len(portion) <= size
        return portion

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


def test_no_container_yet() -> None:
    with pytest.raises(ValueError, match="there is no container network namespace at this action"):
        wire.Namespaces(None).inside()
