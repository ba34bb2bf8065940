"""CRIU's action names and the environment of an action script, checked once.

Source: ``criu/action-scripts.c`` of CRIU 4.2. The hook's cheap path imports this module, so it imports nothing.
"""

PRE_DUMP = "pre-dump"
PRE_RESTORE = "pre-restore"
SETUP_NAMESPACES = "setup-namespaces"
POST_SETUP_NAMESPACES = "post-setup-namespaces"
POST_RESTORE = "post-restore"
POST_RESUME = "post-resume"

#: Actions that CRIU is known to call, in the order of a dump followed by a restore.
KNOWN = (
    PRE_DUMP,
    "pre-stream",
    "network-lock",
    "post-dump",
    PRE_RESTORE,
    SETUP_NAMESPACES,
    POST_SETUP_NAMESPACES,
    POST_RESTORE,
    "network-unlock",
    "pre-resume",
    POST_RESUME,
    "orphan-pts-master",
    "status-ready",
    "query-ext-files",
)

#: Actions at which a restore's program may have operations.
RESTORE_STAGES = (PRE_RESTORE, SETUP_NAMESPACES, POST_SETUP_NAMESPACES, POST_RESTORE, POST_RESUME)

ACTION_VARIABLES = ("CRTOOLS_SCRIPT_ACTION", "CRIU_SCRIPT_ACTION")
IMAGE_DIR_VARIABLE = "CRTOOLS_IMAGE_DIR"
INIT_PID_VARIABLE = "CRTOOLS_INIT_PID"

#: What each action needs beside its name.
_NEEDS = {
    PRE_DUMP: (IMAGE_DIR_VARIABLE, INIT_PID_VARIABLE),
    PRE_RESTORE: (IMAGE_DIR_VARIABLE,),
    SETUP_NAMESPACES: (IMAGE_DIR_VARIABLE, INIT_PID_VARIABLE),
    POST_SETUP_NAMESPACES: (IMAGE_DIR_VARIABLE, INIT_PID_VARIABLE),
    POST_RESTORE: (IMAGE_DIR_VARIABLE, INIT_PID_VARIABLE),
    POST_RESUME: (IMAGE_DIR_VARIABLE, INIT_PID_VARIABLE),
}


#: Of a process id; Python refuses to read thousands.
_MOST_DIGITS = 10


class BadCallError(ValueError):
    """The environment is not one that CRIU makes; ``str()`` is the message, without a prefix."""


class Call:
    """One call of the script: ``action``, ``image_dir`` (a path or None) and ``init_pid`` (an int or None).

    ``lost_images`` is what criu said of a directory that nobody finds, else empty: see `criu_veth.service`.
    """

    __slots__ = ("action", "image_dir", "init_pid", "lost_images")

    def __init__(self, action: str, image_dir: str | None = None, init_pid: int | None = None) -> None:
        self.action = action
        self.image_dir = image_dir
        self.init_pid = init_pid
        self.lost_images = ""

    @property
    def known(self) -> bool:
        """Whether this project has heard of the action; a newer CRIU may add some."""
        return self.action in KNOWN

    @property
    def criu_pid(self) -> int | None:
        """The pid of the criu that called, read from ``/proc/PID/fd/N``; None for a directory named otherwise."""
        parts = (self.image_dir or "").split("/")
        if len(parts) != 5 or parts[1] != "proc" or parts[3] != "fd":
            return None
        return int(parts[2]) if parts[2].isascii() and parts[2].isdecimal() and len(parts[2]) <= _MOST_DIGITS else None


def read_call(environ: "dict[str, str]") -> Call:
    """Read one call from ``environ``.

    Raises BadCallError with every fault of the environment in one message.
    """
    given = {name: environ[name] for name in ACTION_VARIABLES if environ.get(name)}
    if not given:
        empty = [name for name in ACTION_VARIABLES if name in environ]
        state = f"{empty[0]} is empty" if empty else f"{ACTION_VARIABLES[0]} is not set"
        how = "this program is called by criu, as `criu dump|restore --action-script PATH`"
        raise BadCallError(f"{state}: {how}")
    if len(set(given.values())) > 1:
        both = " and ".join(f"{name}={value}" for name, value in given.items())
        raise BadCallError(f"contradictory actions: {both}; unset one of them")
    action = next(iter(given.values()))
    needs = _NEEDS.get(action, ())
    faults = [f"{name} is not set" for name in needs if not environ.get(name)]
    pid_text = environ.get(INIT_PID_VARIABLE, "")
    init_pid = None
    if INIT_PID_VARIABLE in needs and pid_text:
        init_pid = _read_pid(pid_text, action)
        if init_pid is None:
            faults.append(f"{INIT_PID_VARIABLE} is not a process id: {pid_text!r}")
    if faults:
        raise BadCallError(f"{action}: " + "; ".join(faults))
    return Call(action, environ.get(IMAGE_DIR_VARIABLE) or None, init_pid)


def _read_pid(text: str, action: str) -> int | None:
    """Read a process id; None if it is none.

    What is to be dumped is named by criu's caller, over RPC as any ``int32``, and callers do ask for what cannot be,
    such as the largest id of all: that there is no such process is criu's to say. At a restore, criu has made it.
    """
    digits = text.removeprefix("-") if action == PRE_DUMP else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS):
        return None
    pid = int(text)
    return pid if (action == PRE_DUMP or pid > 0) and abs(pid) <= 1 << 31 else None
