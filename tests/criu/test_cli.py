"""What ``criu-veth options`` prints, given to a real CRIU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lab import Container, Criu, Host, Link, Outcome

ROOT = Path(__file__).parents[2]
LINKS = [
    Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",)),
    Link(inner='e"th1', outer="d$b0"),
]
FILE = """
mappings = ["eth0:web0@br0"]
[[veth]]
inner = 'e"th1'
outer = "d$b0"
alias = "an alias"
"""


@pytest.fixture
def dumped(host: Host, criu: Criu, images: Path) -> Container:
    host.path("/etc/criu/criu-veth.toml").write_text(FILE)
    host.bridge("br0", "10.0.0.1/24")
    container = host.container(LINKS)
    criu.dump(container, images)
    container.wait_unplugged()
    return container


def options(host: Host, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return host.run(sys.executable, "-m", "criu_veth", "options", *words, env=env).stdout


def assert_restored(host: Host, outcome: Outcome) -> None:
    assert outcome.restored
    assert host.link("web0")["master"] == "br0"
    assert host.link("d$b0")["ifalias"] == "an alias"
    assert host.connect("10.0.0.2").ask("hello") == "1 hello"


@pytest.mark.usefixtures("dumped")
def test_as_a_configuration_file(host: Host, criu: Criu, images: Path) -> None:
    conf = images / "restore.conf"
    conf.write_text(options(host, "--format", "conf"))

    assert_restored(host, criu.restore(host, images, external=(), args=["--config", str(conf)]))


@pytest.mark.usefixtures("dumped")
def test_as_words_that_a_shell_reads(host: Host, criu: Criu, images: Path) -> None:
    words = host.run("sh", "-c", 'eval "printf %s\\\\\\\\n $1"', "sh", options(host, "--format", "args"))

    assert_restored(host, criu.restore(host, images, external=(), args=words.stdout.splitlines()))
