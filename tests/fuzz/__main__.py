"""The command line: ``python -m fuzz``, as root, in namespaces of its own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .runner import run

KINDS = ("mapping", "state", "images", "container", "program", "environment")
_INSIDE = "CRIU_VETH_FUZZ_INSIDE"


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description="Puts damaged and hostile data into all that reads data; exits with 1 if anything ends badly.",
        epilog="Example: python -m fuzz --kinds state --only 1234 shows one input and how it ends.",
    )
    parser.add_argument("--kinds", default=",".join(KINDS), metavar="KIND,...", help=f"of {', '.join(KINDS)} (all)")
    parser.add_argument("--count", type=int, default=20000, metavar="N", help="inputs of each kind (20000)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first input (0)")
    parser.add_argument("--only", type=int, metavar="N", help="one input: print it, and say how it ends")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--most", type=int, default=20, metavar="N", help="stop a kind after so many bad ends (20)")
    options = parser.parse_args()
    options.kinds = options.kinds.split(",")
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        parser.error(f"there is no kind {unknown[0]!r}; these are: {', '.join(KINDS)}")
    return options


def enter_namespaces() -> None:
    """Start this program again where nothing of the machine can be reached: network, mounts, processes.

    What the inputs name is looked up for real; here there is nothing to be found, and nothing to be harmed.
    """
    if os.geteuid() != 0:
        sys.exit("python -m fuzz: must be run as root, for namespaces of its own")
    mounts = "mount -t tmpfs t /run && mount -t tmpfs t /etc && mount -o remount,bind,ro /"
    script = f'{mounts} && mkdir -m 755 /etc/criu /run/fuzz && exec "$@"'
    os.environ[_INSIDE] = "1"
    words = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    os.execvp(words[0], [*words, "sh", "-c", script, "sh", sys.executable, "-m", "fuzz", *sys.argv[1:]])


def main() -> None:
    """Run the command line, and exit."""
    options = arguments()
    if not os.environ.get(_INSIDE):
        enter_namespaces()
    os.environ.pop(_INSIDE)
    sys.exit(run(options, Path("/run/fuzz")))


if __name__ == "__main__":
    main()
