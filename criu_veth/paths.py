"""Where things are: the mapping file, the state file, and ``/run/criu-veth``.

The hook's cheap path imports this module, so it imports only `posix`.
"""

import posix

RUN_DIR = "/run/criu-veth"
PROGRAMS = RUN_DIR + "/programs"
RUNS = RUN_DIR + "/runs"

CONFIG_VARIABLE = "CRIU_VETH_CONFIG"
CONFIG_DEFAULT = "/etc/criu/criu-veth.toml"
#: Mapping files for some containers each, chosen by their ``[match]`` (see `criu_veth.match`).
MATCH_DIR = "/etc/criu/criu-veth.d"
CONFIG_IN_IMAGES = "criu-veth.toml"
STATE_NAME = "criu-veth.json"
#: CRIU's own image that every checkpoint has, if its images are in the directory at all.
INVENTORY = "inventory.img"

#: Files of /proc have no size.
_PROC_SIZE = 4096


def config_candidates(environ: "dict[str, str]", image_dir: str | None) -> "list[str]":
    """Return the paths at which a mapping file is looked for, in order; the first that exists is used.

    A path in ``$CRIU_VETH_CONFIG`` is the only candidate: naming a file that is not there is an error.
    """
    if environ.get(CONFIG_VARIABLE):
        return [environ[CONFIG_VARIABLE]]
    return ([f"{image_dir}/{CONFIG_IN_IMAGES}"] if image_dir else []) + [CONFIG_DEFAULT]


def exists(path: str) -> bool:
    """Say whether there is anything at ``path``, a dangling link included."""
    try:
        posix.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # whatever it is, it is not absent; opening it will say why
    return True


def read(path: str) -> bytes | None:
    """Return what a file holds, or None if it is not there or cannot be read; a link is not followed."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = posix.read(descriptor, posix.fstat(descriptor).st_size or _PROC_SIZE)
        while more := posix.read(descriptor, 65536):
            data += more
    except OSError:
        return None
    finally:
        posix.close(descriptor)
    return data


def write(path: str, data: bytes) -> None:
    """Write a file that is not there yet.

    Raises OSError.
    """
    descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[posix.write(descriptor, view) :]
    finally:
        posix.close(descriptor)


def unlink(path: str) -> None:
    """Remove a file, if it is there and can be removed."""
    try:
        posix.unlink(path)
    except OSError:
        pass


def match_files() -> "list[str]":
    """Return the mapping files of MATCH_DIR in the order of their names; a directory that is not there has none."""
    try:
        names = posix.listdir(MATCH_DIR)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [f"{MATCH_DIR}/{name}" for name in sorted(names) if name.endswith(".toml") and not name.startswith(".")]


def _by_name(directory: str) -> str:
    """Return the name of the directory that ``/proc/PID/fd/N`` stands for, for people; the same if it has none here."""
    try:
        name = posix.readlink(directory)
        found, expected = posix.stat(name), posix.stat(directory)
    except OSError:
        return directory
    same = (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino)
    return name if same and name.startswith("/") else directory


class Sources:
    """What a program is made from: ``config`` and ``state`` (paths or None), and the ``candidates`` that were looked
    at.

    Where there are ``matchable`` files, which of them is used instead of the default one depends on the container, and
    reading them is the slow path's work: `criu_veth.match` changes ``config`` then.
    """

    __slots__ = ("candidates", "config", "image_dir", "matchable", "state")

    def __init__(self, environ: "dict[str, str]", image_dir: str | None) -> None:
        image_dir = self.image_dir = _by_name(image_dir) if image_dir else None
        self.candidates = config_candidates(environ, image_dir)
        explicit = bool(environ.get(CONFIG_VARIABLE))
        self.config = next((path for path in self.candidates if explicit or exists(path)), None)
        state = f"{image_dir}/{STATE_NAME}" if image_dir else None
        self.state = state if state is not None and exists(state) else None
        self.matchable = [] if explicit or self._in_images else match_files()

    @property
    def _in_images(self) -> bool:
        return self.config is not None and self.config == f"{self.image_dir}/{CONFIG_IN_IMAGES}"

    @property
    def own(self) -> bool:
        """Whether something makes the image directory's program its own: what it holds, or that it may match."""
        return self.state is not None or self._in_images or bool(self.matchable)
