"""``criu-veth install`` and ``uninstall``, below a root of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result

from criu_veth import install
from criu_veth.cli.app import app
from lab.cli import runner

LINE = "action-script /usr/local/libexec/criu-veth/hook\n"
PACKAGES = Path(__file__).parents[2]


def invoke(command: str, root: Path, *words: str, answer: str | None = None) -> Result:
    return runner().invoke(app, [command, "--root", str(root), *words], input=answer)


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_install_and_uninstall(tmp_path: Path) -> None:
    words = ["--runtime", "runc", "--runtime", "crun", "--runtime", "criu"]
    (tmp_path / "etc/criu").mkdir(parents=True)
    (tmp_path / "etc/criu/runc.conf").write_text("# mine\ntcp-established # too")
    before = tree(tmp_path)

    done = invoke("install", tmp_path, *words, "--yes")

    assert done.exit_code == 0
    installed = tree(tmp_path)
    assert installed.pop("usr/local/libexec/criu-veth/hook").startswith("#!/bin/sh\n")
    assert installed == {
        "etc/criu/runc.conf": "# mine\ntcp-established # too\n" + LINE,
        "etc/criu/crun.conf": LINE,
        "etc/criu/default.conf": LINE,
    }
    again = invoke("install", tmp_path, *words)
    assert (again.exit_code, again.stdout.splitlines()[0]) == (0, "nothing to do: all is as it should be")

    assert invoke("uninstall", tmp_path, "--yes").exit_code == 0
    assert tree(tmp_path) == {name: text + "\n" for name, text in before.items()}
    assert not (tmp_path / "usr/local/libexec/criu-veth").exists()
    assert invoke("uninstall", tmp_path).stdout == "nothing to do: all is as it should be\n"


def test_the_change_is_shown_and_asked_for(tmp_path: Path) -> None:
    done = invoke("install", tmp_path, "--runtime", "runc", answer="n\n")

    assert done.exit_code == 1
    said = done.stdout.splitlines()
    if said[-1] == " n":  # click's runner writes the answer there before 8.2
        said.pop()
    assert said == [
        "/usr/local/libexec/criu-veth/hook: is new",
        "--- /dev/null",
        "+++ /etc/criu/runc.conf",
        "@@ -0,0 +1 @@",
        "+action-script /usr/local/libexec/criu-veth/hook",
    ]
    assert done.stderr.endswith("criu-veth: error: nothing was changed; --yes does it without asking\n")
    assert tree(tmp_path) == {}


def test_the_end_of_the_input_is_no(tmp_path: Path) -> None:
    assert invoke("install", tmp_path, "--runtime", "runc").exit_code == 1
    assert tree(tmp_path) == {}


def test_yes_is_an_answer(tmp_path: Path) -> None:
    assert invoke("install", tmp_path, "--runtime", "runc", answer="y\n").exit_code == 0
    assert (tmp_path / "etc/criu/runc.conf").read_text() == LINE


def test_a_hook_of_another_place_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "etc/criu").mkdir(parents=True)
    conf = tmp_path / "etc/criu/runc.conf"
    conf.write_text('a\naction-script "/opt/criu_veth/hooks/criu-veth"\nb\naction-script=/opt/other\n')

    invoke("install", tmp_path, "--runtime", "runc", "--yes")

    assert conf.read_text() == f"a\n{LINE}b\naction-script=/opt/other\n"


def test_mode_of_a_file_stays(tmp_path: Path) -> None:
    (tmp_path / "etc/criu").mkdir(parents=True)
    conf = tmp_path / "etc/criu/runc.conf"
    conf.touch(0o600)

    invoke("install", tmp_path, "--runtime", "runc", "--yes")

    assert conf.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "usr/local/libexec/criu-veth/hook").stat().st_mode & 0o777 == 0o755


def test_what_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    for name in ("crun", "lxc-checkpoint"):
        (tmp_path / "usr/bin" / name).touch(0o755)

    done = invoke("install", tmp_path, "--yes")

    assert sorted(tree(tmp_path)) == [
        "etc/criu/crun.conf",
        "usr/bin/crun",
        "usr/bin/lxc-checkpoint",
        "usr/local/libexec/criu-veth/hook",
    ]
    assert "-A /usr/local/libexec/criu-veth/hook" in done.stdout.splitlines()[-1]


def test_without_any_runtime_it_is_criu_itself(tmp_path: Path) -> None:
    invoke("install", tmp_path, "--yes")

    assert (tmp_path / "etc/criu/default.conf").read_text() == LINE


def test_twice_an_action_is_warned_of(tmp_path: Path) -> None:
    done = invoke("install", tmp_path, "--runtime", "criu", "--runtime", "runc", "--yes")

    assert done.stderr == (
        f"criu-veth: warning: {tmp_path}/etc/criu/default.conf and the configuration of runc name the hook: it runs"
        " twice, in vain\n"
    )


def test_a_link_in_the_image_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc/criu").mkdir(parents=True)
    (tmp_path / "etc/criu/runc.conf").symlink_to("/etc/passwd")

    done = invoke("install", tmp_path, "--runtime", "runc", "--yes")

    assert done.exit_code == 2
    assert done.stderr == (
        f"criu-veth: error: {tmp_path}/etc/criu/runc.conf: is a symbolic link, which may lead out of {tmp_path}; it is"
        " left alone\n"
    )


def test_a_file_that_is_no_text_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc/criu").mkdir(parents=True)
    (tmp_path / "etc/criu/runc.conf").write_bytes(b"\xff")

    done = invoke("install", tmp_path, "--runtime", "runc", "--yes")

    assert done.stderr == f"criu-veth: error: {tmp_path}/etc/criu/runc.conf: is not UTF-8; it is left alone\n"


def test_the_installed_hook_needs_no_environment(tmp_path: Path) -> None:
    """Neither PATH nor where it lies tells it anything; a call without an action is refused by its Python."""
    invoke("install", tmp_path, "--runtime", "criu", "--yes")
    hook = shutil.copy(tmp_path / "usr/local/libexec/criu-veth/hook", tmp_path / "elsewhere")

    done = subprocess.run([hook], capture_output=True, text=True, check=False, env={"PATH": "/nonexistent"})

    assert done.returncode == 2
    assert done.stderr.startswith("criu-veth: error: CRTOOLS_SCRIPT_ACTION is not set: ")
    assert install.fixed_in(hook) == (sys.executable, str(PACKAGES))


def test_a_python_may_be_named(tmp_path: Path) -> None:
    invoke("install", tmp_path, "--python", "/opt/a b/python3", "--yes")
    hook = tmp_path / "usr/local/libexec/criu-veth/hook"

    done = subprocess.run([hook], capture_output=True, text=True, check=False, env={})

    assert install.fixed_in(str(hook)) == ("/opt/a b/python3", str(PACKAGES))
    assert (done.returncode, done.stderr) == (
        2,
        "criu-veth: error: no action: there is no Python for /usr/local/libexec/criu-veth/hook (looked for:"
        " /opt/a b/python3)\n",
    )


def test_a_package_within_the_root_is_named_as_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("criu_veth.__file__", str(tmp_path / "opt/packages/criu_veth/__init__.py"))

    assert install.own_package_root(str(tmp_path)) == "/opt/packages"
    assert install.own_package_root("/") == str(tmp_path / "opt/packages")


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("action-script /a", ["/a"]),
        ("action-script=/a\n", ["/a"]),
        ("  action-script   '/a b' # why", ["/a b"]),
        ("# action-script /a\nexternal veth[eth0]:web0\naction-scripts /b", []),
    ],
)
def test_scripts_of_a_configuration_file(text: str, scripts: list[str]) -> None:
    assert install.scripts(text) == scripts
