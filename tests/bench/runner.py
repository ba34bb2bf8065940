"""Starts and times processes inside a lab host, so that entering its namespaces is not measured.

Reads one JSON object a line, {"argv": [...], "env": {...}, "images": DIR or null, "log": FILE}, and
answers {"ns": ..., "status": ...}. The process gets its stdin closed, as CRIU's action scripts do,
and with `images` CRTOOLS_IMAGE_DIR the way CRIU names it: a descriptor of the parent. The source is
handed to `python -I -S -c`.
"""

import json
import os
import sys
import time


def timed(argv: list[str], env: dict[str, str], images: str | None, log: str) -> tuple[int, int]:
    """Run a command; return nanoseconds from before the start until it was reaped, and status."""
    directory = -1
    if images is not None:
        directory = os.open(images, os.O_RDONLY | os.O_DIRECTORY)
        env = {**env, "CRTOOLS_IMAGE_DIR": f"/proc/{os.getpid()}/fd/{directory}"}
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        (os.POSIX_SPAWN_CLOSE, 0),
    ]
    start = time.perf_counter_ns()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    taken = time.perf_counter_ns() - start
    if directory >= 0:
        os.close(directory)
    return taken, os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    for line in sys.stdin:
        ns, exit_status = timed(**json.loads(line))
        print(json.dumps({"ns": ns, "status": exit_status}), flush=True)
