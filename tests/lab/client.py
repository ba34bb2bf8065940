"""A TCP client that holds one connection, across a restore of the server if need be."""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Self

from .netns import socket_in
from .waiting import DeadlineError, scaled


class Client:
    """One TCP connection from a host's network namespace to a server that answers by lines."""

    def __init__(self, pid: int, address: str, port: int, *, timeout: float = 5.0) -> None:
        """Connect from the network namespace of process `pid`, within `timeout` seconds (scaled).

        Refused and unreachable are tried again until then: the server may be on its way.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        end = time.monotonic() + scaled(timeout)
        while True:
            self._socket = socket_in(pid, family, socket.SOCK_STREAM)
            self._socket.settimeout(max(0.05, end - time.monotonic()))
            try:
                self._socket.connect((address, port))
                break
            except OSError as error:
                self._socket.close()
                if time.monotonic() >= end:
                    raise DeadlineError(f"connect to {address} port {port}: {error}") from error
                time.sleep(0.01)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, line: str) -> None:
        """Send one line."""
        self._socket.sendall(line.encode() + b"\n")

    def receive(self, timeout: float = 5.0) -> str:
        """Return the next line of the server, without its end; DeadlineError if none comes."""
        timeout = scaled(timeout)
        end = time.monotonic() + timeout
        while b"\n" not in self._rest:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                chunk = self._socket.recv(4096)
            except TimeoutError:
                raise DeadlineError(f"no line from the server in {timeout:g} s") from None
            if not chunk:
                raise ConnectionError("the server closed the connection")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def ask(self, line: str, timeout: float = 5.0) -> str:
        """Send a line and return the answer."""
        self.send(line)
        return self.receive(timeout)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
