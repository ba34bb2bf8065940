"""The action script's Python side: one call, from CRIU's environment to an exit status.

Started by ``hooks/criu-veth`` without site packages. Where a program is ready, nothing is imported that costs
milliseconds; the slow path finds its packages by running `site` itself.
"""

import posix
import sys

from criu_veth import actions, errors, paths, program, runs, session, way

__all__ = ["main", "run"]

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Iterable

#: How an image directory ends that `service` looks for.
_OF_THE_DAEMON = "/fd/-1"


def main() -> None:
    """Run the call that this process's environment describes, and exit."""
    environ = {key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
               for key, value in posix.environ.items()}  # fmt: skip
    posix._exit(guarded(environ))  # noqa: SLF001 - nothing is left to flush


def guarded(environ: "dict[str, str]") -> int:
    """Run one call and turn whatever happens into an exit status and lines on stderr."""
    action, call = "", None
    try:
        call = actions.read_call(environ)
        action = call.action + ": "
        run(call, environ)
    except actions.BadCallError as error:
        say("error: ", str(error))
        return errors.EXIT_INPUT
    except errors.CriuVethError as error:
        say("error: " + action, *error.faults, *_left_locked(call, environ))
        return error.exit_code
    except ModuleNotFoundError as error:
        say("error: " + action, f"{sys.executable} has no package {error.name!r}: the installation is not complete")
        return errors.EXIT_FAILED
    except Exception:  # a defect: say where, and let CRIU abort
        import traceback  # noqa: PLC0415 - 10 ms that only a defect costs

        say("", *traceback.format_exc().splitlines()[-errors.MOST_LINES :])
        say("error: " + action, "a defect in criu-veth itself; please report the lines above")
        say("error: " + action, *_left_locked(call, environ))
        return errors.EXIT_DEFECT
    return errors.EXIT_OK


def say(kind: str, *lines: str) -> None:
    """Write lines to stderr, in one go; a closed stderr is no reason to fail a restore."""
    if not lines:
        return
    text = "".join(f"{line}\n" for line in errors.lines(kind, lines))
    try:
        posix.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def run(call: actions.Call, environ: "dict[str, str]") -> None:
    """Do what is to be done at the action of ``call``.

    Raises errors.CriuVethError.
    """
    if call.action in _HANDLED:
        if (call.image_dir or "").endswith(_OF_THE_DAEMON):
            from criu_veth import service  # noqa: PLC0415 - only where criu does not name its images

            service.find_images(call)
        if call.lost_images:
            say(f"{call.action}: notice: ", f"criu says {call.lost_images} for its images, and they are not found"
                " among what it has open: nothing done")  # fmt: skip
        elif posix.geteuid() == 0:
            _Script(call, environ).act(call.action)
        else:
            _unprivileged(call, environ)
    elif not call.known:
        say("notice: ", f'unknown action "{call.action}", nothing done')


def _unprivileged(call: actions.Call, environ: "dict[str, str]") -> None:
    """Do nothing for an ordinary user. That is an error only where there is something that he asks for.

    Raises InputError.
    """
    fault = f"must be run as root, not as uid {posix.geteuid()}"
    if call.action == actions.PRE_DUMP:
        if not session.is_in_this_netns(call.init_pid) and paths.exists(f"/proc/{call.init_pid}"):
            say("pre-dump: warning: ", f"the outer ends are not captured: {fault}")
        return
    seen = _images_seen(call.image_dir)
    if environ.get(paths.CONFIG_VARIABLE) or (seen is not None and _asks_for_network(seen)):
        raise errors.InputError(fault)
    if seen is None and call.action == actions.PRE_RESTORE:
        say("pre-restore: warning: ", f"the images cannot be seen as uid {posix.geteuid()}: nothing done")


def _images_seen(image_dir: str | None) -> "paths.Directory | None":
    """Return where an ordinary user sees the images; None if nowhere.

    A criu with capabilities of its file, or a setuid one, has a /proc/PID that is root's. It works in the images'
    directory, unless it was given another (``criu/cr-service.c``, ``criu/crtools.c``).
    """
    for path in (image_dir or "", "."):
        directory = paths.opened(path)
        if directory is not None and (path != "." or directory.exists(paths.INVENTORY)):
            return directory
    return None


def _asks_for_network(images: "paths.Directory") -> bool:
    if images.exists(paths.CONFIG_IN_IMAGES):
        return True
    return images.exists(paths.INVENTORY) and way.images_hold_devices(images)


def _left_locked(call: "actions.Call | None", environ: "dict[str, str]") -> "list[str]":
    """Say which network namespaces CRIU has locked and leaves so."""
    if call is None or call.action not in actions.RESTORE_STAGES or posix.geteuid() != 0:
        return []
    try:
        criu_pid = _criu_pid(call)
        if call.init_pid is None and not way.find(criu_pid, call.image_dir, environ).adopt:
            return []
        from criu_veth import locks  # noqa: PLC0415 - only where somebody else has made the network namespace

        return locks.after_failure(criu_pid, call.init_pid)
    except Exception as error:  # whatever it is, the restore's own fault goes first
        return [f"cannot look for CRIU's locks: {error}"]


def _criu_pid(call: actions.Call) -> int:
    return posix.getppid() if call.criu_pid is None else call.criu_pid


class _Script(session.Session):
    """One action in a process of its own: what criu was told is read from criu, and said is what goes to stderr."""

    alone = True

    def __init__(self, call: actions.Call, environ: "dict[str, str]") -> None:
        criu_pid = _criu_pid(call)
        super().__init__(environ, _Files(criu_pid))
        self.criu_pid = criu_pid
        self.image_dir = call.image_dir
        self.init_pid = call.init_pid

    def say(self, kind: str, *lines: str) -> None:
        say(kind, *lines)

    def told(self) -> way.Way:
        return way.find(self.criu_pid, self.images or self.image_dir, self.environ)

    def likely(self) -> "list[way.Way]":
        return way.likely(self.criu_pid, self.environ)


class _Files(session.Kept):
    """The program of a restore in files, for the processes of its later actions: see `criu_veth.runs`."""

    def __init__(self, criu_pid: int) -> None:
        super().__init__()
        self._run = runs.of(criu_pid)

    @property
    def journal(self) -> str:
        return self._run.journal

    def has_begun(self) -> bool:
        return self._run.exists()

    def begin(self, ready: program.Program, *, ipv6: bool) -> "Iterable[str]":
        """Hand the program on; where nothing can be written, the later actions make it again, each its own."""
        try:
            program.start_run(self._run, ready, ipv6=ipv6)
        except runs.UnusableError as error:
            return [f"{fault}; each action makes its program anew" for fault in error.faults if ready.sections]
        except errors.OperationError:
            if ready.sections:
                raise
        return ()

    def is_done(self, action: str) -> bool:
        return self._run.is_done(action)

    def finish(self, action: str) -> None:
        self._run.finish(action)

    def operations(self, action: str) -> "tuple[int, program.Tuple] | None":
        return program.operations(self._run, action)

    def lost(self, action: str) -> str:
        return f"{self._run.path}/{action} is not there"

    def adopted(self) -> "frozenset[bytes]":
        return self._run.adopted()

    def adopt(self, names: "frozenset[bytes]") -> None:
        self._run.adopt(names)


#: Each action that the shell part hands on.
_HANDLED = {actions.PRE_DUMP, *actions.RESTORE_STAGES}
