"""What the hook may import while the application waits, and what it may never import at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "criu_veth"

#: All that the hook has when there is nothing to prepare. Each entry costs every restore its time: a new one needs a
#: measurement (`make bench`), not only a line here.
READY = {
    "_socket",  # 1 ms; `socket` would be 4
    "criu_veth",
    "criu_veth.actions",
    "criu_veth.errors",
    "criu_veth.execute",
    "criu_veth.hook",
    "criu_veth.paths",
    "criu_veth.program",
    "criu_veth.runs",
    "criu_veth.session",
    "criu_veth.way",
    "criu_veth.wire",
}

SHOW = "import sys; print(*sys.modules)"
IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); from criu_veth import hook; print(*sys.modules)"


def modules(code: str, *args: str) -> set[str]:
    """The modules that python, started as the hook starts it, has at the end of `code`."""
    argv = [sys.executable, "-I", "-S", "-c", code, *args]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


def test_the_hook_imports_next_to_nothing() -> None:
    bare = modules(SHOW)
    assert modules(IMPORT, str(PACKAGE.parent)) - bare == READY
    assert not bare & {"site", "os", "re"}, "python -I -S itself has grown"


@pytest.mark.parametrize("name", sorted(READY - {"_socket", "criu_veth"}))
def test_what_is_imported_late_is_imported_in_a_function(name: str) -> None:
    """A module of the ready path imports nothing else at its top, unless it is for the type checker only."""
    tree = ast.parse((PACKAGE / f"{name.removeprefix('criu_veth.')}.py").read_text())
    top = [node for statement in tree.body for node in walk(statement)]
    imported = {name for node in top for name in names(node)}
    assert imported <= READY | {"_thread", "marshal", "posix", "sys"}


def walk(node: ast.AST) -> list[ast.AST]:
    """All nodes that run when the module is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return []
    return [node, *(below for child in ast.iter_child_nodes(node) for below in walk(child))]


def names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.module
        if node.module == "criu_veth":
            return [f"criu_veth.{alias.name}" for alias in node.names if alias.name != "__version__"]
        return [node.module]
    return []


def test_loading_the_message_classes_leaves_pyroute2_whole() -> None:
    """`netlink` loads them without running pyroute2's own __init__; who imports pyroute2 later must not notice."""
    code = (
        "import sys; from criu_veth import netlink; assert 'pyroute2' not in sys.modules;"
        " import pyroute2; assert pyroute2.IPRoute;"
        " from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg; assert ifinfmsg is netlink.ifinfmsg"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
