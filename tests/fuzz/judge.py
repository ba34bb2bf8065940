"""What is no clean end: a traceback, a hang, memory, and messages that no log and no terminal should get."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from criu_veth import errors

MOST_SECONDS = 2.0
MOST_BYTES = 64 << 20
LONGEST_LINE = 500

#: What data may lead to.
CLEAN = (errors.InputError, errors.OperationError)


class DefectError(Exception):
    """An input has ended in a way that none should."""


class Said(NamedTuple):
    """The exit status of a call, and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


def judge(said: Said) -> Said:
    """Return what was said if it is fit for a log and for a terminal.

    Raises DefectError.
    """
    if said.status not in (errors.EXIT_OK, errors.EXIT_FAILED, errors.EXIT_INPUT):
        lines = said.stderr.decode(errors="replace").splitlines()
        raise DefectError(f"exit status {said.status}: " + "\n".join(line[-200:] for line in lines[-4:]))
    for text in (said.stdout, said.stderr):
        _refuse_unprintable(text)
    for line in said.stderr.decode().splitlines():
        if not line.startswith(errors.PREFIX):
            raise DefectError(f"a line of a message without the prefix: {line!r}")
        if len(line) > LONGEST_LINE:
            raise DefectError(f"a message of {len(line)} characters: {line[:80]!r}")
    return said


def _refuse_unprintable(text: bytes) -> None:
    try:
        bad = {character for character in text.decode() if not character.isprintable()} - {"\n"}
    except UnicodeDecodeError as error:
        raise DefectError(f"written is what is no UTF-8: {error}") from None
    if bad:
        raise DefectError(f"written were {sorted(bad)} in {text[:300]!r}")


def cleanly(run: Callable[..., Any], *args: Any) -> Any:
    """Call ``run`` and return its result, or None if it ends with an error that is said cleanly."""
    try:
        return run(*args)
    except CLEAN:
        return None


def command(*words: str) -> Said:
    """Run one command line of the operator's in this process, as ``criu-veth`` does, and judge it."""
    from criu_veth.cli.app import app

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", how) for how in ("surrogateescape", "backslashreplace"))
    status: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main(words)
        except SystemExit as ended:
            status = ended.code or 0
        out.flush()
        err.flush()
    return judge(Said(status, out.buffer.getvalue(), err.buffer.getvalue()))  # type: ignore[attr-defined]


class Stderr:
    """Descriptor 2, caught: the hook writes there without Python's streams."""

    def __init__(self) -> None:
        self._own = os.dup(2)
        self._file = os.memfd_create("stderr")
        os.dup2(self._file, 2)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        sys.stderr.flush()
        text = os.pread(self._file, 1 << 20, 0)
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return text

    def close(self) -> None:
        """Give descriptor 2 back."""
        os.dup2(self._own, 2)


def resident() -> int:
    """Return how many bytes this process has in memory now."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def most_resident() -> int:
    """Return how many bytes it has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def tried(run: Callable[[], object]) -> str | None:
    """Call ``run`` once and say what is wrong with how it ended; None: nothing. Time is looked at by who waits."""
    before, most = resident(), most_resident()
    try:
        run()
    except DefectError as defect:
        return str(defect)
    except BaseException:  # whatever it is, it should not have been raised
        return _short(traceback.format_exc())
    after = most_resident()
    if after > most and after - before > MOST_BYTES:
        return f"{(after - before) >> 20} MB of memory"
    return None


def _short(text: str) -> str:
    """Return the last lines of a traceback, where they are: enough to tell one defect from another."""
    lines = text.rstrip().splitlines()
    places = [number for number, line in enumerate(lines) if "/criu_veth/" in line]
    return "\n".join([*lines[places[-1] if places else -3 :][:2], *(line[:400] for line in lines[-1:])])
