"""Two network namespaces that vanish: one that is like a host's, and one like a container's.

Each is entered by a thread of its own. Network namespaces are a thread's (``setns(2)``, ``unshare(2)``): the rest of
the process stays where it is, nothing is forked, which no program with threads may do, and the kernel takes both away
when the threads have ended. A thread's id serves as a pid where the kernel asks for a process by which it is to find a
network namespace (``get_net_ns_by_pid()``, net/core/net_namespace.c).
"""

import os
import threading
from collections.abc import Callable
from typing import Self, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


def run(work: Callable[[int], T]) -> T:
    """Return what ``work`` returns, run in a new network namespace; it is given the id of a thread in another one.

    Raises what ``work`` raises, and OSError where no network namespace may be made.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def host() -> None:
        try:
            _leave()
            with _Container() as container:
                results.append(work(container.id))
        except BaseException as error:  # raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=host, name="scratch host", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def own_id() -> int:
    """Return what the kernel calls this thread."""
    return threading.get_native_id()


def _leave() -> None:
    """Move this thread into a new network namespace.

    Raises OSError.
    """
    before = os.stat(_OWN).st_ino
    if hasattr(os, "unshare"):  # Python 3.12
        os.unshare(_CLONE_NEWNET)
    else:
        import ctypes  # noqa: PLC0415 - 2 ms

        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    if os.stat(_OWN).st_ino == before:
        raise OSError(0, "unshare() has made no network namespace")


class _Container:
    """A thread in a network namespace of its own, for as long as the context lasts."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._over = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._wait, name="scratch container", daemon=True)

    def _wait(self) -> None:
        try:
            _leave()
        except OSError as error:
            self._error = error
        self._ready.set()
        self._over.wait()

    @property
    def id(self) -> int:
        """What the kernel calls the thread."""
        return self._thread.native_id or 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self.__exit__()
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
