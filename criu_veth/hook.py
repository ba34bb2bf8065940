"""The action script's Python side: one call, from CRIU's environment to an exit status.

Started by ``hooks/criu-veth`` without site packages. Where a program is ready, nothing is imported that costs
milliseconds; the slow path finds its packages by running `site` itself.
"""

import posix
import sys

from criu_veth import actions, errors, execute, paths, program, runs, way, wire

__all__ = ["main", "run"]

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
        say("error: " + action, *error.faults, *_about_locks(call, environ, failed=True))
        return error.exit_code
    except ModuleNotFoundError as error:
        say("error: " + action, f"{sys.executable} has no package {error.name!r}: the installation is not complete")
        return errors.EXIT_FAILED
    except Exception:  # a defect: say where, and let CRIU abort
        import traceback  # noqa: PLC0415 - 10 ms that only a defect costs

        say("", traceback.format_exc())
        say("error: " + action, "a defect in criu-veth itself; please report the lines above")
        say("error: " + action, *_about_locks(call, environ, failed=True))
        return errors.EXIT_DEFECT
    return errors.EXIT_OK


def say(kind: str, *lines: str) -> None:
    """Write lines to stderr, in one go; a closed stderr is no reason to fail a restore."""
    if not lines:
        return
    text = "".join(f"{errors.PREFIX}{kind}{_printable(line)}\n" for line in lines)
    try:
        posix.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def _printable(line: str) -> str:
    """Escape control characters: names and aliases may come from a state file, and logs are read on terminals."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in line)


def run(call: actions.Call, environ: "dict[str, str]") -> None:
    """Do what is to be done at the action of ``call``.

    Raises errors.CriuVethError.
    """
    handler = _HANDLERS.get(call.action)
    if handler is not None:
        if (call.image_dir or "").endswith(_OF_THE_DAEMON):
            from criu_veth import service  # noqa: PLC0415 - only where criu does not name its images

            service.find_images(call)
        if call.lost_images:
            say(f"{call.action}: notice: ", f"criu says {call.lost_images} for its images, and they are not found"
                " among what it has open: nothing done")  # fmt: skip
        elif posix.geteuid() == 0:
            handler(call, environ)
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
        if not _is_in_this_netns(call.init_pid) and paths.exists(f"/proc/{call.init_pid}"):
            say("pre-dump: warning: ", f"the outer ends are not captured: {fault}")
        return
    seen = _images_seen(call.image_dir)
    if environ.get(paths.CONFIG_VARIABLE) or (seen and _asks_for_network(seen)):
        raise errors.InputError(fault)
    if not seen and call.action == actions.PRE_RESTORE:
        say("pre-restore: warning: ", f"the images cannot be seen as uid {posix.geteuid()}: nothing done")


def _images_seen(image_dir: str | None) -> str:
    """Return where an ordinary user sees the images; empty if nowhere.

    A criu with capabilities of its file, or a setuid one, has a /proc/PID that is root's. It works in the images'
    directory, unless it was given another (``criu/cr-service.c``, ``criu/crtools.c``).
    """
    for directory in (image_dir or "", "."):
        try:
            names = posix.listdir(directory)
        except OSError:
            continue
        if directory != "." or paths.INVENTORY in names:
            return directory
    return ""


def _asks_for_network(images: str) -> bool:
    if paths.exists(f"{images}/{paths.CONFIG_IN_IMAGES}"):
        return True
    return paths.exists(f"{images}/{paths.INVENTORY}") and way.images_hold_devices(images)


def _pre_restore(call: actions.Call, environ: "dict[str, str]") -> None:
    _require_image_dir(call)
    run = runs.of(_criu_pid(call))
    _collect_garbage()
    how = _find_way(call, environ)
    if not how.adopt and not _is_named(call, environ) and way.images_share_netns(call.image_dir):
        _begin(run, program.Program("", (), (), (), {}), ipv6=False)
        return
    ready = _ready_program(call, environ, how) or _prepare(call, environ, how)
    say("pre-restore: ", *ready.remarks)
    _begin(run, ready, ipv6=_needs_ipv6(ready, call))
    found = ready.operations(actions.PRE_RESTORE)
    if found is not None:
        forget_ports(*found)
        run.finish(actions.PRE_RESTORE)
    if how.adopt:
        say("pre-restore: warning: ", *_about_locks(call, environ, failed=False))


def _begin(run: runs.Run, ready: program.Program, *, ipv6: bool) -> None:
    """Hand the program on to the later actions; where nothing can be written they make it again, each its own."""
    try:
        program.start_run(run, ready, ipv6=ipv6)
    except runs.UnusableError as error:
        if ready.sections:
            say("pre-restore: warning: ", *(f"{fault}; each action makes its program anew" for fault in error.faults))
    except errors.OperationError:
        if ready.sections:
            raise


def _about_locks(call: "actions.Call | None", environ: "dict[str, str]", *, failed: bool) -> "list[str]":
    """Say which network namespaces CRIU has locked and would leave so; ``failed``: which it does leave so."""
    if call is None or call.action not in actions.RESTORE_STAGES or posix.geteuid() != 0:
        return []
    try:
        criu_pid = _criu_pid(call)
        if failed and call.init_pid is None and not way.find(criu_pid, call.image_dir, environ).adopt:
            return []
        from criu_veth import locks  # noqa: PLC0415 - only where somebody else has made the network namespace

        return locks.after_failure(criu_pid, call.init_pid) if failed else locks.before(criu_pid)
    except Exception as error:  # whatever it is, the restore, or its own fault, goes first
        return [f"cannot look for CRIU's locks: {error}"]


def _find_way(call: actions.Call, environ: "dict[str, str]") -> way.Way:
    """Find out what criu was told, and which of the devices that it is to move in its caller has made."""
    how = way.find(_criu_pid(call), call.image_dir, environ)
    see_what_is_made(how)
    return how


def see_what_is_made(how: way.Way) -> None:
    """Have ``how`` say which of the devices that criu is to move in its caller has made."""
    if how.ready:
        namespaces = wire.Namespaces(None)
        try:
            how.made = execute.made_by_others(how.ready, namespaces.host)
        finally:
            namespaces.close()


def forget_ports(slots: int, operations: "program.Tuple") -> None:
    """Have Open vSwitch forget the ports of devices that are gone; it has time for that until post-restore."""
    namespaces = wire.Namespaces(None)
    try:
        execute.Executor(namespaces, slots, None).run(operations)
    finally:
        namespaces.close()


def _needs_ipv6(ready: program.Program, call: actions.Call) -> bool:
    return any(section[3] for section in ready.sections.values()) and way.images_need_ipv6(call.image_dir)


def _collect_garbage() -> None:
    """Remove what restores that died have left on this host. No fault of theirs is one of this restore."""
    try:
        judge = runs.Judge()
        if runs.forget(runs.over(judge, everyone=False), judge):
            _with_site_packages()
            from criu_veth import garbage  # noqa: PLC0415 - only after a restore that died

            said, faults = garbage.collect()
            say("pre-restore: ", *said)
            say("pre-restore: warning: ", *faults)
    except (errors.CriuVethError, OSError) as error:
        say("pre-restore: warning: ", f"cannot look for what restores that died have left: {error}")


def _pre_dump(call: actions.Call, environ: "dict[str, str]") -> None:
    _require_image_dir(call)
    if not paths.exists(f"/proc/{call.init_pid}"):
        say("pre-dump: notice: ", f"there is no process {call.init_pid}: nothing captured")
        return
    _with_site_packages()
    from criu_veth import dump, quiesce  # noqa: PLC0415 - the slow path

    likely = way.likely(_criu_pid(call), environ)
    say("pre-dump: ", *dump.run(environ, str(call.image_dir), int(call.init_pid or 0), likely))
    say("pre-dump: ", *quiesce.start(int(call.init_pid or 0), _criu_pid(call), str(call.image_dir), environ))


def _ready_program(call: actions.Call, environ: "dict[str, str]", how: way.Way) -> program.Program | None:
    sources = paths.Sources(environ, call.image_dir)
    try:
        found = program.find(sources, posix.uname().nodename, how)
    except errors.OperationError:
        return None  # made anew, and said when it is to be handed on
    if found is None:
        return None
    namespaces = wire.Namespaces(None)
    try:
        return found if execute.checks_hold(found.checks, namespaces) else None
    finally:
        namespaces.close()


def _prepare(call: actions.Call, environ: "dict[str, str]", how: way.Way, *, begun: bool = False) -> program.Program:
    _with_site_packages()
    from criu_veth import prepare  # noqa: PLC0415 - the slow path

    return prepare.prepare(environ, call.image_dir, how, call.init_pid, begun=begun)


def _with_site_packages() -> None:
    if "site" not in sys.modules:
        import site  # noqa: PLC0415 - the hook starts Python without it

        site.main()


def _verify(call: actions.Call, _: "dict[str, str]") -> None:
    """Compare the running container with what was asked for; CRIU closes the image directory before this action."""
    run = runs.of(_criu_pid(call))
    found = program.operations(run, call.action)
    if found is None:
        if run.exists() and not run.is_done(call.action):
            say("post-resume: warning: ", f"cannot verify: {run.path}/{call.action} is not there or damaged")
        return
    ((_, wanted, captured),) = found[1]
    run.finish(call.action)
    _with_site_packages()
    from criu_veth import afterwards  # noqa: PLC0415 - the slow path, with nobody waiting

    say("post-resume: ", *afterwards.verify(wanted, captured, int(call.init_pid or 0)))


def _stage(call: actions.Call, environ: "dict[str, str]") -> None:
    _require_image_dir(call)
    run = runs.of(_criu_pid(call))
    if run.is_done(call.action):
        return
    if not _is_named(call, environ) and _is_in_this_netns(call.init_pid):
        say(f"{call.action}: notice: ", f"process {call.init_pid} is in the host's network namespace: nothing to do")
        return
    found = _work(run, call, environ)
    if found is None:
        return
    namespaces = wire.Namespaces(container_netns(call.init_pid))
    try:
        executor = _execute(run, call, environ, namespaces, *found)
    finally:
        namespaces.close()
    say(call.action + ": notice: ", *executor.notices)
    say(call.action + ": ", *executor.done)
    _remember(run, call, executor.adopted)
    if executor.after is not None:
        try:
            executor.after()
        except OSError as error:
            say(f"{call.action}: warning: ", f"the container is not announced: {errors.errno_text(error.errno or 0)}")


def _execute(
    run: runs.Run,
    call: actions.Call,
    environ: "dict[str, str]",
    namespaces: wire.Namespaces,
    slots: int,
    operations: "program.Tuple",
) -> execute.Executor:
    """Run one action's operations; what no longer fits this host is judged in the words of pre-restore."""

    def executor(judged: bool) -> execute.Executor:
        present, journal = run.adopted(), run.journal
        return execute.Executor(namespaces, slots, call.init_pid, present=present, journal=journal, judged=judged)

    def judge(present: "frozenset[bytes]") -> None:
        _with_site_packages()
        from criu_veth import prepare  # noqa: PLC0415 - the slow path

        prepare.judge(environ, call.image_dir, _find_way(call, environ), call.init_pid, present)

    return execute.run_judged(executor, operations, judge)


def _remember(run: runs.Run, call: actions.Call, adopted: "frozenset[bytes]") -> None:
    try:
        run.adopt(adopted)
    except errors.OperationError as error:
        say(f"{call.action}: warning: ", *error.faults)
    run.finish(call.action)


def _work(run: runs.Run, call: actions.Call, environ: "dict[str, str]") -> "tuple[int, program.Tuple] | None":
    """Return what this action has to do; where pre-restore's word for it is lost, find out once more."""
    begun = run.exists()
    if not begun and call.action == actions.SETUP_NAMESPACES and _can_begin():  # pre-restore was not seen
        _pre_restore(call, environ)
        if run.is_done(call.action):
            return None
    found = program.operations(run, call.action)
    if found is not None:
        return found
    if begun:
        fault = f"{run.path}/{call.action} is not there, damaged or of another version: made anew"
        say(f"{call.action}: warning: ", fault)
    how = _find_way(call, environ)
    made = _prepare(call, environ, how, begun=True)
    if call.action == actions.POST_SETUP_NAMESPACES and not _needs_ipv6(made, call):
        return None
    return made.operations(call.action)


def _can_begin() -> bool:
    try:
        return runs.secure(make=True)
    except runs.UnusableError:
        return False


def _is_named(call: actions.Call, environ: "dict[str, str]") -> bool:
    """Say whether somebody has said for this very restore that the container has a network of its own."""
    return bool(environ.get(paths.CONFIG_VARIABLE)) or paths.exists(f"{call.image_dir}/{paths.CONFIG_IN_IMAGES}")


def _is_in_this_netns(pid: int | None) -> bool:
    """Say whether a process certainly is in this network namespace."""
    own = runs.inode("/proc/self/ns/net")
    return own != 0 and runs.inode(f"/proc/{pid}/ns/net") == own


def _require_image_dir(call: actions.Call) -> None:
    try:
        posix.stat(f"{call.image_dir}/.")
    except OSError:
        fault = f"{actions.IMAGE_DIR_VARIABLE}: {call.image_dir} is not a directory that is there"
        raise errors.InputError(fault) from None


def _criu_pid(call: actions.Call) -> int:
    return posix.getppid() if call.criu_pid is None else call.criu_pid


def container_netns(init_pid: int | None) -> str:
    """Return the path of INIT_PID's network namespace.

    Raises InputError if the process is gone or has none of its own.
    """
    path = f"/proc/{init_pid}/ns/net"
    try:
        inner = posix.stat(path)
    except FileNotFoundError:
        raise errors.InputError(f"{actions.INIT_PID_VARIABLE}: there is no process {init_pid}") from None
    except OSError as error:
        fault = f"{actions.INIT_PID_VARIABLE}: cannot see the network namespace of process {init_pid}"
        raise errors.InputError(f"{fault}: {error.strerror}") from None
    own = posix.stat("/proc/self/ns/net")
    if (inner.st_dev, inner.st_ino) == (own.st_dev, own.st_ino):
        raise errors.InputError(
            f"{actions.INIT_PID_VARIABLE}: process {init_pid} is in the host's own network namespace: there is no"
            f" container to connect"
        )
    return path


_HANDLERS = {
    actions.PRE_DUMP: _pre_dump,
    actions.PRE_RESTORE: _pre_restore,
    actions.SETUP_NAMESPACES: _stage,
    actions.POST_SETUP_NAMESPACES: _stage,
    actions.POST_RESTORE: _stage,
    actions.POST_RESUME: _verify,
}
