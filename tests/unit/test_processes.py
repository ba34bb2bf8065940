"""Programs that are run, and what outlives the process that starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from criu_veth import processes
from lab import wait_for

ROOT = Path(__file__).parents[2]
IGNORING = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", sys.executable, "-c"]
ALONE = """import sys
sys.path.insert(0, sys.argv[1])
from criu_veth import processes
print(processes.run(("/bin/sh", "-c", "exit 3"), alone=True)[0])
"""
OPERATOR = """import atexit, subprocess, sys
sys.path.insert(0, sys.argv.pop(1))
from criu_veth import cli
atexit.register(lambda: print(subprocess.run(["sh", "-c", "exit 3"]).returncode))
cli.main()
"""


@pytest.mark.parametrize(("code", "arguments"), [(ALONE, []), (OPERATOR, ["--version"])], ids=["hook", "operator"])
def test_processes_of_our_own_may_inherit_that_sigchld_is_ignored(code: str, arguments: list[str]) -> None:
    done = subprocess.run([*IGNORING, code, str(ROOT), *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "3"


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_program_is_given_and_says(alone: bool) -> None:
    large = b"x" * 1_000_000  # no pipe would hold it
    script = "cat; echo wrong >&2; echo $FROM_US; exit 7"
    found = processes.run(("/bin/sh", "-c", script), given=large, variables={"FROM_US": "said"}, alone=alone)
    assert found == (7, large + b"said\n", b"wrong\n")


@pytest.mark.parametrize("alone", [True, False])
def test_a_program_that_does_not_end(alone: bool) -> None:
    assert processes.run(("/bin/sleep", "60"), patience=0.1, alone=alone)[0] is None
    assert processes.run(("/bin/sh", "-c", "kill -TERM $$"), alone=alone) == (-15, b"", b"")


@pytest.mark.parametrize("alone", [True, False])
def test_a_program_that_cannot_be_run(tmp_path: Path, alone: bool) -> None:
    with pytest.raises(FileNotFoundError):
        processes.run((str(tmp_path / "nothing"),), alone=alone)
    (tmp_path / "file").write_text("#!/bin/sh\n")
    with pytest.raises(PermissionError):
        processes.run((str(tmp_path / "file"),), alone=alone)


def test_another_process_finds_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a Python of its own, with our path and the descriptors, and the numbers that they have there."""
    (tmp_path / "somewhere.py").write_text(
        "import os\n"
        "def write(descriptors, *words):\n"
        "    held = [n for n in map(int, os.listdir('/proc/self/fd')) if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "    os.write(descriptors[1], repr((descriptors, words, sorted(held))).encode())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import somewhere  # type: ignore[import-not-found]

    before = os.listdir("/proc/self/fd")
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    os.set_inheritable(null, True)
    processes.start(somewhere.write, [null, writer], (b"bytes", (1, None)))
    os.close(writer)
    os.close(null)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"([4, 5], (b'bytes', (1, None)), [0, 1, 2, 4, 5])"
    assert os.listdir("/proc/self/fd") == before


DAEMON = """import os, sys
sys.path.insert(0, sys.argv[1])
from criu_veth import processes
writer, name = os.open(sys.argv[3], os.O_WRONLY), sys.argv[2]
sys.path.insert(0, sys.argv[2])
import somewhere
sys.path.append(somewhere)  # no path at all
for descriptor in (0, 1, 2):
    os.close(descriptor)
processes.start(somewhere.write, [writer], ())
"""


def test_a_daemon_has_no_standard_descriptors(tmp_path: Path) -> None:
    text = "import os\ndef write(descriptors): os.write(descriptors[0], repr(descriptors).encode())\n"
    (tmp_path / "somewhere.py").write_text(text)
    (tmp_path / "said").touch()
    argv = [sys.executable, "-c", DAEMON, str(ROOT), str(tmp_path), str(tmp_path / "said")]
    subprocess.run(argv, check=True)
    assert wait_for((tmp_path / "said").read_text, "the other process") == "[4]"


def test_there_is_no_python_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that has Python in it."""
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    monkeypatch.setattr(sys, "_base_executable", "")
    monkeypatch.setattr(sys, "base_exec_prefix", "/nowhere")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(FileNotFoundError, match=f"there is no {name} to start"):
        processes.start(processes.detach, [], ())


def test_a_program_with_a_group_of_its_own_is_killed_whole(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"echo $$ >{pid}; exec sleep 60"
    assert processes.run(("/bin/sh", "-c", script), patience=0.3)[0] is None
    wait_for(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), "its end")
