"""`criu-veth doctor` on a node, before and after `criu-veth install`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.node import Node

pytestmark = pytest.mark.runtime("runc", "crun", "lxc-checkpoint")
HOOK = "/usr/local/libexec/criu-veth/hook"


def examine(node: Node, *words: str, path: str = "") -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Run doctor; return its status, and its findings by subject: level and text."""
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": path or "/usr/bin:/bin"}
    done = node.run(sys.executable, "-m", "criu_veth", "doctor", "--json", *words, env=env, check=False)
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["subject"], []).append((finding["level"], finding["text"]))
    return done.returncode, found


def test_before_and_after_install(node: Node, install: Callable[..., None]) -> None:
    _, found = examine(node)
    assert found["hook"] == [("warning", f"{HOOK} is not there: criu-veth install")]
    assert found["runc"][0][0] == "warning"
    assert found["runc"][0][1].endswith("does not call the hook: criu-veth install --runtime runc")

    install("runc")
    install("crun")
    status, found = examine(node)
    assert status == 0
    assert found["hook"][0][0] == "ok"
    assert found["criu"][0][1].endswith("criu check is content")
    assert found["runc"][0][1].endswith("calls the hook: /etc/criu/runc.conf")
    assert found["crun"][0][1].endswith("calls the hook: /etc/criu/crun.conf")
    assert found["lxc"] == [("ok", f"/usr/bin/lxc-checkpoint calls the hook when it is given: -A {HOOK}")]
    assert any(level == "ok" and "has veth, bridge, " in text for level, text in found["kernel"])


def test_install_makes_the_key_of_this_hosts_captures(node: Node, install: Callable[..., None]) -> None:
    install("runc")
    key = node.path("/var/lib/criu-veth/key")
    made = key.read_bytes()
    assert (len(made), key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (32, 0o600, 0o700)
    install("crun")
    assert key.read_bytes() == made


def test_a_hook_that_does_not_start(node: Node, install: Callable[..., None]) -> None:
    install("runc")
    hook = node.path(HOOK)
    hook.write_text(hook.read_text().replace("set -- ", "set -- /nonexistent"))

    status, found = examine(node)

    assert status == 1
    assert found["hook"][0][0] == "error"
    assert "does not run: pre-restore: there is no Python for " in found["hook"][0][1]


@pytest.mark.parametrize(
    ("version", "fault"), [("3.17.1", "vdso: Unexpected rt vDSO area bounds"), ("4.1.1", "cannot dump")]
)
def test_a_criu_that_is_known_not_to_work(node: Node, version: str, fault: str) -> None:
    if tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) < (6, 18):
        pytest.skip("on this kernel it works")
    criu = node.path("/usr/local/bin/criu")
    criu.write_text(f"#!/bin/sh\necho Version: {version}\n")
    criu.chmod(0o755)
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-m", "criu_veth", "doctor"]
    done = node.run("env", "PATH=/usr/local/bin:/usr/bin:/bin", *words, env=env, check=False)

    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if " criu: " in line]
    assert line.startswith(f"error    criu: /usr/local/bin/criu {version} on Linux ")
    assert fault in line
    assert line.endswith(": install CRIU 4.2 or newer")


def test_a_runtime_that_has_to_be_there(node: Node) -> None:
    node.run("mount", "--bind", "/dev/null", "/usr/bin/lxc-checkpoint")

    status, found = examine(node, "--runtime", "lxc")

    assert status == 1
    assert found["lxc"][0][1].startswith("there is no lxc-checkpoint on PATH (")


def test_a_wrong_mapping_file(node: Node) -> None:
    node.path("/etc/criu/criu-veth.toml").write_text('mappings = ["nonsense"]')

    status, found = examine(node)

    assert status == 1
    assert found["mapping"][0][0] == "error"
    assert found["mapping"][0][1].startswith("/etc/criu/criu-veth.toml: mappings[0]: 'nonsense' is not a mapping")


def test_crun_without_criu(node: Node) -> None:
    program = node.path("/usr/local/bin/crun")
    program.write_text("#!/bin/sh\necho crun version 1.8.1\necho +SYSTEMD\n")
    program.chmod(0o755)
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-m", "criu_veth", "doctor"]
    done = node.run("env", "PATH=/usr/local/bin:/usr/bin:/bin", *words, env=env, check=False)

    assert "warning  crun: /usr/local/bin/crun 1.8.1 is built without CRIU: it cannot checkpoint" in (
        done.stdout.splitlines()
    )
