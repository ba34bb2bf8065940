"""Values for mapping files and state files: mostly those that people write, often the ends of a range."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import cache
from typing import Any

U32_MAX = (1 << 32) - 1
#: The bridges that a simulated host has: the first filters VLANs, the second does not.
BRIDGES = ("br0", "br1")
PARENT = "up0"

ADDRESSES4 = ("10.99.0.1/24", "10.99.0.1", "169.254.1.1/32", "172.16.0.1/12", "192.168.7.254/30", "10.0.0.0/8")
ODD_ADDRESSES4 = ("0.0.0.0/0", "0.0.0.0/32", "127.0.0.5/8", "224.0.0.9/4", "255.255.255.255/32", "10.99.0.255/24",
                  "240.0.0.1/4", "10.1.1.1/0")  # fmt: skip
ADDRESSES6 = ("fd00::1/64", "fd00:99::1", "fe80::ecee:eeff:feee:eeee/64", "2001:db8::1/48", "fe80::1/128")
ODD_ADDRESSES6 = ("::/128", "::/0", "::1/128", "ff02::9/128", "ff0e::1/64", "::ffff:1.2.3.4/128", "fd00::/64")
NETWORKS4 = ("10.99.0.2/32", "10.0.0.0/8", "10.99.0.0/24", "172.31.0.0/16", "default", "192.168.7.252/30")
ODD_NETWORKS4 = ("0.0.0.0/0", "0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "0.0.0.0/8")
NETWORKS6 = ("fd00::2/128", "fd00:5::/64", "2001:db8::/32", "fe80::/64")
ODD_NETWORKS6 = ("::/128", "::/0", "::1/128", "ff00::/8", "::ffff:0.0.0.0/96")


class Values:
    """What one file is made of, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, of: float) -> bool:
        """Whether something of this likelihood is so."""
        return self.random.random() < of

    def one(self, *choices: Any) -> Any:
        """One of these."""
        return self.random.choice(choices)

    def maybe(self, of: float, make: Callable[[], Any]) -> Any:
        """What `make` makes, or None."""
        return make() if self.chance(of) else None

    def number(self, low: int, high: int) -> int:
        """A number of a range, often one of its ends."""
        middle = self.random.randint(low, min(high, low + 100))
        return int(self.one(low, high, middle, middle, self.random.randint(low, high)))

    def several(self, most: int, make: Callable[[], Any]) -> list[Any]:
        """Up to so many different ones."""
        found: list[Any] = []
        for _ in range(self.random.randint(0, most)):
            made = make()
            if made not in found:
                found.append(made)
        return found

    def mac(self, *, multicast: float = 0.0) -> str:
        """A hardware address."""
        first = self.random.randrange(256) & 0xFE | self.chance(multicast)
        octets = [first, *(self.random.randrange(256) for _ in range(5))]
        return str(self.one(":".join(f"{octet:02x}" for octet in octets), "02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff"))

    def name(self, longest: int = 15) -> str:
        """A device's name."""
        letters = "abcxyzABC012_-.@+=,ü"
        made = "".join(self.one(*letters) for _ in range(self.random.randint(1, longest)))
        return str(self.one("web0", "vethabcdef", f"n{made}"[: longest // 2 + 1]))

    def text(self, most: int) -> str:
        """Some text of so many bytes at most."""
        made = "".join(self.one(*"ab cäé\t'\"\\%{}"[:11]) for _ in range(self.random.randint(0, 20)))
        return str(self.one(made, "x" * most, "", "web front"))

    def address(self, *, odd: float = 0.05) -> str:
        """An address with its prefix length, or without."""
        if self.chance(odd):
            return str(self.one(*ODD_ADDRESSES4, *ODD_ADDRESSES6))
        return str(self.one(*ADDRESSES4, *ADDRESSES6, self._random_address()))

    def _random_address(self) -> str:
        if self.chance(0.5):
            return f"10.{self.random.randrange(256)}.{self.random.randrange(256)}.1/{self.random.randint(8, 32)}"
        return f"fd{self.random.randrange(256):02x}::{self.random.randrange(1, 65536):x}/{self.random.randint(1, 128)}"

    def network(self, family: str, *, odd: float = 0.04) -> str:
        """A destination."""
        if family == "inet":
            return str(self.one(*(ODD_NETWORKS4 if self.chance(odd) else NETWORKS4)))
        return str(self.one(*(ODD_NETWORKS6 if self.chance(odd) else NETWORKS6)))

    def gateway(self, family: str) -> str:
        """An address that may be the gateway of a route, or its source."""
        if family == "inet":
            return str(self.one("10.99.0.2", "10.99.0.254", "169.254.1.2", "10.0.0.1", "192.168.7.253", "10.99.0.1"))
        return str(self.one("fd00::2", "fe80::1", "fd00:99::2", "2001:db8::fe", "fd00::1"))

    def sysctls(self, most: int) -> dict[str, int | str]:
        """Settings, with values that are right and some that are not."""
        found = {}
        for _ in range(self.random.randint(0, most)):
            key = self.one(*sysctl_keys())
            found[key] = self._setting(key)
        return found

    def _setting(self, key: str) -> int | str:
        if key.endswith("stable_secret"):
            return str(self.one("fd00::5", "2001:db8::1"))
        value = int(self.one(0, 1, 1, 2, 64, 1280, 1500, 30000, self.number(-1, 300), self.number(0, U32_MAX)))
        return self.one(value, value, value, str(value), self.one("", "yes", "1 2", "0x10", "fd00::1"))


@cache
def sysctl_keys() -> tuple[str, ...]:
    """The keys that this kernel has for a device, as a mapping file calls them."""
    directories = {"ipv4": "ipv4/conf", "ipv6": "ipv6/conf", "ipv4.neigh": "ipv4/neigh", "ipv6.neigh": "ipv6/neigh"}
    return tuple(
        f"{family}.{leaf}"
        for family, directory in directories.items()
        if os.path.isdir(f"/proc/sys/net/{directory}/lo")
        for leaf in sorted(os.listdir(f"/proc/sys/net/{directory}/lo"))
    )
