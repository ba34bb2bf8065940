"""When a dumped network is quieted at all, and what is said if it cannot be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from criu_veth import procfs, quiesce

Told = Callable[..., int]


@pytest.fixture
def told() -> Iterator[Told]:
    """Starts a process with criu's command line; returns its pid."""
    started = []

    def start(*words: str) -> int:
        code = "import sys; print(flush=True); sys.stdin.read()"
        argv = ["criu", "-c", code, *words]
        process = subprocess.Popen(argv, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout
        process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        process.communicate()


@pytest.mark.parametrize(
    "words",
    [
        ("dump", "-t", "1"),
        ("dump", "-t", "1", "--tcp-established", "-v4", "--external", "veth[eth0]:web0"),
        ("dump", "-t", "1", "--network-lock", "nftables"),
        ("swrk", "7"),
    ],
)
def test_a_dump_that_may_kill(told: Told, words: tuple[str, ...]) -> None:
    assert quiesce.is_wanted(told(*words, "--no-default-config"), {})


@pytest.mark.parametrize(
    "words",
    [
        ("dump", "-t", "1", "--leave-running"),
        ("dump", "-t", "1", "-R"),
        ("dump", "-t", "1", "-jR"),
        ("dump", "-t", "1", "-s"),
        ("dump", "-t", "1", "--leave-stopped"),
        ("dump", "-t", "1", "--network-lock", "skip"),
        ("dump", "-t", "1", "--network-lock=skip"),
        ("dump", "-t", "1", "--external", "net[4026532000]:pod"),
        ("dump", "-t", "1", "--external=net[4026532000]:pod"),
        ("pre-dump", "-t", "1"),
    ],
)
def test_a_dump_after_which_somebody_lives_on(told: Told, words: tuple[str, ...]) -> None:
    assert not quiesce.is_wanted(told(*words, "--no-default-config"), {})


@pytest.mark.parametrize("line", ["leave-running", "leave-stopped", "network-lock skip", "external net[1]:pod"])
def test_the_same_in_a_configuration_file(told: Told, tmp_path: Path, line: str) -> None:
    config = tmp_path / "criu.conf"
    config.write_text(f"{line}\n")

    assert not quiesce.is_wanted(told("dump", "-t", "1", "--config", str(config)), {})


def test_a_process_that_cannot_be_forked_is_a_warning(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("posix.fork", fork)
    monkeypatch.setattr("os.path.sameopenfile", lambda *_: False)
    criu = told("dump", "--no-default-config")

    assert quiesce.start(os.getpid(), criu, str(tmp_path), {}, alone=True) == [
        "warning: cannot start a process: Resource temporarily unavailable; nobody quiets the container's network"
        " when the dump ends: peers may be answered with a reset"
    ]


def test_mounts_with_blanks_and_backslashes() -> None:
    assert procfs.unescaped(r"/run/a\040b\134c\011d") == "/run/a b\\c\td"
