"""What a device may be called, and which of its sysctls may be set, on the word of a file that anybody may have made.

Pure tables. A name is judged because packet filters, routing daemons and DHCP clients go by names (``-i eth+``). A
sysctl is judged because it changes what this host believes of frames that come from the container. Sources: the
kernel's Documentation/networking/ip-sysctl.rst and mpls-sysctl.rst; for names systemd.net-naming-scheme(7) and the
programs that make such devices.
"""

import re
from functools import cache

#: What this host's uplinks, tunnels and bridges are called, without what follows a ``.`` or a ``:`` (a VLAN, a label).
_INFRASTRUCTURE = r"""
    (?:eth|bond|team|wlan|wwan|ppp|wg|tun|tap|usb|vlan|vxlan|geneve|gre|gretap|erspan|ip6tnl|ip6gre|ip6_vti|ip_vti
      |tunl|sit|ipip|dummy|ifb|nlmon|docker|br|virbr|lxcbr|lxdbr|incusbr|vmbr|cni|cbr|podman|kube|flannel|cilium
      |tailscale|zt|utun|vrf|hsr|macsec|macvtap|vmnet|vboxnet|rename)
      (?:$|[0-9_+-].*)
    | eth.*                                  # the oldest pattern of all
    | (?:en|wl|ww|sl|ib|mc)(?:$|[abcdiopsuv]?[0-9].*|x[0-9a-f].*)  # by firmware, slot, path or MAC address
    | em[0-9]+ | p[0-9]+p[0-9]+(?:_[0-9]+)?  # biosdevname
    | lo | ovs-system | ovs-netdev | all | default
"""


def looks_like_infrastructure(name: str) -> bool:
    """Say whether a device of this name would be taken for one of this host's uplinks, tunnels or bridges."""
    return _infrastructure().fullmatch(re.split("[.:@]", name, maxsplit=1)[0]) is not None


@cache
def _infrastructure() -> re.Pattern[str]:
    """Compile the pattern, which takes 5 ms, where a name is to be judged."""
    return re.compile(_INFRASTRUCTURE, re.VERBOSE | re.IGNORECASE | re.DOTALL)


_SWITCH = (0, 1)
_NUMBER = (0, 65535)  # of packets, seconds or tries
_MILLISECONDS = (0, 3_600_000)
_BYTES = (0, 1 << 20)
_OFF = (0, 0)

#: Key of a mapping file's ``sysctl`` to the lowest and the highest value that is harmless. What is not here is not.
SYSCTLS: dict[str, tuple[int, int]] = {
    # What is off by default because it believes what the other side says, or lets it in, may only be switched off.
    **dict.fromkeys(
        (
            "ipv4.accept_local", "ipv4.accept_redirects", "ipv4.accept_source_route", "ipv4.arp_accept",
            "ipv4.bc_forwarding", "ipv4.bootp_relay", "ipv4.disable_policy", "ipv4.disable_xfrm",
            "ipv4.route_localnet", "ipv4.src_valid_mark",
            "ipv6.accept_ra", "ipv6.accept_ra_defrtr", "ipv6.accept_ra_from_local", "ipv6.accept_ra_mtu",
            "ipv6.accept_ra_pinfo", "ipv6.accept_ra_rt_info_max_plen", "ipv6.accept_ra_rt_info_min_plen",
            "ipv6.accept_ra_rtr_pref", "ipv6.accept_redirects", "ipv6.accept_untracked_na", "ipv6.autoconf",
            "ipv6.disable_policy", "ipv6.rpl_seg_enabled", "ipv6.seg6_enabled", "mpls.input",
        ),
        _OFF,
    ),
    # What protects may only be switched on.
    "ipv4.secure_redirects": (1, 1),
    "ipv4.rp_filter": (1, 2),
    "ipv6.accept_source_route": (-1, 0),
    # How this host speaks to the container, and through whom: Calico and its like need the first five.
    **dict.fromkeys(
        (
            "ipv4.forwarding", "ipv4.proxy_arp", "ipv6.proxy_ndp", "ipv6.forwarding", "ipv6.disable_ipv6",
            "ipv4.arp_evict_nocarrier", "ipv4.arp_filter", "ipv4.arp_notify", "ipv4.drop_gratuitous_arp",
            "ipv4.drop_unicast_in_l2_multicast", "ipv4.ignore_routes_with_linkdown", "ipv4.log_martians",
            "ipv4.promote_secondaries", "ipv4.proxy_arp_pvlan", "ipv4.send_redirects", "ipv4.shared_media",
            "ipv6.drop_unicast_in_l2_multicast", "ipv6.drop_unsolicited_na", "ipv6.enhanced_dad", "ipv6.force_tllao",
            "ipv6.ignore_routes_with_linkdown", "ipv6.ndisc_evict_nocarrier", "ipv6.ndisc_notify",
            "ipv6.optimistic_dad", "ipv6.seg6_require_hmac", "ipv6.suppress_frag_ndisc", "ipv6.use_oif_addrs_only",
            "ipv6.use_optimistic",
        ),
        _SWITCH,
    ),
    "ipv4.arp_announce": (0, 2),
    "ipv4.arp_ignore": (0, 8),
    "ipv4.force_igmp_version": (0, 3),
    "ipv4.igmpv2_unsolicited_report_interval": _MILLISECONDS,
    "ipv4.igmpv3_unsolicited_report_interval": _MILLISECONDS,
    "ipv4.medium_id": (-1, 65535),
    "ipv4.tag": (0, (1 << 31) - 1),
    "ipv6.accept_dad": (0, 2),
    "ipv6.addr_gen_mode": (0, 3),
    "ipv6.dad_transmits": (0, 16),
    "ipv6.force_mld_version": (0, 2),
    "ipv6.hop_limit": (1, 255),
    "ipv6.keep_addr_on_down": (-1, 1),
    "ipv6.max_addresses": (1, 1024),
    "ipv6.mldv1_unsolicited_report_interval": _MILLISECONDS,
    "ipv6.mldv2_unsolicited_report_interval": _MILLISECONDS,
    "ipv6.ndisc_tclass": (0, 255),
    "ipv6.use_tempaddr": (-1, 2),
    **dict.fromkeys(
        (
            "ipv6.max_desync_factor", "ipv6.regen_max_retry", "ipv6.regen_min_advance", "ipv6.router_probe_interval",
            "ipv6.router_solicitation_delay", "ipv6.router_solicitation_interval",
            "ipv6.router_solicitation_max_interval", "ipv6.router_solicitations",
        ),
        (-1, 65535),
    ),
    "ipv6.temp_prefered_lft": (0, (1 << 31) - 1),
    "ipv6.temp_valid_lft": (0, (1 << 31) - 1),
    # How long this host waits for the container's neighbour entries, and how much it keeps meanwhile.
    **{
        f"{family}.neigh.{name}": harmless
        for family in ("ipv4", "ipv6")
        for name, harmless in {
            "anycast_delay": _MILLISECONDS,
            "app_solicit": (0, 16),
            "base_reachable_time_ms": _MILLISECONDS,
            "delay_first_probe_time": _NUMBER,
            "gc_stale_time": _NUMBER,
            "interval_probe_time_ms": _MILLISECONDS,
            "locktime": _NUMBER,
            "mcast_resolicit": (0, 16),
            "mcast_solicit": (0, 16),
            "proxy_delay": _NUMBER,
            "proxy_qlen": _NUMBER,
            "retrans_time_ms": _MILLISECONDS,
            "ucast_solicit": (0, 16),
            "unres_qlen_bytes": _BYTES,
        }.items()
    },
}  # fmt: skip


def is_harmless_sysctl(key: str, value: str) -> bool:
    """Say whether the outer end may have this setting on the word of anybody."""
    lowest, highest = SYSCTLS.get(key, (1, 0))
    digits = value.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) <= 10 and lowest <= int(value) <= highest
