"""What CRIU's own images tell of a container's network: devices, their addresses, and the routes through them.

Images may come from anywhere: files are bounded, links are not followed, and a damaged one is an error that says where.
Sources, all of CRIU 4.2: ``images/netdev.proto``, ``images/macvlan.proto``, ``criu/include/magic.h``,
``criu/protobuf.c`` (an image is magic numbers, then messages, each behind its size), ``criu/net.c``; and iproute2's
``ip/ipaddress.c`` and ``ip/iproute.c``, whose ``save`` writes the ifaddr and route images: a magic number, then a dump.
"""

import _socket
import errno
import os
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import TypeVar

from msgspec.structs import replace

from criu_veth import paths, plan, rules, unrestorable, wire
from criu_veth.errors import InputError
from criu_veth.state import Data, Route

T = TypeVar("T")

#: So much is read of all images of a checkpoint, so many network namespaces, and so much of an image.
MAX_SIZE = 16 << 20
MOST_NAMESPACES = 1024
MOST_DEVICES, MOST_ENTRIES = 1 << 14, 100_000
_MAX_MESSAGE = 1 << 20  # a device takes some 2 KiB

_COMMON_MAGIC = 0x54564319
_NETDEV_MAGIC = 0x57373951
_NETNS_MAGIC = 0x55933752
_ADDRESS_DUMP_MAGIC = 0x47361222
_ROUTE_DUMP_MAGIC = 0x45311224

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}

#: enum nd_type, as ``ip link`` calls them; "external" is CRIU's own word for what ``--external dev[]`` names.
KINDS = {
    1: "loopback",
    2: "veth",
    3: "tun",
    4: "external",
    5: "venet",
    6: "bridge",
    7: "macvlan",
    8: "sit",
}

#: IFF_* that say something of a device (linux/if.h), in the order of ``ip link``.
FLAGS = {
    0x8: "LOOPBACK",
    0x2: "BROADCAST",
    0x10: "POINTOPOINT",
    0x1000: "MULTICAST",
    0x80: "NOARP",
    0x200: "ALLMULTI",
    0x100: "PROMISC",
    0x1: "UP",
    0x10000: "LOWER_UP",
}

_RTM_NEWADDR, _RTM_NEWROUTE = 20, 24
_IFA_ADDRESS, _IFA_LOCAL, _ADDRESS_ATTRS = 1, 2, 24
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE, _ROUTE_ATTRS = 1, 4, 5, 6, 7, 15, 28
_RTPROT_KERNEL, _RTN_UNICAST = 2, 1


class Device(Data, frozen=True, kw_only=True):
    """One network device of a container.

    ``peer_ifindex`` is the ifindex of a veth's other end, ``peer_namespace`` the `Namespace.id` that it is in: None is
    a namespace that was not checkpointed, the host's. ``master`` is an ifindex. ``addresses`` and ``routes`` are as
    ``ip`` writes them; routes that the kernel makes itself are left out.
    """

    name: str
    kind: str
    ifindex: int
    mtu: int
    flags: tuple[str, ...]
    mac: str | None = None
    peer_ifindex: int | None = None
    peer_namespace: int | None = None
    master: int | None = None
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


class Namespace(Data, frozen=True, kw_only=True):
    """One network namespace, by CRIU's number; one with an ``external_key`` is not CRIU's to restore."""

    id: int
    external_key: str | None = None
    devices: tuple[Device, ...] = ()


class DamagedError(ValueError):
    """An image is not one that CRIU writes; ``str()`` says why and where, without the path."""


class TooManyError(ValueError):
    """An image has more entries than are read."""


def read(directory: paths.Directory | str) -> tuple[Namespace, ...] | None:
    """Return the network namespaces of the checkpoint in ``directory``; None if there is no checkpoint.

    Raises InputError.
    """
    reader = _reader(directory)
    return None if reader is None else tuple(_namespace(reader, number) for number in reader.numbers)


def facts(directory: paths.Directory | str) -> Iterator[unrestorable.Facts]:
    """Yield what decides whether CRIU can restore the network namespaces of the checkpoint in ``directory``.

    The routes are read as they are asked for. Raises InputError.
    """
    reader = _reader(directory)
    for number in reader.numbers if reader else ():
        if reader is None or reader.image("netns", number, parse_external_key) is not None:
            continue
        found = reader.image("netdev", number, parse_devices) or ()
        devices = {device.ifindex: unrestorable.Device(device.name, device.kind) for device in found}
        routes = chain.from_iterable(reader.image(kind, number, _saved_routes) or () for kind in ("route", "route6"))
        yield unrestorable.Facts(devices, routes, reader.image("ifaddr", number, _saved_addresses) or ())


def _saved_routes(data: bytes) -> list[bytes]:
    """Return the messages of a ``route`` or ``route6`` image."""
    return [message for _, message in _dumped(data, _ROUTE_DUMP_MAGIC, _RTM_NEWROUTE, _ROUTE_ATTRS)]


def _saved_addresses(data: bytes) -> list[bytes]:
    """Return the messages of an ``ifaddr`` image."""
    return [message for _, message in _dumped(data, _ADDRESS_DUMP_MAGIC, _RTM_NEWADDR, _ADDRESS_ATTRS)]


def _reader(directory: paths.Directory | str) -> "_Reader | None":
    """Return what reads the images of a checkpoint; None if there is none."""
    try:
        opened = directory if isinstance(directory, paths.Directory) else paths.Directory(directory)
        names = set(opened.names)
    except OSError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror}") from None
    if paths.INVENTORY not in names:
        return None
    numbers = {number for kind in ("netdev", "netns") for name in names if (number := _number(name, kind)) is not None}
    if len(numbers) > MOST_NAMESPACES:
        fault = f"images of {len(numbers)} network namespaces; {MOST_NAMESPACES} is the most that is read"
        raise InputError(f"{directory}: holds {fault}")
    return _Reader(opened, names, sorted(numbers))


def _number(name: str, kind: str) -> int | None:
    digits = name.removeprefix(f"{kind}-").removesuffix(".img")
    return int(digits) if digits.isdecimal() and name == f"{kind}-{int(digits)}.img" else None


def _namespace(reader: "_Reader", number: int) -> Namespace:
    addresses = reader.image("ifaddr", number, parse_addresses) or {}
    routes: dict[int, list[str]] = {}
    for kind in ("route", "route6"):
        for index, found in (reader.image(kind, number, parse_routes) or {}).items():
            routes.setdefault(index, []).extend(found)
    devices = [
        replace(
            device, addresses=tuple(addresses.get(device.ifindex, ())), routes=tuple(routes.get(device.ifindex, ()))
        )
        for device in reader.image("netdev", number, parse_devices) or ()
    ]
    return Namespace(id=number, external_key=reader.image("netns", number, parse_external_key), devices=tuple(devices))


class _Reader:
    """Reads the images of one directory, all of them together no more than MAX_SIZE.

    ``numbers`` are CRIU's of the network namespaces.
    """

    def __init__(self, directory: paths.Directory, names: set[str], numbers: list[int]) -> None:
        self.numbers = numbers
        self._directory = directory
        self._names = names
        self._left = MAX_SIZE

    def image(self, kind: str, number: int, parse: Callable[[bytes], T]) -> T | None:
        name = f"{kind}-{number}.img"
        if name not in self._names:
            return None
        path = f"{self._directory}/{name}"
        try:
            return parse(self._read(name, path))
        except DamagedError as error:
            raise InputError(f"{path}: is damaged: {error}") from None
        except TooManyError as error:
            raise InputError(f"{path}: the image has {error}") from None

    def _read(self, name: str, path: str) -> bytes:
        try:
            descriptor, size = paths.open_file(name, self._directory.descriptor)
        except paths.NotAFileError:
            raise InputError(f"{path}: the image is not a regular file") from None
        except OSError as error:
            what = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
            raise InputError(f"{path}: the image {what}") from None
        with os.fdopen(descriptor, "rb") as stream:
            if size > self._left:
                before = "" if self._left == MAX_SIZE else f", after {MAX_SIZE - self._left} of others"
                fault = f"the image is {size} bytes long; {MAX_SIZE} is the most that is read{before}"
                raise InputError(f"{path}: {fault}")
            self._left -= size
            return stream.read(size)


def parse_devices(data: bytes) -> tuple[Device, ...]:
    """Read a ``netdev`` image.

    Raises DamagedError or TooManyError.
    """
    found = tuple(_device(fields, start) for start, fields in islice(_messages(data, _NETDEV_MAGIC), MOST_DEVICES + 1))
    if len(found) > MOST_DEVICES:
        raise TooManyError(f"more than {MOST_DEVICES} devices, the most that is read")
    return found


def parse_external_key(data: bytes) -> str | None:
    """Return the key of an external network namespace from its ``netns`` image, or None: it is CRIU's to restore.

    Raises DamagedError or TooManyError.
    """
    for start, fields in _messages(data, _NETNS_MAGIC):
        key = fields.get(8)
        return None if key is None else _text(key, "key", start)
    return None


def parse_addresses(data: bytes) -> dict[int, list[str]]:
    """Read an ``ifaddr`` image: addresses with their prefix lengths, by ifindex.

    Raises DamagedError or TooManyError.
    """
    found: dict[int, list[str]] = {}
    for start, message in _dumped(data, _ADDRESS_DUMP_MAGIC, _RTM_NEWADDR, _ADDRESS_ATTRS):
        attrs = dict(wire.attrs(message, _ADDRESS_ATTRS))
        packed = attrs.get(_IFA_LOCAL) or attrs.get(_IFA_ADDRESS)
        if packed is None:
            raise DamagedError(f"the entry at byte {start} has no address")
        text = f"{_ip(packed, message[16], start)}/{message[17]}"
        found.setdefault(wire.get_u32(message, 20), []).append(text)
    return found


def parse_routes(data: bytes) -> dict[int, list[str]]:
    """Read a ``route`` or ``route6`` image: routes that lead through one device, by its ifindex.

    Raises DamagedError or TooManyError.
    """
    found: dict[int, list[str]] = {}
    for start, message in _dumped(data, _ROUTE_DUMP_MAGIC, _RTM_NEWROUTE, _ROUTE_ATTRS):
        attrs = dict(wire.attrs(message, _ROUTE_ATTRS))
        family, length, table, protocol, kind = message[16], message[17], message[20], message[21], message[23]
        if protocol == _RTPROT_KERNEL or kind != _RTN_UNICAST or _RTA_OIF not in attrs:
            continue
        destination, via, src = (
            _ip(attrs[number], family, start) if number in attrs else ""
            for number in (_RTA_DST, _RTA_GATEWAY, _RTA_PREFSRC)
        )
        route = Route(
            dst=f"{destination}/{length}" if destination else "default",
            family="inet6" if family == rules.AF_INET6 else "inet",
            via=via,
            src=src,
            metric=wire.get_u32(attrs.get(_RTA_PRIORITY, b""), 0),
            table=wire.get_u32(attrs[_RTA_TABLE], 0) if _RTA_TABLE in attrs else table,
        )
        found.setdefault(wire.get_u32(attrs[_RTA_OIF], 0), []).append(plan.route_text(route))
    return found


def _ip(packed: bytes, family: int, start: int) -> str:
    if len(packed) != {rules.AF_INET: 4, rules.AF_INET6: 16}.get(family):
        raise DamagedError(f"the entry at byte {start} has an address of family {family} with {len(packed)} bytes")
    return _socket.inet_ntop(family, packed)


def _dumped(data: bytes, magic: int, kind: int, shortest: int) -> Iterator[tuple[int, bytes]]:
    """Yield the messages of what ``ip ... save`` wrote, each with the byte at which it starts."""
    if data[:4] != wire.u32(magic) and data:  # without IPv6 there is an empty file
        raise DamagedError("it does not start as what ip(8) saves")
    offset, entries = 4, 0
    while offset < len(data):
        length = wire.get_u32(data, offset)
        if length < wire.HEADER or offset + length > len(data):
            raise DamagedError(f"the entry at byte {offset} is said to have {length} bytes")
        message = data[offset : offset + length]
        if wire.get_u16(message, 4) == kind:
            entries += 1
            if entries > MOST_ENTRIES:
                raise TooManyError(f"more than {MOST_ENTRIES} entries, the most that is read")
            if length < shortest:
                raise DamagedError(f"the entry at byte {offset} has only {length} bytes")
            yield offset, message
        offset += (length + 3) & ~3


#: A protobuf message: field number to its last value, an int or bytes.
Fields = dict[int, int | bytes]


def _device(fields: Fields, start: int) -> Device:
    def number(field: int) -> int | None:
        value = fields.get(field)
        if isinstance(value, bytes):
            raise DamagedError(f"the device at byte {start} has bytes for the number of field {field}")
        return value

    def required(field: int, what: str) -> int:
        value = number(field)
        if value is None:
            raise DamagedError(f"the device at byte {start} has no {what}")
        return value

    kind, flags = required(1, "type"), required(4, "flags")
    mac = fields.get(7)
    if isinstance(mac, int):
        raise DamagedError(f"the device at byte {start} has a number for its address")
    return Device(
        name=_text(fields.get(5), "name", start),
        kind=KINDS.get(kind, f"type {kind}"),
        ifindex=required(2, "ifindex"),
        mtu=required(3, "MTU"),
        flags=tuple(name for bit, name in FLAGS.items() if flags & bit),
        mac=mac.hex(":") if mac else None,
        # CRIU writes the device's own ifindex where there is no peer.
        peer_ifindex=number(12) if KINDS.get(kind) == "veth" else None,
        peer_namespace=number(13) if KINDS.get(kind) == "veth" else None,
        master=number(14) or None,
    )


def _text(value: int | bytes | None, what: str, start: int) -> str:
    r"""Return a text of an image. The kernel takes names that are not UTF-8: such bytes are written ``\xNN``."""
    if not isinstance(value, bytes):
        raise DamagedError(f"the entry at byte {start} has no {what}")
    return value.decode("utf-8", "backslashreplace")


def _messages(data: bytes, magic: int) -> Iterator[tuple[int, Fields]]:
    """Yield the messages of a CRIU image, each with the byte at which it starts."""
    numbers = [wire.u32(_COMMON_MAGIC), wire.u32(magic)]
    if data[:4] == numbers[1]:  # images of version 1 lack the common one
        offset = 4
    elif [data[:4], data[4:8]] == numbers:
        offset = 8
    else:
        raise DamagedError("it does not start with CRIU's magic numbers")
    while offset < len(data):
        size = wire.get_u32(data, offset)
        start, end = offset + 4, offset + 4 + size
        if start > len(data) or end > len(data) or size > _MAX_MESSAGE:
            raise DamagedError(f"the message at byte {offset} is said to have {size} bytes")
        yield start, _fields(data, start, end)
        offset = end


def _fields(data: bytes, offset: int, end: int) -> Fields:
    """Read the fields of one protobuf message; of a repeated one the last, nothing within messages."""
    found: Fields = {}
    while offset < end:
        at = offset
        key, offset = _varint(data, offset, end)
        number, kind = key >> 3, key & 7
        if not number:
            raise DamagedError(f"there is no field 0, which the one at byte {at} is said to be")
        if kind == _VARINT:
            found[number], offset = _varint(data, offset, end)
            continue
        if kind == _BYTES:
            size, offset = _varint(data, offset, end)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise DamagedError(f"there is no protobuf field at byte {at}")
        if size > end - offset:
            raise DamagedError(f"the field at byte {at} goes beyond its message")
        found[number] = data[offset : offset + size]
        offset += size
    return found


def _varint(data: bytes, offset: int, end: int) -> tuple[int, int]:
    """Return a number and where the next thing starts."""
    value = 0
    for shift in range(0, 70, 7):
        if offset >= end:
            break
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, offset
    raise DamagedError(f"the number before byte {offset} has no end")
