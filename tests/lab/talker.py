"""A client of traffic_server.py that talks without a pause and notes what became of it.

Arguments: what to do, the server's address, messages a second. It answers each line on its stdin with what it has seen
so far, as JSON; when its stdin ends it stops sending, waits for what is still to come and says so once more.

tcp    one connection, echoed lines; it is an error of the lab's if they come back otherwise than they were sent
udp    echoed datagrams
sink   datagrams to the port that only receives
bulk   one connection with 20 kB a message, counted in bytes that are acknowledged; the digest has to come back
knock  connects again and again, at once when it is refused and else after some milliseconds, until it is answered

The source is handed to `python -I -S -c`, so it may import the standard library only.
"""

import contextlib
import errno
import hashlib
import json
import random
import selectors
import socket
import struct
import sys
import time
from typing import Any

ECHO, SINK, BULK = 7000, 7002, 7003
PATIENCE = 15.0
"""Seconds for what is still to come when the sending has ended."""
KNOCK = 0.005


class Talk:
    """What one kind of traffic has seen; its subclasses send and receive."""

    def __init__(self, address: str, kind: int, port: int) -> None:
        self.address, self.kind, self.port = address, kind, port
        self.seen: dict[str, Any] = {"sent": 0, "received": 0, "repeated": 0, "gap": 0.0, "refused": 0, "reset": 0}
        self.seen.update(error="", wrong="")
        self.last: float | None = None
        self.socket = self.connected()

    def connected(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        made = socket.socket(family, self.kind)
        made.connect((self.address, self.port))
        if self.kind == socket.SOCK_STREAM:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        return made

    def heard(self) -> None:
        now = time.monotonic()
        if self.last is not None:
            self.seen["gap"] = max(self.seen["gap"], now - self.last)
        self.last = now

    def failed(self, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:
            self.seen["refused"] += 1
        elif error.errno in (errno.ECONNRESET, errno.EPIPE):
            self.seen["reset"] += 1
        self.seen["error"] = str(error)

    def status(self) -> dict[str, Any]:
        silent = 0.0 if self.last is None else time.monotonic() - self.last
        return {**self.seen, "silent": silent, "done": self.done()}

    def done(self) -> bool:
        return False

    def send(self) -> None:
        raise NotImplementedError

    def receive(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Nothing more is sent."""


class Tcp(Talk):
    """Lines over one connection."""

    def __init__(self, address: str) -> None:
        super().__init__(address, socket.SOCK_STREAM, ECHO)
        self.unsent = b""
        self.expected = b""

    def send(self) -> None:
        line = b"%d\n" % self.seen["sent"]
        self.seen["sent"] += 1
        self.expected += line
        self.unsent += line
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        if not self.expected.startswith(data):
            self.seen["wrong"] = f"{data[:60]!r} instead of {self.expected[:60]!r}"
        self.expected = self.expected[len(data) :]
        self.seen["received"] += data.count(b"\n")
        self.heard()

    def done(self) -> bool:
        return bool(self.seen["received"] == self.seen["sent"])


class Udp(Talk):
    """Datagrams that come back."""

    def __init__(self, address: str, port: int = ECHO) -> None:
        super().__init__(address, socket.SOCK_DGRAM, port)
        self.numbers: set[bytes] = set()

    def send(self) -> None:
        number = b"%d" % self.seen["sent"]
        self.seen["sent"] += 1
        try:
            self.socket.send(number)
        except OSError as error:  # what an earlier datagram was answered, too
            self.failed(error)

    def receive(self) -> None:
        try:
            data = self.socket.recv(2048)
        except OSError as error:
            self.failed(error)
            return
        self.seen["repeated"] += data in self.numbers
        self.numbers.add(data)
        self.seen["received"] = len(self.numbers)
        self.heard()

    def done(self) -> bool:
        return bool(self.seen["received"] == self.seen["sent"])


class Sink(Udp):
    """Datagrams that do not."""

    def __init__(self, address: str) -> None:
        super().__init__(address, SINK)


class Bulk(Talk):
    """A stream of which the digest comes back."""

    def __init__(self, address: str) -> None:
        super().__init__(address, socket.SOCK_STREAM, BULK)
        self.noise = random.Random(0)
        self.digest = hashlib.sha256()
        self.unsent = b""
        self.answer = b""
        self.ended = False
        self.complete = False

    def send(self) -> None:
        if len(self.unsent) < 1 << 20:
            data = self.noise.randbytes(20000)
            self.digest.update(data)
            self.unsent += data
        self.push()

    def push(self) -> None:
        try:
            while self.unsent:
                count = self.socket.send(self.unsent)
                self.unsent = self.unsent[count:]
                self.seen["sent"] += count
        except BlockingIOError:
            pass
        acknowledged = struct.unpack_from("Q", self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 120)[0]
        if acknowledged > self.seen["received"]:
            self.seen["received"] = acknowledged
            self.heard()
        if self.ended and not self.unsent:
            self.ended = False
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> None:
        data = self.socket.recv(4096)
        if not data:
            if self.answer.decode() == self.digest.hexdigest():
                self.seen["received"] = self.seen["sent"]
                self.complete = True
            else:
                self.seen["wrong"] = "the digest is another one"
        self.answer += data

    def end(self) -> None:
        self.ended = True
        self.push()

    def done(self) -> bool:
        return self.complete or bool(self.seen["wrong"])


class Knock(Talk):
    """Connections, one after the other, until one is answered."""

    def __init__(self, address: str) -> None:
        super().__init__(address, socket.SOCK_STREAM, ECHO)
        self.since = time.monotonic()

    def connected(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        made = socket.socket(family, self.kind)
        made.setblocking(False)
        made.connect_ex((self.address, self.port))
        self.seen["sent"] += 1
        self.since = time.monotonic()
        return made

    def again(self) -> None:
        self.socket.close()
        self.socket = self.connected()

    def send(self) -> None:
        if self.done() or time.monotonic() - self.since < KNOCK:
            return
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.failed(OSError(error, errno.errorcode[error]))
            self.again()
            return
        try:
            self.socket.send(b"knock\n")
        except BlockingIOError:
            pass
        except OSError as fault:
            if fault.errno != errno.ENOTCONN:
                self.failed(fault)
        else:
            self.seen["received"] = 1
            return
        self.again()

    def receive(self) -> None:
        try:
            self.seen["received"] += bool(self.socket.recv(100))
        except BlockingIOError:
            pass
        except OSError as error:
            self.failed(error)
            self.again()

    def done(self) -> bool:
        return bool(self.seen["received"])

    def end(self) -> None:
        self.socket.close()


KINDS = {"tcp": Tcp, "udp": Udp, "sink": Sink, "bulk": Bulk, "knock": Knock}


def say(talk: Talk) -> None:
    sys.stdout.write(json.dumps(talk.status()) + "\n")
    sys.stdout.flush()


def talk_until_told(talk: Talk, rate: float) -> None:
    step = 1 / rate
    due = time.monotonic()
    stop: float | None = None
    while stop is None or (not talk.done() and time.monotonic() < stop):
        now = time.monotonic()
        if stop is None and now >= due:
            talk.send()
            due = max(due + step, now - 0.1)
        elif stop is not None and isinstance(talk, Bulk):
            talk.push()
        selector = selectors.SelectSelector()
        if stop is None:
            selector.register(0, selectors.EVENT_READ)
        if not isinstance(talk, Sink) and talk.socket.fileno() >= 0:
            selector.register(talk.socket, selectors.EVENT_READ)
        for key, _ in selector.select(max(0.0, min(due - time.monotonic(), step)) if stop is None else step):
            if key.fileobj == 0:
                if sys.stdin.readline():
                    say(talk)
                else:
                    patience = 0.5 if isinstance(talk, Udp) else PATIENCE
                    stop = time.monotonic() + (0 if isinstance(talk, (Sink, Knock)) else patience)
                    talk.end()
            else:
                talk.receive()


def main() -> None:
    kind, address, rate = sys.argv[1:]
    talk = KINDS[kind](address)
    try:
        talk_until_told(talk, float(rate))
    except OSError as error:
        talk.failed(error)
        while sys.stdin.readline():
            say(talk)
    say(talk)


if __name__ == "__main__":
    main()
