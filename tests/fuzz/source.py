"""Where inputs come from: chance that a kind and a number determine, values at the edges, and ways to damage bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_BITS = (7, 8, 12, 15, 16, 31, 32, 53, 63, 64, 128)
INTEGERS = sorted({
    *range(-2, 3), 10, 63, 67, 68, 99, 253, 254, 255, 256, 1000, 4094, 4095, 4096, 65534,
    *(sign * (1 << bits) + more for bits in _BITS for more in (-1, 0, 1) for sign in (1, -1)),
    10**18, 10**30, 10**400, -(10**400),
})  # fmt: skip
FLOATS = (0.0, -0.0, 0.1, 1.5, -1.0, 59.9, 60.1, 1e18, 1e300, float("inf"), float("-inf"), float("nan"))
#: What has been trouble somewhere: for terminals, for the kernel, for Python, for a shell, or for a format.
TEXTS = (
    "", " ", ".", "..", "/", "a/b", "../../../../etc/passwd", "-", "--", "-x", "a b", "a\tb", "a\nb", "\n", "\r",
    "\0", "a\0b", "\x1b[31mred", "\x1b]0;title\x07", "\x7f", "\x9b31m", "\u202eevil", "\u200b", "\ufeff", "\u2028", "ü",
    "ä" * 8, "€" * 5, "\N{PILE OF POO}", "\N{NO-BREAK SPACE}", "\udc80", "\ud800", "\udfff", "\ud83d", "%d", "%s%n",
    "{", "}", "{}", "{inner}", "{image}", "{hostname}", "{x}", "$(id)", "`id`", "';'", '"', "\\", "all", "default",
    "lo", "eth0", "eth0:1", "a" * 15, "a" * 16, "a" * 127, "a" * 128, "a" * 255, "a" * 256, "a" * 4096, "a" * 4097,
    "a" * 70000, "\x1b" * 600, "0", "-1", "1.5", "1e9", "0x10", "+1", "1_0", "١", "9" * 5000, "4294967295",
    "4294967296", "nan", "inf", "null", "10.0.0.1", "10.0.0.1/24", "10.0.0.0/24", "10.0.0.1/33", "10.0.0.1/-1",
    "10.0.0.1/" + "9" * 5000, "0.0.0.0", "0/0", "255.255.255.255", "224.0.0.1", "256.1.1.1", "1.2.3", "01.2.3.4",
    "::", "::1", "fe80::1/64", "fe80::1%eth0", "ff02::1", "::ffff:1.2.3.4", "1::2::3", ":", "::/0", "default",
    "2001:db8::1/129", "02:00:00:00:00:01", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02-00-00-00-00-01",
    "02:00:00:00:00", "02:00:00:00:00:0g", "0:0:0:0:0:0", "root", "ingress", "none", "1:", "1:1", "ffff:fff1",
    "ffff:fff2", "10000:", ":", "-1:", "1:-1", "1:1:1", "0x1:", "1_0:", " 1:", "00", "0", "0g", "zz", "00 11",
    "ff" * 70000, "1-2", "2-1", "0-65535", "1-65536", "80", "80-", "-80", "80:90:100", "90:80", "0:65536", "80:90",
    "1-4094", "4095", "10-20", "ipv4.forwarding", "ipv4.../x", "ipv4.a.b", "ipv6.neigh.x", "mpls.input", "cubic",
    "inet", "inet6", "inet7", "bridge",
)  # fmt: skip
#: Pieces that formats are made of: their own marks, and what is no text.
TOKENS = (
    b"{", b"}", b"[", b"]", b"[[", b"]]", b'"', b'"""', b"'''", b"=", b":", b",", b".", b"#", b"\\", b"\\u0000",
    b"\\ud800", b"\\u001b", b"\n", b"\r\n", b"\0", b"\xff", b"\xfe\xff", b"\xc0\x80", b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80", b"\xc3", b"\x1b[2J", b"null", b"true", b"1e999", b"-0", b"0x", b"NaN", b"nan", b"inf",
    b"1979-05-27", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x80" * 10,
)  # fmt: skip


#: What no writer of a format would write: it has a marker in a tree, for which `trees` puts these bytes.
MARKERS = {
    "@digits@": (b"9" * 6000, b"0x" + b"f" * 6000),
    "@lists@": (b"[" * 20000 + b"]" * 20000,) * 2,
    "@tables@": (b'{"a":' * 20000 + b"1" + b"}" * 20000, b"{a=" * 20000 + b"1" + b"}" * 20000),
    "@lists below@": (b"[" * 600 + b"]" * 600,) * 2,
}


class Source(random.Random):
    """Chance for one input: the same kind and number give the same input on every machine."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__(f"{kind} {number}")

    def one_in(self, times: int) -> bool:
        """Say yes one time in ``times``."""
        return self.randrange(times) == 0

    def integer(self) -> int:
        """Return a number at the edge of some type, or near to it."""
        value = self.choice(INTEGERS)
        return value + self.randint(-2, 2) if self.one_in(4) else value

    def text(self) -> str:
        """Return a text that is trouble, or two."""
        text = self.choice(TEXTS)
        return text + self.choice(TEXTS) if self.one_in(6) else text

    def value(self, depth: int = 0) -> Any:
        """Return a value of any type."""
        makers: list[Callable[[], Any]] = [
            self.integer, self.text, lambda: self.choice(FLOATS), lambda: self.choice((True, False, None)),
        ]  # fmt: skip
        if depth < 3:
            makers += [
                lambda: [self.value(depth + 1) for _ in range(self.randrange(3))],
                lambda: {self.text(): self.value(depth + 1) for _ in range(self.randrange(3))},
                lambda: self.choice(list(MARKERS)),
            ]
        return self.choice(makers)()

    def damaged(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """Return ``data`` changed in some places, perhaps with a piece of the ``others``."""
        for _ in range(self.choice((1, 1, 2, 3, 8))):
            data = self.choice(_DAMAGES)(self, data, others or (data,))
        return data

    def _span(self, data: bytes) -> tuple[int, int]:
        start = self.randrange(len(data) + 1)
        return start, min(len(data), start + self.choice((1, 2, 4, 8, 40)))


def _flip(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = source.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << source.randrange(8))]) + data[at + 1 :]


def _overwrite(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = source._span(data)
    return data[:start] + source.randbytes(end - start) + data[end:]


def _insert(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    at = source.randrange(len(data) + 1)
    return data[:at] + source.choice(TOKENS) * source.choice((1, 1, 1, 3, 2000)) + data[at:]


def _delete(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = source._span(data)
    return data[:start] + data[end:]


def _repeat(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = source._span(data)
    return data[:end] + data[start:end] * source.choice((1, 2, 100)) + data[end:]


def _cut(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: source.randrange(len(data) + 1)]


def _splice(source: Source, data: bytes, others: Sequence[bytes]) -> bytes:
    other = source.choice(others)
    return data[: source.randrange(len(data) + 1)] + other[source.randrange(len(other) + 1) :]


def _number(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    """Put a number at the edge in the place of one that is written in digits."""
    places = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    if not places:
        return data
    start = end = source.choice(places)
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    value = source.integer()
    return data[:start] + (b"%d" % value if abs(value) < 10**400 else b"9" * 6000) + data[end:]


def _packed(source: Source, data: bytes, _: Sequence[bytes]) -> bytes:
    """Put a number at the edge in the place of four bytes."""
    at = source.randrange(len(data) + 1)
    return data[:at] + (source.integer() & 0xFFFFFFFF).to_bytes(4, "little") + data[at + 4 :]


_DAMAGES = (_flip, _overwrite, _insert, _delete, _repeat, _cut, _splice, _number, _packed)
