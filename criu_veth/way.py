"""By which way CRIU brings the container's network back: from what criu was told and what the images hold.

The hook's cheap path imports this module, so it imports only `posix` and `sys`. Sources: ``criu/config.c`` (options
and files), ``criu/net.c`` (what an empty or external network namespace skips) of CRIU 4.2.
"""

import sys

from criu_veth import paths

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Iterator
    from typing import Literal

#: CRIU makes the pair (``--external veth[INNER]:OUTER``).
EXTERNAL = "external"
#: CRIU moves a device in that the hook has made ready (``--external netdev[INNER]:NAME``).
READY = "ready"
#: CRIU moves a device in that its caller had made before (the same option, and NAME was there at pre-restore).
MADE = "made"
#: CRIU brings nothing (``--empty-ns net``, or images without devices).
EMPTY = "empty"
#: The network namespace is not CRIU's business (an external key in ``netns-N.img``, ``--external net[...]``,
#: ``--inherit-fd fd[N]:...``, ``--join-ns net:...``).
ADOPT = "adopt"
#: The images have devices, and criu was told over RPC what to do with them: seen at post-setup-namespaces.
UNKNOWN = "unknown"

_DEFAULT_FILES = ("/etc/criu/default.conf", "{HOME}/.criu/default.conf", "{CRIU_CONFIG_FILE}")
_RUNTIME_FILES = {"runc": "/etc/criu/runc.conf", "crun": "/etc/criu/crun.conf"}
_LARGEST_FILE = 16 << 20
#: So much of an image is read for its first message, and so many network namespaces are looked at.
_LARGEST_MESSAGE, _MOST_NAMESPACES = 64 << 10, 4096
#: Before every image's own magic number but the inventory's (``criu/include/magic.h``).
_COMMON_MAGIC = (0x54564319).to_bytes(4, sys.byteorder)
_LOOPBACK = bytes(15) + b"\1"
#: IFA_ADDRESS, or IFA_LOCAL of an address with a peer.
_IFA_ADDRESS_OR_LOCAL = ((1).to_bytes(2, sys.byteorder), (2).to_bytes(2, sys.byteorder))


class Way:
    """What is known of a restore.

    ``external`` gives inner to ``outer`` (with ``@bridge``, if any), ``ready`` inner to the ready device's name, and
    ``made`` has the inner ends of which the caller had made that device before; ``empty`` and ``adopt`` say that CRIU
    brings nothing; ``told`` is whether criu's own options could be read at all, ``devices`` whether the images hold
    any. ``general`` has the inner ends that only a file for every restore of this host names, ``macvlans`` the
    macvlans whose parent criu was told.
    """

    __slots__ = ("adopt", "devices", "empty", "external", "general", "inherited", "macvlans", "made", "ready", "told")

    def __init__(self, *, told: bool = False, devices: bool = True) -> None:
        self.external: dict[str, str] = {}
        self.general: set[str] = set()
        self.ready: dict[str, str] = {}
        self.made: frozenset[str] = frozenset()
        self.macvlans: set[str] = set()
        self.empty = False
        self.adopt = False
        self.inherited: list[str] = []
        self.told = told
        self.devices = devices

    def mode_of(self, inner: str) -> str:
        """Return by which way the inner end called ``inner`` comes back.

        An external network namespace, an empty one, and images without devices win over what criu was told of single
        devices: it makes and moves none then (``prepare_net_ns_first_stage()``, criu/net.c).
        """
        if not self.devices and self.adopt:
            return ADOPT
        if self.empty or not self.devices:
            return EMPTY
        if inner in self.external:
            return EXTERNAL
        if inner in self.ready:
            return MADE if inner in self.made else READY
        if self.adopt:
            return ADOPT
        return EXTERNAL if self.told else UNKNOWN

    def names_of(self, inner: str) -> "tuple[str, str]":
        """Return the outer end's name and its bridge as criu was told them (``veth[INNER]:NAME@BRIDGE``), or "" each.

        What a file says that is for every restore of the host is no word of this one's caller: it has to name the outer
        ends of all containers in the same way.
        For CRIU a bridge follows the first ``@`` (``veth_peer_info()`` and ``move_to_bridge()``, criu/net.c).
        """
        if inner in self.general:
            return "", ""
        name, _, bridge = self.external.get(inner, "").partition("@")
        return name, bridge

    @property
    def key(self) -> str:
        """A text that is the same for restores whose devices come back in the same way.

        What the outer ends are to be called is left out: see `agrees`.
        """
        if not self.devices and self.adopt:
            return ADOPT
        if self.empty or not self.devices:
            return EMPTY
        ready = [f"{inner}={name}{'!' if inner in self.made else ''}" for inner, name in sorted(self.ready.items())]
        rest = ADOPT if self.adopt else EXTERNAL if self.told else UNKNOWN
        # With all devices made by CRIU, which they are makes no difference to what is done here; otherwise it does.
        made = sorted(self.external) if rest != EXTERNAL else []
        return ",".join([rest, *made, *ready])

    @property
    def names_key(self) -> str:
        """`key`, with what criu was told of names and bridges."""
        told = [f"{inner}:{value}" for inner, value in sorted(self.external.items()) if inner not in self.general]
        return ",".join([self.key, *told])

    def agrees(self, names: "tuple[tuple[str, str | None, str | None], ...]") -> bool:
        """Say whether criu was told of no other names and bridges than ``names``: (inner, outer, bridge).

        None is for whatever the caller says, because a mapping file overrules it. A caller who names no bridge leaves
        that to whoever knows it.
        """
        for inner, outer, bridge in names:
            told_outer, told_bridge = self.names_of(inner)
            if not told_outer or self.mode_of(inner) != EXTERNAL:
                continue
            if outer is not None and told_outer != outer:
                return False
            if bridge is not None and told_bridge not in ("", bridge):
                return False
        return True

    def read_options(self, words: "list[str]") -> None:
        """Take in criu's options, each value behind its option or after ``=``."""
        rest = iter(words)
        for word in rest:
            option, equals, value = word.partition("=")
            if option in _WITH_VALUE and not equals:
                value = next(rest, "")
            if option in _WITH_VALUE:
                self.read_option(option.removeprefix("--"), value)

    def read_option(self, option: str, value: str) -> None:
        """Take in one option, named without its dashes."""
        if option == "external":
            self._read_external(value)
        elif option == "veth-pair":
            inner, _, outer = value.partition("=")
            self._name(inner, outer)
        elif option == "empty-ns":
            self.empty = self.empty or value == "net"
        elif option == "inherit-fd":
            self.inherited.append(value.partition(":")[2])
        elif option == "join-ns":
            self.adopt = self.adopt or value.startswith("net:")

    def _name(self, inner: str, outer: str) -> None:
        self.external[inner] = outer
        self.general.discard(inner)

    def _read_external(self, value: str) -> None:
        kind, bracket, rest = value.partition("[")
        inner, closing, name = rest.partition("]")
        if not bracket or not closing:
            return
        if kind == "veth":
            self._name(inner, name.removeprefix(":"))
        elif kind == "netdev":
            self.ready[inner] = name.removeprefix(":")
        elif kind == "macvlan":
            self.macvlans.add(inner)
        elif kind == "net":
            self.adopt = True

    def read_file(self, path: str, *, general: bool = False) -> bool:
        """Take in a CRIU configuration file, and say whether it could be read.

        A ``general`` one is for every restore of this host.
        """
        text = _read(path)
        if text is None:
            return False
        before = set(self.external)
        for line in text.splitlines():
            words = line.partition("#")[0].split(None, 1)
            if words:
                option, equals, value = words[0].partition("=")
                if not equals:
                    value = words[1] if len(words) > 1 else ""
                self.read_option(option, value.strip().strip("\"'"))
        if general:
            self.general |= set(self.external) - before
        return True


_WITH_VALUE = ("--external", "--veth-pair", "--empty-ns", "--inherit-fd", "--join-ns", "--config")


def find(criu_pid: int, image_dir: "paths.Directory | str | None", environ: "dict[str, str]") -> Way:
    """Return what the criu with this pid was told, and what its images hold."""
    images = paths.opened(image_dir)
    way = Way(devices=images_hold_devices(images))
    command = read_command(way, criu_pid, environ)
    way.told = "restore" in command and not _is_rpc(command)
    way.adopt = way.adopt or _inherits_netns(way.inherited, images) or images_have_external_netns(images)
    return way


def _inherits_netns(keys: "list[str]", images: "paths.Directory | None") -> bool:
    """Say whether one of the descriptors that criu inherits is a network namespace; others are files and pipes."""
    found = _external_keys(images) if keys else ()
    return any(key and key.encode("utf-8", "surrogateescape") in found for key in keys)


def images_have_external_netns(image_dir: "paths.Directory | str | None") -> bool:
    """Say whether somebody else owns the network namespaces of these images: each has an external key."""
    found = _external_keys(image_dir)
    return bool(found) and None not in found


def _names(images: "paths.Directory | None") -> "list[str] | None":
    """Return what the image directory holds, or None where that is not to be seen."""
    try:
        return images.names if images else None
    except OSError:
        return None


def _external_keys(image_dir: "paths.Directory | str | None") -> "list[bytes | None]":
    """Return the key of each network namespace that was external to CRIU, and None for each that was not.

    Field 8 of ``netns_entry`` (``images/netdev.proto``). Without ``netns-N.img`` there is nothing to tell: an empty
    network namespace has none, nor has the host's.
    """
    images = paths.opened(image_dir)
    names = [name for name in _names(images) or () if name.startswith("netns-") and name.endswith(".img")]
    keys = [_field(_first_message(images, name), 8) for name in names[:_MOST_NAMESPACES]]
    return [key if isinstance(key, bytes) else None for key in keys]


def _varint(data: bytes, at: int) -> "tuple[int, int]":
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if not byte & 0x80:
            break
    return value, at


def read_command(way: Way, criu_pid: int, environ: "dict[str, str]") -> "list[str]":
    """Have ``way`` take in what the criu with this pid was told, and return its command line."""
    command = _command_of(criu_pid)
    _read_files(way, command, criu_pid, environ)
    way.read_options(command)
    return command


def likely(criu_pid: int, environ: "dict[str, str]") -> "list[Way]":
    """Return in which ways a restore by whoever drives this criu, which dumps, may bring the devices back.

    CRIU makes them, or nobody does: how the restore will be asked for is not known yet. A dump of an external network
    namespace, or with ``--empty-ns net``, as runc asks for it, saves no devices that CRIU could make.
    """
    command = _command_of(criu_pid)
    dumped = Way()
    dumped.read_options(command)
    saved = not (dumped.empty or (_is_rpc(command) and _runtime(_parent(criu_pid)) == "runc"))
    ways = [Way(told=not _is_rpc(command)), Way(devices=False)] if saved else [Way(devices=False)]
    if dumped.adopt:
        ways = [Way(told=not _is_rpc(command), devices=False)]
    for way in ways:
        _read_files(way, command, criu_pid, environ)
        way.adopt = way.adopt or dumped.adopt
    return ways


def _is_rpc(command: "list[str]") -> bool:
    """Say whether a runtime or a program drives this criu: what it is told is not on its command line.

    criu then changes that, if it was built with libbsd, to one text: ``criu: restore --rpc -D ...``, cut where its old
    one ended (``criu/cr-service.c``).
    """
    return any(word in {"swrk", "service"} or word.startswith("criu: ") for word in command)


def _read_files(way: Way, command: "list[str]", criu_pid: int, environ: "dict[str, str]") -> None:
    """Take in the configuration files that criu reads."""
    if _is_rpc(command):
        runtime = _runtime(_parent(criu_pid))
        if runtime is not None:
            way.read_file(_RUNTIME_FILES[runtime], general=True)
    if "--no-default-config" not in command and "--config" not in " ".join(command):
        for pattern in _DEFAULT_FILES:
            variable = pattern.partition("{")[2].partition("}")[0]
            if not variable or environ.get(variable):
                path = pattern.replace("{" + variable + "}", environ.get(variable, ""))
                way.read_file(path, general=variable != "CRIU_CONFIG_FILE")
    for number, word in enumerate(command):
        if word == "--config" and number + 1 < len(command):
            way.read_file(command[number + 1])
        elif word.startswith("--config="):
            way.read_file(word.partition("=")[2])


def ready_name(image_dir: str, inner: str) -> str:
    """Return the name for the device that is ready for ``inner``: at most 15 bytes, another one for other images.

    ``image_dir`` is the image directory's real path.
    """
    from hashlib import blake2b  # noqa: PLC0415 - only where a name is chosen, never while the application waits

    text = f"{image_dir}\0{inner}".encode("utf-8", "surrogateescape")
    return "cv" + blake2b(text, digest_size=8).hexdigest()[:13]


def images_hold_devices(image_dir: "paths.Directory | str | None") -> bool:
    """Say whether CRIU saved network devices; it does not for an empty or external network namespace.

    Where the images are not in the directory (``criu --stream``), it is not known: they may.
    """
    names = _names(paths.opened(image_dir))
    return names is None or paths.INVENTORY not in names or any(name.startswith("netdev-") for name in names)


def images_share_netns(image_dir: "paths.Directory | str | None") -> bool:
    """Say whether the images tell for certain that no process is to get a network namespace of its own.

    Each process's ``ids-PID.img`` then has the number that ``inventory.img`` has for criu's own. Sources:
    ``images/core.proto`` (net_ns_id is field 6 of ``task_kobj_ids_entry``), ``images/inventory.proto`` (root_ids is
    field 3), ``criu/namespaces.c`` (a restored process is given a namespace where the two are different).
    """
    images = paths.opened(image_dir)
    names = _names(images) or []
    ids = [name for name in names if name.startswith("ids-") and name.endswith(".img")]
    if not ids or any(name.startswith(("netdev-", "netns-")) for name in names):
        return False
    own = _net_ns_id(_field(_first_message(images, paths.INVENTORY), 3))
    return own is not None and all(_net_ns_id(_first_message(images, name)) == own for name in ids)


def _first_message(images: "paths.Directory | None", name: str) -> bytes:
    """Return the first message of an image: one or two magic numbers, the size, the message."""
    data = (images.read(name, _LARGEST_MESSAGE) if images else None) or b""
    data = data[8:] if data.startswith(_COMMON_MAGIC) else data[4:]
    size = int.from_bytes(data[:4], sys.byteorder)
    return data[4 : 4 + size] if len(data) >= 4 + size else b""


def _net_ns_id(message: "bytes | int | None") -> "bytes | int | None":
    return _field(message, 6) if isinstance(message, bytes) else None


def _field(message: bytes, wanted: int) -> "bytes | int | None":
    """Return the last value of one field of a protobuf message: a varint as an int, what has a length as bytes."""
    found: bytes | int | None = None
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        value, offset = _varint(message, offset)
        content: bytes | int = value
        if key & 7 == 2:
            content, offset = message[offset : offset + value], offset + value
        elif key & 7:
            return None
        if key >> 3 == wanted:
            found = content
    return found


def images_need_ipv6(image_dir: "paths.Directory | str | None") -> bool:
    """Say whether sockets may be bound to an IPv6 address that CRIU brings back.

    Every device has a link-local address; it counts only if a socket is bound to one. Images that are not in the
    directory (``criu --stream``), or are too large to look through, may hold anything. Sources: ``ifaddr-*.img`` is
    what ``ip address save`` writes (four bytes, then messages); field 11 of ``images/sk-inet.proto`` is the address.
    """
    link_local = False
    images = paths.opened(image_dir)
    names = _names(images)
    if images is None or names is None or paths.INVENTORY not in names:
        return True
    left = _LARGEST_FILE
    for name in [name for name in names if name.startswith("ifaddr-")]:
        data = images.read(name, left) or b""
        left -= len(data)
        if not left:
            return True
        for address in _ipv6_addresses(data):
            if address[:2] == b"\xfe\x80":
                link_local = True
            elif address != _LOOPBACK:
                return True
    if not link_local:
        return False
    data = images.read("files.img", _LARGEST_FILE) or b""
    return len(data) == _LARGEST_FILE or bound_to_link_local(sys.byteorder) in data


def bound_to_link_local(order: "Literal['big', 'little']") -> bytes:
    """Return what ``files.img`` holds of a socket that is bound to a link-local address.

    Field 11 twice: the address's first word, fe80:0000, is a number as it lies in the machine's memory, and the second
    is 0. A number is a varint, seven bits a byte and the lowest first, in whatever order the machine has its own.
    """
    word, first = int.from_bytes(b"\xfe\x80\0\0", order), b""
    while word > 0x7F:
        first += bytes([word & 0x7F | 0x80])
        word >>= 7
    return b"\x58" + first + bytes([word]) + b"\x58\0"


def _ipv6_addresses(data: bytes) -> "Iterator[bytes]":
    """Yield the addresses of an ``ifaddr`` image: of RTM_NEWADDR messages for AF_INET6, the first attribute."""
    offset = 4
    while offset + 24 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], sys.byteorder)
        if length < 24:
            break
        kind = int.from_bytes(data[offset + 4 : offset + 6], sys.byteorder)
        if kind == 20 and data[offset + 16] == 10 and data[offset + 26 : offset + 28] in _IFA_ADDRESS_OR_LOCAL:
            yield data[offset + 28 : offset + 44]
        offset += (length + 3) & ~3


def _read(path: str) -> str | None:
    """Return what a file of CRIU's configuration or of /proc holds; one may be a link."""
    data = paths.read_followed(path, _LARGEST_FILE)
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _command_of(pid: int) -> "list[str]":
    return (_read(f"/proc/{pid}/cmdline") or "").split("\0")


def _parent(pid: int) -> int:
    fields = (_read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _runtime(pid: int) -> str | None:
    """Return which of the runtimes the process is: by its name, or by its command line if something else runs it."""
    words = [(_read(f"/proc/{pid}/comm") or "").strip(), *_command_of(pid)]
    return next((name for word in words if (name := word.rpartition("/")[2]) in _RUNTIME_FILES), None)
