"""Who made an outer end, and what this project may do with it. Pure; the one place that decides it.

The maker of a pair owns its *identity*: the outer end's name, MAC address, bridge, addresses and routes, and what goes
with these. Everything else is its *dress*. The mapping file may overrule the maker, key by key and only by what it says
explicitly. What criu was told wins over the capture, and the capture over the kernel's defaults.

=====================  ==========================================  =================================================
the pair is made by    known from                                  what was captured of it
=====================  ==========================================  =================================================
CRIU                   ``--external veth[INNER]:OUTER[@BRIDGE]``   is put back; OUTER and BRIDGE are the caller's
the hook               no such device when its turn comes          is put back
the caller, before     ``--external netdev[INNER]:NAME``, there    the dress is put back; the identity stays his
a runtime or CNI       an external network namespace, or the       the dress is put back where the maker left the
                       inner end is there in an empty one          kernel's default; the identity stays the maker's
=====================  ==========================================  =================================================
"""

from collections.abc import Callable

import msgspec

from criu_veth import rules
from criu_veth.state import CapturedVeth, Inner, Outer, Veth
from criu_veth.way import ADOPT, EMPTY, EXTERNAL, MADE, READY, UNKNOWN

#: What an end is known by; where somebody else made it, this is not put back.
IDENTITY = (
    "ifname",
    "altnames",
    "mac",
    "master",
    "master_kind",
    "ovs",
    "up",
    "addresses",
    "routes",
    "rules",
    "neighbours",
    "fdb",
)

#: Of how many addresses it is asked whether somebody else has them.
_MOST_ADDRESSES = 8

#: What of an inner end that somebody else made is put back.
_INNER_DRESS = ("mtu", "txqueuelen", "group", "alias", "features_off")

#: How the hook speaks of it.
IDENTITY_WORDS = "name, MAC address, bridge, addresses and routes"


def is_foreign(mode: str) -> bool:
    """Say whether it is certain, before anything is made, that somebody else than CRIU and the hook makes the pair."""
    return mode in (ADOPT, MADE)


def may_be_foreign(mode: str) -> bool:
    """Say whether somebody else makes the pair, or may do so before the hook's turn comes."""
    return is_foreign(mode) or is_judged_later(mode)


def is_judged_later(mode: str) -> bool:
    """Say whether who makes the pair is known only when the network namespace is there."""
    return mode == EMPTY


def keeps_what_its_maker_set(mode: str) -> bool:
    """Say whether captured dress gives way to what the maker of the pair set himself.

    A runtime or CNI makes the pair as its own configuration says. A caller who only hands a device to CRIU has left
    that to whoever restores it.
    """
    return mode != MADE


def is_named_by_caller(mode: str) -> bool:
    """Say whether the outer end has, when the hook sees it, a name that the caller chose but could not be read."""
    return mode == UNKNOWN


def is_made_with_what_was_told(mode: str) -> bool:
    """Say whether CRIU makes the pair under the name, and attaches it to the bridge, that it was told."""
    return mode == EXTERNAL


def dress(outer: Outer) -> Outer:
    """Return what is put back of an outer end that somebody else made."""
    return _only(outer, lambda key: key not in IDENTITY)


def inner_fault(netns: Inner, mode: str) -> str | None:
    """Say why what a mapping file asks for of the inner end cannot be done where it comes back by ``mode``, if so."""
    if mode in (EXTERNAL, READY, MADE, UNKNOWN):
        return (
            "CRIU brings the inner end back as it is in the images, and nothing of this would be done; leave it out, or"
            ' have the network namespace made empty (mode = "empty", and criu restore --empty-ns net)'
        )
    theirs = [f for f in msgspec.structs.fields(Inner) if f.name not in ("ifname", *_INNER_DRESS)]
    asked = [f.name for f in theirs if getattr(netns, f.name) != f.default]
    if mode != ADOPT or not asked:
        return None
    return f"the network namespace is not CRIU's to restore, and its maker sets {' and '.join(asked)}; leave that out"


def inner_dress(netns: Inner | None, inner: str) -> Inner:
    """Return what is put back of an inner end that somebody else made: its queue and what it is called by people.

    Its addresses, routes and neighbours are the maker's; so are its sysctls, which decide how it is reached.
    """
    if netns is None:
        return Inner(ifname=inner)
    return Inner(ifname=inner, **{key: getattr(netns, key) for key in _INNER_DRESS})


def is_made_by_others(veth: Veth, found: CapturedVeth) -> bool:
    """Say whether a restored pair is another's: it must be, or what the hook would have given it is not there."""
    return is_foreign(veth.mode) or (
        is_judged_later(veth.mode) and found.outer.ifname != veth.outer.ifname and found.outer.mac != veth.outer.mac
    )


def identity_inside(veth: Veth) -> tuple[bytes, tuple[bytes, ...]] | None:
    """Return (MAC address, IP addresses) that the inner end comes back with, as far as that was captured."""
    netns = veth.netns
    mac = netns.mac if netns is not None else None
    if netns is None or mac is None or is_foreign(veth.mode):
        return None
    addresses = [rules.parse_interface(entry.address)[0] for entry in netns.addresses]
    beyond_link = [address for address in addresses if not address.startswith("fe80:")]
    return bytes.fromhex(mac.replace(":", "")), tuple(rules.packed(one) for one in beyond_link[:_MOST_ADDRESSES])


def _only(outer: Outer, wanted: Callable[[str], bool]) -> Outer:
    fields = msgspec.structs.fields(Outer)
    return Outer(**{f.name: getattr(outer, f.name) for f in fields if f.name != "ifname" and wanted(f.name)}, ifname="")
