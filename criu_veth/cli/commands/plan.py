"""``criu-veth plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import as_json, examples, external, images, mapping_file, mode

if TYPE_CHECKING:
    from criu_veth.cli.inputs import Inputs
    from criu_veth.plan import Plan


@click.command(
    "plan",
    epilog=examples(
        "criu-veth plan",
        "criu-veth plan ./criu-veth.toml",
        "criu-veth plan --images /var/lib/checkpoints/web --json",
        "criu-veth plan --container web",
    ),
)
@mapping_file
@images
@mode
@external
@click.option("--container", metavar="NAME", help="For a container of this name or id: which mapping file, and why.")
@as_json
def command(
    file: str | None,
    images: str | None,
    mode: str | None,
    external: tuple[str, ...],
    container: str | None,
    as_json: bool,
) -> None:
    """Print what the hook would do at each action of a restore.

    FILE is the mapping file; without one it is found as the hook finds it. The host is not looked at (see check), but
    for who has an address that a capture from elsewhere claims. An operation whose result is there already is left as
    it is.
    """
    from criu_veth import plan
    from criu_veth.cli import inputs

    read = inputs.read(file, images, mode, container, external)
    made = plan.make(read.veths)
    output.notice(*read.notices, *read.chosen(always=container is not None))
    output.warning(*read.refused)
    if as_json:
        output.as_json(_report(read, made))
    elif not any(made.operations.values()):
        click.echo(f"nothing to do: no veth is mapped ({output.names(*read.names())})")
    elif output.is_terminal():
        for action, operations in made.operations.items():
            output.table(
                action, ("inner", "operation"), _grouped([(o.inner, plan.with_condition(o)) for o in operations])
            )
    else:
        for action, operations in made.operations.items():
            for operation in operations:
                click.echo(output.printable(f"{action}: {operation.inner}: {plan.with_condition(operation)}"))


def _report(read: Inputs, made: Plan) -> dict[str, object]:
    return {
        "config": read.sources.config,
        "state": read.sources.state,
        "chosen": [decision._asdict() for decision in read.read.chosen],
        "refused": read.refused,
        "operations": _as_builtins(made),
    }


def _as_builtins(made: Plan) -> dict[str, list[dict[str, Any]]]:
    import msgspec

    from criu_veth.plan import with_condition

    return {
        action: [{**msgspec.to_builtins(one), "description": with_condition(one)} for one in operations]
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
