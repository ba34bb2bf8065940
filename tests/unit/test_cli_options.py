"""``criu-veth options``."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import Result

from criu_veth.cli import hookfile
from criu_veth.cli.app import app
from lab.cli import runner

HOOK = str(Path(__file__).parents[2] / "hooks" / "criu-veth")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return write(tmp_path, mappings=["veth[eth0]:web0@br0", "eth1:d'b0"])


def write(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "criu-veth.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return path


def options(*words: str | Path) -> Result:
    return runner().invoke(app, ["options", *map(str, words)])


def test_args_are_words_for_a_shell_and_name_no_bridge(two: Path) -> None:
    shown = options(two)

    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("--external 'veth[eth0]:web0' --external ")
    assert shlex.split(shown.stdout) == [
        *("--external", "veth[eth0]:web0"),
        *("--external", "veth[eth1]:d'b0"),
        *("--action-script", HOOK),
    ]
    assert options(two, "--format", "args").stdout == shown.stdout


def test_args_quote_the_path_of_the_hook(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hookfile, "find", lambda: "/my files/$x/criu-veth")

    assert options(two).stdout.endswith(" --action-script '/my files/$x/criu-veth'\n")


def test_conf_has_one_option_a_line(two: Path) -> None:
    assert options(two, "--format", "conf").stdout == (
        f"external veth[eth0]:web0\nexternal veth[eth1]:d'b0\naction-script {HOOK}\n"
    )


def test_json_has_both_of_the_rpc_forms(two: Path) -> None:
    assert json.loads(options(two, "--format", "json").stdout) == {
        "external": ["veth[eth0]:web0", "veth[eth1]:d'b0"],
        "veths": [{"if_in": "eth0", "if_out": "web0"}, {"if_in": "eth1", "if_out": "d'b0"}],
        "action_script": HOOK,
    }


def test_without_the_action_script(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hookfile, "find", lambda: pytest.fail("the hook need not be there"))

    args, conf, rpc = (options(two, "--format", form, "--no-action-script") for form in ("args", "conf", "json"))

    assert "--action-script" not in args.stdout
    assert conf.stdout == "external veth[eth0]:web0\nexternal veth[eth1]:d'b0\n"
    assert list(json.loads(rpc.stdout)) == ["external", "veths"]


@pytest.mark.parametrize(("outer", "bad"), [("web#0", "'#'"), ('a\\"b', "'\\\\\"'")], ids=["comment", "escaped quote"])
def test_conf_cannot_hold_everything(tmp_path: Path, outer: str, bad: str) -> None:
    file = write(tmp_path, mappings=[f"eth0:{outer}"])

    shown = options(file, "--format", "conf")

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        f'criu-veth: error: a CRIU configuration file cannot hold "veth[eth0]:{outer}", because of {bad} in it;'
        " use --format args\n"
    )
    assert options(file, "--format", "args").exit_code == 0


def test_control_characters_are_quoted(tmp_path: Path) -> None:
    """Whoever looks at the options on a terminal sees them; a shell makes the name of them again."""
    name = "a\x1b[31m'\\\x9bü"
    file = write(tmp_path, mappings=[f"eth0:{name}"])

    args, conf, rpc = (options(file, "--format", form, "--no-action-script") for form in ("args", "conf", "json"))

    assert args.stdout == "--external \"$(printf 'veth[eth0]:a\\033[31m\\047\\134\\302\\233\\303\\274')\"\n"
    script = f'set -- {args.stdout}printf %s "$2"'
    made = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True)
    assert made.stdout == f"veth[eth0]:{name}"
    cannot = 'criu-veth: error: a CRIU configuration file cannot hold "veth[eth0]:a\\x1b[31m\'\\\\x9bü", because of'
    assert conf.exit_code == 2
    assert conf.stderr == f"{cannot} '\\x1b' in it; use --format args\n{cannot} '\\x9b' in it; use --format args\n"
    assert json.loads(rpc.stdout)["external"] == [f"veth[eth0]:{name}"]
    assert rpc.stdout.isascii()


def test_conf_cannot_hold_a_path_with_a_space(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hookfile, "find", lambda: "/my files/criu-veth")

    shown = options(two, "--format", "conf")

    assert shown.exit_code == 2
    assert shown.stderr == (
        "criu-veth: error: a CRIU configuration file cannot hold \"/my files/criu-veth\", because of ' ' in it;"
        " use --format args\n"
    )


def test_names_that_criu_would_misread(tmp_path: Path) -> None:
    file = tmp_path / "criu-veth.toml"
    file.write_text('[[veth]]\ninner = "a]b"\nouter = "web0"\n[[veth]]\ninner = "eth1"\nouter = "web@1"\n')

    shown = options(file)

    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == (
        'criu-veth: error: veth a]b: CRIU cannot be told of an inner end "a]b": for it the name ends at the first "]"\n'
        'criu-veth: error: veth eth1: CRIU cannot be told of an outer end "web@1": for it a bridge follows "@"\n'
    )


def test_no_veth_is_mapped(tmp_path: Path) -> None:
    file = write(tmp_path)

    assert options(file).stdout == f"--action-script {HOOK}\n"
    assert options(file, "--format", "conf").stdout == f"action-script {HOOK}\n"
    assert options(file, "--format", "conf", "--no-action-script").stdout == ""


def test_the_hook_is_missing(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("criu_veth.__file__", str(tmp_path / "p" / "criu_veth" / "__init__.py"))

    shown = options(two)

    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.startswith("criu-veth: error: the hook is missing (looked for: ")
