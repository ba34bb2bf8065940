"""Inputs of bytes: CRIU's images, made with a writer of our own, what runtimes keep of containers, and programs."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from . import trees
from .source import Source

COMMON, NETDEV, NETNS = 0x54564319, 0x57373951, 0x55933752
ADDRESSES, ROUTES = 0x47361222, 0x45311224
NAMES = (
    "inventory.img", "netdev-10.img", "netns-10.img", "ifaddr-10.img", "route-10.img", "route6-10.img", "ids-1.img",
    "files.img", "netdev-11.img", "netns-9.img", "ids-2.img", "netdev-.img", "netdev-x.img", "netdev-010.img",
    "netdev-99999999999999999999.img", "netdev-\u0661.img", "ids-.img", "ifaddr-.img",
)  # fmt: skip


def varint(value: int) -> bytes:
    """Encode a number as protobuf does; a negative one as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(fields: Sequence[tuple[int, int | bytes]]) -> bytes:
    """Encode a protobuf message: numbers as varints, bytes with their length."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            out += varint(number << 3) + varint(value)
    return out


def image(magic: int | None, *messages: bytes) -> bytes:
    """Frame messages as CRIU does."""
    numbers = struct.pack("<I", COMMON) + (struct.pack("<I", magic) if magic is not None else b"")
    return numbers + b"".join(struct.pack("<I", len(one)) + one for one in messages)


def attr(number: int, payload: bytes) -> bytes:
    """Encode a netlink attribute."""
    data = struct.pack("<HH", 4 + len(payload) & 0xFFFF, number) + payload
    return data + bytes(-len(data) % 4)


def dump(magic: int, kind: int, bodies: Sequence[bytes]) -> bytes:
    """Write messages as ``ip ... save`` does."""
    return struct.pack("<I", magic) + b"".join(
        struct.pack("<IHHII", 16 + len(body), kind, 2, 1, 1) + body for body in bodies
    )


class Imager:
    """Makes the files of an image directory, most of which are nearly right."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._wild = source.choice((4, 12, 50))

    def _number(self, usual: int) -> int:
        return self._source.integer() & ((1 << 64) - 1) if self._source.one_in(self._wild) else usual

    def _bytes(self, usual: bytes) -> bytes:
        source = self._source
        if not source.one_in(self._wild):
            return usual
        return source.choice((b"", source.randbytes(3), source.text().encode("utf-8", "surrogatepass"), usual * 3))

    def netdev(self) -> bytes:
        """Return a ``netdev`` image."""
        devices = []
        for index in range(1, 1 + self._source.randrange(4)):
            values: dict[int, int | bytes] = {
                1: 2,
                2: index,
                3: 1500,
                4: 0x11043,
                5: b"eth%d" % index,
                7: b"\2\0\0\0\0\1",
            }
            values |= {12: 7, 13: 10, 14: 0}
            fields: list[tuple[int, int | bytes]] = []
            for number, value in values.items():
                if self._source.one_in(self._wild):
                    continue
                fields.append((number, self._bytes(value) if isinstance(value, bytes) else self._number(value)))
            devices.append(message(fields))
        return image(NETDEV, *devices)

    def netns(self) -> bytes:
        """Return a ``netns`` image."""
        return image(NETNS, message([(1, self._number(1)), (8, self._bytes(b"key"))] if self._source.one_in(2) else []))

    def addresses(self) -> bytes:
        """Return an ``ifaddr`` image."""
        bodies = []
        for _ in range(self._source.randrange(4)):
            family, packed = self._source.choice(((2, b"\x0a\0\0\2"), (10, b"\xfe\x80" + bytes(13) + b"\1")))
            head = struct.pack("<BBBBI", family, self._number(24) & 255, 0, 0, self._number(2) & 0xFFFFFFFF)
            bodies.append(head + attr(self._source.choice((1, 2, 2, 3)), self._bytes(packed)))
        return dump(ADDRESSES, self._source.choice((20, 20, 20, 24)), bodies)

    def routes(self) -> bytes:
        """Return a ``route`` image."""
        bodies = []
        for _ in range(self._source.randrange(4)):
            family, packed = self._source.choice(((2, b"\x0a\0\0\2"), (10, bytes(16))))
            head = struct.pack("<BBBBBBBBI", family, self._number(24) & 255, 0, 0, 254, 3, 0, self._number(1) & 255, 0)
            attrs = b"".join(
                attr(number, self._bytes(packed if number in (1, 5, 7) else struct.pack("<I", 2)))
                for number in (1, 4, 5, 6, 7, 15)
                if self._source.randrange(3)
            )
            bodies.append(head + attrs)
        return dump(ROUTES, self._source.choice((24, 24, 24, 20)), bodies)

    def inventory(self) -> bytes:
        """Return an ``inventory`` image."""
        ids = message([(number, self._number(number)) for number in range(1, 9)])
        return image(None, message([(1, self._number(2)), (3, self._bytes(ids))]))

    def ids(self) -> bytes:
        """Return an ``ids`` image."""
        return image(0x54432030, message([(number, self._number(number)) for number in range(1, 9)]))

    def files(self) -> bytes:
        """Return something for ``files.img``."""
        return b"\x58\xfe\x81\x02\x58\x00" if self._source.one_in(2) else self._source.randbytes(20)


_MAKERS = {
    "netdev": Imager.netdev, "netns": Imager.netns, "ifaddr": Imager.addresses, "route": Imager.routes,
    "route6": Imager.routes, "inventory.img": Imager.inventory, "ids": Imager.ids, "files.img": Imager.files,
}  # fmt: skip


def image_files(source: Source, valid: dict[str, bytes]) -> dict[str, bytes]:
    """Make the files of an image directory: real ones, damaged ones, and ones of our own making."""
    made = Imager(source)
    names = [*NAMES[:7], *(source.choice(NAMES) for _ in range(source.randrange(3)))]
    files = {}
    for name in names:
        how = source.randrange(6)
        real = valid.get(name, b"")
        if how == 0:
            continue
        if how < 3 and real:
            files[name] = real if how == 1 else source.damaged(real, list(valid.values()))
        else:
            files[name] = _MAKERS[name.partition("-")[0]](made)
            if source.one_in(8):
                files[name] = source.damaged(files[name])
    return files


#: What runtimes keep of a container, by the file's name.
KEPT: dict[str, Any] = {
    "state.json": {"id": "c1", "init_process_pid": 7, "config": {"labels": ["bundle=/x", "org.criu-veth.name=web"]}},
    "status": {"pid": 7, "bundle": "/x", "systemd-cgroup": False},
    "config.json": {"annotations": {"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.sandbox-name": "pod",
                                    "io.kubernetes.cri.sandbox-namespace": "ns"}},
    "containers.json": [{"id": "a" * 64, "names": ["web", "front"]}],
    "config.v2.json": {"Name": "/web"},
    "cgroup": "0::/machine.slice/libpod-" + "a" * 64 + ".scope\n",
    "stat": "7 (a b) S 3 7 7 0 -1\n",
    "cmdline": "[lxc monitor] /var/lib/lxc web\0",
}  # fmt: skip


def kept_files(source: Source) -> dict[str, bytes]:
    """Make what a runtime keeps of a container, some of it damaged."""
    files = {}
    for name, usual in KEPT.items():
        how = source.randrange(4)
        data = usual.encode() if isinstance(usual, str) else json.dumps(usual).encode()
        if how == 0 and not isinstance(usual, str):
            data = trees.to_json(trees.damage(source, usual))
        elif how == 1:
            data = source.damaged(data)
        files[name] = data
    return files
