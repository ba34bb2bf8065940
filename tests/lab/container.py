"""Containers of the lab: a process tree in its own network, PID and mount namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .iproute import Json, batch, nodad, parsed, sysctl_path
from .process import CommandError, Handle
from .waiting import scaled, wait_for

if TYPE_CHECKING:
    from .host import Host

PYTHON = os.path.realpath(sys.executable)
ECHO_SERVER = (Path(__file__).parent / "echo_server.py").read_text()

NAMESPACES = ("net", "pid", "mount")
ROOT = "/run/lab/root"
"""Where a host has the file system that its containers see as /; CRIU's --root."""

# The fewest mounts that CRIU has to save: the machine's root alone, /dev and an own /proc. Standard
# descriptors are opened below them, because CRIU cannot name a file of a mount that it does not
# see; with exec, so that the shell keeps no copies of the old ones. A user namespace may neither
# take the host's mounts apart nor mount a /dev, so there the descriptors are closed.
INIT = """set -e
cd /
[ -z "$IN_USER_NAMESPACE" ] || mount --bind /run/lab/root /run/lab/root
[ -n "$IN_USER_NAMESPACE" ] || mount -t devtmpfs devtmpfs /run/lab/root/dev
mount -t proc proc /run/lab/root/proc
cd /run/lab/root
pivot_root . .
umount -l .
cd /
if [ -n "$IN_USER_NAMESPACE" ]; then
    exec 0<&- 1>&- 2>&-
else
    exec 0</dev/null
    exec 1>/dev/null
    exec 2>/dev/null
fi
unset IN_USER_NAMESPACE
exec setsid "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What runs as a container's init: it is ready once it listens on all `ports` (TCP)."""

    argv: Sequence[str]
    ports: Sequence[int] = ()


def echo_server(*ports: int) -> Program:
    """The default program; see echo_server.py. It listens on port 7000 if none is given."""
    listening = ports or (7000,)
    argv = [PYTHON, "-I", "-S", "-c", ECHO_SERVER, *map(str, listening)]
    return Program(argv=argv, ports=listening)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A veth pair between a container (inner) and its host (outer); both ends are set up."""

    inner: str
    outer: str
    addresses: Sequence[str] = ()
    bridge: str | None = None
    mac: str | None = None
    """The inner end's MAC address."""
    mtu: int | None = None
    """The MTU of both ends."""
    gateway: str | None = None
    """The inner end's default route."""
    outer_args: Sequence[str] = field(default=())
    """More for `ip link set OUTER`, such as ("alias", "web, front")."""

    @property
    def external(self) -> str:
        """What CRIU's --external takes to make this pair again and attach it itself."""
        return f"veth[{self.inner}]:{self.outer}" + (f"@{self.bridge}" if self.bridge else "")

    @property
    def external_detached(self) -> str:
        """The same without the bridge: CRIU leaves the outer end down, for a hook to finish."""
        return f"veth[{self.inner}]:{self.outer}"


class Container:
    """A running container: started here, or restored by CRIU. `pid` is its init's."""

    def __init__(self, host: Host, pid: int, links: Sequence[Link] = (), program: Program | None = None) -> None:
        self.host = host
        self.pid = pid
        self.links = tuple(links)
        self.program = program
        self.handle = Handle(pid)
        self._launcher: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, host: Host, links: Sequence[Link], program: Program, namespaces: Sequence[str] = NAMESPACES
    ) -> Container:
        """Start `program` on `host`, plug in the links, and wait until it is ready.

        `namespaces` are those that it gets for itself; with "user", it is root in there and nobody outside.
        """
        user = ["--map-root-user"] if "user" in namespaces else []
        unshare = ["unshare", *(f"--{name}" for name in namespaces), *user, "--propagation", "private", "--fork", "--"]
        with tempfile.TemporaryFile() as said:
            launcher = subprocess.Popen(
                host.command([*unshare, "sh", "-c", INIT, "init", *program.argv]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**host.environment(None), "IN_USER_NAMESPACE": "1" if user else ""},
                start_new_session=True,
            )

            def child() -> int:
                if launcher.poll() is not None:
                    said.seek(0)
                    text = said.read().decode(errors="replace")
                    status = f"exit status {launcher.returncode}"
                    raise CommandError(program.argv, f"container init: {status}", "", text)
                file = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
                pids = file.read_text().split()
                return int(pids[0]) if pids else 0

            pid = wait_for(child, "the container's init")
            container = cls(host, pid, links, program)
            container._launcher = launcher
            container.run("ip", "link", "set", "lo", "up")
            container.plug(*links)
            # Without ports: once the shell that prepares the mounts has become the program.
            ready = container.listens if program.ports else container.runs_program
            wait_for(lambda: child() and ready(), "the container's program")
        return container

    def plug(self, *links: Link) -> None:
        """Make veth pairs and put their inner ends into this container, in three calls of `ip`."""
        made, inside, outside = [], [], []
        for link in links:
            mtu = ["mtu", str(link.mtu)] if link.mtu else []
            mac = ["address", link.mac] if link.mac else []
            master = ["master", link.bridge] if link.bridge else []
            peer = ["peer", "name", link.inner, *mtu, *mac, "netns", str(self.pid)]
            made.append(["link", "add", link.outer, *mtu, "type", "veth", *peer])
            device = ["dev", link.inner]
            inside += [["address", "add", address, *device, *nodad(address)] for address in link.addresses]
            inside.append(["link", "set", link.inner, "up"])
            if link.gateway:
                inside.append(["route", "add", "default", "via", link.gateway, *device])
            outside.append(["link", "set", link.outer, *master, *link.outer_args, "up"])
        self.host.run("ip", "-batch", "-", stdin=batch(made))
        self.run("ip", "-batch", "-", stdin=batch(inside))
        self.host.run("ip", "-batch", "-", stdin=batch(outside))

    def run(self, *argv: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in this container's network namespace, with the host's files."""
        return self.host.run("nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv, check=check, stdin=stdin)

    def ip(self, *args: str) -> Json:
        """What `ip -j -d ARGS` prints in this container's network namespace, parsed."""
        return parsed(self.run("ip", "-j", "-d", *args).stdout)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read net/`name` in this container's network namespace, or set it first."""
        file = sysctl_path(name)
        if value is not None:
            self.run("sh", "-c", 'echo "$1" >"$0"', file, str(value))
        return self.run("cat", file).stdout.strip()

    def listens(self) -> bool:
        """Whether somebody in this network namespace listens on all ports of the program."""
        wanted = set(self.program.ports) if self.program else set()
        for table in ("tcp", "tcp6"):
            try:
                rows = Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]
            except OSError:
                continue
            for row in rows:
                _, local, _, state = row.split()[:4]
                if state == "0A":
                    wanted.discard(int(local.rpartition(":")[2], 16))
        return not wanted

    def runs_program(self) -> bool:
        """Whether init is the program by now, not the shell that started it."""
        assert self.program
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            return False
        return words == [os.fsencode(word) for word in self.program.argv]

    @property
    def alive(self) -> bool:
        """Whether init runs."""
        return self.handle.alive

    def kill(self) -> None:
        """Kill init, and with it the whole PID namespace, and wait until it is gone."""
        self.handle.kill()
        self.wait_gone()

    def wait_gone(self, deadline: float = 10.0) -> None:
        """Wait until init is dead, as after a dump."""
        self.handle.wait_gone(deadline)
        if self._launcher is not None:
            self._launcher.wait(scaled(deadline))

    def wait_unplugged(self, deadline: float = 10.0) -> None:
        """Wait until the outer ends' names are free: they die a moment after the container."""
        self.host.wait_no_link(*(link.outer for link in self.links), deadline=deadline)

    def close(self) -> None:
        """Let go of the process, which is dead or dying by now."""
        try:
            self.wait_gone()
        finally:
            self.handle.close()
