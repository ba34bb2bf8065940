"""Reads and removes the packet filter rules with which CRIU locks a network namespace: CRIU's own, and no others.

What they are (``criu/net.c``, ``criu/netfilter.c`` of CRIU 3.17 to 4.3): with ``--network-lock iptables`` a chain CRIU
in the table filter of IPv4 and IPv6, which accepts what has CRIU's mark and drops the rest, and rules of INPUT and
OUTPUT that lead to it; with ``nftables`` a table of the family inet that is called after the run, with the two chains
input and output. iptables keeps its rules in nftables too, or in its own ("legacy") tables. What is in nftables is
read and removed through netlink, the rest with iptables' own programs. All is done in the network namespace in which
the thread is.
"""

import errno
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from criu_veth import processes, wire
from criu_veth.errors import OperationError, errno_text

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 10
_DELTABLE, _GETCHAIN, _DELCHAIN, _GETRULE, _DELRULE = 2, 4, 5, 7, 8
_BATCH_BEGIN, _BATCH_END = 16, 17
_HEADER = wire.HEADER + 4  # struct nfgenmsg
_INET, _IPV4, _IPV6 = 1, 2, 10
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4
_EXPR_NAME, _EXPR_DATA = 1, 2
_VERDICT = (2, 2)  # NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_DROP, _ACCEPT, _JUMP = 0, 1, 0xFFFFFFFD

_CHAIN, _FILTER = "CRIU", "filter"
#: ``inet CRIU-ID`` is cut after 31 characters; ID was a pid before CRIU 4.1.
_TABLE = re.compile(r"CRIU-[0-9a-f][0-9a-f-]*")
_OWN_CHAINS = {"input", "output"}
_MARK = 0xC114  # SOCCR_MARK
_MARKS = (_MARK.to_bytes(4, "big"), _MARK.to_bytes(4, "little"))
_FAMILIES = {_IPV4: "IPv4", _IPV6: "IPv6"}
_LEGACY = {"ip_tables_names": ("iptables", _IPV4), "ip6_tables_names": ("ip6tables", _IPV6)}
_TRIES = 5
_TIMEOUT = 30


class Lock(NamedTuple):
    """One part of a lock: ``what`` it is, for people; the messages that remove it, or iptables' program and input."""

    what: str
    messages: tuple[bytes, ...] = ()
    program: str = ""
    text: str = ""


class _Rule(NamedTuple):
    """One rule: its handle, the names of its expressions, its verdict, the chain that this leads to, and its bytes."""

    handle: bytes
    names: frozenset[str]
    verdict: int | None
    chain: str
    data: bytes


def find() -> list[Lock]:
    """Return CRIU's rules in this thread's network namespace.

    Raises OperationError if they cannot be read, or a chain that is called like CRIU's is somebody else's.
    """
    rtnl = _open()
    try:
        found = [] if rtnl is None else _in_nftables(rtnl)
    finally:
        if rtnl is not None:
            rtnl.close()
    return [*found, *_in_legacy()]


def _remove(found: list[Lock]) -> None:
    messages = [message for lock in found for message in lock.messages]
    if messages:
        _transact(messages)
    for lock in found:
        if lock.program:
            _run([lock.program, "-w", "--noflush"], lock.text)


def take_away() -> list[str]:
    """Remove CRIU's rules from this thread's network namespace, and say what they were.

    Raises OperationError.
    """
    for attempt in range(_TRIES):
        found = find()
        try:
            _remove(found)
        except _ChangedError:
            if attempt + 1 == _TRIES:
                raise
            continue
        return [lock.what for lock in found]
    return []


class _ChangedError(OperationError):
    """Somebody has changed the rules between their being read and their removal."""


def _open() -> wire.Rtnl | None:
    try:
        return wire.Rtnl(_NETLINK_NETFILTER)
    except OSError:
        return None  # a kernel without it


def _message(number: int, family: int, *attrs: tuple[int, bytes]) -> bytes:
    body = bytes([family, 0, 0, 0]) + b"".join(wire.put_attr(kind, payload) for kind, payload in attrs)
    return wire.message(_SUBSYSTEM << 8 | number, 0, body)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _name(payload: bytes | None) -> str:
    return (payload or b"").rstrip(b"\0").decode("utf-8", "replace")


def _in_nftables(rtnl: wire.Rtnl) -> list[Lock]:
    chains: dict[tuple[int, str], set[str]] = {}
    try:
        for message in rtnl.dump(_message(_GETCHAIN, 0)):
            attrs = dict(wire.attrs(message, _HEADER))
            key = (message[wire.HEADER], _name(attrs.get(_CHAIN_TABLE)))
            chains.setdefault(key, set()).add(_name(attrs.get(_CHAIN_NAME)))
        return list(_locks(rtnl, chains))
    except OSError as error:
        if not chains:
            return []  # a kernel without nftables
        raise OperationError(f"cannot read nftables: {errno_text(error.errno or 0)}") from None


def _locks(rtnl: wire.Rtnl, chains: dict[tuple[int, str], set[str]]) -> Iterator[Lock]:
    for (family, table), names in sorted(chains.items()):
        if family == _INET and _TABLE.fullmatch(table) and names <= _OWN_CHAINS:
            yield Lock(f"nftables, table inet {table}", (_message(_DELTABLE, family, (_TABLE_NAME, _text(table))),))
        elif family in _FAMILIES and table == _FILTER and _CHAIN in names:
            yield _chain(rtnl, family, names)


def _chain(rtnl: wire.Rtnl, family: int, names: set[str]) -> Lock:
    """Return how CRIU's chain, and what leads there, is removed.

    Raises OperationError if it is not CRIU's.
    """
    own = _rules(rtnl, family, _CHAIN)
    what = f"iptables, {_FAMILIES[family]}, chain {_CHAIN}"
    if not all(_is_own(rule) for rule in own):
        raise OperationError(f"{what}: has rules that are not CRIU's: look at it, and remove it yourself")
    leading = [
        (chain, rule)
        for chain in sorted(names - {_CHAIN})
        for rule in _rules(rtnl, family, chain)
        if rule.verdict == _JUMP and rule.chain == _CHAIN and rule.names <= {"counter", "immediate"}
    ]
    table = (_RULE_TABLE, _text(_FILTER))
    messages = [
        _message(_DELRULE, family, table, (_RULE_CHAIN, _text(chain)), (_RULE_HANDLE, rule.handle))
        for chain, rule in [*leading, *((_CHAIN, rule) for rule in own)]
    ]
    messages.append(_message(_DELCHAIN, family, (_CHAIN_TABLE, _text(_FILTER)), (_CHAIN_NAME, _text(_CHAIN))))
    return Lock(what, tuple(messages))


def _is_own(rule: _Rule) -> bool:
    if rule.verdict == _DROP:
        return rule.names <= {"counter", "immediate"}
    # iptables says "mark" by nftables' own words, or older ones by its module.
    known = {"counter", "immediate", "meta", "bitwise", "cmp", "match"}
    return rule.verdict == _ACCEPT and rule.names <= known and any(mark in rule.data for mark in _MARKS)


def _rules(rtnl: wire.Rtnl, family: int, chain: str) -> list[_Rule]:
    asked = _message(_GETRULE, family, (_RULE_TABLE, _text(_FILTER)), (_RULE_CHAIN, _text(chain)))
    found = []
    for message in rtnl.dump(asked):
        attrs = dict(wire.attrs(message, _HEADER))
        if (_name(attrs.get(_RULE_TABLE)), _name(attrs.get(_RULE_CHAIN))) == (_FILTER, chain):  # old kernels give all
            found.append(_rule(attrs))
    return found


def _rule(attrs: dict[int, bytes]) -> _Rule:
    names, verdict, chain = [], None, ""
    expressions = attrs.get(_RULE_EXPRESSIONS, b"")
    for _, expression in wire.attrs(expressions, 0):
        parts = dict(wire.attrs(expression, 0))
        names.append(_name(parts.get(_EXPR_NAME)))
        said = wire.find_attr(parts.get(_EXPR_DATA, b""), 0, _VERDICT)
        if names[-1] == "immediate" and said:
            fields = dict(wire.attrs(said, 0))
            verdict = int.from_bytes(fields.get(_VERDICT_CODE, b""), "big")
            chain = _name(fields.get(_VERDICT_CHAIN))
    return _Rule(attrs.get(_RULE_HANDLE, b""), frozenset(names), verdict, chain, expressions)


def _transact(messages: list[bytes]) -> None:
    """Have nftables do all of it at once; each is by handle or by name, and if one is gone nothing is done."""
    rtnl = wire.Rtnl(_NETLINK_NETFILTER)
    try:
        around = bytes([0, 0, 0, _SUBSYSTEM])
        begin, end = (wire.message(number, 0, around) for number in (_BATCH_BEGIN, _BATCH_END))
        faults = {reply.errno: reply.detail for reply in rtnl.transaction(begin, messages, end) if reply.errno}
    finally:
        rtnl.close()
    if not faults:
        return
    number, detail = next(iter(faults.items()))
    if number == errno.ENOENT:
        raise _ChangedError("the rules of nftables change all the time; try again")
    raise OperationError(f"nftables: CRIU's rules cannot be removed: {errno_text(number, detail)}")


def _in_legacy() -> Iterator[Lock]:
    for file, (program, family) in _LEGACY.items():
        try:
            with open(f"/proc/thread-self/net/{file}") as stream:
                tables = stream.read().split()
        except OSError:
            continue  # a kernel without it
        if _FILTER in tables and (found := _legacy(program, family)):
            yield found


def _legacy(name: str, family: int) -> Lock | None:
    import shutil  # noqa: PLC0415 - rarely needed, and the hook may be who asks

    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    programs = (f"{name}-legacy", name)
    save = next((found for one in programs if (found := shutil.which(f"{one}-save", path=path))), None)
    restore = next((found for one in programs if (found := shutil.which(f"{one}-restore", path=path))), None)
    if save is None or restore is None:
        return None
    lines = _run([save, "-t", _FILTER]).splitlines()
    if not any(line.startswith(f":{_CHAIN} ") for line in lines):
        return None
    what = f"iptables, {_FAMILIES[family]}, chain {_CHAIN}"
    own = {f"-A {_CHAIN} -m mark --mark {_MARK:#x} -j ACCEPT", f"-A {_CHAIN} -j DROP"}
    if any(line.startswith(f"-A {_CHAIN} ") and line not in own for line in lines):
        raise OperationError(f"{what}: has rules that are not CRIU's: look at it, and remove it yourself")
    leading = [line for line in lines if re.fullmatch(rf"-A \S+ -j {_CHAIN}", line)]
    # "-F" and "-X" in a file for iptables-restore are done with the rest of the table, or not at all.
    words = [f"*{_FILTER}", *(f"-D {line[3:]}" for line in leading), f"-F {_CHAIN}", f"-X {_CHAIN}", "COMMIT", ""]
    return Lock(what, program=restore, text="\n".join(words))


def _run(words: list[str], text: str = "") -> str:
    try:
        status, stdout, stderr = processes.run(tuple(words), given=text.encode(), patience=_TIMEOUT)
    except OSError as error:
        raise OperationError(f"{words[0]}: {errno_text(error.errno or 0)}") from None
    if status is None:
        raise OperationError(f"{words[0]}: no answer in {_TIMEOUT} s")
    if status:
        said = (stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"])[0]
        raise OperationError(f"{words[0]}: {said}")
    return stdout.decode("utf-8", "replace")
