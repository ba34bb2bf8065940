"""Restores that are going on: whose they are, what they have to do, and which of them are over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from criu_veth import paths, preflight, prepare, program, runs
from criu_veth.actions import RESTORE_STAGES
from criu_veth.errors import OperationError

PID = os.getpid()
HOOK = Path(__file__).parents[2] / "hooks/criu-veth"
NETNS, PIDNS, TIME = (os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "pid", "time"))


@pytest.fixture(autouse=True)
def run(own_run: Path) -> Path:
    """A /run/criu-veth of our own, not made yet."""
    return own_run


@pytest.fixture
def made(tmp_path: Path) -> program.Program:
    """A program with something to do at post-restore, and at post-setup-namespaces for IPv6."""
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    (directory / "web.toml").write_text('mappings = ["eth0:web0"]\n')
    (directory / "web.toml").chmod(0o644)
    inputs = prepare.read({paths.CONFIG_VARIABLE: str(directory / "web.toml")}, None)
    return prepare.save(prepare.desired(inputs), inputs, preflight.Findings((), (), {}))


def record(name: str, text: str = "", journal: str = "") -> runs.Run:
    """Leave a run of this name behind."""
    runs.secure(make=True)
    found = runs.Run(name)
    os.mkdir(found.path)
    if text:
        found.write(runs.OWNER, text.encode())
    if journal:
        found.write(runs.JOURNAL, journal.encode())
    return found


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """Somebody else's process, with a name to trip over."""
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) S 1 (b', 0, 0, 0); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate()


# --- the directories


def test_directories_are_for_their_owner_only(run: Path) -> None:
    assert runs.secure(make=False) is False
    assert runs.secure(make=True) is True
    assert runs.secure(make=False) is True
    for path in (run, run / "programs", run / "runs"):
        assert path.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("name", ["", "programs", "runs"])
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_directory_that_others_may_enter_is_not_trusted(run: Path, name: str, mode: int) -> None:
    runs.secure(make=True)
    (run / name).chmod(mode)
    with pytest.raises(OperationError) as raised:
        runs.secure(make=True)
    path = str(run / name)
    assert str(raised.value) == f"cannot trust {path}: it must be a directory of this user with mode 0700; remove it"


@pytest.mark.parametrize("name", ["", "programs", "runs"])
def test_link_is_not_followed(run: Path, name: str, tmp_path: Path) -> None:
    runs.secure(make=True)
    elsewhere = tmp_path / "elsewhere"
    (run / name).rename(elsewhere)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(elsewhere)
    with pytest.raises(OperationError, match=r"^cannot trust "):
        runs.secure(make=True)


@pytest.mark.root
@pytest.mark.parametrize("name", ["", "programs", "runs"])
def test_directory_of_somebody_else_is_not_trusted(run: Path, name: str, made: program.Program) -> None:
    this = runs.of(PID)
    program.start_run(this, made)
    os.chown(run / name, 1000, 1000)
    with pytest.raises(OperationError, match=r"^cannot trust "):
        program.start_run(this, made)
    with pytest.raises(OperationError, match=r"^cannot trust "):
        program.operations(this, "post-restore")


def test_a_file_where_the_directory_should_be(run: Path) -> None:
    run.write_text("")
    with pytest.raises(OperationError) as raised:
        runs.secure(make=True)
    assert type(raised.value) is runs.UnusableError
    assert str(raised.value) == f"cannot use {run}: it is not a directory; remove it"
    assert runs.secure(make=False) is False
    assert not runs.Run("1-1-1").exists()
    assert not runs.Run("1-1-1").is_done("post-restore")


# --- one restore


def test_its_name_is_one_process_alone(process: subprocess.Popen[str]) -> None:
    assert runs.of(process.pid).name == f"{process.pid}-{started(process.pid)}-{PIDNS}"
    assert runs.of(1 << 22).name == "", "no process ever has this number"


def test_each_action_that_has_work_finds_it(made: program.Program) -> None:
    this = runs.of(PID)
    assert not this.exists()
    program.start_run(this, made)
    assert this.exists()
    assert program.operations(this, "post-restore") == made.operations("post-restore")
    assert not this.is_done("post-restore")
    assert (program.operations(this, "setup-namespaces"), this.is_done("setup-namespaces")) == (None, True)


def test_an_action_that_was_done_has_no_work_when_called_again(made: program.Program) -> None:
    this = runs.of(PID)
    program.start_run(this, made)
    for _ in range(2):
        this.finish("post-restore")
        assert this.is_done("post-restore")
        assert program.operations(this, "post-restore") is None


def test_actions_only_for_ipv6(made: program.Program) -> None:
    this = runs.of(PID)
    for ipv6 in (True, False):
        program.start_run(this, made, ipv6=ipv6)
        assert this.is_done("post-setup-namespaces") is not ipv6


@pytest.mark.parametrize("damage", ["gone", "cut", "another version's", "not a file"])
def test_work_that_is_lost_does_not_pass_for_done(made: program.Program, damage: str) -> None:
    this = runs.of(PID)
    program.start_run(this, made)
    path = Path(this.path) / "post-restore"
    data = path.read_bytes()
    path.unlink()
    if damage == "not a file":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes(data[:-1] if damage == "cut" else data.replace(b"criu-veth program", b"criu-veth Program"))
    assert program.operations(this, "post-restore") is None
    assert not this.is_done("post-restore")


def test_a_program_that_goes_does_not_change_a_restore_that_runs(made: program.Program, run: Path) -> None:
    program.start_run(runs.of(PID), made)
    (run / "programs" / made.name).write_bytes(b"")
    assert program.operations(runs.of(PID), "post-restore") == made.operations("post-restore")


def test_what_an_earlier_restore_by_the_same_process_left_is_dropped(made: program.Program) -> None:
    this = record(runs.of(PID).name)
    this.write("setup-namespaces", b"old")
    program.start_run(this, made)
    assert sorted(os.listdir(this.path)) == sorted(
        [
            runs.OWNER,
            *(action if action in made.sections else f"{action}{runs.DONE}" for action in RESTORE_STAGES),
        ]
    )


def test_end_of_a_run(made: program.Program, run: Path) -> None:
    this = runs.of(PID)
    program.start_run(this, made)
    for _ in range(2):
        this.end()
        assert list((run / "runs").iterdir()) == []


def test_adopted_names() -> None:
    this = record("1-2-3")
    assert this.adopted() == frozenset()
    for names in (frozenset({b"eth0\0", b"eth1\0"}), frozenset({b"eth7\0"})):
        this.adopt(names)
        assert this.adopted() == names


def test_a_disk_that_is_full(made: program.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    this = runs.of(PID)
    monkeypatch.setattr("posix.write", full)
    with pytest.raises(runs.UnusableError) as raised:
        program.start_run(this, made)
    assert str(raised.value) == f"cannot write {this.path}/owner: No space left on device"


# --- the shell's half


@pytest.fixture
def shell(run: Path, tmp_path: Path) -> Callable[[str, int], int]:
    """The hook without a Python to go on to, with another place for its runs: status 0 is an end in the shell."""
    script = tmp_path / "lib/python0.0/site-packages/criu_veth/hooks/criu-veth"
    script.parent.mkdir(parents=True)
    script.write_text(HOOK.read_text().replace("/run/criu-veth/runs", str(run / "runs")))
    script.chmod(0o755)

    def call(action: str, pid: int) -> int:
        env = {"CRTOOLS_SCRIPT_ACTION": action, "CRTOOLS_IMAGE_DIR": f"/proc/{pid}/fd/9"}
        return subprocess.run([script], env=env, capture_output=True, check=False).returncode

    return call


@pytest.mark.parametrize("action", ["setup-namespaces", "post-setup-namespaces", "post-restore"])
def test_the_shell_ends_only_what_is_done(
    shell: Callable[[str, int], int], process: subprocess.Popen[str], action: str
) -> None:
    assert shell(action, process.pid) == 2, "pre-restore was not seen"
    this = record(runs.of(process.pid).name)
    assert shell(action, process.pid) == 2, "all its files are lost"
    this.write(action, b"damaged")
    assert shell(action, process.pid) == 2
    this.finish(action)
    assert shell(action, process.pid) == 0
    for other in (
        f"{process.pid}-{int(started(process.pid)) + 1}-{PIDNS}",
        f"{process.pid}-{started(process.pid)}-{PIDNS + 1}",
        f"{process.pid}",
    ):
        os.rename(this.path, runs.Run(other).path)
        assert shell(action, process.pid) == 2, "of another process of the same number"
        os.rename(runs.Run(other).path, this.path)


def test_verification_is_for_who_asked_for_it(shell: Callable[[str, int], int], process: subprocess.Popen[str]) -> None:
    assert shell("post-resume", process.pid) == 0
    this = record(runs.of(process.pid).name)
    assert shell("post-resume", process.pid) == 0
    this.write("post-resume", b"")
    assert shell("post-resume", process.pid) == 2
    this.finish("post-resume")
    assert shell("post-resume", process.pid) == 0


def test_a_process_that_the_shell_cannot_see(shell: Callable[[str, int], int]) -> None:
    runs.secure(make=True)
    assert shell("post-restore", 1 << 22) == 2


# --- which are over


@pytest.fixture
def initial(monkeypatch: pytest.MonkeyPatch) -> None:
    """This PID namespace is the one that the host started with."""
    monkeypatch.setattr(runs, "_INITIAL_PID_NAMESPACE", PIDNS)


@pytest.fixture
def nested(monkeypatch: pytest.MonkeyPatch) -> None:
    """This PID namespace is not the one that the host started with."""
    monkeypatch.setattr(runs, "_INITIAL_PID_NAMESPACE", 1)


GONE = 1 << 22  # no process ever has this number
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
HERE = f"{NETNS} {PIDNS} {TIME} {BOOT}"


def is_over(name: str, text: str = HERE) -> bool:
    record(name, text)
    return runs.Judge().is_over(name)


@pytest.mark.usefixtures("nested")
def test_in_the_same_pid_namespace(process: subprocess.Popen[str]) -> None:
    start = started(process.pid)
    assert not is_over(f"{process.pid}-{start}-{PIDNS}")
    assert not is_over(f"1-{started(1)}-{PIDNS}")
    assert is_over(f"{process.pid}-{int(start) + 1}-{PIDNS}")
    assert is_over(f"{GONE}-1-{PIDNS}")


@pytest.mark.usefixtures("nested")
def test_in_another_time_namespace_a_start_time_says_nothing(process: subprocess.Popen[str]) -> None:
    elsewhere = f"{NETNS} {PIDNS} {TIME + 1} {BOOT}"
    assert not is_over(f"{process.pid}-{int(started(process.pid)) + 1}-{PIDNS}", elsewhere)
    assert is_over(f"{GONE}-1-{PIDNS}", elsewhere)


@pytest.mark.usefixtures("nested")
def test_a_process_that_nobody_has_waited_for_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        name = f"{process.pid}-{started(process.pid)}-{PIDNS}"
        assert process.stdout
        process.stdout.read()  # its end
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_over(name)


@pytest.mark.usefixtures("nested")
@pytest.mark.parametrize("name", [f"{GONE}-1-77", f"1-1-{PIDNS + 1}", str(GONE), "1", "x", "1-2", "-1-2-3", ""])
def test_of_another_pid_namespace_nothing_is_known(name: str) -> None:
    runs.secure(make=True)
    assert not runs.Judge().is_over(name)
    if name:
        assert not is_over(name, "")


@pytest.mark.usefixtures("initial")
def test_who_sees_every_process_knows_of_other_pid_namespaces(process: subprocess.Popen[str]) -> None:
    assert is_over(f"{GONE}-1-77")
    assert is_over(f"{process.pid}-{started(process.pid)}-{PIDNS + 1}"), "the number is another namespace's process'"
    assert is_over(str(GONE), "")
    assert not is_over(str(process.pid), started(process.pid))


@pytest.mark.usefixtures("initial")
def test_proc_that_does_not_show_all_processes_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_proc_is_ours", lambda: False)
    assert not is_over(f"{GONE}-1-77")
    assert is_over(f"{GONE}-1-{PIDNS}")


@pytest.mark.usefixtures("nested")
def test_of_an_earlier_boot_nothing_runs() -> None:
    assert is_over(f"1-{started(1)}-77", f"{NETNS} 77 {TIME} 00000000-0000-0000-0000-000000000000")


def test_what_is_forgotten() -> None:
    """A journal stays where its devices are not to be seen."""
    judge = runs.Judge()
    nothing = record("1-1-1", HERE)
    moved = record("2-1-1", HERE, f"in {NETNS} 1\nlink cvnowhere\n")
    elsewhere = record("3-1-1", f"{NETNS + 1} 1 1 x", f"in {NETNS + 1} 1\nlink lo\n")
    unnamed = record("4-1-1", "", f"in {NETNS + 1} 1\nlink lo\n")
    older = record("5", "123", "link cvnowhere\n")
    ours = record("6-1-1", HERE, f"in {NETNS} 1\nlink lo\n")
    both = [nothing, moved, elsewhere, unnamed, older, ours]
    assert runs.forget(both, judge) == [ours]
    assert [run.exists() for run in both] == [False, False, True, True, True, True]


@pytest.mark.usefixtures("initial")
def test_a_restore_looks_at_others_only_where_they_are_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look takes one at every process of the host."""
    record(f"{GONE}-1-77", HERE)
    in_the_way = record(f"{GONE}-2-77", HERE, f"in {NETNS} 77\nlink lo\n")
    own = record(f"{GONE}-3-{PIDNS}", HERE)
    found = {run.name for run in runs.over(runs.Judge(), everyone=False)}
    assert found == {in_the_way.name, own.name}
    monkeypatch.setattr(runs, "_MANY", 2)
    assert len(runs.over(runs.Judge(), everyone=False)) == 3


@pytest.mark.parametrize("pid", ["4294967296", "9" * 20, "9" * 200, "٣"])
def test_a_name_that_no_run_has_says_nothing(pid: str) -> None:
    assert not is_over(f"{pid}-1-{PIDNS}")


def test_a_journal_that_is_damaged_says_nothing_of_its_namespace(run: Path) -> None:
    restore = runs.Run("1-1-1")
    restore.begin()
    (run / "runs/1-1-1/owner").write_text("9" * 6000)
    restore.write(runs.JOURNAL, b"in " + b"9" * 6000 + b" 1\nlink \xff\n")
    assert restore.netns() == 0
    assert restore.made() == ["\udcff"]
    assert not runs.is_in_the_way(restore)
