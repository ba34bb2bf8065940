"""What failed restores leave: a lock in a netns that is not CRIU's, processes that wait for a dead criu."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Container, Criu, Host, Link, Outcome, echo_server, scaled, wait_for
from lab.cli import cli
from lab.container import Program

REPOSITORY = Path(__file__).resolve().parents[2]
HOOK = REPOSITORY / "hooks/criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24", "fd00::2/64"))
POD = "/run/netns/pod"
NOTHING = "nothing to remove\n"
METHODS = ("iptables", "nftables")

#: Rules of the pod's own, in its tables and under names that are like CRIU's.
THEIRS = """
iptables -A INPUT -p tcp --dport 9 -j DROP
iptables -N CRIU-mine
iptables -A OUTPUT -p udp --dport 9 -j CRIU-mine
ip6tables -A INPUT -p tcp --dport 9 -j DROP
ip6tables -A OUTPUT -p tcp --dport 9 -j DROP
nft 'add table inet CRIU-mine; add chain inet CRIU-mine input { type filter hook input priority 0; }'
nft 'add table ip CRIU-1; add chain ip CRIU-1 input'
"""
#: Parts of a lock that are seen at each method, in the order in which they are said.
PARTS = {
    "iptables": ["iptables, IPv4, chain CRIU", "iptables, IPv6, chain CRIU"],
    "nftables": ["nftables, table inet CRIU-"],
}


def script(file: Path, action: str, text: str) -> Path:
    file.write_text(f'#!/bin/sh\nexec </dev/null\n[ "$CRTOOLS_SCRIPT_ACTION" = {action} ] || exit 0\n{text}\n')
    file.chmod(0o755)
    return file


def program(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


# --- a lock that is left in a pod's network namespace


class Pod:
    """A container whose network namespace is also /run/netns/pod, and CRIU's lock method for it."""

    def __init__(self, host: Host, criu: Criu, images: Path, method: str) -> None:
        self.host, self.criu, self.images = host, criu, images
        self.lock = ["--network-lock", method]
        host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
        self.container = host.container([WEB])
        namespace = f"/proc/{self.container.pid}/ns/net"
        host.run("sh", "-ec", f"mkdir -p /run/netns; touch {POD}; mount --bind {namespace} {POD}")
        self.inode = os.stat(namespace).st_ino
        other = echo_server(7001)
        host.popen("nsenter", f"--net={POD}", "--", *other.argv)
        wait_for(Container(host, self.container.pid, (), other).listens, "the pod's other process")
        self.into_pod = Criu(program(images.parent / "criu", f'exec 9<{POD}\nexec {criu.path} "$@"'))

    def dump(self) -> None:
        external = ["--external", f"net[{self.inode}]:pod"]
        self.criu.dump(self.container, self.images, hook=HOOK, args=[*external, *self.lock], tcp_established=True)

    def restore(self, *scripts: Path, check: bool = False, args: tuple[str, ...] = ()) -> Outcome:
        """Restore into the pod; CRIU runs the last script first."""
        more = [word for file in scripts[1:] for word in ("--action-script", str(file))]
        words = ["--inherit-fd", "fd[9]:pod", *self.lock, *more, *args]
        return self.into_pod.restore(
            self.host, self.images, external=(), args=words, hook=scripts[0], check=check, tcp_established=True
        )

    def inside(self, *argv: str) -> str:
        return self.host.run("nsenter", f"--net={POD}", "--", *argv).stdout

    def rules(self) -> list[str]:
        shown = self.inside("sh", "-ec", "nft -n list ruleset; iptables-legacy-save; ip6tables-legacy-save")
        lines = [line.partition("[")[0] for line in shown.splitlines() if not line.startswith("#")]
        return [re.sub("counter packets [0-9]+ bytes [0-9]+", "counter", line) for line in lines]

    def is_dark(self) -> bool:
        """Whether the pod's other process cannot be reached."""
        return is_dark(self.host, 7001)


def is_dark(host: Host, port: int) -> bool:
    with host.socket(socket.AF_INET, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(scaled(0.3))
        try:
            knocking.connect(("10.0.0.2", port))
        except TimeoutError:
            return True
    return False


@pytest.fixture(params=METHODS)
def pod(request: pytest.FixtureRequest, host: Host, criu: Criu, images: Path) -> Pod:
    return Pod(host, criu, images, request.param)


def legacy(host: Host) -> None:
    """Have iptables be the one with tables of its own."""
    text = "for n in iptables ip6tables; do for s in '' -restore -save; do"
    host.run("sh", "-ec", f"{text} ln -sf /usr/sbin/$n-legacy$s /etc/alternatives/$n$s; done; done")


def parts(pod: Pod) -> list[str]:
    """The parts of the lock that gc finds."""
    return [line.removeprefix(f"{POD}: ").partition(": ")[0] for line in found(pod.host, "--dry-run")]


def found(host: Host, *words: str) -> list[str]:
    shown = cli(host, "gc", "--netns", POD, *words)
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout.splitlines()


def warned(host: Host) -> list[str]:
    """What check and doctor say of locked namespaces, which is the same."""
    host.path("/etc/criu/criu-veth.toml").write_text("")
    checked = json.loads(cli(host, "check", "--json").stdout)
    assert checked["ok"]
    doctor = json.loads(cli(host, "doctor", "--json").stdout)
    of_doctor = [one for one in doctor["findings"] if one["subject"] == "leftovers"]
    if not checked["warnings"]:
        text = "CRIU has left no network namespace locked, and no process that waits for it"
        assert of_doctor == [{"level": "ok", "subject": "leftovers", "text": text}]
    else:
        assert [(one["level"], one["text"]) for one in of_doctor] == [("warning", one) for one in checked["warnings"]]
    return list(checked["warnings"])


@pytest.mark.parametrize("flavour", ["nft", "legacy"])
def test_lock_of_a_failed_restore_is_found_and_removed(pod: Pod, flavour: str) -> None:
    host = pod.host
    if flavour == "legacy":
        legacy(host)
    pod.inside("sh", "-ec", THEIRS)
    theirs = pod.rules()
    client = host.connect("10.0.0.2", 7001)
    assert client.ask("before") == "1 before"
    assert (warned(host), found(host)) == ([], [NOTHING.strip()])
    pod.dump()
    failing = script(pod.images.parent / "failing", "post-restore", "exit 1")

    outcome = pod.restore(HOOK, failing)

    assert outcome.returncode != 0
    assert pod.is_dark()
    locked = parts(pod)
    wanted = PARTS[pod.lock[1]]
    assert len(locked) == len(wanted)
    assert all(part.startswith(start) for part, start in zip(locked, wanted, strict=True))
    what = "; ".join(locked)
    assert outcome.said("criu-veth: pre-restore: notice:") == [
        f"criu-veth: pre-restore: notice: network namespace {POD} is locked by CRIU ({what}): a restore of what was"
        " dumped there opens it; if that fails the lock stays, and nothing gets through:"
        f" criu-veth gc --netns {POD} removes it"
    ]
    assert warned(host) == [
        f"network namespace {POD}: CRIU has locked it and works there no more ({what}): nothing gets through until a"
        f" restore into it works, or the lock is removed: criu-veth gc --netns {POD}"
    ]
    assert found(host, "--dry-run") == [f"{POD}: {part}: CRIU's lock" for part in locked]
    assert pod.is_dark()

    assert found(host) == [f"{POD}: {part}: removed, CRIU's lock" for part in locked]

    assert pod.rules() == theirs
    assert not pod.is_dark()
    assert client.ask("after") == "2 after"
    assert (warned(host), found(host)) == ([], [NOTHING.strip()])


def test_lock_is_removed_however_often_it_was_put_there(pod: Pod) -> None:
    """With --empty-ns net CRIU locks once more at each restore."""
    pod.dump()
    failing = script(pod.images.parent / "failing", "post-restore", "exit 1")
    for _ in range(3):
        assert pod.restore(HOOK, failing, args=("--empty-ns", "net")).returncode != 0

    assert len(found(pod.host)) == len(PARTS[pod.lock[1]])

    assert not pod.is_dark()
    assert "CRIU" not in "".join(pod.rules())


@pytest.mark.parametrize("action", ["pre-restore", "post-restore"])
def test_an_action_that_fails_says_that_the_lock_stays(pod: Pod, action: str) -> None:
    pod.dump()
    if action == "pre-restore":
        (pod.images / "criu-veth.toml").write_text("nonsense = 1\n")
        outcome = pod.restore(HOOK)
    else:
        (pod.images / "criu-veth.toml").write_text('[[veth]]\ninner = "eth9"\nouter = "web9"\nbridge = "br0"\n')
        outcome = pod.restore(HOOK)

    assert outcome.returncode != 0
    what = "; ".join(parts(pod))
    assert outcome.said("criu-veth: error:")[-1] == (
        f"criu-veth: error: {action}: CRIU's lock stays in network namespace {POD} ({what}), and nothing gets through"
        f" there: criu-veth gc --netns {POD} removes it"
    )


@pytest.mark.parametrize("action", ["pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore"])
def test_lock_is_left_alone_while_a_criu_restores_there(pod: Pod, action: str) -> None:
    call = f'PYTHONPATH="{REPOSITORY}" "{sys.executable}" -m criu_veth gc --netns {POD} 2>&1 | sed "s/^/gc: /"'
    asking = script(pod.images.parent / "asking", action, call)
    with pod.host.connect("10.0.0.2") as client:
        assert client.ask("before") == "1 before"
        pod.dump()

        outcome = pod.restore(HOOK, asking, check=True)

        (said,) = outcome.said("gc: ")
        assert said.startswith(f"gc: criu-veth: error: {POD}: criu ")
        assert said.endswith(", and needs the lock: without it connections are reset; wait until it has ended")
        assert client.ask("after") == "2 after"
    assert found(pod.host) == [NOTHING.strip()]


def test_lock_is_left_alone_while_a_criu_dumps_there(pod: Pod) -> None:
    call = f'PYTHONPATH="{REPOSITORY}" "{sys.executable}" -m criu_veth gc --netns {POD} >"{pod.images}/said" 2>&1'
    asking = script(pod.images.parent / "asking", "post-dump", f"{call}\nexit 0")
    external = ["--external", f"net[{pod.inode}]:pod", *pod.lock, "--action-script", str(asking)]

    pod.criu.dump(pod.container, pod.images, hook=HOOK, args=external, tcp_established=True)

    said = (pod.images / "said").read_text()
    assert said.startswith(f"criu-veth: error: {POD}: criu (process ")
    assert said.endswith(
        f") is at work on process {pod.container.pid}, and needs the lock: without it connections are reset; wait until"
        " it has ended\n"
    )


@pytest.mark.parametrize("method", METHODS)
def test_lock_of_a_killed_dump_is_found_and_removed(host: Host, criu: Criu, images: Path, method: str) -> None:
    """The application goes on, and nobody hears of it."""
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB])
    killer = script(images.parent / "killer", "post-dump", 'kill -9 "$PPID"')
    words = ["--network-lock", method]
    assert criu.dump(container, images, hook=killer, args=words, check=False).returncode == -signal.SIGKILL
    assert is_dark(host, 7000)
    (line,) = warned(host)
    assert line.startswith(f"network namespace {container.pid}: CRIU has locked it and works there no more (")

    assert cli(host, "gc", "--netns", container.pid).returncode == 0

    assert host.connect("10.0.0.2").ask("hello") == "1 hello"
    assert warned(host) == []


def test_chain_of_that_name_that_is_not_crius_is_left_alone(pod: Pod) -> None:
    pod.inside("sh", "-ec", "iptables -N CRIU; iptables -A CRIU -p tcp --dport 9 -j DROP; iptables -A INPUT -j CRIU")
    before = pod.rules()

    shown = cli(pod.host, "gc", "--netns", POD)

    assert (shown.returncode, shown.stdout, shown.stderr) == (
        1,
        "",
        "criu-veth: error: iptables, IPv4, chain CRIU: has rules that are not CRIU's: look at it, and remove it"
        " yourself\n",
    )
    assert pod.rules() == before


# --- processes that wait for a criu that was killed


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One such test at a time: hosts share the machine's PIDs, and what has no veth yet belongs to any of them."""
    with (tmp_path_factory.getbasetemp().parent / "leftovers.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


WAYS = {"external": ["--external", "veth[eth0]:web0"], "empty": ["--empty-ns", "net"]}
ACTIONS = ("setup-namespaces", "post-setup-namespaces", "post-restore", "network-unlock")


@pytest.fixture
def dumped(host: Host, criu: Criu, images: Path) -> Path:
    host.bridge("br0", "10.0.0.1/24", "fd00::1/64")
    container = host.container([WEB])
    with host.connect("10.0.0.2") as client:
        assert client.ask("before") == "1 before"
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    return images


def killed(host: Host, criu: Criu, images: Path, way: str, action: str, *args: str) -> None:
    """Restore with an action script that kills criu; what that leaves keeps no pipe of the test's."""
    quiet = Criu(program(images.parent / "quiet", f'exec {criu.path} "$@" >/dev/null 2>&1'))
    killer = script(images.parent / "killer", action, 'kill -9 "$PPID"')
    words = [*WAYS[way], *args, "--action-script", str(HOOK)]
    assert quiet.restore(host, images, external=(), args=words, hook=killer, check=False).returncode == -signal.SIGKILL


def again(host: Host, criu: Criu, images: Path, way: str, *, check: bool = False) -> Outcome:
    return criu.restore(host, images, external=(), args=WAYS[way], hook=HOOK, check=check)


def orphans(host: Host) -> list[str]:
    shown = cli(host, "gc", "--kill-orphans", "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    return shown.stdout.splitlines()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_orphan_is_named_and_killed(host: Host, criu: Criu, dumped: Path, way: str, action: str) -> None:
    killed(host, criu, dumped, way, action)
    (line,) = wait_for(
        lambda: [one for one in orphans(host) if one.startswith("process ")], "the orphan to come to rest"
    )
    who = line.partition(": ")[0]
    assert line == f"{who}: its criu is gone, and it waits for it"

    if host.has_link("web0"):
        fault = (
            f'veth eth0: the name "web0" is taken by a restore that cannot go on: its criu is gone, and {who} waits for'
            " it; kill that: criu-veth gc --kill-orphans"
        )
        outcome = again(host, criu, dumped, way)
        when = "setup-namespaces" if way == "empty" else "pre-restore"  # a runtime might make the pair until then
        assert outcome.said("criu-veth: error:") == [f"criu-veth: error: {when}: {fault}"]
        checked = cli(host, "check", "--images", dumped)
        assert (checked.returncode, checked.stderr.splitlines()[-1]) == (1, f"criu-veth: error: {fault}")
    doctor = json.loads(cli(host, "doctor", "--json").stdout)
    text = f"{who} was being restored, its criu is gone, and it waits for it for ever: criu-veth gc --kill-orphans"
    assert {"level": "warning", "subject": "leftovers", "text": text} in doctor["findings"]

    shown = cli(host, "gc", "--kill-orphans")

    assert (shown.returncode, shown.stdout) == (0, f"{who}: killed, its criu is gone, and it waits for it\n")
    assert orphans(host) == [NOTHING.strip()]
    again(host, criu, dumped, way, check=True)
    assert host.connect("10.0.0.2").ask("after") == "2 after"


TREE = """import os, threading, time
[os.fork() for _ in range(2)]
threading.Thread(target=time.sleep, args=(999,)).start()"""


@pytest.mark.parametrize("namespaces", [["net", "mount"], ["net", "pid", "mount"]])
def test_a_whole_tree_is_killed(host: Host, criu: Criu, images: Path, namespaces: list[str]) -> None:
    """Without a PID namespace no death takes the others with it."""
    host.bridge("br0")
    argv = [sys.executable, "-I", "-S", "-c", TREE]
    container = host.container([WEB], Program(argv=argv), namespaces=namespaces)
    wait_for(lambda: len(tree(container.pid)) == 4, "the tree")
    dying = tree(container.pid)
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    wait_for(lambda: not alive(dying), "the numbers to be free")
    killed(host, criu, images, "external", "post-restore")
    (line,) = wait_for(lambda: [one for one in orphans(host) if " and 3 more" in one], "the tree to come to rest")
    pid = int(line.split()[1])
    members = tree(pid)

    assert cli(host, "gc", "--kill-orphans").returncode == 0

    wait_for(lambda: not alive(members), "the dead to be buried")
    again(host, criu, images, "external", check=True)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def tree(pid: int) -> list[int]:
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in below for found in tree(int(child)))]


def named(host: Host, criu: Criu, images: Path, pid: int) -> None:
    """Check that a process is no orphan, to gc and to a restore that wants its name."""
    assert orphans(host) == [NOTHING.strip()]
    shown = cli(host, "gc", "--kill-orphans")
    assert (shown.returncode, shown.stdout) == (0, NOTHING)
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    assert again(host, criu, images, "external").said("criu-veth: error:") == [
        f'criu-veth: error: pre-restore: veth eth0: the name "web0" is taken by a container that runs: process {pid}'
        f" ({name}) lives at the other end; end that container, or choose another outer name"
    ]


@pytest.mark.parametrize("namespaces", [("net", "pid", "mount"), ("net", "mount")])
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_restored_container_is_no_orphan(
    host: Host, criu: Criu, images: Path, namespaces: tuple[str, ...], state: str
) -> None:
    """Its criu has ended, so that its parent is whoever takes orphans in."""
    host.bridge("br0", "10.0.0.1/24")
    container = host.container([WEB], namespaces=list(namespaces))
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    restored = again(host, criu, images, "external", check=True).container
    if state == "stopped":
        os.kill(restored.pid, signal.SIGSTOP)
        wait_for(lambda: stopped(restored), "it to stop")

    named(host, criu, images, restored.pid)

    if state == "stopped":
        os.kill(restored.pid, signal.SIGCONT)
    assert host.connect("10.0.0.2").ask("after") == "1 after"


def stopped(container: Container) -> bool:
    return Path(f"/proc/{container.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_container_whose_criu_waits_for_it_is_no_orphan(host: Host, criu: Criu, dumped: Path) -> None:
    """Without -d criu stays, as the parent."""
    args = ["restore", "-D", str(dumped), "-o", "wait.log", "-v4", "--manage-cgroups=ignore", "--root", "/run/lab/root"]
    host.popen(str(criu.path), *args, *WAYS["external"], "--action-script", str(HOOK), "--pidfile", str(dumped / "pid"))
    finished = "Restore finished successfully"
    wait_for(lambda: (dumped / "wait.log").exists() and finished in (dumped / "wait.log").read_text(), "the restore")

    named(host, criu, dumped, int((dumped / "pid").read_text()))

    assert host.connect("10.0.0.2").ask("after") == "2 after"


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_container_that_is_being_restored_is_no_orphan(
    host: Host, criu: Criu, dumped: Path, way: str, action: str
) -> None:
    call = f'PYTHONPATH="{REPOSITORY}" "{sys.executable}" -m criu_veth gc --kill-orphans 2>&1 | sed "s/^/gc: /"'
    asking = script(dumped.parent / "asking", action, call)

    outcome = criu.restore(
        host, dumped, external=(), args=[*WAYS[way], "--action-script", str(asking)], hook=HOOK, check=True
    )

    assert outcome.said("gc: ") == [f"gc: {NOTHING.strip()}"]
    assert host.connect("10.0.0.2").ask("after") == "2 after"


def test_container_killed_with_its_criu_at_work_is_left_to_run(host: Host, criu: Criu, dumped: Path) -> None:
    """From pre-resume on the application goes on without criu."""
    killed(host, criu, dumped, "external", "pre-resume")

    assert host.connect("10.0.0.2").ask("after") == "2 after"
    assert orphans(host) == [NOTHING.strip()]


def test_helper_of_a_user_namespace_goes_with_its_tree(host: Host, criu: Criu, images: Path) -> None:
    """It waits for messages, outside of the tree, and would stay too."""
    host.bridge("br0")
    container = host.container([WEB], namespaces=["user", "net", "pid", "mount"])
    criu.dump(container, images, hook=HOOK)
    container.wait_unplugged()
    for directory in (images, *images.parents):  # root of a user namespace has to read the images
        if directory.is_relative_to("/tmp/"):
            directory.chmod(0o755)
    for file in images.iterdir():
        file.chmod(0o644)
    killed(host, criu, images, "empty", "post-setup-namespaces")
    (line,) = wait_for(lambda: [one for one in orphans(host) if " and 1 more" in one], "the tree to come to rest")

    shown = cli(host, "gc", "--kill-orphans")

    who = line.partition(": ")[0]
    assert (shown.returncode, shown.stdout) == (0, f"{who}: killed, its criu is gone, and it waits for it\n")
    again(host, criu, images, "empty", check=True)


def test_orphan_in_a_pod_needs_no_lock(pod: Pod) -> None:
    pod.dump()
    quiet = Criu(program(pod.images.parent / "quiet", f'exec {pod.into_pod.path} "$@" >/dev/null 2>&1'))
    pod.into_pod = quiet
    killer = script(pod.images.parent / "killer", "post-restore", 'kill -9 "$PPID"')
    assert pod.restore(HOOK, killer).returncode == -signal.SIGKILL
    (line,) = wait_for(lambda: [one for one in orphans(pod.host) if one.startswith("process ")], "the orphan to rest")
    assert pod.is_dark()

    assert len(found(pod.host)) == len(PARTS[pod.lock[1]])

    assert not pod.is_dark()
    assert cli(pod.host, "gc", "--kill-orphans").stdout.startswith(line.partition(": ")[0])
    assert not pod.is_dark()
