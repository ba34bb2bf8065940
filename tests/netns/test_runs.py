"""Restores that share a /run, and what each may do to the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import Container, Host
from lab.cli import cli
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

#: A criu that is process 1 of a PID namespace, and goes on with each line that it is given.
NESTED = """
exec 9<"$1"; hook=$2
export CRTOOLS_IMAGE_DIR=/proc/$$/fd/9
unshare -n sleep 1000 </dev/null & init=$!
while [ "$(readlink /proc/$init/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
while read -r action name; do
    if [ "$action" = post-restore ]; then ip link add "$name" type veth peer name eth0 netns $init; fi
    CRTOOLS_SCRIPT_ACTION=$action CRTOOLS_INIT_PID=$init "$hook" 2>&1 </dev/null || echo "status $?"
    echo "$$ done"
done
"""
READY = ("--external", "netdev[eth0]:cv0")
SEES_ALL = os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC


class Nested:
    """One restore by a criu in a PID namespace of its own."""

    def __init__(self, process: subprocess.Popen[str], images: Path) -> None:
        self.process = process
        self.images = images

    def act(self, action: str, name: str = "") -> list[str]:
        """What the hook says; a veth called ``name`` is there before post-restore."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{action} {name}\n")
        self.process.stdin.flush()
        said = []
        while (line := self.process.stdout.readline().rstrip()) != "1 done":
            assert line or self.process.poll() is None
            said.append(line)
        return said


@contextmanager
def nested(host: Host, hook: Path, images: Path, *options: str) -> Iterator[Nested]:
    (images / "netdev-9.img").touch()
    words = ["unshare", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c", NESTED]
    words += ["criu", str(images), str(hook), "restore", *options]
    process = host.popen(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Nested(process, images)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Images of two containers, whose mapping files give them other names and bridges."""
    found = []
    for number in (0, 1):
        path = tmp_path / f"container{number}"
        path.mkdir(mode=0o755)
        (path / "criu-veth.toml").write_text(f'mappings = ["eth0:web{number}@br{number}"]')
        (path / "criu-veth.toml").chmod(0o644)
        found.append(path)
    return found[0], found[1]


def test_in_pid_namespaces_of_their_own(bridged: Host, hook: Path, two: tuple[Path, Path]) -> None:
    """Each criu is process 1."""
    with nested(bridged, hook, two[0]) as first, nested(bridged, hook, two[1]) as second:
        for restore in (first, second):
            assert restore.act("pre-restore") == []
        for number, restore in enumerate((first, second)):
            said = restore.act("post-restore", f"x{number}")
            assert f"criu-veth: post-restore: eth0: web{number} attached to br{number}" in said
        for number in (0, 1):
            assert bridged.link(f"web{number}")["master"] == f"br{number}"


def ready(restore: Nested) -> None:
    """Up to where the device for CRIU to move has been made."""
    assert restore.act("pre-restore") == []
    restore.act("setup-namespaces")


def test_gc_leaves_a_living_restore_alone(bridged: Host, hook: Path, two: tuple[Path, Path]) -> None:
    with nested(bridged, hook, two[0], *READY) as restore, nested(bridged, hook, two[1]) as other:
        ready(restore)
        assert bridged.has_link("cv0")
        assert cli(bridged, "gc").stdout == "nothing to remove\n"
        assert other.act("pre-restore") == []
        with StandIn(bridged, hook, two[1]) as outside:
            assert outside.act("pre-restore").stderr == ""
        assert bridged.has_link("cv0")


@pytest.mark.skipif(not SEES_ALL, reason="not the PID namespace that the host started with")
def test_gc_by_who_sees_every_process(bridged: Host, hook: Path, two: tuple[Path, Path]) -> None:
    with nested(bridged, hook, two[0], *READY) as restore:
        ready(restore)
        # The kernel gives the number of a namespace that is gone to the next one at once.
        number = os.open(f"/proc/{restore.process.pid}/ns/pid_for_children", os.O_RDONLY)
    try:
        elsewhere = ["unshare", "-p", "-f", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"]
        gc = [sys.executable, "-m", "criu_veth", "gc"]
        assert bridged.run(*elsewhere, *gc).stdout == "nothing to remove\n"
        assert bridged.has_link("cv0")
    finally:
        os.close(number)
    assert cli(bridged, "gc").stdout == "cv0: removed, a restore that died had left it\n"


Restoring = Callable[..., StandIn]


def left(bridged: Host, container: Container, hook: Path, images: Path) -> None:
    """Leave the device of a restore that has died."""
    with StandIn(bridged, hook, images, options=READY) as dead:
        assert dead.act("pre-restore").returncode == 0
        assert dead.act("setup-namespaces", container).returncode == 0
    assert bridged.has_link("cv0")


def test_gc_in_another_network_namespace(
    bridged: Host, container: Container, hook: Path, two: tuple[Path, Path]
) -> None:
    """It sees no device, and must not take it for gone."""
    left(bridged, container, hook, two[0])
    gone = bridged.run("unshare", "-n", sys.executable, "-m", "criu_veth", "gc")
    assert gone.stdout == "nothing to remove\n"
    env = {"CRTOOLS_SCRIPT_ACTION": "pre-restore", "CRTOOLS_IMAGE_DIR": str(two[1]), "PATH": os.environ["PATH"]}
    bridged.run("unshare", "-n", "sh", "-c", '"$0" || :', str(hook), env=env)
    assert cli(bridged, "gc").stdout == "cv0: removed, a restore that died had left it\n"


def test_two_collect_the_same(bridged: Host, container: Container, hook: Path, two: tuple[Path, Path]) -> None:
    """The device goes between the look at it and its removal: as good."""
    left(bridged, container, hook, two[0])
    code = (
        "import sys; from criu_veth import garbage, netlink; was = netlink.delete_link\n"
        "def late(name):\n"
        "    import subprocess; subprocess.run(['ip', 'link', 'del', name], check=True); return was(name)\n"
        "netlink.delete_link = late; print(garbage.collect())"
    )
    assert bridged.run(sys.executable, "-c", code).stdout == "([], [])\n"
    assert cli(bridged, "gc").stdout == "nothing to remove\n"


def test_a_leftover_that_cannot_be_removed_is_no_fault_of_another_restore(
    bridged: Host, container: Container, hook: Path, two: tuple[Path, Path]
) -> None:
    left(bridged, container, hook, two[0])
    fault = "cv0: left by a restore that died, cannot be removed: Operation not permitted (EPERM)"
    weak = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    with StandIn(bridged, hook, two[1]) as restore:
        done = restore.act("pre-restore", prefix=weak)
    assert (done.returncode, done.stderr) == (0, f"criu-veth: pre-restore: warning: {fault}\n")


def test_who_has_nothing_to_do_needs_no_rights(bridged: Host, container: Container, hook: Path, images: Path) -> None:
    user = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    with StandIn(bridged, hook, images) as restore:
        here = {"CRTOOLS_IMAGE_DIR": "/tmp"}  # its own is the superuser's
        for action, who in (("pre-dump", (1 << 22) - 1), ("pre-restore", None), ("setup-namespaces", container)):
            done = restore.act(action, who, prefix=user, env=here)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ("inventory.img", 0, ""),
        ("inventory.img netdev-9.img", 2, "criu-veth: error: pre-restore: must be run as root, not as uid 65534\n"),
        ("other", 0, "criu-veth: pre-restore: warning: the images cannot be seen as uid 65534: nothing done\n"),
    ],
)
def test_a_criu_that_has_more_rights_than_its_user(
    bridged: Host, container: Container, hook: Path, images: Path, files: str, status: int, said: str
) -> None:
    """Its capabilities come from its file: the /proc/PID by which it names the images is the superuser's."""
    bridged.run("sh", "-ec", f"mkdir /run/work; cd /run/work; touch {files}")
    user = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    works_there = ("env", "--chdir=/run/work", *user)
    with StandIn(bridged, hook, images) as restore:
        done = restore.act("pre-restore", prefix=works_there)
        assert (done.returncode, done.stderr) == (status, said)
        if status == 0:
            for action in ("setup-namespaces", "post-restore"):
                done = restore.act(action, container, prefix=works_there)
                assert (done.returncode, done.stderr) == (0, "")


def test_dump_of_a_process_that_is_not_there(bridged: Host, hook: Path, images: Path) -> None:
    """CRIU says so itself, with an errno for its callers."""
    gone = (1 << 22) - 1
    with StandIn(bridged, hook, images) as dump:
        done = dump.act("pre-dump", gone)
    assert (done.returncode, done.stderr) == (
        0,
        f"criu-veth: pre-dump: notice: there is no process {gone}: nothing captured\n",
    )


def test_journal_that_cannot_be_written(
    bridged: Host, container: Container, hook: Path, two: tuple[Path, Path]
) -> None:
    bridged.run("mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", "/run")
    with StandIn(bridged, hook, two[0], options=READY) as restore:
        assert restore.act("pre-restore").returncode == 0
        bridged.run("sh", "-c", "head -c 64M /dev/zero >/run/full 2>/dev/null || :")
        done = restore.act("setup-namespaces", container)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        0,
        f"criu-veth: setup-namespaces: notice: cannot write /run/criu-veth/runs/{restore.run}/journal: No space left on"
        " device; should criu die before it has moved cv0, nobody removes what is left",
    )
    assert bridged.has_link("cv0")


NO_FORK = """
import posix, sys
sys.path.append({root!r})
from criu_veth import hook
def fork():
    raise BlockingIOError(11, "Resource temporarily unavailable")
posix.fork = fork
sys.exit(hook.guarded({environ!r}))
"""


def test_no_process_can_be_made_to_announce(
    bridged: Host, container: Container, hook: Path, two: tuple[Path, Path]
) -> None:
    with StandIn(bridged, hook, two[0]) as restore:
        assert restore.act("pre-restore").returncode == 0
        make_pair(container, "eth0", "x0")
        environ = {
            "CRTOOLS_SCRIPT_ACTION": "post-restore",
            "CRTOOLS_IMAGE_DIR": restore.image_dir,
            "CRTOOLS_INIT_PID": str(container.pid),
        }
        code = NO_FORK.format(root=str(hook.parents[1]), environ=environ)
        done = bridged.run(sys.executable, "-I", "-S", "-c", code)
    assert done.stderr.splitlines()[-1] == (
        "criu-veth: post-restore: warning: the container is not announced: Resource temporarily unavailable (EAGAIN)"
    )
    assert bridged.link("web0")["master"] == "br0"
