"""``criu-veth inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from criu_veth.cli import output
from criu_veth.cli.parameters import as_json, checkpoint, examples
from criu_veth.errors import InputError

if TYPE_CHECKING:
    from criu_veth.images import Device, Namespace
    from criu_veth.state import State

#: What a device or an end has, by attribute: a line for each value.
Lines = dict[str, list[str]]


@click.command(
    "inspect",
    epilog=examples(
        "criu-veth inspect /var/lib/checkpoints/web",
        "criu-veth inspect /var/lib/checkpoints/web | grep mtu",
        "criu-veth inspect /var/lib/checkpoints/web --json | jq '.state.veths[].outer.master'",
    ),
)
@checkpoint
@as_json
def command(images: str, as_json: bool) -> None:
    """Show what a checkpoint holds of its container's network.

    Of each veth both ends, as the hook captured them; and of every device what CRIU's own images tell, which is all
    that there is where the dump was made without the hook. IMAGES is the image directory.

    On a terminal these are tables, elsewhere lines of one value each; what a new veth has anyway is left out. JSON has
    all.
    """
    from criu_veth import images as criu
    from criu_veth import paths, state

    directory = paths.opened(images)
    there = directory is not None and directory.exists(paths.STATE_NAME)
    captured = state.read(state.path_in(images), directory) if there else None
    saved = criu.read(directory or images)
    if captured is None and saved is None:
        raise InputError(f"{images}: is no checkpoint: it holds neither {paths.INVENTORY} nor {paths.STATE_NAME}")
    if as_json:
        output.as_json(
            {
                "state": state.as_builtins(captured) if captured else None,
                "namespaces": None if saved is None else [state.as_builtins(namespace) for namespace in saved],
            }
        )
        return
    if captured is not None:
        _print_captured(captured)
    else:
        output.notice(f"no {paths.STATE_NAME}: the outer ends were not captured, which a dump with the hook does")
    if saved is not None:
        _print_saved(saved)


def _print_captured(captured: State) -> None:
    host = captured.host
    click.echo(
        output.printable(
            f"captured on {host.hostname} at {host.created} (kernel {host.kernel}, criu-veth {host.criu_veth})"
        )
    )
    for veth in captured.veths:
        inner, outer = _attributes(veth.inner), _attributes(veth.outer)
        if output.is_terminal():
            keys = dict.fromkeys([*inner, *outer])
            rows = [(key, inner.get(key, []), outer.get(key, [])) for key in keys]
            click.echo()
            output.table(f"veth {veth.inner.ifname}", ("", "inner end", "outer end"), rows)
        else:
            _print_lines(f"{veth.inner.ifname}: inner", inner)
            _print_lines(f"{veth.inner.ifname}: outer", outer)
    output.notice(*captured.notes)
    output.warning(*captured.warnings)


def _print_lines(of: str, attributes: Lines) -> None:
    for key, values in attributes.items():
        for value in values:
            click.echo(output.printable(f"{of} {key}: {value}"))


def _attributes(end: Any) -> Lines:
    """Return what there is to say of an end: what it has that a new veth, or a new port, has not."""
    from msgspec.structs import asdict

    from criu_veth import resolve

    found = {key: value for key, value in asdict(end).items() if resolve.NEW_LINK.get(key) != value}
    port = {flag: value for flag, value in found.pop("port", {}).items() if value != resolve.NEW_PORT.get(flag, 0)}
    return {key: lines for key, value in {**found, "port": port}.items() if (lines := _lines(value))}


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key} {one}" for key, one in value.items()]
    if isinstance(value, tuple):
        return [_text(one) for one in value]
    return [] if value is None else [_text(value)]


def _text(value: Any) -> str:
    """Write one value of a state file for a person."""
    from criu_veth import plan
    from criu_veth.state import Address, Data, Route

    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Route):
        return plan.route_text(value)
    if isinstance(value, Address):
        return f"{value.address} peer {value.peer}" if value.peer else str(value.address)
    return _words(value) if isinstance(value, Data) else str(value)


def _words(value: Any) -> str:
    """Write a thing that has no notation of its own: its keys and values, without the kernel's own encoding."""
    from criu_veth import state

    words = []
    for key, one in state.as_builtins(value).items():
        if one is True:
            words.append(key)
        elif isinstance(one, dict):
            words += [key, ",".join(f"{name}={text}" for name, text in one.items())]
        elif key != "options":
            words += [key, ",".join(map(str, one)) if isinstance(one, list | tuple) else str(one)]
    return " ".join(words)


def _print_saved(saved: tuple[Namespace, ...]) -> None:
    for namespace in saved:
        of = f" of namespace {namespace.id}" if len(saved) > 1 else ""
        if namespace.external_key is not None:
            key = output.printable(namespace.external_key)
            click.echo(f"CRIU saved no devices{of}: the network namespace is external to it, by the key {key}")
        else:
            _print_devices(of, {device.name: _device(device, saved) for device in namespace.devices})
    if not any(namespace.devices or namespace.external_key for namespace in saved):
        click.echo("CRIU saved no devices: the network namespace is the host's, or was left out (--empty-ns net)")


def _print_devices(of: str, devices: dict[str, Lines]) -> None:
    if not output.is_terminal():
        for name, lines in devices.items():
            _print_lines(f"{name}: criu", lines)
        return
    for title, columns in (
        ("CRIU's own images", ("kind", "ifindex", "peer", "mac", "mtu", "flags")),
        ("Addresses and routes in them", ("addresses", "routes")),
    ):
        rows: list[list[str | list[str]]] = [
            [name, *(lines[column] for column in columns)] for name, lines in devices.items()
        ]
        click.echo()
        output.table(title + of, ("device", *columns), [row for row in rows if any(row[1:])])


def _device(device: Device, saved: tuple[Namespace, ...]) -> Lines:
    return {
        "kind": [device.kind],
        "ifindex": [str(device.ifindex)],
        "peer": _peer(device, saved),
        "mac": [device.mac] if device.mac else [],
        "mtu": [str(device.mtu)],
        "flags": [" ".join(device.flags)] if device.flags else [],
        "addresses": [*device.addresses],
        "routes": [*device.routes],
    }


def _peer(device: Device, saved: tuple[Namespace, ...]) -> list[str]:
    """Say where the other end of a veth is: by name, if it was checkpointed too."""
    if device.peer_ifindex is None:
        return []
    inside = next((namespace for namespace in saved if namespace.id == device.peer_namespace), None)
    if inside is None:
        return [f"{device.peer_ifindex} outside"]
    there = next((other.name for other in inside.devices if other.ifindex == device.peer_ifindex), None)
    return [there or str(device.peer_ifindex)]
