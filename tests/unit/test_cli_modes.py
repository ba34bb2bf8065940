"""By which way the inner ends come back, as ``criu-veth options`` and ``plan`` decide it before a restore."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from click.testing import Result

from criu_veth import paths, state, way
from criu_veth.cli.app import app
from criu_veth.state import CapturedVeth, Host, Inner, Outer, State
from lab.cli import runner

NETDEV = bytes.fromhex("19435654 51393757")  # the magic numbers of an image with devices
LOOPBACK = bytes.fromhex("10000000 0801 1001 1880 8004 20c9 8004 2a02 6c6f")
MACVLAN = '[[veth]]\ninner = "eth1"\nkind = "macvlan"\nparent = "wan0"\n'


@pytest.fixture(autouse=True)
def _nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.CONFIG_VARIABLE, raising=False)
    monkeypatch.setattr(paths, "CONFIG_DEFAULT", str(tmp_path / "etc.toml"))


@pytest.fixture
def captured(images: Path) -> Path:
    """An image directory with what was captured, and nothing of CRIU's yet."""
    veths = tuple(
        CapturedVeth(inner=Inner(ifname=inner), outer=Outer(ifname=outer))
        for inner, outer in (("eth0", "web0"), ("eth1", "db0"))
    )
    host = Host(hostname="h", kernel="k", criu_veth="v", created="c")
    state.write(State(version=1, host=host, veths=veths), state.path_in(str(images)))
    return images


@pytest.fixture
def dumped(captured: Path) -> Path:
    """The same with CRIU's images."""
    (captured / "inventory.img").touch()
    (captured / "netdev-10.img").write_bytes(NETDEV + LOOPBACK)
    return captured


def run(command: str, *words: str | Path) -> Result:
    return runner().invoke(app, [command, *map(str, words)])


def options(images: Path, *words: str | Path) -> list[str]:
    shown = run("options", "--no-action-script", "--images", images, *words)
    assert (shown.exit_code, shown.stderr) == (0, "")
    return shlex.split(shown.stdout)


def name(images: Path, inner: str) -> str:
    return way.ready_name(str(images), inner)


def mapping(images: Path, text: str) -> None:
    (images / "criu-veth.toml").write_text(text)


@pytest.mark.parametrize("words", [(), ("--mode", "external")])
def test_every_captured_veth_is_external(captured: Path, dumped: Path, words: tuple[str, ...]) -> None:
    wanted = ["--external", "veth[eth0]:web0", "--external", "veth[eth1]:db0"]

    assert options(captured, *words) == wanted
    assert options(dumped, *words) == wanted


def test_ready_devices_have_names_of_their_own(dumped: Path) -> None:
    names = [name(dumped, "eth0"), name(dumped, "eth1")]

    assert options(dumped, "--mode", "ready") == [
        *("--external", f"netdev[eth0]:{names[0]}"),
        *("--external", f"netdev[eth1]:{names[1]}"),
    ]
    assert json.loads(
        run("options", "--no-action-script", "--images", dumped, "--mode", "ready", "--format", "json").stdout
    ) == {"external": [f"netdev[eth0]:{names[0]}", f"netdev[eth1]:{names[1]}"]}


def test_a_ready_devices_name_is_short_and_no_others() -> None:
    names = {way.ready_name(f"/images/{number}", f"eth{end}") for number in range(1000) for end in range(10)}

    assert len(names) == 10_000
    assert all(len(one) == 15 and one.startswith("cv") and one.isalnum() for one in names)
    assert way.ready_name("/i\udcff", "eth0") == way.ready_name("/i\udcff", "eth0")


def test_an_empty_network_namespace_is_asked_for_once(dumped: Path) -> None:
    assert options(dumped, "--mode", "empty") == ["--empty-ns", "net"]
    assert options(dumped, "--mode", "empty", "--format", "conf") == ["empty-ns", "net"]
    shown = run("options", "--no-action-script", "--images", dumped, "--mode", "empty", "--format", "json")
    assert json.loads(shown.stdout) == {"external": [], "empty_ns": 0x40000000}


def test_images_without_devices_take_an_empty_network_namespace(dumped: Path) -> None:
    (dumped / "netdev-10.img").unlink()

    assert options(dumped) == ["--empty-ns", "net"]
    assert "setup-namespaces: eth0: pair made: web0 here, eth0 in the container" in (
        run("plan", "--images", dumped).stdout.splitlines()
    )


def test_an_external_network_namespace_is_the_callers_business(dumped: Path) -> None:
    (dumped / "netdev-10.img").unlink()
    (dumped / "netns-10.img").write_bytes(bytes.fromhex("19435654 52379355 05000000 4203") + b"web")

    shown = run("options", "--no-action-script", "--images", dumped)
    assert (shown.exit_code, shown.stdout) == (0, "\n")
    assert shown.stderr == (
        "criu-veth: notice: the network namespace is external to CRIU: what it was dumped with (--external"
        " net[INODE]:KEY) takes --inherit-fd fd[N]:KEY now\n"
    )

    shown = run("options", "--images", dumped, "--mode", "empty")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        "criu-veth: error: --mode empty, but the images say that the network namespace is external\n"
    )


def test_a_veths_own_mode_goes_before(dumped: Path) -> None:
    mapping(dumped, '[[veth]]\ninner = "eth0"\nmode = "ready"\n')
    ready = ["--external", f"netdev[eth0]:{name(dumped, 'eth0')}"]

    assert options(dumped) == [*ready, "--external", "veth[eth1]:db0"]
    mapping(dumped, '[[veth]]\ninner = "eth1"\nmode = "external"\n')
    assert options(dumped, "--mode", "ready") == [*ready, "--external", "veth[eth1]:db0"]


def test_what_criu_does_not_make_is_made_ready(dumped: Path) -> None:
    mapping(dumped, MACVLAN)

    assert options(dumped) == [
        *("--external", "veth[eth0]:web0"),
        *("--external", f"netdev[eth1]:{name(dumped, 'eth1')}"),
    ]
    assert options(dumped, "--mode", "empty") == ["--empty-ns", "net"]


def test_one_empty_veth_makes_all_of_them_so(dumped: Path) -> None:
    mapping(dumped, '[[veth]]\ninner = "eth1"\nmode = "empty"\n')

    assert options(dumped) == ["--empty-ns", "net"]


@pytest.mark.parametrize(
    ("file", "words", "faults"),
    [
        (
            '[[veth]]\ninner = "eth0"\nmode = "ready"\n',
            ["--mode", "empty"],
            ['veth[0].mode = "ready", but --mode empty leaves the whole network namespace to the hook'],
        ),
        (
            '[[veth]]\ninner = "eth0"\nmode = "ready"\n[[veth]]\ninner = "eth1"\nmode = "empty"\n',
            ["--mode", "external"],
            [
                'veth[0].mode = "ready", but veth[1].mode = "empty" leaves the whole network namespace to the hook',
                '--mode external, but veth[1].mode = "empty" leaves the whole network namespace to the hook',
            ],
        ),
    ],
)
def test_what_cannot_be_had_together(dumped: Path, file: str, words: list[str], faults: list[str]) -> None:
    mapping(dumped, file)

    shown = run("options", "--images", dumped, *words)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr.splitlines() == [f"criu-veth: error: {fault}" for fault in faults]


@pytest.mark.parametrize("mode", ["external", "ready"])
def test_images_without_devices_refuse_other_modes(dumped: Path, mode: str) -> None:
    (dumped / "netdev-10.img").unlink()

    shown = run("options", "--images", dumped, "--mode", mode)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: --mode {mode}, but the images hold no devices: the network namespace will be empty\n"
    )


def test_without_an_image_directory_nothing_can_be_made_ready(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(MACVLAN)

    for words in (["options", file], ["plan", file], ["check", file]):
        shown = run(*map(str, words))
        assert (shown.exit_code, shown.stdout) == (2, "")
        assert shown.stderr == (
            'criu-veth: error: "eth1" is to be made ready, under a name that is made from the image directory\'s: add'
            " --images DIR\n"
        )


def test_plan_shows_what_is_made_ready(dumped: Path) -> None:
    lines = run("plan", "--images", dumped, "--mode", "ready").stdout.splitlines()

    assert lines[:2] == [
        f"setup-namespaces: eth0: pair made: web0 here, eth0 ready as {name(dumped, 'eth0')}",
        f"setup-namespaces: eth1: pair made: db0 here, eth1 ready as {name(dumped, 'eth1')}",
    ]


def test_a_damaged_image_is_an_error(dumped: Path) -> None:
    os.truncate(dumped / "netdev-10.img", 10)

    shown = run("options", "--images", dumped)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: {dumped}/netdev-10.img: is damaged: the message at byte 8 is said to have 16 bytes\n"
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [('kind = "ipvlan"\nparent = "up0"', "ipvlan l2"), ('kind = "netkit"\nkind_mode = "l3"', "netkit l3")],
)
def test_what_criu_cannot_move_in_is_made_inside(dumped: Path, kind: str, mode: str) -> None:
    mapping(dumped, f'[[veth]]\ninner = "eth0"\n{kind}\n')

    assert options(dumped) == ["--empty-ns", "net"]
    shown = run("options", "--no-action-script", "--images", dumped, "--mode", "ready")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: --mode ready, but CRIU can move no {mode} in (veth[0]): the hook has to make it inside\n"
    )


def test_what_criu_is_told_wins_over_the_capture(dumped: Path) -> None:
    shown = run("plan", "--images", dumped, "--external", "veth[eth0]:other@br7", "--external", "netdev[eth1]:cv1")

    assert shown.stderr == ('criu-veth: notice: veth eth0: named "other" as criu was told, not "web0" as at the dump\n')
    assert "post-restore: eth0: other attached to br7" in shown.stdout.splitlines()
    assert "setup-namespaces: eth1: pair made: db0 here, eth1 ready as cv1" in shown.stdout.splitlines()


def test_a_network_namespace_by_path_leaves_the_pair_to_others(dumped: Path) -> None:
    shown = run("plan", "--images", dumped, "--external", "net[pod]")

    assert "made" not in shown.stdout


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("veth[eth0:web0", "veth[INNER]:OUTER[@BRIDGE]"),
        ("veth[eth0]", "veth[INNER]:OUTER[@BRIDGE]"),
        ("netdev[]:cv0", "netdev[INNER]:NAME"),
        ("macvlan[mv0]=up0", "macvlan[INNER]:PARENT"),
    ],
)
def test_what_criu_would_not_take(dumped: Path, value: str, form: str) -> None:
    shown = run("prepare", dumped, "--external", value)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == f"criu-veth: error: --external {value}: is not as criu takes it: {form}\n"
