"""Names that are taken: by a device that lives, and by one that is going away with its container."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Container, Host, Link, Program, scaled, snapshot, wait_for
from lab.standin import StandIn

Restoring = Callable[..., StandIn]

MAPPING = 'mappings = ["eth0:web0@br0"]\n'
WEB = Link(inner="eth0", outer="web0", bridge="br0")

TAKEN = (
    'criu-veth: error: pre-restore: veth eth0: the name "web0" is taken by a veth device; delete or rename it, or'
    " choose another outer name\n"
)


def taken_by(pid: int) -> str:
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return (
        f'criu-veth: error: pre-restore: veth eth0: the name "web0" is taken by a container that runs: process {pid}'
        f" ({name}) lives at the other end; end that container, or choose another outer name\n"
    )


STUCK = (
    'criu-veth: error: pre-restore: veth eth0: the name "web0" is still taken by a device that is going away, after'
    " 2 s; try again\n"
)


@pytest.fixture
def running(bridged: Host) -> Container:
    """A container with the outer end web0."""
    return bridged.container([WEB], Program(argv=["sleep", "infinity"]))


@pytest.fixture
def held(running: Container) -> Iterator[Callable[[], None]]:
    """A descriptor that keeps the container's network namespace, and its outer end, when all processes are gone."""
    descriptors = [os.open(f"/proc/{running.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)]

    def let_go() -> None:
        while descriptors:
            os.close(descriptors.pop())

    yield let_go
    let_go()


def start(restore: StandIn) -> subprocess.Popen[str]:
    """Start the hook at pre-restore, and come back when it waits: it has looked, and sleeps before it looks again."""
    env = {**restore.env, "CRTOOLS_SCRIPT_ACTION": "pre-restore", "CRTOOLS_IMAGE_DIR": restore.image_dir}
    process = restore.host.popen(
        str(restore.hook), env={"PATH": os.environ["PATH"], **env}, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def waits() -> bool:
        assert process.poll() is None, process.communicate()
        return "nanosleep" in Path(f"/proc/{process.pid}/wchan").read_text()

    wait_for(waits, "the hook to wait")
    return process


def test_taken_by_a_container_that_lives(bridged: Host, running: Container, restoring: Restoring) -> None:
    before = snapshot(bridged)
    done = restoring(MAPPING).act("pre-restore")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", taken_by(running.pid))
    assert snapshot(bridged) == before
    assert running.alive


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (["web0", "type", "bridge"], "a bridge device"),
        (["web0", "type", "veth", "peer", "name", "y0"], "a veth device"),
        (["y0", "type", "veth", "peer", "name", "web0"], "a veth device"),
    ],
)
def test_taken_by_what_is_no_containers(bridged: Host, restoring: Restoring, made: list[str], kind: str) -> None:
    bridged.run("ip", "link", "add", *made)
    done = restoring(MAPPING).act("pre-restore")
    assert (done.returncode, done.stderr) == (1, TAKEN.replace("a veth device", kind))


def test_taken_by_a_namespace_that_only_a_mount_keeps(bridged: Host, restoring: Restoring) -> None:
    """As `ip netns add` makes them: nobody is in it, and it lives."""
    bridged.run("ip", "netns", "add", "idle")
    bridged.run("ip", "link", "add", "web0", "type", "veth", "peer", "name", "eth0", "netns", "idle")
    done = restoring(MAPPING).act("pre-restore")
    assert (done.returncode, done.stderr) == (1, TAKEN)


def test_dying_device_is_waited_for(
    bridged: Host, running: Container, held: Callable[[], None], restoring: Restoring
) -> None:
    running.kill()
    assert bridged.has_link("web0")
    process = start(restoring(MAPPING))
    held()
    assert process.communicate(timeout=scaled(30)) == ("", "")
    assert process.returncode == 0
    assert not bridged.has_link("web0")


def test_device_that_does_not_die(
    bridged: Host, running: Container, held: Callable[[], None], restoring: Restoring
) -> None:
    running.kill()
    before = snapshot(bridged)
    done = restoring(MAPPING).act("pre-restore")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", STUCK)
    assert snapshot(bridged) == before


def test_one_that_lives_is_told_of_though_another_is_dying(
    bridged: Host, running: Container, held: Callable[[], None], restoring: Restoring
) -> None:
    running.kill()
    bridged.run("ip", "link", "add", "db0", "type", "bridge")
    process = start(restoring('mappings = ["eth0:web0@br0", "eth1:db0"]'))
    held()
    assert process.communicate(timeout=scaled(30)) == (
        "",
        TAKEN.replace("eth0", "eth1").replace("web0", "db0").replace("a veth", "a bridge"),
    )
    assert process.returncode == 1


def test_alternative_name_of_a_dying_device(
    bridged: Host, running: Container, held: Callable[[], None], restoring: Restoring
) -> None:
    bridged.run("ip", "link", "property", "add", "dev", "web0", "altname", "front")
    running.kill()
    process = start(restoring('[[veth]]\ninner = "eth0"\nouter = "other0"\naltnames = ["front"]'))
    held()
    assert process.communicate(timeout=scaled(30)) == ("", "")
    assert process.returncode == 0


def test_program_that_is_ready_waits_too(
    bridged: Host, running: Container, held: Callable[[], None], restoring: Restoring
) -> None:
    bridged.run("ip", "link", "set", "web0", "down")
    bridged.run("ip", "link", "set", "web0", "name", "tmp0")
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    bridged.run("ip", "link", "set", "tmp0", "name", "web0")
    running.kill()
    process = start(restore)
    held()
    assert process.communicate(timeout=scaled(30)) == ("", "")
    assert process.returncode == 0


# --- a process that has been killed and has not ended yet

PTRACE_CONT, PTRACE_SEIZE = 7, 0x4206
PTRACE_O_TRACEEXIT = 0x40
PTRACE_EVENT_EXIT = 6
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, data: int = 0) -> None:
    if libc.ptrace(request, pid, None, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def test_process_that_takes_its_time_to_end(bridged: Host, restoring: Restoring) -> None:
    """A process of many gigabytes is in its namespaces for a second after SIGKILL. This one is stopped on its way."""
    sleeper = bridged.popen("unshare", "--net", "sleep", "infinity")
    comm = Path(f"/proc/{sleeper.pid}/comm")
    wait_for(lambda: comm.read_text() == "sleep\n", "the process to be in its own namespace")
    bridged.run("ip", "link", "add", "web0", "type", "veth", "peer", "name", "eth0", "netns", str(sleeper.pid))
    restore = restoring(MAPPING)
    done = restore.act("pre-restore")
    assert (done.returncode, done.stderr) == (1, taken_by(sleeper.pid))
    ptrace(PTRACE_SEIZE, sleeper.pid, PTRACE_O_TRACEEXIT)
    try:
        sleeper.kill()
        _, status = os.waitpid(sleeper.pid, WALL)
        assert status >> 8 == signal.SIGTRAP | PTRACE_EVENT_EXIT << 8
        assert Path(f"/proc/{sleeper.pid}/ns/net").exists()
        process = start(restore)
    finally:
        ptrace(PTRACE_CONT, sleeper.pid)
    assert sleeper.wait() == -signal.SIGKILL
    assert process.communicate(timeout=scaled(30)) == ("", "")
    assert process.returncode == 0
