"""``criu-veth plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import as_json, examples, images, mapping_file

if TYPE_CHECKING:
    from criu_veth.plan import Plan


@click.command(
    "plan",
    epilog=examples(
        "criu-veth plan",
        "criu-veth plan ./criu-veth.toml",
        "criu-veth plan --images /var/lib/checkpoints/web --json",
    ),
)
@mapping_file
@images
@as_json
def command(file: str | None, images: str | None, as_json: bool) -> None:
    """Print what the hook would do at each action of a restore.

    FILE is the mapping file; without one it is found as the hook finds it. The host is not looked at (see check), and
    an operation whose result is there already is left as it is.
    """
    from criu_veth import plan
    from criu_veth.cli import inputs

    sources = inputs.find(file, images)
    read = inputs.read(file, images)
    made = plan.make(read.veths)
    output.notice(*read.notices)
    if as_json:
        output.as_json({"config": sources.config, "state": sources.state, "operations": _as_builtins(made)})
    elif not any(made.operations.values()):
        click.echo(f"nothing to do: no veth is mapped ({output.names(sources.config, sources.state)})")
    elif output.is_terminal():
        for action, operations in made.operations.items():
            output.table(action, ("inner", "operation"), _grouped([(o.inner, o.describe()) for o in operations]))
    else:
        for action, operations in made.operations.items():
            for operation in operations:
                click.echo(output.printable(f"{action}: {operation.inner}: {operation.describe()}"))


def _as_builtins(made: Plan) -> dict[str, list[dict[str, Any]]]:
    import msgspec

    return {
        action: [{**msgspec.to_builtins(operation), "description": operation.describe()} for operation in operations]
        for action, operations in made.operations.items()
    }


def _grouped(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Name each inner end once."""
    out = []
    last = None
    for inner, text in rows:
        out.append(("" if inner == last else inner, text))
        last = inner
    return out
