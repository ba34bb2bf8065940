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
_FORMAT, _REGULAR = 0o170000, 0o100000  # S_IFMT, S_IFREG
_EINVAL = 22
#: Larger is nothing that was written here.
_LARGEST = 32 << 20


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
    except (FileNotFoundError, ValueError):  # a NUL is in no path
        return False
    except OSError:
        return True  # whatever it is, it is not absent; opening it will say why
    return True


def read(path: str) -> bytes | None:
    """Return what a file holds, or None if it is not there, too large or cannot be read; a link is not followed."""
    return _read(path, None, _LARGEST, posix.O_NOFOLLOW, whole=True)


def read_followed(path: str, most: int) -> bytes | None:
    """Return at most so many bytes of a file, or None as for `read`; links are followed."""
    return _read(path, None, most, 0)


def _read(path: str, directory: int | None, most: int, links: int, *, whole: bool = False) -> bytes | None:
    try:
        descriptor, size = open_file(path, directory, links)
    except OSError:
        return None
    try:
        if whole and size > most:
            return None
        data = posix.read(descriptor, min(size or _PROC_SIZE, most))
        while len(data) < most and (more := posix.read(descriptor, min(65536, most - len(data)))):
            data += more
    except OSError:
        return None
    finally:
        posix.close(descriptor)
    return data


def open_file(path: str, directory: int | None = None, links: int = posix.O_NOFOLLOW) -> "tuple[int, int]":
    """Open a regular file for reading, without waiting for whoever might write into a FIFO; return it and its size.

    ``path`` is relative to the descriptor ``directory``, if that is given. Raises OSError, `NotAFileError` for what is
    neither a file nor a link.
    """
    flags = posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC | links
    descriptor = posix.open(path, flags, dir_fd=directory)
    try:
        info = posix.fstat(descriptor)
        if info.st_mode & _FORMAT != _REGULAR:
            raise NotAFileError(_EINVAL, "not a regular file")
    except BaseException:
        posix.close(descriptor)
        raise
    return descriptor, info.st_size


class NotAFileError(OSError):
    """What was to be read is a directory, a FIFO, a socket or a device."""


class Directory:
    """A directory that is open: what is read in it is what it holds, whatever its name has come to mean since.

    Whoever owns a directory above it may have another one there by the next moment. ``path`` is how it was opened,
    `name` what people call it: neither is opened again. Raises OSError.
    """

    __slots__ = ("_name", "_names", "_real_name", "descriptor", "path")

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.path = path
        self._name = self._real_name = ""
        self._names: list[str] | None = None
        self.descriptor = posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)

    def close(self) -> None:
        """Close it, which happens by itself when nobody has it any more; a process that is forked would keep it."""
        if self.descriptor >= 0:
            posix.close(self.descriptor)
        self.descriptor = -1

    __del__ = close

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """What people call it; for ``/proc/PID/fd/N`` what that stands for, if it has a name here."""
        return self._name or self._find_name()

    def _find_name(self) -> str:
        self._name = self.path
        if self.path.startswith("/proc/"):
            try:
                found, expected = posix.stat(self.real_name), posix.fstat(self.descriptor)
            except OSError:
                return self._name
            if (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino):
                self._name = self.real_name
        return self._name

    @property
    def real_name(self) -> str:
        """The path that the kernel has for it; as it was opened, if there is no /proc."""
        if not self._real_name:
            try:
                self._real_name = posix.readlink(f"/proc/self/fd/{self.descriptor}")
            except OSError:
                self._real_name = self.path
        return self._real_name

    @property
    def names(self) -> "list[str]":
        """What it held when that was first asked. Raises OSError."""
        if self._names is None:
            self._names = posix.listdir(self.descriptor)
        return self._names

    def exists(self, name: str) -> bool:
        """Say whether there is anything of that name, a dangling link included."""
        try:
            posix.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # as in `exists`
        return True

    def read(self, name: str, most: int) -> bytes | None:
        """Return what a file holds, at most so many bytes of it; None if it is not there or cannot be read."""
        return _read(name, self.descriptor, most, posix.O_NOFOLLOW)


def opened(directory: "Directory | str | None") -> Directory | None:
    """Return a directory, opened if only its path is given; None if there is none, or it cannot be opened."""
    if directory is None or isinstance(directory, Directory):
        return directory
    try:
        return Directory(directory)
    except OSError:
        return None


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


class Sources:
    """What a program is made from: ``config`` and ``state`` (paths or None), and the ``candidates`` that were looked
    at.

    ``images`` is the image directory, in which those of them are opened that `within` says; their paths are for people.
    Where there are ``matchable`` files, which of them is used instead of the default one depends on the container, and
    reading them is the slow path's work: `criu_veth.match` changes ``config`` then.
    """

    __slots__ = ("candidates", "config", "image_dir", "images", "matchable", "state")

    def __init__(self, environ: "dict[str, str]", images: "Directory | str | None") -> None:
        self.images = opened(images)
        image_dir = self.image_dir = self.images.name if self.images else str(images) if images else None
        self.candidates = config_candidates(environ, image_dir)
        explicit = bool(environ.get(CONFIG_VARIABLE))
        self.config = next((path for path in self.candidates if explicit or self._exists(path)), None)
        self.state = f"{image_dir}/{STATE_NAME}" if self.images and self.images.exists(STATE_NAME) else None
        self.matchable = [] if explicit or self._in_images else match_files()

    def within(self, path: str) -> Directory | None:
        """Return the image directory if this is the path of one of the two files in it that are ours."""
        ours = (f"{self.image_dir}/{CONFIG_IN_IMAGES}", f"{self.image_dir}/{STATE_NAME}")
        return self.images if self.images is not None and path in ours else None

    def _exists(self, path: str) -> bool:
        images = self.within(path)
        return exists(path) if images is None else images.exists(CONFIG_IN_IMAGES)

    @property
    def _in_images(self) -> bool:
        return self.config is not None and self.config == f"{self.image_dir}/{CONFIG_IN_IMAGES}"

    @property
    def own(self) -> bool:
        """Whether something makes the image directory's program its own: what it holds, or that it may match."""
        return self.state is not None or self._in_images or bool(self.matchable)
