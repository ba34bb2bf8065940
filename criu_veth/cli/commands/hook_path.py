"""``criu-veth hook-path``."""

import click

from criu_veth.cli import hookfile
from criu_veth.cli.parameters import examples


@click.command(
    "hook-path",
    epilog=examples('criu dump -t PID -D images --action-script "$(criu-veth hook-path)"'),
)
def command() -> None:
    """Print the path of the hook, which is CRIU's action script."""
    click.echo(hookfile.find())
