"""``criu-veth gc``."""

from __future__ import annotations

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import examples


@click.command(
    "gc",
    epilog=examples(
        "criu-veth gc --dry-run",
        "criu-veth gc",
        "criu-veth gc --netns /run/netns/pod",
        "criu-veth gc --kill-orphans",
    ),
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--netns",
    "netns",
    metavar="PATH|PID",
    multiple=True,
    help="Only remove CRIU's lock from this network namespace; may be given several times.",
)
@click.option("--kill-orphans", is_flag=True, help="Only kill the processes of restores whose criu is gone.")
def command(dry_run: bool, netns: tuple[str, ...], kill_orphans: bool) -> None:
    """Remove what restores that died have left on this host.

    A criu that is killed, or gives up late, does not tell the hook. What outlives it is a device that was made for CRIU
    to move and that it did not get to, and records below /run/criu-veth. A device is removed only if such a record
    names it and it still has the mark with which it was made. What was made in another network namespace is left to a
    call there, and a restore in another PID namespace counts as alive unless this one sees every process of the host.

    Open vSwitch keeps its record of a port when the device has gone with its container. Such a record is removed if it
    has the mark with which a restore made it.

    Removed are also the programs that were made for restores from images, or by a mapping file, that are gone. The hook
    does all this too when it gets to it.

    Two things are only done when they are asked for, and then nothing else is.

    With --netns: the packet filter rules with which CRIU locks a network namespace are removed from that one, a path or
    that of a process. They stay there if a dump's container is not restored, or its restore fails, and nothing gets
    through. All other rules are left as they are, and so is a namespace in which a criu is at work.

    With --kill-orphans: processes that a killed criu has half restored are killed. They wait for it for ever, and hold
    the names of the outer ends. One that runs, or whose criu does, is never taken for one.
    """
    faults: list[str] = []
    if netns or kill_orphans:
        said = [*_killed(dry_run=dry_run)] if kill_orphans else []
        for given in netns:
            said += _opened(given, dry_run=dry_run)
    else:
        said, faults = _collected(dry_run=dry_run)
    for line in said:
        click.echo(output.printable(line))
    if faults:
        from criu_veth.errors import OperationError

        raise OperationError(*faults)
    if not said:
        click.echo("nothing to remove")


def _collected(*, dry_run: bool) -> tuple[list[str], list[str]]:
    """Return what was removed, and why the rest was not."""
    from criu_veth import garbage, program

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
    return said, faults


def _opened(given: str, *, dry_run: bool) -> list[str]:
    from criu_veth import locks

    namespace = locks.resolve(given)
    if dry_run:
        found = locks.find(namespace)
        if found:
            locks.refuse_at_work(namespace)
        return [f"{given}: {what}: CRIU's lock" for what in found]
    return [f"{given}: {what}: removed, CRIU's lock" for what in locks.open_up(namespace)]


def _killed(*, dry_run: bool) -> list[str]:
    from criu_veth import orphans

    said = []
    for orphan in orphans.find():
        if not dry_run:
            orphans.kill(orphan)
        said.append(f"{orphan.describe()}: {'' if dry_run else 'killed, '}its criu is gone, and it waits for it")
    return said
