"""Which state files this host has written itself: a keyed digest beside each, under a key that only root can read.

``criu-veth.seal`` in an image directory is the HMAC-SHA256 of the bytes of ``criu-veth.json`` there, in hexadecimal.
The key is made at ``criu-veth install`` or at the first dump. Whoever has no key can neither make a seal nor change
what is sealed; one who has a sealed file can only say again what this host once captured. A seal does not name its
directory: images are moved and copied. It counts only beside images of the same inner ends (`criu_veth.provenance`).
"""

import os
import stat
from contextlib import suppress

from criu_veth import paths, state
from criu_veth.errors import errno_text

KEY_DIR = "/var/lib/criu-veth"
_KEY, _KEY_SIZE = "key", 32
NAME = "criu-veth.seal"
_PURPOSE = b"criu-veth state file 1\0"

#: Why a state file is not this host's own.
NOT_SEALED = "this host did not capture it itself"


class NoKeyError(Exception):
    """There is no key that can be used; ``str()`` says why."""


def path_for(state_path: str) -> str:
    """Return where the seal of a state file is."""
    return f"{os.path.dirname(state_path) or '.'}/{NAME}"


def write(data: bytes, state_path: str, within: paths.Directory | None = None, key_dir: str = KEY_DIR) -> None:
    """Seal what a state file holds, or is about to hold; the key is made where there is none.

    In an image directory that is open, the seal is written ``within`` it. Raises NoKeyError, or OSError if the seal
    cannot be written.
    """
    digest = _digest(_key(key_dir, make=True), data)
    directory = within or paths.Directory(os.path.dirname(state_path) or ".")
    state.put(directory, NAME, digest.hex().encode() + b"\n", lasting=False)


def is_own(data: bytes, state_path: str, within: paths.Directory | None = None, key_dir: str = KEY_DIR) -> bool:
    """Say whether ``data``, read from a state file, has this host's seal. Without a key nothing has."""
    import hmac  # noqa: PLC0415 - 3 ms, which a restore without a state file need not wait for

    try:
        key = _key(key_dir, make=False)
        directory = within or paths.Directory(os.path.dirname(state_path) or ".")
    except (NoKeyError, OSError):
        return False
    found = directory.read(NAME, 2 * _KEY_SIZE + 2) or b""
    return hmac.compare_digest(found.strip(), _digest(key, data).hex().encode())


def make_key(key_dir: str = KEY_DIR) -> None:
    """Make the key, unless there is one.

    Raises NoKeyError.
    """
    _key(key_dir, make=True)


def _digest(key: bytes, data: bytes) -> bytes:
    import hmac  # noqa: PLC0415 - see above

    return hmac.digest(key, _PURPOSE + data, "sha256")


def _key(key_dir: str, *, make: bool) -> bytes:
    """Return the key; only root, or whoever this runs as, can have written or read it."""
    try:
        if make:
            _make_directory(key_dir)
        directory = os.open(key_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NoKeyError(f"{key_dir}: {errno_text(error.errno or 0)}") from None
    try:
        _refuse_others(key_dir, os.fstat(directory))
        try:
            return _read_key(key_dir, directory)
        except FileNotFoundError:
            if not make:
                raise
        _make_key(directory)
        return _read_key(key_dir, directory)
    except OSError as error:
        raise NoKeyError(f"{key_dir}/{_KEY}: {errno_text(error.errno or 0)}") from None
    finally:
        os.close(directory)


def _make_directory(path: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)


def _read_key(key_dir: str, directory: int) -> bytes:
    descriptor = os.open(_KEY, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        info = os.fstat(descriptor)
        _refuse_others(f"{key_dir}/{_KEY}", info)
        key = os.read(descriptor, _KEY_SIZE + 1) if stat.S_ISREG(info.st_mode) else b""
    finally:
        os.close(descriptor)
    if len(key) != _KEY_SIZE:
        raise NoKeyError(f"{key_dir}/{_KEY}: is no key of {_KEY_SIZE} bytes; remove it, and another one is made")
    return key


def _make_key(directory: int) -> None:
    """Write a key under another name and link it: of several who do so at a time the first one's counts for all."""
    temporary = f".{_KEY}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):  # of a process of this number that was killed
        os.unlink(temporary, dir_fd=directory)
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(os.urandom(_KEY_SIZE))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(temporary, _KEY, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    finally:
        os.unlink(temporary, dir_fd=directory)


def _refuse_others(path: str, info: os.stat_result) -> None:
    if info.st_uid not in (0, os.geteuid()):
        raise NoKeyError(f"{path}: belongs to uid {info.st_uid}; remove it, and another one is made")
    if info.st_mode & 0o077:
        mode = f"{stat.S_IMODE(info.st_mode):04o}"
        raise NoKeyError(f"{path}: is open to others (mode {mode}); remove it, and another one is made")
