"""The hook as it lies in an installed wheel, called as CRIU calls it, with no environment but CRIU's."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Container, Host
from lab.standin import StandIn, make_pair

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built here from a copy (of what goes into it)."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, source / name)
    (source / "README.md").touch()
    for name in ("criu_veth", "hooks"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run([*build, "-w", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel in it, and what it depends on from this one."""
    prefix = tmp_path_factory.mktemp("installed") / "a prefix"
    venv.create(prefix, with_pip=False)
    (packages,) = prefix.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", prefix / "bin/python", "install", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, "--quiet", wheel], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    needed = packages / "needed"
    needed.mkdir()
    for name in ("msgspec", "pyroute2"):
        (found,) = [path for base in bases() if (path := Path(base, name)).is_dir()][:1]
        (needed / name).symlink_to(found)
    (packages / "needed.pth").write_text(f"{needed}\n")
    return prefix


def bases() -> list[str]:
    return [*site.getsitepackages(), *sys.path]


@pytest.fixture
def hook(installed: Path) -> Path:
    """The installed hook, in place of the checkout's."""
    (found,) = installed.glob("lib/python*/site-packages/criu_veth/hooks/criu-veth")
    return found


def test_hook_is_executable_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        mode = archive.getinfo("criu_veth/hooks/criu-veth").external_attr >> 16
    assert mode & 0o777 == 0o755


def test_nothing_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"criu_veth"}


@pytest.mark.parametrize("link", [False, True])
def test_restore_with_an_empty_environment(
    bridged: Host, container: Container, hook: Path, images: Path, tmp_path: Path, link: bool
) -> None:
    """`env -i` in between, because the lab marks what it starts; the default mapping file needs no variable."""
    bridged.path("/etc/criu/criu-veth.toml").write_text('mappings = ["eth0:web0@br0"]')
    if link:
        (tmp_path / "hook").symlink_to(hook)
        hook = tmp_path / "hook"
    with StandIn(bridged, Path("env"), images) as restore:

        def act(action: str, *more: str) -> subprocess.CompletedProcess[str]:
            names = (f"CRTOOLS_SCRIPT_ACTION={action}", f"CRTOOLS_IMAGE_DIR={restore.image_dir}", *more)
            return bridged.run("env", "-i", *names, str(hook), check=False)

        pid = f"CRTOOLS_INIT_PID={container.pid}"
        for action in ("pre-restore", "pre-restore", "setup-namespaces", "post-setup-namespaces"):
            done = act(action, *([] if action == "pre-restore" else [pid]))
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        make_pair(container, "eth0", "x0")
        done = act("post-restore", pid)
        assert (done.returncode, done.stdout, done.stderr.splitlines()[:-1]) == (
            0,
            "",
            [
                "criu-veth: post-restore: eth0: outer end named web0",
                "criu-veth: post-restore: eth0: web0 attached to br0",
                "criu-veth: post-restore: eth0: web0 up",
            ],
        )
    assert bridged.link("web0")["master"] == "br0"


def test_an_installation_that_lacks_a_package_says_which(
    bridged: Host, hook: Path, installed: Path, restoring: Callable[..., StandIn], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(installed, broken, symlinks=True)
    (broken_hook,) = broken.glob("lib/python*/site-packages/criu_veth/hooks/criu-veth")
    (packages,) = broken.glob("lib/python*/site-packages")
    (packages / "needed.pth").unlink()
    with StandIn(bridged, broken_hook, tmp_path) as restore:
        bridged.path("/etc/criu/criu-veth.toml").write_text('mappings = ["eth0:web0"]')
        done = restore.act("pre-restore")
    (python,) = broken.glob("bin/python3.*")
    assert (done.returncode, done.stderr) == (
        1,
        f"criu-veth: error: pre-restore: {python} has no package 'msgspec': the installation is not complete\n",
    )
