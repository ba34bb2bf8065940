"""What is no leftover: a container that runc or crun restores just now, or has restored."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cli import cli
from lab.node import Node
from lab.oci import Oci

REPOSITORY = Path(__file__).parents[2]
POD = "/run/netns/web"
CRUN_LINES = ("external veth[eth0]:web0", "manage-cgroups=ignore")
ACTIONS = "pre-restore | setup-namespaces | post-setup-namespaces | post-restore | network-unlock | pre-resume"
RUNTIMES = [pytest.param(name, marks=pytest.mark.runtime(name)) for name in ("runc", "crun")]


def asking(file: Path, *words: str) -> str:
    """A line for CRIU's configuration: a script that runs `criu-veth WORDS` at each action of a restore."""
    call = f'PYTHONPATH="{REPOSITORY}" "{sys.executable}" -m criu_veth {" ".join(words)}'
    file.write_text(
        f"#!/bin/sh\nexec </dev/null\ncase $CRTOOLS_SCRIPT_ACTION in {ACTIONS}) ;; *) exit 0 ;; esac\n"
        f"{call} >>{file}.said 2>&1 || true\n"
    )
    file.chmod(0o755)
    return f"action-script {file}"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_container_is_no_orphan_at_any_action(
    node: Node, install: Callable[..., None], tmp_path: Path, runtime: str
) -> None:
    """For runc criu is not the parent of what it restores, but traces it."""
    line = asking(tmp_path / "asking", "gc", "--kill-orphans")
    install(runtime, line, *(CRUN_LINES if runtime == "crun" else ()))
    container = Oci(node, runtime, tmp_path)
    container.start()
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"
    container.checkpoint()
    node.wait_no_link("web0")

    container.restore()

    assert Path(f"{tmp_path}/asking.said").read_text().splitlines() == ["nothing to remove"] * 6
    assert client.ask("again") == "2 again"


@pytest.mark.runtime("runc")
def test_lock_is_left_alone_at_every_action_that_needs_it(
    node: Node, install: Callable[..., None], tmp_path: Path
) -> None:
    install("runc", asking(tmp_path / "asking", "gc", "--netns", POD))
    node.run("ip", "netns", "add", "web")
    container = Oci(node, "runc", tmp_path, netns=POD)
    container.plug()
    container.start()
    client = node.connect("10.0.0.2")
    assert client.ask("hello") == "1 hello"
    container.checkpoint()

    container.restore()

    said = Path(f"{tmp_path}/asking.said").read_text().splitlines()
    assert len(said) == 6
    for line in said:
        assert line.startswith(f"criu-veth: error: {POD}: ")
        assert line.endswith(", and needs the lock: without it connections are reset; wait until it has ended")
    assert client.ask("again") == "2 again"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_orphan_of_a_runtime_is_killed(node: Node, install: Callable[..., None], tmp_path: Path, runtime: str) -> None:
    killer = tmp_path / "killer"
    killer.write_text(
        f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-restore ] || [ ! -e {tmp_path}/now ] || kill -9 "$PPID"\n'
    )
    killer.chmod(0o755)
    install(runtime, f"action-script {killer}", *(CRUN_LINES if runtime == "crun" else ()))
    container = Oci(node, runtime, tmp_path)
    container.start()
    container.checkpoint()
    node.wait_no_link("web0")
    (tmp_path / "now").touch()
    assert container.restore(check=False) != 0
    (tmp_path / "now").unlink()

    shown = cli(node, "gc", "--kill-orphans")

    assert shown.stdout.endswith(": killed, its criu is gone, and it waits for it\n")
    node.wait_no_link("web0")
    node.run(runtime, "delete", "--force", "web", check=False)  # crun remembers it, too
    container.restore()
