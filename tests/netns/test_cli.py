"""The commands as processes, against a real namespace: what preflight says to an operator."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Host, Link, snapshot
from lab.cli import cli

ROOT = Path(__file__).parents[2]
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))
FILE = "/etc/criu/criu-veth.toml"


@pytest.fixture
def configure(host: Host) -> Callable[[str], None]:
    """Write the mapping file that is found by default."""

    def write(text: str) -> None:
        host.path(FILE).write_text(text)

    return write


def test_check_says_ok_and_what_would_be_done(host: Host, configure: Callable[[str], None]) -> None:
    host.bridge("br0")
    configure('mappings = ["eth0:web0@br0"]\n[[veth]]\ninner = "eth1"\nouter = "db0"\nmtu = 1400\nalias = "db"\n')
    before = snapshot(host)

    shown = cli(host, "check")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == (
        f'ok: 2 veths ({FILE})\n  eth0 -> web0, attached to br0\n  eth1 -> db0, mtu 1400, alias "db"\n'
    )
    assert snapshot(host) == before


def test_check_says_all_faults_of_the_host(host: Host, configure: Callable[[str], None]) -> None:
    host.bridge("br0")
    host.bridge("br1", stp_state=1, forward_delay=1500)
    host.veth("web1", "peer1")
    configure('mappings = ["eth0:web0@br7", "eth1:web1@br0", "eth2:web2@peer1", "eth3:web3@br1"]\n')
    errors = [
        'veth eth0: bridge "br7" does not exist on this host (it has br0, br1)',
        'veth eth2: "peer1" is not a bridge but a veth device',
        'veth eth1: the name "web1" is taken by a veth device; delete or rename it, or choose another outer name',
    ]
    warnings = [
        'veth eth3: bridge "br1" has spanning tree on and a forward delay of 15 s: its port will be silent for 30 s'
        " after the restore"
    ]

    shown = cli(host, "check")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.splitlines() == [
        *(f"criu-veth: warning: {warning}" for warning in warnings),
        *(f"criu-veth: error: {error}" for error in errors),
    ]

    shown = cli(host, "check", "--json")
    assert (shown.returncode, shown.stderr) == (1, "")
    report = json.loads(shown.stdout)
    assert (report["ok"], report["errors"], report["warnings"]) == (False, errors, warnings)
    assert report["veths"][0] == {"inner": "eth0", "outer": "web0", "settings": ["attached to br7"]}


def test_check_says_what_is_wrong_with_the_file(host: Host, configure: Callable[[str], None]) -> None:
    configure('mappings = ["eth0"]\n')
    fault = f'{FILE}: mappings[0]: \'eth0\' is not a mapping; write "veth[inner]:outer@bridge" or "inner:outer@bridge"'

    shown = cli(host, "check")
    assert (shown.returncode, shown.stdout, shown.stderr) == (2, "", f"criu-veth: error: {fault}\n")

    shown = cli(host, "check", "--json")
    assert (shown.returncode, shown.stderr) == (2, "")
    assert json.loads(shown.stdout) == {
        "ok": False,
        "config": FILE,
        "state": None,
        "veths": [],
        "errors": [fault],
        "warnings": [],
        "notices": [],
    }


def test_check_obeys_no_file_that_others_may_write(host: Host, configure: Callable[[str], None]) -> None:
    configure('mappings = ["eth0:web0"]\n')
    host.path(FILE).chmod(0o666)

    shown = cli(host, "check")

    assert shown.returncode == 2
    assert shown.stderr == (
        f"criu-veth: error: {FILE}: not obeyed, because {FILE} may be written by others (mode 0666): chmod go-w\n"
    )


def test_a_container_that_still_runs_is_a_warning(host: Host, configure: Callable[[str], None]) -> None:
    host.bridge("br0")
    host.container([WEB])
    host.run("ip", "route", "add", "10.9.0.0/24", "dev", "web0")
    host.run("ip", "link", "property", "add", "dev", "web0", "altname", "veth-web-front-end")
    configure(
        '[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\naltnames = ["veth-web-front-end"]\n'
        'routes = ["10.9.0.0/24"]\n'
    )

    shown = cli(host, "check")

    assert shown.returncode == 0
    assert shown.stdout.startswith("ok: 1 veth (")
    assert shown.stderr == (
        'criu-veth: warning: veth eth0: "web0" is there, with a container behind it whose end is "eth0": both must be'
        " gone before the restore\n"
    )


def test_a_container_that_is_another_is_an_error(host: Host, configure: Callable[[str], None]) -> None:
    host.bridge("br0")
    container = host.container([WEB])
    configure('mappings = ["eth1:web0@br0"]\n')

    shown = cli(host, "check")

    name = Path(f"/proc/{container.pid}/comm").read_text().strip()
    assert shown.returncode == 1
    assert shown.stderr == (
        'criu-veth: error: veth eth1: the name "web0" is taken by a container that runs: process'
        f" {container.pid} ({name}) lives at the other end; end that container, or choose another outer name\n"
    )


def test_check_waits_for_a_name_that_becomes_free(host: Host, configure: Callable[[str], None]) -> None:
    host.bridge("br0")
    container = host.container([WEB])
    configure('mappings = ["eth0:web0@br0"]\n')
    container.kill()

    shown = cli(host, "check")

    assert (shown.returncode, shown.stderr) == (0, "")


def test_check_asks_the_image_directory(host: Host, configure: Callable[[str], None], images: Path) -> None:
    configure('mappings = ["eth0:web0@br7"]\n')
    (images / "criu-veth.toml").write_text('mappings = ["eth0:{image}0"]\n')

    shown = cli(host, "check", "--images", str(images))

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"ok: 1 veth ({images}/criu-veth.toml)\n  eth0 -> images0\n"


def test_whoever_is_not_root_is_told(host: Host, configure: Callable[[str], None]) -> None:
    configure('mappings = ["eth0:web0"]\n')
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    if host.run(*nobody, sys.executable, "-c", "import criu_veth, click, pyroute2", check=False, env=env).returncode:
        pytest.skip("the checkout, or its Python, is not readable for others")

    shown = host.run(*nobody, sys.executable, "-m", "criu_veth", "check", check=False, env=env)

    assert shown.stdout.splitlines()[0] == f"ok: 1 veth ({FILE})"
    assert shown.stderr == (
        "criu-veth: warning: checked as uid 65534; the hook runs as root, and obeys only files that are root's and sees"
        " what you may not\n"
    )


def test_plan_knows_the_name_of_the_host(host: Host, configure: Callable[[str], None]) -> None:
    host.run("hostname", "node7")
    configure('mappings = ["eth0:{hostname}@br7"]\n')

    shown = cli(host, "plan")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert [line for line in shown.stdout.splitlines() if line.startswith("post-restore: ")] == [
        "post-restore: eth0: outer end named node7",
        "post-restore: eth0: node7 attached to br7",
        "post-restore: eth0: node7 up",
        "post-restore: eth0: eth0 announced",
    ]
