"""The operator's commands, ``criu-veth``. Nothing of the hook imports this package."""

import signal
import sys

NAME = "criu-veth"


def main() -> None:
    """Run the command line of this process, and exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as it may be handed down, programs would have no status
    try:
        from criu_veth.cli.app import app

        # What is printed are names and paths: the kernel's are UTF-8, a path may be anything.
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                errors = "surrogateescape" if stream is sys.stdout else "backslashreplace"
                stream.reconfigure(encoding="utf-8", errors=errors)
    except KeyboardInterrupt:
        sys.exit(130)
    app.main(prog_name=NAME)
