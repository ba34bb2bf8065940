"""Running commands and following processes, with errors that tell the whole story."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

from .waiting import scaled, wait_for


class CommandError(AssertionError):
    """A command failed or took too long; the message shows the command and what it wrote."""

    def __init__(self, argv: Sequence[str], outcome: str, stdout: str, stderr: str, notes: str = "") -> None:
        parts = [f"{shlex.join(argv)}: {outcome}"]
        for title, text in (("stdout", stdout), ("stderr", stderr), ("log", notes)):
            if text.strip():
                parts.append(f"--- {title}\n{text.rstrip()}")
        super().__init__("\n".join(parts))
        self.stdout = stdout
        self.stderr = stderr


def run(
    argv: Sequence[str],
    *,
    shown: Sequence[str] = (),
    check: bool = True,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` in a session of its own and return what it wrote and its status.

    `shown` is the command as the error shall show it (`argv` by default). With `check` a status
    other than 0 raises CommandError; running past `timeout` seconds (scaled) always does, after the
    whole session's process group was killed.
    """
    timeout = scaled(timeout)
    command = list(shown or argv)
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=None if env is None else dict(env),
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        try:
            stdout, stderr = process.communicate(timeout=scaled(5))
        except subprocess.TimeoutExpired:  # somebody outside the group holds the pipes
            stdout, stderr = "", ""
        raise CommandError(command, f"still running after {timeout:g} s", stdout, stderr) from None
    if check and process.returncode != 0:
        raise CommandError(command, f"exit status {process.returncode}", stdout, stderr)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


class Handle:
    """A process followed through a pidfd, so that a number used again is never mistaken for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        """Whether the process runs; one that is dead but not reaped yet does not."""
        ended, _, _ = select.select([self._fd], [], [], 0)
        return not ended

    def kill(self) -> None:
        """Kill the process with SIGKILL; nothing happens if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def wait_gone(self, deadline: float = 10.0) -> None:
        """Wait until the process is dead, and its namespaces with it if it was the last."""
        wait_for(lambda: not self.alive, f"process {self.pid} to end", deadline=deadline)

    def close(self) -> None:
        """Forget the process, without ending it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
