"""What the commands print: results to stdout, everything else to stderr with the hook's prefix."""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence

import click

from criu_veth import errors
from criu_veth.errors import printable as printable  # noqa: PLC0414 - for those who print

_UNFOLDED = len("02:00:00:00:00:01")


def error(*lines: str) -> None:
    """Report faults, one a line."""
    _report("error", lines)


def warning(*lines: str) -> None:
    """Report what does not prevent a restore."""
    _report("warning", lines)


def notice(*lines: str) -> None:
    """Report what is worth knowing."""
    _report("notice", lines)


def _report(kind: str, lines: Sequence[str]) -> None:
    for line in errors.lines(f"{kind}: ", tuple(lines)):
        click.echo(line, err=True)


def as_json(value: object) -> None:
    """Print ``value`` as JSON for programs."""
    click.echo(json.dumps(value, indent=2))


def is_terminal() -> bool:
    """Say whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def shell_word(text: str) -> str:
    """Quote a word for a shell; one that is not printable is for ``printf`` to write: each sh knows that."""
    if text.isprintable():
        return shlex.quote(text)
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:@[]"
    data = text.encode("utf-8", "surrogateescape")
    written = "".join(chr(byte) if chr(byte) in plain else f"\\{byte:03o}" for byte in data)
    return f"\"$(printf '{written}')\""


def json_text(data: bytes) -> str:
    """Return JSON with all that is not printable in its strings escaped; outside of them there is nothing such."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in data.decode())


def names(*paths: str | None) -> str:
    """Return what was read, for a line of text."""
    return ", ".join(printable(path) for path in paths if path is not None)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | list[str]]]) -> None:
    """Print a table for a person who sits at a terminal; a cell that is a list has a line for each of its texts."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(printable(title), style="bold"), title_justify="left", box=None, pad_edge=False)
    cells = [["\n".join(map(printable, [cell] if isinstance(cell, str) else cell)) for cell in row] for row in rows]
    for number, column in enumerate(columns):
        words = [word for row in cells for word in row[number].split()]
        made.add_column(
            column,
            style="" if number else "cyan",
            header_style="dim",
            overflow="fold",
            min_width=min(max(map(len, words), default=0), _UNFOLDED),
        )
    for row in cells:
        made.add_row(*map(Text, row))
    Console(highlight=False).print(made)
