"""Changing the machine's files: what will change is shown, asked for, done, and said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from criu_veth.cli import output
from criu_veth.errors import OperationError

if TYPE_CHECKING:
    from criu_veth.install import Change

root = click.option(
    "--root",
    metavar="DIR",
    default="/",
    show_default=True,
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="The root directory of the system to change, for whoever builds an image of one.",
)
yes = click.option("--yes", is_flag=True, help="Do not ask.")


def carry_out(planned: Sequence[Change], *, root: str, yes: bool) -> None:
    """Show what of ``planned`` is needed, ask, do it.

    Raises OperationError: no was the answer, or a file cannot be changed.
    """
    needed = [change for change in planned if change.is_needed]
    if not needed:
        click.echo("nothing to do: all is as it should be")
        return
    for line in (line for change in needed for line in change.diff()):
        click.echo(output.printable(line))
    if os.geteuid() != 0 and root == "/":
        raise OperationError("only root can change these files; nothing was changed")
    if not yes and not _asked(f"Change {len(needed)} {'file' if len(needed) == 1 else 'files'}?"):
        raise OperationError("nothing was changed; --yes does it without asking")
    for change in needed:
        change.apply()
        click.echo(output.printable(f"{'removed' if change.after is None else 'written'}: {change.path}"))


def _asked(question: str) -> bool:
    try:
        return click.confirm(question, default=False, err=True)
    except click.Abort:  # the end of the input is no
        click.echo(err=True)
        return False
