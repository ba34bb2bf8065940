"""The runtimes' examples do what they say, and leave the machine's cgroups as they were."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from criu_veth import config
from lab import Criu
from lab.node import REPOSITORY, find_program

EXAMPLES = REPOSITORY / "examples"
RUNTIMES = {
    "runc": ("runc",),
    "crun": ("crun",),
    "podman": ("podman", "crun"),
    "lxc": ("lxc-start", "lxc-checkpoint"),
}


def run_example(name: str, criu: Criu) -> str:
    done = subprocess.run(
        [EXAMPLES / name / "run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "CRIU": str(criu.path)},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def groups() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").rglob("criu-veth-example-*")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.runtime(*needed)) for name, needed in RUNTIMES.items()]
)
def test_example(name: str, criu: Criu) -> None:
    said = run_example(name, criu).splitlines()

    assert "  server: 2 hello again" in said
    done = r"criu-veth: post-restore: eth0: \w+ attached to br0"
    if name == "podman":
        stay = "its name, MAC address, bridge, addresses and routes stay"
        done = rf"criu-veth: post-restore: notice: eth0: \w+ was made by somebody else: {stay}; put back: txqueuelen"
    assert any(re.fullmatch(done, line) for line in said)
    assert groups() == []


@pytest.mark.runtime("crun")  # .runtimes has pycriu too
def test_rpc(criu: Criu) -> None:
    said = run_example("rpc", criu).splitlines()

    assert "post-restore: failing, as was asked for" in said
    assert "criu: restore failed: see its log" in said
    assert "  server: 2 hello again" in said


def test_every_example_is_run_by_a_test() -> None:
    here = {*RUNTIMES, "rpc"}
    others = {path.parent.name for path in EXAMPLES.glob("*/criu-veth.toml")}

    assert {path.parent.name for path in EXAMPLES.glob("*/run")} == here | others


def test_mapping_file_of_the_podman_example() -> None:
    config.parse((EXAMPLES / "podman/web.toml").read_text(), "/etc/criu/criu-veth.d/web.toml")


def test_runtimes_of_this_checkout() -> None:
    """What `make setup` puts there is found."""
    assert find_program("crun")
