"""The lab itself: stock CRIU brings a container back, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lab import Criu, Host, Link, run_action, snapshot, wait_for

WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"))

WEB_ALONE = Link(inner="eth0", outer="web0")


def test_restored_container_answers_again_and_counts_on(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    container = host.container([WEB])
    with host.connect("10.0.0.2") as client:
        assert client.ask("before") == "1 before"
    criu.dump(container, images)
    container.wait_unplugged()

    restored = criu.restore(host, images, external=[WEB.external]).container

    assert host.link("web0")["master"] == "br0"
    assert host.connect("10.0.0.2").ask("after") == "2 after"
    assert host.connect("fd00::2").ask("and over IPv6") == "3 and over IPv6"
    restored.kill()


def test_established_connection_survives(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    client = host.connect("10.0.0.2")
    assert client.ask("before") == "1 before"
    criu.dump(container, images, tcp_established=True)
    client.send("while it is away")
    container.wait_unplugged()

    criu.restore(host, images, external=[WEB.external], tcp_established=True)

    assert client.receive() == "2 while it is away"


def test_host_is_as_before_when_the_container_is_gone(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    before = snapshot(host)
    container = host.container([WEB])
    assert snapshot(host) != before
    criu.dump(container, images)
    container.wait_unplugged()
    assert snapshot(host) == before

    restored = criu.restore(host, images, external=[WEB.external], links=[WEB]).container
    restored.kill()
    restored.wait_unplugged()

    assert snapshot(host) == before


def test_closing_a_host_ends_what_was_restored_on_it(
    host_factory: Callable[[], Host], criu: Criu, images: Path
) -> None:
    with Host() as host:
        host.bridge("br0")
        container = host.container([WEB])
        criu.dump(container, images)
        container.wait_unplugged()
        restored = criu.restore(host, images).container
        bystander = host.container()
    assert ended(restored.pid)
    assert ended(bystander.pid)


def ended(pid: int) -> bool:
    """Whether a process is gone, or dead and not reaped yet."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


KILLED_TEST = """
import sys
from pathlib import Path
from lab import Criu, Host, Link
with Host() as host:
    web = Link(inner="eth0", outer="web0")
    container = host.container([web])
    Criu(Path(sys.argv[1])).dump(container, Path(sys.argv[2]))
    container.wait_unplugged()
    back = Criu(Path(sys.argv[1])).restore(host, Path(sys.argv[2]), external=[web.external])
    print(host.pid, back.pid, host.popen("sleep", "600").pid, flush=True)
    sys.stdin.read()
"""


def test_nothing_survives_a_test_that_is_killed(criu: Criu, images: Path) -> None:
    tests = str(Path(__file__).parents[1])
    argv = [sys.executable, "-c", KILLED_TEST, str(criu.path), str(images)]
    with subprocess.Popen(
        argv,
        env={**os.environ, "PYTHONPATH": tests},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as test:
        assert test.stdout
        pids = [int(word) for word in test.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(ended(pid) for pid in pids)
        test.kill()
    wait_for(lambda: all(ended(pid) for pid in pids), "the host and all on it to end")


def test_hook_is_called_as_criu_calls_it(host: Host, criu: Criu, images: Path) -> None:
    """run_action is worth something only if it gives a hook what CRIU gives it."""
    hook = images / "hook"
    hook.write_text(
        "#!/bin/sh\n"
        'for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e "/proc/$$/fd/$fd" ] && fds="$fds $fd"; done\n'
        'cmp -s "$CRTOOLS_IMAGE_DIR/hook" "$0" && dir=images\n'
        'echo "hook: $CRTOOLS_SCRIPT_ACTION $# $dir ${CRTOOLS_INIT_PID:+pid} fds$fds in ${PWD##*/}"\n'
    )
    hook.chmod(0o755)
    container = host.container([WEB_ALONE])
    dumped = criu.dump(container, images, hook=hook)
    container.wait_unplugged()
    restored = criu.restore(host, images, external=[WEB_ALONE.external], hook=hook)

    actions = [
        *("pre-dump", "network-lock", "post-dump"),
        *("pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore"),
        *("network-unlock", "pre-resume", "post-resume"),
    ]
    said = [*dumped.said("hook: "), *restored.said("hook: ")]
    assert [line.split()[1] for line in said] == actions
    for action, line in zip(actions, said, strict=True):
        container_or_none = None if action == "pre-restore" else restored.container
        called = run_action(host, hook, action, images=images, container=container_or_none)
        assert called.stdout.splitlines() == [line]
