"""``criu service``, which names neither the images nor the process that does the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Container, Criu, Host, Link, wait_for
from lab.service import DUMP, RESTORE, service

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", mac="02:00:00:00:00:02", addresses=("10.0.0.2/24",))


@pytest.fixture
def container(host: Host) -> Container:
    """A container on br0, on a host where all dumps and restores have the hook."""
    host.bridge("br0", "10.0.0.1/24")
    host.path("/etc/criu/default.conf").write_text(f"action-script {HOOK}\n")
    container = host.container([WEB])
    host.run("ip", "link", "set", "web0", "alias", "front")
    with host.connect("10.0.0.2") as client:
        assert client.ask("before") == "1 before"
    return container


def lines(log: Path) -> list[str]:
    found = log.read_text(errors="replace").splitlines()
    return [line.removeprefix("criu-veth: ") for line in found if line.startswith("criu-veth: ")]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_dump_and_restore(host: Host, criu: Criu, container: Container, images: Path, elsewhere: bool) -> None:
    work = images.parent / "work" if elsewhere else None
    if work:
        work.mkdir()
    logs = work or images
    with service(host, criu) as daemon:
        assert daemon.ask(DUMP, images, "dump.log", pid=container.pid, work=work), lines(logs / "dump.log")
        container.wait_gone()
        container.wait_unplugged()
        assert lines(logs / "dump.log") == ["pre-dump: captured eth0: web0"]
        assert daemon.ask(RESTORE, images, "restore.log", external=["veth[eth0]:web0"], work=work)

        said = lines(logs / "restore.log")
        assert "post-restore: eth0: web0 attached to br0" in said
        assert not [line for line in said if "notice" in line or "warning" in line]
        link = host.link("web0")
        assert (link["master"], link["ifalias"], link["address"]) == ("br0", "front", link["address"])
        with host.connect("10.0.0.2") as client:
            assert client.ask("after") == "2 after"


def test_a_process_that_is_not_there(host: Host, criu: Criu, container: Container, images: Path) -> None:
    """The dump ends with CRIU's own error."""
    with service(host, criu) as daemon:
        assert not daemon.ask(DUMP, images, "dump.log", pid=(1 << 22) - 1)
    log = (images / "dump.log").read_text(errors="replace")
    assert "criu-veth: error" not in log
    wait_for(lambda: container.alive, "the container, which nobody has touched")
