"""A device that drops what it receives for as long as a descriptor is open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab import Host, Link, Program, wait_for

ROOT = Path(__file__).parents[2]
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",))

# Says "on" while the device drops; a line of stdin ends that, and so does a signal.
DROP = """import sys
sys.path.insert(0, sys.argv[1])
from criu_veth import bpf
kept = bpf.attach(bpf.load_drop(), int(sys.argv[2]))
print("on", flush=True)
sys.stdin.readline()
"""
# Nobody listens on the port: what refuses the connection is the container's namespace itself.
ASK = """import errno, socket
asked = socket.socket()
asked.settimeout(0.3)
print(errno.errorcode.get(asked.connect_ex(("10.0.0.2", 9))))
"""


def ask(host: Host) -> str:
    return host.run(sys.executable, "-I", "-S", "-c", ASK).stdout.strip()


def shown(host: Host) -> list[str]:
    """The device and its port, without the bridge's timers."""
    return [host.run(*words).stdout for words in (("ip", "link", "show", "web0"), ("bridge", "-d", "link"))]


def test_a_drop_ends_with_the_process_however_that_ends(bridged: Host) -> None:
    bridged.container([WEB], Program(argv=["sleep", "infinity"]))
    wait_for(lambda: ask(bridged) == "ECONNREFUSED", "the container to answer")
    before = shown(bridged)

    index = str(bridged.link("web0")["ifindex"])
    pipe = subprocess.PIPE
    dropping = bridged.popen(sys.executable, "-c", DROP, str(ROOT), index, stdin=pipe, stdout=pipe)
    assert dropping.stdout
    assert dropping.stdout.readline() == "on\n"
    assert ask(bridged) == "EAGAIN"  # no answer in time

    dropping.kill()
    dropping.wait()
    assert ask(bridged) == "ECONNREFUSED"
    assert shown(bridged) == before
