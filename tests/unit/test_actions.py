"""CRIU's environment for an action script."""

from __future__ import annotations

import pytest

from criu_veth import actions

CALL = {
    "CRTOOLS_SCRIPT_ACTION": "post-restore",
    "CRTOOLS_IMAGE_DIR": "/proc/4711/fd/9",
    "CRTOOLS_INIT_PID": "815",
}


def changed(**values: str | None) -> dict[str, str]:
    """CALL with some variables set, or taken away by None."""
    return {name: value for name, value in {**CALL, **values}.items() if value is not None}


def fault(environ: dict[str, str]) -> str:
    with pytest.raises(actions.BadCallError) as raised:
        actions.read_call(environ)
    return str(raised.value)


def test_what_criu_says() -> None:
    call = actions.read_call(CALL)
    assert (call.action, call.image_dir, call.init_pid, call.criu_pid) == (
        "post-restore", "/proc/4711/fd/9", 815, 4711,
    )  # fmt: skip
    assert call.known


@pytest.mark.parametrize(
    "environ",
    [
        changed(CRTOOLS_SCRIPT_ACTION=None, CRIU_SCRIPT_ACTION="post-restore"),
        changed(CRTOOLS_SCRIPT_ACTION="", CRIU_SCRIPT_ACTION="post-restore"),
        changed(CRIU_SCRIPT_ACTION="post-restore"),
        changed(CRIU_SCRIPT_ACTION=""),
    ],
)
def test_the_name_that_some_callers_use(environ: dict[str, str]) -> None:
    assert actions.read_call(environ).action == "post-restore"


def test_contradictory_actions() -> None:
    assert fault(changed(CRIU_SCRIPT_ACTION="pre-restore")) == (
        "contradictory actions: CRTOOLS_SCRIPT_ACTION=post-restore and CRIU_SCRIPT_ACTION=pre-restore; unset one of"
        " them"
    )


def test_no_action() -> None:
    by_criu = ": this program is called by criu, as `criu dump|restore --action-script PATH`"
    assert fault({}) == "CRTOOLS_SCRIPT_ACTION is not set" + by_criu
    assert fault({"CRTOOLS_SCRIPT_ACTION": ""}) == "CRTOOLS_SCRIPT_ACTION is empty" + by_criu
    assert fault({"CRIU_SCRIPT_ACTION": ""}) == "CRIU_SCRIPT_ACTION is empty" + by_criu


def test_all_that_is_missing_is_said_at_once() -> None:
    assert fault({"CRTOOLS_SCRIPT_ACTION": "post-restore"}) == (
        "post-restore: CRTOOLS_IMAGE_DIR is not set; CRTOOLS_INIT_PID is not set"
    )
    assert fault(changed(CRTOOLS_IMAGE_DIR="", CRTOOLS_INIT_PID="x")) == (
        "post-restore: CRTOOLS_IMAGE_DIR is not set; CRTOOLS_INIT_PID is not a process id: 'x'"
    )


@pytest.mark.parametrize(
    "pid", ["0", "-1", "+1", " 1", "1 ", "1.0", "x", "0x10", "²", "4294967296", "99999999999", "9" * 5000]
)
def test_what_is_no_pid(pid: str) -> None:
    assert fault(changed(CRTOOLS_INIT_PID=pid)) == f"post-restore: CRTOOLS_INIT_PID is not a process id: {pid!r}"


@pytest.mark.parametrize("pid", [0, -1, -(1 << 31), 1 << 22, (1 << 31) - 1])
def test_whoever_asks_for_a_dump_may_name_what_is_no_process(pid: int) -> None:
    call = actions.read_call(changed(CRTOOLS_SCRIPT_ACTION="pre-dump", CRTOOLS_INIT_PID=str(pid)))
    assert call.init_pid == pid


@pytest.mark.parametrize("pid", ["--1", "-", "- 1", "+1", "x", "-²", "4294967296", "9" * 5000])
def test_what_is_no_pid_of_a_dump_either(pid: str) -> None:
    assert fault(changed(CRTOOLS_SCRIPT_ACTION="pre-dump", CRTOOLS_INIT_PID=pid)) == (
        f"pre-dump: CRTOOLS_INIT_PID is not a process id: {pid!r}"
    )


def test_pre_restore_has_no_pid() -> None:
    call = actions.read_call(changed(CRTOOLS_SCRIPT_ACTION="pre-restore", CRTOOLS_INIT_PID=None))
    assert call.init_pid is None
    call = actions.read_call(changed(CRTOOLS_SCRIPT_ACTION="pre-restore", CRTOOLS_INIT_PID="x"))
    assert call.init_pid is None


def test_an_action_with_no_work_needs_nothing() -> None:
    call = actions.read_call({"CRTOOLS_SCRIPT_ACTION": "network-lock"})
    assert call.known
    assert call.image_dir is None


def test_unknown_action_is_no_fault() -> None:
    call = actions.read_call({"CRTOOLS_SCRIPT_ACTION": "pre-coffee"})
    assert (call.action, call.known) == ("pre-coffee", False)


@pytest.mark.parametrize(
    "image_dir", [None, "/images", "/proc/self/fd/9", "/proc/4711/cwd", "/proc/4711/fd/9/sub", "/proc/²/fd/9"]
)
def test_image_directory_that_names_no_criu(image_dir: str | None) -> None:
    assert actions.Call("post-restore", image_dir, 1).criu_pid is None
