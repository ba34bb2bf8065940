"""What the kernel takes as the value of a sysctl that each device has.

Pure. Sources: ``devinet_sysctl`` (net/ipv4/devinet.c), ``addrconf_sysctl`` (net/ipv6/addrconf.c),
``neigh_sysctl_template`` (net/core/neighbour.c), ``mpls_dev_table`` (net/mpls/af_mpls.c) and the handlers that they
name (kernel/sysctl.c) of Linux 6.18; each row was tried on it. A setting that is not listed may be any text: the kernel
that has it judges it, in a rehearsal.
"""

from typing import NamedTuple

from criu_veth import rules

_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1
_U16, _U32 = (1 << 16) - 1, (1 << 32) - 1


class Range(NamedTuple):
    """The integers that a setting takes, both ends included; ``decimal``: the kernel reads no other base there."""

    low: int
    high: int
    decimal: bool = False


_ANY = Range(_INT_MIN, _INT_MAX)
_COUNT = Range(0, _INT_MAX)
_SWITCH = Range(0, 1, decimal=True)
#: Seconds that the kernel keeps in jiffies, of which each has at least 100 (``HZ``): it refuses what overflows.
_SECONDS = Range(_INT_MIN // 100, _INT_MAX // 100)
#: Below ipv4 and ipv6, what is no `_ANY`.
_CONF: dict[str, Range] = {
    "accept_untracked_na": Range(0, 2, decimal=True),
    "addr_gen_mode": Range(0, 3, decimal=True),
    "force_forwarding": _SWITCH,
    "hop_limit": Range(1, 255),
    "ioam6_enabled": _SWITCH,
    "ioam6_id": Range(0, _U16),
    "ioam6_id_wide": Range(0, _U32),
    "mldv1_unsolicited_report_interval": _COUNT,
    "mldv2_unsolicited_report_interval": _COUNT,
    "mtu": Range(1280, rules.MTU_MAX),
    "ndisc_evict_nocarrier": _SWITCH,
    "ndisc_tclass": Range(0, 255),
    "ra_defrtr_metric": Range(1, _U32),
    "ra_honor_pio_life": _SWITCH,
    "ra_honor_pio_pflag": _SWITCH,
    "router_probe_interval": _SECONDS,
    "router_solicitation_delay": _SECONDS,
    "router_solicitation_interval": _SECONDS,
    "router_solicitation_max_interval": _SECONDS,
    "router_solicitations": Range(-1, _INT_MAX),
    "rpl_seg_enabled": _SWITCH,
}
_IPV4 = (
    "accept_local accept_redirects accept_source_route arp_accept arp_announce arp_evict_nocarrier arp_filter"
    " arp_ignore arp_notify bc_forwarding bootp_relay disable_policy disable_xfrm drop_gratuitous_arp"
    " drop_unicast_in_l2_multicast force_igmp_version forwarding igmpv2_unsolicited_report_interval"
    " igmpv3_unsolicited_report_interval ignore_routes_with_linkdown log_martians medium_id promote_secondaries"
    " proxy_arp proxy_arp_pvlan route_localnet rp_filter secure_redirects send_redirects shared_media src_valid_mark"
    " tag"
)
_IPV6 = (
    "accept_dad accept_ra accept_ra_defrtr accept_ra_from_local accept_ra_min_hop_limit accept_ra_min_lft"
    " accept_ra_mtu accept_ra_pinfo accept_ra_rt_info_max_plen accept_ra_rt_info_min_plen accept_ra_rtr_pref"
    " accept_redirects accept_source_route autoconf dad_transmits disable_ipv6 disable_policy"
    " drop_unicast_in_l2_multicast drop_unsolicited_na enhanced_dad force_mld_version force_tllao forwarding"
    " ignore_routes_with_linkdown keep_addr_on_down max_addresses max_desync_factor ndisc_notify optimistic_dad"
    " proxy_ndp regen_max_retry regen_min_advance seg6_enabled seg6_require_hmac suppress_frag_ndisc"
    " temp_prefered_lft temp_valid_lft use_oif_addrs_only use_optimistic use_tempaddr"
)
_NEIGH: dict[str, Range] = {
    "app_solicit": _COUNT,
    "base_reachable_time": _SECONDS,
    "delay_first_probe_time": _SECONDS,
    "gc_stale_time": _SECONDS,
    "interval_probe_time_ms": Range(1, _INT_MAX),
    "mcast_resolicit": _COUNT,
    "mcast_solicit": _COUNT,
    "proxy_qlen": _COUNT,
    "base_reachable_time_ms": _COUNT,
    "retrans_time_ms": _COUNT,
    "ucast_solicit": _COUNT,
    # Packets, which the kernel keeps as bytes: SKB_TRUESIZE(ETH_FRAME_LEN) is at least 2 KiB.
    "unres_qlen": Range(0, _INT_MAX // 2048),
    "unres_qlen_bytes": _COUNT,
    # Units of 1/100 s; what is too large becomes the largest.
    "anycast_delay": _ANY,
    "locktime": _ANY,
    "proxy_delay": _ANY,
    "retrans_time": _ANY,
}
#: By key as the mapping file has it.
RANGES: dict[str, Range] = {
    **{f"ipv4.{name}": _ANY for name in _IPV4.split()},
    **{f"ipv6.{name}": _ANY for name in _IPV6.split()},
    **{f"ipv6.{name}": known for name, known in _CONF.items()},
    **{f"{family}.neigh.{name}": known for family in ("ipv4", "ipv6") for name, known in _NEIGH.items()},
    "mpls.input": Range(0, 1),
}
#: What the kernel sets itself, and nobody else may.
READ_ONLY = ("ipv4.mc_forwarding", "ipv6.mc_forwarding")
_AN_ADDRESS = ("ipv6.stable_secret",)


def fault(key: str, value: int | str) -> str | None:
    """Say why the kernel would not take ``value`` for the setting ``key``, as far as that is the same everywhere."""
    if key in READ_ONLY:
        return "can only be read: the kernel sets it as a multicast router starts and ends"
    text = str(value)
    if not text.strip():
        return "has no value: nothing would be written"
    if len(text) > _LONGEST or not text.isprintable():
        return f"{text[:32]!r} is no value of a setting: printable, and at most {_LONGEST} characters"
    if key in _AN_ADDRESS:
        return None if _is_ipv6(text) else f"{text!r} is not an IPv6 address"
    known = RANGES.get(key)
    if known is None:
        return None
    number = _number(text, known)
    if number is None:
        return f"{text!r} is not a number"
    return None if known.low <= number <= known.high else f"{number} is not between {known.low} and {known.high}"


_LONGEST, _MOST_DIGITS = 255, 20


def _is_ipv6(text: str) -> bool:
    try:
        return ":" in rules.parse_address(text)
    except ValueError:
        return False


def _number(text: str, known: Range) -> int | None:
    """Read a number as the kernel does: hexadecimal after ``0x`` and octal after ``0``, where it takes these."""
    sign, digits = ("-", text.strip()[1:]) if text.strip().startswith("-") else ("", text.strip())
    base = 10
    if not known.decimal and len(digits) > 1 and digits[0] == "0":
        digits, base = (digits[2:], 16) if digits[1] in "xX" else (digits[1:], 8)
    if not digits or len(digits) > _MOST_DIGITS or digits.lower().strip("0123456789abcdef"[:base]):
        return None
    return int(sign + digits, base)
