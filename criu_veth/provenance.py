"""Where a state file comes from, and what CRIU's images beside it say of the container."""

from typing import NamedTuple

from criu_veth import images, paths, policy, rules, seal
from criu_veth.errors import InputError
from criu_veth.state import State

#: Why a state file is not this host's own, though its seal is.
OF_ANOTHER = "its capture is of another container than the images beside it"


class Provenance(NamedTuple):
    """``foreign`` says why a state file is not this host's own, if it is not: see `criu_veth.seal`.

    ``inside`` is what the images have of the container, None where they have no devices or cannot be read.
    """

    foreign: str = ""
    inside: policy.Inside | None = None


def of(
    data: bytes,
    found: State,
    state_path: str,
    within: paths.Directory | None = None,
    *,
    with_images: bool = True,
    key_dir: str = seal.KEY_DIR,
) -> Provenance:
    """Find out where ``found``, read from the ``data`` of a state file, comes from.

    ``within`` is the image directory, if it is open. Without ``with_images`` what lies beside it is not looked at: at a
    dump that may be of an earlier one.
    """
    foreign = "" if seal.is_own(data, state_path, within, key_dir) else seal.NOT_SEALED
    devices = _devices(within or state_path.rpartition("/")[0] or ".") if with_images else []
    if not devices:
        return Provenance(foreign)
    return Provenance(foreign or _mismatch(found, devices), _inside(devices))


def _devices(directory: paths.Directory | str) -> list[images.Device]:
    """Return the container's devices, without loopback; none where the images are damaged: CRIU refuses them too."""
    try:
        namespaces = images.read(directory) or ()
    except InputError:
        return []
    return [device for namespace in namespaces for device in namespace.devices if device.kind != "loopback"]


def _mismatch(found: State, devices: list[images.Device]) -> str:
    known = {(device.name, device.mac) for device in devices}
    return "" if all((veth.inner.ifname, veth.inner.mac) in known for veth in found.veths) else OF_ANOTHER


def _inside(devices: list[images.Device]) -> policy.Inside:
    routes = [route.split() for device in devices for route in device.routes]
    gateways = [words[words.index("via") + 1] for words in routes if words[0] == "default" and "via" in words]
    addresses = [text.partition("/")[0] for device in devices for text in device.addresses]
    return policy.Inside(
        addresses=frozenset(map(rules.packed, addresses)),
        gateways=frozenset(map(rules.packed, gateways)),
        macs=frozenset(device.mac for device in devices if device.mac),
    )
