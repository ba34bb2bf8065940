"""The shell half of the hook, where it needs neither root nor namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from criu_veth import actions, hook

REPOSITORY = Path(__file__).parents[2]
HOOK = REPOSITORY / "hooks/criu-veth"

#: Actions that Python has a part in.
WORK = {
    actions.PRE_DUMP,
    actions.PRE_RESTORE,
    actions.SETUP_NAMESPACES,
    actions.POST_SETUP_NAMESPACES,
    actions.POST_RESTORE,
    actions.POST_RESUME,
}


def call(script: Path | str = HOOK, /, cwd: Path = Path("/"), **env: str) -> subprocess.CompletedProcess[str]:
    """Run the hook with this environment and no other."""
    return subprocess.run(
        [script], env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture
def without_python(tmp_path: Path) -> Path:
    """The hook installed for a Python that is not there: whatever gets past the shell fails."""
    script = tmp_path / "lib/python0.0/site-packages/criu_veth/hooks/criu-veth"
    script.parent.mkdir(parents=True)
    shutil.copy(HOOK, script)
    return script


@pytest.mark.parametrize("action", sorted(set(actions.KNOWN) - WORK))
def test_an_action_without_work_ends_in_the_shell(without_python: Path, action: str) -> None:
    done = call(without_python, CRTOOLS_SCRIPT_ACTION=action)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_action_is_noticed_and_ends_in_the_shell(without_python: Path) -> None:
    done = call(without_python, CRTOOLS_SCRIPT_ACTION="pre-coffee")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == 'criu-veth: notice: unknown action "pre-coffee", nothing done\n'


@pytest.mark.parametrize("action", sorted(WORK - {actions.POST_RESUME}))
def test_an_action_with_work_needs_python(without_python: Path, action: str) -> None:
    done = call(without_python, CRTOOLS_SCRIPT_ACTION=action)
    prefix = without_python.parents[5]
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: {action}: there is no Python for {without_python}"
        f" (looked for: {prefix}/bin/python0.0 /usr/bin/python0.0 /usr/local/bin/python0.0)\n",
    )


def test_both_halves_know_the_same_actions() -> None:
    assert hook._HANDLED == WORK
    assert set(actions.KNOWN) >= WORK


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "CRTOOLS_SCRIPT_ACTION is not set"),
        ({"CRTOOLS_SCRIPT_ACTION": ""}, "CRTOOLS_SCRIPT_ACTION is empty"),
        ({"CRIU_SCRIPT_ACTION": ""}, "CRIU_SCRIPT_ACTION is empty"),
    ],
)
def test_not_called_by_criu(env: dict[str, str], message: str) -> None:
    done = call(**env)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"criu-veth: error: {message}: this program is called by criu, as `criu dump|restore --action-script PATH`\n",
    )


@pytest.mark.parametrize("other", sorted({*actions.KNOWN, "pre-coffee"} - {"network-lock"}))
@pytest.mark.parametrize("turned", [False, True])
def test_contradictory_actions(other: str, turned: bool) -> None:
    """Also where one of the two alone would have ended in the shell."""
    first, second = (other, "network-lock") if turned else ("network-lock", other)
    done = call(CRTOOLS_SCRIPT_ACTION=first, CRIU_SCRIPT_ACTION=second)
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: contradictory actions: CRTOOLS_SCRIPT_ACTION={first} and CRIU_SCRIPT_ACTION={second};"
        " unset one of them\n",
    )


def test_either_name_of_the_variable_or_both() -> None:
    for env in (
        {"CRIU_SCRIPT_ACTION": "network-lock"},
        {"CRTOOLS_SCRIPT_ACTION": "", "CRIU_SCRIPT_ACTION": "network-lock"},
        {"CRTOOLS_SCRIPT_ACTION": "network-lock", "CRIU_SCRIPT_ACTION": "network-lock"},
        {"CRTOOLS_SCRIPT_ACTION": "network-lock", "CRIU_SCRIPT_ACTION": ""},
    ):
        done = call(**env)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() == 0, reason="tests/netns has it for root")
def test_not_root(tmp_path: Path) -> None:
    """Nothing to do is no error for anybody."""
    done = call(CRTOOLS_SCRIPT_ACTION="pre-restore", CRTOOLS_IMAGE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "netdev-9.img").touch()
    done = call(CRTOOLS_SCRIPT_ACTION="pre-restore", CRTOOLS_IMAGE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: pre-restore: must be run as root, not as uid {os.geteuid()}\n",
    )


# --- finding Python and the package. The message of a call without an action comes from Python.

FROM_PYTHON = (2, "criu-veth: error: CRTOOLS_SCRIPT_ACTION is not set: this program is called by criu, as"
                  " `criu dump|restore --action-script PATH`\n")  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout elsewhere, in a directory with a space in its name; its .venv has this Python."""
    root = tmp_path / "a checkout"
    (root / "hooks").mkdir(parents=True)
    shutil.copy(HOOK, root / "hooks/criu-veth")
    shutil.copytree(REPOSITORY / "criu_veth", root / "criu_veth")
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/python3").symlink_to(sys.executable)
    return root


@pytest.mark.parametrize("path", ["hooks/criu-veth", "./hooks/criu-veth", "hooks/../hooks/criu-veth"])
def test_relative_path(checkout: Path, path: str) -> None:
    done = call(path, cwd=checkout)
    assert (done.returncode, done.stderr) == FROM_PYTHON


def test_path_within_the_directory(checkout: Path) -> None:
    done = call("./criu-veth", cwd=checkout / "hooks")
    assert (done.returncode, done.stderr) == FROM_PYTHON


@pytest.mark.parametrize(
    "path", ["checkout/hooks", "link", "link/", "link/.", "below/..", "below/../hooks", "checkout/below/../../hooks"]
)
def test_python_finds_its_environment(checkout: Path, tmp_path: Path, path: str) -> None:
    """It looks beside the path that it was started by, from which it takes every ``..`` as if there were no links."""
    (checkout / "hooks/below").mkdir()
    (tmp_path / "checkout").symlink_to(checkout)
    (tmp_path / "link").symlink_to(checkout / "hooks")
    (tmp_path / "below").symlink_to(checkout / "hooks/below")
    (checkout / "below").symlink_to(checkout / "hooks/below")
    (checkout / "hooks/hooks").symlink_to(checkout / "hooks")
    python = checkout / ".venv/bin/python3"
    python.unlink()
    python.write_text('#!/bin/sh\necho "$0"\n')
    python.chmod(0o755)

    started = call(f"{tmp_path}/{path}/criu-veth", CRTOOLS_SCRIPT_ACTION="pre-dump").stdout[:-1]

    assert Path(os.path.normpath(started)).samefile(python)


def test_found_on_path(checkout: Path) -> None:
    done = subprocess.run(
        ["env", "-i", f"PATH={checkout}/hooks:/usr/bin:/bin", "criu-veth"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == FROM_PYTHON


def test_link_to_the_hook(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("a checkout/hooks/criu-veth")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for path, cwd in ((f"{tmp_path}/two", Path("/")), ("./two", tmp_path)):
        done = call(path, cwd=cwd)
        assert (done.returncode, done.stderr) == FROM_PYTHON


def test_link_to_its_directory(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "hooks").symlink_to(checkout / "hooks")
    done = call(tmp_path / "hooks/criu-veth")
    assert (done.returncode, done.stderr) == FROM_PYTHON


def test_installed_and_called_by_way_of_a_link(without_python: Path, tmp_path: Path) -> None:
    (tmp_path / "libexec").symlink_to(without_python.parent)
    done = call(tmp_path / "libexec/criu-veth", CRTOOLS_SCRIPT_ACTION="pre-restore")
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: pre-restore: there is no Python for {tmp_path}/libexec/criu-veth"
        f" (looked for: {tmp_path}/bin/python0.0 /usr/bin/python0.0 /usr/local/bin/python0.0)\n",
    )


def test_a_module_beside_the_hook_is_not_mistaken_for_pythons_own(checkout: Path) -> None:
    for name in ("posix.py", "os.py", "traceback.py", "_socket.py", "marshal.py"):
        (checkout / name).write_text("raise SystemExit('not me')")
    done = call(checkout / "hooks/criu-veth", cwd=checkout)
    assert (done.returncode, done.stderr) == FROM_PYTHON


def test_the_environment_does_not_lead_python_astray(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "criu_veth.py").write_text("raise SystemExit('not me')")
    done = call(checkout / "hooks/criu-veth", PYTHONPATH=str(tmp_path), PYTHONHOME=str(tmp_path), PYTHONVERBOSE="1")
    assert (done.returncode, done.stderr) == FROM_PYTHON


def test_python_has_a_stdin(checkout: Path) -> None:
    """CRIU gives none, and programs that the hook starts may die of that (ovs-vsctl does)."""
    python = checkout / ".venv/bin/python3"
    python.unlink()
    python.write_text("#!/bin/sh\nreadlink /proc/$$/fd/0\n")
    python.chmod(0o755)
    argv = ["sh", "-c", 'exec "$0" <&-', checkout / "hooks/criu-veth"]
    done = subprocess.run(argv, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "/dev/null\n")


def test_closed_descriptors(checkout: Path) -> None:
    """CRIU closes stdin; whatever else is closed must not become a file of ours that is written to."""
    shell = 'exec "$0" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, checkout / "hooks/criu-veth"], env={}, check=False)
    assert done.returncode == FROM_PYTHON[0]
