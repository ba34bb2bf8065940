"""``criu-veth plan``, and how every command finds the mapping file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from criu_veth import paths
from criu_veth.cli.app import app
from lab.cli import on_a_terminal, runner

FULL = """
mappings = ["veth[eth0]:web0@br0"]
[[veth]]
inner = "eth1"
outer = "{inner}-out"
bridge = "br0"
mtu = 1400
alias = "web, front"
port = { hairpin = true }
sysctl = { "ipv4.proxy_arp" = 1 }
"""


@pytest.fixture(autouse=True)
def _nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.CONFIG_VARIABLE, raising=False)
    monkeypatch.setattr(paths, "CONFIG_DEFAULT", str(tmp_path / "etc.toml"))


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return write(tmp_path / "full.toml", FULL)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def plan(*words: str | Path) -> Result:
    return runner().invoke(app, ["plan", *map(str, words)])


def test_lines_are_what_the_hook_would_say(full: Path) -> None:
    shown = plan(full)

    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert [line for line in lines if line.startswith("post-restore: eth0: ")] == [
        "post-restore: eth0: outer end named web0",
        "post-restore: eth0: web0 attached to br0",
        "post-restore: eth0: web0 up",
        "post-restore: eth0: eth0 announced",
    ]
    assert {
        "post-restore: eth1: outer end named eth1-out",
        "post-restore: eth1: eth1-out mtu 1400",
        'post-restore: eth1: eth1-out alias "web, front"',
        "post-restore: eth1: eth1-out port hairpin 1",
        "post-restore: eth1: eth1-out sysctl ipv4.proxy_arp = 1",
        "post-restore: eth1: eth1-out up",
    } <= set(lines)


def test_json_has_every_operation_with_its_description(full: Path) -> None:
    shown = json.loads(plan(full, "--json").stdout)

    assert (shown["config"], shown["state"]) == (str(full), None)
    attached = [one for one in shown["operations"]["post-restore"] if one["type"] == "Attach"]
    assert {"inner": "eth0", "outer": "web0", "description": "web0 attached to br0"}.items() <= attached[0].items()


def test_on_a_terminal_it_is_a_table(full: Path) -> None:
    lines = on_a_terminal("plan", full, columns=80)
    start = lines.index(["post-restore"])
    assert lines[start : start + 4] == [
        ["post-restore"],
        ["inner", "operation"],
        ["eth0", "outer", "end", "named", "web0"],
        ["web0", "attached", "to", "br0"],
    ]


def test_nothing_is_mapped(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.toml", "")

    assert plan(empty).stdout == f"nothing to do: no veth is mapped ({empty})\n"
    assert json.loads(plan(empty, "--json").stdout)["operations"] in ({}, {"post-restore": []})


def test_notices_go_to_stderr(tmp_path: Path) -> None:
    file = write(tmp_path / "old.toml", 'mappings = ["eth0=web0@br0"]')

    for words in ([file], [file, "--json"]):
        assert plan(*words).stderr == (
            'criu-veth: notice: mappings[0]: "eth0=web0@br0" is the obsolete --veth-pair form;'
            ' today it is "veth[eth0]:web0@br0"\n'
        )


def test_faults_of_the_file_are_2(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.toml", '[[veth]]\ninner = "a/b"\nouter = "web0"\nmtu = 67\n')

    shown = plan(file)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: {file}: veth[0].inner: 'a/b' has '/' in it, which no interface name may\n"
        f"criu-veth: error: {file}: veth[0].mtu: 67 is not an MTU that a veth takes (68 to 65535)\n"
    )


def test_the_file_is_found_as_the_hook_finds_it(
    tmp_path: Path, images: Path, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(*words: str | Path) -> str:
        return str(json.loads(plan("--json", *words).stdout)["config"])

    default = write(tmp_path / "etc.toml", FULL)
    assert config() == str(default)
    assert config("--images", images) == str(default)
    inside = write(images / "criu-veth.toml", FULL)
    assert config("--images", images) == str(inside)
    named = write(tmp_path / "named.toml", FULL)
    monkeypatch.setenv(paths.CONFIG_VARIABLE, str(named))
    assert config("--images", images) == str(named)
    assert config("--images", images, full) == str(full)


def test_there_is_no_file(tmp_path: Path, images: Path) -> None:
    shown = plan()
    assert shown.exit_code == 2
    assert shown.stderr == (
        f"criu-veth: error: there is no mapping file ({tmp_path}/etc.toml): write one, or add --images DIR for what was"
        " captured at the dump\n"
    )

    shown = plan("--images", images)
    assert shown.exit_code == 2
    assert shown.stderr == (
        f"criu-veth: error: there is no mapping file ({images}/criu-veth.toml or {tmp_path}/etc.toml), and {images}"
        " holds no criu-veth.json\n"
    )


def test_the_image_directory_gives_its_name(tmp_path: Path, images: Path) -> None:
    file = write(tmp_path / "f.toml", 'mappings = ["eth0:{image}0"]')
    (tmp_path / "link").symlink_to(images)

    assert "images0" in plan(file, "--images", images).stdout
    assert "images0" in plan(file, "--images", tmp_path / "link").stdout
    shown = plan(file)
    assert shown.exit_code == 2
    assert shown.stderr == (
        f"criu-veth: error: {file}: mappings[0]: {{image}} stands for the image directory's name, which is not known:"
        " add --images DIR\n"
    )
