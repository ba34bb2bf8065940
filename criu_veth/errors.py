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

    ``faults`` is a tuple of those lines, without prefix, and as they are; ``str()`` has them printable.
    """

    exit_code = EXIT_FAILED

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(map(printable, faults)))
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


class NamespaceError(OperationError, OSError):
    """A network namespace cannot be entered; an OSError too, with its ``errno``, for those who can do without."""

    def __init__(self, number: int, fault: str) -> None:
        super().__init__(fault)
        self.errno = number


class NamespaceGoneError(NamespaceError, FileNotFoundError):
    """A network namespace is not there: the process by which it was named has ended."""


class UnsteadyError(OperationError, OSError):
    """What was to be read of the kernel changed each time while it was read."""


def no_entry(path: str, error: OSError, what: str = "cannot enter") -> NamespaceError:
    """Return the error that says why the network namespace at ``path`` cannot be entered, and what to do.

    Sources: setns(2), open(2), proc(5).
    """
    import errno  # noqa: PLC0415 - builtin, but only an error needs it

    number = error.errno or 0
    not_ours = "be root on the host, with CAP_SYS_ADMIN there and CAP_SYS_PTRACE over the process"
    gone = "its process has ended"
    too_many = "too many files are open: raise the limit (ulimit -n, LimitNOFILE=, fs.file-max)"
    remedies = {
        errno.EPERM: not_ours,
        errno.EACCES: not_ours,
        errno.EINVAL: "it is no network namespace",
        errno.ENOTTY: "it is no network namespace",
        errno.ENOENT: gone,
        errno.ESRCH: gone,
        errno.EMFILE: too_many,
        errno.ENFILE: too_many,
        errno.ENOSYS: "this kernel, or what confines this process (seccomp), has no setns()",
    }
    fault = f"{what} the network namespace {path}: {errno_text(number, remedies.get(number, ''))}"
    return (NamespaceGoneError if remedies.get(number) is gone else NamespaceError)(number, fault)


#: So many characters has a line at most; what is longer loses its middle, so that the place and the remedy stay.
LONGEST = 500
_GAP = " ... "
#: So many faults are said of one input.
MOST_LINES = 100


def printable(text: str) -> str:
    r"""Replace what moves a terminal's cursor or begins a line of a log, or is no character, by its escape (``\x1b``).

    Names and aliases may come from another host's files, and logs are read on terminals.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def line(kind: str, text: str) -> str:
    """Return a message as one printable line after `PREFIX` and its ``kind``; one that is too long lacks its middle."""
    if len(text) > 2 * LONGEST:  # what would be escaped in vain
        text = text[:LONGEST] + text[-LONGEST:]
    text = PREFIX + kind + printable(text)
    if len(text) <= LONGEST:
        return text
    half = (LONGEST - len(_GAP)) // 2
    return text[:half] + _GAP + text[-half:]


def lines(kind: str, texts: "tuple[str, ...]") -> "list[str]":
    """Return messages as lines, see `line`; of very many errors the first, and how many there are more."""
    many = len(texts) > MOST_LINES and kind.startswith("error")
    said = [line(kind, text) for text in (texts[:MOST_LINES] if many else texts)]
    if many:
        said.append(line(kind, f"and {len(texts) - MOST_LINES} more like these"))
    return said
