"""The key of a host, and what it seals: what is not exactly right is not this host's own."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from criu_veth import seal


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """Where the key is kept; there is none yet."""
    return str(tmp_path / "keys")


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "criu-veth.json")


def test_what_was_sealed_is_own(keys: str, state: str) -> None:
    seal.write(b"this", state, key_dir=keys)
    assert seal.is_own(b"this", state, key_dir=keys)
    assert not seal.is_own(b"that", state, key_dir=keys)
    written = Path(seal.path_for(state))
    assert (written.name, written.stat().st_mode & 0o777) == ("criu-veth.seal", 0o600)
    assert sorted(path.name for path in written.parent.iterdir()) == ["criu-veth.seal", "keys"]


def test_a_key_is_made_once(keys: str, state: str) -> None:
    seal.make_key(keys)
    key = Path(keys, "key")
    made = key.read_bytes()
    assert (len(made), key.stat().st_mode & 0o777, Path(keys).stat().st_mode & 0o777) == (32, 0o600, 0o700)
    seal.make_key(keys)
    seal.write(b"this", state, key_dir=keys)
    assert key.read_bytes() == made
    assert [path.name for path in Path(keys).iterdir()] == ["key"]


def test_of_many_who_make_it_at_once_one_does(tmp_path: Path) -> None:
    """Processes, as it happens: a temporary name has the number of one."""
    keys = str(tmp_path / "keys")

    def child(number: int) -> int:
        pid = os.fork()
        if not pid:
            try:
                seal.write(b"this", str(tmp_path / str(number) / "criu-veth.json"), key_dir=keys)
                os._exit(0)
            except BaseException:
                os._exit(1)
        return os.waitpid(pid, 0)[1]

    for number in range(8):
        (tmp_path / str(number)).mkdir()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(child, range(8))) == [0] * 8
    assert all(seal.is_own(b"this", str(tmp_path / str(n) / "criu-veth.json"), key_dir=keys) for n in range(8))


def test_another_hosts_is_not_own(keys: str, state: str, tmp_path: Path) -> None:
    seal.write(b"this", state, key_dir=keys)
    assert not seal.is_own(b"this", state, key_dir=str(tmp_path / "nowhere"))
    seal.make_key(str(tmp_path / "others"))
    assert not seal.is_own(b"this", state, key_dir=str(tmp_path / "others"))
    assert not Path(tmp_path / "nowhere").exists()  # looking makes nothing


@pytest.mark.parametrize("found", [b"", b"0" * 64, b"\xff" * 70, b"seal"])
def test_what_is_no_seal_is_not_own(keys: str, state: str, found: bytes) -> None:
    seal.make_key(keys)
    assert not seal.is_own(b"this", state, key_dir=keys)
    Path(seal.path_for(state)).write_bytes(found)
    assert not seal.is_own(b"this", state, key_dir=keys)


def test_a_seal_is_no_link_and_no_fifo(keys: str, state: str, tmp_path: Path) -> None:
    seal.write(b"this", state, key_dir=keys)
    path = Path(seal.path_for(state))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not seal.is_own(b"this", state, key_dir=keys)
    path.unlink()
    os.mkfifo(path)
    assert not seal.is_own(b"this", state, key_dir=keys)


def refused(keys: str) -> str:
    with pytest.raises(seal.NoKeyError) as raised:
        seal.make_key(keys)
    return str(raised.value)


def test_a_key_that_others_may_have_is_none(keys: str, tmp_path: Path) -> None:
    seal.make_key(keys)
    key = Path(keys, "key")

    key.chmod(0o640)
    assert refused(keys) == f"{keys}/key: is open to others (mode 0640); remove it, and another one is made"
    key.chmod(0o600)
    Path(keys).chmod(0o755)
    assert refused(keys) == f"{keys}: is open to others (mode 0755); remove it, and another one is made"
    Path(keys).chmod(0o700)

    key.write_bytes(b"short")
    assert refused(keys) == f"{keys}/key: is no key of 32 bytes; remove it, and another one is made"

    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    assert refused(keys) == f"{keys}/key: Too many levels of symbolic links (ELOOP)"
    key.unlink()
    os.mkfifo(key, 0o600)
    assert refused(keys) == f"{keys}/key: is no key of 32 bytes; remove it, and another one is made"


def test_its_directory_is_no_link(keys: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    Path(keys).symlink_to(tmp_path / "elsewhere")
    assert refused(keys) == f"{keys}: Not a directory (ENOTDIR)"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_key_of_another_user_is_none(keys: str) -> None:
    seal.make_key(keys)
    os.chown(Path(keys, "key"), 65534, 65534)
    assert refused(keys) == f"{keys}/key: belongs to uid 65534; remove it, and another one is made"


def test_what_a_killed_process_left_is_no_hindrance(keys: str, state: str) -> None:
    Path(keys).mkdir(mode=0o700)
    Path(keys, f".key.{os.getpid()}").write_bytes(b"half")
    Path(f"{Path(state).parent}/.criu-veth.seal.{os.getpid()}").write_bytes(b"half")
    seal.write(b"this", state, key_dir=keys)
    assert seal.is_own(b"this", state, key_dir=keys)


def test_where_it_cannot_be_written_is_said(keys: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        seal.write(b"this", str(tmp_path / "nowhere/criu-veth.json"), key_dir=keys)
