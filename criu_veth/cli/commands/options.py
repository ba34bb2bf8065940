"""``criu-veth options``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from criu_veth.cli import hookfile, output
from criu_veth.cli.parameters import examples, images, mapping_file
from criu_veth.errors import InputError

if TYPE_CHECKING:
    from criu_veth.state import Veth


@click.command(
    "options",
    epilog=examples(
        'words=$(criu-veth options) && eval "criu restore -D images $words"',
        "criu-veth options --format conf > restore.conf && criu restore -D images --config restore.conf",
        "criu-veth options --format conf > /etc/criu/crun.conf",
    ),
)
@mapping_file
@images
@click.option(
    "--format",
    "form",
    type=click.Choice(["args", "conf", "json"]),
    default="args",
    show_default=True,
    help="args: words for a shell's command line; conf: a CRIU configuration file; json: for a caller of CRIU's RPC.",
)
@click.option("--no-action-script", is_flag=True, help="Leave the hook out: CRIU has it from elsewhere.")
def command(file: str | None, images: str | None, form: str, no_action_script: bool) -> None:
    """Print the options that CRIU has to be given for a restore.

    CRIU makes each veth pair and names its outer end; all else, the bridge too, is the hook's work. FILE is the mapping
    file; without one it is found as the hook finds it.

    JSON has the RPC option "external", and the same as the obsolete "veths": give CRIU one of them. "action_script" is
    the hook's path, which RPC takes only in a configuration file.
    """
    from criu_veth.cli import inputs

    read = inputs.read(file, images)
    output.notice(*read.notices)
    faults = [f"veth {veth.inner}: {fault}" for veth in read.veths if (fault := _misread(veth))]
    if faults:
        raise InputError(*faults)
    hook = None if no_action_script else hookfile.find()
    if form == "json":
        output.as_json(_rpc(read.veths, hook))
        return
    pairs = [("external", _external(veth)) for veth in read.veths] + ([("action-script", hook)] if hook else [])
    if form == "conf":
        for line in _conf(pairs):
            click.echo(line)
    else:
        click.echo(shlex.join(word for option, value in pairs for word in (f"--{option}", value)))


def _external(veth: Veth) -> str:
    """Return what ``--external`` takes.

    Without ``@BRIDGE``: CRIU would attach the outer end before the container's sockets exist, and a peer's segment that
    comes then is answered with a reset. The hook attaches it when they do.
    """
    return f"veth[{veth.inner}]:{veth.outer.ifname}"


def _misread(veth: Veth) -> str | None:
    """Say why CRIU would not read this pair as meant (``external_val()`` and ``veth_peer_info()`` of CRIU 4.2)."""
    if "]" in veth.inner:
        return f'CRIU cannot be told of an inner end "{veth.inner}": for it the name ends at the first "]"'
    if "@" in veth.outer.ifname:
        return f'CRIU cannot be told of an outer end "{veth.outer.ifname}": for it a bridge follows "@"'
    return None


def _conf(pairs: list[tuple[str, str]]) -> list[str]:
    r"""Return the lines of a CRIU configuration file.

    Raises InputError for a value that such a file cannot hold. ``parse_statement()`` of CRIU 4.2 cuts a value at a
    ``#`` even in quotes, takes the backslash out of ``\"``, and refuses most values with a space, quoted or not.
    """
    faults = [
        f'a CRIU configuration file cannot hold "{value}", because of {bad!r} in it; use --format args'
        for _, value in pairs
        for bad in ("#", '\\"', *(c for c in value if c.isspace()))
        if bad in value
    ]
    if faults:
        raise InputError(*dict.fromkeys(faults))
    return [f"{option} {value}" for option, value in pairs]


def _rpc(veths: tuple[Veth, ...], hook: str | None) -> dict[str, object]:
    found: dict[str, object] = {
        "external": [_external(veth) for veth in veths],
        "veths": [{"if_in": veth.inner, "if_out": veth.outer.ifname} for veth in veths],
    }
    if hook:
        found["action_script"] = hook
    return found
