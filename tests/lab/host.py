"""Simulated hosts: namespaces with private mounts that vanish with the test that made them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from . import process
from .client import Client
from .container import NAMESPACES, Container, Link, Program, echo_server
from .iproute import Json, nodad, parsed, random_mac, sysctl_path
from .netns import socket_in
from .process import CommandError
from .waiting import scaled, wait_for

HOLDER = (Path(__file__).parent / "holder.py").read_text()
PYTHON = os.path.realpath(sys.executable)
UNSHARE = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "--"]
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class Host:
    """An anonymous host: own network, mount and UTS namespaces, the machine's PIDs and files.

    Private are /run (empty), /etc and /var/lib (the machine's below, writes vanish), /etc/criu (empty) and /sys
    (its /sys/class/net shows this host's links; fs/cgroup is empty). `lo` is up. Use it as a
    context manager; leaving it, or the death of the test process, kills everything that was
    started in it, restored processes too, and leaves nothing behind.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name or f"lab-{uuid.uuid4().hex[:8]}"
        self._mark = f"CRIU_VETH_LAB={uuid.uuid4().hex}"
        self._holder: subprocess.Popen[bytes] | None = None
        self._containers: list[Container] = []
        self._clients: list[Client] = []
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(
            [*UNSHARE, PYTHON, "-I", "-S", "-c", HOLDER, self._mark, self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": path_with_sbin(os.environ)},  # without the mark: it outlives the others
            start_new_session=True,
        )
        assert self._holder.stdout
        assert self._holder.stderr
        if self._holder.stdout.readline() != b"ready\n":
            said = self._holder.stderr.read().decode(errors="replace")
            self.close()
            raise CommandError(["unshare", "..."], "the lab host did not start", "", said)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that was started on this host, and the host."""
        while self._clients:
            self._clients.pop().close()
        if self._holder is not None:
            self._holder.communicate(timeout=scaled(30))  # closes its stdin, which is its order to clean up
            self._holder = None
        while self._started:
            with self._started.pop() as started:  # closes its pipes
                started.wait(scaled(10))
        while self._containers:
            container = self._containers.pop()
            container.handle.kill()  # one that was restored from another host carries that host's mark
            container.close()

    @property
    def pid(self) -> int:
        """The process that holds the namespaces, as the machine numbers it."""
        if self._holder is None:
            raise RuntimeError(f"host {self.name} is not running")
        return self._holder.pid

    @property
    def netns(self) -> str:
        """The path of the network namespace, for whoever wants to open it."""
        return f"/proc/{self.pid}/ns/net"

    def path(self, path: str) -> Path:
        """Where the test process reads and writes what is `path`, absolute, on this host."""
        return Path(f"/proc/{self.pid}/root{path}")

    # --- commands

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as the test process has to start it, to run on this host."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "--", *argv]

    def environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        """`env`, or the test process's own, with the mark and the sbin directories added."""
        name, _, value = self._mark.partition("=")
        base = dict(os.environ if env is None else env)
        return {**base, "PATH": path_with_sbin(base), name: value}

    def run(
        self,
        *argv: str,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this host, in `/`.

        `env` replaces the environment (the host's mark and the sbin directories on PATH are
        always added; use `env -i` for none at all). A failure raises CommandError with all that
        the command wrote, unless `check` is false.
        """
        return process.run(
            self.command(argv),
            shown=argv,
            check=check,
            env=self.environment(env),
            stdin=stdin,
            timeout=timeout,
        )

    def popen(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a command on this host; its pid is the command's own. It dies with the host."""
        started = subprocess.Popen(
            self.command(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=self.environment(env),
            start_new_session=True,
        )
        self._started.append(started)
        return started

    def ip(self, *args: str) -> Json:
        """What `ip -j -d ARGS` prints, parsed; an empty list if it prints nothing."""
        return parsed(self.run("ip", "-j", "-d", *args).stdout)

    def bridge_json(self, *args: str) -> Json:
        """What `bridge -j -d ARGS` prints, parsed."""
        return parsed(self.run("bridge", "-j", "-d", *args).stdout)

    def tc_json(self, *args: str) -> Json:
        """What `tc -j -d ARGS` prints, parsed."""
        return parsed(self.run("tc", "-j", "-d", *args).stdout)

    # --- links

    def link(self, ifname: str) -> Json:
        """What `ip -j -d link show dev` says of one link, as a dict."""
        return self.ip("link", "show", "dev", ifname)[0]

    def has_link(self, ifname: str) -> bool:
        """Whether a link of this name exists right now; cheap enough to poll."""
        return self.path(f"/sys/class/net/{ifname}").exists()

    def wait_no_link(self, *ifnames: str, deadline: float = 10.0) -> None:
        """Wait until none of the names is taken: an outer end dies a moment after the dump."""
        for ifname in ifnames:
            wait_for(
                lambda name=ifname: not self.has_link(name),  # type: ignore[misc]
                f"{ifname} to go",
                deadline=deadline,
            )

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read net/`name` ("ipv4.conf.web0.proxy_arp", or with slashes), or set it first.

        /proc/sys/net shows the namespace of the reader, so this runs on the host.
        """
        file = sysctl_path(name)
        if value is not None:
            self.run("sh", "-c", 'echo "$1" >"$0"', file, str(value))
        return self.run("cat", file).stdout.strip()

    def bridge(self, ifname: str, *addresses: str, **attributes: str | int) -> None:
        """Make a bridge and set it up; `attributes` are those of `ip link add type bridge`.

        It gets an address of its own, so that it does not change with its ports.
        """
        options = [word for key, value in attributes.items() for word in (key, str(value))]
        self.run("ip", "link", "add", ifname, "address", random_mac(), "type", "bridge", *options)
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", ifname, *nodad(address))
        self.run("ip", "link", "set", ifname, "up")

    def veth(
        self,
        ifname: str,
        peer: str,
        peer_host: Host | int | None = None,
        *,
        bridge: str | None = None,
        addresses: Iterable[str] = (),
    ) -> None:
        """Make a veth pair and set it up; `peer_host` is where the peer goes (or a pid in it)."""
        where: list[str] = []
        if peer_host is not None:
            where = ["netns", str(peer_host if isinstance(peer_host, int) else peer_host.pid)]
        self.run("ip", "link", "add", ifname, "type", "veth", "peer", "name", peer, *where)
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", ifname, *nodad(address))
        self.run("ip", "link", "set", ifname, "up", *(["master", bridge] if bridge else []))
        if isinstance(peer_host, Host):
            peer_host.run("ip", "link", "set", peer, "up")
        elif peer_host is None:
            self.run("ip", "link", "set", peer, "up")

    # --- what runs here

    def container(
        self,
        links: Iterable[Link] = (),
        program: Program | None = None,
        *,
        namespaces: Sequence[str] = NAMESPACES,
    ) -> Container:
        """Start a container on this host and wait until its program is ready; `namespaces` are its own."""
        container = Container.start(self, tuple(links), program or echo_server(), namespaces)
        return self.adopt(container)

    def adopt(self, container: Container) -> Container:
        """Remember a container, so that it is closed with the host."""
        self._containers.append(container)
        return container

    def connect(self, address: str, port: int = 7000, *, timeout: float = 5.0) -> Client:
        """A TCP connection from this host to a server; closed with the host."""
        client = Client(self.pid, address, port, timeout=timeout)
        self._clients.append(client)
        return client

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this host, for whatever else a test sends or listens to; close it."""
        return socket_in(self.pid, family, kind, protocol)


def join(a: Host, a_ifname: str, b: Host, b_ifname: str, *, bridge: str | None = None) -> None:
    """Join two hosts with a veth pair, both ends up; b's end on b's `bridge` if given."""
    a.veth(a_ifname, b_ifname, b)
    if bridge:
        b.run("ip", "link", "set", b_ifname, "master", bridge)


def path_with_sbin(env: Mapping[str, str]) -> str:
    """PATH with the directories in which CRIU and the lab find ip, iptables-restore and more."""
    return f"{env.get('PATH', '/usr/local/bin:/usr/bin:/bin')}:{SBIN}"
