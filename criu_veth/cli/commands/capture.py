"""``criu-veth capture``."""

from __future__ import annotations

import os

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import examples, pid
from criu_veth.errors import OperationError


@click.command(
    "capture",
    epilog=examples(
        'criu-veth capture --pid "$(cat web.pid)"',
        'criu-veth capture --pid "$(cat web.pid)" -o /var/lib/checkpoints/web/criu-veth.json',
    ),
)
@pid
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write to FILE, whole or not at all; otherwise to stdout.",
)
def command(pid: int, file: str | None) -> None:
    """Capture the network of a running container: both ends of each of its veths to this host.

    It is what the hook does at the dump. The result is a state file; one that is called criu-veth.json in an image
    directory is what a restore from there goes by. The container is only looked at.
    """
    from criu_veth import capture, dump, paths, state
    from criu_veth.cli import host

    host.refuse_no_container(pid)
    captured = capture.capture(pid)
    output.notice(*captured.notes)
    output.warning(*captured.warnings)
    if file is None:
        click.echo(output.json_text(state.encode(captured)), nl=False)
        return
    unsealed = dump.sealed(state.encode(captured), file) if os.path.basename(file) == paths.STATE_NAME else []
    try:
        state.write(captured, file)
    except OSError as error:
        raise OperationError(f"cannot write {file}: {error.strerror}") from None
    output.notice(*unsealed)
