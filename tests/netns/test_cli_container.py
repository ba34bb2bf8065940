"""The commands that look at a container, and those that leave something on the host: capture, verify, prepare, gc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import Container, Host, Link, snapshot, wait_for
from lab.cli import cli
from lab.standin import StandIn

ROOT = Path(__file__).parents[2]
HOOK = ROOT / "hooks" / "criu-veth"
WEB = Link(inner="eth0", outer="web0", bridge="br0", addresses=("10.0.0.2/24",), mac="02:00:00:00:00:02", mtu=9000)
FILE = "/etc/criu/criu-veth.toml"


@pytest.fixture
def container(host: Host) -> Container:
    host.bridge("br0", "10.0.0.1/24")
    return host.container([WEB])


@pytest.fixture
def captured(host: Host, container: Container, images: Path) -> Path:
    """An image directory with the state of a container that has gone since."""
    assert cli(host, "capture", "--pid", container.pid, "-o", images / "criu-veth.json").returncode == 0
    container.kill()
    container.wait_unplugged()
    return images


def configure(host: Host, text: str) -> None:
    host.path(FILE).write_text(text)


# --- capture


def test_capture_prints_a_state_file(host: Host, container: Container, images: Path) -> None:
    before = snapshot(host)

    shown = cli(host, "capture", "--pid", container.pid)

    assert (shown.returncode, shown.stderr) == (0, "")
    (veth,) = json.loads(shown.stdout)["veths"]
    assert (veth["inner"]["ifname"], veth["inner"]["mac"], veth["inner"]["mtu"]) == ("eth0", "02:00:00:00:00:02", 9000)
    assert [address["address"] for address in veth["inner"]["addresses"]][:1] == ["10.0.0.2/24"]
    link = host.link("web0")
    assert {"ifname": "web0", "mac": link["address"], "mtu": link["mtu"], "master": "br0"}.items() <= veth[
        "outer"
    ].items()
    assert snapshot(host) == before


def test_capture_writes_the_same_to_a_file(host: Host, container: Container, images: Path) -> None:
    file = images / "criu-veth.json"

    shown = cli(host, "capture", "--pid", container.pid, "--output", file)

    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")
    written, printed = (
        json.loads(text) for text in (file.read_text(), cli(host, "capture", "--pid", container.pid).stdout)
    )
    assert written["veths"] == printed["veths"]
    assert sorted(path.name for path in images.iterdir()) == ["criu-veth.json", "criu-veth.seal"]


def test_capture_says_what_it_leaves_out(host: Host, container: Container) -> None:
    container.run("ip", "link", "add", "br9", "type", "bridge")

    shown = cli(host, "capture", "--pid", container.pid)

    assert shown.returncode == 0
    assert shown.stderr == "criu-veth: notice: br9: bridge device, not touched\n"


def test_capture_cannot_write(host: Host, container: Container, tmp_path: Path) -> None:
    shown = cli(host, "capture", "--pid", container.pid, "-o", f"{tmp_path}/nowhere/x.json")

    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == f"criu-veth: error: cannot write {tmp_path}/nowhere/x.json: No such file or directory\n"


@pytest.mark.parametrize("command", ["capture", "verify"])
def test_there_is_no_container(host: Host, command: str) -> None:
    configure(host, "")
    gone = host.popen("true")
    gone.wait()

    shown = cli(host, command, "--pid", gone.pid)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == f"criu-veth: error: there is no process {gone.pid}\n"

    shown = cli(host, command, "--pid", host.pid)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: process {host.pid} is in this host's own network namespace: it is no container's\n"
    )

    shown = cli(host, command, "--pid", 0)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: {command}: invalid value for '--pid': 0 is not in the range 1<=x<=4194303;"
        f" see criu-veth {command} --help\n"
    )


# --- verify


def test_verify_says_equal(host: Host, container: Container, images: Path) -> None:
    file = images / "criu-veth.json"
    cli(host, "capture", "--pid", container.pid, "-o", file)

    shown = cli(host, "verify", "--pid", container.pid, "--images", images)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"equal: 1 veth ({file})\n", "")

    shown = cli(host, "verify", "--pid", container.pid, "--images", images, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout) == {
        "equal": True,
        "config": None,
        "state": str(file),
        "differences": [],
        "notices": [],
    }


def test_verify_says_each_difference(host: Host, container: Container, images: Path) -> None:
    cli(host, "capture", "--pid", container.pid, "-o", images / "criu-veth.json")
    mac = host.link("web0")["address"]
    host.run("ip", "link", "set", "web0", "mtu", "1500", "address", "02:00:00:00:00:99", "alias", "new\x1b[2J")
    host.run("ip", "link", "property", "add", "dev", "web0", "altname", "another")
    host.sysctl("ipv4.conf.web0.proxy_arp", 1)
    host.run("bridge", "link", "set", "dev", "web0", "hairpin", "on")
    container.run("ip", "address", "del", "10.0.0.2/24", "dev", "eth0")

    shown = cli(host, "verify", "--pid", container.pid, "--images", images)

    assert (shown.returncode, shown.stderr) == (1, "")
    assert shown.stdout.splitlines() == [
        "veths[eth0].inner.addresses[10.0.0.2/24]: wanted, but not there",
        f"veths[eth0].outer.mac: wanted {mac}, found 02:00:00:00:00:99",
        "veths[eth0].outer.mtu: wanted 9000, found 1500",
        "veths[eth0].outer.alias: wanted nothing, found new\\x1b[2J",
        "veths[eth0].outer.port.hairpin: wanted 0, found 1",
        "veths[eth0].outer.altnames[another]: there, but not wanted",
        'veths[eth0].outer.sysctl."ipv4.proxy_arp": wanted the default, found 1',
    ]

    shown = cli(host, "verify", "--pid", container.pid, "--images", images, "--json")
    assert shown.returncode == 1
    report = json.loads(shown.stdout)
    assert report["equal"] is False
    assert {"path": "veths[eth0].outer.mtu", "wanted": 9000, "found": 1500} in report["differences"]


def test_verify_of_a_mapping_file_alone(host: Host, container: Container) -> None:
    configure(
        host,
        '[[veth]]\ninner = "eth0"\nouter = "web0"\nbridge = "br0"\nmtu = 9000\n'
        'sysctl = { "ipv4.proxy_arp" = 0, "ipv4.neigh.retrans_time_ms" = 1000 }\n',
    )
    host.run("ip", "link", "set", "web0", "alias", "not asked for")

    shown = cli(host, "verify", "--pid", container.pid)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"equal: 1 veth ({FILE})\n", "")

    host.sysctl("ipv4.conf.default.proxy_arp", 1)
    host.sysctl("ipv4.conf.web0.proxy_arp", 1)
    host.run("ip", "link", "set", "web0", "nomaster")
    shown = cli(host, "verify", "--pid", container.pid)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert shown.stdout.splitlines() == [
        'veths[eth0].outer.sysctl."ipv4.proxy_arp": wanted 0, found 1',
        "veths[eth0].outer.master: wanted br0, found nothing",
    ]


def test_verify_of_what_is_no_veth_says_so(host: Host, container: Container, images: Path) -> None:
    (images / "criu-veth.toml").write_text('[[veth]]\ninner = "eth7"\nkind = "macvlan"\nparent = "br0"\n')

    shown = cli(host, "verify", "--pid", container.pid, "--images", images)

    assert (shown.returncode, shown.stdout) == (0, f"equal: 0 veths ({images}/criu-veth.toml)\n")
    assert shown.stderr == "criu-veth: notice: eth7: is no veth but a macvlan, not compared\n"


def test_verify_has_nothing_to_go_by(host: Host, container: Container, images: Path) -> None:
    shown = cli(host, "verify", "--pid", container.pid, "--images", images)

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: there is no mapping file ({images}/criu-veth.toml or {FILE}), and {images} holds no"
        " criu-veth.json\n"
    )

    (images / "criu-veth.json").write_text("{")
    shown = cli(host, "verify", "--pid", container.pid, "--images", images)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (f"criu-veth: error: {images}/criu-veth.json: is damaged: Input data was truncated\n")


# --- prepare


def programs(host: Host) -> dict[str, tuple[int, int]]:
    """The programs there are, and by what one tells whether they are the same still."""
    folder = host.path("/run/criu-veth/programs")
    found = sorted(folder.iterdir()) if folder.exists() else []
    return {path.name.rpartition("-")[2]: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_prepare_makes_the_programs_that_a_restore_would_use(host: Host, captured: Path) -> None:
    shown = cli(host, "prepare", captured)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"ready: eth0: web0 ({captured}/criu-veth.json)\n"
    assert list(programs(host)) == ["external", "unknown"]

    assert cli(host, "prepare", "--mode", "empty", captured).returncode == 0
    assert list(programs(host)) == ["empty", "external", "unknown"]
    assert cli(host, "prepare", "--mode", "ready", captured).returncode == 0
    assert len(programs(host)) == 4


def test_the_hook_uses_what_was_prepared(host: Host, captured: Path) -> None:
    cli(host, "prepare", captured)
    (captured / "inventory.img").touch()
    (captured / "netdev-10.img").touch()
    before = programs(host)

    with StandIn(host, HOOK, captured) as standin:
        done = standin.act("pre-restore")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert programs(host) == before


def test_prepare_says_what_a_restore_would_fail_for(host: Host, captured: Path) -> None:
    host.run("ip", "link", "del", "br0")
    host.veth("web0", "web1")

    shown = cli(host, "prepare", captured)

    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.splitlines() == [
        'criu-veth: error: veth eth0: bridge "br0" does not exist on this host (it has none); if it is called'
        ' differently here, write in the mapping file: [remap] bridge = { br0 = "..." }',
        'criu-veth: error: veth eth0: the name "web0" is taken by a veth device; delete or rename it, or choose another'
        " outer name",
    ]
    assert programs(host) == {}


def test_prepare_where_the_container_still_runs(host: Host, container: Container, images: Path) -> None:
    cli(host, "capture", "--pid", container.pid, "-o", images / "criu-veth.json")

    shown = cli(host, "prepare", images)

    assert (shown.returncode, shown.stdout) == (0, f"ready: eth0: web0 ({images}/criu-veth.json)\n")
    assert shown.stderr == (
        'criu-veth: warning: veth eth0: "web0" is there, with a container behind it whose end is "eth0": both must be'
        " gone before the restore\n"
    )


def test_prepare_has_nothing_to_go_by(host: Host, images: Path) -> None:
    shown = cli(host, "prepare", images)

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"criu-veth: error: there is no mapping file ({images}/criu-veth.toml or {FILE}), and {images} holds no"
        " criu-veth.json\n"
    )


def test_prepare_trusts_no_directory_of_others(host: Host, captured: Path) -> None:
    host.path("/run/criu-veth").mkdir(mode=0o777)
    host.path("/run/criu-veth").chmod(0o777)

    shown = cli(host, "prepare", captured)

    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == (
        "criu-veth: error: cannot trust /run/criu-veth: it must be a directory of this user with mode 0700; remove it\n"
    )


# --- gc


@pytest.fixture
def left(host: Host, captured: Path) -> str:
    """The name of a ready device that a restore has left: its criu has died before it moved it."""
    (captured / "inventory.img").touch()
    (captured / "netdev-10.img").touch()
    name = "cv0123456789abc"
    host.path("/etc/criu/default.conf").write_text(f"external netdev[eth0]:{name}\n")
    target = host.container()
    with StandIn(host, HOOK, captured) as standin:
        assert standin.act("pre-restore").returncode == 0
        done = standin.act("setup-namespaces", target)
        assert done.stderr == f"criu-veth: setup-namespaces: eth0: pair made: web0 here, eth0 ready as {name}\n"
        shown = cli(host, "gc")
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, "nothing to remove\n", "")
        assert host.has_link(name)
    return name


def test_gc_removes_what_a_dead_restore_has_left(host: Host, left: str) -> None:
    shown = cli(host, "gc", "--dry-run")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"{left}: left by a restore that died\n", "")
    assert host.has_link(left)

    shown = cli(host, "gc")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"{left}: removed, a restore that died had left it\n"
    wait_for(lambda: not host.has_link(left) and not host.has_link("web0"), "the pair to go")
    assert list(host.path("/run/criu-veth/runs").iterdir()) == []

    assert cli(host, "gc").stdout == "nothing to remove\n"


def test_gc_leaves_a_device_of_that_name_that_is_not_ours(host: Host, left: str) -> None:
    host.run("ip", "link", "set", left, "group", "0")

    for words in ((), ("--dry-run",)):
        shown = cli(host, "gc", *words)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, "nothing to remove\n", "")
    assert host.has_link(left)


def test_gc_removes_programs_whose_images_are_gone(host: Host, captured: Path) -> None:
    cli(host, "prepare", captured)
    folder = host.path("/run/criu-veth/programs")
    names = sorted(path.name for path in folder.iterdir())
    assert cli(host, "gc").stdout == "nothing to remove\n"
    captured.rename(captured.with_name("elsewhere"))

    shown = cli(host, "gc", "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [f"program {name}: what it was made from is gone" for name in names]
    assert sorted(shown.stdout.splitlines()) == lines
    shown = cli(host, "gc")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert sorted(shown.stdout.splitlines()) == [line.replace("what", "removed, what") for line in lines]
    assert list(folder.iterdir()) == []


def test_gc_trusts_no_directory_of_others(host: Host, images: Path) -> None:
    host.path("/run/criu-veth").mkdir(mode=0o700)
    host.path("/run/criu-veth").chmod(0o755)

    shown = cli(host, "gc")

    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == (
        "criu-veth: error: cannot trust /run/criu-veth: it must be a directory of this user with mode 0700; remove it\n"
    )


def test_gc_where_nothing_was_ever_done(host: Host) -> None:
    for words in ((), ("--dry-run",)):
        shown = cli(host, "gc", *words)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, "nothing to remove\n", "")
    assert not host.path("/run/criu-veth").exists()


# --- inspect


def test_inspect_of_a_state_file_alone(host: Host, captured: Path) -> None:
    shown = cli(host, "inspect", captured)

    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"captured on {host.name} at 20")
    assert {
        "eth0: inner mac: 02:00:00:00:00:02",
        "eth0: inner mtu: 9000",
        "eth0: inner addresses: 10.0.0.2/24",
        "eth0: outer ifname: web0",
        "eth0: outer master: br0",
    } <= set(lines)
    assert not [line for line in lines if ": criu " in line or "port" in line]

    report = json.loads(cli(host, "inspect", "--json", captured).stdout)
    assert report == {"state": json.loads((captured / "criu-veth.json").read_text()), "namespaces": None}
