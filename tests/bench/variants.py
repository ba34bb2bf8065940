"""The ways to restore that are compared, each with what it must have done to the outer ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from criu_veth.way import ready_name
from lab import Host
from lab.criu import REPOSITORY
from lab.iproute import batch

BRIDGE = "br0"
MTU = 1400
CRIU_VETH = REPOSITORY / "hooks/criu-veth"

NONE = "no action script"
SH = "sh, exit 0"
NATIVE = "native @bridge"
SHELL_IP = "shell + ip"
SHELL_BATCH = "shell + ip -batch"
PYROUTE2 = "lazy pyroute2"
READY = "criu-veth, program ready"
COLD = "criu-veth, program made at pre-restore"
READY_MADE = "criu-veth, device ready-made"
EMPTY = "criu-veth, empty namespace"
ALL = (NONE, SH, NATIVE, SHELL_IP, SHELL_BATCH, PYROUTE2, READY, COLD, READY_MADE, EMPTY)
FINISHING = (SHELL_IP, SHELL_BATCH, PYROUTE2, READY, COLD, READY_MADE, EMPTY)
"""Those that give the outer ends back all that the mapping file asks for."""


@dataclass(frozen=True, kw_only=True)
class Veth:
    """One mapping: what the outer end of `inner` shall be."""

    inner: str
    outer: str
    mac: str
    alias: str

    def link_set(self) -> list[str]:
        """All of it in one command of `ip`, the cheapest way there is."""
        where = ["link", "set", "dev", self.outer, "master", BRIDGE, "mtu", str(MTU)]
        return [*where, "address", self.mac, "alias", self.alias, "up"]


def veths(count: int) -> list[Veth]:
    """`count` mappings."""
    return [
        Veth(
            inner=f"eth{i}",
            outer=f"web{i}",
            mac=f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}",
            alias=f"web {i}",
        )
        for i in range(count)
    ]


# Written as somebody would who knows the costs: no work before post-restore, no process that is
# not needed, one `ip` for all attributes of a veth. `ip -batch` wants an fd 0, which CRIU closes:
# without one its netlink socket gets that number, and is lost when the file takes it.
SHELL_HEAD = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = post-restore ] || exit 0
set -e
"""

PYROUTE2_HOOK = """#!{python}
import os
if os.environ.get("CRTOOLS_SCRIPT_ACTION") == "post-restore":
    from pyroute2 import IPRoute
    with IPRoute() as ipr:
        (master,) = ipr.link_lookup(ifname={bridge!r})
        for ifname, mac, alias in {veths!r}:
            ipr.link("set", ifname=ifname, master=master, mtu={mtu}, address=mac, ifalias=alias, state="up")
"""


def mapping_file(mappings: Sequence[Veth]) -> str:
    """The mapping file that asks for the same."""
    return "".join(
        f'[[veth]]\ninner = "{veth.inner}"\nouter = "{veth.outer}"\nbridge = "{BRIDGE}"\n'
        f'mac = "{veth.mac}"\nmtu = {MTU}\nalias = "{veth.alias}"\n\n'
        for veth in mappings
    )


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """The action scripts for one list of mappings, written to a host's private /etc/criu."""

    count: int
    scripts: dict[str, str]
    """Path of the action script by variant; those without one are absent."""
    config: str
    """Path of the mapping file."""

    def options(self, variant: str, images: Path) -> list[str]:
        """CRIU's options for the variant."""
        if variant == EMPTY:
            return ["--empty-ns", "net"]
        if variant == READY_MADE:
            names = {veth.inner: ready_name(str(images), veth.inner) for veth in veths(self.count)}
            return [word for inner, name in names.items() for word in ("--external", f"netdev[{inner}]:{name}")]
        at = f"@{BRIDGE}" if variant == NATIVE else ""
        return [word for veth in veths(self.count) for word in ("--external", f"veth[{veth.inner}]:{veth.outer}{at}")]


def write_hooks(host: Host, count: int) -> Hooks:
    """Write every variant's action script and the mapping file for `count` veths."""
    mappings = veths(count)
    where = f"/etc/criu/bench-{count}"
    host.path(where).mkdir(mode=0o755)

    def write(name: str, text: str, mode: int = 0o755) -> str:
        file = host.path(f"{where}/{name}")
        file.write_text(text)
        file.chmod(mode)
        return f"{where}/{name}"

    commands = batch(["ip", *veth.link_set()] for veth in mappings)
    orders = write("batch", batch(veth.link_set() for veth in mappings), 0o644)
    pyroute2 = PYROUTE2_HOOK.format(
        python=sys.executable,
        bridge=BRIDGE,
        mtu=MTU,
        veths=[(veth.outer, veth.mac, veth.alias) for veth in mappings],
    )
    return Hooks(
        count=count,
        config=write("criu-veth.toml", mapping_file(mappings), 0o644),
        scripts={
            SH: write("exit-0", "#!/bin/sh\nexit 0\n"),
            SHELL_IP: write("shell-ip", SHELL_HEAD + commands),
            SHELL_BATCH: write("shell-batch", f"{SHELL_HEAD}exec ip -batch {orders} </dev/null\n"),
            PYROUTE2: write("pyroute2", pyroute2),
            READY: str(CRIU_VETH),
            COLD: str(CRIU_VETH),
            READY_MADE: str(CRIU_VETH),
            EMPTY: str(CRIU_VETH),
        },
    )


def check(host: Host, variant: str, count: int) -> None:
    """Read back with `ip` whether the variant did what it is measured for."""
    links = {link["ifname"]: link for link in host.ip("link", "show")}
    for veth in veths(count):
        link = links[veth.outer]
        found = (link.get("master"), "UP" in link["flags"])
        wanted = (BRIDGE, True) if variant in {NATIVE, *FINISHING} else (None, False)
        assert found == wanted, f"{variant}: {veth.outer} is {link}"
        if variant in FINISHING:
            got = (link["mtu"], link["address"], link.get("ifalias"))
            assert got == (MTU, veth.mac, veth.alias), f"{variant}: {veth.outer} is {link}"


def known(names: str) -> list[str]:
    """The variants that a comma-separated list of beginnings of names means; "" means all."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if not any(variant.startswith(name) for variant in ALL):
            raise ValueError(f'no variant begins with "{name}": {"; ".join(ALL)}')
    return [v for v in ALL if not wanted or any(v.startswith(name) for name in wanted)]


def available() -> Path | None:
    """The hook of this checkout, or None while there is none."""
    return CRIU_VETH if CRIU_VETH.exists() else None
