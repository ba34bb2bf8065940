"""The mapping file: TOML, read and checked once, into frozen types that the rest of the code trusts.

`load` is the edge: it finds the file, refuses one that somebody else could have written, and reports every fault of the
values together, each with its key path.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from criu_veth import paths, ranges, rules, sysctls, toml
from criu_veth.errors import InputError
from criu_veth.state import PAIRS, Address, Inner, Route, Vlan, vlan_fault

T = TypeVar("T")

MAX_SIZE = 1 << 20

_LONGEST_TEMPLATE = 4096
PLACEHOLDERS = ("inner", "hostname", "image")

#: What the inner end may be, and the modes of each; the first is the default.
KIND_MODES: dict[str, tuple[str, ...]] = {
    "veth": ("",),
    "macvlan": ("bridge", "private", "vepa", "passthru"),
    "ipvlan": ("l2", "l3", "l3s"),
    "netkit": ("l2", "l3"),
}
#: Kinds, and modes of kinds, of which the kernel takes no MAC address: it is the parent's, or there is none.
_WITHOUT_MAC = {("ipvlan", "l2"), ("ipvlan", "l3"), ("ipvlan", "l3s"), ("netkit", "l3")}


def has_no_mac(kind: str, kind_mode: str) -> bool:
    """Say whether a kind of device in this mode cannot be given a MAC address.

    CRIU gives a ready device the one in the images (criu/net.c of 4.2), so it can move none of these in.
    """
    return (kind, kind_mode) in _WITHOUT_MAC


OUTER_KEYS = (
    "outer", "bridge", "ovs", "mac", "txqueuelen", "alias", "altnames", "addresses", "routes", "sysctl", "port", "vlan",
)  # fmt: skip

#: Bridge port flags that are numbers (``bridge link set``'s names): the range of each.
PORT_RANGES = {flag: found for flag, found in ranges.PORT.items() if found != (0, 1)}

#: Of ``group_fwd_mask``: 01-80-C2-00-00-01, MAC PAUSE frames (``BR_GROUPFWD_MACPAUSE``, net/bridge/br_private.h).
_PAUSE = 0x2
_PAUSE_FAULT = "has the bit 0x2 set, of MAC PAUSE frames, which no bridge port forwards"


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the mapping file's tables."""


class Port(Table, frozen=True, kw_only=True):
    """Bridge port flags, by the names that ``bridge link set`` gives them."""

    priority: int | None = None
    cost: int | None = None
    hairpin: bool | None = None
    guard: bool | None = None
    root_block: bool | None = None
    fastleave: bool | None = None
    learning: bool | None = None
    flood: bool | None = None
    mcast_flood: bool | None = None
    bcast_flood: bool | None = None
    mcast_to_unicast: bool | None = None
    mcast_router: int | None = None
    mcast_max_groups: int | None = None
    proxy_arp: bool | None = None
    proxy_arp_wifi: bool | None = None
    neigh_suppress: bool | None = None
    neigh_vlan_suppress: bool | None = None
    vlan_tunnel: bool | None = None
    isolated: bool | None = None
    locked: bool | None = None
    mab: bool | None = None
    group_fwd_mask: int | None = None


class Ovs(Table, frozen=True, kw_only=True):
    """``ovs``: the outer end as a port of an Open vSwitch bridge; the keys are columns of its database.

    VLANs may be ranges in ``trunks`` (``"30-39"``). Rate and burst are kbit/s and kbit of what the container sends.
    """

    bridge: str | None = None
    tag: int | None = None
    trunks: list[int | str] | None = None
    vlan_mode: Literal["access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel"] | None = None
    external_ids: dict[str, str] = {}
    interface_external_ids: dict[str, str] = {}
    ingress_policing_rate: int | None = None
    ingress_policing_burst: int | None = None


class VlanTable(Table, frozen=True, kw_only=True):
    """``vlan``: the VLANs of a bridge port, in the kernel's terms; each an ID or a range of them, ``"30-39"``."""

    pvid: int | None = None
    untagged: list[int | str] = []
    tagged: list[int | str] = []


class Defaults(Table, frozen=True, kw_only=True):
    """``[defaults]``: what holds for every veth below unless its own table says otherwise."""

    outer: str | None = None
    bridge: str | None = None
    mtu: int | None = None
    txqueuelen: int | None = None
    alias: str | None = None
    sysctl: dict[str, int | str] = {}
    port: Port = Port()
    ovs: Ovs | None = None
    vlan: VlanTable | Literal["default"] | None = None
    announce: bool | None = None
    ipv6_dad: Literal["skip", "keep"] | None = None


class Netns(Table, frozen=True, kw_only=True):
    """``[veth.netns]``: the inner end, where CRIU does not bring it back (empty network namespace)."""

    mac: str | None = None
    mtu: int | None = None
    addresses: list[str] = []
    routes: list[str] = []
    sysctl: dict[str, int | str] = {}


class VethTable(Defaults, frozen=True, kw_only=True):
    """``[[veth]]``: all that is asked of one veth's outer end.

    ``mode`` overrides how the inner end comes back, ``adopted`` the file's ``adopted``. A ``kind`` other than ``veth``
    (``kind_mode`` goes with it) is made ready for CRIU, or in an empty network namespace. One that is no pair has a
    ``parent`` instead of an outer end.
    """

    inner: str
    mac: str | None = None
    altnames: list[str] | None = None
    addresses: list[str] | None = None
    routes: list[str] | None = None
    mode: Literal["external", "ready", "empty"] | None = None
    adopted: Literal["dress", "leave"] | None = None
    kind: Literal["veth", "macvlan", "ipvlan", "netkit"] = "veth"
    parent: str | None = None
    kind_mode: str | None = None
    netns: Netns | None = None


class Remap(Table, frozen=True, kw_only=True):
    """``[remap]``: what is called differently on this host; captured name to the name here."""

    bridge: dict[str, str] = {}


class Capture(Table, frozen=True, kw_only=True):
    """``[capture]``: whether the dump reads the outer ends, and what makes it fail.

    ``on_error`` None: a capture that fails, not what CRIU is known not to be able to restore; ``error``: both;
    ``warn``: neither.
    """

    enabled: bool = True
    on_error: Literal["error", "warn"] | None = None


class Announcements(Table, frozen=True, kw_only=True):
    """``[announcements]``: sent once at the restore, then ``repeat`` times more, every ``interval`` seconds."""

    repeat: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    interval: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 1.0


#: One shell pattern, or several of which one has to match.
Patterns = str | list[str]


class Match(Table, frozen=True, kw_only=True):
    """``[match]``: for which containers a file of ``/etc/criu/criu-veth.d`` is; all keys that it has must match.

    ``container`` is one of the container's names or its id, ``image`` the image directory's name (or its path, for a
    pattern with a ``/``), ``hostname`` this host's name.
    """

    container: Patterns = []
    image: Patterns = []
    hostname: Patterns = []


#: What a state file that this host did not write may not have done by itself: see `criu_veth.policy`.
Allowed = Literal[
    "names", "macs", "masters", "addresses", "default-route", "routes", "rules", "sysctls", "neighbours", "fdb"
]


class Trust(Table, frozen=True, kw_only=True):
    """``[trust]``: what a state file that this host did not write may have done.

    ``allow`` names what, ``images = "root"`` says that whoever writes images is trusted as root is.
    """

    allow: list[Allowed] = []
    images: Literal["data", "root"] = "data"


class File(Table, frozen=True, kw_only=True):
    """The whole mapping file, as it is written.

    ``adopted`` is for pairs that somebody else has made: ``dress`` puts back what was captured and the maker left at
    the kernel's default, ``leave`` nothing.
    """

    adopted: Literal["dress", "leave"] = "dress"
    mappings: list[str] = []
    defaults: Defaults = Defaults()
    veth: list[VethTable] = []
    remap: Remap = Remap()
    capture: Capture = Capture()
    announcements: Announcements = Announcements()
    verify: bool = False
    match: Match = Match()
    trust: Trust = Trust()


class VethConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One veth's entry after the checks: ``outer`` and ``alias`` may hold placeholders; None leaves a thing alone.

    ``own_port`` and ``own_ovs`` say whether ``port`` and ``ovs`` are its own, not those of ``[defaults]``.
    """

    where: str
    inner: str
    outer: str | None = None
    bridge: str | None = None
    mac: str | None = None
    mtu: int | None = None
    txqueuelen: int | None = None
    alias: str | None = None
    altnames: tuple[str, ...] | None = None
    addresses: tuple[Address, ...] | None = None
    routes: tuple[Route, ...] | None = None
    sysctl: dict[str, str] = {}
    port: dict[str, int] = {}
    own_port: bool = False
    ovs: dict[str, Any] | None = None
    own_ovs: bool = False
    vlan: Vlan | None = None
    default_vlan: bool = False
    own_vlan: bool = False
    ipv6_dad: str | None = None
    announce: bool | None = None
    mode: str | None = None
    adopted: str | None = None
    kind: str = "veth"
    parent: str = ""
    kind_mode: str = ""
    netns: Inner | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping file that has been read and checked: its ``path`` and its ``veths`` in the file's order."""

    path: str
    veths: tuple[VethConfig, ...] = ()
    remap_bridge: dict[str, str] = {}
    capture: Capture = Capture()
    announcements: Announcements = Announcements()
    verify: bool = False
    adopted: str = "dress"
    trust: Trust = Trust()
    notices: tuple[str, ...] = ()


def read_trusted(path: str, limit: int, what: str, within: paths.Directory | None = None) -> bytes:
    """Read a file that only root, or whoever runs this, can have written.

    One of the image directory is opened ``within`` it, and ``path`` is for messages. Raises InputError that names the
    file and the remedy.
    """
    descriptor, directories = _open(path, what) if within is None else _open_within(path, what, within)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            kind = "a directory" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise InputError(f"{path}: is {kind}; the {what} is a file")
        for name, found in ((path, info), *((name, os.stat(place)) for name, place in directories.items())):
            fault = trust_fault(found)
            if fault:
                raise InputError(f"{path}: not obeyed, because {name} {fault}")
        if info.st_size > limit:
            raise InputError(f"{path}: is {info.st_size} bytes long; a {what} has at most {limit}")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(limit + 1)
    finally:
        os.close(descriptor)


_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _open(path: str, what: str) -> tuple[int, dict[str, str | int]]:
    """Return the file's descriptor, and the directories of the path and of where it leads, by name, for `os.stat`."""
    try:
        real = os.path.realpath(path, strict=True)
        descriptor = os.open(real, _OPEN_FLAGS)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such {what}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what}: {error.strerror}") from None
    names = [os.path.dirname(name) or "." for name in (path, real)]
    return descriptor, {name: name for name in names}


def _open_within(path: str, what: str, within: paths.Directory) -> tuple[int, dict[str, str | int]]:
    """Do the same in a directory that is open: its name may be another one's by now."""
    name = os.path.basename(path)
    try:
        descriptor = os.open(name, _OPEN_FLAGS, dir_fd=within.descriptor)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such {what}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            fault = f"is a symbolic link; beside images, the {what} is a file: copy what it leads to there"
            raise InputError(f"{path}: {fault}") from None
        raise InputError(f"{path}: cannot read the {what}: {error.strerror}") from None
    return descriptor, {within.name: within.descriptor}


def trust_fault(info: os.stat_result) -> str | None:
    """Say why what root runs or obeys may not be this file or directory: somebody else may write it."""
    if info.st_uid not in (0, os.geteuid()):
        return f"belongs to uid {info.st_uid}; make it root's: chown root"
    sticky_directory = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX
    if info.st_mode & 0o022 and not sticky_directory:
        return f"may be written by others (mode {stat.S_IMODE(info.st_mode):04o}): chmod go-w"
    return None


def load(path: str, within: paths.Directory | None = None) -> Config:
    """Read and check the mapping file at ``path``; ``within`` as for `read_trusted`.

    Raises InputError; its faults name the file and the key path.
    """
    return parse(_read_text(path, within), path)


def load_match(path: str) -> Match:
    """Read only ``[match]`` of the mapping file at ``path``; the rest of it is not looked at.

    Raises InputError.
    """
    found = _convert(_toml(_read_text(path), path).get("match", {}), Match, path, "match")
    if faults := _match_faults(found):
        raise InputError(*(f"{path}: {fault}" for fault in faults))
    return found


def _match_faults(match: Match) -> list[str]:
    found = []
    for key in match.__struct_fields__:
        patterns = getattr(match, key)
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if fault := ranges.pattern_fault(pattern):
                found.append(f"match.{key}: {fault}")
    return found


def _read_text(path: str, within: paths.Directory | None = None) -> str:
    data = read_trusted(path, MAX_SIZE, "mapping file", within)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None


def parse(text: str, path: str) -> Config:
    """Check the ``text`` of a mapping file; ``path`` is only for messages.

    Raises InputError.
    """
    file = _convert(_toml(text, path), File, path)
    return _Checker(path).check(file)


def _toml(text: str, path: str) -> dict[str, object]:
    try:
        return toml.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _convert(raw: object, kind: type[T], path: str, within: str = "") -> T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {_explain(str(error), within)}") from None


def _explain(message: str, within: str = "") -> str:
    """Turn msgspec's ``Object contains unknown field `x` - at `$.veth[0]``` into ``veth[0]: unknown key "x"``.

    ``within`` is the key of the table that msgspec was given, if it was not the whole file.
    """
    what, _, where = message.partition(" - at ")
    key = (within + where.strip("`").removeprefix("$")).removeprefix(".")
    for msgspec_words, ours in (
        ("Object contains unknown field", "unknown key"),
        ("Object missing required field", "missing key"),
    ):
        if what.startswith(msgspec_words):
            what = ours + what.removeprefix(msgspec_words)
    what = (
        what.replace(" | null", "")
        .replace("`", '"')
        .replace('"object"', "a table")
        .replace('"array"', "an array")
        .replace('| object"', '| table"')
    )
    return f"{key}: {what[0].lower()}{what[1:]}" if key else f"{what[0].lower()}{what[1:]}"


class _Checker:
    """Checks the values of one file and collects what is wrong with them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._faults: list[str] = []
        self._notices: list[str] = []

    def check(self, file: File) -> Config:
        self._check_common("defaults", file.defaults)
        veths = []
        for number, text in enumerate(file.mappings):
            entry = self._short(f"mappings[{number}]", text, file.defaults)
            if entry is not None:
                veths.append(entry)
        veths += [self._long(f"veth[{number}]", table, file.defaults) for number, table in enumerate(file.veth)]
        for old, new in file.remap.bridge.items():
            self._fault(f'remap.bridge."{old}"', rules.ifname_fault(new))
        self._refuse_clashes(veths)
        self._faults += _match_faults(file.match)
        if file.match != Match() and os.path.dirname(self._path) != paths.MATCH_DIR:
            self._notices.append(f"match: chooses nothing here, only in {paths.MATCH_DIR}")
        if self._faults:
            raise InputError(*(f"{self._path}: {fault}" for fault in self._faults))
        return Config(
            path=self._path,
            veths=tuple(veths),
            remap_bridge=file.remap.bridge,
            capture=file.capture,
            announcements=file.announcements,
            verify=file.verify,
            adopted=file.adopted,
            trust=file.trust,
            notices=tuple(self._notices),
        )

    def _fault(self, where: str, fault: str | None) -> None:
        if fault:
            self._faults.append(f"{where}: {fault}")

    def _short(self, where: str, text: str, defaults: Defaults) -> VethConfig | None:
        parsed = split_mapping(text)
        if parsed is None:
            self._fault(where, f'{text!r} is not a mapping; write "veth[inner]:outer@bridge" or "inner:outer@bridge"')
            return None
        inner, outer, bridge, obsolete = parsed
        if obsolete:
            modern = f"veth[{inner}]:{outer}" + (f"@{bridge}" if bridge else "")
            self._notices.append(f'{where}: "{text}" is the obsolete --veth-pair form; today it is "{modern}"')
        self._fault(where, rules.ifname_fault(inner))
        self._check_filled_in(where, outer, rules.ifname_fault)
        if bridge is not None:
            self._fault(where, rules.ifname_fault(bridge))
        return self._entry(where, VethTable(inner=inner, outer=outer, bridge=bridge), defaults)

    def _long(self, where: str, table: VethTable, defaults: Defaults) -> VethConfig:
        self._fault(f"{where}.inner", rules.ifname_fault(table.inner))
        self._check_common(where, table)
        self._check_kind(where, table)
        if table.mac is not None:
            self._fault(f"{where}.mac", rules.mac_fault(table.mac))
        for number, name in enumerate(table.altnames or ()):
            self._fault(f"{where}.altnames[{number}]", rules.altname_fault(name))
        return self._entry(where, table, defaults)

    def _check_common(self, where: str, table: Defaults) -> None:
        if table.outer is not None:
            self._check_filled_in(f"{where}.outer", table.outer, rules.ifname_fault)
        if table.bridge:  # an empty one drops what was captured
            self._fault(f"{where}.bridge", rules.ifname_fault(table.bridge))
        if table.mtu is not None:
            self._fault(f"{where}.mtu", rules.mtu_fault(table.mtu))
        if table.txqueuelen is not None:
            self._fault(f"{where}.txqueuelen", rules.u32_fault(table.txqueuelen))
        if table.alias is not None:
            self._check_filled_in(f"{where}.alias", table.alias, rules.alias_fault)
        self._check_sysctl(where, table.sysctl)
        self._fault(f"{where}.vlan", _vlan_fault(table.vlan))
        for name, (low, high) in PORT_RANGES.items():
            value = getattr(table.port, name)
            if value is not None and not low <= value <= high:
                self._fault(f"{where}.port.{name}", f"{value} is not between {low} and {high}")
        if (table.port.group_fwd_mask or 0) & _PAUSE:
            self._fault(f"{where}.port.group_fwd_mask", _PAUSE_FAULT)
        if table.ovs is not None:
            self._check_ovs(where, table, table.ovs)

    def _check_ovs(self, where: str, table: Defaults, ovs: Ovs) -> None:
        if table.bridge:
            self._fault(f"{where}.ovs", "goes without bridge: a device is a port of one of them")
        if _port(table.port):
            self._fault(f"{where}.ovs", "goes without port: those are flags of a port of a Linux bridge")
        if table.vlan is not None:
            self._fault(f"{where}.ovs", "goes without vlan: it has tag and trunks of its own")
        if ovs.bridge is not None:
            self._fault(f"{where}.ovs.bridge", rules.ovs_name_fault(ovs.bridge))
        if ovs.tag is not None:
            self._fault(f"{where}.ovs.tag", rules.ovs_vlan_fault(ovs.tag))
        try:
            _ovs_vlans(ovs.trunks or [])
        except ValueError as error:
            self._fault(f"{where}.ovs.trunks", str(error))
        for key in ("external_ids", "interface_external_ids"):
            self._fault(f"{where}.ovs.{key}", rules.ovs_map_fault(getattr(ovs, key)))
        for key in ("ingress_policing_rate", "ingress_policing_burst"):
            self._fault(f"{where}.ovs.{key}", rules.u32_fault(getattr(ovs, key) or 0))

    def _check_sysctl(self, where: str, table: dict[str, int | str]) -> None:
        for key, value in table.items():
            try:
                rules.sysctl_path(key, "lo")
            except ValueError as error:
                self._fault(f"{where}.sysctl", str(error))
            else:
                self._fault(f'{where}.sysctl."{key}"', sysctls.fault(key, value))

    def _check_filled_in(self, where: str, template: str, check: Callable[[str], str | None]) -> None:
        if len(template) > _LONGEST_TEMPLATE:
            return self._fault(where, f"{template!r} is longer than {_LONGEST_TEMPLATE} characters")
        try:
            sample = expand(template, {"inner": "i", "hostname": "h", "image": "m"})
        except ValueError as error:
            self._fault(where, str(error))
        else:
            self._fault(where, check(sample))

    def _entry(self, where: str, table: VethTable, defaults: Defaults) -> VethConfig:
        return VethConfig(
            where=where,
            inner=table.inner,
            outer=_first(table.outer, defaults.outer),
            bridge=table.bridge if table.ovs is not None else _first(table.bridge, defaults.bridge),
            mac=table.mac.lower() if table.mac is not None else None,
            mtu=_first(table.mtu, defaults.mtu),
            txqueuelen=_first(table.txqueuelen, defaults.txqueuelen),
            alias=_first(table.alias, defaults.alias),
            altnames=None if table.altnames is None else tuple(table.altnames),
            addresses=self._addresses(f"{where}.addresses", table.addresses),
            routes=self._routes(f"{where}.routes", table.routes),
            sysctl={key: str(value) for key, value in {**defaults.sysctl, **table.sysctl}.items()},
            port={**_port(defaults.port), **_port(table.port)},
            own_port=bool(_port(table.port)),
            ovs=self._ovs(where, table, defaults),
            own_ovs=table.ovs is not None,
            own_vlan=isinstance(table.vlan, VlanTable),
            **_vlan(defaults.vlan if table.vlan is None else table.vlan),
            announce=_first(table.announce, defaults.announce),
            ipv6_dad=_first(table.ipv6_dad, defaults.ipv6_dad),
            mode=table.mode,
            adopted=table.adopted,
            kind=table.kind,
            parent=table.parent or "",
            kind_mode=table.kind_mode or KIND_MODES[table.kind][0],
            netns=self._netns(f"{where}.netns", table.inner, table.netns) if table.netns else None,
        )

    def _ovs(self, where: str, table: VethTable, defaults: Defaults) -> dict[str, Any] | None:
        """Return the columns that are asked for; a bridge of the entry's own overrides an ``ovs`` of the defaults."""
        if table.bridge is not None or (table.ovs is None and defaults.ovs is None):
            return None
        found = {**_ovs(defaults.ovs or Ovs()), **_ovs(table.ovs or Ovs())}
        for key in ("external_ids", "interface_external_ids"):
            pairs = {**getattr(defaults.ovs or Ovs(), key), **getattr(table.ovs or Ovs(), key)}
            found.update({key: pairs} if pairs else {})
        if found.get("tag") is not None and found.get("trunks") and "vlan_mode" not in found:
            ignored = "with a tag and without a vlan_mode the port is an access port, whose trunks are ignored"
            self._notices.append(f"{where}.ovs: {ignored}")
        return found

    def _netns(self, where: str, ifname: str, table: Netns) -> Inner:
        if table.mac is not None:
            self._fault(f"{where}.mac", rules.mac_fault(table.mac))
        if table.mtu is not None:
            self._fault(f"{where}.mtu", rules.mtu_fault(table.mtu))
        self._check_sysctl(where, table.sysctl)
        return Inner(
            ifname=ifname,
            mac=table.mac.lower() if table.mac is not None else None,
            mtu=table.mtu,
            addresses=self._addresses(f"{where}.addresses", table.addresses) or (),
            routes=self._routes(f"{where}.routes", table.routes) or (),
            sysctl={key: str(value) for key, value in table.sysctl.items()},
        )

    def _check_kind(self, where: str, table: VethTable) -> None:
        """Check what goes with a device that is no veth."""
        if table.kind == "veth":
            for key in ("parent", "kind_mode"):
                if getattr(table, key) is not None:
                    self._fault(f"{where}.{key}", "a veth has none; it goes with another kind")
            return
        if table.kind not in PAIRS:
            self._check_stacked(where, table)
        elif table.parent is not None:
            self._fault(f"{where}.parent", f"a {table.kind} has none; it has an outer end")
        modes = KIND_MODES[table.kind]
        if table.kind_mode is not None and table.kind_mode not in modes:
            known = ", ".join(modes)
            self._fault(f"{where}.kind_mode", f"{table.kind_mode!r} is not a mode of {table.kind}; these are: {known}")
        if table.mode == "external":
            self._fault(f"{where}.mode", f"CRIU makes no {table.kind}; the mode is ready or empty")
        if has_no_mac(table.kind, table.kind_mode or modes[0]):
            self._check_no_mac(where, table)

    def _check_no_mac(self, where: str, table: VethTable) -> None:
        given = {"netns.mac": table.netns.mac if table.netns else None}
        if table.kind in PAIRS:
            given["mac"] = table.mac
        mode = table.kind_mode or KIND_MODES[table.kind][0]
        if table.mode == "ready":
            self._fault(f"{where}.mode", f"CRIU can move no {table.kind} {mode} in; the mode is empty")
        for key, mac in given.items():
            if mac is not None:
                self._fault(f"{where}.{key}", f"the kernel gives {table.kind} {mode} its MAC address; leave it out")

    def _check_stacked(self, where: str, table: VethTable) -> None:
        """Check a device on top of another one."""
        if table.parent is None:
            self._fault(where, f'missing key "parent": the device that the {table.kind} is on top of')
        else:
            self._fault(f"{where}.parent", rules.ifname_fault(table.parent))
        for key in OUTER_KEYS:
            value = getattr(table, key)
            if _port(value) if isinstance(value, Port) else value:
                self._fault(
                    f"{where}.{key}", f"{'an' if table.kind[0] in 'aeiou' else 'a'} {table.kind} has no outer end"
                )

    def _addresses(self, where: str, texts: list[str] | None) -> tuple[Address, ...] | None:
        if texts is None:
            return None
        found = []
        for number, text in enumerate(texts):
            try:
                address, length = rules.parse_interface(text)
            except ValueError as error:
                self._fault(f"{where}[{number}]", str(error))
            else:
                fault = rules.address_fault(address)
                self._fault(f"{where}[{number}]", fault and f"{text!r} {fault}")
                found.append(Address(address=f"{address}/{length}"))
        return tuple(found)

    def _routes(self, where: str, texts: list[str] | None) -> tuple[Route, ...] | None:
        if texts is None:
            return None
        found: list[Route] = []
        seen: dict[tuple[object, ...], int] = {}
        for number, text in enumerate(texts):
            try:
                route = parse_route(text)
            except ValueError as error:
                self._fault(f"{where}[{number}]", str(error))
                continue
            key = rules.route_key(route.family, route.dst, route.table, route.metric)
            if key in seen:
                fault = f"the route to {route.dst} is given already by {where}[{seen[key]}]; another one needs a metric"
                self._fault(f"{where}[{number}]", fault)
            seen.setdefault(key, number)
            found.append(route)
        return tuple(found)

    def _refuse_clashes(self, veths: list[VethConfig]) -> None:
        inners: dict[str, str] = {}
        outers: dict[str, str] = {}
        for veth in veths:
            if veth.inner in inners:
                self._fault(veth.where, f'"{veth.inner}" is mapped already by {inners[veth.inner]}')
            inners.setdefault(veth.inner, veth.where)
            if veth.outer is None:
                continue
            name = veth.outer.replace("{inner}", veth.inner)
            if name in outers:
                self._fault(veth.where, f'the outer name "{name}" is given already by {outers[name]}')
            outers.setdefault(name, veth.where)


def _first(value: T | None, fallback: T | None) -> T | None:
    return fallback if value is None else value


def _vlan_fault(asked: VlanTable | str | None) -> str | None:
    if not isinstance(asked, VlanTable):
        return None
    if asked.pvid is not None and not rules.VLAN_MIN <= asked.pvid <= rules.VLAN_MAX:
        return f"the pvid {asked.pvid} is not between {rules.VLAN_MIN} and {rules.VLAN_MAX}"
    return vlan_fault(Vlan(pvid=asked.pvid, untagged=tuple(asked.untagged), tagged=tuple(asked.tagged)))


def _vlan(asked: VlanTable | str | None) -> dict[str, Any]:
    """Return the fields of `VethConfig` for what a table says; VLANs that are wrong have been refused."""
    if not isinstance(asked, VlanTable) or _vlan_fault(asked):
        return {"default_vlan": asked == "default"}
    untagged, tagged = (rules.vlan_entries(rules.parse_vlans(entries)) for entries in (asked.untagged, asked.tagged))
    return {"vlan": Vlan(pvid=asked.pvid, untagged=untagged, tagged=tagged)}


def _port(port: Port) -> dict[str, int]:
    values = ((name, getattr(port, name)) for name in port.__struct_fields__)
    return {name: int(value) for name, value in values if value is not None}


def _ovs(table: Ovs) -> dict[str, Any]:
    """Return what a table says, as the fields of `state.Ovs`."""
    found = {name: getattr(table, name) for name in table.__struct_fields__}
    found["trunks"] = None if table.trunks is None else _ovs_vlans(table.trunks, strict=False)
    return {name: value for name, value in found.items() if value is not None and value != {}}


def _ovs_vlans(listed: list[int | str], *, strict: bool = True) -> tuple[int, ...]:
    """Return the VLANs of numbers and of ranges such as ``"30-39"``, in order.

    Raises ValueError, if ``strict``; else what is wrong is left out.
    """
    found: set[int] = set()
    for entry in listed:
        ids = rules.vlan_range(entry, 0, rules.OVS_VLAN_MAX)
        if ids:
            found.update(ids if len(found) <= rules.OVS_VLAN_MAX else ())  # all are there already
        elif strict:
            raise ValueError(
                f'{entry!r} is no VLAN from 0 to {rules.OVS_VLAN_MAX}, and no range of them such as "30-39"'
            )
    return tuple(sorted(found))


def split_mapping(text: str) -> tuple[str, str, str | None, bool] | None:
    """Split one of CRIU's mapping forms into (inner, outer, bridge or None, obsolete form?), or return None.

    The forms: ``veth[inner]:outer@bridge`` (``--external``), ``inner:outer@bridge``, and ``inner=outer@bridge``
    (``--veth-pair``, obsolete since CRIU 3.0); ``@bridge`` may be left out.
    """
    obsolete = False
    if text.startswith("veth["):
        inner, bracket, rest = text.removeprefix("veth[").partition("]:")
        if not bracket:
            return None
    else:
        inner, colon, rest = text.partition(":")
        if not colon:
            inner, equals, rest = text.partition("=")
            obsolete = bool(equals)
            if not equals:
                return None
    outer, at, bridge = rest.partition("@")
    return inner, outer, bridge if at else None, obsolete


def expand(template: str, values: Mapping[str, str]) -> str:
    """Fill the placeholders ``{inner}``, ``{hostname}`` and ``{image}`` in; what is filled in is left as it is.

    Raises ValueError for any other brace.
    """
    out = []
    rest = template
    while rest:
        before, brace, after = rest.partition("{")
        name, closing, rest = after.partition("}") if brace else ("", "", "")
        if "}" in before or (brace and (not closing or name not in PLACEHOLDERS)):
            raise ValueError(f"{template!r}: the placeholders are {{inner}}, {{hostname}} and {{image}}")
        out += [before, values.get(name, "")]
    return "".join(out)


_ROUTE_WORDS = ("via", "src", "metric", "table", "scope")
_SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254}
_TABLES = {"default": 253, "main": 254, "local": 255}


def parse_route(text: str) -> Route:
    """Read a route as ``ip route add`` takes it: ``DST [via GW] [src IP] [metric N] [table N] [scope S] [onlink]``.

    The device is the veth's own end. Raises ValueError.
    """
    words = text.split()
    if not words:
        raise ValueError("the route is empty")
    dst, options, onlink = words[0], {}, False
    rest = iter(words[1:])
    for word in rest:
        if word == "onlink":
            onlink = True
            continue
        value = next(rest, None)
        if word not in _ROUTE_WORDS or value is None:
            known = ", ".join(_ROUTE_WORDS)
            raise ValueError(
                f"{text!r}: cannot read {word!r}; a route is DST and then any of {known} with a value, onlink"
            )
        options[word] = value
    via = rules.parse_address(options["via"]) if "via" in options else ""
    src = rules.parse_address(options["src"]) if "src" in options else ""
    if dst in ("default", "0.0.0.0/0", "::/0"):
        family = "inet6" if ":" in dst + via + src else "inet"
        dst = "default"
    else:
        address, length = rules.parse_network(dst)
        family = rules.family_name(address)
        dst = f"{address}/{length}"
    if any(rules.family_name(address) != family for address in (via, src) if address):
        raise ValueError(f"{text!r} mixes IPv4 and IPv6")
    scope = options.get("scope")
    if scope is not None and scope not in _SCOPES:
        raise ValueError(f"{text!r}: the scope is one of {', '.join(_SCOPES)}")
    return Route(
        dst=dst,
        family=family,
        via=via,
        src=src,
        metric=_number(text, "metric", options.get("metric", "0")),
        table=_TABLES.get(options.get("table", "main")) or _number(text, "table", options["table"]),
        scope=_SCOPES[scope] if scope is not None else None,
        onlink=onlink,
    )


def _number(text: str, word: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) <= 10 and int(value) < 1 << 32):
        raise ValueError(f"{text!r}: {word} is a number from 0 to {(1 << 32) - 1}")
    return int(value)
