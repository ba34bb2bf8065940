"""A host on which container runtimes run: with PIDs and cgroups of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from .criu import REPOSITORY, find_criu
from .host import SBIN, Host
from .process import CommandError
from .waiting import wait_for

CONTROLLERS = "cpu cpuacct cpuset memory devices freezer pids blkio"

# A cgroup of the node's own in each of the machine's hierarchies. Its name is random, everything on the node is below
# it, and it goes with the node.
OUTER = f"""set -e
at=/run/lab/cgroup
mkdir $at
mount -t tmpfs none $at
for name in unified systemd {CONTROLLERS}; do
    mkdir $at/$name
    case $name in
        unified) mount -t cgroup2 none $at/$name ;;
        systemd) mount -t cgroup -o none,name=systemd none $at/$name ;;
        *) mount -t cgroup -o $name none $at/$name ;;
    esac || {{ rmdir $at/$name; continue; }}
    mkdir $at/$name/$2
    if [ $name = cpuset ]; then
        for file in cpuset.cpus cpuset.mems; do cat $at/$name/$file >$at/$name/$2/$file; done
    fi
    echo $$ >$at/$name/$2/cgroup.procs
done
exec unshare --pid --fork --kill-child --mount --propagation private --cgroup -- sh -c "$3" init "$1"
"""

# The node's first process: it sees its own cgroup as the root, on /sys/fs/cgroup as version 1 or 2 alone.
INNER = f"""set -e
mount -t proc proc /proc
umount -R /run/lab/cgroup
if [ "$1" = v2 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for name in systemd {CONTROLLERS}; do
        options=$name
        [ $name != systemd ] || options=none,name=systemd
        mkdir /sys/fs/cgroup/$name
        mount -t cgroup -o $options cgroup /sys/fs/cgroup/$name
    done
fi
echo ready
read -r _ || true
"""

JOIN = 'for file in /run/lab/cgroup/*/$0/cgroup.procs; do echo $$ >"$file"; done; exec "$@"'
CLEAN = """for group in /run/lab/cgroup/*/$0; do
    [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
done"""


def find_program(name: str) -> Path | None:
    """Return a runtime's program: beside the CRIU to test with, in the checkout's .runtimes/bin, or on PATH."""
    criu = find_criu()
    beside = f"{criu.parent}:" if criu else ""
    found = shutil.which(name, path=f"{beside}{REPOSITORY}/.runtimes/bin:{os.environ.get('PATH', '')}:{SBIN}")
    return Path(found) if found else None


class Node(Host):
    """A host with its own PID namespace and cgroups; `cgroup` is the version that runtimes see, "v1" or "v2".

    CRIU, runc, crun, podman and LXC are on its PATH. What is started there ends with it, however it daemonized, and
    the machine's cgroups are as they were.
    """

    def __init__(self, cgroup: str = "v2") -> None:
        super().__init__()
        self.cgroup = cgroup
        self._group = f"criu-veth-{uuid.uuid4().hex[:12]}"
        self._init = 0
        self._outer: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        words = ["sh", "-c", OUTER, "outer", self.cgroup, self._group, INNER]
        pipe = subprocess.PIPE
        self._outer = Host.popen(self, *words, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self._outer.stdout
        assert self._outer.stderr
        if self._outer.stdout.readline() != "ready\n":
            said = self._outer.stderr.read()
            self.close()
            raise CommandError(["node"], "the node did not start", "", said)
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text()
        self._init = int(children.split()[0])
        return self

    def close(self) -> None:
        """End everything on the node, and remove its cgroups."""
        self._init = 0
        if self._outer is not None:
            self._outer.communicate(
                timeout=30
            )  # closes the first process's stdin, and with that process all others end
            self._outer = None
            wait_for(self._no_cgroups, "the node's cgroups to be empty")
        super().close()

    def _no_cgroups(self) -> bool:
        return not Host.run(self, "sh", "-c", CLEAN, self._group, check=False).stderr

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as the test process has to start it, to run on this node."""
        if not self._init:
            return super().command(argv)
        inside = ["nsenter", "-t", str(self._init), "-n", "-m", "-u", "-p", "-C", "--", *argv]
        return ["nsenter", "-t", str(self.pid), "-m", "--", "sh", "-c", JOIN, self._group, *inside]

    def environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        """The environment of `Host.environment`, with the programs of `find_program` first on PATH."""
        found = super().environment(env)
        criu, crun = find_criu(), find_program("crun")
        first = [str(program.parent) for program in (criu, crun) if program is not None]
        return {**found, "PATH": ":".join([*dict.fromkeys(first), found["PATH"]])}

    def path(self, path: str) -> Path:
        """Where the test process reads and writes what is `path`, absolute, on this node."""
        return Path(f"/proc/{self._init or self.pid}/root{path}")

    def detached(self, *argv: str, check: bool = True, timeout: float = 60.0) -> int:
        """Run a command that leaves a daemon behind, and return its status.

        It gets /dev/null for all three: a pipe or a file of the test's would be open in the container for ever, which
        CRIU cannot dump.
        """
        done = self.popen(*argv)
        status = done.wait(timeout)
        if check and status:
            raise CommandError(argv, f"exit status {status}", "", "")
        return status
