"""Keeps a lab host's namespaces alive, and leaves nothing behind.

Runs inside the namespaces with two arguments, the host's mark (NAME=value) and its name. Says "ready" once the
private mounts are there, then waits until its stdin ends: the test process closed it or died, by
whatever signal. Then it kills every process that carries the mark in its environment (a restored
process got its environment back with its memory, so it carries it too), and ends; with it goes
the last reference to the namespaces. The source is handed to `python -I -S -c`.
"""

import os
import signal
import socket
import subprocess
import sys
import time

# A sysfs shows the links of the network namespace in which it was mounted. This one has an empty
# fs/cgroup: nothing in the lab may write to the machine's. /run/lab/root is the containers' root;
# CRIU restores a mount namespace only below a --root that is a mount.
MOUNTS = """set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lab/upper /run/lab/work /run/lab/root
mount -t overlay -o lowerdir=/etc,upperdir=/run/lab/upper,workdir=/run/lab/work overlay /etc
mkdir -p /etc/criu
mount -t tmpfs -o mode=755 tmpfs /etc/criu
mount -t sysfs sysfs /sys
mount --bind / /run/lab/root
ip link set lo up
"""


def prepare() -> None:
    """Give the host its own /run, /etc above the real one, empty /etc/criu, and /sys."""
    # Mounts that lie hidden below others confuse CRIU, so the old ones go first, newest first.
    with open("/proc/self/mountinfo", encoding="utf-8") as mountinfo:
        points = [line.split()[4] for line in mountinfo]
    for point in reversed(points):
        if (point + "/").startswith(("/run/", "/etc/", "/sys/")):
            subprocess.run(["umount", "--lazy", point], check=True)
    subprocess.run(["sh", "-c", MOUNTS], check=True)


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
