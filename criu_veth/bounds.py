"""How much is captured of what a container's root, or another host's, may have made without bound.

What is over is left out at the dump and said there: a restore that refused it later, when the container is gone, would
be worse. The state file has to be readable again (`criu_veth.fit`), and the dump takes 64 MB at most for it.
"""

from __future__ import annotations

from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

#: Entries of one kind (routes and addresses: of each family) of one end, and entries of all inner ends together, which
#: a container's root may fill, and of all outer ends, which he shall not empty by that.
MOST, MOST_IN_ALL = 2048, 8192
#: Network namespaces of a container that are looked at.
MOST_NAMESPACES = 128
#: What is said of a capture: so many lines, each of so many characters.
MOST_LINES, LONGEST_LINE = 256, 1000


class Kept:
    """Keeps some of what comes, the first or those of the lowest ``rank``, in the order in which they came.

    ``wanted`` says of what comes whether it counts at all.
    """

    def __init__(
        self,
        most: int,
        wanted: Callable[[bytes], bool] | None = None,
        rank: Callable[[bytes], int] | None = None,
    ) -> None:
        self._most = most
        self._wanted = wanted
        self._rank = rank
        self._heap: list[tuple[int, int, bytes]] = []
        self.total = 0

    def begin(self) -> Callable[[bytes], None]:
        """Return what takes the next thing; all that came before is forgotten."""
        self._heap = []
        self.total = 0
        return self._take

    def _take(self, data: bytes) -> None:
        if self._wanted is not None and not self._wanted(data):
            return
        self.total += 1
        entry = (-self._rank(data) if self._rank else 0, -self.total, data)
        if len(self._heap) < self._most:
            self._heap.append(entry)
            if len(self._heap) == self._most:
                heapify(self._heap)
        elif self._heap and entry > self._heap[0]:
            heapreplace(self._heap, entry)

    def found(self) -> list[bytes]:
        """Return what was kept."""
        return [data for *_, data in sorted(self._heap, key=lambda entry: -entry[1])]


class Some(Generic[T]):
    """Some of what there is: iterating makes each anew, so that all are never there together.

    ``total`` is how many there are.
    """

    def __init__(self, make: Callable[[bytes], T], kept: list[bytes], total: int) -> None:
        self._make = make
        self._kept = kept
        self.total = total

    def first(self, most: int) -> Some[T]:
        """Return no more than so many of them."""
        return Some(self._make, self._kept[:most], self.total)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self._kept)


class Room(NamedTuple):
    """How many entries may be taken at a time (of a family), and how many altogether."""

    most: int
    left: int


class Budget:
    """What may yet be captured of the ends on one side; what is left out is added to ``warnings``."""

    def __init__(self, warnings: list[str]) -> None:
        self._left = MOST_IN_ALL
        self._warnings = warnings

    @property
    def room(self) -> Room:
        """What there is room for of the next kind of entries."""
        return Room(min(MOST, self._left), self._left)

    def take(self, ifname: str, what: str, some: Some[T], instead: str) -> Some[T]:
        """Return ``some`` and count it; ``instead`` says what there will be in the place of what is left out."""
        bound = f"{MOST} of a kind of one end" if self._left >= MOST else f"{MOST_IN_ALL} of all ends"
        self._left -= len(some)
        if dropped := some.total - len(some):
            lost = f"{dropped} of its {some.total} {what} are not captured (at most {bound}): {instead}"
            self._warnings.append(f"{ifname}: {lost}")
        return some


def said(lines: list[str]) -> tuple[str, ...]:
    """Return lines that a state file can hold: some of them, none too long, and all of them UTF-8."""
    found = [shown(line) for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        found[-1] = f"and {len(lines) - MOST_LINES + 1} more"
    return tuple(line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4]} ..." for line in found)


def shown(text: str) -> str:
    r"""Return a text as UTF-8 can have it: bytes that are none of it, which names may have, are written ``\xNN``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def is_utf8(text: str) -> bool:
    """Say whether a text of the kernel's, decoded with ``surrogateescape``, was UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
