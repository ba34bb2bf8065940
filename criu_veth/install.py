"""Puts the hook where every runtime's configuration can name it, and names it there.

What CRIU and the runtimes read: ``/etc/criu/default.conf`` is criu's own (``criu/config.c``), ``runc.conf`` and
``crun.conf`` in the same directory are given to criu by runc and crun. lxc-checkpoint reads no file; it takes ``-A``.
"""

import contextlib
import difflib
import os
import shlex
import stat
import sys
from typing import NamedTuple

import criu_veth
from criu_veth.config import trust_fault
from criu_veth.errors import InputError, OperationError, errno_text

#: Where the hook is put: a place that no environment has a say in.
HOOK = "/usr/local/libexec/criu-veth/hook"

#: Runtime to the CRIU configuration file that is in force whenever it calls CRIU; lxc-checkpoint has none.
CONFIGURATIONS = {
    "criu": "/etc/criu/default.conf",
    "runc": "/etc/criu/runc.conf",
    "crun": "/etc/criu/crun.conf",
    "lxc": None,
}

_OPTION = "action-script"
_FIRST, _LAST = "self=$0\n", "for python; do\n"


class Change(NamedTuple):
    """One file that is to become ``after`` (None: to be removed); ``before`` is what it holds, None if it is not there.

    ``path`` is where the file is now, below the root that was asked for; ``name`` what it is called there.
    """

    path: str
    name: str
    before: str | None
    after: str | None
    mode: int = 0o644

    @property
    def is_needed(self) -> bool:
        """Whether the file is not as it should be."""
        if self.before != self.after:
            return True
        return self.after is not None and self.name == HOOK and self.mode != _mode(self.path)

    def diff(self) -> list[str]:
        """Return what changes, as ``diff -u`` shows it; of the hook, which is long, only that it does."""
        if self.name == HOOK:
            verb = "is new" if self.before is None else "is removed" if self.after is None else "changes"
            return [f"{self.name}: {verb}"]
        old, new = ("/dev/null" if text is None else self.name for text in (self.before, self.after))
        before, after = ((text or "").splitlines() for text in (self.before, self.after))
        return list(difflib.unified_diff(before, after, old, new, lineterm=""))

    def apply(self) -> None:
        """Write or remove the file, whole or not at all.

        Raises OperationError.
        """
        try:
            if self.after is None:
                os.unlink(self.path)
            else:
                _write(self.path, self.after, self.mode)
        except OSError as error:
            raise OperationError(f"cannot change {self.path}: {errno_text(error.errno or 0)}") from None


def hook_text(source: str, python: str, package_root: str) -> str:
    """Return the hook's text with its interpreter and its package's directory fixed.

    ``source`` is the hook as it comes, which finds both from where it lies. Raises OperationError.
    """
    start, end = source.find(_FIRST), source.find(_LAST)
    if start < 0 or end < start:
        raise OperationError("the hook is not the one of this criu-veth: install criu-veth again")
    fixed = [f"self={shlex.quote(HOOK)}", f"root={shlex.quote(package_root)}", f"set -- {shlex.quote(python)}"]
    return source[:start] + "# Fixed by `criu-veth install`.\n" + "\n".join(fixed) + "\n" + source[end:]


def own_python(root: str) -> str:
    """Return this interpreter as a system whose root directory is at ``root`` knows it."""
    return _below(os.path.abspath(sys.executable), root)


def own_package_root(root: str) -> str:
    """Return the directory that holds this package, as a system whose root directory is at ``root`` knows it."""
    return _below(os.path.dirname(os.path.dirname(os.path.abspath(criu_veth.__file__))), root)


def _below(path: str, root: str) -> str:
    root = os.path.abspath(root).rstrip("/")
    return path.removeprefix(root) if root and path.startswith(root + "/") else path


def plan_install(runtimes: list[str], root: str, hook: str, python: str) -> list[Change]:
    """Return what has to change so that each of ``runtimes`` calls the hook; ``hook`` is where it lies as it came.

    Raises InputError or OperationError.
    """
    with open(hook, encoding="utf-8") as stream:
        text = hook_text(stream.read(), python, own_package_root(root))
    changes = [Change(_at(root, HOOK), HOOK, _text(_at(root, HOOK)), text, 0o755)]
    return changes + [_configuration(root, name, add=True) for name in _files(runtimes)]


def plan_uninstall(root: str) -> list[Change]:
    """Return what has to change so that nothing of `plan_install` is left.

    Raises InputError.
    """
    changes = [_configuration(root, name, add=False) for name in _files(list(CONFIGURATIONS))]
    path = _at(root, HOOK)
    return [*changes, Change(path, HOOK, _text(path), None)]


def remove_empty_directory(root: str) -> None:
    """Remove the directory that `plan_install` made for the hook."""
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(_at(root, HOOK)))


def _files(runtimes: list[str]) -> list[str]:
    return [name for runtime in runtimes if (name := CONFIGURATIONS[runtime]) is not None]


def _configuration(root: str, name: str, *, add: bool) -> Change:
    path = _at(root, name)
    if root.strip("/") and os.path.islink(path):
        raise InputError(f"{path}: is a symbolic link, which may lead out of {root}; it is left alone")
    path = os.path.realpath(path)
    before = _text(path)
    lines = (before or "").splitlines()
    kept = [line for line in lines if not is_ours(line)]
    first = next((number for number, line in enumerate(lines) if is_ours(line)), len(kept))
    if add:
        kept.insert(min(first, len(kept)), f"{_OPTION} {HOOK}")
    after = "".join(line + "\n" for line in kept)
    if not add and (before is None or not after.strip()):
        return Change(path, name, before, None if before != after else before)
    return Change(path, name, before, before if kept == lines else after, _mode(path) or 0o644)


def scripts(text: str) -> list[str]:
    """Return the action scripts that a CRIU configuration file names."""
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].replace("=", " ", 1).split(None, 1)
        if len(words) == 2 and words[0] == _OPTION:
            found.append(words[1].strip().strip("\"'"))
    return found


def is_ours(line: str) -> bool:
    """Say whether a line of a CRIU configuration file names this project's hook, at its fixed path or another."""
    return any(path == HOOK or path.endswith("/hooks/criu-veth") for path in scripts(line))


def _at(root: str, path: str) -> str:
    return root.rstrip("/") + path


def _text(path: str) -> str | None:
    """Return what a file holds, None if there is none.

    Raises InputError for one that is no text or cannot be read.
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; it is left alone") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {errno_text(error.errno or 0)}") from None


def _mode(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return 0


def _write(path: str, text: str, mode: int) -> None:
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    temporary = f"{directory}/.{os.path.basename(path)}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def untrusted(python: str, package_root: str) -> list[str]:
    """Say which of the things that the hook runs as root somebody else may write."""
    found = []
    seen: set[str] = set()
    for start in (os.path.realpath(python), os.path.join(package_root, "criu_veth")):
        path = start
        while path not in seen:
            seen.add(path)
            try:
                fault = trust_fault(os.stat(path))
            except OSError as error:
                fault = f"cannot be looked at: {errno_text(error.errno or 0)}"
            if fault:
                found.append(f"{path} {fault}")
            path = os.path.dirname(path)
    return found


#: A call that the hook's Python refuses, so that it can be seen to run: two actions that contradict each other.
PROBE = {"CRTOOLS_SCRIPT_ACTION": "pre-restore", "CRIU_SCRIPT_ACTION": "contradictory"}


def fixed_in(path: str) -> tuple[str, str]:
    """Return the Python and the package's directory that are written into an installed hook."""
    found = {"set": "", "root": ""}
    for line in (_text(path) or "").splitlines():
        if line.startswith(("set -- ", "root=")):
            key = "set" if line.startswith("set") else "root"
            found[key] = shlex.split(line.removeprefix("set -- ").removeprefix("root="))[0]
    return found["set"], found["root"]
