"""The image directory is the one that criu has open, and what is in it keeps nobody waiting.

Whoever owns a directory above it can put another one in its place at any moment: here at each moment that there is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from lab import Container, Host, Link, Program
from lab.standin import StandIn

Restoring = Callable[..., StandIn]
ROOT = Path(__file__).parents[2]
SLEEPER = Program(argv=["sleep", "infinity"])

# The hook's Python, which finds another directory in place of its images after so many calls that lead to them.
SWAPPED = """
import posix, sys
root, images, planted, when = *sys.argv[1:4], int(sys.argv[4])
calls, own = 0, posix.getpid()

def counted(call):
    def wrapper(path, *args, **kwargs):
        global calls
        of_images = kwargs.get("dir_fd") is not None or isinstance(path, int) or any(
            word in str(path) for word in (images, "/fd/"))
        try:
            return call(path, *args, **kwargs)
        finally:
            calls += of_images
            if of_images and calls == when and posix.getpid() == own:  # not in a process that outlives it
                rename(images, images + ".away")
                rename(planted, images)
    return wrapper

rename = posix.rename
for name in ("open", "stat", "lstat", "readlink", "listdir"):
    setattr(posix, name, counted(getattr(posix, name)))
sys.path.append(root)
from criu_veth import hook
hook.main()
"""


class Swap:
    """Runs the hook for one action and has the image directory swapped for a planted one meanwhile."""

    def __init__(self, restore: StandIn, images: Path, planted: Path) -> None:
        self.restore = restore
        self.images = images
        self.planted = planted

    def __call__(self, when: int, action: str, container: Container | None = None) -> tuple[int, str, bool]:
        """Swap after this many calls; return status, what was said, and whether it came to that."""
        words = {"CRTOOLS_SCRIPT_ACTION": action, "CRTOOLS_IMAGE_DIR": self.restore.image_dir}
        if container is not None:
            words["CRTOOLS_INIT_PID"] = str(container.pid)
        argv = ["-I", "-S", "-c", SWAPPED, str(ROOT), str(self.images), str(self.planted), str(when)]
        done = self.restore.host.run(sys.executable, *argv, env={"PATH": os.environ["PATH"], **words}, check=False)
        away = Path(f"{self.images}.away")
        swapped = away.exists()
        if swapped:
            self.images.rename(self.planted)
            away.rename(self.images)
        return done.returncode, done.stderr, swapped


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """What must not be obeyed: reading any of it is an error."""
    directory = tmp_path / "planted"
    directory.mkdir()
    for name in ("criu-veth.json", "criu-veth.toml", "netdev-9.img", "netns-9.img"):
        (directory / name).write_text("planted")
    (directory / "inventory.img").touch()
    return directory


@pytest.fixture
def plugged(bridged: Host) -> Container:
    """A container with a veth on br0."""
    return bridged.container([Link(inner="eth0", outer="web0", bridge="br0")], SLEEPER)


@pytest.fixture
def swap(bridged: Host, hook: Path, images: Path, planted: Path) -> Iterator[Swap]:
    """A restore whose image directory can be swapped, and which finds no mapping file."""
    with StandIn(bridged, hook, images) as restore:
        yield Swap(restore, images, planted)


@pytest.mark.parametrize("ready", [True, False], ids=["program ready", "program to be made"])
def test_a_restore_obeys_what_criu_has_open(swap: Swap, plugged: Container, images: Path, ready: bool) -> None:
    assert swap(0, "pre-dump", plugged) == (0, "criu-veth: pre-dump: captured eth0: web0\n", False)
    plugged.kill()
    plugged.wait_unplugged()
    if ready:
        assert swap(0, "pre-restore") == (0, "", False)
    moments = 0
    for when in range(1, 60):
        if not ready:
            shutil.rmtree(swap.restore.host.path("/run/criu-veth"))
        status, said, swapped = swap(when, "pre-restore")
        assert (status, said) == (0, ""), when
        assert (Path(swap.restore.host.path("/run/criu-veth/runs")) / swap.restore.run / "post-restore").exists()
        if not swapped:
            break
        moments += 1
    assert moments > 5, "nothing was looked at"


def test_a_dump_is_written_to_what_criu_has_open(swap: Swap, plugged: Container, images: Path, planted: Path) -> None:
    moments = 0
    for when in range(1, 60):
        (images / "criu-veth.json").unlink(missing_ok=True)
        status, said, swapped = swap(when, "pre-dump", plugged)
        assert (status, said) == (0, "criu-veth: pre-dump: captured eth0: web0\n"), when
        assert json.loads((images / "criu-veth.json").read_text())["veths"]
        assert (planted / "criu-veth.json").read_text() == "planted"
        if not swapped:
            break
        moments += 1
    assert moments > 5, "nothing was looked at"


def test_a_mapping_file_is_trusted_by_the_directory_that_criu_has_open(
    swap: Swap, plugged: Container, images: Path, planted: Path
) -> None:
    """Owner and mode are the opened directory's: a trusted one in its place makes no difference."""
    (images / "criu-veth.toml").write_text("")
    (images / "criu-veth.toml").chmod(0o644)
    images.chmod(0o777)
    (planted / "criu-veth.toml").write_text("")
    (planted / "criu-veth.json").unlink()
    planted.chmod(0o755)
    for when in range(1, 60):
        status, said, swapped = swap(when, "pre-restore")
        names = [str(images), f"{images}.away", swap.restore.image_dir]
        where = next(name for name in names if f" {name}/" in said)
        assert (status, said) == (
            2,
            f"criu-veth: error: pre-restore: {where}/criu-veth.toml: not obeyed, because {where} may be written by"
            " others (mode 0777): chmod go-w\n",
        ), when
        if not swapped:
            break


def test_a_mapping_file_in_the_images_is_no_link(restoring: Restoring, images: Path, mapping: Path) -> None:
    mapping.write_text("")
    (images / "criu-veth.toml").symlink_to(mapping)
    done = restoring().act("pre-restore", env={"CRIU_VETH_CONFIG": None})
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: pre-restore: {images}/criu-veth.toml: is a symbolic link; beside images, the mapping file"
        " is a file: copy what it leads to there\n",
    )


# --- what is named like a file and is none


def place(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "device":
        os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero
    else:
        with chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)


KINDS = ("fifo", "directory", "link", "device", "socket")
IMAGES = ("inventory.img", "netns-9.img", "netdev-9.img", "ifaddr-9.img", "route-9.img", "ids-1.img", "files.img")


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_no_files_keep_nobody_waiting(
    restoring: Restoring, plugged: Container, container: Container, images: Path, kind: str
) -> None:
    restore = restoring('mappings = ["eth0:web1@br0"]')
    for name in (*IMAGES, "pstree.img", "core-1.img"):
        place(images / name, kind)

    assert restore.act("pre-dump", plugged).returncode == 0
    plugged.kill()
    plugged.wait_unplugged()
    for action in ("pre-restore", "setup-namespaces", "post-setup-namespaces"):
        done = restore.act(action, *([] if action == "pre-restore" else [container]))
        assert (done.returncode, done.stderr) == (0, ""), action


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("fifo", "is not a regular file"),
        ("directory", "is not a regular file"),
        ("link", "is a symbolic link"),
        ("device", "is not a regular file"),
        ("socket", "cannot be read: No such device or address"),
    ],
)
def test_a_state_file_that_is_none(restoring: Restoring, images: Path, kind: str, what: str) -> None:
    place(images / "criu-veth.json", kind)
    done = restoring("").act("pre-restore")
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: pre-restore: {images}/criu-veth.json: the state file {what}\n",
    )


def test_the_command_reads_no_fifo(host: Host, images: Path) -> None:
    (images / "inventory.img").touch()
    os.mkfifo(images / "netns-9.img")
    argv = [str(Path(sys.executable).parent / "criu-veth"), "inspect", str(images)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        f"criu-veth: error: {images}/netns-9.img: the image is not a regular file\n",
    )
