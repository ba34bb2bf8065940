"""A dumped container's network namespace says nothing in its last milliseconds; one that lives on is left alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Criu, Host, Link, hook_processes, wait_for
from lab.container import PYTHON
from lab.traffic import Talker, traffic_server

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))
OTHER = Link(inner="eth1", outer="db0", bridge="br0")

# Each keeps the network namespace at sys.argv[1] in its own way, says so on a line of stdout, and stays.
ENTER = """import ctypes, os, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
target = os.open(sys.argv[1], os.O_RDONLY)
def enter(descriptor=target):
    assert libc.setns(descriptor, 0x40000000) == 0, os.strerror(ctypes.get_errno())
def stay():
    print("there", flush=True)
    time.sleep(600)
"""
THREAD = """def inside():
    enter()
    os.close(target)
    stay()
threading.Thread(target=inside).start()
"""
FIRST_THREAD_GONE = """enter()
os.close(target)
def inside():
    while not any(" (zombie)" in line for line in open("/proc/self/status")):
        time.sleep(0.01)
    stay()
threading.Thread(target=inside).start()
libc.syscall({"x86_64": 60}.get(os.uname().machine, 93), 0)
"""
DESCRIPTOR = "stay()\n"
SOCKET = """own = os.open("/proc/self/ns/net", os.O_RDONLY)
enter()
kept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
kept.bind(("", 5353))
enter(own)
os.close(target)
stay()
"""
IN_FLIGHT = """one, other = socket.socketpair()
socket.send_fds(one, [b"x"], [target])
os.close(target)
stay()
"""
FORKS = """enter()
os.close(target)
end = time.monotonic() + 4
print("there", flush=True)
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
"""
PROCESSES = {
    "a thread": THREAD,
    "a process whose first thread is gone": FIRST_THREAD_GONE,
    "a descriptor": DESCRIPTOR,
    "a socket": SOCKET,
    "a descriptor in flight": IN_FLIGHT,
    "a process that forks and forks": FORKS,
}

# Nobody listens on the port: what refuses the connection is the namespace itself.
REFUSED = """import errno, socket
asked = socket.socket()
asked.settimeout(5)
assert asked.connect_ex(("10.0.0.2", 9)) == errno.ECONNREFUSED
"""

BLANK = "mkdir '/run/a b' && touch '/run/a b/net' && mount --bind $1 '/run/a b/net' && echo there"
HIDDEN = "mkdir /run/below && touch /run/below/net && mount --bind $1 /run/below/net && mount -t tmpfs t /run/below"
ELSEWHERE = """exec unshare --mount --propagation private sh -c '
touch /run/kept && mount --bind $1 /run/kept && echo there && exec sleep 600' sh $1"""
MOUNTS = {
    "a mount with a blank": f"{BLANK} && exec sleep 600",
    "a hidden mount": f"{HIDDEN} && echo there && exec sleep 600",
    "a mount elsewhere": ELSEWHERE,
}


@contextmanager
def kept(host: Host, container: Container, how: str) -> Iterator[None]:
    """Have the container's network namespace kept beyond the dump."""
    path = f"/proc/{container.pid}/ns/net"
    argv = [PYTHON, "-I", "-S", "-c", ENTER + PROCESSES[how]] if how in PROCESSES else ["sh", "-c", MOUNTS[how], "sh"]
    keeper = host.popen(*argv, path, stdout=subprocess.PIPE)
    assert keeper.stdout
    assert keeper.stdout.readline() == "there\n"
    try:
        yield
    finally:
        keeper.kill()  # one without its first thread has no environment to be known by


def wait_quiet(host: Host) -> bool:
    """Wait until the hook's process has ended; say whether it has had web0 drop what comes from the container."""
    seen = False

    def ended() -> bool:
        nonlocal seen
        seen = seen or "xdp" in host.run("ip", "link", "show", "dev", "web0", check=False).stdout
        return not hook_processes(host)

    wait_for(ended, "the hook's process to end")
    return seen


class Parcel:
    """Keeps a container's network namespace where nobody sees it: its descriptor lies in a unix socket."""

    def __init__(self, container: Container) -> None:
        self._near, self._far = socket.socketpair()
        descriptor = os.open(f"/proc/{container.pid}/ns/net", os.O_RDONLY)
        socket.send_fds(self._near, [b"x"], [descriptor])
        os.close(descriptor)

    @contextmanager
    def opened(self) -> Iterator[str]:
        """Take it out; yields the namespace's path."""
        _, (descriptor,), _, _ = socket.recv_fds(self._far, 1, 1)
        try:
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)
            self._near.close()
            self._far.close()


def network(host: Host, netns: str) -> dict[str, Any]:
    """What there is on the host and in a network namespace."""

    def inside(*argv: str) -> str:
        return host.run("nsenter", f"--net={netns}", "--", *argv).stdout

    shown = [("ip", "link"), ("ip", "address"), ("ip", "route"), ("ip", "-6", "route"), ("tc", "qdisc")]
    return {
        "inside": [inside(*argv) for argv in shown],
        "host": [host.run(*argv).stdout for argv in shown],
        "ports": host.bridge_json("link", "show"),
    }


def assert_goes_on(host: Host, netns: str, before: dict[str, Any]) -> None:
    """Nothing has changed on either side, and once CRIU's lock is off, the address answers."""
    assert network(host, netns) == before
    enter = ("nsenter", f"--net={netns}", "--")
    host.run(*enter, "iptables", "-F")
    host.run(*enter, "nft", "flush", "ruleset")
    host.run(PYTHON, "-I", "-S", "-c", REFUSED)


@pytest.fixture
def container(host: Host) -> Container:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB, OTHER])
    settled = ("sh", "-c", "! ip -6 address | grep -q tentative")
    wait_for(lambda: not host.run(*settled, check=False).returncode, "the host's addresses")
    wait_for(lambda: not container.run(*settled, check=False).returncode, "the container's addresses")
    wait_for(lambda: [port["state"] for port in host.bridge_json("link")] == ["forwarding"] * 2, "the ports")
    return container


@pytest.mark.parametrize("how", [*PROCESSES, *MOUNTS])
def test_a_namespace_that_is_kept_goes_on(host: Host, criu: Criu, images: Path, container: Container, how: str) -> None:
    before = network(host, f"/proc/{container.pid}/ns/net")
    parcel = Parcel(container)
    with kept(host, container, how):
        criu.dump(container, images, hook=HOOK)

        seen = wait_quiet(host)
        assert seen == (how == "a descriptor in flight") or how == "a process that forks and forks"
        with parcel.opened() as netns:
            assert_goes_on(host, netns, before)


def test_a_sidecar_that_criu_does_not_see_goes_on(host: Host, criu: Criu, images: Path, container: Container) -> None:
    """criu, the hook and what is dumped are in a PID namespace of their own, the namespace's other process is not."""
    before = network(host, f"/proc/{container.pid}/ns/net")
    node = f"""exec 8</dev/null 7>/dev/null
setsid nsenter --net=/proc/self/fd/9 sh -c 'exec 7>&- 8<&- 9<&-; exec sleep 600' <&8 >&7 2>&7 & app=$!
exec 9<&-
until [ "$(cat /proc/$app/comm)" = sleep ]; do [ -d /proc/$app ] || exit 1; done
{criu.path} dump -t $app -D {images} -o dump.log -v4 --manage-cgroups=ignore --action-script {HOOK}
echo $?
read -r _"""
    script = f'exec 9<"/proc/{container.pid}/ns/net"; exec unshare --pid --fork --kill-child --mount-proc sh -c "$0"'
    agent = host.popen("sh", "-c", script, node, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdout
    assert agent.stdout.readline() == "0\n", (images / "dump.log").read_text()[-3000:]

    assert wait_quiet(host)

    assert_goes_on(host, f"/proc/{container.pid}/ns/net", before)


def test_what_is_dropped_comes_back_if_the_hook_is_killed(
    host: Host, criu: Criu, images: Path, container: Container
) -> None:
    before = network(host, f"/proc/{container.pid}/ns/net")
    parcel = Parcel(container)
    criu.dump(container, images, hook=HOOK)
    wait_for(lambda: "xdp" in host.run("ip", "link", "show", "dev", "web0").stdout, "the drop", interval=0.001)

    for pid in hook_processes(host):
        os.kill(pid, signal.SIGKILL)

    wait_quiet(host)
    with parcel.opened() as netns:
        assert_goes_on(host, netns, before)


def test_an_external_namespace_is_left_alone(host: Host, criu: Criu, images: Path, container: Container) -> None:
    netns = f"/proc/{container.pid}/ns/net"
    before = network(host, netns)
    parcel = Parcel(container)

    criu.dump(container, images, hook=HOOK, args=["--external", f"net[{os.stat(netns).st_ino}]:pod"])

    assert not wait_quiet(host)
    with parcel.opened() as path:
        assert_goes_on(host, path, before)


def test_an_external_namespace_that_only_the_images_tell_of(
    host: Host, criu: Criu, images: Path, container: Container
) -> None:
    """As over RPC: criu's command line says nothing."""
    netns = f"/proc/{container.pid}/ns/net"
    before = network(host, netns)
    parcel = Parcel(container)
    told = images.parent / "told.conf"
    told.write_text(f"external net[{os.stat(netns).st_ino}]:pod\n")
    hidden = images.parent / "hidden"
    hidden.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != pre-dump ] || rm -f {told}\nexec {HOOK}\n')
    hidden.chmod(0o755)

    criu.dump(container, images, hook=hidden, args=["--config", str(told)])

    assert not wait_quiet(host)
    with parcel.opened() as path:
        assert_goes_on(host, path, before)


def test_application_that_runs_on_keeps_its_network(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB], traffic_server())
    talker = Talker(host, "10.0.0.2")
    talker.wait_answered()

    criu.dump(container, images, hook=HOOK, tcp_established=True, args=["--leave-running"])

    assert not hook_processes(host)
    talker.wait_answered()
    assert talker.stop().error == ""


def test_application_that_runs_on_and_is_killed_is_gone_at_once(host: Host, criu: Criu, images: Path) -> None:
    """Its kernel says goodbye to its peers; muted, it would try for minutes."""
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    client = host.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"
    criu.dump(container, images, hook=HOOK, tcp_established=True, args=["--leave-running"])

    container.kill()

    container.wait_unplugged(deadline=2)


@pytest.mark.parametrize("action", ["network-lock", "post-dump"])
def test_application_whose_dump_fails_keeps_its_network(host: Host, criu: Criu, images: Path, action: str) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB], traffic_server())
    talker = Talker(host, "10.0.0.2")
    talker.wait_answered()
    failing = images / "failing"
    failing.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != {action} ]\n')
    failing.chmod(0o755)

    args = ["--action-script", str(failing)]
    outcome = criu.dump(container, images, hook=HOOK, tcp_established=True, args=args, check=False)

    assert outcome.returncode != 0
    assert not wait_quiet(host)
    talker.wait_answered()
    assert talker.stop().error == ""


def test_application_whose_criu_is_killed_keeps_its_network(
    host: Host, criu: Criu, images: Path, container: Container
) -> None:
    netns = f"/proc/{container.pid}/ns/net"
    before = network(host, netns)
    killing = images / "killing"
    killing.write_text('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != network-lock ] || kill -9 $PPID\n')
    killing.chmod(0o755)

    outcome = criu.dump(container, images, hook=HOOK, args=["--action-script", str(killing)], check=False)

    assert outcome.returncode != 0
    assert not wait_quiet(host)
    assert container.alive
    assert network(host, netns) == before


def test_namespace_that_others_live_in_keeps_its_network(
    host: Host, criu: Criu, images: Path, container: Container
) -> None:
    """As in a pod: what was dumped was not the only one in there."""
    before = network(host, f"/proc/{container.pid}/ns/net")
    other = host.popen("nsenter", f"--net=/proc/{container.pid}/ns/net", "--", "sleep", "600")
    own = os.stat(f"/proc/{container.pid}/ns/net").st_ino
    wait_for(lambda: os.stat(f"/proc/{other.pid}/ns/net").st_ino == own, "the other one to get in")

    criu.dump(container, images, hook=HOOK)

    assert not wait_quiet(host)
    assert_goes_on(host, f"/proc/{other.pid}/ns/net", before)
