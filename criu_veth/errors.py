"""The exceptions that reach a person, their exit codes, and how they are printed.

The hook's cheap path imports this module, so it imports nothing.
"""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_DEFECT = 3

PREFIX = "criu-veth: "


class CriuVethError(Exception):
    """One or several independent faults, each a line: what was being done, to what, why not, and what to do.

    ``faults`` is a tuple of those lines, without prefix.
    """

    exit_code = EXIT_FAILED

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class OperationError(CriuVethError):
    """The kernel, or another program, refused what was asked of it."""


class InputError(CriuVethError):
    """The configuration, the images or the call are wrong."""

    exit_code = EXIT_INPUT


def errno_text(number: int, detail: str = "") -> str:
    """Describe an errno as ``File exists (EEXIST)``, followed by the kernel's own words where it gave some."""
    import errno  # noqa: PLC0415 - builtin, but only an error needs it
    import os  # noqa: PLC0415

    text = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
    return f"{text}: {detail.rstrip('.')}" if detail else text
