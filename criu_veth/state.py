"""What is known of a veth: the types of a capture and of what a restore should make, and the state file.

A field that is None, or an empty array or table, was not captured or is not asked for: the kernel's own stays.
Times are seconds, sizes bytes, MAC addresses text with colons. Names follow ``ip -j -d`` and ``bridge -j -d``
where those have one; numbers without a name (protocols, scopes, tables, types) are the kernel's.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec

from criu_veth import bounds, paths, ranges, rules
from criu_veth.errors import InputError
from criu_veth.ranges import U8, U16, U32, Feature, Hex, Index, Name, Text, VlanId, Word

#: The newest version that is read. A file is of the oldest one that can say what it says: 2 has veths of several
#: network namespaces, whose inner ends a reader of 1 would look for in the first process's.
SCHEMA_VERSION = 2
MAX_SIZE = 16 << 20
#: So many commas: each value but the first of its list or table has one, and may take a hundred times its text.
MAX_VALUES = 400_000
#: So many entries of the lists of all ends: twice what a capture has. Each costs a restore a message.
MAX_ENTRIES = 4 * bounds.MOST_IN_ALL
#: A veth takes twenty times the room of its text.
MAX_VETHS = 1 << 14

#: ``IFA_F_*`` in lower case; the last two are the kernel's to give.
ADDRESS_FLAGS = (
    "nodad",
    "optimistic",
    "home",
    "mngtmpaddr",
    "noprefixroute",
    "autojoin",
    "temporary",
    "stable_privacy",
)
#: ``RTAX_*`` in lower case.
ROUTE_METRICS = (
    "lock", "mtu", "window", "rtt", "rttvar", "ssthresh", "cwnd", "advmss", "reordering", "hoplimit", "initcwnd",
    "features", "rto_min", "initrwnd", "quickack", "cc_algo", "fastopen_no_cookie",
)  # fmt: skip

#: The last type of a route that leads through a device; those after it (blackhole, unreachable) lead nowhere.
_RTN_MULTICAST = 5

#: The columns of `Ovs` that are maps of texts.
OVS_MAPS = (
    "external_ids",
    "other_config",
    "interface_external_ids",
    "interface_other_config",
    "options",
    "lldp",
    "bfd",
)

#: Milliseconds would be finer than what the kernel reports; None: for ever.
Seconds = U32 | None


class Data(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all of these types: immutable, keyword-only, strict when read."""


class Address(Data, frozen=True, kw_only=True):
    """An IP address of a device: ``address`` with its prefix length (``10.0.0.2/24``).

    ``flags`` are ``IFA_F_*`` in lower case; ``peer`` is the other end of a point-to-point address.
    """

    address: Text
    peer: Text = ""
    broadcast: Text = ""
    label: Name = ""
    scope: U8 = 0
    flags: tuple[Word, ...] = ()
    valid: Seconds = None
    preferred: Seconds = None
    metric: U32 = 0
    protocol: U8 = 0


class Route(Data, frozen=True, kw_only=True):
    """A route through a device.

    ``dst`` is ``default`` or a network with its prefix length, ``family`` ``inet`` or ``inet6``, ``metrics`` are
    ``RTAX_*`` in lower case, numbers but for ``cc_algo``. A ``scope`` of None is the one that ``ip route`` would
    choose. One that a router has advertised ``expires``.
    """

    dst: Text
    family: Word
    via: Text = ""
    src: Text = ""
    metric: U32 = 0
    table: U32 = 254
    scope: U8 | None = None
    protocol: U8 = 4
    type: U8 = 1
    tos: U8 = 0
    onlink: bool = False
    pref: U8 | None = None
    expires: Seconds = None
    metrics: dict[str, U32 | Name] = {}


class Rule(Data, frozen=True, kw_only=True):
    """A policy routing rule that names the device, as ``iif`` or ``oif``."""

    family: Word
    priority: U32
    table: U32 = 0
    action: U8 = 1
    flags: U32 = 0
    tos: U8 = 0
    iif: Text = ""
    oif: Text = ""
    src: Text = ""
    dst: Text = ""
    fwmark: U32 | None = None
    fwmask: U32 | None = None
    goto: U32 | None = None
    protocol: U8 | None = None
    ip_proto: U8 | None = None
    sport: Word = ""
    dport: Word = ""
    uid_range: Word = ""
    suppress_prefixlength: U32 | None = None
    suppress_ifgroup: U32 | None = None


class Neighbour(Data, frozen=True, kw_only=True):
    """A permanent neighbour, or a proxy entry (which has no ``lladdr``)."""

    dst: Text
    lladdr: Text = ""
    proxy: bool = False
    router: bool = False


class FdbEntry(Data, frozen=True, kw_only=True):
    """A forwarding entry of the bridge that leads to the port and was not learnt.

    ``state`` is ``static`` or ``permanent``; ``flags`` are ``sticky`` and ``extern_learn``.
    """

    mac: Text
    vlan: VlanId = 0
    state: Word = "static"
    flags: tuple[Word, ...] = ()


class Qdisc(Data, frozen=True, kw_only=True):
    """A queueing discipline.

    ``handle`` and ``parent`` are written as ``tc`` does; ``options`` is TCA_OPTIONS in hexadecimal.
    """

    kind: Name
    handle: Word
    parent: Word
    options: Hex = ""


class TcClass(Data, frozen=True, kw_only=True):
    """A traffic class; fields as those of `Qdisc`."""

    kind: Name
    handle: Word
    parent: Word
    options: Hex = ""


class Filter(Data, frozen=True, kw_only=True):
    """A traffic filter; ``protocol`` is the ethertype, ``handle`` the kernel's number, the rest as in `Qdisc`."""

    kind: Name
    parent: Word
    priority: U16
    protocol: U16
    handle: U32 = 0
    chain: U32 = 0
    options: Hex = ""


class End(Data, frozen=True, kw_only=True):
    """What both ends of a veth have."""

    ifname: Text
    mac: Text | None = None
    mtu: U32 | None = None
    txqueuelen: U32 | None = None
    group: U32 | None = None
    alias: Text | None = None
    altnames: tuple[Text, ...] = ()
    up: bool | None = None
    arp: bool | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    num_tx_queues: U32 | None = None
    num_rx_queues: U32 | None = None
    gso_max_size: U32 | None = None
    gso_max_segs: U32 | None = None
    gro_max_size: U32 | None = None
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    sysctl: dict[str, Text] = {}
    features_off: tuple[Feature, ...] = ()


class Vlan(Data, frozen=True, kw_only=True):
    """The VLANs of a bridge port, as `rules.vlan_entries` writes them: ``(10, "30-39")``.

    ``pvid`` is that of the frames which come in without a tag (None: they are dropped); it is one of ``untagged``,
    which go out without a tag, or of ``tagged``, which go out with it. Without any, nothing passes the port.
    """

    pvid: U32 | None = None
    untagged: tuple[U32 | Text, ...] = ()
    tagged: tuple[U32 | Text, ...] = ()


class Ovs(Data, frozen=True, kw_only=True):
    """A port of an Open vSwitch ``bridge``: the columns of its database records that a new port does not have.

    They are called as in ovs-vswitchd.conf.db(5); those of table Interface that table Port has too, with ``interface_``
    before that. VLANs are 0 to 4095, policing rates kbit/s and packets/1000 s, bursts kbit and packets/1000.
    """

    bridge: Text
    tag: U32 | None = None
    trunks: tuple[U32, ...] = ()
    cvlans: tuple[U32, ...] = ()
    vlan_mode: Text | None = None
    protected: bool = False
    external_ids: dict[Text, Text] = {}
    other_config: dict[Text, Text] = {}
    interface_external_ids: dict[Text, Text] = {}
    interface_other_config: dict[Text, Text] = {}
    options: dict[Text, Text] = {}
    lldp: dict[Text, Text] = {}
    bfd: dict[Text, Text] = {}
    cfm_mpid: U32 | None = None
    ingress_policing_rate: U32 = 0
    ingress_policing_burst: U32 = 0
    ingress_policing_kpkts_rate: U32 = 0
    ingress_policing_kpkts_burst: U32 = 0
    mtu_request: U32 | None = None
    ofport_request: U32 | None = None


class Outer(End, frozen=True, kw_only=True):
    """The outer end, in the host's network namespace.

    ``master`` is the device that it is a port of, ``master_kind`` that device's kind; ``port`` has the bridge port's
    attributes by the names of ``bridge link set``, ``vlan`` its VLANs where the bridge filters them. A port of Open
    vSwitch has ``ovs`` instead of these.
    """

    master: Text | None = None
    master_kind: Text | None = None
    port: dict[str, U32] = {}
    vlan: Vlan | None = None
    backup_port: Text | None = None
    fdb: tuple[FdbEntry, ...] = ()
    ovs: Ovs | None = None
    rules: tuple[Rule, ...] = ()
    qdiscs: tuple[Qdisc, ...] = ()
    classes: tuple[TcClass, ...] = ()
    filters: tuple[Filter, ...] = ()


class Inner(End, frozen=True, kw_only=True):
    """The inner end, in the container's network namespace."""

    ifindex: Index | None = None


class CapturedVeth(Data, frozen=True, kw_only=True):
    """One pair, as it was at the dump.

    ``namespace`` is the number of the inner end's network namespace in the container's process tree: 0 is the first
    process's, and the others follow in the order in which a walk through the tree comes to them.
    """

    inner: Inner
    outer: Outer
    namespace: U32 = 0


class Host(Data, frozen=True, kw_only=True):
    """Where and with what a capture was made; ``created`` in UTC, ISO 8601."""

    hostname: Text
    kernel: Text
    criu_veth: Text
    created: Text


class Container(Data, frozen=True, kw_only=True):
    """Which container it was, as far as that could be seen: its ``runtime``, its ``id`` and its ``names``.

    A name may be one of several: ``web``, and for a pod's container also ``NAMESPACE/POD/CONTAINER``.
    """

    runtime: Text = ""
    id: Text = ""
    names: tuple[Text, ...] = ()


class State(Data, frozen=True, kw_only=True):
    """A container's network as it was at the dump: what ``criu-veth.json`` in an image directory holds.

    ``notes`` name what was seen and not touched, ``warnings`` what was in use and cannot be put back.
    """

    version: int
    host: Host
    container: Container = Container()
    veths: tuple[CapturedVeth, ...] = ()
    notes: tuple[Text, ...] = ()
    warnings: tuple[Text, ...] = ()


#: Kinds of devices that come in pairs, of which one end is outside.
PAIRS = ("veth", "netkit")


class Adopted(Data, frozen=True, kw_only=True):
    """What is done to a pair that somebody else has made: see `criu_veth.ownership`.

    ``asked`` is what the mapping file says of it; ``dress`` and ``inner`` what was captured of its ends and is put back
    where its maker left the kernel's default.
    """

    asked: Outer
    dress: Outer
    inner: Inner


class Refused(Data, frozen=True, kw_only=True):
    """What of a capture is not put back, and why: see `criu_veth.policy`.

    ``kind`` is the word of the mapping file that would allow it; without one nothing does, and ``things`` say why.
    """

    kind: Text
    things: tuple[str, ...]
    why: str = ""


class Veth(Data, frozen=True, kw_only=True):
    """One pair as a restore should leave it.

    ``inner`` is the inner end's name, ``netns`` what it should have where CRIU does not bring it back, and ``where``
    the entry of the mapping file or state file that this comes from, for messages; ``explicit`` if a mapping file
    names it, ``captured`` if a state file does. ``mode`` is the way it comes back (see `criu_veth.way`), ``ready`` the
    name under which CRIU takes it in the way of that name. A ``kind`` that is none of `PAIRS` has no outer end but
    a ``parent``; all but ``veth`` have a ``kind_mode``. ``was_ovs`` if it was a port of
    Open vSwitch at the dump. ``named`` if the outer end's name comes from the mapping file. ``adopted`` is there where
    somebody else makes the pair or may do so; if that is certain, ``outer`` has no more than what the mapping file
    asks for, and an empty name leaves the maker's. ``was`` is the outer end's name at the dump, ``overruled`` what of
    the capture criu's caller overruled, ``refused`` what of it is not put back, and ``claimed`` which
    addresses, and ``led`` which routes' destinations, only where nobody else has them (see `criu_veth.segments`).
    ``namespace`` is as in `CapturedVeth`.
    """

    inner: str
    outer: Outer
    netns: Inner | None = None
    announce: bool = True
    skip_dad: bool = True
    where: str = ""
    mode: str = "external"
    ready: str = ""
    kind: str = "veth"
    parent: str = ""
    kind_mode: str = ""
    explicit: bool = False
    captured: bool = False
    was_ovs: bool = False
    named: bool = False
    adopted: Adopted | None = None
    was: str = ""
    overruled: str = ""
    refused: tuple[Refused, ...] = ()
    claimed: tuple[str, ...] = ()
    led: tuple[str, ...] = ()
    namespace: int = 0

    @property
    def paired(self) -> bool:
        """Whether it has an outer end."""
        return self.kind in PAIRS


class _Version(msgspec.Struct):
    version: int


class _Veths(msgspec.Struct):
    veths: tuple[msgspec.Raw, ...] = ()


def version_for(veths: Iterable[CapturedVeth]) -> int:
    """Return the version of a state file that has these veths."""
    return 2 if any(veth.namespace for veth in veths) else 1


def encode(state: State) -> bytes:
    """Return the state file's bytes: indented JSON in the order of the fields, defaults left out."""
    return msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"


def encode_part(part: CapturedVeth) -> bytes:
    """Return what `encode` makes of a veth; in a file it has some spaces more, see there."""
    return msgspec.json.format(msgspec.json.encode([[part]]), indent=2)


def write(state: State, path: str, within: paths.Directory | None = None) -> None:
    """Write a state file whole or not at all: temporary file, fsync, rename; links are not followed.

    That of an image directory is written ``within`` it, and ``path`` is for messages. Raises OSError, or InputError for
    one that `read` would refuse.
    """
    data = encode(state)
    if parse(data, path) != state:
        raise InputError(f"{path}: is not written, because it could not be read back as it is")
    directory, _, name = path.rpartition("/")
    parent = within or paths.Directory(directory or ".")
    put(parent, name, data, lasting=True)
    with suppress(OSError):  # not every file system can; the file is there, and CRIU syncs none of its own
        os.fsync(parent.descriptor)


def put(parent: paths.Directory, name: str, data: bytes, *, lasting: bool) -> None:
    """Write a file whole or not at all; a ``lasting`` one is on the disk before it has its name.

    Raises OSError.
    """
    temporary = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError):  # left by a process of this number that was killed: in a PID namespace these are few
        os.unlink(temporary, dir_fd=parent.descriptor)
    descriptor = os.open(temporary, flags, 0o600, dir_fd=parent.descriptor)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            if lasting:
                os.fsync(stream.fileno())
        os.rename(temporary, name, src_dir_fd=parent.descriptor, dst_dir_fd=parent.descriptor)
    except BaseException:
        os.unlink(temporary, dir_fd=parent.descriptor)
        raise


def read(path: str, within: paths.Directory | None = None) -> State:
    """Read and check a state file. It is data that may come from anywhere: bounded, strict, links not followed.

    That of an image directory is opened ``within`` it, and ``path`` is for messages. Raises InputError that says where
    it is wrong.
    """
    return parse(read_bytes(path, within), path)


def read_bytes(path: str, within: paths.Directory | None = None) -> bytes:
    """Return what a state file holds; see `read`.

    Raises InputError.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        if within is None:
            descriptor = os.open(path, flags)
        else:
            descriptor = os.open(os.path.basename(path), flags, dir_fd=within.descriptor)
    except OSError as error:
        what = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise InputError(f"{path}: the state file {what}") from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise InputError(f"{path}: the state file is not a regular file")
        if info.st_size > MAX_SIZE:
            raise InputError(f"{path}: the state file is {info.st_size} bytes long; {MAX_SIZE} is the most it can be")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(MAX_SIZE + 1)
    finally:
        os.close(descriptor)


def parse(data: bytes, path: str) -> State:
    """Check the bytes of a state file; ``path`` is only for messages.

    Raises InputError.
    """
    if (values := data.count(b",")) > MAX_VALUES:
        raise InputError(f"{path}: has {values} values; {MAX_VALUES} is the most it can have")
    try:
        state = _decoded(data, path)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        key = where.strip("`").removeprefix("$").removeprefix(".")
        raise InputError(f"{path}: {key + ': ' if key else ''}{what}") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: is damaged: {error}") from None
    except UnicodeDecodeError:  # msgspec says the place within one text
        raise InputError(f"{path}: is damaged: {_no_utf8(data)}") from None
    except RecursionError:
        raise InputError(f"{path}: is damaged: nested too deeply") from None
    faults = list(_faults(state))
    if faults:
        raise InputError(*(f"{path}: {fault}" for fault in faults))
    return state


def _decoded(data: bytes, path: str) -> State:
    """Return what the bytes say, before its values are checked. Raises InputError, or what msgspec raises."""
    version = msgspec.json.decode(data, type=_Version).version
    if not 1 <= version < 1 << 32:
        raise InputError(f"{path}: version: {version} is no version of this file")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: is of version {version}, and this criu-veth knows up to {SCHEMA_VERSION}: install the"
            f" criu-veth that made the dump, or a newer one"
        )
    veths = len(msgspec.json.decode(data, type=_Veths).veths)
    if veths > MAX_VETHS:
        raise InputError(f"{path}: veths: there are {veths}; {MAX_VETHS} is the most that is read")
    return msgspec.json.decode(data, type=State)


def _no_utf8(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8: byte {error.start} is {data[error.start]:#04x}"
    return "it is not UTF-8"


def _faults(state: State) -> list[str]:
    """Find the values that no kernel would have reported, and names that clash."""
    faults: list[str] = []
    if (entries := sum(map(entries_of, state.veths))) > MAX_ENTRIES:
        return [f"has {entries} addresses, routes, rules and the like; {MAX_ENTRIES} is the most it can have"]
    seen: dict[str, str] = {}
    for number, veth in enumerate(state.veths):
        for side, end in (("inner", veth.inner), ("outer", veth.outer)):
            where = f"veths[{number}].{side}"
            faults += [f"{where}.{fault}" for fault in end_faults(end)]
            if f"{side} {end.ifname}" in seen:
                faults.append(f'{where}.ifname: "{end.ifname}" is the name of {seen[f"{side} {end.ifname}"]} too')
            seen.setdefault(f"{side} {end.ifname}", where)
        faults += [f"veths[{number}].outer.{fault}" for fault in outer_faults(veth.outer)]
        if veth.outer.ovs is not None and veth.outer.master is not None:
            faults.append(f"veths[{number}].outer: is a port of both a {veth.outer.master_kind} and Open vSwitch")
    return faults


def entries_of(veth: CapturedVeth) -> int:
    """Return how many entries the lists of a veth's ends have."""
    outer = veth.outer
    lists = [outer.fdb, outer.rules, outer.qdiscs, outer.classes, outer.filters]
    lists += [one for end in (veth.inner, outer) for one in (end.addresses, end.routes, end.neighbours)]
    return sum(map(len, lists))


def ovs_faults(ovs: Ovs) -> list[str]:
    """Find the values that Open vSwitch would not have had in its database, or that no command line takes."""
    checks: list[tuple[str, str | None]] = [("bridge", rules.ovs_name_fault(ovs.bridge))]
    vlans = [("tag", vlan) for vlan in (ovs.tag,) if vlan is not None]
    vlans += [(key, vlan) for key in ("trunks", "cvlans") for vlan in getattr(ovs, key)]
    checks += [(key, ranges.count_fault(getattr(ovs, key))) for key in ("trunks", "cvlans")]
    checks += [(key, rules.ovs_vlan_fault(vlan)) for key, vlan in vlans]
    if ovs.vlan_mode is not None and ovs.vlan_mode not in rules.OVS_VLAN_MODES:
        checks.append(("vlan_mode", f"{ovs.vlan_mode!r} is not one of {', '.join(rules.OVS_VLAN_MODES)}"))
    if ovs.mtu_request is not None:
        checks.append(("mtu_request", rules.mtu_fault(ovs.mtu_request)))
    if ovs.ofport_request is not None and not 1 <= ovs.ofport_request <= rules.OFPORT_MAX:
        checks.append(("ofport_request", f"{ovs.ofport_request} is not between 1 and {rules.OFPORT_MAX}"))
    for key in OVS_MAPS:
        checks.append((key, rules.ovs_map_fault(getattr(ovs, key))))
    return [f"{key}: {fault}" for key, fault in checks if fault]


def outer_faults(outer: Outer) -> list[str]:
    """Find those values of an outer end, beside `end_faults`."""
    checks: list[tuple[str, str | None]] = []
    for key in ("master", "backup_port"):
        name = getattr(outer, key)
        checks.append((key, None if name is None else rules.ifname_fault(name)))
    checks += [("port", ranges.port_fault(flag, value)) for flag, value in outer.port.items()]
    if outer.vlan is not None:
        checks.append(("vlan", vlan_fault(outer.vlan)))
    checks += [(f"fdb[{number}]", _fdb_fault(entry)) for number, entry in enumerate(outer.fdb)]
    checks += [(f"rules[{number}]", _rule_fault(rule, outer.ifname)) for number, rule in enumerate(outer.rules)]
    handles = {"root", "ingress", *(qdisc.handle for qdisc in outer.qdiscs), *(entry.handle for entry in outer.classes)}
    for key in ("qdiscs", "classes", "filters"):
        checks += [(f"{key}[{number}]", _tc_fault(entry, handles)) for number, entry in enumerate(getattr(outer, key))]
    found = [f"{key}: {fault}" for key, fault in checks if fault]
    return found + ([f"ovs.{fault}" for fault in ovs_faults(outer.ovs)] if outer.ovs is not None else [])


def vlan_fault(vlan: Vlan) -> str | None:
    """Say why no bridge port can have these VLANs."""
    try:
        untagged, tagged = rules.parse_vlans(vlan.untagged), rules.parse_vlans(vlan.tagged)
    except ValueError as error:
        return str(error)
    if both := rules.vlan_entries(untagged & tagged):
        return f"{both[0]} is both untagged and tagged"
    if vlan.pvid is not None and vlan.pvid not in untagged | tagged:
        return f"the pvid {vlan.pvid} is neither untagged nor tagged: write untagged = [{vlan.pvid}]"
    return None


def _fdb_fault(entry: FdbEntry) -> str | None:
    if entry.state not in ("static", "permanent"):
        return f"{entry.state!r} is not static or permanent"
    fault = _flags_fault(entry.flags, ("sticky", "extern_learn"), "not sticky or extern_learn")
    return fault or rules.hardware_address_fault(entry.mac)


def _flags_fault(flags: tuple[str, ...], known: tuple[str, ...], otherwise: str) -> str | None:
    """Each is a bit: one that is there twice would be another one."""
    for flag in flags:
        if flag not in known:
            return f"{flag!r} is {otherwise}"
    twice = ranges.repeated(flags)
    return f"{twice!r} is there twice" if twice else None


def _rule_fault(rule: Rule, ifname: str) -> str | None:
    """A rule lasts longer than the device: one that does not name it is none of a veth's business."""
    if ifname not in (rule.iif, rule.oif):
        return f'does not name "{ifname}", as iif or oif'
    for name in filter(None, (rule.iif, rule.oif)):
        if fault := rules.ifname_fault(name):
            return fault
    networks = [text for text in (rule.src, rule.dst) if text]
    if fault := _value_fault(rules.parse_interface, networks) or _family_fault(rule.family):
        return fault
    if any(rules.family_name(text) != rule.family for text in networks):
        return f"{networks[0]} is not of the family {rule.family}"
    spans = ((rule.sport, 65535), (rule.dport, 65535), (rule.uid_range, (1 << 32) - 1))
    return next((fault for text, highest in spans if text and (fault := ranges.span_fault(text, highest))), None)


def _tc_fault(entry: Qdisc | TcClass | Filter, handles: set[str]) -> str | None:
    if not isinstance(entry, Filter) and (fault := _value_fault(rules.tc_number, (entry.handle,))):
        return fault
    if fault := _value_fault(rules.tc_number, (entry.parent,)) or _value_fault(bytes.fromhex, (entry.options,)):
        return fault
    clsact = isinstance(entry, Filter) and entry.parent in ("ffff:fff2", "ffff:fff3")
    return None if clsact or entry.parent in handles else f"its parent {entry.parent} is not there"


def _value_fault(read: Callable[[str], object], texts: Iterable[str]) -> str | None:
    """Return what ``read`` says of the first text that it refuses."""
    for text in texts:
        try:
            read(text)
        except ValueError as error:
            return f"{text!r}: {error}"
    return None


def _family_fault(family: str) -> str | None:
    return None if family in ("inet", "inet6") else f"{family!r} is not inet or inet6"


def end_faults(end: End) -> list[str]:
    """Find the values of an end that no kernel would have reported, each with its key."""
    checks: list[tuple[str, str | None]] = [("ifname", rules.ifname_fault(end.ifname))]
    if end.mac is not None:
        checks.append(("mac", rules.mac_fault(end.mac)))
    if end.mtu is not None:
        checks.append(("mtu", rules.mtu_fault(end.mtu)))
    if end.alias is not None:
        checks.append(("alias", rules.alias_fault(end.alias)))
    checks += [(key, ranges.count_fault(getattr(end, key))) for key in ("altnames", "sysctl", "features_off")]
    checks += [(f"altnames[{number}]", rules.altname_fault(name)) for number, name in enumerate(end.altnames)]
    checks += [(f"addresses[{number}]", _address_fault(entry)) for number, entry in enumerate(end.addresses)]
    checks += [(f"routes[{number}]", _route_fault(entry)) for number, entry in enumerate(end.routes)]
    checks += [(f"neighbours[{number}]", _neighbour_fault(entry)) for number, entry in enumerate(end.neighbours)]
    checks += [("sysctl", _sysctl_fault(key)) for key in end.sysctl]
    return [f"{key}: {fault}" for key, fault in checks if fault]


def _sysctl_fault(key: str) -> str | None:
    try:
        rules.sysctl_path(key, "lo")
    except ValueError as error:
        return str(error)
    return None


def _address_fault(entry: Address) -> str | None:
    try:
        own, _ = rules.parse_interface(entry.address)
        for address in filter(None, (entry.peer, entry.broadcast)):
            rules.parse_address(address)
    except ValueError as error:
        return str(error)
    if any(rules.family_of(one) != rules.family_of(entry.address) for one in (entry.peer, entry.broadcast) if one):
        return f"{entry.address} is of another family than its peer or broadcast address"
    if fault := _flags_fault(entry.flags, ADDRESS_FLAGS, "no flag of an address"):
        return fault
    fault = rules.ipv6_fault(own, entry.flags) if ":" in own else None
    return fault and f"{entry.address!r} {fault}"


def _route_fault(entry: Route) -> str | None:
    try:
        if entry.dst != "default":
            rules.parse_interface(entry.dst)
        for address in filter(None, (entry.via, entry.src)):
            rules.parse_address(address)
    except ValueError as error:
        return str(error)
    if not 1 <= entry.type <= _RTN_MULTICAST:
        return f"a route of type {entry.type} leads through no device"
    unknown = [name for name in entry.metrics if name not in ROUTE_METRICS]
    if unknown:
        return f"{unknown[0]!r} is no metric of a route"
    wrong = [name for name, value in entry.metrics.items() if isinstance(value, str) is not (name == "cc_algo")]
    if wrong:
        return f"the metric {wrong[0]!r} is a {'name' if wrong[0] == 'cc_algo' else 'number'}"
    own = [entry.src] if entry.dst == "default" else [entry.src, entry.dst]
    own += [entry.via] if entry.family == "inet6" else []  # an IPv4 route may have an IPv6 gateway
    if any(rules.family_name(text) != entry.family for text in own if text):
        return f"{entry.dst} is not of the family {entry.family}"
    return _family_fault(entry.family)


def _neighbour_fault(entry: Neighbour) -> str | None:
    if entry.lladdr and (fault := rules.hardware_address_fault(entry.lladdr)):
        return fault
    return _value_fault(rules.parse_address, (entry.dst,))


def path_in(image_dir: str) -> str:
    """Return where the state file of an image directory is."""
    return f"{image_dir}/{paths.STATE_NAME}"


def as_builtins(value: Any) -> Any:
    """Return ``value`` as dicts, lists and scalars, defaults left out."""
    return msgspec.to_builtins(value)
