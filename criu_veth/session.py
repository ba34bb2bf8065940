"""One dump or restore: what is done at each action, once for the hook and for programs that drive CRIU over RPC.

Who calls says (as a `Session`) what criu was told, where to the program of a restore is kept from one action to the
next (as a `Kept`), and to whom is said what there is to say. The hook's ready path imports this module, so it imports
only builtin modules at its top.
"""

import posix
import sys

from criu_veth import actions, errors, execute, paths, program, runs, way, wire

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Iterable


class Kept:
    """The program of one restore, and what is known of it, between its actions: here in this process's memory."""

    def __init__(self) -> None:
        self._ready: program.Program | None = None
        self._done: set[str] = set()
        self._adopted: frozenset[bytes] = frozenset()

    @property
    def journal(self) -> str | None:
        """The path of the journal, where there is one."""
        return None

    def has_begun(self) -> bool:
        """Say whether pre-restore has been seen."""
        return self._ready is not None

    def begin(self, ready: program.Program, *, ipv6: bool) -> "Iterable[str]":
        """Keep a program for the later actions; return warnings.

        Without ``ipv6``, actions that are only for IPv6 addresses have nothing to do. Raises OperationError.
        """
        self._ready, self._adopted = ready, frozenset()
        needless = (action for action, section in ready.sections.items() if section[3] and not ipv6)
        self._done = {*(action for action in actions.RESTORE_STAGES if action not in ready.sections), *needless}
        return ()

    def is_done(self, action: str) -> bool:
        """Say whether there is nothing to do, or nothing any more, at an action."""
        return action in self._done

    def finish(self, action: str) -> None:
        """Leave nothing to do for an action, should it be called again."""
        self._done.add(action)

    def operations(self, action: str) -> "tuple[int, program.Tuple] | None":
        """Return (number of slots, operations) of an action; None where they are not there.

        Raises OperationError.
        """
        return None if self._ready is None else self._ready.operations(action)

    def lost(self, action: str) -> str:
        """Say that a restore that has begun should have had something to do, and what it was is not there."""
        return f"{action} is not there"

    def adopted(self) -> "frozenset[bytes]":
        """Return the names of the inner ends that somebody else made."""
        return self._adopted

    def adopt(self, names: "frozenset[bytes]") -> None:
        """Remember such names.

        Raises OperationError.
        """
        self._adopted |= names


class Session:
    """One dump or restore, of which `act` does one action after the other.

    ``criu_pid`` is criu's, 0 where it is not known; ``alone`` says that this process is our own (see `processes`).
    """

    alone = False

    def __init__(self, environ: "dict[str, str]", kept: Kept) -> None:
        self.environ = environ
        self.kept = kept
        self.image_dir: str | None = None
        #: The image directory, opened anew for each action.
        self.images: paths.Directory | None = None
        self.init_pid: int | None = None
        self.criu_pid = 0

    def say(self, kind: str, *lines: str) -> None:
        """Tell people, each line with ``kind`` before it, such as ``pre-dump: warning: ``."""
        raise NotImplementedError

    def told(self) -> way.Way:
        """Return what criu was told, and what its images hold."""
        raise NotImplementedError

    def likely(self) -> "list[way.Way]":
        """Return in which ways a restore of what is being dumped may bring the devices back."""
        raise NotImplementedError

    def first_process(self, _: str) -> int:
        """Return the pid of the container's first process, which this action needs.

        Raises InputError.
        """
        return self.init_pid or 0

    def act(self, action: str) -> None:
        """Do what is to be done at ``action``.

        Raises errors.CriuVethError.
        """
        if action == actions.PRE_DUMP:
            self._pre_dump()
        elif action == actions.PRE_RESTORE:
            self._pre_restore()
        elif action == actions.POST_RESUME:
            self._verify()
        elif action in actions.RESTORE_STAGES:
            self._stage(action)

    def _pre_dump(self) -> None:
        images = self._require_image_dir()
        pid = self.first_process(actions.PRE_DUMP)
        if not paths.exists(f"/proc/{pid}"):
            self.say("pre-dump: notice: ", f"there is no process {pid}: nothing captured")
            return
        with_site_packages()
        from criu_veth import dump, quiesce  # noqa: PLC0415 - the slow path

        self.say("pre-dump: ", *dump.run(self.environ, images, pid, self.likely()))
        if self._is_quieted():
            self.say("pre-dump: ", *quiesce.start(pid, self.criu_pid, images, self.environ, alone=self.alone))

    def _is_quieted(self) -> bool:
        """Say whether a process may be started that keeps the dumped network from answering: it ends with criu."""
        return bool(self.criu_pid)

    def _pre_restore(self) -> None:
        self._require_image_dir()
        self._collect_garbage()
        how = self.find_way()
        if not how.adopt and not self._is_named() and way.images_share_netns(self.images):
            self._begin(program.Program("", (), (), (), {}), ipv6=False)
            return
        ready = self._ready_program(how) or self._prepare(how)
        self.say("pre-restore: ", *ready.remarks)
        self._begin(ready, ipv6=self._needs_ipv6(ready))
        found = ready.operations(actions.PRE_RESTORE)
        if found is not None:
            self._forget_ports(*found)
            self.kept.finish(actions.PRE_RESTORE)
        if how.adopt and self.criu_pid:
            self.say("pre-restore: notice: ", *self._locked())

    def _begin(self, ready: program.Program, *, ipv6: bool) -> None:
        self.say("pre-restore: warning: ", *self.kept.begin(ready, ipv6=ipv6))

    def _locked(self) -> "list[str]":
        """Say which network namespaces CRIU has locked."""
        try:
            from criu_veth import locks  # noqa: PLC0415 - only where somebody else has made the network namespace

            return locks.before(self.criu_pid)
        except Exception as error:  # whatever it is, the restore goes first
            return [f"cannot look for CRIU's locks: {error}"]

    def find_way(self) -> way.Way:
        """Find out what criu was told, and which of the devices that it is to move in its caller has made."""
        how = self.told()
        see_what_is_made(how)
        return how

    def _forget_ports(self, slots: int, operations: "program.Tuple") -> None:
        """Have Open vSwitch forget the ports of devices that are gone; it has time for that until post-restore."""
        namespaces = wire.Namespaces(None)
        try:
            self._alone(execute.Executor(namespaces, slots, None)).run(operations)
        finally:
            namespaces.close()

    def _needs_ipv6(self, ready: program.Program) -> bool:
        return any(section[3] for section in ready.sections.values()) and way.images_need_ipv6(self.images)

    def _collect_garbage(self) -> None:
        """Remove what restores that died have left on this host. No fault of theirs is one of this restore."""
        try:
            judge = runs.Judge()
            if runs.forget(runs.over(judge, everyone=False), judge):
                with_site_packages()
                from criu_veth import garbage  # noqa: PLC0415 - only after a restore that died

                said, faults = garbage.collect()
                self.say("pre-restore: ", *said)
                self.say("pre-restore: warning: ", *faults)
        except (errors.CriuVethError, OSError) as error:
            self.say("pre-restore: warning: ", f"cannot look for what restores that died have left: {error}")

    def _ready_program(self, how: way.Way) -> program.Program | None:
        sources = paths.Sources(self.environ, self.images)
        try:
            found = program.find(sources, posix.uname().nodename, how)
        except errors.OperationError:
            return None  # made anew, and said when it is to be handed on
        if found is None:
            return None
        namespaces = wire.Namespaces(None)
        try:
            return found if execute.checks_hold(found.checks, namespaces) else None
        except OSError:  # the kernel cannot be asked: made anew, where it is asked again, and what it says is told
            return None
        finally:
            namespaces.close()

    def _prepare(self, how: way.Way, *, begun: bool = False) -> program.Program:
        with_site_packages()
        from criu_veth import prepare  # noqa: PLC0415 - the slow path

        return prepare.prepare(self.environ, self.images, how, self.init_pid, begun=begun)

    def _verify(self) -> None:
        """Compare the running container with what was asked for; CRIU closes the image directory before this action."""
        action = actions.POST_RESUME
        found = self.kept.operations(action) if not self.kept.is_done(action) else None
        if found is None:
            if self.kept.has_begun() and not self.kept.is_done(action):
                self.say("post-resume: warning: ", f"cannot verify: {self.kept.lost(action)} or damaged")
            return
        ((_, wanted, captured),) = found[1]
        self.kept.finish(action)
        with_site_packages()
        from criu_veth import afterwards  # noqa: PLC0415 - the slow path, with nobody waiting

        self.say("post-resume: ", *afterwards.verify(wanted, captured, self.first_process(action)))

    def _stage(self, action: str) -> None:
        self._require_image_dir()
        if self.kept.is_done(action):
            return
        if not self._is_named() and is_in_this_netns(self.init_pid):
            fault = f"process {self.init_pid} is in the host's network namespace: nothing to do"
            self.say(f"{action}: notice: ", fault)
            return
        found = self._work(action)
        if found is None:
            return
        namespaces = wire.Namespaces(container_netns(self.first_process(action)))
        try:
            executor = self._execute(namespaces, *found)
            self.say(action + ": notice: ", *executor.notices)
            self.say(action + ": ", *executor.done)
            self._remember(action, executor.adopted)
            self._announce(action, executor)
        finally:
            namespaces.close()

    def _announce(self, action: str, executor: execute.Executor) -> None:
        if executor.after is not None:
            try:
                executor.after()
            except OSError as error:
                why = errors.errno_text(error.errno or 0)
                self.say(f"{action}: warning: ", f"the container is not announced: {why}")

    def _execute(self, namespaces: wire.Namespaces, slots: int, operations: "program.Tuple") -> execute.Executor:
        """Run one action's operations; what no longer fits this host is judged in the words of pre-restore."""

        def executor(judged: bool) -> execute.Executor:
            present, journal = self.kept.adopted(), self.kept.journal
            made = execute.Executor(namespaces, slots, self.init_pid, present=present, journal=journal, judged=judged)
            return self._alone(made)

        def judge(present: "frozenset[bytes]") -> None:
            with_site_packages()
            from criu_veth import prepare  # noqa: PLC0415 - the slow path

            prepare.judge(self.environ, self.images, self.find_way(), self.init_pid, present)

        return execute.run_judged(executor, operations, judge)

    def _alone(self, executor: execute.Executor) -> execute.Executor:
        executor.alone = self.alone
        return executor

    def _remember(self, action: str, adopted: "frozenset[bytes]") -> None:
        try:
            self.kept.adopt(adopted)
        except errors.OperationError as error:
            self.say(f"{action}: warning: ", *error.faults)
        self.kept.finish(action)

    def _work(self, action: str) -> "tuple[int, program.Tuple] | None":
        """Return what this action has to do; where pre-restore's word for it is lost, find out once more."""
        begun = self.kept.has_begun()
        if not begun and action == actions.SETUP_NAMESPACES and _can_begin():  # pre-restore was not seen
            self._pre_restore()
            if self.kept.is_done(action):
                return None
        found = self.kept.operations(action)
        if found is not None:
            return found
        if begun:
            fault = f"{self.kept.lost(action)}, damaged or of another version: made anew"
            self.say(f"{action}: warning: ", fault)
        how = self.find_way()
        made = self._prepare(how, begun=True)
        if action == actions.POST_SETUP_NAMESPACES and not self._needs_ipv6(made):
            return None
        return made.operations(action)

    def _is_named(self) -> bool:
        """Say whether somebody has said for this very restore that the container has a network of its own."""
        if self.environ.get(paths.CONFIG_VARIABLE):
            return True
        return self.images is not None and self.images.exists(paths.CONFIG_IN_IMAGES)

    def _require_image_dir(self) -> paths.Directory:
        """Open the image directory: all that is read in there, or written, is in what criu has open itself."""
        try:
            self.images = paths.Directory(self.image_dir or "")
        except OSError:
            fault = f"{actions.IMAGE_DIR_VARIABLE}: {self.image_dir} is not a directory that is there"
            raise errors.InputError(fault) from None
        return self.images


def see_what_is_made(how: way.Way) -> None:
    """Have ``how`` say which of the devices that criu is to move in its caller has made."""
    if how.ready:
        namespaces = wire.Namespaces(None)
        try:
            how.made = execute.made_by_others(how.ready, namespaces.host)
        except OSError as error:
            names, why = ", ".join(how.ready.values()), errors.errno_text(error.errno or 0)
            raise errors.OperationError(f"cannot look for {names} on this host: {why}") from None
        finally:
            namespaces.close()


def with_site_packages() -> None:
    """Have what is installed beside Python be found; the hook starts Python without that."""
    if "site" not in sys.modules:
        import site  # noqa: PLC0415 - as above

        site.main()


def _can_begin() -> bool:
    try:
        return runs.secure(make=True)
    except runs.UnusableError:
        return False


def is_in_this_netns(pid: int | None) -> bool:
    """Say whether a process certainly is in this thread's network namespace."""
    own = runs.inode("/proc/thread-self/ns/net")
    return own != 0 and runs.inode(f"/proc/{pid}/ns/net") == own


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
        raise errors.InputError(f"{actions.INIT_PID_VARIABLE}: {errors.no_entry(path, error, 'cannot see')}") from None
    own = posix.stat("/proc/thread-self/ns/net")
    if (inner.st_dev, inner.st_ino) == (own.st_dev, own.st_ino):
        raise errors.InputError(
            f"{actions.INIT_PID_VARIABLE}: process {init_pid} is in the host's own network namespace: there is no"
            f" container to connect"
        )
    return path
