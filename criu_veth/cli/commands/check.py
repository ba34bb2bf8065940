"""``criu-veth check``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import as_json, examples, external, images, mapping_file, mode
from criu_veth.errors import CriuVethError, OperationError

if TYPE_CHECKING:
    from criu_veth import paths
    from criu_veth.plan import Plan


class Report(NamedTuple):
    """What was found: ``error`` is what would make a restore fail, ``plan`` what one would do."""

    sources: paths.Sources
    plan: Plan | None = None
    error: CriuVethError | None = None
    warnings: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


@click.command(
    "check",
    epilog=examples(
        "criu-veth check",
        "criu-veth check ./criu-veth.toml",
        "criu-veth check --images /var/lib/checkpoints/web --json",
    ),
)
@mapping_file
@images
@mode
@external
@as_json
def command(file: str | None, images: str | None, mode: str | None, external: tuple[str, ...], as_json: bool) -> None:
    """Check the mapping file, then this host: all that the hook would say before CRIU restores anything.

    FILE is the mapping file; without one it is found as the hook finds it: CRIU_VETH_CONFIG in the environment, then
    criu-veth.toml in the image directory, then /etc/criu/criu-veth.toml. Nothing is changed.

    An outer end whose container still runs is no error here: it will be gone when the checkpoint has been made. A
    network namespace of this host that CRIU has locked, and where it works no more, is a warning.

    Exit status: 0 a restore can go on, 1 this host cannot do it, 2 the mapping file is wrong.
    """
    report = _examine(file, images, mode, external)
    if as_json:
        output.as_json(_as_builtins(report))
        click.get_current_context().exit(report.error.exit_code if report.error else 0)
    output.notice(*report.notices)
    output.warning(*report.warnings)
    if report.error:
        raise report.error
    _print_ok(report)


def _examine(file: str | None, images: str | None, mode: str | None, external: tuple[str, ...]) -> Report:
    from criu_veth import locks, plan, prepare, rehearsal
    from criu_veth.cli import host, inputs

    sources = inputs.find(file, images)
    try:
        read = inputs.read(file, images, mode, external=external)
        sources = read.sources  # which of several mapping files it is may have depended on what was read
        found, running, others = host.examine(read.veths, read.read.config)
    except CriuVethError as error:
        return Report(sources, error=error)
    lost = prepare.lost_in_images(sources.image_dir, read.way)
    return Report(
        sources,
        plan=rehearsal.without(plan.make(read.veths), found.left_out),
        error=OperationError(*found.faults) if found.faults else None,
        warnings=(*_not_root(), *running, *read.refused, *found.warnings, *lost, *locks.everywhere()),
        notices=(*read.notices, *others),
    )


def _not_root() -> list[str]:
    if os.geteuid() == 0:
        return []
    return [
        f"checked as uid {os.geteuid()}; the hook runs as root, and obeys only files that are root's and sees what you"
        " may not"
    ]


def _print_ok(report: Report) -> None:
    veths = _veths(report.plan)
    names = output.names(report.sources.config, report.sources.state)
    if not veths:
        click.echo(f"ok: no veth is mapped: every outer end is left as CRIU makes it ({names})")
        return
    click.echo(f"ok: {len(veths)} {'veth' if len(veths) == 1 else 'veths'} ({names})")
    for veth in veths:
        ends = f"{veth['inner']} -> {veth['outer']}" if veth["outer"] else veth["inner"]
        click.echo("  " + output.printable(", ".join([ends, *veth["settings"]])))


def _veths(made: Plan | None) -> list[dict[str, Any]]:
    """Return, for each veth, its ends and in words what is done beside naming the outer one and setting it up."""
    from criu_veth import ownership
    from criu_veth.plan import ADOPTED, ForgetOvs, Rename, SetLoopbackUp, SetUp, with_condition

    if made is None:
        return []
    settings: dict[str, list[str]] = {veth.inner: [] for veth in made.veths}
    foreign = {veth.inner for veth in made.veths if ownership.is_foreign(veth.mode)}
    for operation in (operation for listed in made.operations.values() for operation in listed):
        if operation.only == ADOPTED and operation.inner not in foreign:
            continue  # what is done if somebody else has made the pair after all: `criu-veth plan` has it
        if not operation.inside and not isinstance(operation, ForgetOvs | Rename | SetLoopbackUp | SetUp):
            settings[operation.inner].append(with_condition(operation).removeprefix(f"{operation.device} "))
    return [{"inner": v.inner, "outer": v.outer.ifname, "settings": settings[v.inner]} for v in made.veths]


def _as_builtins(report: Report) -> dict[str, object]:
    return {
        "ok": report.error is None,
        "config": report.sources.config,
        "state": report.sources.state,
        "veths": _veths(report.plan),
        "errors": list(report.error.faults) if report.error else [],
        "warnings": list(report.warnings),
        "notices": list(report.notices),
    }
