"""What a setting takes. `tests/netns/test_rules.py` asks the kernel itself."""

from __future__ import annotations

import pytest

from criu_veth import rules, sysctls


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipv4.proxy_arp", 1),
        ("ipv4.rp_filter", "2"),
        ("ipv4.medium_id", -1),
        ("ipv4.arp_ignore", " 1"),
        ("ipv4.arp_ignore", "0x10"),
        ("ipv4.arp_ignore", "010"),
        ("ipv4.tag", -(1 << 31)),
        ("ipv6.mtu", 1280),
        ("ipv6.hop_limit", 255),
        ("ipv6.router_solicitations", -1),
        ("ipv6.ioam6_id_wide", (1 << 32) - 1),
        ("ipv6.stable_secret", "fd00::5"),
        ("ipv6.neigh.interval_probe_time_ms", 1),
        ("ipv4.neigh.gc_stale_time", 21474836),
        ("mpls.input", 1),
        ("ipv6.of_another_kernel", "any text"),
    ],
)
def test_taken(key: str, value: int | str) -> None:
    assert sysctls.fault(key, value) is None


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("ipv4.proxy_arp", "on", "'on' is not a number"),
        ("ipv4.proxy_arp", "", "has no value: nothing would be written"),
        ("ipv6.of_another_kernel", " ", "has no value: nothing would be written"),
        ("ipv4.proxy_arp", "1 2", "'1 2' is not a number"),
        ("ipv4.proxy_arp", "1x", "'1x' is not a number"),
        ("ipv4.proxy_arp", "--1", "'--1' is not a number"),
        ("ipv4.proxy_arp", "+1", "'+1' is not a number"),
        ("ipv4.proxy_arp", "1_0", "'1_0' is not a number"),
        ("ipv4.proxy_arp", "0x", "'0x' is not a number"),
        ("ipv4.proxy_arp", "٣", "'٣' is not a number"),
        ("ipv4.proxy_arp", "9" * 21, f"'{'9' * 21}' is not a number"),
        ("ipv4.proxy_arp", 1 << 31, "2147483648 is not between -2147483648 and 2147483647"),
        ("ipv6.mtu", 1279, "1279 is not between 1280 and 65535"),
        ("ipv6.hop_limit", 0, "0 is not between 1 and 255"),
        ("ipv6.ioam6_enabled", 2, "2 is not between 0 and 1"),
        ("ipv6.ioam6_enabled", "0x1", "'0x1' is not a number"),
        ("ipv6.accept_untracked_na", 3, "3 is not between 0 and 2"),
        ("ipv6.neigh.retrans_time_ms", -1, "-1 is not between 0 and 2147483647"),
        ("ipv6.stable_secret", "1", "'1' is not an IPv6 address"),
        ("ipv6.stable_secret", "10.0.0.1", "'10.0.0.1' is not an IPv6 address"),
        ("ipv4.mc_forwarding", 1, "can only be read: the kernel sets it as a multicast router starts and ends"),
        ("ipv6.of_another_kernel", "a\nb", "'a\\nb' is no value of a setting: printable, and at most 255 characters"),
        (
            "ipv6.of_another_kernel",
            "a" * 256,
            f"'{'a' * 32}' is no value of a setting: printable, and at most 255 characters",
        ),
    ],
)
def test_refused(key: str, value: int | str, fault: str) -> None:
    assert sysctls.fault(key, value) == fault


def test_every_key_is_one() -> None:
    for key in (*sysctls.RANGES, *sysctls.READ_ONLY):
        assert rules.sysctl_path(key, "lo").endswith(key.rpartition(".")[2])
