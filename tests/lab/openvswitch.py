"""Open vSwitch on a lab host: its own daemons, database and bridges, which end with the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .host import Host
from .waiting import wait_for

DIRECTORY = "/run/openvswitch"
"""The usual place, on the host's private /run: ovs-vsctl finds it without being told."""
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_VARIABLES = (f"OVS_DBDIR={DIRECTORY}", f"OVS_LOGDIR={DIRECTORY}", f"OVS_SYSCONFDIR={DIRECTORY}")
_YOUNG = 10.5


class OpenVSwitch:
    """The daemons on `host`; `datapath` is "netdev" (in userspace) or "system" (the kernel's)."""

    def __init__(self, host: Host, datapath: str = "netdev") -> None:
        self.host = host
        self.datapath = datapath
        if datapath == "system":
            # OVS 3.1 drops every packet that the kernel hands it if it starts in the first seconds after boot.
            wait_for(_is_old_enough, "the machine to have run for a while", deadline=_YOUNG + 1, interval=0.1)
            host.run("modprobe", "openvswitch", check=False)  # on a lab kernel it may be built in
        host.run("mkdir", DIRECTORY)
        host.run("ovsdb-tool", "create", f"{DIRECTORY}/conf.db", SCHEMA)
        remote = f"--remote=punix:{DIRECTORY}/db.sock"
        self.database = self._start("ovsdb-server", f"{DIRECTORY}/conf.db", remote)
        wait_for(self._answers, "Open vSwitch's database")
        host.run("ovs-vsctl", "--no-wait", "init")
        self.switch = self._start("ovs-vswitchd")

    def _start(self, *argv: str) -> Any:
        name = argv[0]
        log = f"--log-file={DIRECTORY}/{name}.log"
        return self.host.popen("env", *_VARIABLES, *argv, log, "-vconsole:off", f"--unixctl={DIRECTORY}/{name}.ctl")

    def _answers(self) -> bool:
        return self.host.run("ovs-vsctl", "--timeout=1", "--no-wait", "show", check=False).returncode == 0

    def bridge(self, name: str, *addresses: str) -> None:
        """Make a bridge; its local port is up, with these addresses."""
        self.vsctl("add-br", name, "--", "set", "bridge", name, f"datapath_type={self.datapath}")
        for address in addresses:
            self.host.run("ip", "address", "add", address, "dev", name)
        self.host.run("ip", "link", "set", name, "up")

    def port(self, bridge: str, name: str, *columns: str) -> None:
        """Make a device a port, with `columns` of its record such as "tag=10", and set it up."""
        self.vsctl("add-port", bridge, name, *columns)
        self.host.run("ip", "link", "set", name, "up")

    def vsctl(self, *words: str, check: bool = True) -> str:
        """What an ovs-vsctl command prints."""
        return self.host.run("ovs-vsctl", "--timeout=10", *words, check=check).stdout.strip()

    def ports(self, bridge: str) -> list[str]:
        """The names of a bridge's ports, as the database has them."""
        return self.vsctl("list-ports", bridge).splitlines()

    def record(self, table: str, name: str) -> dict[str, Any]:
        """A record with those columns that are set, sets as lists and maps as dicts."""
        (row,) = self.rows(table, name)
        return row

    def rows(self, table: str, *names: str) -> list[dict[str, Any]]:
        """The records of a table, or those of these names."""
        found = json.loads(self.vsctl("--format=json", "--if-exists", "list", table, *names))
        return [
            {
                key: value
                for key, one in zip(found["headings"], row, strict=True)
                if (value := _plain(one)) not in _EMPTY
            }
            for row in found["data"]
        ]

    def log(self) -> str:
        """What ovs-vswitchd has written."""
        return Path(self.host.path(f"{DIRECTORY}/ovs-vswitchd.log")).read_text()


_EMPTY: list[Any] = [[], {}, ""]


def _plain(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, inside = value
    return dict(inside) if kind == "map" else inside


def _is_old_enough() -> bool:
    return float(Path("/proc/uptime").read_text().split()[0]) > _YOUNG
