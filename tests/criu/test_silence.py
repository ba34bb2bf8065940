"""A dumped container's network namespace says nothing in its last milliseconds; one that lives on is left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Container, Criu, Host, Link, wait_for
from lab.traffic import Talker, traffic_server

HOOK = Path(__file__).resolve().parents[2] / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))
OTHER = Link(inner="eth1", outer="db0", bridge="br0")


@contextmanager
def kept_open(container: Container) -> Iterator[str]:
    """The container's network namespace, held by a descriptor alone; yields its path."""
    descriptor = os.open(f"/proc/{container.pid}/ns/net", os.O_RDONLY)
    try:
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def helpers(host: Host) -> list[int]:
    """The hook's processes on this host."""
    netns = os.stat(host.netns).st_ino
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes() if name.isdigit() else b""
            if b"hook.main()" in words and os.stat(f"/proc/{name}/ns/net").st_ino == netns:
                found.append(int(name))
        except OSError:
            continue
    return found


def test_devices_are_down_before_the_namespace_goes(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB, OTHER])
    with kept_open(container) as netns:
        criu.dump(container, images, hook=HOOK)

        wait_for(lambda: not helpers(host), "the helper to end")
        listed = host.run("nsenter", f"--net={netns}", "--", "ip", "-br", "link", "show", "up").stdout
        assert [line.split()[0] for line in listed.splitlines()] == ["lo"]
    container.wait_unplugged()


def test_application_that_runs_on_keeps_its_network(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB], traffic_server())
    talker = Talker(host, "10.0.0.2")
    talker.wait_answered()

    criu.dump(container, images, hook=HOOK, tcp_established=True, args=["--leave-running"])

    wait_for(lambda: not helpers(host), "the helper to end")
    talker.wait_answered()
    assert talker.stop().error == ""


def test_application_whose_dump_fails_keeps_its_network(host: Host, criu: Criu, images: Path) -> None:
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB], traffic_server())
    talker = Talker(host, "10.0.0.2")
    talker.wait_answered()
    failing = images / "failing"
    failing.write_text('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ]\n')
    failing.chmod(0o755)

    args = ["--action-script", str(failing)]
    outcome = criu.dump(container, images, hook=HOOK, tcp_established=True, args=args, check=False)

    assert outcome.returncode != 0
    wait_for(lambda: not helpers(host), "the helper to end")
    talker.wait_answered()
    assert talker.stop().error == ""


def test_namespace_that_others_live_in_keeps_its_network(host: Host, criu: Criu, images: Path) -> None:
    """As in a pod: what was dumped was not the only one in there."""
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    other = host.popen("nsenter", f"--net=/proc/{container.pid}/ns/net", "--", "sleep", "600")
    own = os.stat(f"/proc/{container.pid}/ns/net").st_ino
    wait_for(lambda: os.stat(f"/proc/{other.pid}/ns/net").st_ino == own, "the other one to get in")

    criu.dump(container, images, hook=HOOK)

    wait_for(lambda: not helpers(host), "the helper to end")
    listed = host.run("nsenter", f"--net=/proc/{other.pid}/ns/net", "--", "ip", "-br", "link", "show", "up").stdout
    assert sorted(line.split("@")[0].split()[0] for line in listed.splitlines()) == ["eth0", "lo"]
