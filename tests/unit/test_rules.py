"""The kernel's rules, and what is said of what breaks them. `tests/netns/test_rules.py` asks the kernel itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from criu_veth import rules


@pytest.mark.parametrize("name", ["a", "web0", "fifteen-bytes-x", "veth.1", "ünd", "a@b", "...", "all0"])
def test_interface_names_that_the_kernel_takes(name: str) -> None:
    assert rules.ifname_fault(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "an interface name is empty"),
        ("sixteen-bytes-xx", "'sixteen-bytes-xx' is 16 bytes long; an interface name has at most 15"),
        ("äöüäöüäö", "'äöüäöüäö' is 16 bytes long; an interface name has at most 15"),
        (".", "'.' is not an interface name"),
        ("..", "'..' is not an interface name"),
        ("a/b", "'a/b' has '/' in it, which no interface name may"),
        ("../x", "'../x' has '/' in it, which no interface name may"),
        ("a b", "'a b' has ' ' in it, which no interface name may"),
        ("a\tb", r"'a\tb' has '\t' in it, which no interface name may"),
        ("a\n", r"'a\n' has '\n' in it, which no interface name may"),
        ("a\0b", r"'a\x00b' has '\x00' in it, which no interface name may"),
        ("voilà", "'voilà' has 'à' in it, which no interface name may"),
        ("eth0:1", "'eth0:1' has ':' in it, which no interface name may"),
        ("eth%d", "'eth%d' has '%' in it, which the kernel takes for a pattern"),
        (
            "all",
            "'all' is no interface name: /proc/sys/net has directories of that name which are no interface's",
        ),
        (
            "default",
            "'default' is no interface name: /proc/sys/net has directories of that name which are no interface's",
        ),
    ],
)
def test_interface_names_that_the_kernel_refuses(name: str, fault: str) -> None:
    assert rules.ifname_fault(name) == fault


def test_alternative_names_may_be_long() -> None:
    assert rules.altname_fault("a" * 127) is None
    assert rules.altname_fault("a:b%d") is None
    assert rules.altname_fault("a" * 128) == f"'{'a' * 128}' is 128 bytes long; an alternative name has at most 127"
    assert rules.altname_fault("a b") is None, "the kernel takes it, though ip refuses to set it"
    assert rules.altname_fault("") == "an alternative name is empty"


def test_alias() -> None:
    assert rules.alias_fault("web, front / ünd") is None
    assert rules.alias_fault("") is None
    assert rules.alias_fault("a" * 255) is None
    assert rules.alias_fault("a" * 256) == "the alias is 256 bytes long; the kernel takes at most 255"
    assert rules.alias_fault("a\nb") == "an alias has no line break and no NUL in it"
    assert rules.alias_fault("a\0b") == "an alias has no line break and no NUL in it"


@pytest.mark.parametrize("mac", ["02:00:00:00:00:01", "AA:bb:CC:dd:EE:ff", "00:00:00:00:00:01"])
def test_mac_addresses_of_a_device(mac: str) -> None:
    assert rules.mac_fault(mac) is None


@pytest.mark.parametrize(
    ("mac", "fault"),
    [
        ("01:00:5e:00:00:01", "'01:00:5e:00:00:01' is a multicast address; the first byte of a device's own is even"),
        ("ff:ff:ff:ff:ff:ff", "'ff:ff:ff:ff:ff:ff' is a multicast address; the first byte of a device's own is even"),
        ("00:00:00:00:00:00", "'00:00:00:00:00:00' is all zeros; the kernel refuses it"),
        *(
            (mac, f"{mac!r} is not a MAC address (six pairs of hexadecimal digits with colons between)")
            for mac in ("", "02:00:00:00:00", "02:00:00:00:00:01:02", "02-00-00-00-00-01", "02:00:00:00:00:0g", "+2:00")
        ),
    ],
)
def test_mac_addresses_that_no_device_has(mac: str, fault: str) -> None:
    assert rules.mac_fault(mac) == fault


@pytest.mark.parametrize("mtu", [68, 1500, 65535])
def test_mtu(mtu: int) -> None:
    assert rules.mtu_fault(mtu) is None


@pytest.mark.parametrize("mtu", [67, 65536, 0, -1])
def test_impossible_mtu(mtu: int) -> None:
    assert rules.mtu_fault(mtu) == f"{mtu} is not an MTU that a veth takes (68 to 65535)"


def test_unsigned_32_bits() -> None:
    assert rules.u32_fault(0) is None
    assert rules.u32_fault((1 << 32) - 1) is None
    assert rules.u32_fault(1 << 32) == "4294967296 is not between 0 and 4294967295"
    assert rules.u32_fault(-1) == "-1 is not between 0 and 4294967295"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("ipv4.proxy_arp", "ipv4/conf/web0/proxy_arp"),
        ("ipv6.accept_ra", "ipv6/conf/web0/accept_ra"),
        ("mpls.input", "mpls/conf/web0/input"),
        ("ipv4.neigh.retrans_time_ms", "ipv4/neigh/web0/retrans_time_ms"),
        ("ipv6.neigh.gc_stale_time", "ipv6/neigh/web0/gc_stale_time"),
    ],
)
def test_sysctl_path(key: str, path: str) -> None:
    assert rules.sysctl_path(key, "web0") == path


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ipv4",
        "ipv4.",
        "proxy_arp",
        "ipv4.conf.proxy_arp",
        "ipv4.../../tcp_sack",
        "ipv4.../x",
        "../x",
        "ipv4.a/b",
        "ipv4.A",
        "core.somaxconn",
        "ipv4.proxy_arp\n",
    ],
)
def test_sysctl_key_that_leaves_its_directory(key: str) -> None:
    with pytest.raises(ValueError, match=r"^") as raised:
        rules.sysctl_path(key, "web0")
    assert str(raised.value) == (
        f"{key!r} is not a per-device sysctl; these are: ipv4.NAME, ipv6.NAME, mpls.NAME, ipv4.neigh.NAME,"
        f" ipv6.neigh.NAME"
    )


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.0.0.2/24", ("10.0.0.2", 24)),
        ("10.0.0.2", ("10.0.0.2", 32)),
        ("10.0.0.2/0", ("10.0.0.2", 0)),
        ("fd00::2/64", ("fd00::2", 64)),
        ("FD00:0::2", ("fd00::2", 128)),
        ("::ffff:10.0.0.1/128", ("::ffff:10.0.0.1", 128)),
    ],
)
def test_interface_addresses(text: str, parsed: tuple[str, int]) -> None:
    assert rules.parse_interface(text) == parsed


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "'' is not an IP address"),
        ("web/24", "'web' is not an IP address"),
        ("10.0.0/24", "'10.0.0' is not an IP address"),
        ("10.0.0.2/33", "'10.0.0.2/33': the prefix length is a number from 0 to 32"),
        ("10.0.0.2/", "'10.0.0.2/': the prefix length is a number from 0 to 32"),
        ("10.0.0.2/-1", "'10.0.0.2/-1': the prefix length is a number from 0 to 32"),
        ("10.0.0.2/²", "'10.0.0.2/²': the prefix length is a number from 0 to 32"),
        ("fd00::2/129", "'fd00::2/129': the prefix length is a number from 0 to 128"),
        ("fe80::1%eth0/64", "'fe80::1%eth0' is not an IP address"),
        ("10.0.0.2\0/24", r"'10.0.0.2\x00' is not an IP address"),
    ],
)
def test_what_is_no_interface_address(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=r"^") as raised:
        rules.parse_interface(text)
    assert str(raised.value) == fault


def test_network_has_nothing_behind_its_prefix() -> None:
    assert rules.parse_network("10.99.0.0/24") == ("10.99.0.0", 24)
    assert rules.parse_network("10.99.0.1") == ("10.99.0.1", 32)
    assert rules.parse_network("0.0.0.0/0") == ("0.0.0.0", 0)
    with pytest.raises(ValueError, match=r"^") as raised:
        rules.parse_network("10.99.0.1/24")
    assert str(raised.value) == "'10.99.0.1/24' has bits set behind its prefix; the network is 10.99.0.0/24"
    with pytest.raises(ValueError, match=r"^") as raised:
        rules.parse_network("fd00::1/64")
    assert str(raised.value) == "'fd00::1/64' has bits set behind its prefix; the network is fd00::/64"


def test_family() -> None:
    assert [rules.family_of(a) for a in ("10.0.0.1", "::1")] == [rules.AF_INET, rules.AF_INET6]
    assert [rules.family_name(a) for a in ("10.0.0.1", "::1")] == ["inet", "inet6"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "none"),
        (0xFFFFFFFF, "root"),
        (0xFFFFFFF1, "ingress"),
        (0x10000, "1:"),
        (0x10010, "1:10"),
        (0xFFFF0000, "ffff:"),
        (0x10, "0:10"),
        (0x00100000, "10:"),
    ],
)
def test_traffic_control_handles(number: int, text: str) -> None:
    assert rules.tc_text(number) == text
    assert rules.tc_number(text) == number


@pytest.mark.parametrize(
    ("entries", "ids", "written"),
    [
        ((), set(), ()),
        ((10,), {10}, (10,)),
        (("10", "4094", 1), {1, 10, 4094}, (1, 10, 4094)),
        (("30-32", 33, 29, 31), {29, 30, 31, 32, 33}, ("29-33",)),
        (("1-4094",), set(range(1, 4095)), ("1-4094",)),
        ((7, "8-8", 10), {7, 8, 10}, ("7-8", 10)),
    ],
)
def test_vlans(entries: tuple[int | str, ...], ids: set[int], written: tuple[int | str, ...]) -> None:
    assert rules.parse_vlans(entries) == ids
    assert rules.vlan_entries(ids) == written
    assert rules.parse_vlans(written) == ids


@pytest.mark.parametrize("entry", [0, 4095, -1, "", "x", "0-3", "4000-4095", "3-", "-3", "1-2-3", "１", " 3", True])
def test_no_vlan(entry: int | str) -> None:
    with pytest.raises(ValueError, match="is no VLAN") as raised:
        rules.parse_vlans([entry])
    assert str(raised.value) == f"{entry!r} is no VLAN: an ID from 1 to 4094, or a range such as '30-39'"


def test_range_that_runs_backwards() -> None:
    with pytest.raises(ValueError, match=r"^'39-30' ends before it begins$"):
        rules.parse_vlans(["39-30"])


@pytest.mark.parametrize("check", [rules.ifname_fault, rules.altname_fault, rules.alias_fault])
def test_what_is_no_utf_8(check: Callable[[str], str | None]) -> None:
    assert check("web-\udcff") == "'web-\\udcff' is not UTF-8: '\\udcff' is no character"


@pytest.mark.parametrize(
    "text", ["", ":", ":1", "1", "-1:", "0x1:", "1_0:", " 1:", "1:+1", "10000:", "1:10000", "1:1:1"]
)
def test_no_handle(text: str) -> None:
    with pytest.raises(ValueError, match="a handle is MAJOR:MINOR in hexadecimal"):
        rules.tc_number(text)
