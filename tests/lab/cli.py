"""The command line: within the test process, as a process on a terminal, and as one on a host."""

from __future__ import annotations

import inspect
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from .criu import REPOSITORY
from .host import Host


def runner(env: Mapping[str, str] | None = None) -> CliRunner:
    """Click's runner with standard error apart; before click 8.2 that is asked for, from then on it cannot be."""
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(env=env, **apart)  # type: ignore[arg-type]


def on_a_terminal(*words: str | Path, columns: int) -> list[list[str]]:
    """What `criu-veth WORDS` prints on a terminal of that width, as lines of words."""
    leader, follower = pty.openpty()
    env = {"PYTHONPATH": str(REPOSITORY), "TERM": "dumb", "COLUMNS": str(columns)}
    with subprocess.Popen([sys.executable, "-m", "criu_veth", *map(str, words)], env=env, stdout=follower) as started:
        os.close(follower)
        shown = b""
        try:
            while part := os.read(leader, 65536):
                shown += part
        except OSError:  # EIO: the other side is closed
            pass
        os.close(leader)
    assert started.returncode == 0
    return [line.split() for line in shown.decode().splitlines()]


def cli(host: Host, *words: object) -> subprocess.CompletedProcess[str]:
    """Run `criu-veth WORDS` on a host, with nothing else in its environment."""
    env = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]}
    return host.run(sys.executable, "-m", "criu_veth", *map(str, words), check=False, env=env)
