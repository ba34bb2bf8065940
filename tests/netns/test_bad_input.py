"""What is wrong with a call, a file or a host: one clear error each, and nothing changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Container, Host, run_action, snapshot, wait_for
from lab.standin import StandIn, make_pair

Restoring = Callable[..., StandIn]

MAPPING = 'mappings = ["eth0:web0@br0"]\n'


@pytest.fixture
def unchanged(bridged: Host, container: Container) -> Iterator[Callable[[], None]]:
    """Asserts, when called and in the end, that nothing has changed on the host since the last `mark`."""
    seen: list[Any] = [snapshot(bridged)]

    def check() -> None:
        assert snapshot(bridged) == seen[-1]

    check.mark = lambda: seen.append(snapshot(bridged))  # type: ignore[attr-defined]
    yield check
    check()


def refused(restore: StandIn, action: str, *args: Any, **options: Any) -> tuple[int, list[str]]:
    """Run the hook; return its status and its lines without the prefix that each must have."""
    done = restore.act(action, *args, **options)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(line.startswith("criu-veth: error: ") for line in lines), done.stderr
    return done.returncode, [line.removeprefix("criu-veth: error: ") for line in lines]


# --- the call


def test_no_action(restoring: Restoring, unchanged: Callable[[], None]) -> None:
    restore = restoring(MAPPING)
    by_criu = "this program is called by criu, as `criu dump|restore --action-script PATH`"
    for value, state in ((None, "is not set"), ("", "is empty")):
        status, lines = refused(restore, "", env={"CRTOOLS_SCRIPT_ACTION": value})
        assert (status, lines) == (2, [f"CRTOOLS_SCRIPT_ACTION {state}: {by_criu}"])


def test_contradictory_actions(restoring: Restoring, unchanged: Callable[[], None]) -> None:
    assert refused(restoring(MAPPING), "pre-restore", env={"CRIU_SCRIPT_ACTION": "post-restore"}) == (
        2,
        [
            "contradictory actions: CRTOOLS_SCRIPT_ACTION=pre-restore and CRIU_SCRIPT_ACTION=post-restore;"
            " unset one of them"
        ],
    )


def test_unknown_action(restoring: Restoring, container: Container, unchanged: Callable[[], None]) -> None:
    done = restoring(MAPPING).act("pre-coffee", container)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == 'criu-veth: notice: unknown action "pre-coffee", nothing done\n'


def test_unknown_action_that_would_write_a_line_of_the_log(restoring: Restoring, container: Container) -> None:
    done = restoring(MAPPING).act("x\ncriu-veth: error: \x1b[2Jall is lost", container)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        'criu-veth: notice: unknown action "x\\ncriu-veth: error: \\x1b[2Jall is lost", nothing done\n'
    )


def test_not_root(restoring: Restoring, container: Container, unchanged: Callable[[], None]) -> None:
    restore = restoring(MAPPING)
    prefix = ("setpriv", "--reuid", "1000", "--clear-groups")
    assert refused(restore, "pre-restore", prefix=prefix) == (
        2, ["pre-restore: must be run as root, not as uid 1000"],
    )  # fmt: skip
    assert refused(restore, "post-restore", container, prefix=prefix) == (
        2, ["post-restore: must be run as root, not as uid 1000"],
    )  # fmt: skip


@pytest.mark.parametrize("value", [None, ""])
def test_no_image_directory(
    restoring: Restoring, container: Container, unchanged: Callable[[], None], value: str | None
) -> None:
    restore = restoring(MAPPING)
    without = {"CRTOOLS_IMAGE_DIR": value}
    assert refused(restore, "pre-restore", env=without) == (2, ["pre-restore: CRTOOLS_IMAGE_DIR is not set"])
    assert refused(restore, "post-restore", container, env=without) == (
        2, ["post-restore: CRTOOLS_IMAGE_DIR is not set"],
    )  # fmt: skip


def test_no_image_directory_when_other_restores_left_their_directories(
    bridged: Host, restoring: Restoring, container: Container
) -> None:
    """An empty name must not lead the shell to /run/criu-veth/runs itself."""
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    for image_dir in (None, "", "/images", "/proc/self/fd/9", "/proc//fd/9"):
        status, lines = refused(restore, "post-restore", container, env={"CRTOOLS_IMAGE_DIR": image_dir})
        assert (status, len(lines)) == (2, 1)


def test_image_directory_is_gone(restoring: Restoring, container: Container, unchanged: Callable[[], None]) -> None:
    restore = restoring(MAPPING)
    for image_dir in (f"/proc/{restore.pid}/fd/77", f"/proc/{1 << 22}/fd/9", "/nowhere", "/etc/hostname"):
        gone = {"CRTOOLS_IMAGE_DIR": image_dir}
        for action, who in (("pre-restore", None), ("post-restore", container)):
            assert refused(restore, action, who, env=gone) == (
                2,
                [f"{action}: CRTOOLS_IMAGE_DIR: {image_dir} is not a directory that is there"],
            )


@pytest.mark.parametrize(
    ("pid", "said"),
    [
        (None, "CRTOOLS_INIT_PID is not set"),
        ("", "CRTOOLS_INIT_PID is not set"),
        ("x", "CRTOOLS_INIT_PID is not a process id: 'x'"),
        ("0", "CRTOOLS_INIT_PID is not a process id: '0'"),
        ("-1", "CRTOOLS_INIT_PID is not a process id: '-1'"),
        ("1 ", "CRTOOLS_INIT_PID is not a process id: '1 '"),
        ("99999999999", "CRTOOLS_INIT_PID is not a process id: '99999999999'"),
        ("99999999", "CRTOOLS_INIT_PID: there is no process 99999999"),
        (str((1 << 22) - 1), f"CRTOOLS_INIT_PID: there is no process {(1 << 22) - 1}"),
    ],
)
def test_init_pid(bridged: Host, container: Container, restoring: Restoring, pid: str | None, said: str) -> None:
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    before = snapshot(bridged)
    assert refused(restore, "post-restore", env={"CRTOOLS_INIT_PID": pid}) == (2, [f"post-restore: {said}"])
    assert snapshot(bridged) == before


def test_init_pid_of_a_process_that_has_ended(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    container.kill()
    before = snapshot(bridged)
    assert refused(restore, "post-restore", container.pid) == (
        2, [f"post-restore: CRTOOLS_INIT_PID: there is no process {container.pid}"],
    )  # fmt: skip
    assert snapshot(bridged) == before


def test_init_pid_in_the_hosts_own_namespace(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    bridged.veth("eth0", "eth1")
    before = snapshot(bridged)
    sleeper = bridged.popen("sleep", "infinity")
    comm = Path(f"/proc/{sleeper.pid}/comm")
    wait_for(lambda: comm.read_text() == "sleep\n", "the process to be on the host")
    assert refused(restore, "post-restore", sleeper.pid) == (
        2,
        [
            f"post-restore: CRTOOLS_INIT_PID: process {sleeper.pid} is in the host's own network namespace: there is no"
            " container to connect"
        ],
    )
    sleeper.kill()
    sleeper.wait()
    assert snapshot(bridged) == before


# --- the mapping file


def not_obeyed(file: Path, culprit: Path, mode: int) -> str:
    return f"{file}: not obeyed, because {culprit} may be written by others (mode {mode:04o}): chmod go-w"


def no_file(file: Path) -> str:
    file.unlink()
    return f"{file}: there is no such mapping file"


def directory(file: Path) -> str:
    file.unlink()
    file.mkdir()
    return f"{file}: is a directory; the mapping file is a file"


def not_toml(file: Path) -> str:
    file.write_text("mappings: []")
    return f"{file}: is not TOML: Expected '=' after a key in a key/value pair (at line 1, column 9)"


def not_utf_8(file: Path) -> str:
    file.write_bytes(b"\xff\xfe")
    return f"{file}: is not UTF-8: byte 0 is 0xff"


def unknown_key(file: Path) -> str:
    file.write_text("mapings = []")
    return f'{file}: unknown key "mapings"'


def wrong_type(file: Path) -> str:
    file.write_text('mappings = "eth0:web0"')
    return f'{file}: mappings: expected an array, got "str"'


def written_by_others(file: Path) -> str:
    file.chmod(0o666)
    return not_obeyed(file, file, 0o666)


def in_a_directory_written_by_others(file: Path) -> str:
    file.parent.chmod(0o777)
    return not_obeyed(file, file.parent, 0o777)


def of_somebody_else(file: Path) -> str:
    os.chown(file, 1000, 0)
    return f"{file}: not obeyed, because {file} belongs to uid 1000; make it root's: chown root"


def two_mappings_that_clash(file: Path) -> str:
    file.write_text('mappings = ["eth0:web0", "eth0:web1"]')
    return f'{file}: mappings[1]: "eth0" is mapped already by mappings[0]'


FILES = [
    no_file, directory, not_toml, not_utf_8, unknown_key, wrong_type, written_by_others,
    in_a_directory_written_by_others, of_somebody_else, two_mappings_that_clash,
]  # fmt: skip


@pytest.mark.parametrize("spoil", FILES, ids=lambda spoil: spoil.__name__)
def test_mapping_file(
    restoring: Restoring, mapping: Path, unchanged: Callable[[], None], spoil: Callable[[Path], str]
) -> None:
    restore = restoring(MAPPING)
    fault = spoil(mapping)
    assert refused(restore, "pre-restore") == (2, [f"pre-restore: {fault}"])


@pytest.mark.parametrize("spoil", FILES, ids=lambda spoil: spoil.__name__)
def test_mapping_file_that_was_good_before(
    restoring: Restoring, mapping: Path, spoil: Callable[[Path], str], container: Container
) -> None:
    """The program that was made of it is not run."""
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    fault = spoil(mapping)
    assert refused(restore, "pre-restore") == (2, [f"pre-restore: {fault}"])


def test_faults_of_a_file_are_reported_together(restoring: Restoring, mapping: Path) -> None:
    restore = restoring('mappings = ["eth0:"]\n[defaults]\nmtu = 67\n')
    assert refused(restore, "pre-restore") == (
        2,
        [
            f"pre-restore: {mapping}: defaults.mtu: 67 is not an MTU that a veth takes (68 to 65535)",
            f"pre-restore: {mapping}: mappings[0]: an interface name is empty",
        ],
    )


# --- the host


def preflight(host: Host, restore: StandIn) -> list[str]:
    """The faults that pre-restore finds on the host, which it must leave as it is."""
    before = snapshot(host)
    status, lines = refused(restore, "pre-restore")
    assert status == 1
    assert snapshot(host) == before
    return [line.removeprefix("pre-restore: ") for line in lines]


def test_bridge_is_not_there(bridged: Host, restoring: Restoring) -> None:
    assert preflight(bridged, restoring('mappings = ["eth0:web0@br7"]')) == [
        'veth eth0: bridge "br7" does not exist on this host (it has br0, br1)'
    ]


def test_no_bridge_at_all(host: Host, restoring: Restoring) -> None:
    assert preflight(host, restoring('mappings = ["eth0:web0@br7"]')) == [
        'veth eth0: bridge "br7" does not exist on this host (it has none)'
    ]


def test_not_a_bridge(bridged: Host, restoring: Restoring) -> None:
    bridged.veth("v0", "v1")
    assert preflight(bridged, restoring('mappings = ["eth0:web0@v0", "eth1:web1@lo"]')) == [
        'veth eth0: "v0" is not a bridge but a veth device',
        'veth eth1: "lo" is not a bridge but a device of another kind',
    ]


def test_bridge_by_its_other_name(bridged: Host, restoring: Restoring, container: Container) -> None:
    bridged.run("ip", "link", "property", "add", "dev", "br0", "altname", "the-bridge-of-the-web-servers")
    bridged.run("ip", "link", "property", "add", "dev", "br0", "altname", "webbr")
    restore = restoring('mappings = ["eth0:web0@webbr"]')
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    assert restore.act("post-restore", container).returncode == 0
    assert bridged.link("web0")["master"] == "br0"


def test_sysctl_that_this_kernel_does_not_have(bridged: Host, restoring: Restoring) -> None:
    text = '[[veth]]\ninner = "eth0"\nouter = "web0"\nsysctl = { "ipv4.proxy_arp" = 1, "ipv4.no_such_thing" = 1 }'
    assert preflight(bridged, restoring(text)) == [
        "veth eth0: this kernel has no sysctl ipv4.no_such_thing for a device"
    ]


def test_route_is_taken(bridged: Host, restoring: Restoring) -> None:
    bridged.run("ip", "route", "add", "10.99.0.0/24", "via", "10.0.0.9")
    text = '[[veth]]\ninner = "eth0"\nouter = "web0"\nroutes = ["10.99.0.0/24", "10.99.0.0/25"]'
    assert preflight(bridged, restoring(text)) == [
        'veth eth0: there is a route to 10.99.0.0/24 already, through "br0"; delete it:'
        " ip route del 10.99.0.0/24 dev br0"
    ]


def test_faults_of_the_host_are_reported_together(bridged: Host, restoring: Restoring) -> None:
    bridged.veth("web1", "v1")
    bridged.run("ip", "link", "property", "add", "dev", "v1", "altname", "web2")
    assert preflight(bridged, restoring('mappings = ["eth0:web0@br7", "eth1:web1@br0", "eth2:web2", "eth3:ok"]')) == [
        'veth eth0: bridge "br7" does not exist on this host (it has br0, br1)',
        'veth eth1: the name "web1" is taken by a veth device; delete or rename it, or choose another outer name',
        'veth eth2: the name "web2" is taken by a veth device (an alternative name of "v1"); delete or rename it,'
        " or choose another outer name",
    ]


def test_what_was_fine_when_the_program_was_made(bridged: Host, restoring: Restoring) -> None:
    """A program that is reused is no reason not to look."""
    restore = restoring(
        '[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\naltnames = ["front"]\nroutes = ["10.99.0.0/24"]'
    )
    assert restore.act("pre-restore").returncode == 0
    bridged.run("ip", "link", "add", "web0", "type", "bridge")
    assert preflight(bridged, restore) == [
        'veth eth0: the name "web0" is taken by a bridge device; delete or rename it, or choose another outer name'
    ]
    bridged.run("ip", "link", "set", "web0", "name", "front")
    assert preflight(bridged, restore) == [
        'veth eth0: the name "front" is taken by a bridge device; delete or rename it, or choose another outer name'
    ]
    bridged.run("ip", "link", "del", "front")
    bridged.run("ip", "route", "add", "10.99.0.0/24", "via", "10.0.0.9")
    assert preflight(bridged, restore) == [
        'veth eth0: there is a route to 10.99.0.0/24 already, through "br0"; delete it:'
        " ip route del 10.99.0.0/24 dev br0"
    ]
    bridged.run("ip", "route", "del", "10.99.0.0/24")
    bridged.run("ip", "link", "del", "br0")
    assert preflight(bridged, restore) == ['veth eth0: bridge "br0" does not exist on this host (it has br1)']
    bridged.veth("br0", "v1")
    assert preflight(bridged, restore) == ['veth eth0: "br0" is not a bridge but a veth device']


def test_spanning_tree_is_warned_of(bridged: Host, restoring: Restoring, container: Container) -> None:
    warning = (
        'criu-veth: pre-restore: warning: veth eth0: bridge "br0" has spanning tree on and a forward delay of 15 s:'
        " its port will be silent for 30 s after the restore\n"
    )
    restore = restoring('mappings = ["eth0:web0@br0", "eth1:web1@br1"]')
    assert restore.act("pre-restore").stderr == ""
    bridged.run("ip", "link", "set", "br0", "type", "bridge", "stp_state", "1")
    for _ in range(2):  # made anew, and found
        done = restore.act("pre-restore")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", warning)
    bridged.run("ip", "link", "set", "br0", "type", "bridge", "forward_delay", "200")
    assert restore.act("pre-restore").stderr == warning.replace("15 s", "2 s").replace("30 s", "4 s")
    bridged.run("ip", "link", "set", "br0", "type", "bridge", "stp_state", "0")
    assert restore.act("pre-restore").stderr == ""


def test_directory_that_others_may_enter(bridged: Host, restoring: Restoring) -> None:
    bridged.run("mkdir", "-m", "755", "/run/criu-veth")
    assert preflight(bridged, restoring(MAPPING)) == [
        "cannot trust /run/criu-veth: it must be a directory of this user with mode 0700; remove it"
    ]


ANEW = "each action makes its program anew"


def write_nothing(host: Host, how: str) -> str:
    """Make /run a file system that takes no more, and return what the hook says of that."""
    if how == "read-only":
        host.run("mount", "-o", "remount,ro", "/run")
        return "cannot use /run/criu-veth: Read-only file system"
    host.run("sh", "-c", "mkdir -m 700 /run/criu-veth && head -c 64M /dev/zero >/run/full 2>/dev/null || :")
    return "No space left on device"


@pytest.mark.parametrize("how", ["read-only", "full"])
def test_run_takes_nothing(bridged: Host, restoring: Restoring, container: Container, how: str) -> None:
    """The work goes on: each action makes what it needs anew."""
    bridged.run("mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", "/run")
    restore = restoring(MAPPING)
    why = write_nothing(bridged, how)
    done = restore.act("pre-restore")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0
    assert line.startswith("criu-veth: pre-restore: warning: cannot ")
    assert line.endswith(f"{why}; {ANEW}")
    for action in ("setup-namespaces", "post-setup-namespaces"):
        assert restore.act(action, container).returncode == 0
    make_pair(container, "eth0", "x0")
    assert restore.act("post-restore", container).returncode == 0
    assert bridged.link("web0")["master"] == "br0"


NO_DIRECTORY = {
    "file": ("/run/criu-veth", "touch /run/criu-veth"),
    "pipe": ("/run/criu-veth", "mkfifo /run/criu-veth"),
    "file in it": ("/run/criu-veth/runs", "mkdir -m 700 /run/criu-veth && touch /run/criu-veth/runs"),
}


@pytest.mark.parametrize("what", NO_DIRECTORY)
def test_something_else_where_the_directory_should_be(
    bridged: Host, restoring: Restoring, container: Container, what: str
) -> None:
    """The work goes on, and what is there stays as it is."""
    path, make = NO_DIRECTORY[what]
    bridged.run("sh", "-c", make)
    restore = restoring(MAPPING)
    done = restore.act("pre-restore")
    assert (done.returncode, done.stderr) == (
        0, f"criu-veth: pre-restore: warning: cannot use {path}: it is not a directory; remove it; {ANEW}\n",
    )  # fmt: skip
    for action in ("setup-namespaces", "post-setup-namespaces"):
        assert restore.act(action, container).returncode == 0
    make_pair(container, "eth0", "x0")

    done = restore.act("post-restore", container)

    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "criu-veth: post-restore: eth0: outer end named web0",
        "criu-veth: post-restore: eth0: web0 attached to br0",
        "criu-veth: post-restore: eth0: web0 up",
        "criu-veth: post-restore: container announced",
    ]
    assert bridged.link("web0")["master"] == "br0"


DAMAGES = {
    "gone": "rm {file}",
    "cut": "truncate -s -1 {file}",
    "of another version": "sed -i '1s/program [0-9]*/program 1/' {file}",
    "all files gone": "rm {file} {run}/owner {run}/*.done; rm -r /run/criu-veth/programs",
    "the whole run gone": "rm -r /run/criu-veth",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_program_that_is_lost_in_the_middle(
    bridged: Host, restoring: Restoring, container: Container, damage: str
) -> None:
    """A container without a network and status 0 is the worst end of all."""
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    run = f"/run/criu-veth/runs/{restore.run}"
    bridged.run("sh", "-c", DAMAGES[damage].format(run=run, file=f"{run}/post-restore"))
    make_pair(container, "eth0", "x0")

    done = restore.act("post-restore", container)

    anew = (
        f"criu-veth: post-restore: warning: {run}/post-restore is not there, damaged or of another version: made anew"
    )
    assert [line for line in done.stderr.splitlines() if "warning" in line] == (
        [] if damage == "the whole run gone" else [anew]
    )
    assert done.returncode == 0
    assert bridged.link("web0")["master"] == "br0"


def test_a_program_that_is_lost_and_cannot_be_made_anew(
    bridged: Host, restoring: Restoring, container: Container, mapping: Path
) -> None:
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    bridged.run("rm", f"/run/criu-veth/runs/{restore.run}/post-restore")
    mapping.unlink()
    make_pair(container, "eth0", "x0")
    done = restore.act("post-restore", container)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"criu-veth: error: post-restore: {mapping}: there is no such mapping file"


# --- the container


def refused_late(host: Host, restore: StandIn, container: Container) -> list[str]:
    """The faults that post-restore finds, after which the host must be as it was."""
    before = snapshot(host)
    status, lines = refused(restore, "post-restore", container)
    assert status == 1
    assert snapshot(host) == before
    return [line.removeprefix("post-restore: ") for line in lines]


def make_settled_pair(container: Container) -> None:
    """Make eth0 and x0, with what the outer end keeps for good once it has been up: its queue."""
    make_pair(container, "eth0", "x0")
    container.host.run("ip", "link", "set", "x0", "up")
    container.host.run("ip", "link", "set", "x0", "down")


def test_inner_end_is_not_there(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring('mappings = ["eth0:web0@br0", "eth7:web7", "eth8:web8"]')
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    assert refused_late(bridged, restore, container) == [
        "veth eth7: the container has no device of that name (mappings[1])",
        "veth eth8: the container has no device of that name (mappings[2])",
    ]


def test_inner_end_is_no_veth(bridged: Host, container: Container, restoring: Restoring) -> None:
    """A macvlan's other end is the host's own device, which must not be taken for an outer end."""
    restore = restoring('mappings = ["eth0:web0@br0", "lo:web1"]')
    assert restore.act("pre-restore").returncode == 0
    bridged.veth("up0", "up1")
    bridged.run("ip", "link", "add", "mv0", "link", "up0", "type", "macvlan")
    bridged.run("ip", "link", "set", "mv0", "name", "eth0", "netns", str(container.pid))
    assert refused_late(bridged, restore, container) == [
        'veth eth0: the container\'s "eth0" is no veth (mappings[0])',
        'veth lo: the container\'s "lo" is no veth (mappings[1])',
    ]


def test_outer_end_is_inside_too(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    container.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    (fault,) = refused_late(bridged, restore, container)
    assert fault.startswith("veth eth0: ")


def test_outer_end_is_on_another_host(
    bridged: Host, container: Container, restoring: Restoring, host_factory: Callable[[], Host]
) -> None:
    """With the index, over there, that a device of this host has here."""
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    bridged.veth("v0", "v1")
    index = str(bridged.link("v0")["ifindex"])
    other = host_factory()
    other.run(
        "ip", "link", "add", "x0", "index", index, "type", "veth", "peer", "name", "eth0", "netns", str(container.pid)
    )
    assert refused_late(bridged, restore, container) == ["veth eth0: its outer end is not in this network namespace"]


def test_bridge_went_away_meanwhile(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring(MAPPING)
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    bridged.run("ip", "link", "del", "br0")
    assert refused_late(bridged, restore, container) == ['bridge "br0": No such device (ENODEV)']
    bridged.run("ip", "link", "add", "br0", "type", "veth", "peer", "name", "y0")
    assert refused_late(bridged, restore, container) == ['"br0" is not a bridge']


def test_names_taken_meanwhile(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring('[[veth]]\ninner = "eth0"\nouter = "web0"\naltnames = ["front"]')
    assert restore.act("pre-restore").returncode == 0
    make_settled_pair(container)
    bridged.run("ip", "link", "set", "br1", "down")
    bridged.run("ip", "link", "set", "br1", "name", "front")
    assert refused_late(bridged, restore, container) == ['eth0: web0 altname "front": File exists (EEXIST)']
    bridged.run("ip", "link", "set", "front", "name", "web0")
    assert refused_late(bridged, restore, container) == ["eth0: outer end named web0: File exists (EEXIST)"]


def test_route_taken_meanwhile(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring('[[veth]]\ninner = "eth0"\nouter = "web0"\nroutes = ["10.99.0.0/24"]')
    assert restore.act("pre-restore").returncode == 0
    make_settled_pair(container)
    bridged.run("ip", "route", "add", "10.99.0.0/24", "via", "10.0.0.9")
    assert refused_late(bridged, restore, container) == ["eth0: web0 route 10.99.0.0/24: File exists (EEXIST)"]


def test_criu_is_told_by_the_status(
    bridged: Host, container: Container, hook: Path, images: Path, mapping: Path
) -> None:
    """The same as CRIU calls it: closed stdin, no descriptors, its own parent."""
    mapping.write_text('mappings = ["eth0:web0@br7"]')
    (images / "netdev-9.img").touch()  # CRIU makes the pair: nobody else can
    env = {"CRIU_VETH_CONFIG": str(mapping)}
    done = run_action(bridged, hook, "pre-restore", images=images, env=env, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        'criu-veth: error: pre-restore: veth eth0: bridge "br7" does not exist on this host (it has br0, br1)\n',
    )


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "2>/dev/full"])
def test_nobody_to_tell_is_no_reason_to_kill_a_container(
    bridged: Host, container: Container, restoring: Restoring, redirection: str
) -> None:
    restore = restoring('[[veth]]\ninner = "eth0"\nouter = "web0"')
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    done = restore.act("post-restore", container, prefix=("sh", "-c", f'exec "$0" {redirection}'))
    assert (done.returncode, done.stdout) == (0, "")
    assert bridged.has_link("web0")
