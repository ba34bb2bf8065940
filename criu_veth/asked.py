"""Which key of the mapping file asked for an operation. Pure."""

from collections.abc import Callable, Sequence
from typing import Any

from criu_veth import plan
from criu_veth.config import VethConfig
from criu_veth.state import Inner

#: What is not left out where the kernel refuses it: without these the container has no network.
NEEDED = (plan.Rename, plan.MakePair, plan.MakeDevice, plan.SetLoopbackUp, plan.SetUp, plan.Attach)

_SETTINGS = ("mac", "mtu", "txqueuelen", "alias")


def key_of(operation: plan.Operation, entry: VethConfig | None) -> str | None:
    """Return the key path (``veth[0].addresses[1]``) that asked for ``operation``; None if no mapping file did."""
    if entry is None:
        return None
    if isinstance(operation, _MAKING):
        key, inside = _making(operation, entry), operation.kind == "veth"
    else:
        key, inside = _key(operation, entry.netns if operation.inside else entry), operation.inside
    if key is None:
        return None
    if entry.where.startswith("mappings"):  # a short form names two things, the rest is for every veth
        return entry.where if key in ("outer", "bridge") else f"defaults.{key}"
    return f"{entry.where}.netns.{key}" if inside else f"{entry.where}.{key}"


def _key(operation: plan.Operation, asked: VethConfig | Inner | None) -> str | None:
    if asked is None:
        return None
    plain = _PLAIN.get(type(operation))
    if plain is not None:
        return plain if getattr(asked, plain) else None
    find = _FINDERS.get(type(operation))
    return find(operation, asked) if find is not None else None


def _setting(operation: plan.SetLink, asked: VethConfig | Inner) -> str | None:
    known = operation.attribute in (_SETTINGS[:2] if isinstance(asked, Inner) else _SETTINGS)
    return operation.attribute if known and getattr(asked, operation.attribute) is not None else None


def _sysctl(operation: plan.SetSysctl, asked: VethConfig | Inner) -> str | None:
    return f'sysctl."{operation.key}"' if operation.key in asked.sysctl else None


def _address(operation: plan.AddAddress | plan.SettleAddress, asked: VethConfig | Inner) -> str | None:
    return _listed("addresses", [one.address for one in asked.addresses or ()], operation.address.address)


def _route(operation: plan.AddRoute, asked: VethConfig | Inner) -> str | None:
    return _listed("routes", asked.routes or (), operation.route)


def _altname(operation: plan.AddAltname, asked: VethConfig | Inner) -> str | None:
    return None if isinstance(asked, Inner) else _listed("altnames", asked.altnames or (), operation.altname)


def _port(operation: plan.SetPort, asked: VethConfig) -> str | None:
    return f"port.{operation.flag}" if operation.flag in asked.port else None


def _making(operation: plan.MakePair | plan.MakeDevice, entry: VethConfig) -> str | None:
    """Return what of a device that is made by the hook is not as always."""
    if operation.kind != "veth":
        return "kind"
    return next((key for key in ("mac", "mtu") if entry.netns and getattr(entry.netns, key) is not None), None)


def _listed(key: str, listed: Sequence[Any], wanted: object) -> str | None:
    return next((f"{key}[{number}]" for number, one in enumerate(listed) if one == wanted), None)


#: What one key of an outer end's asks for.
_PLAIN = {plan.AddVlans: "vlan", plan.DropOtherVlans: "vlan", plan.Attach: "bridge", plan.Rename: "outer"}
_MAKING = (plan.MakePair, plan.MakeDevice)
_FINDERS: dict[type[plan.Operation], Callable[[Any, Any], str | None]] = {
    plan.SetLink: _setting,
    plan.SetSysctl: _sysctl,
    plan.AddAddress: _address,
    plan.SettleAddress: _address,
    plan.AddRoute: _route,
    plan.AddAltname: _altname,
    plan.SetPort: _port,
}
