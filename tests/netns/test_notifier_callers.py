"""`criu_veth.Notifier` in programs that have threads, children, descriptors and network namespaces of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Link, Program, snapshot, wait_for

ROOT = Path(__file__).parents[2]
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))
SLEEP = Program(argv=["sleep", "infinity"])

# What differs is run before the first line; `call` is how the Notifier is called. A line is one thing to do, the answer
# is one line of JSON.
DRIVER = """import json, os, select, signal, sys, threading, traceback
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, sys.argv[1])
import criu_veth
from criu_veth import execute, wire
from criu_veth.errors import CriuVethError
forks = []
os.register_at_fork(before=lambda: forks.append(1))
call = lambda act, *rest: act(*rest)
exec(sys.argv[2])
notifier = None
def do(what, rest):
    global notifier
    if what == "new":
        notifier = criu_veth.Notifier(rest[0])
        notifier.criu_pid = rest[1] if len(rest) > 1 else None
    elif what == "forks":
        return len(forks)
    elif what == "run":
        return execute.run_program(tuple(rest))
    elif what == "together":
        with ThreadPoolExecutor(len(rest)) as threads:
            return list(threads.map(lambda arguments: one(*arguments), rest))
    elif what == "end of file":
        os.close(writer)
        return 0 if select.select([reader], [], [], 2)[0] and os.read(reader, 1) == b"" else "late"
    else:
        notifier.notify(what, *rest)
    return notifier.said
for line in sys.stdin:
    what, *rest = json.loads(line)
    said, fault = None, None
    try:
        said = call(do, what, rest)
    except CriuVethError as error:
        fault = [error.exit_code, *error.faults]
    except Exception:
        fault = traceback.format_exc().splitlines()
    print(json.dumps([said, fault]), flush=True)
"""

CALLERS = {
    "plain": "",
    "ignores SIGCHLD": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "keeps no children": """
import ctypes
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int)]
libc = ctypes.CDLL(None)
libc.sigaction.argtypes = [ctypes.c_int, ctypes.POINTER(Action), ctypes.POINTER(Action)]
assert libc.sigaction(signal.SIGCHLD, Action(flags=2), None) == 0  # SA_NOCLDWAIT
""",
    "waits for any child": """
import time
def reap():
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.0001)
threading.Thread(target=reap, daemon=True).start()
""",
    "has threads": """
import time
def work():
    while True:
        sorted(bytes(3000))
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
pool = ThreadPoolExecutor(1)
call = lambda act, *rest: pool.submit(act, *rest).result()
""",
    "lives in another network namespace": """
import ctypes
home = os.open("/proc/self/ns/net", os.O_RDONLY)
assert ctypes.CDLL(None).unshare(0x40000000) == 0  # the first thread leaves, and with it /proc/self/ns/net
def enter():
    wire.enter_netns(home)
pool = ThreadPoolExecutor(1, initializer=enter)
call = lambda act, *rest: pool.submit(act, *rest).result()
""",
}  # fmt: skip


class Caller:
    def __init__(self, host: Host, prelude: str) -> None:
        pipe = subprocess.PIPE
        self.process = host.popen(
            sys.executable, "-c", DRIVER, str(ROOT), prelude, stdin=pipe, stdout=pipe, stderr=None
        )

    def __call__(self, *what: object) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the program has ended with {self.process.wait()}"
        said, fault = json.loads(line)
        return said if fault is None else fault

    def children(self) -> list[int]:
        """Its children, zombies too."""
        path = Path(f"/proc/{self.process.pid}/task")
        return [int(word) for task in path.iterdir() for word in (task / "children").read_text().split()]


def network(host: Host) -> dict[str, Any]:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


def helpers(host: Host) -> list[int]:
    """Processes on this host that Notifiers have left behind."""
    netns = os.stat(host.netns).st_ino
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            if b"marshal.load(given)" in words and os.stat(f"/proc/{name}/ns/net").st_ino == netns:
                found.append(int(name))
        except OSError:
            continue
    return found


@pytest.fixture(params=CALLERS)
def prelude(request: pytest.FixtureRequest) -> str:
    return CALLERS[request.param]


def test_a_dump_and_a_restore(bridged: Host, images: Path, mapping: Path, prelude: str) -> None:
    mapping.write_text("[announcements]\nrepeat = 0\n")
    container = bridged.container([WEB], SLEEP)
    bridged.run("ip", "link", "set", "web0", "alias", "web, front")
    before = network(bridged)
    (images / "inventory.img").touch()
    caller = Caller(bridged, prelude)

    assert caller("new", str(mapping)) == []
    assert caller("pre-dump", container.pid, str(images)) == ["pre-dump: captured eth0: web0"]
    container.kill()
    bridged.wait_no_link("web0")
    fresh = bridged.container((), SLEEP)
    caller("new", str(mapping))
    assert caller("pre-restore", None, str(images)) == []
    for action in ("setup-namespaces", "post-setup-namespaces", "post-restore", "post-resume"):
        said = caller(action, fresh.pid, str(images))
    assert said[-1] == "post-restore: container announced"

    assert network(bridged) == before
    assert caller("forks") == 0, "no thread is found in the middle of something"
    wait_for(lambda: helpers(bridged) == [], "the announcing process to end")
    assert caller.children() == []


TOGETHER = """
from pathlib import Path
def one(number, dumped, restored, images):
    one = criu_veth.Notifier()
    one.notify("pre-dump", dumped, images)
    Path(images, "inventory.img").touch()
    os.kill(dumped, signal.SIGKILL)
    while os.path.exists(f"/sys/class/net/web{number}"):
        pass
    for action in ("pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "post-resume"):
        one.notify(action, restored if action != "pre-restore" else None, images)
    return one.said
"""


def test_several_at_once(bridged: Host, images: Path) -> None:
    """Each in a thread, as an engine does that restores a pod's containers."""
    count = 4
    links = [Link(inner="eth0", outer=f"web{n}", bridge="br0", addresses=(f"10.0.0.{n + 2}/24",)) for n in range(count)]
    dumped = [bridged.container([link], SLEEP) for link in links]
    fresh = [bridged.container((), SLEEP) for _ in links]
    before = network(bridged)
    for number in range(count):
        (images / str(number)).mkdir()
    caller = Caller(bridged, TOGETHER)
    work = [(number, dumped[number].pid, fresh[number].pid, str(images / str(number))) for number in range(count)]
    said = caller("together", *work)
    for number, lines in enumerate(said):
        assert lines[0] == f"pre-dump: captured eth0: web{number}"
        assert lines[1] == f"setup-namespaces: eth0: pair made: web{number} here, eth0 in the container"
        assert lines[-1] == "post-restore: container announced"
    assert network(bridged) == before


def test_what_announces_holds_nothing_of_the_program(bridged: Host, images: Path, mapping: Path) -> None:
    """Somebody waits for the end of a pipe that the program has, and that its children would inherit."""
    mapping.write_text('mappings = ["eth0:web0@br0"]\n[announcements]\nrepeat = 100\ninterval = 1.0\n')
    (images / "inventory.img").touch()
    fresh = bridged.container((), SLEEP)
    caller = Caller(bridged, "reader, writer = os.pipe()\nos.set_inheritable(writer, True)")
    caller("new", str(mapping))
    for action in ("pre-restore", "setup-namespaces", "post-restore"):
        said = caller(action, fresh.pid, str(images))
    assert said[-1] == "post-restore: container announced"

    assert caller("end of file") == 0, "it came at once"

    (announcing,) = wait_for(lambda: helpers(bridged), "the process that announces")
    fresh.kill()
    wait_for(lambda: not Path(f"/proc/{announcing}").exists(), "its end with the container's")


def test_what_quiets_a_dumped_network(bridged: Host, images: Path, prelude: str) -> None:
    """It waits for criu's end, and is no child of the program."""
    container = bridged.container([WEB], SLEEP)
    criu = bridged.popen("sleep", "infinity")
    caller = Caller(bridged, prelude)
    caller("new", None, criu.pid)
    assert caller("pre-dump", container.pid, str(images)) == ["pre-dump: captured eth0: web0"]
    (quieting,) = wait_for(lambda: helpers(bridged), "the process that quiets the network")
    assert caller.children() == []
    assert caller("forks") == 0
    criu.kill()
    criu.wait()
    wait_for(lambda: not Path(f"/proc/{quieting}").exists(), "its end with criu's")
    assert container.alive


PROGRAMS = {
    "exit 0": [True, ""],
    "echo ovs-vsctl: not quite >&2": [True, "ovs-vsctl: not quite"],
    "echo one >&2; exit 3": [False, "ovs-vsctl: one"],
    "exit 3": [False, "ovs-vsctl: it says nothing, and its status is 3"],
    "kill -KILL $$": [True, "ovs-vsctl: it says nothing, and its status is -9"],
    "sleep 60 & exit 1": [False, "ovs-vsctl: it says nothing, and its status is 1"],
}


def test_programs_that_are_run(host: Host, tmp_path: Path, prelude: str) -> None:
    """Their status is known, whoever waits for children, and whether or not there are any."""
    caller = Caller(host, prelude)
    program = tmp_path / "ovs-vsctl"
    found = {}
    for script in PROGRAMS:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        found[script] = caller("run", str(program))
    program.chmod(0o644)
    assert found == PROGRAMS
    refused = "ovs-vsctl: cannot be run: Permission denied (EACCES)"
    assert caller("run", str(program)) == [False, refused]
    program.unlink()
    missing = "ovs-vsctl: cannot be run: No such file or directory (ENOENT)"
    assert caller("run", str(program)) == [False, missing]
    assert caller("forks") == 0
    assert [child for child in caller.children() if not is_a_sleeper(child)] == []


def is_a_sleeper(pid: int) -> bool:
    return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_tree_in_the_hosts_network_namespace(bridged: Host, images: Path) -> None:
    """As the hook does, the Notifier leaves it alone: CRIU restores no network there."""
    process = bridged.popen("sleep", "infinity")
    caller = Caller(bridged, "")
    caller("new", None)
    assert caller("pre-dump", process.pid, str(images)) == ["pre-dump: notice: the container has no veth to the host"]
    container = bridged.container([WEB], SLEEP)
    caller("new", None)
    assert caller("pre-dump", container.pid, str(images)) == ["pre-dump: captured eth0: web0"]
    (images / "inventory.img").touch()
    container.kill()
    bridged.wait_no_link("web0")
    before = network(bridged)
    caller("new", None)
    assert caller("pre-restore", None, str(images)) == []
    stages = ("setup-namespaces", "post-setup-namespaces", "post-restore")
    for action in stages:
        said = caller(action, process.pid, str(images))
    nothing = f"notice: process {process.pid} is in the host's network namespace: nothing to do"
    assert said in ([f"{action}: {nothing}" for action in listed] for listed in (stages, stages[::2]))
    assert network(bridged) == before


def test_a_tree_in_the_hosts_network_namespace_that_a_mapping_file_is_for(
    bridged: Host, images: Path, mapping: Path
) -> None:
    mapping.write_text('mappings = ["eth0:web0@br0"]\n')
    (images / "inventory.img").touch()
    process = bridged.popen("sleep", "infinity")
    caller = Caller(bridged, "")
    caller("new", str(mapping))
    assert caller("pre-restore", None, str(images)) == []
    fault = (
        f"CRTOOLS_INIT_PID: process {process.pid} is in the host's own network namespace: there is no container to"
        " connect"
    )
    assert caller("setup-namespaces", process.pid, str(images)) == [2, fault]
