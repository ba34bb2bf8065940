"""For programs that drive CRIU over RPC: its notifications, handled in their own process.

What is done is what the action script does (`criu_veth.session`), without a process for every action. It works on the
network namespace that the calling thread is in, which must be the host's, and as root. The program may have threads,
descriptors and children of its own, and may ignore SIGCHLD.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from criu_veth import actions, config, execute, garbage, paths, prepare, program, runs, session, state
from criu_veth.errors import InputError, OperationError, printable
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
        #: What has been said, in the hook's words.
        self.said: list[str] = []
        #: The pid of criu, where it is known.
        self.criu_pid: int | None = None
        self._kept = _Memory()
        self._session = _Told(_environ(config), self._kept, tuple(options), self.said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what a restore that has failed left on this host.

        Raises OperationError.
        """
        run = self._kept.forget()
        if run is not None:
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
        if action == actions.PRE_RESTORE:
            self.close()
        self._session.init_pid = pid or self._session.init_pid
        self._session.image_dir = str(Path(images).resolve())
        self._session.criu_pid = self.criu_pid or 0
        self._session.act(action)


class _Told(session.Session):
    """What a program tells us of a dump or restore, whose process this is: it may have threads and children."""

    def __init__(
        self, environ: Mapping[str, str], kept: session.Kept, options: tuple[str, ...], said: list[str]
    ) -> None:
        super().__init__(dict(environ), kept)
        self._options = options
        self._said = said

    def say(self, kind: str, *lines: str) -> None:
        self._said += [kind + printable(line) for line in lines]

    def told(self) -> Way:
        images = self.images or self.image_dir
        how = Way(told=bool(self._options), devices=images_hold_devices(images))
        how.read_options([word for value in self._options for word in ("--external", value)])
        how.adopt = how.adopt or images_have_external_netns(images)
        return how

    def likely(self) -> list[Way]:
        return [Way(), Way(devices=False)]

    def first_process(self, action: str) -> int:
        if self.init_pid is None:
            raise InputError(f"{action}: the container's first process is not known: pid is None")
        return self.init_pid

    def _is_quieted(self) -> bool:
        return bool(self.criu_pid) and not any(value.startswith("net[") for value in self._options)


class _Memory(session.Kept):
    """The program of a restore, and on disk a journal of what is made for CRIU to move: it outlives this process."""

    def __init__(self) -> None:
        super().__init__()
        self._run: runs.Run | None = None

    @property
    def journal(self) -> str | None:
        return None if self._run is None else self._run.journal

    def begin(self, ready: program.Program, *, ipv6: bool) -> Iterable[str]:
        super().begin(ready, ipv6=ipv6)
        _, operations = ready.operations(actions.SETUP_NAMESPACES) or (0, ())
        if not any(operation[0] == execute.JOURNAL for operation in operations):
            return ()
        self._run = runs.of(os.getpid())
        try:
            self._run.begin()
        except runs.UnusableError as error:  # the restore goes on all the same
            return error.faults
        return ()

    def finish(self, action: str) -> None:
        super().finish(action)
        if action == actions.POST_RESTORE and (run := self.forget()) is not None:  # criu has moved what was made for it
            run.end()

    def forget(self) -> runs.Run | None:
        """Have no journal any more, and return the run whose it was."""
        run, self._run = self._run, None
        return run


def _learn_types() -> None:
    """Have msgspec work out what the types of all files are like, which it does when one is read for the first time.

    Two threads that are the first at the same moment crash the program (a segmentation fault in msgspec 0.22).
    """
    with suppress(InputError):
        state.parse(b'{"version": 1}', "")
    with suppress(InputError):
        config.parse("", "")
    for kind in (config.Match, tuple[state.Veth, ...]):
        with suppress(msgspec.ValidationError):
            msgspec.convert(None, kind)


_learn_types()  # while this module is imported, by one thread


def _environ(config: StrPath | None) -> Mapping[str, str]:
    return dict(os.environ) if config is None else {**os.environ, paths.CONFIG_VARIABLE: str(Path(config).absolute())}
