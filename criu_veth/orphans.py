"""Finds what a criu that was killed has left of a restore: processes that wait for it, for ever; and ends them.

criu forks the processes that it restores, and leads them from one stage to the next by a number in memory that all of
them share (``struct task_entries``, ``criu/include/rst_info.h``; ``restore_finish_stage()``). Who has finished a stage
waits with futex(2) for that number to change, first in criu's own code, later in the restorer, which has unmapped that.
With criu gone nobody changes it. A restored application that runs has neither that memory nor the restorer.

Proof that a tree is one of these is all of this together, seen twice with some time in between:

- its first process waits on the number of the stage, in criu's code or in the restorer;
- its parent is here to be seen, and does not have that memory: criu is the parent of what it restores, or traces it;
- nobody traces any of them;
- every thread of every process that has the memory waits on it, or is a helper that criu has left (``usernsd``,
  ``cgroupd``), waiting for a message. So nobody is left to go on.
"""

import os
import select
import signal
import time
from typing import NamedTuple

from criu_veth import procfs, wire
from criu_veth.errors import OperationError

#: By machine: futex(2), and the calls in which a helper of criu's waits for a message.
_CALLS = {
    "x86_64": ((202,), (45, 47)),
    "aarch64": ((98,), (207, 212)),
    "riscv64": ((98,), (207, 212)),
    "loongarch64": ((98,), (207, 212)),
    "ppc64le": ((221,), (337, 342)),
    "s390x": ((238,), (371, 372)),
}
_FUTEX, _RECEIVE = _CALLS.get(os.uname().machine, ((), ()))

#: Where ``task_entries.start`` is in the shared memory, and how ``maps`` calls memory that is shared and of no file.
_STAGE = 16
_SHARED = "/dev/zero (deleted)"
_PAGE = 4096
#: What the restorer says when it fails: a text that is in its code in every CRIU since 2.0 (``criu/pie/restorer.c``).
_RESTORER = b"Restorer fail"
_LARGEST_RESTORER = 4 << 20

#: How long nothing may move, and how long a killed process may take to end, in seconds.
_STILL = 0.05
_END = 5.0


class Orphan(NamedTuple):
    """A tree whose criu is gone: its first process, that one's name, its netns, and all of it: pid to start time."""

    pid: int
    name: str
    netns: int
    members: dict[int, int]

    def describe(self) -> str:
        """Say who it is."""
        more = len(self.members) - 1
        and_more = f" and {more} more" if more else ""
        return f"process {self.pid} ({self.name}){and_more}"


class _Tree(NamedTuple):
    """What is seen of the processes that share one memory; equal if nothing has moved."""

    root: int
    members: dict[int, int]
    threads: tuple[tuple[int, procfs.Waiting | None, str], ...]


def find() -> list[Orphan]:
    """Return all such trees in network namespaces other than this process's own.

    One with veths that all lead elsewhere, to another host's network namespace, is not ours.
    """
    own = procfs.netns(wire.own_thread())
    if not procfs.is_ours():
        return []
    found = _proven({memory for pid in procfs.pids() if procfs.netns(pid) != own and (memory := waits_for_criu(pid))})
    return [orphan for orphan in found if procfs.leads_here(f"/proc/{orphan.pid}/ns/net") is not False]


def living_in(inode: int) -> Orphan | None:
    """Return the tree of this kind that lives in a network namespace."""
    return next((orphan for orphan in find() if orphan.netns == inode), None)


def waits_for_criu(pid: int) -> tuple[str, str] | None:
    """Return the memory by which criu leads a process that waits for its next stage; None if that is not what it is."""
    call = procfs.waiting(pid, pid)
    if call is None or call.number not in _FUTEX or call.argument % _PAGE != _STAGE:
        return None
    found = procfs.maps(pid)
    memory, code = procfs.mapping_at(found, call.argument), procfs.mapping_at(found, call.caller)
    if memory is None or code is None or not _is_shared(memory) or call.argument - memory.start != _STAGE:
        return None
    if code.path:
        return memory.file if procfs.maps_criu(found) else None
    return memory.file if "x" in code.flags and _is_restorer(pid, code) else None


def kill(orphan: Orphan) -> None:
    """Kill all of a tree, if it still is what was found.

    Raises OperationError.
    """
    handles: dict[int, int] = {}
    try:
        for pid in orphan.members:
            try:
                handles[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
        # The handles hold their processes now: what is seen under these numbers is theirs.
        same = [again for again in find() if again.pid == orphan.pid and again.members == orphan.members]
        if not same:
            raise OperationError(f"process {orphan.pid}: is no longer what it was; nothing was killed")
        for handle in handles.values():
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it went with the first process of its PID namespace
        _wait_for_end(handles)
    except OSError as error:
        raise OperationError(f"process {orphan.pid}: cannot be killed: {error.strerror}") from None
    finally:
        for handle in handles.values():
            os.close(handle)


def _wait_for_end(handles: dict[int, int]) -> None:
    end = time.monotonic() + _END
    for pid, handle in handles.items():
        ended, _, _ = select.select([handle], [], [], max(0.0, end - time.monotonic()))
        if not ended:
            raise OperationError(f"process {pid}: was killed, and does not end")


def _is_shared(mapping: procfs.Mapping) -> bool:
    return "s" in mapping.flags and mapping.path == _SHARED


def _is_restorer(pid: int, code: procfs.Mapping) -> bool:
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(code.start)
            return _RESTORER in memory.read(min(code.end - code.start, _LARGEST_RESTORER))
    except (OSError, OverflowError):
        return False


def _proven(memories: set[tuple[str, str]]) -> list[Orphan]:
    """Return the trees around these memories that are proven to wait for nobody."""
    if not memories:
        return []
    first = _look(memories)
    time.sleep(_STILL)
    again = _look({memory for memory, tree in first.items() if tree is not None})
    found = []
    for memory, tree in again.items():
        inode = procfs.netns(tree.root) if tree is not None else None
        if tree is not None and inode is not None and tree == first[memory]:
            found.append(Orphan(tree.root, procfs.name(tree.root), inode, tree.members))
    return found


def _look(memories: set[tuple[str, str]]) -> dict[tuple[str, str], _Tree | None]:
    """Return for each memory what is seen of its processes; None: somebody may go on."""
    sharing: dict[tuple[str, str], list[int]] = {memory: [] for memory in memories}
    for pid in procfs.pids():
        files = {one.file for one in procfs.maps(pid) if _is_shared(one)}
        for memory in files & memories:
            sharing[memory].append(pid)
    return {memory: _tree(memory, found) for memory, found in sharing.items()}


def _tree(memory: tuple[str, str], sharing: list[int]) -> _Tree | None:
    tops = [pid for pid in sharing if procfs.parent(pid) not in sharing]
    roots = [pid for pid in tops if waits_for_criu(pid) == memory]
    if len(roots) != 1 or procfs.parent(roots[0]) == 0:
        return None
    helpers = [pid for pid in tops if pid != roots[0]]
    seen = []
    for pid in sharing:
        for thread in procfs.threads(pid):
            call = procfs.waiting(pid, thread)
            if procfs.tracer(pid, thread) or not _cannot_go_on(pid, call, helper=pid in helpers):
                return None
            seen.append((thread, call, _switches(pid, thread)))
    return _Tree(roots[0], {pid: procfs.started(pid) for pid in sharing}, tuple(sorted(seen)))


def _cannot_go_on(pid: int, call: procfs.Waiting | None, *, helper: bool) -> bool:
    if call is None:
        return False
    if helper:
        return call.number in _RECEIVE and procfs.is_criu(pid)
    memory = procfs.mapping_at(procfs.maps(pid), call.argument)
    return call.number in _FUTEX and memory is not None and _is_shared(memory)


def _switches(pid: int, thread: int) -> str:
    """Return how often a thread has been run: the lines of its ``status``."""
    status = procfs.read(f"/proc/{pid}/task/{thread}/status") or ""
    return " ".join(line for line in status.splitlines() if "ctxt_switches" in line)
