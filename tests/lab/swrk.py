"""``criu swrk``, as a runtime talks to CRIU: one request over a socket and its answer (CRIU's ``images/rpc.proto``)."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from .container import ROOT
from .criu import Criu
from .host import Host
from .waiting import scaled

DUMP, RESTORE = 1, 2  # criu_req_type
_TYPE, _OPTIONS = 1, 2  # of a criu_req
_SUCCESS, _RESTORED, _ERRNO, _MESSAGE = 2, 4, 7, 9  # of a criu_resp
_IMAGES, _PID, _LEAVE_RUNNING, _LEVEL, _LOG, _ROOT = 1, 2, 3, 9, 10, 13  # of the options
_MANAGE_CGROUPS, _EXTERNAL = 34, 37
_IGNORE_CGROUPS = 0
_NUMBER, _BYTES = 0, 2  # how a field is written
_WORKER = 'exec "$0" swrk 3 3<&0 </dev/null'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What CRIU answers: whether it worked, the errno and the message for its caller, and the restored process."""

    success: bool
    errno: int = 0
    message: str = ""
    pid: int = 0


def ask(
    host: Host,
    criu: Criu,
    kind: int,
    images: Path,
    *,
    log: str = "rpc.log",
    pid: int = 0,
    external: Sequence[str] = (),
    leave_running: bool = False,
) -> Answer:
    """Have a CRIU of its own on ``host`` dump or restore; its log is among the images."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(images, os.O_RDONLY | os.O_DIRECTORY)
    options = _number(_IMAGES, directory) + _number(_LEVEL, 4) + _text(_LOG, log)
    options += _number(_MANAGE_CGROUPS, _IGNORE_CGROUPS)
    options += _number(_PID, pid) if pid else b""
    options += _number(_LEAVE_RUNNING, 1) if leave_running else b""
    options += _text(_ROOT, ROOT) if kind == RESTORE else b""
    options += b"".join(_text(_EXTERNAL, value) for value in external)
    try:
        with ours:
            with its:
                worker = host.popen("sh", "-c", _WORKER, str(criu.path), stdin=its.fileno())
            ours.settimeout(scaled(60))
            ours.send(_number(_TYPE, kind) + _bytes(_OPTIONS, options))
            answer = _answer(ours.recv(1 << 16))
        worker.wait(scaled(10))
    finally:
        os.close(directory)
    return answer


def _answer(data: bytes) -> Answer:
    fields = dict(_fields(data))
    restored = dict(_fields(bytes(fields.get(_RESTORED, b""))))
    return Answer(
        success=bool(fields[_SUCCESS]),
        errno=int(fields.get(_ERRNO, 0)),
        message=bytes(fields.get(_MESSAGE, b"")).decode(errors="replace"),
        pid=int(restored.get(1, 0)),
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1  # a negative number is written with 64 bits
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _NUMBER) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message; those of an answer are numbers, texts and messages."""
    rest = iter(data)
    for byte in rest:
        key = _read_varint(byte, rest)
        value = _read_varint(next(rest), rest)
        yield key >> 3, bytes(next(rest) for _ in range(value)) if key & 7 == _BYTES else value


def _read_varint(byte: int, rest: Iterator[int]) -> int:
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        byte = next(rest)
        value |= (byte & 0x7F) << shift
        shift += 7
    return value
