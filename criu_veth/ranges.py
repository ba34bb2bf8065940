"""How large a number may be and how long a text, by the attribute that the kernel, or a message to it, keeps it in.

The one table: the types of `state` are made of these, so that a value that fits no message is refused when a file is
read, with its key. Pure. Sources: ``include/uapi/linux/rtnetlink.h`` (struct rtmsg, ifaddrmsg, RTA_PREF),
``fib_rules.h`` (struct fib_rule_hdr, struct fib_rule_port_range), ``neighbour.h``, ``if_addr.h`` (IFA_PROTO),
``net/bridge/br_netlink.c`` and ``br_stp_if.c`` (bridge ports), ``pkt_sched.h`` (TC_H_MAKE, tcm_info),
``net/tcp.h`` (TCP_CA_NAME_MAX), ``ethtool.h`` (ETH_GSTRING_LEN).
"""

from collections.abc import Sized
from typing import Annotated

from msgspec import Meta

U8 = Annotated[int, Meta(ge=0, le=(1 << 8) - 1)]
U16 = Annotated[int, Meta(ge=0, le=(1 << 16) - 1)]
U32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
#: An interface's: the kernel counts from 1, in an int.
Index = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
#: IEEE 802.1Q; 0 in an fdb entry is "none".
VlanId = Annotated[int, Meta(ge=0, le=4094)]

Text = Annotated[str, Meta(max_length=4096)]
#: Names that the kernel keeps in IFNAMSIZ bytes, or in as many: kinds, labels of addresses, TCP_CA_NAME_MAX.
Name = Annotated[str, Meta(max_length=15)]
Feature = Annotated[str, Meta(max_length=31)]
#: A word of a closed list.
Word = Annotated[str, Meta(max_length=32)]
#: Bytes in hexadecimal: a netlink attribute counts its own in 16 bits, and a message has others.
Hex = Annotated[str, Meta(max_length=2 * 32768)]

#: So many of one kind has an end, of alternative names, sysctls, features; VLANs are as many.
MOST = 4096

#: Bridge port flags, by the names of ``bridge link set``. A temporary router port is 3.
PORT: dict[str, tuple[int, int]] = {
    "priority": (0, 63),
    "cost": (1, 65535),
    "hairpin": (0, 1),
    "guard": (0, 1),
    "root_block": (0, 1),
    "fastleave": (0, 1),
    "learning": (0, 1),
    "flood": (0, 1),
    "proxy_arp": (0, 1),
    "proxy_arp_wifi": (0, 1),
    "mcast_router": (0, 3),
    "mcast_flood": (0, 1),
    "mcast_to_unicast": (0, 1),
    "vlan_tunnel": (0, 1),
    "bcast_flood": (0, 1),
    "group_fwd_mask": (0, 0xFFFF),
    "neigh_suppress": (0, 1),
    "isolated": (0, 1),
    "locked": (0, 1),
    "mab": (0, 1),
    "mcast_max_groups": (0, (1 << 32) - 1),
    "neigh_vlan_suppress": (0, 1),
}


def port_fault(flag: str, value: int) -> str | None:
    """Say why no bridge port has this flag, or this value of it."""
    if flag not in PORT:
        return f"{flag!r} is no flag of a bridge port"
    low, high = PORT[flag]
    return None if low <= value <= high else f"{flag}: {value} is not between {low} and {high}"


def span_fault(text: str, highest: int) -> str | None:
    """Say why ``text`` is no span of ports or of user ids as a rule has it: ``80:90``, both ends in it."""
    first, _, last = text.partition(":")
    longest = len(str(highest))
    if not all(end.isascii() and end.isdecimal() and len(end) <= longest for end in (first, last)):
        return f"{text!r} is not two numbers with a colon between"
    if not int(first) <= int(last) <= highest:
        return f"{text!r} is no span of numbers up to {highest}"
    return None


def pattern_fault(pattern: str) -> str | None:
    """Say why ``pattern`` is none of a name: `fnmatch` takes time with the square of one that has many brackets."""
    if len(pattern) > 1024 or pattern.count("[") > 32:
        return f"{pattern!r} is no pattern of a name: 1024 characters and 32 brackets are the most"
    return None


def count_fault(listed: Sized) -> str | None:
    """Say why there are more than one end has of anything that a file lists by name."""
    return None if len(listed) <= MOST else f"there are {len(listed)}; {MOST} is the most"


def repeated(texts: tuple[str, ...]) -> str | None:
    """Return the first text that is there twice: flags are bits of a sum."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None
