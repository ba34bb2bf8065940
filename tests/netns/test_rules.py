"""`criu_veth.rules` says what the kernel would refuse; here the kernel says it."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from criu_veth import rules, sysctls
from lab import Host


def ask(host: Host, kind: int, flags: int, index: int, *attrs: tuple[int, bytes]) -> int:
    """Send one request for a link in so many bytes (`ip` has opinions of its own) and return the kernel's errno."""
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
    for number, value in attrs:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    with host.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
        (number,) = struct.unpack_from("=i", sock.recv(1 << 16), 16)
    return -int(number)


@pytest.fixture
def index(host: Host) -> int:
    """A veth's ifindex; its end is called v0."""
    host.veth("v0", "v1")
    host.run("ip", "link", "set", "v0", "down")
    return int(host.link("v0")["ifindex"])


RTM_SETLINK, RTM_NEWLINKPROP = 19, 108
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_IFALIAS, IFLA_PROP_LIST, IFLA_ALT_IFNAME = 1, 3, 4, 20, 52, 53

NAMES = [
    "a", "web0", "fifteen-bytes-x", "sixteen-bytes-xx", "veth.1", "ünd", "a@b", "...", ".", "..", "a/b", "a b", "a\tb",
    "a\nb", "a\vb", "a\fb", "a\rb", "a:b", "voilà", "é", "all", "default", "all0", "-x", "[", "a=b", "{x}",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_interface_name(host: Host, index: int, name: str) -> None:
    number = ask(host, RTM_SETLINK, 0, index, (IFLA_IFNAME, name.encode() + b"\0"))
    assert (number == 0) == (rules.ifname_fault(name) is None), errno.errorcode.get(number)
    if number == 0:
        assert name in host.run("ip", "-j", "link", "show").stdout or not name.isascii()


@pytest.mark.parametrize("name", ["a", "a:b%d", "a b", "a/b", "x" * 127, "x" * 128, "ü" * 63, "ü" * 64])
def test_alternative_name(host: Host, index: int, name: str) -> None:
    value = name.encode() + b"\0"
    attr = struct.pack("=HH", 4 + len(value), IFLA_ALT_IFNAME) + value + bytes(-len(value) % 4)
    number = ask(host, RTM_NEWLINKPROP, 0xE00, index, (IFLA_PROP_LIST | 0x8000, attr))
    assert (number == 0) == (rules.altname_fault(name) is None), errno.errorcode.get(number)


@pytest.mark.parametrize("alias", ["a", "web, front / ünd", "x" * 255, "x" * 256])
def test_alias(host: Host, index: int, alias: str) -> None:
    number = ask(host, RTM_SETLINK, 0, index, (IFLA_IFALIAS, alias.encode()))
    assert (number == 0) == (rules.alias_fault(alias) is None), errno.errorcode.get(number)


@pytest.mark.parametrize("mtu", [0, 67, 68, 1500, 65535, 65536])
def test_mtu(host: Host, index: int, mtu: int) -> None:
    number = ask(host, RTM_SETLINK, 0, index, (IFLA_MTU, struct.pack("=I", mtu)))
    assert (number == 0) == (rules.mtu_fault(mtu) is None), errno.errorcode.get(number)


@pytest.mark.parametrize(
    "mac", ["02:00:00:00:00:01", "00:00:00:00:00:01", "00:00:00:00:00:00", "01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"]
)
def test_mac(host: Host, index: int, mac: str) -> None:
    number = ask(host, RTM_SETLINK, 0, index, (IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))))
    assert (number == 0) == (rules.mac_fault(mac) is None), errno.errorcode.get(number)


@pytest.mark.parametrize("directory", sorted(set(rules.SYSCTL_DIRECTORIES.values()) - {"mpls/conf"}))
def test_each_device_has_its_sysctl_directory(host: Host, index: int, directory: str) -> None:
    assert host.run("ls", f"/proc/sys/net/{directory}/v0").stdout


TRY_ALL = """
import os, sys
for line in sys.stdin.read().splitlines():
    path, value = line.split("=", 1)
    try:
        descriptor = os.open("/proc/sys/net/" + path, os.O_RDWR)
        os.write(descriptor, value.encode())
        print(0)
    except OSError as error:
        print(error.errno)
"""
SETTINGS = [key for key in (*sysctls.RANGES, *sysctls.READ_ONLY) if key.startswith("ip")]
VALUES = ["0", "1", "2", "255", "1280", "-1", "x", "1x", "0x", "--1", "+1", "1_0", "1e3"]


@pytest.mark.kernel_since("6.18", "settings of IPv6 that say so when they take no value, which 6.1 has not")
def test_settings(host: Host, index: int) -> None:
    """What is refused beforehand the kernel refuses too, if the number is one of its integers."""
    there = [key for key in SETTINGS if host.path(f"/proc/sys/net/{rules.sysctl_path(key, 'lo')}").exists()]
    tried = [(key, value) for key in there for value in VALUES]
    lines = "".join(f"{rules.sysctl_path(key, 'v0')}={value}\n" for key, value in tried)
    answers = host.run("python3", "-c", TRY_ALL, stdin=lines).stdout.splitlines()
    harsh = [
        f"{key} = {value}: {sysctls.fault(key, value)}"
        for (key, value), answer in zip(tried, answers, strict=True)
        if sysctls.fault(key, value) and answer == "0"
    ]
    assert harsh == []


def test_settings_as_they_are(host: Host, index: int) -> None:
    """What a new device has is no fault, whatever this kernel's default is."""
    shown = host.run("sh", "-c", "cd /proc/sys/net; grep -r . ipv?/conf/v0 ipv?/neigh/v0 2>/dev/null", check=False)
    found = dict(line.split(":", 1) for line in shown.stdout.splitlines())
    assert len(found) > 50
    assert [
        f"{key} = {found[path]}: {fault}"
        for key in sysctls.RANGES
        if (path := rules.sysctl_path(key, "v0")) in found and (fault := sysctls.fault(key, found[path]))
    ] == []


@pytest.mark.parametrize(
    "address", ["fd00::1", "fe80::5", "::", "::1", "ff02::5", "fd00::", "::ffff:1.2.3.4", "fec0::1", "2001:db8::"]
)
def test_ipv6_address(host: Host, index: int, address: str) -> None:
    done = host.run("ip", "address", "add", f"{address}/64", "dev", "v0", check=False)
    assert (done.returncode == 0) == (rules.ipv6_fault(address) is None), done.stderr
