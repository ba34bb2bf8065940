"""Calling an action script as CRIU does, without CRIU."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .container import Container
from .host import Host

# As CRIU's child: fd 0 closed, no descriptor but 1 and 2, no arguments, and the image directory
# named through a descriptor of the parent, which CRIU has closed already when it gets to post-resume.
AS_CRIU = """cd "$2" || exit 125
[ "$CRTOOLS_SCRIPT_ACTION" = post-resume ] || exec 9<"$2" || exit 125
export CRTOOLS_IMAGE_DIR=/proc/$$/fd/9
(exec "$1" <&- 9<&-)  # a subshell: dash would close its own descriptors as long as the hook runs
exit $?
"""


def run_action(
    host: Host,
    hook: Path | str,
    action: str,
    *,
    images: Path,
    container: Container | int | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `hook` on `host` for one action, with the environment and descriptors CRIU gives it.

    `container` (or a pid) becomes CRTOOLS_INIT_PID, as at every action but pre-restore. `env`
    replaces what the hook inherits besides. A status other than 0 raises CommandError unless
    `check` is false.
    """
    words = dict(os.environ if env is None else env)
    words["CRTOOLS_SCRIPT_ACTION"] = action
    if container is not None:
        pid = container if isinstance(container, int) else container.pid
        words["CRTOOLS_INIT_PID"] = str(pid)
    return host.run("sh", "-c", AS_CRIU, "criu", str(hook), str(images), env=words, check=check, timeout=timeout)


def hook_processes(host: Host) -> list[int]:
    """The hook's processes on this host that have outlived its calls, in whatever PID namespace."""
    netns = os.stat(host.netns).st_ino
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes() if name.isdigit() else b""
            if b"hook.main()" in words and os.stat(f"/proc/{name}/ns/net").st_ino == netns:
                found.append(int(name))
        except OSError:
            continue
    return found
