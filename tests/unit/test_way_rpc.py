"""A criu that a runtime drives over RPC: what it is told is not on its command line, but may be in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from criu_veth import way

CRUN_CONF = "/etc/criu/crun.conf"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """All the files that there are."""
    found: dict[str, str] = {"/proc/7/stat": "7 (criu) S 6 7 7 0", "/proc/6/comm": "crun\n"}
    monkeypatch.setattr(way, "_read", found.get)
    monkeypatch.setattr(way, "images_hold_devices", lambda _: True)
    return found


@pytest.mark.parametrize("command", ["criu\0swrk\0003\0", "criu: restore --rpc -D /images\0\0\0", "ld.so\0criu: res\0"])
def test_configuration_file_of_the_runtime(files: dict[str, str], command: str) -> None:
    """With libbsd, criu changes its command line once it has been told."""
    files["/proc/7/cmdline"] = command
    files[CRUN_CONF] = "external veth[eth0]:web0\n"

    found = way.find(7, "/images", {})

    assert (found.told, found.external, found.mode_of("eth0"), found.mode_of("eth1")) == (
        False,
        {"eth0": "web0"},
        "external",
        "unknown",
    )


@pytest.mark.parametrize("comm", ["crun", "ld-linux-x86-64"])
def test_runtime_that_something_else_starts(files: dict[str, str], comm: str) -> None:
    files.update({"/proc/7/cmdline": "criu\0swrk\0003\0", CRUN_CONF: "external veth[eth0]:web0\n"})
    files.update({"/proc/6/comm": comm + "\n", "/proc/6/cmdline": "/lib/ld.so\0--library-path\0/lib\0/opt/bin/crun\0"})

    assert way.find(7, "/images", {}).external == {"eth0": "web0"}


def test_names_in_a_file_for_every_restore_are_not_the_callers(files: dict[str, str]) -> None:
    """One name for the outer ends of all containers can only be a makeshift: the captured ones win."""
    files["/proc/7/cmdline"] = "criu\0swrk\0003\0"
    files[CRUN_CONF] = "external veth[eth0]:vh0@br7\n"
    files["/own.conf"] = "external veth[eth1]:own1\n"

    found = way.find(7, "/images", {"CRIU_CONFIG_FILE": "/own.conf"})

    assert found.mode_of("eth0") == "external"
    assert (found.names_of("eth0"), found.names_of("eth1")) == (("", ""), ("own1", ""))
    assert found.agrees((("eth0", "web0", "br0"),))
    assert not found.agrees((("eth1", "web1", "br0"),))


def test_a_restore_on_the_command_line_is_not_over_rpc(files: dict[str, str]) -> None:
    files["/proc/7/cmdline"] = "criu\0restore\0-D\0/images\0--external\0veth[eth0]:web0\0"
    files[CRUN_CONF] = "external veth[eth9]:web9\n"

    found = way.find(7, "/images", {})

    assert (found.told, found.external) == (True, {"eth0": "web0"})


def test_what_is_made_by_criu_is_part_of_an_unknown_way(files: dict[str, str]) -> None:
    """A program for one veth that CRIU makes must not serve a restore for which nothing is known to be made."""
    files["/proc/7/cmdline"] = "criu\0swrk\0003\0"
    without = way.find(7, "/images", {}).key
    files[CRUN_CONF] = "external veth[eth0]:web0\n"

    assert (without, way.find(7, "/images", {}).key) == ("unknown", "unknown,eth0")


def test_what_is_likely_at_the_dump_is_what_comes_at_the_restore(files: dict[str, str]) -> None:
    files.update({"/proc/7/cmdline": "criu: dump --rpc -t 42\0", CRUN_CONF: "external veth[eth0]:web0\n"})
    likely = [one.key for one in way.likely(7, {})]
    files["/proc/7/cmdline"] = "criu: restore --rpc\0"

    assert likely == ["unknown,eth0", "empty"]
    assert way.find(7, "/images", {}).key in likely


def test_what_is_likely_after_a_dump_on_the_command_line(files: dict[str, str]) -> None:
    files["/proc/7/cmdline"] = "criu\0dump\0-t\00042\0"

    assert [one.key for one in way.likely(7, {})] == ["external", "empty"]


@pytest.mark.parametrize(
    ("command", "comm", "ways"),
    [
        ("criu\0dump\0--empty-ns\0net\0", "sh", ["empty"]),
        ("criu\0dump\0--external\0net[123]:pod\0", "sh", ["adopt"]),
        ("criu\0swrk\0003\0", "runc", ["empty"]),
        ("criu\0swrk\0003\0", "python3", ["unknown", "empty"]),
    ],
)
def test_what_is_likely_after_a_dump_without_devices(
    files: dict[str, str], command: str, comm: str, ways: list[str]
) -> None:
    """Such a dump saves none that CRIU could make; runc asks for no other."""
    files.update({"/proc/7/cmdline": command, "/proc/6/comm": comm + "\n"})

    assert [one.key for one in way.likely(7, {})] == ways


# --- images without a network namespace

#: What CRIU 4.2.1 wrote for a process in the host's network namespace.
IDS = "194356543020435418000000080210021802200228013002380340044806500758086005"
INVENTORY = (
    "163131584e000000080210011a18080110011801200128013002380340044806500758086005200128013000580062006a24"
    "33353735313430612d663636622d343764392d623937612d343837383061393230353566"
)


def test_images_that_share_the_network_namespace(tmp_path: Path) -> None:
    def holds(ids: bytes, inventory: bytes) -> bool:
        (tmp_path / "ids-7.img").write_bytes(ids)
        (tmp_path / "inventory.img").write_bytes(inventory)
        return way.images_share_netns(str(tmp_path))

    ids, inventory = bytes.fromhex(IDS), bytes.fromhex(INVENTORY)
    assert not way.images_share_netns(str(tmp_path)), "nothing tells"
    assert holds(ids, inventory)
    own = ids.replace(b"\x30\x02", b"\x30\x09")
    assert not holds(own, inventory)
    (tmp_path / "ids-8.img").write_bytes(own)
    assert not holds(ids, inventory), "one of the tree has its own"
    (tmp_path / "ids-8.img").unlink()
    for end in range(len(ids)):
        assert not holds(ids[:end], inventory)
    for end in range(40):
        assert not holds(ids, inventory[:end])
    assert holds(ids, inventory)
    (tmp_path / "netns-9.img").touch()
    assert not holds(ids, inventory)
