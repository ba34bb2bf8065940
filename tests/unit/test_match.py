"""Which mapping file is this container's, and how a program notices that it is another one now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from criu_veth import config, match, paths, prepare, program
from criu_veth.errors import InputError
from criu_veth.match import Subject
from criu_veth.state import Container

WEB = Subject(("web", "0123abcd", "shop/web-1/server"), "/var/lib/checkpoints/web-images", "alpha")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the mapping files; it is not there yet."""
    monkeypatch.setattr(paths, "MATCH_DIR", str(tmp_path / "criu-veth.d"))
    monkeypatch.setattr(paths, "CONFIG_DEFAULT", str(tmp_path / "criu-veth.toml"))
    return tmp_path / "criu-veth.d"


def write(directory: Path, **texts: str) -> None:
    directory.mkdir(mode=0o755, exist_ok=True)
    for name, text in texts.items():
        (directory / f"{name}.toml").write_text(text)


def chosen(about: Subject = WEB, environ: dict[str, str] | None = None) -> tuple[str | None, list[str]]:
    sources = paths.Sources(environ or {}, None)
    decisions = match.choose(sources, about)
    return sources.config and os.path.basename(sources.config), [decision.why for decision in decisions]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no [match], so it is for every container"),
        ('match.container = "web"', 'container = "web" matches "web"'),
        ('match.container = "w?b"', 'container = "w?b" matches "web"'),
        ('match.container = "0123*"', 'container = "0123*" matches "0123abcd"'),
        ('match.container = ["db", "shop/*/server"]', 'container = "shop/*/server" matches "shop/web-1/server"'),
        ('match.image = "web-*"', 'image = "web-*" matches "web-images"'),
        (
            'match.image = "/var/*/web-*"',
            'image = "/var/*/web-*" matches "/var/lib/checkpoints/web-images"',
        ),
        (
            'match = { container = "web", hostname = "alp[gh]a" }',
            'container = "web" matches "web", hostname = "alp[gh]a" matches "alpha"',
        ),
    ],
)
def test_fits(files: Path, text: str, why: str) -> None:
    write(files, web=text)

    assert chosen() == ("web.toml", [why])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('match.container = "db"', 'container = "db" does not match "web", "0123abcd", "shop/web-1/server"'),
        ('match.container = "WEB"', 'container = "WEB" does not match "web", "0123abcd", "shop/web-1/server"'),
        (
            'match.image = ["a", "checkpoints"]',
            'image = "a" or "checkpoints" does not match "web-images", "/var/lib/checkpoints/web-images"',
        ),
        ('match = { container = "web", hostname = "beta" }', 'hostname = "beta" does not match "alpha"'),
    ],
)
def test_does_not_fit(files: Path, text: str, why: str) -> None:
    write(files, web=text)

    assert chosen() == (None, [why])


def test_an_unknown_container_fits_no_pattern(files: Path) -> None:
    write(files, web='match.container = "*"')

    assert chosen(Subject((), "", "alpha")) == (None, ['container = "*" does not match nothing: it is not known'])


def test_first_one_by_name_wins(files: Path) -> None:
    write(files, b='match.container = "w*"', a='match.container = "db"', c="")
    (files / ".hidden.toml").write_text("")
    (files / "readme.txt").write_text("")

    assert chosen() == (
        "b.toml",
        [
            'container = "db" does not match "web", "0123abcd", "shop/web-1/server"',
            'container = "w*" matches "web"',
        ],
    )


def test_the_main_file_is_for_the_rest(files: Path) -> None:
    write(files, a='match.hostname = "beta"')
    (files.parent / "criu-veth.toml").write_text("")

    name, (_, why) = chosen()

    assert (name, why) == ("criu-veth.toml", f"none of {files} is for this container")


def test_a_named_file_goes_before(files: Path) -> None:
    write(files, a="")

    assert chosen(environ={paths.CONFIG_VARIABLE: "/etc/other.toml"}) == ("other.toml", [])


def test_a_file_in_the_images_goes_before(files: Path, tmp_path: Path) -> None:
    write(files, a="")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/criu-veth.toml").write_text("")
    sources = paths.Sources({}, str(tmp_path / "images"))

    assert match.choose(sources, WEB) == []
    assert sources.config == str(tmp_path / "images/criu-veth.toml")


def test_a_file_that_cannot_be_read_is_an_error(files: Path) -> None:
    write(files, a="[match", b="")

    with pytest.raises(InputError, match=r"a\.toml: is not TOML: "):
        chosen()


def test_a_match_with_an_unknown_key_is_an_error(files: Path) -> None:
    write(files, a='match.containers = "web"')

    with pytest.raises(InputError) as caught:
        chosen()

    assert caught.value.faults == (f'{files}/a.toml: match: unknown key "containers"',)


def test_only_the_match_of_a_file_that_does_not_fit_is_looked_at(files: Path) -> None:
    write(files, a='mappings = ["nonsense"]\n[match]\ncontainer = "db"', b="")

    assert chosen()[0] == "b.toml"


def test_a_match_elsewhere_chooses_nothing_and_says_so(files: Path) -> None:
    found = config.parse('match.container = "web"', "/etc/criu/criu-veth.toml")

    assert found.notices == (f"match: chooses nothing here, only in {files}",)


def test_names_come_from_the_state_and_from_the_path() -> None:
    container = Container(runtime="lxc", id="web", names=("web",))
    identity = "ab" * 32

    found = match.subject(f"/var/lib/docker/containers/{identity}/checkpoints/one", container)

    assert found.names == ("web", identity)


def test_reading_uses_what_the_caller_knows(files: Path) -> None:
    write(files, web='mappings = ["eth0:web0"]\nmatch.container = "web"')

    inputs = prepare.read({}, None, Container(names=("web",)))

    assert inputs.config is not None
    assert inputs.config.path == f"{files}/web.toml"


# --- freshness: what a program was made from


def test_without_the_directory_nothing_is_looked_at(files: Path, tmp_path: Path) -> None:
    sources = paths.Sources({}, str(tmp_path))

    assert (sources.matchable, sources.own, program.files_of(sources)) == ([], False, ())


def test_the_directory_makes_programs_those_of_the_images(files: Path, tmp_path: Path) -> None:
    write(files, a="")

    assert paths.Sources({}, str(tmp_path)).own


def test_every_change_of_the_directory_is_a_change(files: Path, tmp_path: Path) -> None:
    write(files, a="", b="")
    seen = [program.files_of(paths.Sources({}, str(tmp_path)))]

    def look() -> None:
        seen.append(program.files_of(paths.Sources({}, str(tmp_path))))

    (files / "a.toml").write_text("# more")
    look()
    write(files, c="")
    look()
    (files / "c.toml").rename(files / "0.toml")
    look()
    (files / "b.toml").unlink()
    look()
    files.chmod(0o700)
    look()
    assert len(set(seen)) == len(seen)


def test_another_place_of_the_images_is_a_change(files: Path, tmp_path: Path) -> None:
    write(files, a="")
    (tmp_path / "one").mkdir()
    before = program.files_of(paths.Sources({}, str(tmp_path / "one")))
    (tmp_path / "one").rename(tmp_path / "two")

    assert program.files_of(paths.Sources({}, str(tmp_path / "two"))) != before
