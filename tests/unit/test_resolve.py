"""Mapping file and captured state to the desired ends."""

from __future__ import annotations

import pytest

from criu_veth import config, resolve, way
from criu_veth.errors import EXIT_INPUT, InputError
from criu_veth.state import Address, CapturedVeth, Host, Inner, Outer, Route, State, Veth, Vlan

PLACEHOLDERS = {"hostname": "node7", "image": "ckpt3"}

HOST = Host(hostname="node1", kernel="6.1", criu_veth="0", created="2026-01-01T00:00:00Z")


def state(*veths: CapturedVeth) -> State:
    return State(version=1, host=HOST, veths=veths)


def captured(inner: str, **outer: object) -> CapturedVeth:
    return CapturedVeth(inner=Inner(ifname=inner), outer=Outer(**{"ifname": f"v-{inner}", **outer}))  # type: ignore[arg-type]


def desired(text: str, known: State | None = None) -> list[Veth]:
    return list(resolve.resolve(config.parse(text, "web.toml"), known, PLACEHOLDERS))


def faults(text: str, known: State | None = None) -> list[str]:
    with pytest.raises(InputError) as raised:
        desired(text, known)
    assert raised.value.exit_code == EXIT_INPUT
    return list(raised.value.faults)


def test_all_that_the_mapping_file_says() -> None:
    (veth,) = desired(
        """
        [[veth]]
        inner = "eth0"
        outer = "web0"
        bridge = "br0"
        mac = "02:00:00:00:00:01"
        mtu = 1400
        txqueuelen = 0
        alias = "mine"
        altnames = ["a", "b"]
        addresses = ["169.254.1.1/32"]
        routes = ["10.99.0.2/32"]
        sysctl = { "ipv4.proxy_arp" = 1 }
        port = { hairpin = true }
        announce = false
        """
    )
    assert (veth.inner, veth.where, veth.announce) == ("eth0", "veth[0]", False)
    assert veth.outer == Outer(
        ifname="web0",
        mac="02:00:00:00:00:01",
        mtu=1400,
        txqueuelen=0,
        alias="mine",
        altnames=("a", "b"),
        up=True,
        addresses=(Address(address="169.254.1.1/32"),),
        routes=(Route(dst="10.99.0.2/32", family="inet"),),
        sysctl={"ipv4.proxy_arp": "1"},
        master="br0",
        master_kind="bridge",
        port={"hairpin": 1},
    )


def test_what_nobody_says_is_left_to_the_kernel() -> None:
    (veth,) = desired('mappings = ["eth0:web0"]')
    assert veth.outer == Outer(ifname="web0", up=True)
    assert (veth.inner, veth.where, veth.announce) == ("eth0", "mappings[0]", True)


def test_order_is_the_files() -> None:
    assert [veth.inner for veth in desired('mappings = ["z:a", "b:c", "a:z"]')] == ["z", "b", "a"]


def test_placeholders() -> None:
    text = '[defaults]\nouter = "{image}-{inner}"\nalias = "{inner} of {image} on {hostname}"\n[[veth]]\ninner = "eth0"'
    (veth,) = desired(text)
    assert veth.outer.ifname == "ckpt3-eth0"
    assert veth.outer.alias == "eth0 of ckpt3 on node7"


def test_a_name_that_becomes_impossible() -> None:
    assert faults('mappings = ["eth0:{image}-{hostname}-{inner}", "eth1:{image}"]') == [
        "web.toml: mappings[0].outer: '{image}-{hostname}-{inner}' becomes a name that is impossible:"
        " 'ckpt3-node7-eth0' is 16 bytes long; an interface name has at most 15"
    ]


def test_names_that_become_the_same() -> None:
    assert faults('mappings = ["eth0:{image}", "eth1:ckpt3"]') == [
        'web.toml: mappings[1]: the name "ckpt3" is given already by mappings[0]'
    ]


def test_no_name_at_all() -> None:
    assert faults('[[veth]]\ninner = "eth0"\n[[veth]]\ninner = "eth1"') == [
        'web.toml: veth[0]: the outer end has no name: write outer = "..." for "eth0"',
        'web.toml: veth[1]: the outer end has no name: write outer = "..." for "eth1"',
    ]


def test_what_one_host_cannot_have_twice() -> None:
    """The kernel would say so too, but only when the container has been restored."""
    text = """
    [[veth]]
    inner = "eth0"
    outer = "web0"
    altnames = ["front"]
    routes = ["10.99.0.2/32", "10.98.0.0/24", "10.97.0.0/24 metric 5"]
    [[veth]]
    inner = "eth1"
    outer = "web1"
    altnames = ["web0", "front"]
    routes = ["10.99.0.2/32", "10.98.0.0/24 table 7", "10.97.0.0/24 metric 6"]
    """
    assert faults(text) == [
        'web.toml: veth[1]: the name "web0" is given already by veth[0]',
        'web.toml: veth[1]: the name "front" is given already by veth[0]',
        "web.toml: veth[1]: the route to 10.99.0.2/32 is given already by veth[0]",
    ]


def test_capture_alone() -> None:
    (veth,) = resolve.resolve(None, state(captured("eth0", master="br0", mtu=1400)), PLACEHOLDERS)
    assert (veth.inner, veth.where) == ("eth0", "veths[0] of the state file")
    assert (veth.outer.ifname, veth.outer.master, veth.outer.mtu) == ("v-eth0", "br0", 1400)


def test_mapping_file_wins_over_capture_and_keeps_the_rest() -> None:
    known = state(captured("eth0", master="br0", mtu=1400, mac="02:00:00:00:00:01", port={"hairpin": 1, "isolated": 1}))
    (veth,) = desired('[[veth]]\ninner = "eth0"\nmtu = 1300\nport = { isolated = false, learning = false }', known)
    assert (veth.outer.ifname, veth.outer.mtu, veth.outer.mac) == ("v-eth0", 1300, "02:00:00:00:00:01")
    assert veth.outer.port == {"hairpin": 1, "isolated": 0, "learning": 0}
    assert veth.where == "veth[0]"


def test_captured_first_then_what_only_the_mapping_file_names() -> None:
    known = state(captured("eth0"), captured("eth1"))
    assert [veth.inner for veth in desired('mappings = ["eth9:x9", "eth1:x1"]', known)] == ["eth0", "eth1", "eth9"]
    assert faults('mappings = ["eth9:v-eth1"]', known) == [
        'web.toml: mappings[0]: the name "v-eth1" is given already by veths[1] of the state file'
    ]


def test_captured_values_that_a_new_pair_has_anyway_cost_no_message() -> None:
    known = state(captured("eth0", txqueuelen=1000, arp=True, port={"learning": 1, "cost": 2, "hairpin": 0}))
    (veth,) = resolve.resolve(None, known, PLACEHOLDERS)
    assert (veth.outer.txqueuelen, veth.outer.arp, veth.outer.port) == (None, None, {})


def test_another_host_has_another_bridge() -> None:
    known = state(captured("eth0", master="br0"), captured("eth1", master="br7"))
    first, second = desired('[remap]\nbridge = { br0 = "br1" }', known)
    assert (first.outer.master, second.outer.master) == ("br1", "br7")


# --- VLANs

VLAN = Vlan(pvid=10, untagged=(10,), tagged=("30-39",))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", VLAN),
        ("vlan = { pvid = 7, untagged = [7] }", Vlan(pvid=7, untagged=(7,))),
        ("vlan = {}", Vlan()),
        ('vlan = "default"', None),
        ('bridge = "br1"', VLAN),
        ('bridge = ""', None),
    ],
)
def test_captured_vlans_and_those_of_the_file(written: str, expected: Vlan | None) -> None:
    known = state(captured("eth0", master="br0", master_kind="bridge", vlan=VLAN))
    (veth,) = desired(f'[[veth]]\ninner = "eth0"\n{written}', known)
    assert veth.outer.vlan == expected


def test_vlans_without_a_bridge() -> None:
    assert faults('[[veth]]\ninner = "eth0"\nouter = "web0"\nvlan = { tagged = [7] }') == [
        'web.toml: veth[0].vlan: "eth0" has no bridge, so its outer end is no port: write bridge = "..."'
    ]


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        ("mab = true", ["locked"]),
        ("mab = true, learning = false", ["locked", "learning"]),
        ("mab = true, locked = true", []),
        ("mab = false", []),
    ],
)
def test_port_flags_that_go_together(flags: str, needed: list[str]) -> None:
    text = f'[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\nport = {{ {flags} }}'
    faults = [f"web.toml: veth[0].port.mab: needs {name} = true as well" for name in needed]
    if not faults:
        desired(text)
        return
    with pytest.raises(InputError) as error:
        desired(text)
    assert list(error.value.faults) == faults


def test_port_flags_that_were_captured_count() -> None:
    known = state(captured("eth0", master="br0", port={"locked": 1}))
    (veth,) = desired('[[veth]]\ninner = "eth0"\nport = { mab = true }', known)
    assert veth.outer.port == {"locked": 1, "mab": 1}


def test_vlans_of_all_are_left_to_those_that_are_ports() -> None:
    (veth,) = desired('[defaults]\nvlan = { tagged = [7] }\n[[veth]]\ninner = "eth0"\nouter = "web0"')
    assert veth.outer.vlan is None


# --- other kinds of devices


@pytest.mark.parametrize(
    ("written", "mac", "outer"),
    [
        ('kind = "macvlan"\nparent = "up0"', "02:00:00:00:00:02", Outer(ifname="")),
        ('kind = "ipvlan"\nparent = "up0"', None, Outer(ifname="")),
        (
            'kind = "netkit"',
            "02:00:00:00:00:02",
            Outer(ifname="v-eth0", mac="02:00:00:00:00:01", master="br0", up=True),
        ),
        ('kind = "netkit"\nkind_mode = "l3"', None, Outer(ifname="v-eth0", master="br0", up=True)),
    ],
)
def test_what_is_left_of_a_captured_veth(written: str, mac: str | None, outer: Outer) -> None:
    one = CapturedVeth(
        inner=Inner(ifname="eth0", mac="02:00:00:00:00:02"),
        outer=Outer(ifname="v-eth0", mac="02:00:00:00:00:01", master="br0"),
    )
    (veth,) = desired(f'[[veth]]\ninner = "eth0"\n{written}', state(one))
    assert veth.netns is not None
    assert (veth.netns.mac, veth.outer) == (mac, outer)


def test_a_netkit_needs_a_name_too() -> None:
    assert faults('[[veth]]\ninner = "eth0"\nkind = "netkit"') == [
        'web.toml: veth[0]: the outer end has no name: write outer = "..." for "eth0"'
    ]


def test_an_image_directory_whose_name_is_not_utf_8() -> None:
    given = config.parse('[[veth]]\ninner = "eth0"\nouter = "{image}"\nalias = "of {image}"', "web.toml")
    with pytest.raises(InputError) as raised:
        resolve.resolve(given, None, {"hostname": "node7", "image": "web-\udcff"})
    assert raised.value.faults == (
        "web.toml: veth[0].outer: '{image}' becomes a name that is impossible: 'web-\\udcff' is not UTF-8:"
        " '\\udcff' is no character",
        "web.toml: veth[0].alias: 'of web-\\udcff' is not UTF-8: '\\udcff' is no character",
    )


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a" * 16, "'aaaaaaaaaaaaaaaa' is 16 bytes long; an interface name has at most 15"),
        ("\udcff", "'\\udcff' is not UTF-8: '\\udcff' is no character"),
        ("", "an interface name is empty"),
        ("a/b", "'a/b' has '/' in it, which no interface name may"),
    ],
)
def test_criu_was_told_of_a_ready_device_that_cannot_be(name: str, fault: str) -> None:
    told = way.Way(told=True)
    told.read_options(["--external", f"netdev[eth0]:{name}"])
    with pytest.raises(InputError) as raised:
        resolve.resolve(config.parse('mappings = ["eth0:web0"]', "web.toml"), None, PLACEHOLDERS, told)
    assert raised.value.faults == (f'web.toml: mappings[0]: criu was told to move a device in as "eth0": {fault}',)


def test_criu_was_told_of_a_bridge_that_cannot_be() -> None:
    told = way.Way(told=True)
    told.read_options(["--external", "veth[eth0]:web0@\udcff"])
    (veth,) = resolve.resolve(None, state(captured("eth0", master="br0")), PLACEHOLDERS, told)
    assert (veth.outer.ifname, veth.outer.master) == ("web0", "br0")
