"""Where the images are in a dump or restore by ``criu service``, the daemon, which does not say.

Its environment for scripts is made once, before there is a client, and handed on to each process that it forks for one:
``CRTOOLS_IMAGE_DIR`` is ``/proc/DAEMON/fd/-1`` for all (seen with CRIU 4.2.1; ``criu/action-scripts.c``). The process
that does the work is the daemon's child; it has the images' directory open, and works in it unless the client has named
another (``criu/cr-service.c``).

The hook's cheap path imports this module, so it imports only builtin modules.
"""

import posix

from criu_veth import paths
from criu_veth.actions import POST_RESUME, PRE_DUMP, Call

_NO_DESCRIPTOR = "-1"


def find_images(call: Call) -> None:
    """Give ``call`` the image directory that the daemon did not name; `Call.lost_images` says that there is none."""
    said = call.image_dir or ""
    proc, _, number = said.rpartition("/fd/")
    daemon = proc.removeprefix("/proc/")
    if number != _NO_DESCRIPTOR or not daemon.isdecimal():
        return
    pid = _child_of(daemon, posix.getppid())
    if call.action == POST_RESUME:  # closed by now
        call.image_dir = f"/proc/{pid}/fd/{_NO_DESCRIPTOR}"
        return
    inherited = set(_descriptors(daemon).values())
    found = [path for path, which in _descriptors(pid).items() if which not in inherited]
    found.append(f"/proc/{pid}/cwd")
    if call.action != PRE_DUMP:
        found = [path for path in found if paths.exists(f"{path}/{paths.INVENTORY}")]
    found = [path for path in found if paths.exists(f"{path}/.")]
    if found:
        call.image_dir = found[0]
    else:
        call.lost_images = said


def _child_of(daemon: str, pid: int) -> int:
    """Return which of the processes from ``pid`` upwards is the daemon's child; ``pid`` itself if none is."""
    process = pid
    while process > 1:
        fields = (paths.read(f"/proc/{process}/stat") or b"").rpartition(b")")[2].split()
        parent = fields[1].decode() if len(fields) > 1 else "0"
        if parent == daemon:
            return process
        process = int(parent)
    return pid


def _descriptors(pid: "int | str") -> "dict[str, tuple[int, int]]":
    """Return the directories, but for those of /proc, that a process has open, each with its device and inode."""
    found = {}
    try:
        numbers = sorted(posix.listdir(f"/proc/{pid}/fd"), key=int)
    except OSError:
        return {}
    for path in [f"/proc/{pid}/fd/{number}" for number in numbers]:
        try:
            info = posix.stat(path)
            if info.st_mode & 0o170000 == 0o040000 and not f"{posix.readlink(path)}/".startswith("/proc/"):
                found[path] = (info.st_dev, info.st_ino)
        except OSError:
            continue
    return found
