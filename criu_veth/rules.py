"""The kernel's rules for names, addresses and numbers, as checks that return what is wrong (or None).

Pure. Sources: ``dev_valid_name()`` and ``dev_alloc_altname`` (net/core/dev.c), ``is_valid_ether_addr()``
(linux/etherdevice.h), ``ETH_MIN_MTU``/``ETH_MAX_MTU`` (linux/if_ether.h), IFALIASZ and ALTIFNAMSIZ (linux/if.h).
"""

import _socket
from collections.abc import Iterable, Mapping

IFNAMSIZ = 16
ALTIFNAMSIZ = 128
IFALIASZ = 256
MTU_MIN, MTU_MAX = 68, 65535
AF_INET, AF_INET6 = 2, 10

#: Of Open vSwitch (vswitch.ovsschema): the values of Port:vlan_mode, the highest port number that can be asked for.
OVS_VLAN_MODES = ("access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel")
OFPORT_MAX = 65279
OVS_VLAN_MAX = 4095
OVS_MAP_MAX, OVS_TEXT_MAX = 128, 4096  # ours: what one command line has room for

#: First part of a ``sysctl`` key, to the directory below ``/proc/sys/net`` that has one folder a device.
SYSCTL_DIRECTORIES = {
    ("ipv4",): "ipv4/conf",
    ("ipv6",): "ipv6/conf",
    ("mpls",): "mpls/conf",
    ("ipv4", "neigh"): "ipv4/neigh",
    ("ipv6", "neigh"): "ipv6/neigh",
}


def _utf8_fault(text: str) -> str | None:
    """A path may be any bytes, and the placeholder ``{image}`` is the end of one; what is sent and written is UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{text!r} is not UTF-8: {text[error.start]!r} is no character"
    return None


def _name_fault(name: str, size: int, what: str) -> str | None:
    if not name:
        return f"{what} is empty"
    if fault := _utf8_fault(name):
        return fault
    if len(name.encode("utf-8", "surrogatepass")) >= size:
        return f"{name!r} is {len(name.encode('utf-8', 'surrogatepass'))} bytes long; {what} has at most {size - 1}"
    if name in (".", ".."):
        return f"{name!r} is not {what}"
    for character in name:
        # The kernel's isspace() looks at bytes and takes 0xa0 for a space, even within a character of UTF-8.
        if character in "/\0 \t\n\v\f\r" or b"\xa0" in character.encode("utf-8", "surrogatepass"):
            return f"{name!r} has {character!r} in it, which no {what.removeprefix('an ').removeprefix('a ')} may"
    return None


def ifname_fault(name: str) -> str | None:
    """Say why the kernel would refuse ``name`` for a device."""
    if ":" in name:
        return f"{name!r} has ':' in it, which no interface name may"
    if "%" in name:
        return f"{name!r} has '%' in it, which the kernel takes for a pattern"
    if name in ("all", "default"):
        return f"{name!r} is no interface name: /proc/sys/net has directories of that name which are no interface's"
    return _name_fault(name, IFNAMSIZ, "an interface name")


def altname_fault(name: str) -> str | None:
    """Say why the kernel would refuse ``name`` as an alternative name."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not size:
        return "an alternative name is empty"
    if fault := _utf8_fault(name):
        return fault
    if size >= ALTIFNAMSIZ:
        return f"{name!r} is {size} bytes long; an alternative name has at most {ALTIFNAMSIZ - 1}"
    return f"{name!r} has a NUL in it" if "\0" in name else None


def alias_fault(alias: str) -> str | None:
    """Say why the kernel would refuse ``alias``."""
    if fault := _utf8_fault(alias):
        return fault
    size = len(alias.encode())
    if size >= IFALIASZ:
        return f"the alias is {size} bytes long; the kernel takes at most {IFALIASZ - 1}"
    if "\0" in alias or "\n" in alias:
        return "an alias has no line break and no NUL in it"
    return None


def hardware_address_fault(mac: str) -> str | None:
    """Say why ``mac`` is no hardware address; that of a neighbour may be a multicast one."""
    fault = mac_fault(mac)
    return fault if fault and "is not a MAC address" in fault else None


def mac_fault(mac: str) -> str | None:
    """Say why ``mac`` cannot be the hardware address of a veth."""
    parts = mac.split(":")
    hexadecimal = "0123456789abcdefABCDEF"
    if len(parts) != 6 or any(len(p) != 2 or p[0] not in hexadecimal or p[1] not in hexadecimal for p in parts):
        return f"{mac!r} is not a MAC address (six pairs of hexadecimal digits with colons between)"
    if int(parts[0], 16) & 1:
        return f"{mac!r} is a multicast address; the first byte of a device's own is even"
    if all(p == "00" for p in parts):
        return f"{mac!r} is all zeros; the kernel refuses it"
    return None


def mtu_fault(mtu: int) -> str | None:
    """Say why ``mtu`` (bytes) cannot be the MTU of a veth."""
    if not MTU_MIN <= mtu <= MTU_MAX:
        return f"{mtu} is not an MTU that a veth takes ({MTU_MIN} to {MTU_MAX})"
    return None


def ovs_vlan_fault(vlan: int) -> str | None:
    """Say why ``vlan`` is no VLAN of a port of Open vSwitch, where 0 is one."""
    return None if 0 <= vlan <= OVS_VLAN_MAX else f"{vlan} is not between 0 and {OVS_VLAN_MAX}"


def ovs_name_fault(name: str) -> str | None:
    """Say why ``name`` cannot be that of a bridge or of a port of Open vSwitch: it is a device's, and a command's word.

    ``--`` alone separates two commands of ovs-vsctl, and it takes no quotes around a name.
    """
    return "'--' cannot be a name in Open vSwitch" if name == "--" else ifname_fault(name)


def ovs_map_fault(values: Mapping[str, str]) -> str | None:
    """Say why ``values`` cannot be a map in Open vSwitch's database, or are too much for a command line."""
    if len(values) > OVS_MAP_MAX:
        return f"has {len(values)} keys; it may have {OVS_MAP_MAX}"
    for key, value in values.items():
        if not key:
            return "has an empty key"
        if "\0" in key + value:
            return f"{key!r} has a NUL in it or in its value"
        if len(key) > OVS_TEXT_MAX or len(value) > OVS_TEXT_MAX:
            return f"{key[:32]!r} or its value is longer than {OVS_TEXT_MAX} characters"
    return None


def u32_fault(value: int) -> str | None:
    """Say why ``value`` does not fit an unsigned 32-bit attribute."""
    return None if 0 <= value < 1 << 32 else f"{value} is not between 0 and {(1 << 32) - 1}"


def sysctl_path(key: str, ifname: str) -> str:
    """Return the path below ``/proc/sys/net`` of a per-device ``key`` such as ``ipv4.proxy_arp`` or
    ``ipv6.neigh.retrans_time``.

    Raises ValueError that says what is wrong with the key.
    """
    *family, leaf = key.split(".")
    directory = SYSCTL_DIRECTORIES.get(tuple(family))
    if directory is None or not leaf or leaf.strip("abcdefghijklmnopqrstuvwxyz0123456789_-"):
        raise ValueError(
            f"{key!r} is not a per-device sysctl; these are: ipv4.NAME, ipv6.NAME, mpls.NAME, ipv4.neigh.NAME,"
            f" ipv6.neigh.NAME"
        )
    return f"{directory}/{ifname}/{leaf}"


def family_of(address: str) -> int:
    """Return AF_INET or AF_INET6 of an address without a prefix length."""
    return AF_INET6 if ":" in address else AF_INET


def packed(address: str) -> bytes:
    """Return the bytes of an IP address: 4 or 16."""
    return _socket.inet_pton(family_of(address), address)


def family_name(address: str) -> str:
    """Return ``inet`` or ``inet6`` of an address, as ``ip -j`` calls them."""
    return "inet6" if ":" in address else "inet"


def route_scope(family: str, has_gateway: bool) -> int:
    """Return the scope ``ip route`` gives a unicast route: link for an IPv4 destination without a gateway."""
    return 253 if family == "inet" and not has_gateway else 0


def route_key(family: str, dst: str, table: int, metric: int, tos: int = 0) -> tuple[str, str, int, int, int]:
    """Return what only one route of a table may have: the kernel gives one of IPv6 without a metric 1024."""
    return family, dst, table, metric or (1024 if family == "inet6" else 0), tos


def link_local(mac: str) -> str:
    """Return the link-local IPv6 address that the kernel makes of a MAC address (RFC 4291, modified EUI-64)."""
    octets = [int(part, 16) for part in mac.split(":")]
    packed = bytes([0xFE, 0x80, *[0] * 6, octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return _socket.inet_ntop(AF_INET6, packed)


def parse_address(text: str) -> str:
    """Normalise an IP address.

    Raises ValueError.
    """
    family = family_of(text)
    try:
        return _socket.inet_ntop(family, _socket.inet_pton(family, text))
    except (OSError, ValueError, UnicodeError):
        raise ValueError(f"{text!r} is not an IP address") from None


def parse_interface(text: str) -> tuple[str, int]:
    """Split ``10.0.0.2/24`` into a normalised address and a prefix length; without one, the address stands alone.

    Raises ValueError.
    """
    address, slash, length = text.partition("/")
    address = parse_address(address)
    longest = 128 if family_of(address) == AF_INET6 else 32
    if not slash:
        return address, longest
    if not (length.isascii() and length.isdecimal() and len(length) <= 3 and int(length) <= longest):
        raise ValueError(f"{text!r}: the prefix length is a number from 0 to {longest}")
    return address, int(length)


def ipv6_fault(address: str, flags: Iterable[str] = ()) -> str | None:
    """Say why no kernel lets a veth have this IPv6 address (``ipv6_add_addr()``, net/ipv6/addrconf.c)."""
    if address == "::":
        return "is the unspecified address, which no device has"
    if address == "::1":
        return "is the loopback address, which only lo has"
    if packed(address)[0] == 0xFF and "autojoin" not in flags:
        return "is a multicast address, which no device has"
    return None


def address_fault(address: str) -> str | None:
    """Say why ``address`` is none that a device may be asked to have; of IPv4 the kernel would take any."""
    if ":" in address:
        return ipv6_fault(address)
    first = int(address.partition(".")[0])
    if address == "0.0.0.0":  # noqa: S104 - nothing is bound
        return "is the unspecified address, which no device has"
    if 224 <= first <= 239:
        return "is a multicast address, which no device has"
    return "is the broadcast address, which no device has" if address == "255.255.255.255" else None


def parse_network(text: str) -> tuple[str, int]:
    """Split a destination such as ``10.99.0.0/24`` and refuse bits behind the prefix, as the kernel does.

    Raises ValueError.
    """
    address, length = parse_interface(text)
    family = family_of(address)
    packed = int.from_bytes(_socket.inet_pton(family, address), "big")
    bits = 128 if family == AF_INET6 else 32
    if packed & ((1 << (bits - length)) - 1):
        network = (packed >> (bits - length)) << (bits - length)
        name = _socket.inet_ntop(family, network.to_bytes(bits // 8, "big"))
        raise ValueError(f"{text!r} has bits set behind its prefix; the network is {name}/{length}")
    return address, length


#: VLAN IDs that a bridge port may have (IEEE 802.1Q; the kernel keeps 0 and 4095 for itself).
VLAN_MIN, VLAN_MAX = 1, 4094
#: One may be named twice, but not a hundred thousand times: reading them takes its time.
_MOST_VLANS = 4 * VLAN_MAX


def vlan_range(entry: int | str, lowest: int, highest: int) -> range | None:
    """Read one VLAN ID or a range of them (``10``, ``"10"``, ``"30-39"``): empty if it ends before it begins.

    None if ``entry`` is neither, or has an ID of more than four digits or beyond ``lowest`` and ``highest``.
    """
    if isinstance(entry, int) and not isinstance(entry, bool):
        return range(entry, entry + 1) if lowest <= entry <= highest else None
    first, dash, last = str(entry).partition("-")
    ends = (first, last if dash else first)
    if not all(one.isascii() and one.isdecimal() and len(one) < 5 and lowest <= int(one) <= highest for one in ends):
        return None
    return range(int(ends[0]), int(ends[1]) + 1)


def parse_vlans(entries: Iterable[int | str]) -> set[int]:
    """Read VLAN IDs of a bridge port, each as `vlan_range` takes it.

    Raises ValueError.
    """
    found: set[int] = set()
    total = 0
    for entry in entries:
        ids = vlan_range(entry, VLAN_MIN, VLAN_MAX)
        if ids is None:
            raise ValueError(f"{entry!r} is no VLAN: an ID from {VLAN_MIN} to {VLAN_MAX}, or a range such as '30-39'")
        if not ids:
            raise ValueError(f"{entry!r} ends before it begins")
        total += len(ids)
        if total > _MOST_VLANS:
            raise ValueError(f"names {total} VLANs with those that are there more than once; there are {VLAN_MAX}")
        found.update(ids)
    return found


def vlan_ranges(ids: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of neighbouring VLAN IDs, in order."""
    runs: list[tuple[int, int]] = []
    for one in sorted(ids):
        if runs and runs[-1][1] == one - 1:
            runs[-1] = (runs[-1][0], one)
        else:
            runs.append((one, one))
    return runs


def vlan_entries(ids: Iterable[int]) -> tuple[int | str, ...]:
    """Write VLAN IDs as `parse_vlans` reads them: in order, neighbours as a range."""
    return tuple(first if first == last else f"{first}-{last}" for first, last in vlan_ranges(ids))


_TC_NAMES = {0: "none", 0xFFFFFFFF: "root", 0xFFFFFFF1: "ingress"}


def tc_text(number: int) -> str:
    """Write a qdisc's or class's handle as ``tc`` does: ``1:``, ``1:10``, ``root``, ``ingress``, ``none``."""
    if number in _TC_NAMES:
        return _TC_NAMES[number]
    return f"{number >> 16:x}:{number & 0xFFFF:x}".removesuffix(":0") + ("" if number & 0xFFFF else ":")


def tc_number(text: str) -> int:
    """Read what `tc_text` writes.

    Raises ValueError.
    """
    for number, name in _TC_NAMES.items():
        if text == name:
            return number
    major, colon, minor = text.partition(":")
    if not colon or not major or len(major) > 4 or len(minor) > 4 or (major + minor).strip("0123456789abcdefABCDEF"):
        raise ValueError("a handle is MAJOR:MINOR in hexadecimal")
    return int(major, 16) << 16 | int(minor or "0", 16)
