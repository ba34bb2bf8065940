"""The program's file: kept, found again while nothing changed, and handed from action to action."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from criu_veth import config, netlink, paths, preflight, prepare, program, resolve, runs, way
from criu_veth.errors import OperationError

PID = os.getpid()


@pytest.fixture(autouse=True)
def run(own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /run/criu-veth of our own, not made yet, and a host without a mapping file."""
    monkeypatch.setattr(paths, "CONFIG_DEFAULT", str(tmp_path / "etc" / "criu-veth.toml"))
    return own_run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A mapping file of the host's, outside of the images."""
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    path = directory / "web.toml"
    write(path, 'mappings = ["eth0:web0"]')
    return path


def write(path: Path, text: str) -> None:
    path.write_text(text + "\n")
    path.chmod(0o644)


def sources(images: Path | None, file: Path | None = None) -> paths.Sources:
    """What the hook would find."""
    environ = {paths.CONFIG_VARIABLE: str(file)} if file else {}
    return paths.Sources(environ, str(images) if images else None)


def make(images: Path | None, file: Path | None = None) -> program.Program:
    """Make the program without looking at this machine's network."""
    inputs = prepare.read({paths.CONFIG_VARIABLE: str(file)} if file else {}, str(images) if images else None)
    return prepare.save(prepare.desired(inputs), inputs, preflight.Findings((), (), {}))


def found(images: Path | None, file: Path | None = None, hostname: str = os.uname().nodename) -> program.Program | None:
    return program.find(sources(images, file), hostname, way.Way(told=True))


def test_what_was_saved_is_found(images: Path, file: Path) -> None:
    made = make(images, file)
    again = found(images, file)
    assert again is not None
    assert (again.name, again.inputs, again.checks, again.remarks, again.sections) == (
        made.name, made.inputs, made.checks, made.remarks, made.sections,
    )  # fmt: skip


def test_nothing_is_found_where_nothing_was_made(images: Path, file: Path) -> None:
    assert found(images, file) is None


def test_other_images_share_the_program_of_one_mapping_file(images: Path, file: Path, tmp_path: Path) -> None:
    make(images, file)
    other = tmp_path / "other"
    other.mkdir()
    assert found(other, file) is not None


CHANGES: dict[str, Callable[[Path], object]] = {
    "text": lambda file: write(file, 'mappings = ["eth0:web1"]'),
    "time": lambda file: os.utime(file, ns=(0, 0)),
    "mode": lambda file: file.chmod(0o664),
    "directory's mode": lambda file: file.parent.chmod(0o777),
    "another file": lambda file: (file.rename(file.with_suffix(".old")), write(file, 'mappings = ["eth0:web0"]')),
    "another directory": lambda file: (
        file.parent.rename(file.parent.with_suffix(".old")),
        file.parent.mkdir(mode=0o755),
        write(file, 'mappings = ["eth0:web0"]'),
    ),
    "no file": lambda file: file.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_mapping_file_makes_it_stale(images: Path, file: Path, change: str) -> None:
    make(images, file)
    CHANGES[change](file)
    assert found(images, file) is None


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_mapping_file_in_the_images_makes_it_stale(images: Path, change: str) -> None:
    file = images / paths.CONFIG_IN_IMAGES
    write(file, 'mappings = ["eth0:web0"]')
    make(images)
    assert found(images) is not None
    CHANGES[change](file)
    if not images.exists():
        images.mkdir()
    assert found(images) is None


@pytest.mark.root
def test_a_change_of_the_owner_makes_it_stale(images: Path, file: Path) -> None:
    make(images, file)
    os.chown(file, 1000, 0)
    assert found(images, file) is None


def test_a_mapping_file_that_appears_in_the_images_goes_first(images: Path, file: Path) -> None:
    write(images / paths.CONFIG_IN_IMAGES, 'mappings = ["eth0:own"]')
    assert sources(images).config == str(images / paths.CONFIG_IN_IMAGES)
    assert sources(images, file).config == str(file), "a file that is named is the only one"


def test_a_state_file_that_appears_makes_it_stale(images: Path, file: Path) -> None:
    make(images, file)
    (images / paths.STATE_NAME).write_text("{}")
    assert found(images, file) is None


def test_a_change_during_the_making_is_a_change(images: Path, file: Path) -> None:
    """Preflight may wait for seconds between reading the file and saving what came of it."""
    inputs = prepare.read({paths.CONFIG_VARIABLE: str(file)}, str(images))
    write(file, 'mappings = ["eth0:web1"]')
    prepare.save(prepare.desired(inputs), inputs, preflight.Findings((), (), {}))
    assert found(images, file) is None


def test_another_hostname_matters_where_it_is_used(images: Path, file: Path) -> None:
    make(images, file)
    assert found(images, file, hostname="elsewhere") is not None
    write(file, 'mappings = ["eth0:{hostname}"]\n[defaults]\nmtu = 1400')
    write(file, '[[veth]]\ninner = "eth0"\nouter = "web0"\nalias = "on {hostname}"')
    make(images, file)
    assert found(images, file) is not None
    assert found(images, file, hostname="elsewhere") is None


def test_restores_of_two_images_at_a_time_keep_their_programs_apart(images: Path, file: Path, tmp_path: Path) -> None:
    write(file, 'mappings = ["eth0:{image}"]')
    other = tmp_path / "other"
    other.mkdir()
    first, second = make(images, file), make(other, file)
    assert first.name != second.name
    for made, directory in ((first, images), (second, other)):
        again = found(directory, file)
        assert again is not None
        assert (again.name, again.inputs) == (made.name, made.inputs)


def test_a_program_of_another_version_is_not_run(images: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(images, file)
    monkeypatch.setattr(program, "MAGIC", program.MAGIC.replace(b"criu-veth program ", b"criu-veth program 9"))
    assert found(images, file) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "a header's length", "text", "zeros", "too large"])
def test_a_damaged_program_is_made_anew(images: Path, file: Path, run: Path, damage: str) -> None:
    """Wherever it is damaged: nothing of it is read, `marshal` would raise what it likes."""
    made = make(images, file)
    path = run / "programs" / made.name
    whole = path.read_bytes()
    start = len(program.MAGIC)
    places = {
        "cut": [whole[:end] for end in range(0, len(whole), 7)],
        "empty": [b""],
        "one bit": [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole), 5)],
        "a header's length": [whole[: start + 8] + size + whole[start + 16 :] for size in (b"ffffffff", b"        ")],
        "text": [b"old\n"],
        "zeros": [whole + bytes(8)],
        "too large": [whole + bytes(64 << 20)],
    }
    for data in places[damage]:
        path.write_bytes(data)
        assert found(images, file) is None
        assert program.prune(dry_run=True) == [made.name]
    make(images, file)
    assert found(images, file) is not None


def header(program_: program.Program, **changes: object) -> tuple[object, ...]:
    parts = {key: getattr(program_, key) for key in ("inputs", "checks", "remarks", "sections")}
    return tuple({**parts, **changes}.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": 7},
        {"inputs": (1, 2)},
        {"inputs": (None,) * 7},
        {"inputs": (*(None,) * 4, ("a",), 0, None)},
        {"inputs": (*(None,) * 4, (), 0, 5)},
        {"remarks": (b"x",)},
        {"sections": ()},
        {"sections": {"pre-restore": 5}},
        {"sections": {"pre-restore": (0, 1 << 40, 3, False)}},
        {"sections": {"pre-restore": (-1, 0, 3, False)}},
        {"sections": {"pre-restore": (0, 0, 3)}},
    ],
)
def test_a_header_of_another_shape_is_none(images: Path, file: Path, run: Path, changes: dict[str, object]) -> None:
    """As another program would write it under the same name: the checksum holds, and nobody stumbles over it."""
    made = make(images, file)
    path = run / "programs" / made.name
    path.write_bytes(program._file(header(made, **changes), b""))
    assert found(images, file) is None
    assert program.prune() == [made.name]


@pytest.mark.parametrize("body", [b"", b"x", b"i\0\0\0\0", b"(\xff\xff\xff", b"l\xff\xff\xff\x7f"])
def test_operations_that_are_none(images: Path, file: Path, body: bytes) -> None:
    sections = {"post-restore": (0, len(body), 5, False)}
    data = program._file(header(make(images, file), sections=sections), body)
    program_ = program.decode(data, "NAME")
    assert program_ is not None
    with pytest.raises(program.DamagedError) as caught:
        program_.operations("post-restore")
    assert str(caught.value) == f"cannot read the program NAME: remove {paths.PROGRAMS}"
    restore = runs.Run("1-1-1")
    restore.begin()
    restore.write("post-restore", data)
    assert program.operations(restore, "post-restore") is None


def test_a_program_that_is_being_written_is_left_alone(images: Path, file: Path, run: Path) -> None:
    made = make(images, file)
    half = run / "programs" / f".{PID + 1}-{made.name}"
    half.write_bytes(made.data[: len(made.data) // 2])
    assert program.prune() == []
    make(images, file)
    assert half.exists()
    os.utime(half, (1, 1))  # its writer has died
    make(images, file)
    assert not half.exists()


def test_the_oldest_programs_go(images: Path, file: Path, run: Path) -> None:
    """Nobody needs them all, and none of them is read to find that out."""
    make(images, file)
    for number in range(program.MOST + 50):
        other = run / "programs" / f"images-{number}"
        other.write_bytes(b"not read")
        other.chmod(0)
        os.utime(other, (number, number))
    made = make(images, file)
    left = {path.name for path in (run / "programs").iterdir()}
    assert left == {made.name, *(f"images-{number}" for number in range(51, program.MOST + 50))}


def test_programs_do_not_fill_the_host(images: Path, file: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_BYTES", 1000)
    for _ in range(2):
        made = make(images, file)
        assert len(made.data) > 1000, "the newest stays, whatever it takes"
        assert [path.name for path in (run / "programs").iterdir()] == [made.name]
        (run / "programs" / "images-1").write_bytes(bytes(10))


def test_another_network_namespace_makes_its_own(images: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(images, file)
    monkeypatch.setattr("criu_veth.runs.inode", lambda _: 1)
    assert found(images, file) is None


def test_nothing_but_the_program_is_left_in_its_directory(images: Path, file: Path, run: Path) -> None:
    made = make(images, file)
    assert [entry.name for entry in (run / "programs").iterdir()] == [made.name]
    assert (run / "programs" / made.name).stat().st_mode & 0o7777 == 0o600


def test_a_disk_that_is_full(images: Path, file: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("posix.write", full)
    with pytest.raises(OperationError) as raised:
        make(images, file)
    (fault,) = raised.value.faults
    assert fault.startswith(f"cannot write {run}/programs/config-")
    assert fault.endswith(": No space left on device")
    assert list((run / "programs").iterdir()) == []


# --- names


def test_image_name(images: Path, tmp_path: Path) -> None:
    descriptor = os.open(images, os.O_RDONLY)
    try:
        assert program.image_name(paths.Sources({}, f"/proc/{PID}/fd/{descriptor}")) == "images"
    finally:
        os.close(descriptor)
    assert program.image_name(paths.Sources({}, f"{tmp_path}/images/")) == "images"
    assert program.image_name(paths.Sources({}, f"{tmp_path}/not there")) == "not there"
    assert program.image_name(paths.Sources({}, None)) == ""


def test_long_image_name_makes_no_name_too_long(tmp_path: Path, file: Path) -> None:
    long = tmp_path / ("ü" * 127)
    long.mkdir()
    write(file, '[[veth]]\ninner = "eth0"\nouter = "web0"\nalias = "{image}"')
    make(long, file)
    assert found(long, file) is not None


def test_messages_of_a_program_are_as_the_kernel_wants_them() -> None:
    """One look at the bytes, by hand, of what no test of the hook could tell apart."""
    (veth,) = resolve.resolve(config.parse('mappings = ["eth0:web0"]', "f"), None, {"hostname": "", "image": ""})
    message = netlink.set_link(("IFLA_IFNAME", veth.outer.ifname))
    header = struct.pack("=IHHII", 44, 19, 0, 0, 0)  # RTM_SETLINK; flags and sequence number come when it is sent
    ifinfomsg = struct.pack("=BxHiII", 0, 0, 0, 0, 0)  # the index is filled in then
    assert message == header + ifinfomsg + struct.pack("=HH", 9, 3) + b"web0\0\0\0\0"


def test_nothing_is_kept_where_a_file_is_in_the_way(images: Path, file: Path, run: Path) -> None:
    run.write_text("")
    with pytest.raises(OperationError) as caught:
        make(images, file)
    assert str(caught.value) == f"cannot use {run}: it is not a directory; remove it"
    assert found(images, file) is None
    assert program.prune() == []
