"""Says whether all that a checkpoint and a restore need is on this machine. Nothing is changed.

What CRIU versions do on which kernels was measured with a TCP server behind a veth; see `KNOWN_BAD`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

from criu_veth import config, install, locks, orphans, ovs, paths, prepare, wire
from criu_veth.errors import CriuVethError, errno_text

OK, WARNING, ERROR = "ok", "warning", "error"

#: CRIU below this version, on this kernel or a newer one: what happens, and the remedy.
KNOWN_BAD = (
    ((4, 0), (6, 18), "cannot restore: `vdso: Unexpected rt vDSO area bounds`"),
    ((4, 2), (6, 18), "passes its own check, but cannot dump a process with a TCP socket"),
)
_REMEDY = "install CRIU 4.2 or newer"
_SCRIPTS_TWICE = (4, 1, 1)
_CRUN_READS_FILE = (1, 28)
_CRUN_HAS_ANY = (1, 21)

#: What CRIU starts, and without which a dump or a restore fails.
_NEEDED = ("ip", "iptables-restore", "ip6tables-restore", "nft", "tar")

#: Feature to the words of `ip` (in a network namespace of their own) that need it, and what does without.
FEATURES = {
    "veth": (["ip link add d0 type veth peer name d1"], "no restore of a veth"),
    "bridge": (["ip link add d0 type bridge"], "no restore onto a bridge"),
    "vlan-filtering": (["ip link add d0 type bridge vlan_filtering 1"], "no bridge with VLAN filtering"),
    "vlan": (
        ["ip link add d0 type veth peer name d1", "ip link add link d0 name d2 type vlan id 2"],
        "no VLAN devices",
    ),
    "tbf": (["tc qdisc add dev lo root tbf rate 1mbit burst 32k latency 50ms"], "no rate limit with tbf"),
    "htb": (["tc qdisc add dev lo root handle 1: htb"], "no classes with htb"),
    "ingress": (["tc qdisc add dev lo ingress"], "no filters on ingress"),
    "macvlan": (
        ["ip link add d0 type veth peer name d1", "ip link add link d0 name d2 type macvlan"],
        "no macvlan as an inner end",
    ),
    "ipvlan": (
        ["ip link add d0 type veth peer name d1", "ip link add link d0 name d2 type ipvlan"],
        "no ipvlan as an inner end",
    ),
    "netkit": (["ip link add d0 type netkit"], "no netkit as an inner end"),
    "openvswitch": (["genl ctrl get name ovs_datapath"], "no Open vSwitch but its userspace datapath"),
    "ipv6": (["ip -6 address add fd00::1/64 dev lo"], "no IPv6"),
}
_REQUIRED = {"veth", "bridge"}


class Finding(NamedTuple):
    """One thing that was looked at: ``level`` is OK, WARNING or ERROR."""

    level: str
    subject: str
    text: str


def examine(runtimes: tuple[str, ...] = ()) -> list[Finding]:
    """Look at everything; ``runtimes`` must be there, others are looked at if they are."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _hook,
        _criu,
        _programs,
        _kernel,
        _open_vswitch,
        _mapping,
        _leftovers,
    )
    found = [finding for part in parts for finding in part()]
    return found + [finding for name in ("criu", "runc", "crun", "lxc") for finding in _runtime(name, runtimes)]


def _hook() -> Iterator[Finding]:
    path = install.HOOK
    if not os.path.lexists(path):
        yield Finding(WARNING, "hook", f"{path} is not there: criu-veth install")
        return
    if not os.access(path, os.X_OK):
        yield Finding(ERROR, "hook", f"{path} is not executable: criu-veth install")
        return
    # An action that there is not: the hook's shell, its Python and its package are started, and nothing is done.
    done = _run([path], install.PROBE)
    python, root = install.fixed_in(path)
    if done.returncode != 2 or "contradictory" not in done.stderr:
        said = _last_line(done.stderr)
        yield Finding(ERROR, "hook", f"{path} does not run: {said}: criu-veth install")
        return
    yield Finding(OK, "hook", f"{path} runs with {python}, criu_veth of {root}")
    for fault in install.untrusted(python, root):
        yield Finding(WARNING, "hook", f"{fault}: whoever may write it becomes root")


def _criu() -> Iterator[Finding]:
    path = shutil.which("criu", path=_search_path())
    if path is None:
        yield Finding(ERROR, "criu", f"there is no criu on PATH ({_search_path()}): {_REMEDY}")
        return
    version = version_of(_run([path, "--version"]).stdout)
    if not version:
        yield Finding(ERROR, "criu", f"{path} does not say its version")
        return
    text = ".".join(map(str, version))
    kernel = version_of(os.uname().release)
    for below, since, fault in KNOWN_BAD:
        if version < below and kernel >= since:
            yield Finding(ERROR, "criu", f"{path} {text} on Linux {os.uname().release} {fault}: {_REMEDY}")
            return
    done = _run([path, "check"])
    if done.returncode:
        yield Finding(ERROR, "criu", f"{path} {text}: criu check fails: {_last_line(done.stderr or done.stdout)}")
        return
    yield Finding(OK, "criu", f"{path} {text}, criu check is content")
    if version == _SCRIPTS_TWICE:
        yield Finding(OK, "criu", f"{text} runs the scripts of a runtime's configuration file twice, which is harmless")


def _programs() -> Iterator[Finding]:
    missing = [name for name in _NEEDED if shutil.which(name, path=_search_path()) is None]
    if missing:
        yield Finding(ERROR, "programs", f"CRIU starts {', '.join(missing)}, not found on PATH ({_search_path()})")
    else:
        yield Finding(OK, "programs", f"what CRIU starts is there: {', '.join(_NEEDED)}")


def _kernel() -> Iterator[Finding]:
    try:
        wire.Rtnl().close()
    except OSError as error:
        yield Finding(ERROR, "kernel", f"no routing netlink: {errno_text(error.errno or 0)}")
        return
    if os.geteuid() != 0:
        yield Finding(WARNING, "kernel", "only root can try what the kernel has: sudo criu-veth doctor")
        return
    there = []
    for name, (lines, without) in FEATURES.items():
        done = _run(["unshare", "--net", "sh", "-ec", "ip link set lo up\n" + "\n".join(lines)])
        if done.returncode == 0:
            there.append(name)
        else:
            level = ERROR if name in _REQUIRED else WARNING
            yield Finding(level, "kernel", f"{name}: {_last_line(done.stderr)}: {without}")
    if there:
        yield Finding(OK, "kernel", f"Linux {os.uname().release} has {', '.join(there)}")


def _open_vswitch() -> Iterator[Finding]:
    """Say whether Open vSwitch, where it is installed or runs, can be given ports."""
    there = shutil.which(ovs.PROGRAM, path=_search_path()) is not None
    runs = os.path.exists(ovs.socket_path())
    if not there and not runs:
        return
    try:
        version = ovs.version()
        if not runs:
            yield Finding(OK, "openvswitch", f"{version}, which does not run ({ovs.socket_path()} is not there)")
            return
        bridges = ", ".join(sorted(ovs.look().bridges)) or "none"
        yield Finding(OK, "openvswitch", f"{version}, its database answers; bridges: {bridges}")
    except CriuVethError as error:
        yield Finding(ERROR, "openvswitch", f"no port of it can be put back: {'; '.join(error.faults)}")


def _mapping() -> Iterator[Finding]:
    try:
        found = prepare.read({}, None)
        matchable = found.sources.matchable
        for path in matchable:
            config.load(path)
    except CriuVethError as error:
        for fault in error.faults:
            yield Finding(ERROR, "mapping", fault)
        return
    files = [*([found.sources.config] if found.sources.config and not matchable else []), *matchable]
    if os.path.exists(paths.CONFIG_DEFAULT) and paths.CONFIG_DEFAULT not in files:
        files.append(paths.CONFIG_DEFAULT)
    said = f"valid: {', '.join(files)}" if files else "no mapping file: a restore uses what was captured at the dump"
    yield Finding(OK, "mapping", said)


def _leftovers() -> Iterator[Finding]:
    """Say what restores that failed, or whose criu was killed, have left on this host."""
    if os.geteuid() != 0:
        return  # only root may look at others' processes and namespaces
    waiting = orphans.find()
    for orphan in waiting:
        fault = f"{orphan.describe()} was being restored, its criu is gone, and it waits for it for ever"
        yield Finding(WARNING, "leftovers", f"{fault}: criu-veth gc --kill-orphans")
    locked = locks.everywhere()
    for line in locked:
        yield Finding(WARNING, "leftovers", line)
    if not waiting and not locked:
        yield Finding(OK, "leftovers", "CRIU has left no network namespace locked, and no process that waits for it")


def _runtime(name: str, wanted: tuple[str, ...]) -> Iterator[Finding]:
    """Say whether a runtime is there, and whether it would call the hook."""
    program = {"lxc": "lxc-checkpoint"}.get(name, name)
    path = shutil.which(program, path=_search_path())
    file = install.CONFIGURATIONS[name]
    if name == "criu":
        if file and any(install.is_ours(line) for line in _lines(file)):
            yield Finding(OK, "criu", f"{file} names the hook: every criu on this machine calls it")
        return
    if path is None:
        if name in wanted:
            yield Finding(ERROR, name, f"there is no {program} on PATH ({_search_path()})")
        return
    yield from (
        _calls(name, path, file)
        if file
        else (Finding(OK, name, f"{path} calls the hook when it is given: -A {install.HOOK}"),)
    )


def _calls(name: str, path: str, file: str) -> Iterator[Finding]:
    text = _run([path, "--version"]).stdout
    version = version_of(text)
    shown = ".".join(map(str, version)) or "of unknown version"
    if name == "crun" and "+CRIU" not in text:
        yield Finding(WARNING, name, f"{path} {shown} is built without CRIU: it cannot checkpoint")
        return
    named = [script for line in _lines(file) for script in install.scripts(line) if install.is_ours(line)]
    by_criu = any(install.is_ours(line) for line in _lines(str(install.CONFIGURATIONS["criu"])))
    if named and name == "crun" and version < _CRUN_READS_FILE:
        how = "export CRIU_CONFIG_FILE for it" if version >= _CRUN_HAS_ANY else "install crun 1.28 or newer"
        yield Finding(WARNING, name, f"{path} {shown} does not read {file}: {how}")
    elif len(named) + by_criu > 1:
        yield Finding(WARNING, name, f"{path} {shown} calls the hook {len(named) + by_criu} times an action, in vain")
    elif named and not os.access(named[0], os.X_OK):
        yield Finding(ERROR, name, f"{file} names {named[0]}, which cannot be run: criu-veth install --runtime {name}")
    elif named or by_criu:
        yield Finding(OK, name, f"{path} {shown} calls the hook: {file if named else install.CONFIGURATIONS['criu']}")
    else:
        yield Finding(WARNING, name, f"{path} {shown} does not call the hook: criu-veth install --runtime {name}")


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().splitlines()
    except OSError:
        return []


def _search_path() -> str:
    """Return where root's programs are, whatever PATH this was started with."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"]).strip(os.pathsep)


def _run(words: list[str], variables: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": _search_path(), **(variables or {})}
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=30,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", "no answer in 30 s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", errno_text(error.errno or 0))


def version_of(text: str) -> tuple[int, ...]:
    """Return the first version that ``text`` has, as numbers."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else ()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("criu-veth: error: ") if lines else "it says nothing"
