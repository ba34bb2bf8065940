"""``criu-veth prepare``."""

from __future__ import annotations

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import checkpoint, examples, external, mode
from criu_veth.errors import OperationError


@click.command(
    "prepare",
    epilog=examples(
        "criu-veth prepare /var/lib/checkpoints/web && echo a restore here would find its network",
        "criu-veth prepare --mode empty /var/lib/checkpoints/web",
    ),
)
@checkpoint
@mode
@external
def command(images: str, mode: str | None, external: tuple[str, ...]) -> None:
    """Make the program for a restore on this host, ahead of it.

    IMAGES is the image directory that the restore will be from. What was captured at the dump, or by the command of
    that name, is enough in it: it may be copied here while the application still runs. The restore then starts with
    nothing to find out, unless a file or this host has changed by then.

    Exit status: 0 a restore here would find its network, 1 it would not, 2 the mapping file or the state file is wrong.
    """
    from criu_veth import prepare, way
    from criu_veth.cli import host, inputs

    read = inputs.read(None, images, mode, external=external)
    found, running, others = host.examine(read.veths, read.read.config)
    output.notice(*read.notices, *others)
    lost = prepare.lost_in_images(images, read.way)
    output.warning(*running, *read.refused, *found.warnings, *lost)
    if found.faults:
        raise OperationError(*found.faults)
    found = found.with_warnings(lost)
    prepare.save(read.veths, read.read, found, read.way)
    if not (read.way.empty or read.way.adopt or read.way.ready):
        # Whoever calls criu over RPC: the hook cannot see what it was told.
        other = way.Way()
        prepare.save(prepare.desired(read.read, other), read.read, found, other)
    names = ", ".join(f"{veth.inner}: {veth.outer.ifname or veth.kind}" for veth in read.veths) or "no veth is mapped"
    click.echo(output.printable(f"ready: {names} ({output.names(*read.names())})"))
