"""What a caller of CRIU's RPC is answered, with the hook registered for the whole host as without it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lab import Container, Criu, Host, Link, wait_for
from lab.swrk import DUMP, RESTORE, ask

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))
NOBODY = (1 << 22) - 1  # above every pid_max of these machines
NOBODIES = [NOBODY, 1 << 22, (1 << 31) - 1, -2]  # the second is what /proc/sys/kernel/pid_max may say


def register(host: Host, hook: bool) -> None:
    """Give every criu on the host the hook, as an administrator does, or none."""
    host.path("/etc/criu/default.conf").write_text(f"action-script {HOOK}\n" if hook else "")


def said(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line.removeprefix("criu-veth: ") for line in lines if line.startswith("criu-veth: ")]


@pytest.mark.parametrize("pid", NOBODIES)
@pytest.mark.parametrize("hook", [False, True])
def test_a_dump_of_no_process(host: Host, criu: Criu, images: Path, hook: bool, pid: int) -> None:
    """Whoever asked learns that there is none (ESRCH), not that a script failed."""
    register(host, hook)
    answer = ask(host, criu, DUMP, images, pid=pid)
    assert (answer.success, answer.errno) == (False, errno.ESRCH)
    assert [line for line in said(images / "rpc.log") if "error" in line] == []


@pytest.mark.parametrize("hook", [False, True])
def test_a_request_that_criu_refuses(host: Host, criu: Criu, images: Path, hook: bool) -> None:
    register(host, hook)
    answer = ask(host, criu, DUMP, images, pid=NOBODY, log="no/such.log")
    assert (answer.success, answer.errno) == (False, errno.EBADRQC)


@pytest.mark.parametrize("hook", [False, True])
def test_a_restore_beside_the_living_original(host: Host, criu: Criu, images: Path, hook: bool) -> None:
    """Its process number is taken (EEXIST), and it has no network of its own that the hook could have a say in."""
    register(host, hook)
    original = host.container(namespaces=["mount"])
    assert ask(host, criu, DUMP, images, pid=original.pid, leave_running=True).success
    answer = ask(host, criu, RESTORE, images, log="restore.log")
    assert (answer.success, answer.errno) == (False, errno.EEXIST)
    assert original.alive


def test_dump_and_restore(host: Host, criu: Criu, images: Path) -> None:
    register(host, hook=True)
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    host.run("ip", "link", "set", "web0", "alias", "front")
    with host.connect("10.0.0.2") as client:
        assert client.ask("before") == "1 before"
    assert ask(host, criu, DUMP, images, pid=container.pid, log="dump.log").success
    assert said(images / "dump.log") == ["pre-dump: captured eth0: web0"]
    container.wait_gone()
    container.wait_unplugged()

    answer = ask(host, criu, RESTORE, images, external=[WEB.external_detached], log="restore.log")
    assert answer.success, said(images / "restore.log")
    restored = host.adopt(Container(host, answer.pid, (WEB,), container.program))
    wait_for(lambda: restored.alive, "the restored process")
    link = host.link("web0")
    assert (link["master"], link["ifalias"]) == ("br0", "front")
    assert [line for line in said(images / "restore.log") if "error" in line or "warning" in line] == []
    with host.connect("10.0.0.2") as client:
        assert client.ask("after") == "2 after"
