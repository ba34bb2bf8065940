"""CRIU's own images, as far as they tell of a network: made here byte by byte, and damaged."""

from __future__ import annotations

import contextlib
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from criu_veth import images, paths, way, wire
from criu_veth.errors import InputError
from criu_veth.images import DamagedError, Device, Namespace

NETDEV = wire.u32(0x54564319) + wire.u32(0x57373951)
NETNS = wire.u32(0x54564319) + wire.u32(0x55933752)
MAC = bytes.fromhex("020000000002")


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(*fields: bytes) -> bytes:
    body = b"".join(fields)
    return wire.u32(len(body)) + body


def device(kind: int, index: int, name: str, *more: bytes, flags: int = 0x11043, mtu: int = 1500) -> bytes:
    return entry(field(1, kind), field(2, index), field(3, mtu), field(4, flags), field(5, name.encode()), *more)


def netlink(kind: int, header: bytes, *attrs: bytes) -> bytes:
    return wire.message(kind, 0, header + b"".join(attrs))


def address(index: int, text: str, length: int) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    packed = socket.inet_pton(family, text)
    return netlink(20, bytes([family, length, 0x80, 0]) + wire.u32(index), wire.put_attr(1, packed))


def route(index: int, dst: str, length: int, *more: bytes, protocol: int = 3, kind: int = 1) -> bytes:
    family = socket.AF_INET6 if ":" in dst else socket.AF_INET
    header = bytes([family, length, 0, 0, 254, protocol, 0, kind]) + wire.u32(0)
    to = [wire.put_attr(1, socket.inet_pton(family, dst))] if length else []
    return netlink(24, header, *to, *more, wire.put_attr(4, wire.u32(index)))


@pytest.fixture
def checkpoint(images: Path) -> Path:
    (images / "inventory.img").write_bytes(b"")
    return images


def put(checkpoint: Path, **files: bytes) -> None:
    for kind, data in files.items():
        (checkpoint / f"{kind}-10.img").write_bytes(data)


def test_devices_with_their_addresses_and_routes(checkpoint: Path) -> None:
    put(
        checkpoint,
        netdev=NETDEV
        + device(1, 1, "lo", flags=0x10049, mtu=65536)
        + device(2, 2, "eth0", field(7, MAC), field(12, 33), field(9, b"\x08\x06"), mtu=9000)
        + device(2, 3, "v0", field(12, 4), field(13, 10), field(14, 5), flags=0x1002)
        + device(6, 5, "bridge0", field(12, 5), field(13, 10)),
        ifaddr=wire.u32(0x47361222)
        + address(1, "127.0.0.1", 8)
        + address(2, "10.0.0.2", 24)
        + address(2, "fe80::1", 64),
        route=wire.u32(0x45311224)
        + route(2, "0.0.0.0", 0, wire.put_attr(5, socket.inet_aton("10.0.0.1")))
        + route(2, "10.0.0.0", 24, protocol=2)
        + route(2, "10.9.0.0", 16, wire.put_attr(7, socket.inet_aton("10.0.0.2")), wire.put_attr(15, wire.u32(1000)))
        + route(2, "10.8.0.0", 16, kind=7),
        route6=wire.u32(0x45311224) + route(2, "2001:db8::", 32, wire.put_attr(6, wire.u32(1024))),
        netns=NETNS + entry(field(3, b"\x08\x06\x10\x00")),
    )

    assert images.read(str(checkpoint)) == (
        Namespace(
            id=10,
            devices=(
                Device(
                    name="lo",
                    kind="loopback",
                    ifindex=1,
                    mtu=65536,
                    flags=("LOOPBACK", "UP", "LOWER_UP"),
                    addresses=("127.0.0.1/8",),
                ),
                Device(
                    name="eth0",
                    kind="veth",
                    ifindex=2,
                    mtu=9000,
                    mac="02:00:00:00:00:02",
                    flags=("BROADCAST", "MULTICAST", "UP", "LOWER_UP"),
                    peer_ifindex=33,
                    addresses=("10.0.0.2/24", "fe80::1/64"),
                    routes=(
                        "default via 10.0.0.1",
                        "10.9.0.0/16 src 10.0.0.2 table 1000",
                        "2001:db8::/32 metric 1024",
                    ),
                ),
                Device(
                    name="v0",
                    kind="veth",
                    ifindex=3,
                    mtu=1500,
                    flags=("BROADCAST", "MULTICAST"),
                    peer_ifindex=4,
                    peer_namespace=10,
                    master=5,
                ),
                Device(
                    name="bridge0",
                    kind="bridge",
                    ifindex=5,
                    mtu=1500,
                    flags=("BROADCAST", "MULTICAST", "UP", "LOWER_UP"),
                ),
            ),
        ),
    )


def test_a_namespace_that_is_not_crius(checkpoint: Path) -> None:
    put(checkpoint, netns=NETNS + entry(field(8, b"web")))

    assert images.read(str(checkpoint)) == (Namespace(id=10, external_key="web"),)


def test_several_namespaces_are_in_order(checkpoint: Path) -> None:
    for number in (9, 10, 100):
        (checkpoint / f"netdev-{number}.img").write_bytes(NETDEV)
    for name in ("netdev-010.img", "netdev-.img", "netdev-x.img", "netdev-1.img.bak", "xnetdev-1.img"):
        (checkpoint / name).write_bytes(b"not CRIU's")

    assert images.read(str(checkpoint)) == (Namespace(id=9), Namespace(id=10), Namespace(id=100))


def test_no_checkpoint(tmp_path: Path) -> None:
    assert images.read(str(tmp_path)) is None
    (tmp_path / "inventory.img").touch()
    assert images.read(str(tmp_path)) == ()
    with pytest.raises(InputError, match=rf"^{tmp_path}/x: cannot be read: No such file or directory$"):
        images.read(f"{tmp_path}/x")


def test_images_of_the_first_version_have_one_magic_number() -> None:
    assert len(images.parse_devices(NETDEV[4:] + device(2, 2, "eth0"))) == 1


def test_what_a_newer_criu_adds_is_passed_over() -> None:
    more = (field(99, 7), field(98, b"bytes"), varint(97 << 3 | 1) + bytes(8), varint(96 << 3 | 5) + bytes(4))

    (found,) = images.parse_devices(NETDEV + device(23, 2, "new0", *more))

    assert (found.name, found.kind) == ("new0", "type 23")


def test_an_ipv6_image_may_be_empty() -> None:
    assert images.parse_routes(b"") == {}


GOOD = device(2, 2, "eth0", field(7, MAC))
ENTRY = len(NETDEV)  # where the first entry's size is
START = ENTRY + 4


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "it does not start with CRIU's magic numbers"),
        (NETNS + GOOD, "it does not start with CRIU's magic numbers"),
        (NETDEV + wire.u32(1 << 30) + GOOD, f"the message at byte {ENTRY} is said to have {1 << 30} bytes"),
        (NETDEV + GOOD[:-1], f"the message at byte {ENTRY} is said to have {len(GOOD) - 4} bytes"),
        (NETDEV + GOOD + b"\x01\x02", f"the message at byte {ENTRY + len(GOOD)} is said to have 513 bytes"),
        (NETDEV + entry(field(1, 2)), f"the device at byte {START} has no flags"),
        (NETDEV + entry(b"\x80" * 11), f"the number before byte {START + 10} has no end"),
        (NETDEV + entry(b"\x08\x80"), f"the number before byte {START + 2} has no end"),
        (NETDEV + entry(b"\x0b"), f"there is no protobuf field at byte {START}"),
        (NETDEV + entry(b"\x02\x00"), f"there is no field 0, which the one at byte {START} is said to be"),
        (NETDEV + entry(b"\x2a\x05eth0"), f"the field at byte {START} goes beyond its message"),
        (NETDEV + entry(b"\x09\x00"), f"the field at byte {START} goes beyond its message"),
        (NETDEV + entry(field(1, b"2")), f"the device at byte {START} has bytes for the number of field 1"),
        (NETDEV + device(2, 2, "e", field(7, 1)), f"the device at byte {START} has a number for its address"),
        (NETDEV + device(2, 2, "e", field(5, 3)), f"the entry at byte {START} has no name"),
    ],
)
def test_a_damaged_netdev_image(checkpoint: Path, data: bytes, fault: str) -> None:
    put(checkpoint, netdev=data)

    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))

    assert str(caught.value) == f"{checkpoint}/netdev-10.img: is damaged: {fault}"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\0\0\0\0", "it does not start as what ip(8) saves"),
        (wire.u32(0x47361222) + bytes(16), "the entry at byte 4 is said to have 0 bytes"),
        (wire.u32(0x47361222) + address(2, "10.0.0.2", 24)[:-4], "the entry at byte 4 is said to have 32 bytes"),
        (wire.u32(0x47361222) + netlink(20, bytes(4)), "the entry at byte 4 has only 20 bytes"),
        (wire.u32(0x47361222) + netlink(20, bytes(8)), "the entry at byte 4 has no address"),
        (
            wire.u32(0x47361222) + netlink(20, bytes([10, 24, 0, 0]) + bytes(4), wire.put_attr(1, bytes(4))),
            "the entry at byte 4 has an address of family 10 with 4 bytes",
        ),
    ],
)
def test_a_damaged_address_image(checkpoint: Path, data: bytes, fault: str) -> None:
    put(checkpoint, ifaddr=data, netdev=NETDEV)

    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))

    assert str(caught.value) == f"{checkpoint}/ifaddr-10.img: is damaged: {fault}"


def test_every_truncation_is_noticed_or_harmless() -> None:
    whole = NETDEV + GOOD + GOOD
    for length in range(len(whole)):
        if length in (len(NETDEV), len(NETDEV + GOOD)):
            continue
        with pytest.raises(DamagedError):
            images.parse_devices(whole[:length])


@pytest.mark.parametrize("parse", [images.parse_devices, images.parse_addresses, images.parse_routes])
def test_any_flipped_byte_is_an_error_or_another_value(parse: object) -> None:
    whole = {
        images.parse_devices: NETDEV + GOOD,
        images.parse_addresses: wire.u32(0x47361222) + address(2, "10.0.0.2", 24),
        images.parse_routes: wire.u32(0x45311224) + route(2, "10.9.0.0", 16),
    }[parse]  # type: ignore[index]
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            try:
                parse(bytes(data))  # type: ignore[operator]
            except DamagedError:
                continue


def test_what_is_no_file_is_not_read(checkpoint: Path) -> None:
    path = checkpoint / "netdev-10.img"

    path.symlink_to("/dev/zero")
    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))
    assert str(caught.value) == f"{path}: the image is a symbolic link"

    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))
    assert str(caught.value) == f"{path}: the image is not a regular file"


def test_a_name_that_is_not_utf_8_is_shown_with_its_bytes() -> None:
    (found,) = images.parse_devices(NETDEV + device(2, 2, "e", field(5, b"w\xffb\xc3\xbc")))
    assert found.name == r"w\xffbü"


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory"])
def test_nothing_waits_for_what_is_named_like_an_image(checkpoint: Path, kind: str) -> None:
    """What is opened in the frozen window, and what the commands read."""
    names = ["netns-9.img", "netdev-9.img", "ifaddr-9.img", "ids-1.img", "files.img"]
    for name in names:
        place(checkpoint / name, kind)
    directory = paths.Directory(str(checkpoint))

    assert [directory.read(name, 64) for name in names] == [None] * len(names)
    assert not way.images_have_external_netns(directory)
    assert way.images_hold_devices(directory)
    assert not way.images_share_netns(directory)
    assert not way.images_need_ipv6(directory)
    with pytest.raises(InputError) as caught:
        images.read(directory)
    what = "cannot be read: No such device or address" if kind == "socket" else "is not a regular file"
    assert str(caught.value) == f"{checkpoint}/ifaddr-9.img: the image {what}"


def place(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)


def test_an_inventory_that_is_a_fifo_names_no_namespace(checkpoint: Path) -> None:
    (checkpoint / "inventory.img").unlink()
    os.mkfifo(checkpoint / "inventory.img")
    (checkpoint / "ids-1.img").write_bytes(b"")

    assert not way.images_share_netns(str(checkpoint))


def test_a_link_named_like_an_image_is_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    external = tmp_path / "elsewhere"
    external.write_bytes(NETNS + entry(field(8, b"key")))
    (checkpoint / "netns-9.img").write_bytes(external.read_bytes())
    assert way.images_have_external_netns(str(checkpoint))
    (checkpoint / "netns-9.img").unlink()
    (checkpoint / "netns-9.img").symlink_to(external)

    assert not way.images_have_external_netns(str(checkpoint))


def test_an_image_that_is_too_long_is_not_read(checkpoint: Path) -> None:
    path = checkpoint / "netdev-10.img"
    with path.open("wb") as stream:
        stream.truncate(100 << 20)

    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))

    assert str(caught.value) == f"{path}: the image is 104857600 bytes long; 16777216 is the most that is read"


def test_images_that_are_too_long_together_are_not_read(checkpoint: Path) -> None:
    for number in (10, 11):
        with (checkpoint / f"route-{number}.img").open("wb") as stream:
            stream.write(wire.u32(0x45311224) + netlink(0, bytes((10 << 20) - 20)))
        (checkpoint / f"netdev-{number}.img").write_bytes(NETDEV)

    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))

    assert str(caught.value) == (
        f"{checkpoint}/route-11.img: the image is {10 << 20} bytes long; 16777216 is the most that is read, after"
        f" {(10 << 20) + len(NETDEV)} of others"
    )


def test_sparse_images_take_no_memory_and_no_time(checkpoint: Path) -> None:
    for name in ("netns-9.img", "ifaddr-9.img", "files.img"):
        with (checkpoint / name).open("wb") as stream:
            stream.truncate(1 << 40)
    tracemalloc.start()
    try:
        assert not way.images_have_external_netns(str(checkpoint))
        assert way.images_need_ipv6(str(checkpoint)), "what is too large to look through may hold anything"
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_entries_are_counted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_DEVICES", 2)
    monkeypatch.setattr(images, "MOST_ENTRIES", 2)
    put(checkpoint, netdev=NETDEV + GOOD * 2, route=wire.u32(0x45311224) + route(2, "10.9.0.0", 16) * 2)
    assert images.read(str(checkpoint))

    put(checkpoint, netdev=NETDEV + GOOD * 3)
    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))
    where = f"{checkpoint}/netdev-10.img"
    assert str(caught.value) == f"{where}: the image has more than 2 devices, the most that is read"

    put(checkpoint, netdev=NETDEV, route=wire.u32(0x45311224) + route(2, "10.9.0.0", 16) * 3)
    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))
    where = f"{checkpoint}/route-10.img"
    assert str(caught.value) == f"{where}: the image has more than 2 entries, the most that is read"


def test_namespaces_are_counted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_NAMESPACES", 2)
    for number in (10, 11, 12):
        (checkpoint / f"netdev-{number}.img").write_bytes(NETDEV)

    with pytest.raises(InputError) as caught:
        images.read(str(checkpoint))

    assert str(caught.value) == f"{checkpoint}: holds images of 3 network namespaces; 2 is the most that is read"
