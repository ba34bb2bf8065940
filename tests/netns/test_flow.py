"""One restore from stage to stage: what is made when, what is used again, and what a second call does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from criu_veth.actions import KNOWN
from lab import Container, Host, run_action, snapshot, wait_for
from lab.standin import StandIn, make_pair

pytestmark = pytest.mark.vm

Restoring = Callable[..., StandIn]

EVERYTHING = """
[defaults]
announce = false
[[veth]]
inner = "eth0"
outer = "web0"
bridge = "br0"
mac = "02:00:00:00:00:01"
mtu = 1400
txqueuelen = 500
alias = "web, front"
altnames = ["front", "web-front"]
addresses = ["10.7.0.1/24", "fd07::1/64"]
routes = ["10.99.0.0/24", "fd99::/64", "10.98.0.0/24 metric 7"]
sysctl = { "ipv4.proxy_arp" = 1 }
port = { hairpin = true, isolated = true, learning = false, cost = 7 }
"""


def programs(host: Host) -> dict[str, int]:
    """The programs on the host, with their inodes: one that was made anew has another."""
    return {path.name: path.stat().st_ino for path in host.path("/run/criu-veth/programs").iterdir()}


def runs(host: Host) -> dict[str, list[str]]:
    """What each restore still has to do."""
    directories = host.path("/run/criu-veth/runs").iterdir()
    return {path.name: sorted(entry.name for entry in path.iterdir() if entry.name in KNOWN) for path in directories}


def without_programs(host: Host) -> object:
    return {key: value for key, value in snapshot(host).items() if key != "programs"}


def test_stages_of_one_restore(bridged: Host, container: Container, restoring: Restoring) -> None:
    restore = restoring(EVERYTHING)
    before = without_programs(bridged)
    assert restore.act("pre-restore").returncode == 0
    assert without_programs(bridged) == before, "pre-restore makes a program and touches nothing"
    assert runs(bridged) == {restore.run: ["post-restore"]}
    for stage in ("setup-namespaces", "post-setup-namespaces"):
        done = restore.act(stage, container)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert without_programs(bridged) == before
    make_pair(container, "eth0", "x0")
    done = restore.act("post-restore", container)
    assert done.returncode == 0, done.stderr
    assert runs(bridged) == {restore.run: []}


def wait_for_addresses(host: Host) -> None:
    """Until duplicate address detection is over: the kernel adds a route then for each address."""
    wait_for(lambda: not any(host.ip("-6", "address", "show", "tentative")), "usable IPv6 addresses")


def test_second_call_of_a_stage(bridged: Host, container: Container, restoring: Restoring) -> None:
    """CRIU 4.1.1 with a runtime's configuration file runs every script twice."""
    restore = restoring(EVERYTHING)
    for _ in range(2):
        assert restore.act("pre-restore").returncode == 0
    for _ in range(2):
        assert restore.act("setup-namespaces", container).returncode == 0
    make_pair(container, "eth0", "x0")
    first = restore.act("post-restore", container)
    assert first.returncode == 0
    wait_for_addresses(bridged)
    after = snapshot(bridged)
    second = restore.act("post-restore", container)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert snapshot(bridged) == after


def test_everything_again_changes_nothing(bridged: Host, container: Container, restoring: Restoring) -> None:
    """The same operations on an outer end that has it all: each finds that it is already so."""
    restore = restoring(EVERYTHING)
    assert restore.act("pre-restore").returncode == 0
    run = bridged.path(f"/run/criu-veth/runs/{restore.run}")
    make_pair(container, "eth0", "x0")
    first = restore.act("post-restore", container)
    assert first.returncode == 0, first.stderr
    wait_for_addresses(bridged)
    after = without_programs(bridged)
    ports = bridged.bridge_json("link", "show", "dev", "web0")
    (run / "post-restore.done").rename(run / "post-restore")
    second = restore.act("post-restore", container)
    assert (second.returncode, second.stderr) == (0, first.stderr)
    wait_for_addresses(bridged)
    assert without_programs(bridged) == after
    assert bridged.bridge_json("link", "show", "dev", "web0") == ports


def test_program_is_used_again(bridged: Host, container: Container, restoring: Restoring) -> None:
    first = restoring(EVERYTHING)
    assert first.act("pre-restore").returncode == 0
    made = programs(bridged)
    second = restoring()
    assert second.act("pre-restore").returncode == 0
    assert programs(bridged) == made
    assert runs(bridged) == {first.run: ["post-restore"], second.run: ["post-restore"]}


def test_program_is_made_anew_when_the_mapping_file_changes(
    bridged: Host, container: Container, restoring: Restoring
) -> None:
    restore = restoring('mappings = ["eth0:web0@br0"]')
    assert restore.act("pre-restore").returncode == 0
    restore = restoring('mappings = ["eth0:web1@br1"]')
    assert restore.act("pre-restore").returncode == 0
    make_pair(container, "eth0", "x0")
    assert restore.act("post-restore", container).returncode == 0
    assert bridged.link("web1")["master"] == "br1"


def test_two_restores_at_a_time(bridged: Host, container: Container, hook: Path, mapping: Path, tmp_path: Path) -> None:
    """Of different images, by one mapping file: each gets its own names."""
    mapping.write_text('mappings = ["eth0:{image}@br0"]')
    env = {"CRIU_VETH_CONFIG": str(mapping)}
    other = bridged.container()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with StandIn(bridged, hook, tmp_path / "one", env) as one, StandIn(bridged, hook, tmp_path / "two", env) as two:
        assert one.act("pre-restore").returncode == 0
        assert two.act("pre-restore").returncode == 0
        make_pair(container, "eth0", "x0")
        make_pair(other, "eth0", "x1")
        assert one.act("post-restore", container).returncode == 0
        assert two.act("post-restore", other).returncode == 0
    for name, who in (("one", container), ("two", other)):
        assert bridged.link(name)["link_index"] == who.ip("link", "show", "eth0")[0]["ifindex"]


def test_left_by_a_restore_that_failed_and_dropped_by_the_next(
    bridged: Host, hook: Path, images: Path, mapping: Path
) -> None:
    mapping.write_text('mappings = ["eth0:web0"]')
    env = {"CRIU_VETH_CONFIG": str(mapping)}
    with StandIn(bridged, hook, images, env) as failed:
        assert failed.act("pre-restore").returncode == 0
    assert runs(bridged) == {failed.run: ["post-restore"]}
    with StandIn(bridged, hook, images, env) as restore:
        assert restore.act("pre-restore").returncode == 0
        assert runs(bridged) == {restore.run: ["post-restore"]}


# --- where the mapping file is


@pytest.mark.parametrize("where", ["variable", "images", "default"])
def test_first_mapping_file_found_is_used(
    bridged: Host, container: Container, hook: Path, images: Path, mapping: Path, where: str
) -> None:
    if where in {"variable", "images"}:
        (images / "criu-veth.toml").write_text('mappings = ["eth0:images"]')
    mapping.write_text('mappings = ["eth0:variable"]')
    bridged.path("/etc/criu/criu-veth.toml").write_text('mappings = ["eth0:by-default"]')
    env = {"CRIU_VETH_CONFIG": str(mapping)} if where == "variable" else {}
    with StandIn(bridged, hook, images, env) as restore:
        assert restore.act("pre-restore").returncode == 0
        make_pair(container, "eth0", "x0")
        assert restore.act("post-restore", container).returncode == 0
    assert bridged.has_link({"default": "by-default"}.get(where, where))


NOTHING_TO_GO_BY = (
    "criu-veth: pre-restore: notice: the images hold no criu-veth.json, and there is no mapping file"
    " (/etc/criu/criu-veth.toml, or criu-veth.toml in the images): the network is left as CRIU makes it; dumped with"
    ' the hook, or with a mapping such as mappings = ["veth[eth0]:NAME@BRIDGE"], a container gets its outer ends back\n'
)


def test_no_mapping_file_anywhere(bridged: Host, container: Container, hook: Path, images: Path) -> None:
    """Nobody asked for anything, so the restore goes on as without the hook."""
    with StandIn(bridged, hook, images) as restore:
        done = restore.act("pre-restore")
        assert (done.returncode, done.stderr) == (0, NOTHING_TO_GO_BY)
        make_pair(container, "eth0", "x0")
        before = snapshot(bridged)
        for action in ("setup-namespaces", "post-setup-namespaces", "post-restore", "post-resume"):
            done = restore.act(action, container)
            assert (done.returncode, done.stderr) == (0, "")
        assert snapshot(bridged) == before


def test_no_mapping_file_and_no_device(bridged: Host, container: Container, hook: Path, images: Path) -> None:
    with StandIn(bridged, hook, images) as restore:
        for image in images.glob("netdev-*"):
            image.unlink()
        for action in ("pre-restore", "setup-namespaces", "post-restore"):
            done = restore.act(action, None if action == "pre-restore" else container)
            assert (done.returncode, done.stderr) == (0, "")


def test_fault_of_a_file_in_the_images_names_it_as_people_do(bridged: Host, hook: Path, images: Path) -> None:
    (images / "criu-veth.toml").write_text("x = 1")
    with StandIn(bridged, hook, images) as restore:
        done = restore.act("pre-restore")
        assert (done.returncode, done.stderr) == (
            2, f'criu-veth: error: pre-restore: {images}/criu-veth.toml: unknown key "x"\n',
        )  # fmt: skip


def test_mapping_file_that_comes_later_into_the_images_goes_first(
    bridged: Host, container: Container, hook: Path, images: Path
) -> None:
    bridged.path("/etc/criu/criu-veth.toml").write_text('mappings = ["eth0:web0"]')
    with StandIn(bridged, hook, images) as restore:
        assert restore.act("pre-restore").returncode == 0
        (images / "criu-veth.toml").write_text('mappings = ["eth0:web1"]')
        assert restore.act("pre-restore").returncode == 0
        make_pair(container, "eth0", "x0")
        assert restore.act("post-restore", container).returncode == 0
        assert bridged.has_link("web1")


def test_relative_mapping_file(bridged: Host, hook: Path, images: Path, tmp_path: Path) -> None:
    """Taken from the directory in which the hook runs: criu's."""
    (images / "web.toml").write_text("mappings = 1")
    done = run_action(bridged, hook, "pre-restore", images=images, env={"CRIU_VETH_CONFIG": "web.toml"}, check=False)
    assert (done.returncode, done.stderr) == (
        2, 'criu-veth: error: pre-restore: web.toml: mappings: expected an array, got "int"\n',
    )  # fmt: skip


# --- as CRIU calls it


def test_image_directory_without_criu_in_its_name(
    bridged: Host, container: Container, hook: Path, images: Path, mapping: Path
) -> None:
    """A caller that is not CRIU: the restore is known by the hook's parent then, to both of its halves."""
    mapping.write_text('mappings = ["eth0:web0@br0"]')
    (images / "inventory.img").touch()
    (images / "netdev-9.img").touch()
    make = f"ip link add x0 type veth peer name eth0 netns {container.pid}"
    script = (
        f'CRTOOLS_SCRIPT_ACTION=pre-restore "$1" && CRTOOLS_SCRIPT_ACTION=setup-namespaces "$1" && {make} &&'
        f' CRTOOLS_SCRIPT_ACTION=post-restore "$1"'
    )
    env = {
        "PATH": os.environ["PATH"],
        "CRIU_VETH_CONFIG": str(mapping),
        "CRTOOLS_IMAGE_DIR": str(images),
        "CRTOOLS_INIT_PID": str(container.pid),
    }
    done = bridged.run("sh", "-c", script, "criu", str(hook), "restore", env=env)
    assert done.stderr.splitlines()[:-1] == [
        "criu-veth: post-restore: eth0: outer end named web0",
        "criu-veth: post-restore: eth0: web0 attached to br0",
        "criu-veth: post-restore: eth0: web0 up",
    ]


def test_descriptors_and_directory_as_criu_leaves_them(
    bridged: Host, container: Container, hook: Path, images: Path, mapping: Path
) -> None:
    """The hook has no stdin; what the hook opens first must not become it, nor what it says end up in a file."""
    mapping.write_text('mappings = ["eth0:web0"]')
    env = {"CRIU_VETH_CONFIG": str(mapping)}
    assert run_action(bridged, hook, "pre-restore", images=images, env=env).stderr == ""
    assert sorted(path.name for path in images.iterdir()) == []


PEEK = """
import sys
bare = set(sys.modules)
sys.path.append({root!r})
from criu_veth import hook
status = hook.guarded({environ!r})
print(status, *(set(sys.modules) - bare))
"""

READY = {
    "_socket",
    "criu_veth",
    "criu_veth.actions",
    "criu_veth.errors",
    "criu_veth.execute",
    "criu_veth.hook",
    "criu_veth.paths",
    "criu_veth.program",
    "criu_veth.runs",
    "criu_veth.service",
    "criu_veth.session",
    "criu_veth.way",
    "criu_veth.wire",
    "criu_veth.announce",
    *([] if sys.version_info >= (3, 12) else ["_ctypes"]),  # for setns()
}


def test_ready_path_imports_nothing_else(bridged: Host, container: Container, restoring: Restoring, hook: Path) -> None:
    """What tests/unit/test_imports.py says of the import holds for the work as well, stage by stage."""
    restore = restoring(EVERYTHING.replace("announce = false", ""))
    assert restore.act("pre-restore").returncode == 0
    for action in ("pre-restore", "post-restore"):
        if action == "post-restore":
            make_pair(container, "eth0", "x0")
        environ = {
            **restore.env,
            "CRTOOLS_SCRIPT_ACTION": action,
            "CRTOOLS_IMAGE_DIR": restore.image_dir,
            "CRTOOLS_INIT_PID": str(container.pid),
        }
        code = PEEK.format(root=str(hook.parents[1]), environ=environ)
        status, *imported = bridged.run(sys.executable, "-I", "-S", "-c", code).stdout.split()
        assert status == "0"
        assert set(imported) <= READY


def test_hundreds_of_veths(bridged: Host, container: Container, restoring: Restoring) -> None:
    """More than one batch holds, and more answers than a socket's buffer has room for by default."""
    count = 300
    mappings = [f"eth{n}:web{n}@br{n % 2}" for n in range(count)]
    port = "[defaults]\nannounce = false\nmtu = 1400\nport = { hairpin = true }\nalias = '" + "x" * 200 + "'\n"
    restore = restoring(f"mappings = {json.dumps(mappings)}\n{port}")
    assert restore.act("pre-restore").returncode == 0
    pairs = [f"link add x{n} type veth peer name eth{n} netns {container.pid}" for n in range(count)]
    bridged.run("ip", "-batch", "-", stdin="\n".join(pairs))
    done = restore.act("post-restore", container)
    assert done.returncode == 0, done.stderr[:1000]
    inside = {link["ifindex"]: link["ifname"] for link in container.ip("link", "show")}
    links = {link["ifname"]: link for link in bridged.ip("link", "show")}
    for n in range(count):
        link = links[f"web{n}"]
        assert inside[link["link_index"]] == f"eth{n}"
        assert (link["master"], link["mtu"], "UP" in link["flags"]) == (f"br{n % 2}", 1400, True)
        assert link["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert len(done.stderr.splitlines()) == 6 * count


def test_as_an_ordinary_user_would_find_it(hook: Path) -> None:
    """Executable, with an interpreter that every machine has, and no argument needed."""
    assert os.access(hook, os.X_OK)
    assert hook.read_text().startswith("#!/bin/sh\n")
    assert shutil.which("sh")
    done = subprocess.run([hook], env={"CRTOOLS_SCRIPT_ACTION": "network-lock"}, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
