"""Which container a process is in, from files as runtimes leave them."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from criu_veth import container
from criu_veth.state import Container

ID = "0123456789abcdef" * 4


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The /proc directory of process 42, and runtimes that keep what they keep below tmp_path."""
    monkeypatch.setattr(container, "_PROC", str(tmp_path))
    states = tuple((f"{tmp_path}{directory}", runtime, file) for directory, runtime, file in container._STATES)
    monkeypatch.setattr(container, "_STATES", states)
    (tmp_path / "42").mkdir()
    return tmp_path / "42"


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("cgroup", "found"),
    [
        ("0::/user.slice", Container()),
        ("garbage", Container()),
        (f"0::/libpod_parent/libpod-{ID}", Container(runtime="podman", id=ID)),
        (f"0::/machine.slice/libpod-{ID}.scope/container", Container(runtime="podman", id=ID)),
        (f"3:memory:/\n0::/system.slice/docker-{ID}.scope", Container(runtime="docker", id=ID)),
        (f"1:name=systemd:/docker/{ID}", Container(runtime="docker", id=ID)),
        (f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", Container(runtime="containerd", id=ID)),
        (f"0::/kubepods/besteffort/pod0a-1/{ID}", Container(runtime="containerd", id=ID)),
        (f"0::/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope", Container(runtime="cri-o", id=ID)),
        ("0::/lxc.payload.web", Container(runtime="lxc", id="web", names=("web",))),
        ("5:devices:/lxc/web", Container(runtime="lxc", id="web", names=("web",))),
        ("0::/system.slice/runc-web.scope", Container(runtime="runc", id="web", names=("web",))),
    ],
)
def test_cgroup(process: Path, cgroup: str, found: Container) -> None:
    (process / "cgroup").write_text(cgroup + "\n")

    assert container.of_process(42) == found


def test_a_process_that_is_gone() -> None:
    assert container.of_process(1 << 22) == Container()


def test_lxc_says_its_name_in_the_title_of_its_monitor(process: Path) -> None:
    (process / "cgroup").write_text("0::/lxc.payload.web-1\n")
    (process / "stat").write_text("42 (a (b) c) S 41 42 42 0")
    (process.parent / "41").mkdir()
    (process.parent / "41/cmdline").write_text("[lxc monitor] /var/lib/lxc web\0\0")

    assert container.of_process(42) == Container(runtime="lxc", id="web", names=("web",))


def test_runc(process: Path) -> None:
    (process / "cgroup").write_text("0::/anything\n")
    labels = [
        "bundle=/bundles/web",
        "io.kubernetes.cri.container-name=server",
        "io.kubernetes.cri.sandbox-name=web-1",
        "io.kubernetes.cri.sandbox-namespace=shop",
    ]
    put(process.parent / "run/runc/other/state.json", {"init_process_pid": 41, "config": {"labels": []}})
    put(process.parent / "run/runc/web/state.json", {"init_process_pid": 42, "config": {"labels": labels}})

    assert container.of_process(42) == Container(runtime="runc", id="web", names=("web", "server", "shop/web-1/server"))


def test_crun(process: Path) -> None:
    (process / "cgroup").write_text("0::/anything\n")
    put(process.parent / "run/crun/web/status", {"pid": 42, "bundle": "/nowhere"})
    put(process.parent / "run/crun/web/config.json", {"annotations": {"org.criu-veth.name": "front"}})

    assert container.of_process(42) == Container(runtime="crun", id="web", names=("web", "front"))


def test_podman_knows_its_names(process: Path, tmp_path: Path) -> None:
    (process / "cgroup").write_text(f"0::/libpod-{ID}.scope\n")
    storage = tmp_path / "overlay-containers"
    put(storage / "containers.json", [{"id": "other", "names": ["db"]}, {"id": ID, "names": ["web"]}])
    put(process.parent / f"run/crun/{ID}/status", {"pid": 42, "bundle": f"{storage}/{ID}/userdata"})

    assert container.of_process(42) == Container(runtime="podman", id=ID, names=("web",))


@pytest.mark.parametrize("state", ["", "{", "[]", "null", '{"init_process_pid": 42}', '{"config": {"labels": [1]}}'])
def test_what_a_runtime_keeps_may_be_damaged(process: Path, state: str) -> None:
    (process / "cgroup").write_text("0::/runc-web.scope\n")
    path = process.parent / "run/runc/web/state.json"
    path.parent.mkdir(parents=True)
    path.write_text(state)

    assert container.of_process(42).id == "web"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/var/lib/checkpoints/web", Container()),
        (f"/var/lib/docker/containers/{ID}/checkpoints/one", Container(runtime="docker", id=ID)),
        (
            f"/var/lib/containers/storage/overlay-containers/{ID}/userdata/checkpoint",
            Container(runtime="podman", id=ID),
        ),
        ("/var/lib/lxc/web/images", Container(runtime="lxc", id="web", names=("web",))),
    ],
)
def test_image_directory(path: str, found: Container) -> None:
    assert container.of_images(path) == found


def test_a_fifo_in_the_place_of_a_file_keeps_nobody_waiting(process: Path, tmp_path: Path) -> None:
    (process / "cgroup").write_text(f"0::/machine.slice/libpod-{ID}.scope\n")
    storage = tmp_path / "storage/overlay-containers"
    (storage / ID / "userdata").mkdir(parents=True)
    os.mkfifo(storage / "containers.json")
    os.mkfifo(storage / ID / "userdata/config.json")
    put(tmp_path / f"run/crun/{ID}/status", {"pid": 42, "bundle": f"{storage}/{ID}/userdata"})

    assert container.of_process(42) == Container(runtime="podman", id=ID)
    assert container.of_images(f"{storage}/{ID}/userdata/checkpoint") == Container(runtime="podman", id=ID)


def test_a_long_list_of_containers_takes_no_memory(tmp_path: Path) -> None:
    userdata = tmp_path / "overlay-containers" / ID / "userdata"
    userdata.mkdir(parents=True)
    entry = json.dumps({"id": ID, "names": ["web"], "metadata": [[]] * 1000})
    other = json.dumps({"id": "x", "names": ["db"], "metadata": [[]] * 1000})
    (userdata.parent.parent / "containers.json").write_text(f"[{', '.join([other] * 1500 + [entry])}]")
    tracemalloc.start()
    try:
        assert container.of_images(str(userdata)).names == ("web",)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
