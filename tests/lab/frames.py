"""Frames as they pass a device of a lab host."""

from __future__ import annotations

import ctypes
import socket
import struct
from types import TracebackType
from typing import Self

from .host import Host

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_AUXDATA = struct.Struct("IIIHHHH")  # struct tpacket_auxdata
_TP_STATUS_VLAN_VALID = 1 << 4

# The kernel's classic packet filter (code, jump if true, jump if false, operand), for TCP segments with RST, over IPv4
# and over IPv6 without extension headers.
RESETS = (
    (0x28, 0, 0, 12),  # load the protocol
    (0x15, 0, 5, 0x0800),
    (0x30, 0, 0, 23),
    (0x15, 0, 9, socket.IPPROTO_TCP),
    (0xB1, 0, 0, 14),  # the length of the IPv4 header
    (0x50, 0, 0, 27),
    (0x45, 5, 6, 0x04),
    (0x15, 0, 5, 0x86DD),
    (0x30, 0, 0, 20),
    (0x15, 0, 3, socket.IPPROTO_TCP),
    (0x30, 0, 0, 67),
    (0x45, 0, 1, 0x04),
    (0x06, 0, 0, 0xFFFF),  # take it
    (0x06, 0, 0, 0),
)


class Tap:
    """A packet socket on one device of `host`: what comes in there and what goes out, from now on.

    The kernel keeps a VLAN tag beside the frame; here it is put back to where it is on the wire.
    """

    def __init__(self, host: Host, ifname: str, program: tuple[tuple[int, int, int, int], ...] = ()) -> None:
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        if program:
            code = b"".join(struct.pack("HBBI", *line) for line in program)
            buffer = ctypes.create_string_buffer(code)
            self._socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(buffer))
            )
        self._socket.bind((ifname, _ETH_P_ALL))
        self.frames: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def read(self) -> list[bytes]:
        """Return all frames that have passed, each once however often this is called."""
        while True:
            try:
                frame, beside, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(_AUXDATA.size))
            except BlockingIOError:
                return self.frames
            self.frames.append(frame[:12] + _tag(beside) + frame[12:])

    def sent_by(self, mac: str) -> list[bytes]:
        """The frames that came from this MAC address."""
        source = bytes.fromhex(mac.replace(":", ""))
        return [frame for frame in self.read() if frame[6:12] == source]


def _tag(beside: list[tuple[int, int, bytes]]) -> bytes:
    """The VLAN tag in a frame's control messages, four bytes or none."""
    for _, _, data in beside:
        status, *_, tci, tpid = _AUXDATA.unpack(data[: _AUXDATA.size])
        if status & _TP_STATUS_VLAN_VALID:
            return struct.pack("!HH", tpid, tci)
    return b""
