"""What was captured and this host's kernel has no place for: left out of a restore, with a word. Pure.

Linux may be booted without IPv6 (``ipv6.disable=1``), or be built without it or without MPLS; the kernel that the
capture comes from was another one. What the mapping file asks for is not this module's: there it is an error.
"""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

from msgspec.structs import replace

from criu_veth import rules
from criu_veth.state import CapturedVeth, Inner, Outer, State

E = TypeVar("E", Inner, Outer)

_IPV6 = "ipv6"


def fit(captured: State, exists: Callable[[str], bool]) -> tuple[State, str | None]:
    """Return ``captured`` without what the kernel lacks, and a notice that names it, if there is any.

    ``exists`` says whether there is a path below ``/proc/sys/net``.
    """
    has = cache(exists)
    lost: dict[str, None] = {}
    veths = tuple(_fit(veth, has, lost) for veth in captured.veths)
    if not lost:
        return captured, None
    names = ", ".join(was.inner.ifname for was, veth in zip(captured.veths, veths, strict=True) if veth != was)
    notice = f"left out of what was captured of {names}: {', '.join(lost)}: this kernel does not have that"
    return replace(captured, veths=veths), notice


def _fit(veth: CapturedVeth, has: Callable[[str], bool], lost: dict[str, None]) -> CapturedVeth:
    inner, outer = _without_sysctls(veth.inner, has, lost), _without_sysctls(veth.outer, has, lost)
    if not has(_IPV6):
        inner, outer = _without_ipv6(inner, lost), _without_ipv6(outer, lost)
    return veth if inner is veth.inner and outer is veth.outer else replace(veth, inner=inner, outer=outer)


def _without_sysctls(end: E, has: Callable[[str], bool], lost: dict[str, None]) -> E:
    missing = [key for key in end.sysctl if not has(rules.sysctl_path(key, "lo"))]
    if not missing:
        return end
    lost.update((f"sysctl {key}", None) for key in missing)
    return replace(end, sysctl={key: value for key, value in end.sysctl.items() if key not in missing})


def _without_ipv6(end: E, lost: dict[str, None]) -> E:
    kept: dict[str, tuple[object, ...]] = {
        "addresses": tuple(one for one in end.addresses if ":" not in one.address),
        "routes": tuple(one for one in end.routes if one.family != "inet6"),
        "neighbours": tuple(one for one in end.neighbours if ":" not in one.dst),
    }
    if isinstance(end, Outer):
        kept["rules"] = tuple(one for one in end.rules if one.family != "inet6")
    changes = {name: entries for name, entries in kept.items() if len(entries) != len(getattr(end, name))}
    lost.update((f"IPv6 {name}", None) for name in changes)
    return replace(end, **changes) if changes else end
