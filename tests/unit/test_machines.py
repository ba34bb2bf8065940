"""Machines with another byte order, and other numbers, than the one that runs the tests."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from criu_veth import execute, way, wire

ROOT = Path(__file__).parents[2]
#: Everything in the order of a machine of the other kind, which is told by `sys.byteorder` alone.
OTHER = """import json, sys
sys.byteorder = sys.argv[2]
sys.path.insert(0, sys.argv[1])
from criu_veth import way, wire
message = wire.message(16, 0x600, bytes(16) + wire.put_attr(3, b"eth0"))
found = wire.find_attr(message, 32, (3,)).decode()
print(json.dumps([
    message.hex(), found, wire.get_u32(message, 0), wire.get_s32(wire.u32(0xFFFFFFFE)),
    way.images_need_ipv6(sys.argv[3]), way.images_share_netns(sys.argv[3]), way.images_have_external_netns(sys.argv[3]),
]))
"""
ORDERS = {"little": "<", "big": ">"}


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def image(order: str, message: bytes, magic: int = 0x54564319) -> bytes:
    return struct.pack(order + "III", magic, 0x12345678, len(message)) + message


@pytest.mark.parametrize("order", ORDERS)
def test_a_socket_that_is_bound_to_a_link_local_address(order: str) -> None:
    word = struct.unpack(ORDERS[order] + "I", b"\xfe\x80\0\0")[0]
    expected = b"\x58" + varint(word) + b"\x58\0"
    assert way.bound_to_link_local(order) == expected  # type: ignore[arg-type]
    assert expected.hex() == {"little": "58fe81025800", "big": "58808080f40f5800"}[order]


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_images_and_messages_of_a_machine(tmp_path: Path, order: str, bound: bool) -> None:
    sign = ORDERS[order]
    root_ids = varint(3 << 3 | 2) + varint(2) + varint(6 << 3) + varint(9)
    (tmp_path / "inventory.img").write_bytes(struct.pack(sign + "II", 0x58313116, len(root_ids)) + root_ids)
    (tmp_path / "ids-1.img").write_bytes(image(sign, varint(6 << 3) + varint(9)))
    address = bytes.fromhex("fe800000000000000000000000000001")
    attribute = struct.pack(sign + "HH", 20, 1) + address
    header = struct.pack(sign + "IHHII", 24 + len(attribute), 20, 2, 1, 1) + bytes([10, 64, 0, 253]) + bytes(4)
    (tmp_path / "ifaddr-9.img").write_bytes(bytes(4) + header + attribute)
    word = struct.unpack(sign + "I", address[:4])[0]
    socket = b"\x58" + varint(word) + b"\x58\0" if bound else b"\x58\0\x58\0"
    (tmp_path / "files.img").write_bytes(image(sign, socket))

    argv = [sys.executable, "-I", "-S", "-c", OTHER, str(ROOT), order, str(tmp_path)]
    found = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    message = struct.pack(sign + "IHHII", 40, 16, 0x600, 0, 0) + bytes(16)
    message += struct.pack(sign + "HH", 8, 3) + b"eth0"
    assert found == [message.hex(), "eth0", 40, -2, bound, True, False]


def test_the_errnos_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """99 is EADDRNOTAVAIL on most, 126 where Linux runs on MIPS."""
    executor = execute.Executor(wire.Namespaces(None), 0, None)
    names = ("EADDRNOTAVAIL", "ESRCH", "ENOENT")
    assert all(executor._is_undone(getattr(errno, name)) for name in names)
    monkeypatch.setattr(errno, "EADDRNOTAVAIL", 126)
    assert executor._is_undone(126)
    assert not executor._is_undone(99)
    assert not executor._is_undone(errno.ENODEV), "only where an answer was lost"
