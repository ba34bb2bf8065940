"""IP addresses and subnets as bytes, and which of them a container can have for itself. Pure."""

from collections.abc import Iterable
from typing import NamedTuple, Self

from criu_veth import rules


def network_of(packed: bytes, length: int) -> tuple[bytes, int]:
    """Return the subnet that an address with this prefix length is in: its first address, and the length."""
    host = (1 << (8 * len(packed) - length)) - 1
    return (int.from_bytes(packed, "big") & ~host).to_bytes(len(packed), "big"), length


class Networks(NamedTuple):
    """A set of subnets, which is asked in a time that does not hang on how many they are."""

    found: frozenset[tuple[bytes, int]]
    lengths: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Read subnets, and addresses with their prefix lengths: ``10.0.0.1/24``."""
        pairs = [(rules.packed(text), length) for text, length in map(rules.parse_interface, texts)]
        return cls(
            frozenset(network_of(packed, length) for packed, length in pairs),
            frozenset((len(packed), length) for packed, length in pairs),
        )

    def have(self, packed: bytes, length: int) -> bool:
        """Say whether all of a subnet is in one of them; an address alone is the smallest."""
        lengths = (known for size, known in self.lengths if size == len(packed) and known <= length)
        return any(network_of(packed, known) in self.found for known in lengths)

    def have_address(self, packed: bytes) -> bool:
        """Say whether an address is in one of them."""
        return self.have(packed, 8 * len(packed))


def broadcast_of(packed: bytes, length: int) -> bytes:
    """Return the last address of the subnet."""
    host = (1 << (8 * len(packed) - length)) - 1
    return (int.from_bytes(packed, "big") | host).to_bytes(len(packed), "big")


_LINK_LOCAL = Networks.of(("169.254.0.0/16", "fe80::/10"))

#: Addresses that no container has for itself: of this host, of many, or of nobody; and those at which clouds hand their
#: machines credentials and names, which whoever had them could forge to this host.
_NOBODYS = Networks.of(
    (
        "0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/16", "ff00::/8",
        "169.254.169.0/24", "169.254.170.0/24", "168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::/32",
        "fd20:ce::/32",
    )
)  # fmt: skip


def is_ordinary(packed: bytes) -> bool:
    """Say whether a container, or the gateway that it has, may have this address for itself."""
    return not _NOBODYS.have_address(packed)


def is_link_local(packed: bytes) -> bool:
    """Say whether an address is valid on its link alone."""
    return _LINK_LOCAL.have_address(packed)
