"""``criu-veth doctor``."""

from __future__ import annotations

import click

from criu_veth import errors
from criu_veth.cli import output
from criu_veth.cli.parameters import as_json, examples


@click.command("doctor", epilog=examples("sudo criu-veth doctor", "criu-veth doctor --runtime runc --json"))
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["runc", "crun", "lxc"]),
    multiple=True,
    help="A runtime that has to be there; may be given several times. Others are looked at if they are.",
)
@as_json
def command(runtimes: tuple[str, ...], as_json: bool) -> None:
    """Say whether all that a restore needs is on this machine.

    The installed hook is started once (for nothing), CRIU is asked for its version and its own check and compared with
    those that are known not to work on some kernels, what the kernel has is tried in a network namespace that is gone
    afterwards, and each runtime's configuration is read for whether it will call the hook. Nothing is changed.

    Exit status: 0 nothing is in the way of a restore, 1 something is.
    """
    from criu_veth import doctor

    found = doctor.examine(runtimes)
    failed = any(finding.level == doctor.ERROR for finding in found)
    if as_json:
        output.as_json({"ok": not failed, "findings": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            click.echo(output.printable(f"{finding.level:7}  {finding.subject}: {finding.text}"))
    click.get_current_context().exit(errors.EXIT_FAILED if failed else errors.EXIT_OK)
