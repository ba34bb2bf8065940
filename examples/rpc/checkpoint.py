#!/usr/bin/env python3
"""Checkpoints and restores a process tree over CRIU's RPC, and handles the notifications in this process.

No process is started for an action, and none of them is a script's: `criu_veth.Notifier` has the hook's plan and
executor. The messages are those of Debian's python3-pycriu.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import pycriu.rpc_pb2 as rpc

import criu_veth
from criu_veth.errors import CriuVethError

LARGEST_MESSAGE = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["dump", "restore"])
    parser.add_argument("images", type=Path)
    parser.add_argument("--pid", type=int, help="the process to dump")
    parser.add_argument("--config", type=Path, help="the mapping file")
    parser.add_argument("--fail-at", metavar="ACTION", help="fail at this notification, to see what becomes of it")
    given = parser.parse_args()
    given.images.mkdir(exist_ok=True)
    options = [] if given.action == "dump" else criu_veth.external(given.config, given.images)
    with criu_veth.Notifier(given.config, options=options) as notifier:

        def handle(action: str, pid: int | None) -> None:
            notifier.notify(action, pid or given.pid, given.images)
            if action == given.fail_at:
                raise CriuVethError(f"{action}: failing, as was asked for")

        def started(criu_pid: int) -> None:
            notifier.criu_pid = criu_pid

        answer = call(request(given.action, given.images, given.pid, options), started, handle)
    print(*notifier.said, sep="\n")
    if not answer.success:
        print(f"criu: {given.action} failed: {os.strerror(answer.cr_errno) if answer.cr_errno else 'see its log'}")
        return 1
    if given.action == "restore":
        print(f"restored: {answer.restore.pid}")
    return 0


def request(action: str, images: Path, pid: int | None, external: list[str]) -> rpc.criu_req:
    """Make the request; criu opens the image directory through this process's descriptor."""
    made = rpc.criu_req(type=rpc.DUMP if action == "dump" else rpc.RESTORE)
    made.opts.images_dir_fd = os.open(images, os.O_DIRECTORY)
    made.opts.log_file = f"{action}.log"
    made.opts.log_level = 4
    made.opts.tcp_established = True
    made.opts.manage_cgroups_mode = rpc.IGNORE
    made.opts.notify_scripts = True
    made.opts.external.extend(external)
    if pid:
        made.opts.pid = pid
    return made


def call(first: rpc.criu_req, started, handle) -> rpc.criu_resp:
    """Start criu, send the request, and answer its notifications until it answers the request."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            criu = subprocess.Popen(["criu", "swrk", str(theirs.fileno())], pass_fds=[theirs.fileno()])
        started(criu.pid)
        ours.send(first.SerializeToString())
        while True:
            answer = rpc.criu_resp.FromString(ours.recv(LARGEST_MESSAGE))
            if answer.type != rpc.NOTIFY:
                break
            reply = rpc.criu_req(type=rpc.NOTIFY, notify_success=True)
            try:
                handle(answer.notify.script, answer.notify.pid or None)
            except CriuVethError as error:
                print(*error.faults, sep="\n", file=sys.stderr)
                reply.notify_success = False
            ours.send(reply.SerializeToString())
    criu.wait()
    return answer


if __name__ == "__main__":
    sys.exit(main())
