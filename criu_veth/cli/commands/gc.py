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
    to move and that it did not get to, and records below /run/criu-veth. A device is removed only if such a record
    names it and it still has the mark with which it was made. What was made in another network namespace is left to a
    call there, and a restore in another PID namespace counts as alive unless this one sees every process of the host.

    Open vSwitch keeps its record of a port when the device has gone with its container. Such a record is removed if it
    has the mark with which a restore made it.

    Removed are also the programs that were made for restores from images, or by a mapping file, that are gone. The hook
    does all this too when it gets to it.
    """
    from criu_veth import garbage, program
    from criu_veth.errors import OperationError

    programs = program.prune(dry_run=dry_run)  # first: it refuses directories that others may write
    devices, faults = (garbage.stale(), []) if dry_run else garbage.collect()
    ports = garbage.stale_ports() if dry_run else garbage.collect_ports()
    done = "what it was made from is gone" if dry_run else "removed, what it was made from is gone"
    gone = "its device is gone" if dry_run else "removed, its device is gone"
    said = [
        *devices,
        *(f"port {name} of Open vSwitch: {gone}" for name in ports),
        *(f"program {name}: {done}" for name in programs),
    ]
    for line in said:
        click.echo(output.printable(line))
    if faults:
        raise OperationError(*faults)
    if not said:
        click.echo("nothing to remove")
