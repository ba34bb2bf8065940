"""``criu-veth schema``."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from criu_veth import config, rules, state
from criu_veth.cli.app import app
from lab.cli import runner


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    shown = runner().invoke(app, ["schema"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    made: dict[str, Any] = json.loads(shown.stdout)
    return made


def tables(of: type = config.Table) -> list[type]:
    """Every table of the mapping file, those that extend another one too."""
    return [table for one in of.__subclasses__() for table in (one, *tables(one))]


def test_it_is_of_the_mapping_file(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$ref"] == "#/$defs/File"
    assert set(schema["$defs"]) == {table.__name__ for table in tables()}


def test_it_has_every_key_and_says_what_it_means(schema: dict[str, Any]) -> None:
    for table in tables():
        described = schema["$defs"][table.__name__]
        assert list(described["properties"]) == [field.name for field in msgspec.structs.fields(table)]
        assert described["additionalProperties"] is False
        for key, value in described["properties"].items():
            assert value.get("description"), f"no description of {table.__name__}.{key} in criu_veth/cli/jsonschema.py"


def test_toml_has_no_null(schema: dict[str, Any]) -> None:
    assert "null" not in json.dumps(schema)
    assert "default" not in schema["$defs"]["VethTable"]["properties"]["mtu"]


def test_numbers_have_their_ranges(schema: dict[str, Any]) -> None:
    veth, port = schema["$defs"]["VethTable"]["properties"], schema["$defs"]["Port"]["properties"]

    assert (veth["mtu"]["minimum"], veth["mtu"]["maximum"]) == (68, 65535)
    for flag, (low, high) in config.PORT_RANGES.items():
        assert (port[flag]["type"], port[flag]["minimum"], port[flag]["maximum"]) == ("integer", low, high)
    assert port["hairpin"]["type"] == "boolean"


NAMES = [
    "eth0",
    "a.b",
    "...",
    "ü",
    "x" * 15,
    "x" * 16,
    "",
    ".",
    "..",
    "a/b",
    "a b",
    "a\tb",
    "a\u00a0b",
    "a:b",
    "a%d",
    "a@b",
    "all",
    "default",
    "allx",
]


def test_patterns_say_what_the_checks_say(schema: dict[str, Any]) -> None:
    veth = schema["$defs"]["VethTable"]["properties"]
    for name in NAMES:
        wanted = rules.ifname_fault(name) is None
        assert bool(re.search(veth["inner"]["pattern"], name)) == wanted, name
        assert bool(re.search(veth["bridge"]["pattern"], name)) == wanted, name
        if len(name) < 16:  # a template may be longer than what it becomes
            assert bool(re.search(veth["outer"]["pattern"], name)) == wanted, name
        altname = veth["altnames"]["items"]["pattern"]
        assert bool(re.search(altname, name)) == (rules.altname_fault(name) is None), name
    for mac in ("02:00:00:00:00:01", "FE:FF:ff:ff:ff:ff", "01:00:00:00:00:00", "2:0:0:0:0:1", "02-00-00-00-00-01"):
        assert bool(re.search(veth["mac"]["pattern"], mac)) == (rules.mac_fault(mac) is None), mac


@pytest.mark.parametrize(
    ("outer", "good"),
    [("{inner}", True), ("v-{hostname}-{image}", True), ("{nope}", False), ("{inner", False), ("a}", False)],
)
def test_placeholders(schema: dict[str, Any], outer: str, good: bool) -> None:
    pattern = schema["$defs"]["Defaults"]["properties"]["outer"]["pattern"]

    assert bool(re.search(pattern, outer)) == good


@pytest.mark.parametrize(
    "text", ["veth[eth0]:web0@br0", "veth[eth0]:web0", "eth0:web0@br0", "eth0:web0", "eth0=web0@br0", "eth0=web0"]
)
def test_every_short_form_is_allowed(schema: dict[str, Any], text: str) -> None:
    pattern = schema["$defs"]["File"]["properties"]["mappings"]["items"]["pattern"]

    assert re.search(pattern, text)
    assert config.split_mapping(text) is not None
    assert not re.search(pattern, "eth0")


@pytest.mark.parametrize(
    "key",
    ["ipv4.proxy_arp", "ipv6.neigh.retrans_time_ms", "mpls.input", "../x", "ipv4.", "net.x", "ipv4.a.b", "ipv4.A"],
)
def test_sysctl_keys(schema: dict[str, Any], key: str) -> None:
    pattern = schema["$defs"]["VethTable"]["properties"]["sysctl"]["propertyNames"]["pattern"]
    try:
        rules.sysctl_path(key, "web0")
    except ValueError:
        assert not re.search(pattern, key)
    else:
        assert re.search(pattern, key)


@pytest.fixture(scope="module")
def state_schema() -> dict[str, Any]:
    shown = runner().invoke(app, ["schema", "--state"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    made: dict[str, Any] = json.loads(shown.stdout)
    return made


def test_the_state_files_schema_has_every_type_and_key(state_schema: dict[str, Any]) -> None:
    assert state_schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (state_schema["title"], state_schema["$ref"]) == ("criu-veth.json", "#/$defs/State")
    assert {"State", "Host", "CapturedVeth", "Inner", "Outer", "Address", "Route"} <= set(state_schema["$defs"])
    for name, described in state_schema["$defs"].items():
        keys = [field.name for field in msgspec.structs.fields(getattr(state, name))]
        assert list(described["properties"]) == keys
        assert described["additionalProperties"] is False
        assert described["description"]


def test_a_newer_version_of_the_state_file_is_refused_by_its_schema(state_schema: dict[str, Any]) -> None:
    version = state_schema["$defs"]["State"]["properties"]["version"]

    assert version == {"type": "integer", "minimum": 1, "maximum": state.SCHEMA_VERSION}
