"""Starts other programs, and what of this project has to outlive its process.

The hook's process is its own: it has one thread, and may be copied (fork(2)) and have children as it likes. A program
that uses `criu_veth.Notifier` has threads, which a copy would find in the middle of something (pthread_atfork(3)),
descriptors whose end somebody waits for, and its own way with children: it may ignore SIGCHLD, so that the kernel
keeps no status of theirs (wait(2)), or wait for any child in a loop and take ours. So without ``alone`` nothing of
Python runs in a copy of the process: everything is started by posix_spawn(3), from a shell that hands on the status,
or that ends at once, so that what goes on is nobody's child here.

The frozen window imports this where a program is to be run, so it imports only builtin modules.
"""

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

#: Seconds that a program may take.
PATIENCE = 7.0
_SHELL = "/bin/sh"
#: The shell itself says "Killed" where a program was: that goes nowhere.
_HAND_ON_STATUS = '(exec "$@" 2>&3 3>&- 4>&-); echo $? >&4'
_LEAVE_RUNNING = '"$@" &'
#: What the shell says of a program that is not to be run, or not to be found.
_CANNOT_RUN = (126, 127)
_VARIABLES = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
#: The first of a program's descriptors beside the standard ones.
_THIRD = 3
_HELPER = (
    "import marshal, sys\n"
    "with open(3, 'rb') as given: sys.path[:], module, name, rest = marshal.load(given)\n"
    "__import__(module)\n"
    "getattr(sys.modules[module], name)(*rest)"
)


def run(
    argv: "tuple[str, ...]",
    *,
    given: bytes = b"",
    patience: float = PATIENCE,
    variables: "Mapping[str, str]" = _VARIABLES,
    alone: bool = False,
) -> "tuple[int | None, bytes, bytes]":
    """Run ``argv`` (its first word is a path) to its end; return its status, and what it said on stdout and stderr.

    The status is negative for a signal, None if it was killed after ``patience`` seconds. It is ``given`` something to
    read, has all three standard descriptors, and nothing else of this process: no other descriptors, nor variables.
    With ``alone`` this process is our own. Raises OSError if it cannot be started.
    """
    files = [_memory(given), _memory(b""), _memory(b"")]
    try:
        wait = _run_alone if alone else _run_by_shell
        status = wait(argv, files, patience, variables)
        return status, _content(files[1]), _content(files[2])
    finally:
        _close(files)


def _run_alone(
    argv: "tuple[str, ...]", files: "list[int]", patience: float, variables: "Mapping[str, str]"
) -> int | None:
    import _signal  # type: ignore[import-not-found] # noqa: PLC0415 - builtin, and there already

    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # whoever started criu may have had it ignored
    child = _spawn(argv, files, variables)
    handle = posix.pidfd_open(child)
    try:
        ended = _is_ready(handle, patience)
        if not ended:
            posix.kill(child, _signal.SIGKILL)
        status = posix.waitstatus_to_exitcode(posix.waitpid(child, 0)[1])
        return status if ended else None
    finally:
        posix.close(handle)


def _run_by_shell(
    argv: "tuple[str, ...]", files: "list[int]", patience: float, variables: "Mapping[str, str]"
) -> int | None:
    import _signal  # noqa: PLC0415 - as above

    posix.stat(argv[0])
    ours = list(posix.pipe2(posix.O_CLOEXEC))
    reader, writer = ours
    try:
        ours.append(_memory(b""))
        words = (_SHELL, "-c", _HAND_ON_STATUS, "sh", *argv)
        child = _spawn(words, [*files[:2], ours[-1], files[2], writer], variables, group=True)
        posix.close(ours.pop(1))
        said = posix.read(reader, 16) if _is_ready(reader, patience) else None
        if said is None:
            posix.kill(-child, _signal.SIGKILL)
        _reap(child)
    finally:
        _close(ours)
    if said is None:
        return None
    status = int(said) if said.strip().isdigit() else 128 + int(_signal.SIGKILL)
    if status in _CANNOT_RUN and not posix.access(argv[0], posix.X_OK):
        import errno  # noqa: PLC0415 - builtin, but only an error needs it

        raise OSError(errno.EACCES, posix.strerror(errno.EACCES))
    return status if status <= 128 else 128 - status


def start(
    function: "Callable[..., None]", descriptors: "list[int]", arguments: "tuple[Any, ...]", *, alone: bool = False
) -> None:
    """Have a process that outlives this one call ``function(descriptors, *arguments)``; it is nobody's child here.

    ``function`` is at the top of a module of this project, and begins with `detach`; ``arguments`` are what `marshal`
    knows. Without ``alone`` the process is a new Python, which is given the descriptors under other numbers. The hook
    makes a copy of its own process instead, with what it has imported: a new one takes 15 ms and more of a processor
    that criu needs at the time, and is as much later with the first announcement. Raises OSError.
    """
    if alone:
        if not posix.fork():
            try:
                function(descriptors, *arguments)
            finally:
                posix._exit(0)  # noqa: SLF001 - this is a copy of the hook
        return
    theirs = list(range(_THIRD + 1, _THIRD + 1 + len(descriptors)))
    given = (list(map(str, sys.path)), function.__module__, function.__name__, (theirs, *arguments))
    argv = (_SHELL, "-c", _LEAVE_RUNNING, "sh", _python(), "-I", "-S", "-c", _HELPER)
    ours = [_memory(b""), _memory(marshal.dumps(given))]
    nothing, third = ours
    try:
        _reap(_spawn(argv, [nothing, nothing, _stderr(nothing), third, *descriptors], posix.environ))
    finally:
        _close(ours)


def _stderr(otherwise: int) -> int:
    """Return our stderr, which may be a log file; ``otherwise`` where it is closed, as a daemon's may be."""
    try:
        posix.fstat(2)
    except OSError:
        return otherwise
    return 2


def _python() -> str:
    """Return the path of a Python like this one, which may be part of another program.

    Raises OSError.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, getattr(sys, "_base_executable", ""), f"{sys.base_exec_prefix}/bin/{name}"):
        if path and path.rpartition("/")[2].startswith("python") and posix.access(path, posix.X_OK):
            return path
    import errno  # noqa: PLC0415 - builtin, but only an error needs it

    raise OSError(errno.ENOENT, f"there is no {name} to start")


def detach(keep: "Iterable[int]") -> int | None:
    """Leave the caller's session and all its descriptors but ``keep``; return one of a log file, if stderr was one.

    This is a process of its own by now, which the caller no longer waits for.
    """
    posix.setsid()
    log = None
    try:
        is_file = posix.fstat(2).st_mode & 0o170000 == 0o100000
        log = posix.dup(2) if is_file else None
    except OSError:
        pass
    null = posix.open("/dev/null", posix.O_RDWR)
    for descriptor in (0, 1, 2):
        posix.dup2(null, descriptor)
    last = 2
    for descriptor in sorted({*keep, *(() if log is None else (log,))}):
        posix.closerange(last + 1, descriptor)
        last = descriptor
    posix.closerange(last + 1, posix.sysconf("SC_OPEN_MAX"))
    return log


def _spawn(argv: "tuple[str, ...]", files: "list[int]", variables: "Mapping[Any, Any]", *, group: bool = False) -> int:
    """Start a program with ``files`` as its descriptors, from 0 on, and no others; return its pid.

    With ``group`` it is the first of a process group. Raises OSError.
    """
    import _signal  # noqa: PLC0415 - as above

    raised: list[int] = []
    try:
        actions: list[tuple[Any, ...]] = []
        for number, file in enumerate(files):
            actions.append((posix.POSIX_SPAWN_DUP2, _above(file, len(files), raised), number))
        others = [descriptor for descriptor in _open() if descriptor >= len(files)]
        actions += [(posix.POSIX_SPAWN_CLOSE, descriptor) for descriptor in others]
        default = (_signal.SIGALRM, _signal.SIGCHLD, _signal.SIGPIPE)
        more: dict[str, Any] = {"setpgroup": 0} if group else {}
        return posix.posix_spawn(
            argv[0], argv, variables, file_actions=actions, setsigmask=(), setsigdef=default, **more
        )
    finally:
        _close(raised)


def _above(descriptor: int, lowest: int, raised: "list[int]") -> int:
    """Return a copy of a descriptor that has at least this number, so that none is overwritten before it is copied."""
    while descriptor < lowest:
        descriptor = posix.dup(descriptor)
        raised.append(descriptor)
    return descriptor


def _open() -> "list[int]":
    """Return the descriptors that are open in this process; closing one that is not does no harm."""
    try:
        return [int(name) for name in posix.listdir("/proc/self/fd")]
    except OSError:
        return []


def _memory(content: bytes) -> int:
    """Return a descriptor of a file in memory: nobody has to read it while it is written."""
    descriptor = posix.memfd_create("criu-veth")
    if content:
        posix.write(descriptor, content)
        posix.lseek(descriptor, 0, 0)
    return descriptor


def _content(descriptor: int) -> bytes:
    return posix.pread(descriptor, posix.fstat(descriptor).st_size, 0)


def _is_ready(descriptor: int, seconds: float) -> bool:
    """Wait until a descriptor can be read, a process that is one has ended, but no longer than this."""
    import select  # noqa: PLC0415 - only where a program is run

    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def _reap(child: int) -> None:
    """Wait for a child that is about to end; who uses us may have done that, or leaves it to the kernel."""
    try:
        posix.waitpid(child, 0)
    except ChildProcessError:
        pass


def _close(descriptors: "Iterable[int]") -> None:
    for descriptor in descriptors:
        posix.close(descriptor)
