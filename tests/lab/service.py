"""``criu service``, the daemon, and a client of it: what is needed of its protocol (images/rpc.proto)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .container import ROOT
from .criu import Criu
from .host import Host
from .waiting import scaled, wait_for

DUMP, RESTORE = 1, 2
_IMAGES, _PID, _TCP, _LEVEL, _LOG, _ROOT, _WORK, _EXTERNAL, _MANAGE_CGROUPS = 1, 2, 5, 9, 10, 13, 17, 37, 34
_IGNORE_CGROUPS = 0
_ADDRESS = "/run/criu.sock"

Field = tuple[int, int | str | bytes]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _encode(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


class Service:
    """A daemon that runs on ``host``."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def ask(
        self, kind: int, images: Path, log: str, *, pid: int = 0, external: Sequence[str] = (), work: Path | None = None
    ) -> bool:
        """Dump or restore, and say whether that went well; the log is in ``work``, or with the images."""
        descriptors = [os.open(path, os.O_RDONLY) for path in (images, work) if path]
        fields: list[Field] = [(_IMAGES, descriptors[0]), (_TCP, 1), (_LEVEL, 4), (_LOG, log)]
        fields += [(_PID, pid)] if pid else []
        fields += [(_ROOT, ROOT)] if kind == RESTORE else []
        fields += [(_WORK, descriptors[1])] if work else []
        fields += [(_EXTERNAL, text) for text in external] + [(_MANAGE_CGROUPS, _IGNORE_CGROUPS)]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.settimeout(scaled(60))
                client.connect(str(self.host.path(_ADDRESS)))
                client.send(_encode(1, kind) + _encode(2, b"".join(_encode(*field) for field in fields)))
                return client.recv(1 << 16)[2:4] == b"\x10\x01"  # success, after the type
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


@contextmanager
def service(host: Host, criu: Criu) -> Iterator[Service]:
    """Run the daemon on ``host``."""
    words = [str(criu.path), "service", "--address", _ADDRESS, "-v4", "-o", "/run/service.log"]
    daemon = host.popen(*words, stdin=subprocess.DEVNULL)
    try:
        wait_for(host.path(_ADDRESS).exists, "the daemon's socket")
        yield Service(host)
    finally:
        daemon.terminate()
        daemon.wait(scaled(10))
