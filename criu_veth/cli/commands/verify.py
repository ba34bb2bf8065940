"""``criu-veth verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import as_json, examples, external, images, mapping_file, mode, pid
from criu_veth.errors import EXIT_FAILED

if TYPE_CHECKING:
    from criu_veth.cli.inputs import Inputs
    from criu_veth.state import State
    from criu_veth.verify import Difference


@click.command(
    "verify",
    epilog=examples(
        'criu-veth verify --pid "$(cat web.pid)" --images /var/lib/checkpoints/web',
        'criu-veth verify --pid "$(cat web.pid)" ./criu-veth.toml',
    ),
)
@mapping_file
@pid
@images
@mode
@external
@as_json
def command(
    file: str | None, pid: int, images: str | None, mode: str | None, external: tuple[str, ...], as_json: bool
) -> None:
    """Compare the kernel with what a restore should have made.

    What should be is what was captured at the dump, with what the mapping file says over it. Of a veth that was
    captured both ends are compared in full, of any other what the file asks for. A difference is a line.

    Exit status: 0 equal, 1 different, 2 a file or the call is wrong.
    """
    from criu_veth import capture, verify
    from criu_veth.cli import host, inputs

    read = inputs.read(file, images, mode, external=external)
    host.refuse_no_container(pid)
    found = capture.with_sysctls(capture.capture(pid), pid, verify.sysctls_of(read.veths))
    differences = verify.compare(read.veths, found, read.read.state)
    if as_json:
        output.as_json(_as_builtins(read, differences, _of_others(read, found)))
    else:
        output.notice(*read.notices, *read.refused, *_unseen(read), *_of_others(read, found))
        _print(read, differences)
    click.get_current_context().exit(EXIT_FAILED if differences else 0)


def _unseen(read: Inputs) -> list[str]:
    return [f"{veth.inner}: is no veth but a {veth.kind}, not compared" for veth in read.veths if veth.kind != "veth"]


def _of_others(read: Inputs, found: State) -> list[str]:
    """Say of which pairs only the dress is compared, because somebody else has made them."""
    from criu_veth import ownership

    pairs = {pair.inner.ifname: pair for pair in found.veths}
    return [
        f"{veth.inner}: {pairs[veth.inner].outer.ifname} was made by somebody else: its {ownership.IDENTITY_WORDS} are"
        " not compared"
        for veth in read.veths
        if veth.adopted is not None and veth.inner in pairs and ownership.is_made_by_others(veth, pairs[veth.inner])
    ]


def _print(read: Inputs, differences: list[Difference]) -> None:
    for difference in differences:
        click.echo(output.printable(str(difference)))
    if not differences:
        compared = sum(veth.kind == "veth" for veth in read.veths)
        click.echo(f"equal: {compared} {'veth' if compared == 1 else 'veths'} ({output.names(*read.names())})")


def _as_builtins(read: Inputs, differences: list[Difference], of_others: list[str]) -> dict[str, object]:
    return {
        "equal": not differences,
        "config": read.sources.config,
        "state": read.sources.state,
        "differences": [difference._asdict() for difference in differences],
        "notices": [*read.notices, *read.refused, *_unseen(read), *of_others],
    }
