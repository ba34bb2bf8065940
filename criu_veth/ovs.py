"""Open vSwitch: its database's records of ports, asked for with ``ovs-vsctl``, and the words with which that makes one.

Sources: ovs-vsctl(8), ovs-vswitchd.conf.db(5), RFC 7047 for values in JSON. A name is one word of a command line
without any quoting; a value is one too, with texts quoted as in JSON, so that no value is taken for an option, for the
``--`` between two commands or for more than one value.
"""

import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from criu_veth import processes
from criu_veth.config import trust_fault
from criu_veth.errors import OperationError, errno_text
from criu_veth.state import OVS_MAPS, Ovs, ovs_faults

#: Seconds that ovs-vsctl waits for the database, and for ovs-vswitchd to have done what was asked for.
TIMEOUT = 5
_UNDO_TIMEOUT = 2

#: Key of a port's external_ids that says that this project made it; the value is the inner end's name.
MARK = "criu-veth"
#: The key beside it, whose value is the inode of the network namespace that it was made from: a database may be shared.
MARK_NETNS = "criu-veth-netns"

PROGRAM = "ovs-vsctl"
_DIRECTORIES = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin"
_RUNDIR_VARIABLE, _RUNDIR, _SOCKET = "OVS_RUNDIR", "/var/run/openvswitch", "db.sock"

_PORT_COLUMNS = ("tag", "trunks", "cvlans", "vlan_mode", "protected", "external_ids", "other_config")
_INTERFACE_COLUMNS = {
    "interface_external_ids": "external_ids",
    "interface_other_config": "other_config",
    **{name: name for name in ("options", "lldp", "bfd", "cfm_mpid", "mtu_request", "ofport_request")},
    **{
        f"ingress_policing_{name}": f"ingress_policing_{name}"
        for name in ("rate", "burst", "kpkts_rate", "kpkts_burst")
    },
}
#: Columns of Port that somebody may have set and that are not carried over; table Mirror points to ports as well.
_LOST_COLUMNS = ("qos", "mac", "bond_mode", "lacp", "bond_updelay", "bond_downdelay", "bond_fake_iface")
_MIRROR_COLUMNS = ("select_src_port", "select_dst_port", "output_port")
_ORDINARY_TYPES = ("", "system")

Row = dict[str, Any]


class Port(NamedTuple):
    """One port: its ``bridge``, its record and its interface's, and the names of the ``mirrors`` that it is part of."""

    bridge: str
    port: Row
    interface: Row
    mirrors: tuple[str, ...] = ()

    @property
    def other_kind(self) -> str | None:
        """What this is, if it is no ordinary port with a device of the machine behind it."""
        if len(_several(self.port["interfaces"])) > 1 or not self.interface:
            return "bond"
        kind: str = self.interface["type"]
        return None if kind in _ORDINARY_TYPES else kind

    @property
    def is_attached(self) -> bool:
        """Whether the switch has opened the device."""
        ofport = self.interface.get("ofport")
        return isinstance(ofport, int) and ofport > 0


class Found(NamedTuple):
    """What the database has: the names of all bridges, and those of the ports asked for that there are, by name.

    ``bonded`` are names that are no port's but one of the interfaces of a bond's.
    """

    bridges: tuple[str, ...]
    ports: dict[str, Port]
    bonded: frozenset[str] = frozenset()


def socket_path() -> str:
    """Return the path of the database's socket, as ovs-vsctl finds it: ``$OVS_RUNDIR`` or the usual directory."""
    return f"{os.environ.get(_RUNDIR_VARIABLE) or _RUNDIR}/{_SOCKET}"


def program_path() -> str:
    """Return the path of an ovs-vsctl that only root can have written.

    Raises OperationError.
    """
    path = shutil.which(PROGRAM, path=os.pathsep.join(filter(None, (_DIRECTORIES, os.environ.get("PATH")))))
    if path is None:
        raise OperationError(f"there is no {PROGRAM}: install it (Debian: openvswitch-switch)")
    real = os.path.realpath(path)
    for name in dict.fromkeys((real, os.path.dirname(real), os.path.dirname(path))):
        fault = trust_fault(os.stat(name))
        if fault:
            raise OperationError(f"{path} is not run, because {name} {fault}")
    return path


def look(names: Iterable[str] = ()) -> Found:
    """Ask for all bridges and for the ports of these ``names``, in one transaction.

    Raises OperationError: ovs-vsctl cannot be run, or the database does not answer.
    """
    wanted = list(dict.fromkeys(names))
    said = _ask(
        ("list-br",),
        ("--columns=name,ports", "list", "Bridge"),
        (f"--columns=name,{','.join(_MIRROR_COLUMNS)}", "list", "Mirror"),
        *((("--if-exists", "list", table, *wanted)) for table in ("Port", "Interface") if wanted),
    )
    tables = [_rows(line) for line in said if line.startswith('{"')]
    bridges = tuple(line for line in said if not line.startswith('{"'))
    of_port = {port: row["name"] for row in tables[0] for port in _several(row["ports"])}
    mirrored: dict[str, list[str]] = {}
    for row in tables[1]:
        for port in {port for column in _MIRROR_COLUMNS for port in _several(row[column])}:
            mirrored.setdefault(port, []).append(row["name"])
    # A name may also be taken for the beginning of another record's number.
    ports = {row["name"]: row for row in (tables[2] if wanted else ()) if row["name"] in wanted}
    interfaces = {row["name"]: row for row in (tables[3] if wanted else ()) if row["name"] in wanted}
    found = {
        name: Port(of_port.get(row["_uuid"], ""), row, interfaces.get(name, {}), tuple(mirrored.get(row["_uuid"], ())))
        for name, row in ports.items()
    }
    return Found(bridges, found, frozenset(interfaces.keys() - ports.keys()))


def left(names: Iterable[str]) -> frozenset[str]:
    """Return those of ``names`` that there is a record of an ordinary port of; none where the database is not there."""
    wanted = [name for name in names if name]
    if not wanted or not os.path.exists(socket_path()):
        return frozenset()
    try:
        ports = look(wanted).ports
    except OperationError:  # then nobody there takes a device either
        return frozenset()
    return frozenset(name for name, port in ports.items() if not port.other_kind)


def version() -> str:
    """Return what ovs-vsctl says of its version.

    Raises OperationError.
    """
    return _run([program_path(), "--version"]).partition("\n")[0]


def captured(ifname: str, found: Port) -> tuple[Ovs | None, list[str]]:
    """Return what a capture keeps of a port, and what of it is lost."""
    if found.other_kind:
        return None, [f"{ifname}: it is a port of Open vSwitch of the kind {found.other_kind}, not carried over"]
    lost = [column for column in _LOST_COLUMNS if found.port.get(column)]
    warnings = [f"{ifname}: {column} of its port on {found.bridge} is not carried over" for column in lost]
    warnings += [f"{ifname}: its part in the mirror {name} on {found.bridge} is not put back" for name in found.mirrors]
    values: Row = {"bridge": found.bridge}
    columns = [(name, found.port.get(name)) for name in _PORT_COLUMNS]
    columns += [(name, found.interface.get(column)) for name, column in _INTERFACE_COLUMNS.items()]
    for name, value in columns:
        if name in OVS_MAPS:
            own = (MARK, MARK_NETNS) if name == "external_ids" else ()
            values[name] = {key: text for key, text in (value or {}).items() if key not in own}
        elif name in {"trunks", "cvlans"}:
            values[name] = _several(value)
        elif value is not None and value != ():
            values[name] = value
    ovs = Ovs(**values)
    faults = ovs_faults(ovs)
    if faults:  # a database of another version: what its own rules let in
        warnings += [f"{ifname}: {fault}: its port on {found.bridge} is not carried over" for fault in faults]
    return (None if faults else ovs), warnings


def command(timeout: int = TIMEOUT) -> tuple[str, ...]:
    """Return the program and its options for a transaction that is done when the switch has done its part.

    Raises OperationError.
    """
    return (program_path(), f"--timeout={timeout}", f"--db=unix:{socket_path()}")


def undo_command() -> tuple[str, ...]:
    """Return the same for one that does not wait for the switch."""
    return (*command(_UNDO_TIMEOUT), "--no-wait")


def attach_words(ifname: str, ovs: Ovs, mark: str) -> tuple[str, ...]:
    """Return the commands that make ``ifname`` a port, whatever record there is of one; ``mark`` goes with it."""
    port = {name: getattr(ovs, name) for name in _PORT_COLUMNS}
    interface = {column: getattr(ovs, name) for name, column in _INTERFACE_COLUMNS.items()}
    port["external_ids"] = {**port["external_ids"], MARK: mark, MARK_NETNS: _netns()}
    of_interface = tuple(_assignments(interface))
    set_interface = ("--", "set", "Interface", ifname, *of_interface) if of_interface else ()
    return (*detach_words(ifname), "--", "add-port", ovs.bridge, ifname, *_assignments(port), *set_interface)


def detach_words(ifname: str) -> tuple[str, ...]:
    """Return the command that removes a port if there is a record of it, on whatever bridge."""
    return ("--", "--if-exists", "del-port", ifname)


def _netns() -> str:
    return str(os.stat("/proc/thread-self/ns/net").st_ino)


def marked_ports() -> list[str]:
    """Return the names of the ports that this project made from this network namespace.

    Of one that does not say from which, by an older version, the switch says that it has lost the device.
    Raises OperationError.
    """
    ports, interfaces = _ask(
        ("--columns=name,external_ids", "list", "Port"), ("--columns=name,ofport", "list", "Interface")
    )
    lost = {row["name"] for row in _rows(interfaces) if row["ofport"] == -1}
    marks = {row["name"]: row["external_ids"] for row in _rows(ports) if MARK in row["external_ids"]}
    own = _netns()
    return sorted(
        name for name, ids in marks.items() if ids.get(MARK_NETNS) == own or (MARK_NETNS not in ids and name in lost)
    )


def remove(names: Iterable[str]) -> None:
    """Remove ports.

    Raises OperationError.
    """
    words = [word for name in names for word in detach_words(name)]
    _run([*command(), "--no-wait", *words])


def _assignments(columns: Mapping[str, Any]) -> Iterator[str]:
    """Write the columns that are not as in a new record."""
    for column, value in columns.items():
        if isinstance(value, dict):
            yield from (f"{column}:{_quoted(key)}={_quoted(text)}" for key, text in value.items())
        elif isinstance(value, bool):
            yield from [f"{column}=true"] if value else []
        elif isinstance(value, tuple):
            yield from [f"{column}={','.join(map(str, value))}"] if value else []
        elif isinstance(value, str):
            yield f"{column}={_quoted(value)}"
        elif value or (value == 0 and column in {"tag", "cfm_mpid"}):
            yield f"{column}={value}"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _ask(*commands: tuple[str, ...]) -> list[str]:
    words = [word for one in commands for word in ("--", *one)]
    return _run([*command(), "--format=json", *words]).splitlines()


def _rows(line: str) -> list[Row]:
    table = msgspec.json.decode(line)
    return [dict(zip(table["headings"], map(_value, row), strict=True)) for row in table["data"]]


def _value(value: Any) -> Any:
    """Read a value of RFC 7047: an atom, ``["set", [...]]``, ``["map", [[key, value], ...]]`` or ``["uuid", text]``."""
    if not isinstance(value, list):
        return value
    kind, inside = value
    if kind == "map":
        return {_value(key): _value(one) for key, one in inside}
    return tuple(map(_value, inside)) if kind == "set" else inside


def _several(value: Any) -> tuple[Any, ...]:
    """Return a set's members; one that has one member is written as that alone."""
    if isinstance(value, tuple):
        return tuple(sorted(value))
    return () if value is None else (value,)


def _run(argv: list[str]) -> str:
    socket = socket_path()
    if "--version" not in argv and not os.path.exists(socket):
        raise OperationError(f"its database is not there ({socket}): start ovsdb-server and ovs-vswitchd")
    try:
        status, stdout, stderr = processes.run(tuple(argv))
    except OSError as error:
        raise OperationError(f"{argv[0]}: {errno_text(error.errno or 0)}") from None
    if status == 0:
        return stdout.decode("utf-8", "replace")
    if status in (None, -signal.SIGALRM):  # the second is its own limit
        raise OperationError(f"{PROGRAM}: no answer in time")
    own = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    said = next((line for line in own if line.startswith(f"{PROGRAM}: ")), f"{PROGRAM}: {own[-1] if own else '?'}")
    raise OperationError(said)
