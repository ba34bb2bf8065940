"""Keeps a lab host's namespaces alive, and leaves nothing behind.

Runs inside the namespaces with two arguments, the host's mark (NAME=value) and its name. Says "ready" once the
private mounts are there, then waits until its stdin ends: the test process closed it or died, by
whatever signal. Then it kills every process that carries the mark in its environment (a restored
process got its environment back with its memory, so it carries it too), and ends; with it goes
the last reference to the namespaces. The source is handed to `python -I -S -c`.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import time

# mount(2), umount(2), netdevice(7)
MS_BIND, MNT_DETACH = 4096, 2
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

# A sysfs shows the links of the network namespace in which it was mounted. This one has an empty
# fs/cgroup: nothing in the lab may write to the machine's. /run/lab/root is the containers' root;
# CRIU restores a mount namespace only below a --root that is a mount. /run/mount is mount(8)'s.
MOUNTS = (
    ("tmpfs", "/run", "mode=755"),
    ("overlay", "/etc", "lowerdir=/etc,upperdir=/run/lab/upper,workdir=/run/lab/work"),
    ("tmpfs", "/etc/criu", "mode=755"),
    ("overlay", "/var/lib", "lowerdir=/var/lib,upperdir=/run/lab/upper-lib,workdir=/run/lab/work-lib"),
    ("sysfs", "/sys", ""),
    ("", "/run/lab/root", ""),
)
DIRECTORIES = {
    "/run": (*(f"/run/lab/{name}" for name in ("upper", "work", "upper-lib", "work-lib", "root")), "/run/mount"),
    "/etc": ("/etc/criu",),
}

# The system calls themselves: a dozen of mount's and umount's processes would take longer than many a test.
libc = ctypes.CDLL(None, use_errno=True)


def prepare() -> None:
    """Give the host its own /run, /etc and /var/lib above the real ones, empty /etc/criu, and /sys; set lo up."""
    # Mounts that lie hidden below others confuse CRIU, so the old ones go first, newest first.
    with open("/proc/self/mountinfo", encoding="utf-8") as mountinfo:
        points = [line.split()[4] for line in mountinfo]
    for point in reversed(points):
        if (point + "/").startswith(("/run/", "/etc/", "/sys/", "/var/lib/")):
            succeed(libc.umount2(point.encode(), MNT_DETACH), point)
    for kind, point, data in MOUNTS:
        source, flags = (kind, 0) if kind else ("/", MS_BIND)
        told = (source.encode(), point.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
        succeed(libc.mount(*told), point)
        for directory in DIRECTORIES.get(point, ()):
            os.makedirs(directory, exist_ok=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def succeed(status: int, name: str) -> None:
    """Raise OSError if a call of libc's did not return 0."""
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def kill_marked(mark: bytes) -> int:
    """Kill every other process that carries the mark; return how many did."""
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            handle = os.pidfd_open(int(name))
        except OSError:
            continue
        try:  # read through the number only after the handle pins it
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = mark in file.read().split(b"\0")
            if marked:
                found += 1
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(handle)
    return found


if __name__ == "__main__":
    socket.sethostname(sys.argv[2])
    prepare()
    os.write(1, b"ready\n")
    while os.read(0, 4096):
        pass
    end = time.monotonic() + 10
    while kill_marked(sys.argv[1].encode()) and time.monotonic() < end:
        time.sleep(0.002)
