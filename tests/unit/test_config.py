"""The mapping file's text: what is read from it, and every fault by its whole message."""

from __future__ import annotations

import pytest

from criu_veth import config
from criu_veth.errors import EXIT_INPUT, InputError
from criu_veth.state import Address, Route, Vlan


def parse(text: str) -> config.Config:
    return config.parse(text, "web.toml")


def only(text: str) -> config.VethConfig:
    (entry,) = parse(text).veths
    return entry


def faults(text: str) -> list[str]:
    """The faults of a file, each without the file's name, which all must have."""
    with pytest.raises(InputError) as raised:
        parse(text)
    assert raised.value.exit_code == EXIT_INPUT
    assert all(fault.startswith("web.toml: ") for fault in raised.value.faults)
    return [fault.removeprefix("web.toml: ") for fault in raised.value.faults]


def veth(settings: str) -> str:
    return f'[[veth]]\ninner = "eth0"\nouter = "web0"\n{settings}\n'


# --- what can be written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("veth[eth0]:web0@br0", ("eth0", "web0", "br0")),
        ("veth[eth0]:web0", ("eth0", "web0", None)),
        ("eth0:web0@br0", ("eth0", "web0", "br0")),
        ("eth0:web0", ("eth0", "web0", None)),
        ("eth0=web0@br0", ("eth0", "web0", "br0")),
        ("eth0=web0", ("eth0", "web0", None)),
        ("veth[a=b]:web0", ("a=b", "web0", None)),
        ("eth0:{inner}-{image}", ("eth0", "{inner}-{image}", None)),
    ],
)
def test_short_mappings(text: str, expected: tuple[str, str, str | None]) -> None:
    entry = only(f'mappings = ["{text}"]')
    assert (entry.inner, entry.outer, entry.bridge) == expected
    assert entry.where == "mappings[0]"


def test_obsolete_form_is_told_how_it_is_written_today() -> None:
    read = parse('mappings = ["veth[a]:b@c", "eth0=web0@br0", "eth1=db0"]')
    assert read.notices == (
        'mappings[1]: "eth0=web0@br0" is the obsolete --veth-pair form; today it is "veth[eth0]:web0@br0"',
        'mappings[2]: "eth1=db0" is the obsolete --veth-pair form; today it is "veth[eth1]:db0"',
    )


def test_everything_that_one_veth_may_have() -> None:
    entry = only(
        """
        [[veth]]
        inner = "eth0"
        outer = "web0"
        bridge = "br0"
        mac = "02:AB:00:00:00:01"
        mtu = 1400
        txqueuelen = 0
        alias = "web, ünd {inner}"
        altnames = ["veth-web-front", "x"]
        addresses = ["169.254.1.1/32", "10.0.0.1", "FD00::1/64"]
        routes = ["10.99.0.2/32", "default via 169.254.1.9 metric 7"]
        sysctl = { "ipv4.proxy_arp" = 1, "ipv6.neigh.mcast_solicit" = "4" }
        port = { hairpin = true, learning = false, cost = 7 }
        vlan = { pvid = 10, untagged = [10], tagged = [20, "30-38", 39] }
        announce = false
        """
    )
    assert entry == config.VethConfig(
        where="veth[0]",
        inner="eth0",
        outer="web0",
        bridge="br0",
        mac="02:ab:00:00:00:01",
        mtu=1400,
        txqueuelen=0,
        alias="web, ünd {inner}",
        altnames=("veth-web-front", "x"),
        addresses=(
            Address(address="169.254.1.1/32"),
            Address(address="10.0.0.1/32"),
            Address(address="fd00::1/64"),
        ),
        routes=(
            Route(dst="10.99.0.2/32", family="inet"),
            Route(dst="default", family="inet", via="169.254.1.9", metric=7),
        ),
        sysctl={"ipv4.proxy_arp": "1", "ipv6.neigh.mcast_solicit": "4"},
        port={"hairpin": 1, "learning": 0, "cost": 7},
        own_port=True,
        vlan=Vlan(pvid=10, untagged=(10,), tagged=(20, "30-39")),
        own_vlan=True,
        announce=False,
    )


def test_what_is_not_written_is_left_alone() -> None:
    assert only('[[veth]]\ninner = "eth0"') == config.VethConfig(where="veth[0]", inner="eth0")


def test_nothing_written_is_a_mapping_file_too() -> None:
    assert parse("").veths == ()


def test_defaults_hold_where_the_veth_says_nothing() -> None:
    read = parse(
        """
        mappings = ["eth2:x2"]
        [defaults]
        outer = "v-{inner}"
        bridge = "br0"
        mtu = 1400
        txqueuelen = 7
        alias = "mine"
        sysctl = { "ipv4.proxy_arp" = 1, "ipv4.forwarding" = 1 }
        port = { hairpin = true, isolated = true }
        announce = false
        [[veth]]
        inner = "eth0"
        [[veth]]
        inner = "eth1"
        outer = "web1"
        bridge = "br1"
        mtu = 1300
        txqueuelen = 0
        alias = ""
        sysctl = { "ipv4.proxy_arp" = 0 }
        port = { hairpin = false }
        announce = true
        """
    )
    short, bare, full = read.veths
    common = {"ipv4.proxy_arp": "1", "ipv4.forwarding": "1"}
    assert (bare.outer, bare.bridge, bare.mtu, bare.txqueuelen, bare.alias) == ("v-{inner}", "br0", 1400, 7, "mine")
    assert (bare.sysctl, bare.port, bare.announce) == (common, {"hairpin": 1, "isolated": 1}, False)
    assert (short.inner, short.outer, short.bridge, short.mtu, short.sysctl) == ("eth2", "x2", "br0", 1400, common)
    assert (full.outer, full.bridge, full.mtu, full.txqueuelen, full.alias) == ("web1", "br1", 1300, 0, "")
    assert full.sysctl == {"ipv4.proxy_arp": "0", "ipv4.forwarding": "1"}
    assert (full.port, full.announce) == ({"hairpin": 0, "isolated": 1}, True)


def test_defaults_that_are_overridden_do_not_spread() -> None:
    """The tables of two entries are their own: what one adds the other does not have."""
    text = '[defaults]\nport = { hairpin = true }\n[[veth]]\ninner = "a"\nport = { isolated = true }\n'
    first, second = parse(text + '[[veth]]\ninner = "b"').veths
    assert first.port == {"hairpin": 1, "isolated": 1}
    assert second.port == {"hairpin": 1}


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("10.99.0.0/24", Route(dst="10.99.0.0/24", family="inet")),
        ("10.99.0.1", Route(dst="10.99.0.1/32", family="inet")),
        ("fd00::/64 via fe80::1", Route(dst="fd00::/64", family="inet6", via="fe80::1")),
        ("default", Route(dst="default", family="inet")),
        ("default via fe80::1", Route(dst="default", family="inet6", via="fe80::1")),
        ("0.0.0.0/0 via 10.0.0.1", Route(dst="default", family="inet", via="10.0.0.1")),
        ("::/0", Route(dst="default", family="inet6")),
        ("10.0.0.0/8 via 10.9.9.9 onlink", Route(dst="10.0.0.0/8", family="inet", via="10.9.9.9", onlink=True)),
        (
            "10.0.0.0/8 src 10.0.0.1 metric 5 table 100 scope link",
            Route(dst="10.0.0.0/8", family="inet", src="10.0.0.1", metric=5, table=100, scope=253),
        ),
        ("10.0.0.0/8 table local scope host", Route(dst="10.0.0.0/8", family="inet", table=255, scope=254)),
    ],
)
def test_routes(text: str, route: Route) -> None:
    assert config.parse_route(text) == route


# --- faults


def test_not_toml() -> None:
    assert faults("mappings = [") == ["is not TOML: Invalid value (at end of document)"]
    assert faults("a = " + "[" * 3000) == ["is nested too deeply"]
    assert faults("a = " + "9" * 5000) == ["has a number with too many digits"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mapping = []", 'unknown key "mapping"'),
        (veth("mut = 1500"), 'veth[0]: unknown key "mut"'),
        (veth("port = { hairpinning = true }"), 'veth[0].port: unknown key "hairpinning"'),
        ('[defaults]\nmac = "02:00:00:00:00:01"', 'defaults: unknown key "mac"'),
        ('[[veth]]\nouter = "web0"', 'veth[0]: missing key "inner"'),
        ('mappings = "veth[eth0]:web0"', 'mappings: expected an array, got "str"'),
        ("mappings = [1]", 'mappings[0]: expected "str", got "int"'),
        ('[veth]\ninner = "eth0"', "veth: expected an array, got a table"),
        ("defaults = 1", 'defaults: expected a table, got "int"'),
        (veth('mtu = "1500"'), 'veth[0].mtu: expected "int", got "str"'),
        (veth("mtu = 1500.0"), 'veth[0].mtu: expected "int", got "float"'),
        (veth("mtu = true"), 'veth[0].mtu: expected "int", got "bool"'),
        (veth("mac = 1"), 'veth[0].mac: expected "str", got "int"'),
        (veth('altnames = "x"'), 'veth[0].altnames: expected an array, got "str"'),
        (veth("port = { hairpin = 1 }"), 'veth[0].port.hairpin: expected "bool", got "int"'),
        (veth('sysctl = { "ipv4.x" = true }'), 'veth[0].sysctl[...]: expected "int | str", got "bool"'),
        (veth("sysctl = { ipv4.x = 1 }"), 'veth[0].sysctl[...]: expected "int | str", got a table'),
    ],
)
def test_unknown_keys_and_wrong_types(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize("text", ["eth0", "veth[eth0]", "veth[eth0]web0", "veth[eth0:web0", ""])
def test_what_is_no_mapping(text: str) -> None:
    assert faults(f'mappings = ["{text}"]') == [
        f'mappings[0]: {text!r} is not a mapping; write "veth[inner]:outer@bridge" or "inner:outer@bridge"'
    ]


NAMES = {
    "": "an interface name is empty",
    "sixteen-bytes-xx": "'sixteen-bytes-xx' is 16 bytes long; an interface name has at most 15",
    "a/b": "'a/b' has '/' in it, which no interface name may",
    "a b": "'a b' has ' ' in it, which no interface name may",
    ".": "'.' is not an interface name",
    "..": "'..' is not an interface name",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["inner", "outer", "bridge"])
def test_impossible_names(key: str, name: str) -> None:
    values = {"inner": "eth0", "outer": "web0", "bridge": "br0", key: name}
    table = "[[veth]]\n" + "".join(f'{key} = "{value}"\n' for key, value in values.items())
    if key != "bridge" or name:  # in a table, bridge = "" is for none
        assert faults(table) == [f"veth[0].{key}: {NAMES[name]}"]
    assert faults('mappings = ["veth[{inner}]:{outer}@{bridge}"]'.format(**values)) == [f"mappings[0]: {NAMES[name]}"]


@pytest.mark.parametrize("key", ["outer", "bridge"])
def test_impossible_names_in_defaults(key: str) -> None:
    assert faults(f'[defaults]\n{key} = "a/b"') == [f"defaults.{key}: {NAMES['a/b']}"]


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("mtu = 67", "mtu: 67 is not an MTU that a veth takes (68 to 65535)"),
        ("mtu = 65536", "mtu: 65536 is not an MTU that a veth takes (68 to 65535)"),
        ("txqueuelen = -1", "txqueuelen: -1 is not between 0 and 4294967295"),
        (
            'mac = "01:00:00:00:00:01"',
            "mac: '01:00:00:00:00:01' is a multicast address; the first byte of a device's own is even",
        ),
        ('mac = "00:00:00:00:00:00"', "mac: '00:00:00:00:00:00' is all zeros; the kernel refuses it"),
        (
            'mac = "web"',
            "mac: 'web' is not a MAC address (six pairs of hexadecimal digits with colons between)",
        ),
        (r'alias = "a\nb"', "alias: an alias has no line break and no NUL in it"),
        ('altnames = ["x", ""]', "altnames[1]: an alternative name is empty"),
        ('addresses = ["10.0.0.1", "10.0.0.300/24"]', "addresses[1]: '10.0.0.300' is not an IP address"),
        ('addresses = ["::/64"]', "addresses[0]: '::/64' is the unspecified address, which no device has"),
        ('addresses = ["::1"]', "addresses[0]: '::1' is the loopback address, which only lo has"),
        ('addresses = ["FF02::5/64"]', "addresses[0]: 'FF02::5/64' is a multicast address, which no device has"),
        ('addresses = ["0.0.0.0/0"]', "addresses[0]: '0.0.0.0/0' is the unspecified address, which no device has"),
        ('addresses = ["239.1.1.1/8"]', "addresses[0]: '239.1.1.1/8' is a multicast address, which no device has"),
        (
            'addresses = ["255.255.255.255"]',
            "addresses[0]: '255.255.255.255' is the broadcast address, which no device has",
        ),
        (
            'routes = ["10.0.0.0/8", "fe80::/64 metric 1024", "fe80::/64", "10.0.0.0/8 metric 5"]',
            "routes[2]: the route to fe80::/64 is given already by veth[0].routes[1]; another one needs a metric",
        ),
        ('sysctl = { "ipv4.proxy_arp" = "on" }', "sysctl.\"ipv4.proxy_arp\": 'on' is not a number"),
        ('sysctl = { "ipv6.mtu" = 100 }', 'sysctl."ipv6.mtu": 100 is not between 1280 and 65535'),
        (
            'netns = { sysctl = { "ipv6.hop_limit" = 256 } }',
            'netns.sysctl."ipv6.hop_limit": 256 is not between 1 and 255',
        ),
        (
            'netns = { addresses = ["ff02::1"] }',
            "netns.addresses[0]: 'ff02::1' is a multicast address, which no device has",
        ),
        (
            "port = { group_fwd_mask = 0x4007 }",
            "port.group_fwd_mask: has the bit 0x2 set, of MAC PAUSE frames, which no bridge port forwards",
        ),
        (
            'routes = ["10.0.0.1/24"]',
            "routes[0]: '10.0.0.1/24' has bits set behind its prefix; the network is 10.0.0.0/24",
        ),
        ('routes = [" "]', "routes[0]: the route is empty"),
        ('routes = ["10.0.0.0/8 via fd00::1"]', "routes[0]: '10.0.0.0/8 via fd00::1' mixes IPv4 and IPv6"),
        (
            'routes = ["10.0.0.0/8 dev eth0"]',
            "routes[0]: '10.0.0.0/8 dev eth0': cannot read 'dev'; a route is DST and then any of via, src, metric,"
            " table, scope with a value, onlink",
        ),
        (
            'routes = ["10.0.0.0/8 via"]',
            "routes[0]: '10.0.0.0/8 via': cannot read 'via'; a route is DST and then any of via, src, metric,"
            " table, scope with a value, onlink",
        ),
        (
            'routes = ["10.0.0.0/8 metric x"]',
            "routes[0]: '10.0.0.0/8 metric x': metric is a number from 0 to 4294967295",
        ),
        (
            'routes = ["10.0.0.0/8 table web"]',
            "routes[0]: '10.0.0.0/8 table web': table is a number from 0 to 4294967295",
        ),
        (
            'routes = ["10.0.0.0/8 scope planet"]',
            "routes[0]: '10.0.0.0/8 scope planet': the scope is one of global, site, link, host",
        ),
        *(
            (
                f'sysctl = {{ "{key}" = 1 }}',
                f"sysctl: {key!r} is not a per-device sysctl; these are: ipv4.NAME, ipv6.NAME, mpls.NAME,"
                " ipv4.neigh.NAME, ipv6.neigh.NAME",
            )
            for key in ("ipv4.../../tcp_sack", "../ipv4.x", "kernel.panic")
        ),
        ("port = { priority = 64 }", "port.priority: 64 is not between 0 and 63"),
        ("port = { cost = 0 }", "port.cost: 0 is not between 1 and 65535"),
        ("port = { group_fwd_mask = 65536 }", "port.group_fwd_mask: 65536 is not between 0 and 65535"),
        ('alias = "{app}"', "alias: '{app}': the placeholders are {inner}, {hostname} and {image}"),
    ],
)
def test_impossible_values(setting: str, fault: str) -> None:
    assert faults(veth(setting)) == [f"veth[0].{fault}"]


def test_unknown_placeholder() -> None:
    assert faults('mappings = ["eth0:{name}"]') == [
        "mappings[0]: '{name}': the placeholders are {inner}, {hostname} and {image}"
    ]


def test_two_mappings_of_one_inner_end_are_both_named() -> None:
    text = 'mappings = ["eth0:web0", "eth1:web1", "eth0:web2"]\n[[veth]]\ninner = "eth1"\nouter = "web3"'
    assert faults(text) == [
        'mappings[2]: "eth0" is mapped already by mappings[0]',
        'veth[0]: "eth1" is mapped already by mappings[1]',
    ]


def test_one_outer_name_twice_is_named_with_both() -> None:
    assert faults('mappings = ["eth0:web0"]\n[[veth]]\ninner = "eth1"\nouter = "web0"') == [
        'veth[0]: the outer name "web0" is given already by mappings[0]'
    ]
    assert faults('[defaults]\nouter = "web"\n[[veth]]\ninner = "a"\n[[veth]]\ninner = "b"') == [
        'veth[1]: the outer name "web" is given already by veth[0]'
    ]
    assert len(parse('[defaults]\nouter = "w-{inner}"\n[[veth]]\ninner = "a"\n[[veth]]\ninner = "b"').veths) == 2


def test_faults_of_values_are_all_reported_together() -> None:
    assert faults('mappings = ["eth0", "a/b:x"]\n[defaults]\nmtu = 1\n[[veth]]\ninner = ""\nmac = "x"') == [
        "defaults.mtu: 1 is not an MTU that a veth takes (68 to 65535)",
        'mappings[0]: \'eth0\' is not a mapping; write "veth[inner]:outer@bridge" or "inner:outer@bridge"',
        "mappings[1]: 'a/b' has '/' in it, which no interface name may",
        "veth[0].inner: an interface name is empty",
        "veth[0].mac: 'x' is not a MAC address (six pairs of hexadecimal digits with colons between)",
    ]


def test_every_port_flag_of_the_file_is_one_that_can_be_sent() -> None:
    from criu_veth import netlink

    assert set(config.Port.__struct_fields__) == set(netlink.PORT_FLAGS)


# --- VLANs


def test_vlans_of_all_but_one() -> None:
    first, second, third = parse(
        """
        [defaults]
        vlan = { pvid = 10, untagged = [10] }
        [[veth]]
        inner = "eth0"
        [[veth]]
        inner = "eth1"
        vlan = "default"
        [[veth]]
        inner = "eth2"
        vlan = {}
        """
    ).veths
    assert (first.vlan, first.default_vlan, first.own_vlan) == (Vlan(pvid=10, untagged=(10,)), False, False)
    assert (second.vlan, second.default_vlan, second.own_vlan) == (None, True, False)
    assert (third.vlan, third.default_vlan, third.own_vlan) == (Vlan(), False, True)


@pytest.mark.parametrize(
    ("vlan", "fault"),
    [
        ("{ pvid = 10 }", "the pvid 10 is neither untagged nor tagged: write untagged = [10]"),
        ("{ pvid = 0, untagged = [10] }", "the pvid 0 is not between 1 and 4094"),
        ("{ pvid = -1 }", "the pvid -1 is not between 1 and 4094"),
        ("{ pvid = 4095 }", "the pvid 4095 is not between 1 and 4094"),
        ('{ untagged = ["10-20"], tagged = [30, "15-16"] }', "15-16 is both untagged and tagged"),
        ("{ tagged = [4095] }", "4095 is no VLAN: an ID from 1 to 4094, or a range such as '30-39'"),
        ('{ tagged = ["30-"] }', "'30-' is no VLAN: an ID from 1 to 4094, or a range such as '30-39'"),
        ('{ tagged = ["39-30"] }', "'39-30' ends before it begins"),
    ],
)
@pytest.mark.parametrize("table", ["defaults", "veth[0]"])
def test_vlans_that_no_port_can_have(vlan: str, fault: str, table: str) -> None:
    text = f"[defaults]\nvlan = {vlan}" if table == "defaults" else veth(f"vlan = {vlan}")
    assert faults(text) == [f"{table}.vlan: {fault}"]


@pytest.mark.parametrize(
    ("vlan", "fault"),
    [
        ("7", 'veth[0].vlan: expected "str | table", got "int"'),
        ('"all"', "veth[0].vlan: invalid enum value 'all'"),
        ("{ pvid = true }", 'veth[0].vlan.pvid: expected "int", got "bool"'),
        ("{ tagged = 7 }", 'veth[0].vlan.tagged: expected an array, got "int"'),
        ("{ pvlan = 7 }", 'veth[0].vlan: unknown key "pvlan"'),
    ],
)
def test_vlans_of_the_wrong_type(vlan: str, fault: str) -> None:
    assert faults(veth(f"vlan = {vlan}")) == [fault]


def test_a_device_that_is_no_veth_has_no_port() -> None:
    text = '[[veth]]\ninner = "eth0"\nkind = "macvlan"\nparent = "up0"\nport = {guard = false}\nvlan = {tagged = [1]}\n'
    assert faults(text) == ["veth[0].port: a macvlan has no outer end", "veth[0].vlan: a macvlan has no outer end"]


# --- other kinds of devices


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('kind = "ipvlan"', ['veth[0]: missing key "parent": the device that the ipvlan is on top of']),
        (
            'kind = "ipvlan"\nparent = "up0"\nkind_mode = "bridge"\nmode = "external"',
            [
                "veth[0].kind_mode: 'bridge' is not a mode of ipvlan; these are: l2, l3, l3s",
                "veth[0].mode: CRIU makes no ipvlan; the mode is ready or empty",
            ],
        ),
        (
            'kind = "ipvlan"\nparent = "up0"\nmode = "ready"\n[veth.netns]\nmac = "02:00:00:00:00:01"',
            [
                "veth[0].mode: CRIU can move no ipvlan l2 in; the mode is empty",
                "veth[0].netns.mac: the kernel gives ipvlan l2 its MAC address; leave it out",
            ],
        ),
        ('kind = "ipvlan"\nparent = "up0"\nouter = "web0"', ["veth[0].outer: an ipvlan has no outer end"]),
        ('kind = "netkit"\nparent = "up0"', ["veth[0].parent: a netkit has none; it has an outer end"]),
        (
            'kind = "netkit"\nkind_mode = "l3"\nmac = "02:00:00:00:00:01"\nmode = "ready"',
            [
                "veth[0].mode: CRIU can move no netkit l3 in; the mode is empty",
                "veth[0].mac: the kernel gives netkit l3 its MAC address; leave it out",
            ],
        ),
        ('kind = "tun"', ["veth[0].kind: invalid enum value 'tun'"]),
    ],
)
def test_what_goes_with_another_kind(settings: str, said: list[str]) -> None:
    assert faults(f'[[veth]]\ninner = "eth0"\n{settings}\n') == said


def test_a_pair_of_another_kind_has_an_outer_end() -> None:
    entry = only(veth('kind = "netkit"\nmac = "02:00:00:00:00:01"\nbridge = "br0"\n[veth.netns]\nmtu = 1400'))
    assert (entry.kind, entry.kind_mode, entry.outer, entry.bridge) == ("netkit", "l2", "web0", "br0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[match]\nimage = ["a", "' + "[" * 33 + '"]', "match.image: '" + "[" * 33),
        ('[match]\ncontainer = "' + "a" * 1025 + '"', "match.container: '" + "a" * 1025),
    ],
)
def test_a_pattern_that_takes_its_time(text: str, message: str) -> None:
    said = f"F: {message}' is no pattern of a name: 1024 characters and 32 brackets are the most"
    with pytest.raises(InputError) as caught:
        config.parse(text, "F")
    assert str(caught.value).splitlines()[0] == said


def test_a_template_that_takes_its_time() -> None:
    with pytest.raises(InputError) as caught:
        config.parse('[[veth]]\ninner = "eth0"\nalias = "' + "{inner}" * 1000 + '"', "F")
    assert str(caught.value) == f"F: veth[0].alias: {'{inner}' * 1000!r} is longer than 4096 characters"
