"""The manual page has every command and every option."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from criu_veth.cli.app import COMMANDS, app

PAGE = (Path(__file__).parents[2] / "docs" / "criu-veth.1.md").read_text()
HEADINGS = {line.split()[2]: line for line in PAGE.splitlines() if line.startswith("### criu-veth ")}


def command(name: str) -> click.Command:
    found = app.get_command(click.Context(app), name)
    assert found is not None
    return found


def test_every_command_is_there_in_order() -> None:
    assert list(HEADINGS) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_there(name: str) -> None:
    wanted = {option for parameter in command(name).params for option in parameter.opts if option.startswith("--")}

    assert set(re.findall(r"--[a-z-]+", HEADINGS[name])) == wanted
    assert all(f"**{option}**" in PAGE or f"**{option} " in PAGE for option in wanted - {"--format"})


def test_every_choice_is_there() -> None:
    types = [parameter.type for name in COMMANDS for parameter in command(name).params]
    choices = {str(choice) for one in types if isinstance(one, click.Choice) for choice in one.choices}

    assert {"args", "conf", "json", "external", "ready", "empty"} <= choices
    assert all(f"**{choice}**" in PAGE for choice in choices)
