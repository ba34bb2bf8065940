"""The images of a restore or dump by ``criu service``, the daemon, which does not say where they are.

It hands its scripts ``/proc/PID/fd/-1`` (seen with CRIU 4.2.1). The process has the directory open all the same, and
works in it, unless the client has given it another one to work in (``criu/cr-service.c``).

The hook's cheap path imports this module, so it imports only builtin modules.
"""

import posix

from criu_veth import paths
from criu_veth.actions import POST_RESUME, PRE_DUMP, Call

_NO_DESCRIPTOR = "/fd/-1"
_INVENTORY = "inventory.img"
TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Iterator


def find_images(call: Call) -> None:
    """Give ``call`` the image directory that criu did not name; `Call.lost_images` says that there is none."""
    said = call.image_dir or ""
    pid = call.criu_pid
    if pid is None and said.endswith(_NO_DESCRIPTOR):
        pid = _pid_of(said)
    if pid is None or not said.endswith(_NO_DESCRIPTOR) or call.action == POST_RESUME:
        return
    found = list(_directories(pid))
    if call.action != PRE_DUMP:
        found = [path for path in found if paths.exists(f"{path}/{_INVENTORY}")]
    if found:
        call.image_dir = found[0]
    else:
        call.lost_images = said


def _pid_of(image_dir: str) -> int | None:
    digits = image_dir.removeprefix("/proc/").removesuffix(_NO_DESCRIPTOR)
    return int(digits) if digits.isascii() and digits.isdecimal() else None


def _directories(pid: int) -> "Iterator[str]":
    """Yield the directories of a file system that criu has open, as ``/proc/PID/fd/N``, and the one it works in."""
    try:
        numbers = sorted((name for name in posix.listdir(f"/proc/{pid}/fd")), key=int, reverse=True)
    except OSError:
        return
    for path in [f"/proc/{pid}/fd/{number}" for number in numbers] + [f"/proc/{pid}/cwd"]:
        try:
            if posix.stat(path).st_mode & 0o170000 == 0o040000 and posix.readlink(path).startswith("/"):
                yield path
        except OSError:
            continue
