"""For programs that drive CRIU over RPC: its notifications, handled in their own process.

The same files, plan and executor as the action script's, without a process for every action. Like the hook, this
works on the network namespace that the calling thread is in, which must be the host's, and as root.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from criu_veth import actions, afterwards, dump, execute, garbage, hook, paths, prepare, quiesce, runs, wire
from criu_veth.errors import InputError, OperationError
from criu_veth.way import Way, images_have_external_netns, images_hold_devices

__all__ = ["Notifier", "external"]

StrPath = str | os.PathLike[str]


def external(config: StrPath | None = None, images: StrPath | None = None) -> list[str]:
    """Return what RPC's ``opts.external`` takes for a restore: ``veth[INNER]:OUTER``, once for each veth.

    They are those of the mapping file ``config`` (None: found as the hook finds it) and those that were captured into
    the directory ``images``. Raises InputError.
    """
    inputs = prepare.read(_environ(config), None if images is None else str(Path(images).resolve()))
    way = Way(told=True)
    return [f"veth[{veth.inner}]:{veth.outer.ifname}" for veth in prepare.desired(inputs, way) if veth.kind == "veth"]


class Notifier:
    """Handles the notifications of one dump or one restore.

    ``config`` is the mapping file (None: found as the hook finds it). ``options`` are the strings that criu is given
    as ``opts.external``; without them, what CRIU has made is found out when it has. Everything that was done is
    appended to ``said``, in the hook's words. Set ``criu_pid``, where it is known, before a dump: a helper, which ends
    with that process, then keeps the container's network from answering peers while the kernel takes it apart.

    A caller answers criu with ``notify_success`` false when `notify` raises: criu then gives the dump or the restore
    up, as it does for a script that fails. Where devices are made for criu to move (``netdev[INNER]:NAME``), a process
    has one restore at a time, and `close` (or the end of a ``with``) removes those that criu never moved.
    """

    def __init__(self, config: StrPath | None = None, *, options: Sequence[str] = ()) -> None:
        self._environ = _environ(config)
        self._options = tuple(options)
        self._pid: int | None = None
        self._pending: dict[str, tuple[int, tuple[Any, ...]]] | None = None
        self._present: frozenset[bytes] = frozenset()
        self._has_journal = False
        self._restored: tuple[str, Way] = ("", Way())
        self.criu_pid: int | None = None
        self.said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what a restore that has failed left on this host.

        Raises OperationError.
        """
        if self._has_journal:
            self._has_journal = False
            run = runs.of(os.getpid())
            said, faults = garbage.collect([run])
            self.said += said
            if faults:
                raise OperationError(*faults)
            run.end()

    def notify(self, action: str, pid: int | None, images: StrPath) -> None:
        """Do what is to be done at the ``action`` (CRIU's name for it, as in ``notify.script``).

        ``pid`` is the container's first process as this process sees it, or None where CRIU has not said it: it is
        remembered. ``images`` is the image directory. Raises errors.CriuVethError: InputError for files and calls that
        are wrong, OperationError for what this host refused; what had been done at this action is undone by then.
        """
        self._pid = pid or self._pid
        image_dir = str(Path(images).resolve())
        if action == actions.PRE_DUMP:
            said = dump.run(self._environ, image_dir, self._first_process(action), (Way(), Way(devices=False)))
            self.said += [f"{action}: {line}" for line in said]
            self._quiesce(image_dir)
        elif action == actions.PRE_RESTORE:
            self._pre_restore(image_dir)
        elif action in actions.RESTORE_STAGES:
            if self._pending is None:  # pre-restore was not told
                self._pre_restore(image_dir)
            self._stage(action)

    def _quiesce(self, image_dir: str) -> None:
        init_pid, criu_pid = self._pid, self.criu_pid
        if not init_pid or not criu_pid or any(value.startswith("net[") for value in self._options):
            return
        try:
            _in_a_child(lambda: quiesce.start(init_pid, criu_pid, image_dir, self._environ))
        except OSError as error:
            self.said.append(f"{actions.PRE_DUMP}: {quiesce.not_started(error)}")

    def _pre_restore(self, image_dir: str) -> None:
        self.close()
        said, faults = garbage.collect()
        self.said += [*said, *(f"{actions.PRE_RESTORE}: warning: {fault}" for fault in faults)]
        way = Way(told=bool(self._options), devices=images_hold_devices(image_dir))
        way.read_options([word for value in self._options for word in ("--external", value)])
        way.adopt = way.adopt or images_have_external_netns(image_dir)
        hook.see_what_is_made(way)
        self._restored = image_dir, way
        inputs = prepare.read(self._environ, image_dir)
        veths, found = prepare.possible(inputs, way)
        self.said += [f"{actions.PRE_RESTORE}: {text}" for text in prepare.remarks(veths, inputs, found, way)]
        self._pending, _ = prepare.operations(veths, inputs, found, way)
        self._present = frozenset()
        slots, operations = self._pending.pop(actions.PRE_RESTORE, (0, ()))
        hook.forget_ports(slots, operations)
        if way.ready:
            self._begin()

    def _begin(self) -> None:
        """Have a journal for what CRIU is to move; without one the restore goes on all the same."""
        self._has_journal = True
        try:
            runs.of(os.getpid()).begin()
        except runs.UnusableError as error:
            self.said += [f"{actions.PRE_RESTORE}: warning: {fault}" for fault in error.faults]

    def _stage(self, action: str) -> None:
        slots, operations = (self._pending or {}).pop(action, (0, ()))
        if not operations:
            return
        if action == actions.POST_RESUME:
            ((_, wanted, captured),) = operations
            said = afterwards.verify(wanted, captured, self._first_process(action))
            self.said += [f"{action}: {line}" for line in said]
            return
        namespaces = wire.Namespaces(hook.container_netns(self._first_process(action)))
        try:
            journal = runs.of(os.getpid()).journal if self._has_journal else None
            executor = self._run(namespaces, slots, operations, journal)
        finally:
            namespaces.close()
        self.said += [f"{action}: notice: {notice}" for notice in executor.notices]
        self.said += [f"{action}: {text}" for text in executor.done]
        self._present |= executor.adopted
        if action == actions.POST_RESTORE and self._has_journal:  # criu has moved what was made for it
            runs.of(os.getpid()).end()
            self._has_journal = False
        if executor.after is not None:
            _in_a_child(executor.after)

    def _run(
        self, namespaces: wire.Namespaces, slots: int, operations: tuple[Any, ...], journal: str | None
    ) -> execute.Executor:
        def executor(judged: bool) -> execute.Executor:
            present = self._present
            return execute.Executor(namespaces, slots, self._pid, present=present, journal=journal, judged=judged)

        def judge(present: frozenset[bytes]) -> None:
            image_dir, how = self._restored
            prepare.judge(self._environ, image_dir, how, self._pid, present)

        return execute.run_judged(executor, operations, judge)

    def _first_process(self, action: str) -> int:
        if self._pid is None:
            raise InputError(f"{action}: the container's first process is not known: pid is None")
        return self._pid


def _in_a_child(act: Callable[[], object]) -> None:
    """Call ``act``, which starts a process that outlives it, such that this process does not have to wait for that."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _environ(config: StrPath | None) -> Mapping[str, str]:
    return dict(os.environ) if config is None else {**os.environ, paths.CONFIG_VARIABLE: str(Path(config).absolute())}
