"""A container of runc or crun, straight from the runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .container import ECHO_SERVER, PYTHON, ROOT
from .criu import REPOSITORY
from .node import Node
from .process import CommandError
from .waiting import wait_for

CAPABILITIES = ["CAP_NET_ADMIN", "CAP_KILL"]
NAME = "web"


#: Writes to /usr/local vanish with the node.
OVERLAY = """mkdir /run/lab/local /run/lab/local-work
mount -t overlay -o lowerdir=/usr/local,upperdir=/run/lab/local,workdir=/run/lab/local-work overlay /usr/local"""


def install_on(node: Node, runtime: str) -> None:
    """Install the hook for a runtime as an administrator does it; /usr/local has to be the node's own (`OVERLAY`)."""
    command = [sys.executable, "-m", "criu_veth", "install", "--yes", "--runtime", runtime]
    node.run(*command, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)})


class Oci:
    """A container with the echo server on port 7000, below `directory`, with one veth on the node's br0.

    `netns` is the path of a network namespace that is not the runtime's to make; `hooks` are the bundle's.
    """

    def __init__(
        self,
        node: Node,
        runtime: str,
        directory: Path,
        *,
        netns: str = "",
        hooks: dict[str, Any] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> None:
        self.node = node
        self.runtime = runtime
        self.images = directory / "images"
        self._bundle = directory / "bundle"
        self._log = directory / "runtime.log"
        self._pid_file = directory / "pid"
        self._work = directory / "work"
        self._netns = netns
        self._bundle.mkdir()
        spec = _spec(netns, hooks or {}, annotations or {})
        (self._bundle / "config.json").write_text(json.dumps(spec))

    def start(self) -> None:
        """Start the container and plug its veth in: web0 on br0, eth0 with 10.0.0.2/24."""
        self._call("run", "-d", "--bundle", str(self._bundle), "--pid-file", str(self._pid_file), NAME)
        if not self._netns:
            self.plug()
        wait_for(self._listens, "the server to listen")

    def plug(self) -> None:
        """Make the veth, with some settings of its own on either end."""
        enter = ["nsenter", f"--net={self._netns}"] if self._netns else ["nsenter", "-t", str(self.pid), "-n"]
        there = ["netns", self._netns.rpartition("/")[2] if self._netns else str(self.pid)]
        outer = ["web0", "mtu", "1400", "txqueuelen", "500"]
        self.node.run("ip", "link", "add", *outer, "type", "veth", "peer", "name", "eth0", "mtu", "1400", *there)
        script = """ip link set lo up
            ip address add 10.0.0.2/24 dev eth0
            ip link set eth0 up
            ip route add default via 10.0.0.1"""
        self.node.run(*enter, "sh", "-ec", script)
        self.node.run("ip", "link", "set", "web0", "master", "br0", "alias", "web, front", "up")
        self.node.run("bridge", "link", "set", "dev", "web0", "hairpin", "on")

    @property
    def pid(self) -> int:
        """The first process, as the node numbers it."""
        return int(self._pid_file.read_text())

    def checkpoint(self, *, check: bool = True) -> int:
        """Checkpoint the container, which ends."""
        places = ["--image-path", str(self.images), "--work-path", str(self._work)]
        return self._call("checkpoint", *places, "--tcp-established", NAME, check=check, log="dump.log")

    def restore(self, *, check: bool = True) -> int:
        """Restore the container."""
        places = ["--image-path", str(self.images), "--work-path", str(self._work), "--bundle", str(self._bundle)]
        options = [*places, "--tcp-established", "--pid-file", str(self._pid_file)]
        return self._call("restore", "-d", *options, NAME, check=check, log="restore.log")

    def said(self, log: str) -> list[str]:
        """What the hook wrote to CRIU's log, ``dump.log`` or ``restore.log``."""
        text = (self._work / log).read_text(errors="replace")
        return [line for line in text.splitlines() if line.startswith("criu-veth:")]

    def listed(self) -> list[str]:
        """The runtime's containers and their states."""
        found = json.loads(self.node.run(self.runtime, "list", "-f", "json").stdout or "null")
        return [f"{entry['id']} {entry['status']}" for entry in found or ()]

    def _listens(self) -> bool:
        return bool(self.node.run("nsenter", "-t", str(self.pid), "-n", "ss", "-Hltn", "sport = :7000").stdout)

    def _call(self, *words: str, check: bool = True, log: str = "") -> int:
        """Run the runtime; the container that it leaves behind must have nothing of the test's open."""
        argv = [self.runtime, "--log", str(self._log), *words]
        self._log.unlink(missing_ok=True)
        done = self.node.popen(*argv, stdin=subprocess.DEVNULL)
        status = done.wait(60)
        if check and status:
            notes = [self._log.read_text(errors="replace")] if self._log.exists() else []
            if log and (self._work / log).exists():
                text = (self._work / log).read_text(errors="replace").splitlines()
                notes += [line for line in text if "Error (" in line or "criu-veth" in line] + text[-20:]
            raise CommandError(argv, f"exit status {status}", "", "", "\n".join(notes))
        return status


def _spec(netns: str, hooks: dict[str, Any], annotations: dict[str, str]) -> dict[str, Any]:
    """Return an OCI runtime configuration: the machine's root, read-only, and as few mounts as will do."""
    argv: Sequence[str] = [PYTHON, "-I", "-S", "-c", ECHO_SERVER, "7000"]
    network = {"type": "network", **({"path": netns} if netns else {})}
    return {
        "ociVersion": "1.0.2",
        "hostname": NAME,
        "annotations": annotations,
        "hooks": hooks,
        "root": {"path": ROOT, "readonly": True},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": argv,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64m"]},
        ],
        "linux": {
            "namespaces": [*({"type": kind} for kind in ("pid", "ipc", "uts", "mount")), network],
            "cgroupsPath": f"/{NAME}",
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
        },
    }
