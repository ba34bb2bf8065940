"""Every example does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from criu_veth import config
from lab import Criu, Host, scaled, snapshot

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/criu-veth.toml"))  # the others: tests/runtimes

#: Lines that each example's output has, in this order.
SAID = {
    "another-host": [
        "  server: 1 hello",
        "criu-veth: post-restore: eth0: web0 attached to lan",
        "  server: 2 hello again",
    ],
    "bridge": ["  server: 1 hello", "criu-veth: post-restore: eth0: web0 attached to br0", "  server: 2 hello again"],
    "demo": [
        "  server: 1 hello",
        "criu-veth: pre-dump: captured eth0: web0",
        'Device "web0" does not exist.',
        "criu-veth: post-restore: eth0: web0 attached to br0",
        "  server: 2 hello again",
        "criu-veth: post-restore: eth0: front0 attached to br1",
        "  server: 3 hello from another bridge",
        "All as it should be.",
    ],
    "live-migrate": [
        "  server: 1 hello",
        "  server: 2 still there",
        "migrate: it failed there; restoring here",
        "  server: 3 still there",
        "migrate: done",
        "  server: 4 hello again",
    ],
    "many": [
        "external veth[eth0]:web-eth0",
        "criu-veth: post-restore: mgmt: web-mgmt attached to br1",
        "  server: 2 hello again",
        "  server: 3 hello on the other bridge",
    ],
    "openvswitch": [
        "  server: 1 hello",
        "criu-veth: post-restore: eth0: web0 attached to obr0, tag 10",
        "  server: 2 hello again",
        "criu-veth: post-restore: eth0: web0 attached to lan, tag 10",
        "  server: 3 hello on another bridge",
    ],
    "routed": ["  server: 1 hello", "criu-veth: post-restore: eth0: cali0 route 10.65.0.2/32 src 192.0.2.1"],
}


def run_example(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EXAMPLES / name / "run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=scaled(60),
        env={**os.environ, **environment},
    )


def test_every_example_is_listed() -> None:
    assert sorted(SAID) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example_does_what_it_says(name: str, criu: Criu) -> None:
    done = run_example(name, CRIU=str(criu.path))

    assert done.returncode == 0, done.stdout
    lines = iter(done.stdout.splitlines())
    for wanted in SAID[name]:
        assert wanted in lines, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_mapping_file_of_example_is_valid(name: str) -> None:
    config.parse((EXAMPLES / name / "criu-veth.toml").read_text(), name)


def test_example_leaves_its_host_as_it_was(host: Host, criu: Criu) -> None:
    before = snapshot(host), os.listdir(host.path("/run"))

    host.run(str(EXAMPLES / "demo" / "run"), env={**os.environ, "CRIU": str(criu.path)})

    assert (snapshot(host), os.listdir(host.path("/run"))) == before


def test_example_fails_when_something_is_not_as_said(criu: Criu, tmp_path: Path) -> None:
    """A CRIU that says it has restored, and has not."""
    liar = tmp_path / "criu"
    liar.write_text(f'#!/bin/sh\n[ "$1" = restore ] && exit 0\nexec {criu.path} "$@"\n')
    liar.chmod(0o755)

    done = run_example("bridge", CRIU=str(liar))

    assert done.returncode == 1
    assert re.fullmatch(r"bridge/run: error: CRIU has restored no process \d+", done.stdout.splitlines()[-1])


README_HOST = """. {lib}
container
ip link add br0 type bridge
ip address add 10.0.0.1/24 dev br0
ip link set br0 up
ip link add web0 mtu 1400 type veth peer name eth0 mtu 1400 netns "$pid"
ip link set web0 master br0 up
nsenter -t "$pid" -n ip address add 10.0.0.2/24 dev eth0
nsenter -t "$pid" -n ip link set eth0 up
{commands}
connect 10.0.0.2
ask hello 1
expect 'mtu 1400' 'master br0' -- ip link show dev web0
"""


def test_commands_of_the_readme_work_as_they_are(criu: Criu, tmp_path: Path) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    (commands,) = (
        block for block in re.findall(r"^```sh\n(.*?)^```$", readme, re.DOTALL | re.M) if "criu dump" in block
    )
    script = tmp_path / "readme"
    script.write_text(README_HOST.format(lib=EXAMPLES / "lib.sh", commands=commands))

    done = subprocess.run(
        ["bash", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(60),
        env={**os.environ, "CRIU": str(criu.path)},
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_example_says_that_it_needs_root(criu: Criu) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(EXAMPLES / "demo" / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CRIU": str(criu.path)},
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"demo/run: error: only root can make network namespaces and run CRIU: sudo {EXAMPLES / 'demo' / 'run'}\n"
    )
