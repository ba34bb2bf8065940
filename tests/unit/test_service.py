"""A daemon that does not say where the images are: what its child has open tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from criu_veth import service
from criu_veth.actions import Call

NO_DAEMON = 1 << 22


@pytest.fixture
def me(monkeypatch: pytest.MonkeyPatch) -> int:
    """This process is the one that works, below a daemon that has nothing open."""
    monkeypatch.setattr("posix.getppid", os.getpid)
    return os.getpid()


def find(action: str, said: str = f"/proc/{NO_DAEMON}/fd/-1") -> Call:
    call = Call(action, said, 7)
    service.find_images(call)
    return call


def test_what_holds_an_inventory(me: int, tmp_path: Path) -> None:
    for name in ("work", "images"):
        (tmp_path / name).mkdir()
    work, images = (os.open(tmp_path / name, os.O_RDONLY) for name in ("work", "images"))
    try:
        (tmp_path / "images/inventory.img").touch()
        call = find("post-restore")
        assert (call.image_dir, call.criu_pid, call.lost_images) == (f"/proc/{me}/fd/{images}", me, "")
    finally:
        os.close(work)
        os.close(images)


def test_where_it_works(me: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventory.img").touch()
    assert find("pre-restore").image_dir == f"/proc/{me}/cwd"


def test_nowhere(me: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = find("pre-restore")
    assert call.lost_images == f"/proc/{NO_DAEMON}/fd/-1"


def test_when_all_is_closed(me: int) -> None:
    call = find("post-resume")
    assert (call.criu_pid, call.lost_images) == (me, "")


@pytest.mark.parametrize("said", ["/images", "/proc/7/fd/9", "/proc/self/fd/-1", "", "/proc/7/fd/-1/x"])
def test_a_directory_that_is_named(said: str) -> None:
    call = find("pre-restore", said)
    assert (call.image_dir, call.lost_images) == (said, "")
