"""What the documents say is what the code does: keys, examples, links."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from criu_veth import config, state

PROJECT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        PROJECT / "README.md",
        PROJECT / "SECURITY.md",
        *PROJECT.glob("docs/**/*.md"),
        *PROJECT.glob("examples/**/*.md"),
        PROJECT / "tests/README.md",
    ]
)
MAPPING_FILE = (PROJECT / "docs/mapping-file.md").read_text()
STATE_FILE = (PROJECT / "docs/state-file.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def fields(base: type[msgspec.Struct], module: object) -> list[str]:
    tables = [t for t in vars(module).values() if isinstance(t, type) and issubclass(t, base)]
    return sorted({name for table in tables for name in table.__struct_fields__})


@pytest.mark.parametrize("key", fields(config.Table, config))
def test_every_key_of_the_mapping_file_is_documented(key: str) -> None:
    assert re.search(rf"`(\[\[|\[)?{key}(\]\]|\])?`", MAPPING_FILE)


CAPTURED = (state.State, state.Host, state.CapturedVeth, state.Inner, state.Outer, state.Address, state.Route)
CAPTURED += (state.Rule, state.Neighbour, state.FdbEntry, state.Qdisc, state.TcClass, state.Filter)


@pytest.mark.parametrize("key", sorted({name for table in CAPTURED for name in table.__struct_fields__}))
def test_every_key_of_the_state_file_is_documented(key: str) -> None:
    assert f"`{key}`" in STATE_FILE or f'"{key}": ' in STATE_FILE


@pytest.mark.parametrize(
    ("document", "number"),
    [(d, n) for d in DOCUMENTS for n in range(len(blocks(d.read_text(), "toml")))],
    ids=lambda value: value.name if isinstance(value, Path) else str(value),
)
def test_mapping_files_in_documents_are_valid(document: Path, number: int) -> None:
    config.parse(blocks(document.read_text(), "toml")[number], "example")


def test_state_file_in_its_document_is_valid() -> None:
    (example,) = blocks(STATE_FILE, "jsonc")

    found = state.parse(re.sub(r"\s// .*$", "", example, flags=re.MULTILINE).encode(), "example")

    assert found.version == state.version_for(found.veths)
    assert found.veths[0].outer.master == "br0"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in file:
            continue
        path = document.parent / file if file else document
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target
