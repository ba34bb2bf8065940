"""``criu-veth gc``."""

from __future__ import annotations

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import examples


@click.command("gc", epilog=examples("criu-veth gc --dry-run", "criu-veth gc"))
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def command(dry_run: bool) -> None:
    """Remove what restores that died have left on this host.

    A criu that is killed, or gives up late, does not tell the hook. What outlives it is a device that was made for CRIU
    to move and that it did not get to, and records below /run/criu-veth. The next restore removes them too. A device is
    removed only if such a record names it and it still has the mark with which it was made.
    """
    from criu_veth import garbage, program

    program.secure_run_dir(make=False)
    said = garbage.stale() if dry_run else garbage.collect()
    for line in said:
        click.echo(output.printable(line))
    if not said:
        click.echo("nothing to remove")
