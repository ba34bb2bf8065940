"""The restores that are going on: whose each is, what it has yet to do, and which of them are certainly over.

Each has a directory in ``/run/criu-veth/runs``, called PID-START-INODE after its criu: the pid, the time at which that
process was started (field 22 of ``/proc/PID/stat``, proc(5)) and the inode of its PID namespace. All namespaces of a
host may share ``/run``, and in each there may be a process of the same number: the three together are one process's
alone as long as the host runs. The shell part of the hook makes the same name. A name that is only a pid is of a
version that knew no other.

In the directory are, beside the owner's record: for each action that has work a program of that action alone, and for
each that has none, or none any more, ``ACTION.done``. An action ends in the shell only if that is there, so that a file
that is lost or damaged never passes for work that is done. What is being made that would outlive a failed restore is in
the journal.

The hook's cheap path imports this module, so it imports only builtin modules.
"""

import _socket
import posix

from criu_veth import paths
from criu_veth.actions import POST_RESTORE
from criu_veth.errors import OperationError

#: Names in a run's directory, beside those of actions.
OWNER, ADOPTED, JOURNAL, DONE = "owner", "adopted", "journal", ".done"

#: The first word of a journal's line that says by whom it is: the inodes of its network and PID namespaces follow.
_MADE_IN = "in"
#: The PID namespace that the host starts with has this inode on every kernel (PROC_PID_INIT_INO, linux/proc_ns.h).
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
_LARGEST_PID = (1 << 31) - 1
#: That many runs may lie about before a restore looks at those too that cannot be in its way.
_MANY = 64

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Iterable


class UnusableError(OperationError):
    """/run is full, cannot be written or is not there: nobody's fault, and no reason not to restore."""


def secure(*, make: bool) -> bool:
    """Make sure that ``/run/criu-veth`` is a directory of ours that nobody else can enter; say whether it is there.

    Where a file, or anything else, is in its place, nothing is to be found. Raises UnusableError, or OperationError if
    others could have written there.
    """
    for path in (paths.RUN_DIR, paths.PROGRAMS, paths.RUNS):
        try:
            if make:
                _make_directory(path)
            info = posix.lstat(path)
        except FileNotFoundError as error:
            if make:
                raise UnusableError(f"cannot use {path}: {error.strerror}") from None
            return False
        except OSError as error:
            raise UnusableError(f"cannot use {path}: {error.strerror}") from None
        if info.st_mode & 0o170000 not in (0o040000, 0o120000):  # directory, link
            if make:
                raise UnusableError(f"cannot use {path}: it is not a directory; remove it")
            return False
        if info.st_mode & 0o170077 != 0o040000 or info.st_uid != posix.geteuid():
            raise OperationError(f"cannot trust {path}: it must be a directory of this user with mode 0700; remove it")
    return True


def _make_directory(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        pass


def _is_there(path: str) -> bool:
    """Say whether this certainly is there: what cannot be looked at is no proof that there is nothing to do."""
    try:
        posix.lstat(path)
    except OSError:
        return False
    return True


class Run:
    """One restore. ``name`` is its directory's; empty where its criu cannot be told from other processes."""

    __slots__ = ("name", "path")

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"{paths.RUNS}/{name or '?'}"

    def exists(self) -> bool:
        """Say whether this restore has begun here."""
        return bool(self.name) and _is_there(self.path)

    def begin(self) -> None:
        """Make the directory; what an earlier restore by the same process has left there is dropped.

        Raises OperationError, see `secure`.
        """
        secure(make=True)
        self.end()
        if not self.name:
            raise UnusableError("cannot tell the criu that calls from other processes: its /proc/PID is not readable")
        try:
            posix.mkdir(self.path, 0o700)
        except OSError as error:
            raise UnusableError(f"cannot write {self.path}: {error.strerror}") from None
        self.write(OWNER, " ".join(map(str, (*_here(), _boot()))).encode())

    def write(self, name: str, data: bytes) -> None:
        """Write a file of this run.

        Raises UnusableError; no part of the file is left then.
        """
        path = f"{self.path}/{name}"
        try:
            paths.write(path, data)
        except OSError as error:
            paths.unlink(path)
            raise UnusableError(f"cannot write {path}: {error.strerror}") from None

    def read(self, name: str) -> bytes | None:
        """Return what a file of this run holds, None if it is not there or cannot be read.

        Raises OperationError if others could have written it.
        """
        return paths.read(f"{self.path}/{name}") if secure(make=False) else None

    def is_done(self, action: str) -> bool:
        """Say whether there is nothing to do, or nothing any more, at an action."""
        return _is_there(f"{self.path}/{action}{DONE}")

    def finish(self, action: str) -> None:
        """Leave nothing to do for an action, should it be called again: CRIU 4.1.1 may run a runtime's script twice.

        Where that cannot be written down it is done again then, which changes nothing.
        """
        done = f"{self.path}/{action}{DONE}"
        try:
            try:
                posix.rename(f"{self.path}/{action}", done)  # takes no room
            except FileNotFoundError:
                posix.link(f"{self.path}/{OWNER}", done)
        except OSError:
            pass
        if action == POST_RESTORE:  # what was made for CRIU to move has been moved
            paths.unlink(self.journal)

    @property
    def journal(self) -> str:
        """The path of the journal."""
        return f"{self.path}/{JOURNAL}"

    def adopt(self, names: "frozenset[bytes]") -> None:
        """Remember, for the later actions of this restore, which inner ends somebody else made.

        Raises UnusableError.
        """
        if names:
            paths.unlink(f"{self.path}/{ADOPTED}")
            self.write(ADOPTED, b"".join(sorted(names)))

    def adopted(self) -> "frozenset[bytes]":
        """Return the names that `adopt` remembered, each with its NUL."""
        return frozenset(name + b"\0" for name in (self.read(ADOPTED) or b"").split(b"\0") if name)

    def made(self) -> "list[str]":
        """Return the names of the devices in the journal."""
        words = [line.partition(" ") for line in self._journal_lines()]
        return [name for kind, _, name in words if kind == "link"]

    def _journal_lines(self) -> "list[str]":
        return (paths.read(self.journal) or b"").decode("utf-8", "surrogateescape").splitlines()

    def netns(self) -> int:
        """Return the inode of the network namespace that this restore works in; 0 if nothing says it."""
        words = [(paths.read(f"{self.path}/{OWNER}") or b"").decode("ascii", "replace").split()[:1]]
        words += [line.split()[1:2] for line in self._journal_lines() if line.split()[:1] == [_MADE_IN]]
        if words[0] and "-" not in self.name:  # an older version's record is a start time
            words[0] = []
        return next((int(found[0]) for found in words if found and _is_number(found[0])), 0)

    def end(self) -> None:
        """Forget the restore. Somebody else may be doing the same."""
        try:
            for name in posix.listdir(self.path):
                paths.unlink(f"{self.path}/{name}")
            posix.rmdir(self.path)
        except OSError:
            pass


def of(pid: int) -> Run:
    """Return the restore that the process ``pid`` is doing, begun or not."""
    started, namespace = _start_time(_stat(pid)), inode(f"/proc/{pid}/ns/pid")
    return Run(f"{pid}-{started}-{namespace}" if started and namespace else "")


def inode(path: str) -> int:
    """Return the inode of a file; 0 if it cannot be seen."""
    try:
        return posix.stat(path).st_ino
    except OSError:
        return 0


def made_in() -> str:
    """Return the line with which a journal begins: whose network and PID namespaces its devices are made in."""
    netns, pidns, _ = _here()
    return f"{_MADE_IN} {netns} {pidns}"


def _here() -> "tuple[int, int, int]":
    """Return the inodes of this thread's network, PID and time namespaces."""
    netns, pidns, time = (inode(f"/proc/thread-self/ns/{kind}") for kind in ("net", "pid", "time"))
    return netns, pidns, time


def _boot() -> str:
    return (paths.read("/proc/sys/kernel/random/boot_id") or b"?").decode().strip()


def _stat(pid: "int | str") -> "list[bytes]":
    """Return the fields of /proc/PID/stat from the third on; none if there is no such process, or none to be seen.

    The second is the name, with whatever the process has written there: the last parenthesis ends it.
    """
    return (paths.read(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()


def _start_time(stat: "list[bytes]") -> str:
    """Return when the process was started, in ticks since boot as this time namespace sees it."""
    return stat[19].decode() if len(stat) > 19 else ""


def _has_ended(stat: "list[bytes]") -> bool:
    """Say whether a process has ended that nobody has waited for yet, with all its threads."""
    return stat[:1] == [b"Z"] and stat[17:18] in ([b"0"], [b"1"])


def names() -> "list[str]":
    """Return the names of all runs; none where there are none to be seen."""
    try:
        return posix.listdir(paths.RUNS)
    except OSError:
        return []


class Judge:
    """Says which runs are certainly over. This is the one place that does, and in doubt a run is going on.

    A process that is not there is not proof: in another PID namespace it may be. What another PID namespace has left is
    judged only from the one that the host started with, which sees every process.
    """

    def __init__(self) -> None:
        self.netns, self._pidns, self._time = _here()
        self._boot = _boot()
        self._processes: dict[int, list[str]] | None = None

    def is_foreign(self, name: str) -> bool:
        """Say whether a run is of another PID namespace, or of one that is not known."""
        return _parts(name)[2] != self._pidns

    def is_over(self, name: str) -> bool:
        """Say whether the criu of the run called ``name`` has certainly ended."""
        pid, started, pidns = _parts(name)
        if not pid:
            return False
        _, _, time, boot, *_ = [*_words(name), "", "", "", ""]
        if "-" in boot and "-" in self._boot and boot != self._boot:
            return True
        if not started or (time and time != str(self._time)):
            started = ""  # unknown, or counted from another start
        if pidns == self._pidns:
            return self._is_gone_here(pid, started)
        return self._sees_all() and not any(
            self._may_be(process, pidns, started) for process in self._numbers().get(pid, ())
        )

    def _is_gone_here(self, pid: int, started: str) -> bool:
        try:
            posix.kill(pid, 0)  # /proc may hide processes, or be another namespace's
        except ProcessLookupError:
            return True
        except OSError:
            pass
        stat = _stat(pid) if _proc_is_ours() else []
        found = _start_time(stat)
        return bool(found) and (_has_ended(stat) or (bool(started) and found != started))

    def _sees_all(self) -> bool:
        return self._pidns == _INITIAL_PID_NAMESPACE and _proc_is_ours() and paths.exists("/proc/1")

    def _numbers(self) -> "dict[int, list[str]]":
        """Return, by the number that a process has in its own PID namespace, the numbers that these have here."""
        if self._processes is None:
            found: dict[int, list[str]] = {}
            for process in posix.listdir("/proc"):
                if process.isdecimal():
                    data = paths.read(f"/proc/{process}/status")
                    if data is not None:
                        words = data.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
                        found.setdefault(int(words[-1]) if words else int(process), []).append(process)
            self._processes = found
        return self._processes

    def _may_be(self, process: str, pidns: int, started: str) -> bool:
        namespace, stat = inode(f"/proc/{process}/ns/pid"), _stat(process)
        if not stat:
            return paths.exists(f"/proc/{process}")
        if _has_ended(stat) or (namespace and pidns and namespace != pidns):
            return False
        return not started or _start_time(stat) == started


def _proc_is_ours() -> bool:
    """Say whether /proc numbers processes as this PID namespace does."""
    try:
        return posix.readlink("/proc/self") == str(posix.getpid())
    except OSError:
        return False


def _is_number(text: str) -> bool:
    """Say whether this is one that the kernel may have said: an inode, a time in ticks."""
    return text.isascii() and text.isdecimal() and len(text) <= 20


def _parts(name: str) -> "tuple[int, str, int]":
    """Return pid, start time and the PID namespace's inode; 0 and an empty text for what is not known."""
    words = name.split("-")
    if not all(map(_is_number, words)) or int(words[0]) > _LARGEST_PID:
        return 0, "", 0
    if len(words) == 3:
        return int(words[0]), words[1], int(words[2])
    if len(words) == 1:  # an older version's: the record has the start time
        return int(name), "".join(_words(name)[:1]), 0
    return 0, "", 0


def _words(name: str) -> "list[str]":
    """Return the words of a run's record: inodes of network, PID and time namespace, and the boot's identity."""
    return (paths.read(f"{paths.RUNS}/{name}/{OWNER}") or b"").decode("ascii", "replace").split()


def over(judge: Judge, *, everyone: bool = True) -> "list[Run]":
    """Return the runs that are over.

    Without ``everyone``, those of other PID namespaces that have nothing in this one's way are not looked at while
    there are few of them: that takes a look at every process of the host.
    """
    all_names = names()
    everyone = everyone or len(all_names) > _MANY
    runs = (Run(name) for name in all_names if everyone or not judge.is_foreign(name) or is_in_the_way(Run(name)))
    return [run for run in runs if judge.is_over(run.name)]


def is_in_the_way(run: Run) -> bool:
    """Say whether a device that the run's journal names is in this network namespace."""
    return any(_is_here(name) for name in run.made())


def _is_here(ifname: str) -> bool:
    try:
        _socket.if_nametoindex(ifname)
    except (OSError, ValueError):
        return False
    return True


def forget(runs: "Iterable[Run]", judge: Judge) -> "list[Run]":
    """Drop runs that are over and have left nothing, and return those whose devices have to be looked at first.

    A journal of another network namespace is kept: whether its devices are there is not to be seen from here.
    """
    left = []
    for run in runs:
        if is_in_the_way(run) and run.netns() in (0, judge.netns):
            left.append(run)
        elif not paths.exists(run.journal) or run.netns() == judge.netns:
            run.end()
    return left
