"""Who made a pair, and what of it is whose."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from criu_veth import config, ownership, resolve
from criu_veth.state import Address, CapturedVeth, Host, Inner, Outer, Route, State, Veth
from criu_veth.way import Way, images_have_external_netns

OUTER = Outer(
    ifname="web0",
    mac="02:00:00:00:00:01",
    mtu=1400,
    alias="captured",
    txqueuelen=500,
    master="br0",
    master_kind="bridge",
    altnames=("front",),
    up=True,
    port={"hairpin": 1},
    addresses=(Address(address="169.254.1.1/32"),),
    routes=(Route(dst="10.0.0.2/32", family="inet"),),
    sysctl={"ipv4.proxy_arp": "1"},
)
INNER = Inner(ifname="eth0", mac="02:00:00:00:00:02", mtu=1400, addresses=(Address(address="10.0.0.2/24"),))
STATE = State(
    version=1,
    host=Host(hostname="n", kernel="6.12", criu_veth="0", created=""),
    veths=(CapturedVeth(inner=INNER, outer=OUTER),),
)


def way(*options: str, devices: bool = True, made: tuple[str, ...] = (), told: bool = True) -> Way:
    found = Way(told=told, devices=devices)
    found.read_options(list(options))
    found.made = frozenset(made)
    return found


def resolved(how: Way, text: str = "") -> Veth:
    mapping = config.parse(text, "web.toml") if text else None
    (veth,) = resolve.resolve(mapping, STATE, {"hostname": "h", "image": "i"}, how)
    return veth


CALLER = way("--external", "netdev[eth0]:vethIN", made=("eth0",))
POD = way("--inherit-fd", "fd[3]:pod", "--join-ns", "net:/run/netns/pod", devices=False)
RUNTIME = way("--empty-ns", "net")
FOREIGN = {"caller": CALLER, "pod": POD}


@pytest.mark.parametrize("who", FOREIGN)
def test_identity_is_the_makers(who: str) -> None:
    veth = resolved(FOREIGN[who])
    assert veth.adopted is not None
    assert veth.outer == Outer(ifname="")
    assert veth.adopted.asked == Outer(ifname="")
    assert veth.adopted.dress == Outer(
        ifname="", mtu=1400, alias="captured", txqueuelen=500, port={"hairpin": 1}, sysctl={"ipv4.proxy_arp": "1"}
    )


@pytest.mark.parametrize("who", FOREIGN)
def test_mapping_file_overrules_the_maker_by_what_it_says(who: str) -> None:
    veth = resolved(
        FOREIGN[who], '[[veth]]\ninner = "eth0"\nalias = "mapped"\nbridge = "br7"\nport = { flood = false }\n'
    )
    assert veth.adopted is not None
    assert veth.outer == Outer(ifname="", alias="mapped", master="br7", master_kind="bridge", port={"flood": 0})
    assert veth.adopted.dress.alias is None
    assert veth.adopted.dress.port == {"hairpin": 1}


@pytest.mark.parametrize(
    "text",
    ['adopted = "leave"', '[[veth]]\ninner = "eth0"\nadopted = "leave"', 'adopted = "leave"\n[[veth]]\ninner = "eth0"'],
)
def test_nothing_is_put_back_if_that_is_asked_for(text: str) -> None:
    adopted = resolved(POD, text).adopted
    assert adopted is not None
    assert (adopted.asked, adopted.dress) == (Outer(ifname=""), Outer(ifname=""))
    assert adopted.inner == Inner(ifname="eth0")


def test_a_veths_own_word_goes_before_the_files() -> None:
    adopted = resolved(POD, 'adopted = "leave"\n[[veth]]\ninner = "eth0"\nadopted = "dress"').adopted
    assert adopted is not None
    assert adopted.dress.alias == "captured"


def test_every_attribute_is_identity_or_dress() -> None:
    """One that is new has to be thought about."""
    dress = {f.name for f in msgspec.structs.fields(Outer)} - set(ownership.IDENTITY)
    assert dress == {
        "mtu", "txqueuelen", "group", "alias", "arp", "promisc", "allmulti", "num_tx_queues", "num_rx_queues",
        "gso_max_size", "gso_max_segs", "gro_max_size", "sysctl", "features_off", "port", "vlan", "backup_port",
        "qdiscs", "classes", "filters",
    }  # fmt: skip


def test_an_empty_namespace_is_for_both() -> None:
    """The hook makes the pair as captured, unless a runtime has: then it is dressed."""
    veth = resolved(RUNTIME)
    assert veth.outer.ifname == "web0"
    assert veth.outer.master == "br0"
    assert veth.adopted is not None
    assert veth.adopted.dress.alias == "captured"


@pytest.mark.parametrize(
    ("external", "text", "outer", "master", "said"),
    [
        ("veth[eth0]:web0", "", "web0", "br0", ""),
        ("veth[eth0]:web0@br0", "", "web0", "br0", ""),
        ("veth[eth0]:lxc7", "", "lxc7", "br0", 'named "lxc7" as criu was told, not "web0" as at the dump'),
        ("veth[eth0]:web0@br9", "", "web0", "br9", 'attached to "br9" as criu was told, not "br0" as at the dump'),
        ("veth[eth0]:lxc7@br9", 'mappings = ["eth0:map0@br1"]', "map0", "br1", ""),
        ("veth[eth0]:lxc7", '[[veth]]\ninner = "eth0"\nalias = "x"', "lxc7", "br0",
         'named "lxc7" as criu was told, not "web0" as at the dump'),
        ("veth[eth0]:lxc7@br9", '[remap]\nbridge = { br0 = "lan" }', "lxc7", "br9",
         'named "lxc7" as criu was told, not "web0" as at the dump, attached to "br9" as criu was told, not "lan" as at'
         " the dump"),
    ],
)  # fmt: skip
def test_what_criu_was_told(external: str, text: str, outer: str, master: str, said: str) -> None:
    veth = resolved(way("--external", external), text)
    assert (veth.outer.ifname, veth.outer.master) == (outer, master)
    assert veth.overruled == (f"veth eth0: {said}" if said else "")


def test_a_name_that_criu_cannot_be_told_wins_over_its_makeshift() -> None:
    outer = msgspec.structs.replace(OUTER, ifname="v@x")
    state = msgspec.structs.replace(STATE, veths=(CapturedVeth(inner=INNER, outer=outer),))
    (veth,) = resolve.resolve(None, state, {}, way("--external", "veth[eth0]:tmp0"))
    assert (veth.outer.ifname, veth.overruled) == ("v@x", "")


def test_a_veth_without_a_name_takes_the_one_that_criu_was_told() -> None:
    mapping = config.parse('[[veth]]\ninner = "eth1"\nbridge = "br1"', "web.toml")
    (veth,) = resolve.resolve(mapping, None, {}, way("--external", "veth[eth1]:told1"))
    assert (veth.outer.ifname, veth.overruled) == ("told1", "")


#: What a ``netns-N.img`` begins with (``criu/include/magic.h``).
MAGIC = bytes.fromhex("1943565452379355")


# --- how the inner end comes back


@pytest.mark.parametrize(
    ("how", "mode"),
    [
        (way("--external", "veth[eth0]:web0"), "external"),
        (way("--veth-pair", "eth0=web0@br0"), "external"),
        (way("--external", "netdev[eth0]:cv0"), "ready"),
        (CALLER, "made"),
        (way(told=False), "unknown"),
        (way("--external", "veth[eth0]:web0", told=False), "external"),
        (way("--empty-ns", "net", "--external", "veth[eth0]:web0"), "empty"),
        (way("--empty-ns", "net", "--external", "netdev[eth0]:cv0", made=("eth0",)), "empty"),
        (way("--external", "veth[eth0]:web0", devices=False), "empty"),
        (way("--external", "net[7]:/run/netns/pod", "--empty-ns", "net", devices=False), "adopt"),
        (POD, "adopt"),
        (way("--join-ns", "uts:/run/x", devices=False), "empty"),
    ],
)
def test_mode(how: Way, mode: str) -> None:
    assert how.mode_of("eth0") == mode


@pytest.mark.parametrize(
    ("external", "agrees"),
    [
        ("veth[eth0]:web0", True),
        ("veth[eth0]:web0@br0", True),
        ("veth[eth0]:web1", False),
        ("veth[eth0]:web0@br1", False),
        ("veth[eth1]:other", True),
    ],
)
def test_a_program_is_for_certain_names(external: str, agrees: bool) -> None:
    assert way("--external", external).agrees((("eth0", "web0", "br0"),)) is agrees


def test_a_program_whose_names_the_mapping_file_has_is_for_any() -> None:
    assert way("--external", "veth[eth0]:any@other").agrees((("eth0", None, None),))


@pytest.mark.parametrize(
    ("images", "external"),
    [
        ({}, False),
        ({"netns-9.img": MAGIC + b"\x08\0\0\0" + b"\x42\x06podNet"}, True),
        ({"netns-9.img": MAGIC + b"\x06\0\0\0" + b"\x1a\x04\x08\x06\x10\0"}, False),
        ({"netns-9.img": MAGIC + b"\x08\0\0\0" + b"\x42\x06podNet", "netns-10.img": MAGIC + bytes(4)}, False),
        ({"netns-9.img": b"\x42"}, False),
        ({"netns-9.img": MAGIC + b"\x2c\1\0\0" + b"\xff" * 300}, False),
    ],
)
def test_external_namespaces_of_images(tmp_path: Path, images: dict[str, bytes], external: bool) -> None:
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    assert images_have_external_netns(str(tmp_path)) is external
