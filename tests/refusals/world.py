"""One restore of one generated file, stage by stage, in network namespaces of its own; CRIU is stood in for."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import traceback
from pathlib import Path
from typing import NamedTuple, NoReturn, Self

from criu_veth import actions, execute, netlink, plan, prepare, scenery, wire
from criu_veth.assemble import _assemble, _Slots
from criu_veth.errors import CriuVethError, OperationError
from criu_veth.state import Inner, Veth
from criu_veth.way import EMPTY, READY, Way

_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)

#: What a host has, as commands of `ip -batch`: bridges, one that filters VLANs, an uplink with an address.
FILTERING = "link set br0 type bridge vlan_filtering 1\n"
HOST = """
link set lo up
link add br0 address 02:00:00:00:aa:01 type bridge
link add br1 address 02:00:00:00:aa:02 type bridge
address add 10.88.0.1/24 dev br0
link set br0 up
link set br1 up
link add up0 address 02:00:00:00:aa:03 type veth peer name up1
address add 192.0.2.1/24 dev up0
link set up0 up
link set up1 up
"""


class Ended(NamedTuple):
    """How a restore ended: `accepted` or not, and by what the kernel refused it; a `defect` is a traceback's end."""

    accepted: bool
    said: tuple[str, ...] = ()
    refused: str = ""
    defect: str = ""
    warnings: tuple[str, ...] = ()


def own_namespaces() -> None:
    """Take this process out of the machine's namespaces, with a /run of its own.

    Raises OSError.
    """
    _unshare(_CLONE_NEWNET | _CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")


class World:
    """A process with a host's and a container's network namespaces, in which one restore after the other is tried."""

    def __init__(self, images: Path) -> None:
        down, self._down = os.pipe()
        self._up, up = os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._down)
            os.close(self._up)
            _serve(images, down, up)
        os.close(down)
        os.close(up)
        self._answers = os.fdopen(self._up)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._down)
        os.waitpid(self._child, 0)
        self._answers.close()

    def restore(self, mode: str) -> Ended:
        """Restore from what the image directory holds, by one of `way`'s modes."""
        os.write(self._down, mode.encode() + b"\n")
        accepted, said, refused, defect, warnings = json.loads(self._answers.readline())
        return Ended(accepted, tuple(said), refused, defect, tuple(warnings))


def _serve(images: Path, orders: int, answers: int) -> NoReturn:
    try:
        host = _Host()
        with os.fdopen(orders) as lines, os.fdopen(answers, "w") as out:
            for mode in lines:
                try:
                    ended = _Restore(host, images, mode.strip()).run()
                    host.clear()
                except Exception:
                    ended = Ended(accepted=False, defect=traceback.format_exc())
                print(json.dumps(ended), file=out, flush=True)
    finally:
        os._exit(0)


class _Host:
    """The two network namespaces, and a process in the inner one."""

    def __init__(self) -> None:
        _unshare(_CLONE_NEWNET)
        subprocess.run(["ip", "-batch", "-"], input=HOST, text=True, check=True)
        subprocess.run(["ip", "-batch", "-"], input=FILTERING, text=True, check=False, capture_output=True)
        self.pid, self._alive = _container()
        self.namespaces = wire.Namespaces(f"/proc/{self.pid}/ns/net")

    def clear(self) -> None:
        """Take away what a restore has made."""
        for rtnl in (self.namespaces.host, self.namespaces.inner):
            kernel = netlink.Kernel(rtnl)
            for link in kernel.links():
                if link.ifname not in ("lo", "br0", "br1", "up0", "up1"):
                    rtnl.request([netlink.delete_link(link.ifname)])
            for family in (socket.AF_INET, socket.AF_INET6):
                request = wire.message(netlink.RTM_GETRULE, 0, bytes([family, *[0] * 11]))
                for rule in rtnl.dump(request):
                    if scenery._priority(rule) not in scenery._DEFAULT_RULES:
                        rtnl.request([wire.message(netlink.RTM_DELRULE, 0, rule[wire.HEADER :])])


class _JudgedError(Exception):
    """What the hook says before anything is made, where a runtime might have made it."""

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.faults = faults


class _Restore:
    def __init__(self, host: _Host, images: Path, mode: str) -> None:
        self._images = images
        self._pid = host.pid
        self._namespaces = host.namespaces
        self._way = Way(told=True)
        self._way.empty = mode == EMPTY
        if mode == READY:
            self._way.ready = {"eth0": "cvready0"}

    def run(self) -> Ended:
        environ = {"PATH": os.environ["PATH"]}
        try:
            made = prepare.prepare(environ, str(self._images), self._way)
        except CriuVethError as error:
            return Ended(accepted=False, said=error.faults)
        except Exception:
            return Ended(accepted=False, defect=traceback.format_exc())
        veths = prepare.desired(prepare.read(environ, str(self._images)), self._way)
        namespaces = self._namespaces
        present: frozenset[bytes] = frozenset()
        warnings = tuple(text for text in made.remarks if text.startswith("warning: "))
        for action in actions.RESTORE_STAGES:
            self._as_criu(action, veths, namespaces)
            found = made.operations(action)
            if found is None or action in (actions.PRE_RESTORE, actions.POST_RESUME):
                continue

            def executor(judged: bool, slots: int = found[0], seen: frozenset[bytes] = present) -> execute.Executor:
                return execute.Executor(namespaces, slots, self._pid, present=seen, journal=os.devnull, judged=judged)

            def judge(there: frozenset[bytes]) -> None:
                try:
                    prepare.judge(environ, str(self._images), self._way, self._pid, there)
                except OperationError as error:
                    raise _JudgedError(*error.faults) from None

            try:
                present = execute.run_judged(executor, found[1], judge).present
            except _JudgedError as error:
                return Ended(accepted=False, said=error.faults)
            except OperationError as error:
                return Ended(accepted=True, refused=f"{action}: {' | '.join(error.faults)}", warnings=warnings)
        return Ended(accepted=True, warnings=warnings)

    def _as_criu(self, action: str, veths: tuple[Veth, ...], namespaces: wire.Namespaces) -> None:
        """Do what CRIU does before this action: it makes pairs, or moves the ready device in, and what is inside."""
        for veth in veths:
            if veth.mode == "external" and action == actions.POST_SETUP_NAMESPACES:
                self._make(veth, namespaces)
                self._fill(veth, namespaces)
            elif veth.mode == READY and action == actions.POST_SETUP_NAMESPACES:
                words = ["ip", "link", "set", veth.ready, "netns", str(self._pid), "name", veth.inner]
                subprocess.run(words, check=True)
                self._fill(veth, namespaces)

    def _make(self, veth: Veth, namespaces: wire.Namespaces) -> None:
        whole = veth.netns or Inner(ifname=veth.inner)
        for inner in (whole, Inner(ifname=veth.inner)):
            message = netlink.make_pair("cvtold0", inner, veth.inner, "veth", "", mark=False)
            message = message[:-4] + wire.u32(self._pid)
            if not namespaces.host.request([message])[0].errno:
                return
        raise AssertionError("no pair can be made")

    def _fill(self, veth: Veth, namespaces: wire.Namespaces) -> None:
        """Give the inner end what the images would have of it; what the kernel refuses was never there."""
        netns = veth.netns or Inner(ifname=veth.inner, up=True)
        link = netlink.Kernel(namespaces.inner).link(veth.inner)
        assert link
        for operation in plan._inner_end(veth.inner, "", netns):
            if isinstance(operation, plan.AddAltname | plan.AddNeighbour | plan.SwitchOff):
                continue
            slots = _Slots()
            step = _assemble(operation, slots)
            executor = execute.Executor(namespaces, 8, self._pid)
            for slot in range(execute.FIRST_SLOT, slots.count):
                executor._slots[slot] = wire.u32(link.index)
            for name, value in (("inner flags", link.flags), ("inner", link.index)):
                executor._slots[slots(name, veth.inner)] = wire.u32(value)
            try:
                executor.run((step,))
            except OperationError:
                continue


def _container() -> tuple[int, int]:
    """Start a process in an empty network namespace, which ends when the descriptor is closed."""
    ready, is_ready = os.pipe()
    waits, alive = os.pipe()
    child = os.fork()
    if not child:
        os.close(alive)
        _unshare(_CLONE_NEWNET)
        os.write(is_ready, b"!")
        os.read(waits, 1)
        os._exit(0)
    os.close(waits)
    assert os.read(ready, 1) == b"!"
    return child, alive
