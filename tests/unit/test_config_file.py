"""The mapping file as a file: what is not read, and whose word is not obeyed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from criu_veth import config
from criu_veth.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good mapping file, in a directory of its own."""
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    path = directory / "web.toml"
    path.write_text('mappings = ["eth0:web0"]\n')
    path.chmod(0o644)
    return path


def fault(path: Path | str) -> str:
    with pytest.raises(InputError) as raised:
        config.load(str(path))
    (only,) = raised.value.faults
    return only


def test_a_good_file_is_read(file: Path) -> None:
    read = config.load(str(file))
    assert read.path == str(file)
    assert [(veth.inner, veth.outer) for veth in read.veths] == [("eth0", "web0")]


def test_relative_path_and_link(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert config.load("web.toml").veths == config.load(str(file)).veths
    (file.parent / "link.toml").symlink_to("web.toml")
    assert config.load("link.toml").veths == config.load(str(file)).veths


def test_no_file(file: Path) -> None:
    file.unlink()
    assert fault(file) == f"{file}: there is no such mapping file"


def test_link_to_nothing(file: Path) -> None:
    link = file.parent / "link.toml"
    link.symlink_to("gone.toml")
    assert fault(link) == f"{link}: there is no such mapping file"


def test_link_to_itself(file: Path) -> None:
    link = file.parent / "link.toml"
    link.symlink_to("link.toml")
    assert fault(link) == f"{link}: cannot read the mapping file: Too many levels of symbolic links"


def test_a_file_where_the_directory_should_be(file: Path) -> None:
    assert fault(file / "web.toml") == f"{file}/web.toml: cannot read the mapping file: Not a directory"


def test_unreadable(file: Path) -> None:
    file.chmod(0)
    user = os.geteuid()
    if user == 0:  # reads everything
        os.seteuid(1000)
    try:
        assert fault(file) == f"{file}: cannot read the mapping file: Permission denied"
    finally:
        os.seteuid(user)


def test_directory(file: Path) -> None:
    assert fault(file.parent) == f"{file.parent}: is a directory; the mapping file is a file"


def test_pipe_is_not_waited_for(file: Path) -> None:
    pipe = file.parent / "pipe"
    os.mkfifo(pipe)
    assert fault(pipe) == f"{pipe}: is not a regular file; the mapping file is a file"


def test_too_long(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(config.MAX_SIZE + 1)
    assert fault(file) == f"{file}: is 1048577 bytes long; a mapping file has at most 1048576"


def test_not_utf_8(file: Path) -> None:
    file.write_bytes(b'alias = "\xff"')
    assert fault(file) == f"{file}: is not UTF-8: byte 9 is 0xff"


def test_not_toml(file: Path) -> None:
    file.write_text("mappings: []\n")
    assert fault(file) == f"{file}: is not TOML: Expected '=' after a key in a key/value pair (at line 1, column 9)"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o622])
def test_file_that_others_may_write(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert fault(file) == (f"{file}: not obeyed, because {file} may be written by others (mode {mode:04o}): chmod go-w")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_file_in_a_directory_that_others_may_write(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert fault(file) == (
        f"{file}: not obeyed, because {file.parent} may be written by others (mode {mode:04o}): chmod go-w"
    )


def test_directory_in_which_nobody_can_replace_the_file(file: Path) -> None:
    """As /tmp is: in a sticky directory only the owner renames or deletes a file."""
    file.parent.chmod(0o1777)
    assert len(config.load(str(file)).veths) == 1


def test_link_out_of_a_directory_that_others_may_write(file: Path, tmp_path: Path) -> None:
    """Who can replace the link chooses among all of root's files."""
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    link = loose / "link.toml"
    link.symlink_to(file)
    assert fault(link) == (f"{link}: not obeyed, because {loose} may be written by others (mode 0777): chmod go-w")


def test_link_into_a_directory_that_others_may_write(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    file.parent.chmod(0o777)
    assert fault(link) == (
        f"{link}: not obeyed, because {file.parent} may be written by others (mode 0777): chmod go-w"
    )


@pytest.mark.root
def test_file_of_somebody_else(file: Path) -> None:
    os.chown(file, 1000, 0)
    assert fault(file) == f"{file}: not obeyed, because {file} belongs to uid 1000; make it root's: chown root"


@pytest.mark.root
def test_directory_of_somebody_else(file: Path) -> None:
    os.chown(file.parent, 1000, 0)
    assert fault(file) == f"{file}: not obeyed, because {file.parent} belongs to uid 1000; make it root's: chown root"
