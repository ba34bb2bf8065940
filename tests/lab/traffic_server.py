"""What runs in a container while the lab sends traffic to it.

Port 7000 echoes, over TCP and UDP, over IPv4 and IPv6. Port 7002 (UDP) only receives and notes when. Port 7003 (TCP)
reads until the end of the stream and answers with the SHA-256 of it. Port 7001 (TCP) answers every line with what port
7002 has noted, as JSON. The source is handed to `python -I -S -c`, so it may import the standard library only.
"""

import hashlib
import json
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

ECHO, REPORT, SINK, BULK = 7000, 7001, 7002, 7003

waiting = selectors.DefaultSelector()
heard: dict[str, Any] = {"received": 0, "repeated": 0, "gap": 0.0, "last": None}
numbers: set[bytes] = set()


def listen(family: int, kind: int, port: int, handler: Callable[[socket.socket], None]) -> None:
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(("", port))
    if kind == socket.SOCK_STREAM:
        listener.listen(64)
    listener.setblocking(False)
    waiting.register(listener, selectors.EVENT_READ, handler)


def accept(handler: Callable[[bytes], bytes | None]) -> Callable[[socket.socket], None]:
    def read(connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
            answer = handler(data)
            if answer:
                connection.sendall(answer)
        except OSError:
            data = b""
        if not data:
            waiting.unregister(connection)
            connection.close()

    def accept_one(listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting.register(connection, selectors.EVENT_READ, read)

    return accept_one


def echo_datagrams(receiver: socket.socket) -> None:
    while True:
        try:
            data, peer = receiver.recvfrom(2048)
        except OSError:
            return
        receiver.sendto(data, peer)


def note_datagrams(receiver: socket.socket) -> None:
    while True:
        try:
            data = receiver.recv(2048)
        except OSError:
            return
        now = time.monotonic()
        if heard["last"] is not None:
            heard["gap"] = max(heard["gap"], now - heard["last"])
        heard["last"] = now
        heard["repeated"] += data in numbers
        numbers.add(data)
        heard["received"] = len(numbers)


class Bulk:
    """One stream that is hashed."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def __call__(self, data: bytes) -> bytes | None:
        self.digest.update(data)
        return None if data else self.digest.hexdigest().encode()


def accept_bulk(listener: socket.socket) -> None:
    accept(Bulk())(listener)


def report(data: bytes) -> bytes | None:
    return json.dumps({**heard, "now": time.monotonic()}).encode() + b"\n" if data else None


def serve() -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        listen(family, socket.SOCK_STREAM, ECHO, accept(lambda data: data))
        listen(family, socket.SOCK_DGRAM, ECHO, echo_datagrams)
        listen(family, socket.SOCK_DGRAM, SINK, note_datagrams)
        listen(family, socket.SOCK_STREAM, REPORT, accept(report))
        listen(family, socket.SOCK_STREAM, BULK, accept_bulk)
    while True:
        for key, _ in waiting.select():
            key.data(key.fileobj)


if __name__ == "__main__":
    serve()
