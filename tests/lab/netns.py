"""Sockets that live in another network namespace."""

from __future__ import annotations

import ctypes
import os
import socket
import threading

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def socket_in(pid: int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Make a socket in the network namespace of process `pid`.

    A socket belongs for good to the namespace in which it was made, so a thread enters the
    namespace, makes the socket and ends; the calling thread never leaves its own.
    """
    made: list[socket.socket] = []
    failed: list[BaseException] = []

    def enter_and_make() -> None:
        try:
            netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(netns, _CLONE_NEWNET) != 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code), f"setns to {pid}'s netns")
            finally:
                os.close(netns)
            made.append(socket.socket(family, kind, protocol))
        except BaseException as error:  # handed to the caller's thread below
            failed.append(error)

    thread = threading.Thread(target=enter_and_make, name=f"netns-{pid}")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]
