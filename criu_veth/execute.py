"""Runs the operations of one action. This is the frozen window: every millisecond here is one the application's users
wait.

Operations are tuples (they are unmarshalled, not built), and this module knows no attribute of any of them: it knows
how to send, what an acknowledgement is, and where to put what an earlier reply said. Values from replies are kept in
*slots*, as bytes; a *patch* (offset, slot) puts one into a message before it is sent. The kinds:

``(NETLINK, ns, message, patches, tolerated, already, undo, text)``
    Send. An errno in ``tolerated`` means "already so"; one in ``already[0]`` means so if the check ``already[1]``
    holds.
``(QUERY, ns, message, patches, binds, expects, text)``
    Send and keep parts of the reply.
``(INDEX, ns, message, attributes, key, wanted, strays)``
    Dump and keep parts of the messages whose attribute ``key`` is wanted: ``wanted`` has (key, binds, expects, fault
    if missing, whether it is wanted even if somebody else made it, whether it may be missing: `NEVER`, `IF_ADOPTED` or
    `ALWAYS`), ``strays`` (path, value, place, nsid, notice): a message that
    nobody wanted, and that has this value, and at the path ``place`` what the message and patches of ``nsid`` are
    answered (from the offset that comes third), is worth a notice.
``(SYSCTL, ns, path, value, text)``
    Write a file below ``/proc/sys/net``; its undo is what stood there.
``(SYSCTL_OF, (directory, file), slot, value, text)``
    The same for the device in ``slot``, whatever it is called.
``(PRESENT, ns, message, attributes, key, names, adopt, notice)``
    Dump, and remember which of ``names`` are there. With ``adopt`` somebody else made them: say ``notice``.
``(GROUP, name, adopted, operations)``
    Run ``operations`` if ``name`` was there already, or if it was not: as ``adopted`` says.
``(UNLESS_ALL, names, operations)``
    Run ``operations`` unless all of ``names`` were there already.
``(TRY, name, find, operations)``
    Run ``find`` and ``operations``, but not if ``name`` is missing; if ``find`` fails, say so in a notice instead.
``(JUDGE, late)``
    Raise `UnsuitableError` unless the checks of each (name, checks) hold whose ``name`` was not there already; None
    instead of checks never holds.
``(DRESS, inner, was, slot, items, keeps)``
    Put back what was captured of an end that somebody else has made (see `dressing`), as far as the kernel takes it; a
    notice says what was done. ``slot`` holds the end as it was found, ``was`` is its name at the dump.
``(COMPARE, slot, name, prefix, text)``
    Say the notice ``text`` if the device in ``slot`` is not called ``name``; it is called by its own name then.
``(UNLESS_ATTACHED, slot, device, operation, text)``
    Run ``operation`` unless the device in ``slot`` is a port already; say ``text`` if it is one of another ``device``.
``(SETTLE, ns, devices, addresses, routes, text)``
    Add addresses again that are not usable yet, in one batch: see `Executor._settle`.
``(ANNOUNCE, devices, requests, link, repeat, interval, text)``
    Announce the addresses of ``devices``, (slot of the inner ifindex, slot of the outer one or None, name
    of one that is not announced if it was there already): see `announce`.
``(RUN, argv, parts, undo)``
    Run a program with the words of ``parts``, once for all: (name, words, words that undo it, text), without those
    whose ``name`` was there already. ``undo`` is the program and its first words to undo it with.
``(RUN_UNLESS, ns, argv, parts)``
    Run a program with the words of those ``parts``, (message, words, text), whose message finds no device.
``(VERIFY, wanted, captured)``
    Not run here: at post-resume `afterwards` compares the kernel with this, JSON of `state.Veth` and `state.State`.
``(JOURNAL, lines)``
    Write down what is about to be made that would outlive this restore, if it were to fail.

``(WITHIN, names, links, slots, operations, fault, required)``
    Run ``operations``, with slots of their own, where INNER is another network namespace of the container: the one
    whose inner ends are called ``names``. Where there is none, ``fault`` is an error, or a notice unless ``required``.

``ns`` is HOST or INNER, or one of these with generic netlink. ``binds`` are (slot, source): an int is the offset of
four bytes of the message, a path of attribute types the payload of that attribute (empty if there is none), None the
whole message. ``expects`` are (left, right, fault): left a slot, or (offset, number of bytes or path of attributes
that start there) in the reply; right bytes or a slot, or a tuple of what left may not be. ``undo`` is (ns, message,
patches, copies, text), or a list of such steps of which the last is taken first; copies are (slot of a whole reply,
path, wrap, default): the attribute that the kernel reported before, put into the nested attributes ``wrap`` ((type,
bytes before it), ...) at the message's end.
"""

import posix

from criu_veth import runs, wire
from criu_veth.errors import OperationError, errno_text

NETLINK, QUERY, INDEX, SYSCTL, SYSCTL_OF, PRESENT, GROUP, JOURNAL, SETTLE, ANNOUNCE, VERIFY, RUN, RUN_UNLESS = range(13)
TRY, JUDGE, DRESS, COMPARE, UNLESS_ATTACHED, UNLESS_ALL, WITHIN = range(13, 20)
HOST, INNER, HOST_GENERIC, INNER_GENERIC = range(4)

#: Whether what an INDEX wants may be missing.
NEVER, IF_ADOPTED, ALWAYS = range(3)
#: Instead of an errno in `checks_hold`: no living container may be the double of this one.
CLONE = -1

#: Slots that are filled before the first operation: this thread's id, by which the kernel finds the network namespace
#: it is in, and the pid of the container's first process.
SLOT_OWN_PID, SLOT_INIT_PID, FIRST_SLOT = 0, 1, 2

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would take 10 ms
    from collections.abc import Callable
    from typing import Any

    Operation = tuple[Any, ...]  # see above; what they hold differs by kind
LINK_ATTRIBUTES = 32
_RTM_GETLINK, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_GROUP = 18, 3, 10, 27
INDEX_AT = 20  # where ifinfomsg, ifaddrmsg and ndmsg have the ifindex


_SIGALRM = 14


class UnsuitableError(Exception):
    """This host is not, or no longer, as the pairs that are to be made need it; nothing has been made yet."""


def _name_in(link: bytes) -> str:
    """Return the name of the device that an RTM_NEWLINK describes."""
    found = wire.find_attr(link, LINK_ATTRIBUTES, (_IFLA_IFNAME,)) or b""
    return found.rstrip(b"\0").decode("utf-8", "surrogateescape")


class Executor:
    """Runs operations in order; on the first error, what this run did is undone in reverse."""

    def __init__(
        self,
        namespaces: wire.Namespaces,
        slots: int,
        init_pid: int | None,
        *,
        present: "frozenset[bytes]" = frozenset(),
        journal: str | None = None,
        judged: bool = False,
    ) -> None:
        #: Names of inner ends that somebody else made.
        self.present = present
        self.adopted: frozenset[bytes] = frozenset()
        self._journal_path = journal
        self._judged = judged
        #: Whether this process is our own: see `processes`.
        self.alone = False
        self._missing: set[bytes] = set()
        #: How texts begin that name an outer end, to how they should, where it is called otherwise.
        self._called: dict[str, str] = {}
        #: What is to be done once all that the action says has been written.
        self.after: Callable[[], None] | None = None
        self._namespaces = namespaces
        self._slots: list[bytes | None] = [None] * max(slots, FIRST_SLOT)
        self._slots[SLOT_OWN_PID] = wire.u32(wire.own_thread())
        self._slots[SLOT_INIT_PID] = wire.u32(init_pid or 0)
        self._undo: list[Operation] = []
        #: Whether an answer was lost: the undo may meet what was never done.
        self._unsure = False
        self._handlers = {
            INDEX: self._index,
            SYSCTL: self._sysctl,
            SYSCTL_OF: self._sysctl_of,
            PRESENT: self._look_for,
            TRY: self._try,
            JUDGE: self._judge,
            DRESS: self._dress,
            COMPARE: self._compare,
            UNLESS_ATTACHED: self._unless_attached,
            UNLESS_ALL: self._unless_all,
            JOURNAL: self._journal,
            SETTLE: self._settle,
            ANNOUNCE: self._announce,
            RUN: self._run_program,
            RUN_UNLESS: self._run_unless,
            WITHIN: self._within,
        }
        self._batch: list[Operation] = []
        #: Descriptions of what was done, and notices, in order.
        self.done: list[str] = []
        self.notices: list[str] = []

    def run(self, operations: "tuple[Operation, ...]") -> None:
        """Run ``operations``.

        Raises OperationError with the first fault, and with the faults of the undo after it.
        """
        try:
            self._run_all(operations)
            self._flush()
            for wrong, right in self._called.items():
                self.done = [right + text[len(wrong) :] if text.startswith(wrong) else text for text in self.done]
        except OperationError as error:
            raise OperationError(*error.faults, *self.undo()) from None
        except OSError as error:
            raise OperationError(errno_text(error.errno or 0, str(error)), *self.undo()) from error
        except BaseException:  # a defect
            self.undo()
            raise

    def _run_all(self, operations: "tuple[Operation, ...]") -> None:
        for operation in operations:
            if operation[0] <= QUERY:
                self._enqueue(operation)
            elif operation[0] == GROUP:
                if (operation[1] in self.present) is operation[2]:
                    self._run_all(operation[3])
            else:
                self._flush()
                self._handlers[operation[0]](operation)

    def undo(self) -> "list[str]":
        """Undo what was done, in reverse, to the end; return what could not be undone."""
        faults = []
        while self._undo:
            step = self._undo.pop()
            if len(step) == 1:  # all that was done in another namespace
                faults += step[0].undo()
                continue
            try:
                fault = self._undo_one(step)
            except OSError as error:
                fault = errno_text(error.errno or 0)
            if fault:
                faults.append(f"could not undo: {step[-1]}: {fault}")
        return faults

    def _undo_one(self, step: "Operation") -> str:
        if len(step) == 2:  # a program
            return run_program(step[0], alone=self.alone)[1]
        if len(step) == 4:  # a sysctl
            ns, path, value, _ = step
            self._write_sysctl(ns, path, value)
            return ""
        ns, message, patches, copies, _ = step
        if self._unsure and any(self._slots[slot] is None for slot in self._needed(patches, copies)):
            return "the answer that says what was there before was lost"
        message = bytearray(self._patched(message, patches))
        for slot, path, wrap, default in copies:
            value = wire.find_attr(self._slot(slot), LINK_ATTRIBUTES, path)
            payload = default if value is None else value
            if payload is None:
                continue
            attr = wire.put_attr(path[-1], payload)
            for kind, before in reversed(wrap):
                attr = wire.put_attr(kind, before + attr)
            message += attr
        message[0:4] = wire.u32(len(message))
        (reply,) = self._rtnl(ns).request([bytes(message)])
        return "" if not reply.errno or self._is_undone(reply.errno) else errno_text(reply.errno, reply.detail)

    def _is_undone(self, number: int) -> bool:
        """Say whether an errno means that there is nothing to undo.

        Setting a device down takes its IPv6 addresses (EADDRNOTAVAIL) and routes (ESRCH) away, and deleting a filter
        the others of its priority (ENOENT). Of what was perhaps never done there may be no device, and no queue.
        """
        import errno  # noqa: PLC0415 - builtin, but only an undo needs it

        if number in (errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT):
            return True
        return self._unsure and number in (errno.ENODEV, errno.EINVAL)

    @staticmethod
    def _needed(patches: "tuple[tuple[int, int], ...]", copies: "Operation") -> "list[int]":
        """Return the slots that an undo needs."""
        return [slot for _, slot in patches] + [copy[0] for copy in copies]

    def _rtnl(self, ns: int) -> wire.Rtnl:
        if ns in (HOST, INNER):
            return self._namespaces.inner if ns == INNER else self._namespaces.host
        return self._namespaces.generic(inner=ns == INNER_GENERIC)

    def _slot(self, number: int) -> bytes:
        value = self._slots[number]
        if value is None:
            raise AssertionError(f"slot {number} is used before it is bound")
        return value

    def _patched(self, message: bytes, patches: "tuple[tuple[int, int], ...]") -> bytes:
        if not patches:
            return message
        out = bytearray(message)
        for offset, slot in patches:
            value = self._slot(slot)
            out[offset : offset + len(value)] = value
        return bytes(out)

    def _enqueue(self, operation: "Operation") -> None:
        batch = self._batch
        if batch and (
            batch[0][1] != operation[1]
            or len(batch) >= wire.BATCH
            or any(self._slots[slot] is None for _, slot in operation[3])
        ):
            self._flush()
        self._batch.append(operation)

    def _flush(self) -> None:
        """Send what is waiting. The kernel goes through a whole batch, so what succeeded after a failure has its undo
        too, and so has that of which nobody knows.
        """
        batch, self._batch = self._batch, []
        if not batch:
            return
        rtnl = self._rtnl(batch[0][1])
        replies = rtnl.request([self._patched(operation[2], operation[3]) for operation in batch])
        faults: list[str] = []
        for operation, reply in zip(batch, replies, strict=True):
            judge = self._answered if operation[0] == QUERY else self._acknowledged
            fault = judge(operation, reply)
            if fault and not faults:
                faults.append(fault)
        if faults:
            raise OperationError(*faults)

    def _answered(self, operation: "Operation", reply: wire.Reply) -> str:
        _, _, _, _, binds, expects, text = operation
        if reply.errno or not reply.messages:
            return f"{text}: {errno_text(reply.errno, reply.detail)}" if reply.errno else f"{text}: no answer"
        self._bind(reply.messages[0], binds)
        return self.unexpected(reply.messages[0], expects)

    def _acknowledged(self, operation: "Operation", reply: wire.Reply) -> str:
        _, ns, _, _, tolerated, already, undo, text = operation
        if reply.lost:
            return self._not_answered(operation, reply)
        if reply.errno == 0:
            if undo is not None:
                self._undo += undo if isinstance(undo, list) else (undo,)
        elif reply.errno in tolerated or (already and reply.errno in already[0] and self._holds(ns, already[1])):
            pass
        else:
            return f"{text or undo[-1]}: {errno_text(reply.errno, reply.detail)}"
        if text:
            self.done.append(text)
        return ""

    def _not_answered(self, operation: "Operation", reply: wire.Reply) -> str:
        """Have undone what was perhaps done, and return the fault.

        What is no device's, and may have been there before (a policy rule), is left as it is: it may be another's.
        """
        _, _, _, patches, tolerated, _, undo, text = operation
        self._unsure = True
        if undo is not None and (patches or not tolerated):
            self._undo += undo if isinstance(undo, list) else (undo,)
        return f"{text or (undo[-1] if undo else 'a change')}: {errno_text(reply.errno, reply.detail)}"

    def _holds(self, ns: int, check: "Operation") -> bool:
        message, patches, expects = check
        try:
            (reply,) = self._rtnl(ns).request([self._patched(message, patches)])
        except OSError:  # those that follow in the batch have been answered, and need their undo
            return False
        return not reply.errno and bool(reply.messages) and not self.unexpected(reply.messages[0], expects)

    def _bind(self, message: bytes, binds: "Operation") -> None:
        for slot, source in binds:
            if source is None:
                value = message
            elif isinstance(source, int):
                value = message[source : source + 4]
            else:
                value = wire.find_attr(message, LINK_ATTRIBUTES, source) or b""
            self._slots[slot] = value

    def unexpected(self, message: bytes, expects: "Operation") -> str:
        """Return the fault of the first expectation that the reply ``message`` does not meet, or an empty string."""
        for left, right, fault in expects:
            if isinstance(left, int):
                found: bytes | None = self._slot(left)
            else:
                offset, what = left
                size = what if isinstance(what, int) else 0
                found = message[offset : offset + size] if size else wire.find_attr(message, offset, what)
            if isinstance(right, tuple):
                fits = found not in right
            else:
                fits = found == (self._slot(right) if isinstance(right, int) else right)
            if not fits:
                return str(fault) or "not as expected"
        return ""

    def _index(self, operation: "Operation") -> None:
        _, ns, message, attributes, key, wanted, strays = operation
        by_key = {}
        for found in self._rtnl(ns).dump(message):
            by_key[wire.find_attr(found, attributes, key)] = found
        faults = []
        for entry in wanted:
            there = by_key.pop(entry[0], None)
            if entry[4] or entry[0] not in self.present:
                faults += self._wanted(entry, there)
        if faults:
            raise OperationError(*faults)
        for path, value, place, nsid, notice in strays:
            left = [name for name, one in by_key.items() if name and wire.find_attr(one, attributes, path) == value]
            here = self._four_bytes(ns, *nsid) if left else b""
            self.notices += [
                notice % name.rstrip(b"\0").decode("utf-8", "replace")
                for name in left
                if wire.find_attr(by_key[name], attributes, place) == here
            ]

    def _four_bytes(self, ns: int, message: bytes, patches: "tuple[tuple[int, int], ...]", at: int) -> bytes:
        (reply,) = self._rtnl(ns).request([self._patched(message, patches)])
        return reply.messages[0][at : at + 4] if reply.messages else b""

    def _wanted(self, entry: "Operation", there: bytes | None) -> "list[str]":
        """Keep what is wanted of a message, and return the fault if it is missing, or not as expected."""
        name, binds, expects, missing, _, optional = entry
        fault = missing if there is None else self.unexpected(there, expects)
        if not fault and there is not None:
            self._bind(there, binds)
        if fault and self._may_be_missing(name, optional):
            self._missing.add(name)
            return []
        return [fault] if fault else []

    def _may_be_missing(self, name: bytes, optional: int) -> bool:
        return optional == ALWAYS or (optional == IF_ADOPTED and name in self.present)

    def _look_for(self, operation: "Operation") -> None:
        _, ns, message, attributes, key, names, adopt, notice = operation
        found = {wire.find_attr(one, attributes, key) for one in self._rtnl(ns).dump(message)}
        self.present = frozenset(name for name in names if name in found)
        if adopt:
            self.adopted = self.present
            texts = sorted(name.rstrip(b"\0").decode("utf-8", "replace") for name in self.present)
            self.notices += [notice % text for text in texts]

    def _settle(self, operation: "Operation") -> None:
        """Delete and add again each address of ``devices`` whose flags have a bit of ``unready``, and those beside it.

        The kernel lists the newest address of a device and scope first, and CRIU adds them in the order of that list:
        several come back in reverse, and another one would be chosen as the source of what the container sends.

        ``addresses`` is (dump request, offset of the attributes, attribute with the flags, offset of the header's
        flags, unready, hopeless, ready, attribute of the address itself, type of a deletion): an address with a bit
        of ``hopeless`` is left alone, ``ready`` is the bit it is added with, and taken away from again if it did not
        have it. ``routes`` is (dump request, offset of the attributes, attribute with the preferred source): a route
        loses that when the address goes, and is put back as it was.
        """
        _, ns, devices, addresses, routes, text = operation
        request, attributes, flags_at, header_flags, unready, hopeless, ready, itself, deletion = addresses
        rtnl = self._rtnl(ns)
        indexes = {self._slots[slot] for slot, _ in devices}
        names = {self._slots[slot]: name for slot, name in devices}
        everywhere = not devices
        gone, added, settled, before, lost = [], [], [], [], set()
        counts: dict[bytes, int] = {}
        together: dict[bytes, list[tuple[bytes, int]]] = {}
        for found in rtnl.dump(request):
            data = wire.find_attr(found, attributes, (flags_at,))
            flags = wire.get_u32(data, 0) if data else found[header_flags]
            index = found[INDEX_AT : INDEX_AT + 4]
            if (everywhere or index in indexes) and not flags & hopeless:
                together.setdefault(found[INDEX_AT - 1 : INDEX_AT + 4], []).append((found, flags))  # scope and index
        listed = [pair for pairs in together.values() if len(pairs) > 1 or pairs[0][1] & unready for pair in pairs]
        for found, flags in listed:
            index = found[INDEX_AT : INDEX_AT + 4]
            wanted = flags & ~unready
            body = found[wire.HEADER : attributes] + b"".join(
                wire.put_attr(kind, payload) for kind, payload in wire.attrs(found, attributes) if kind != flags_at
            )
            gone.append(wire.message(deletion, 0, body))
            again = body + wire.put_attr(flags_at, wire.u32(wanted | ready))
            added.append(wire.message(wire.get_u16(found, 4), wire.NLM_F_CREATE | wire.NLM_F_EXCL, again))
            as_was = body + wire.put_attr(flags_at, wire.u32(wanted))
            before.append(wire.message(wire.get_u16(found, 4), wire.NLM_F_CREATE | wire.NLM_F_REPLACE, as_was))
            if not wanted & ready:
                settled.append(wire.message(wire.get_u16(found, 4), wire.NLM_F_REPLACE, as_was))
            lost.add(wire.find_attr(found, attributes, (itself,)))
            if flags & unready:
                counts[index] = counts.get(index, 0) + 1
        if not gone:
            return
        request, attributes, source = routes
        kept = [
            wire.message(wire.get_u16(found, 4), wire.NLM_F_CREATE | wire.NLM_F_REPLACE, found[wire.HEADER :])
            for found in rtnl.dump(request)
            if wire.find_attr(found, attributes, (source,)) in lost
        ]
        for reply in rtnl.request(gone + added + settled + kept):
            if reply.errno:  # some may be gone, and not there again
                what = text % ("container", len(gone))
                self._undo += [(ns, message, (), (), what) for message in (*reversed(kept), *reversed(before))]
                raise OperationError(f"{what}: {errno_text(reply.errno, reply.detail)}")
        self.done += [text % (names.get(index, "all devices"), count) for index, count in counts.items()]

    def _try(self, operation: "Operation") -> None:
        _, name, find, operations = operation
        if name in self._missing:
            return
        fault = self._attempt(find)
        if fault:
            self.notices.append(f"left alone: {fault}")
        else:
            self._run_all(operations)

    def _unless_all(self, operation: "Operation") -> None:
        _, names, operations = operation
        if not self.present.issuperset(names):
            self._run_all(operations)

    def _attempt(self, operations: "tuple[Operation, ...]") -> str:
        """Run ``operations`` without a word, and return the fault of the one that ended it; an empty string if none."""
        mark = len(self.done)
        try:
            self._run_all(operations)
            self._flush()
        except OperationError as error:
            self._batch.clear()
            return error.faults[0]
        finally:
            del self.done[mark:]
        return ""

    def _judge(self, operation: "Operation") -> None:
        for name, checks in operation[1]:
            if self._judged or name in self.present:
                continue
            if checks is None or not checks_hold(checks, self._namespaces):
                raise UnsuitableError

    def _compare(self, operation: "Operation") -> None:
        _, slot, name, prefix, text = operation
        found = _name_in(self._slot(slot))
        if found != name:
            self.notices.append(text % found)
            self._called[f"{prefix}{name} "] = f"{prefix}{found} "

    def _unless_attached(self, operation: "Operation") -> None:
        _, slot, device, step, text = operation
        master = wire.find_attr(self._slot(slot), LINK_ATTRIBUTES, (_IFLA_MASTER,))
        if master is None:
            self._enqueue(step)
        elif master != self._slot(device):
            self.notices.append(text)

    def _dress(self, operation: "Operation") -> None:
        from criu_veth import dress  # noqa: PLC0415 - only where somebody else has made the pair

        _, inner, was, slot, items, keeps = operation
        put, kept, refused = [], [], []
        ends = dress.Ends(self._slot, _name_in, self._namespaces.host)
        for label, test, operations in items:
            if test is not None and ends.have(test[0]):
                continue
            if test is not None and not (ends.can_have(test[0]) and (test[1] or ends.are_bare(test[0]))):
                kept.append(label)
                continue
            fault = self._attempt(operations)
            if fault:
                refused.append(f"{label} ({fault.partition(': ')[2].partition(': ')[2] or fault})")
            else:
                put.append(label)
        name = _name_in(self._slot(slot))
        if not (put or kept or refused or (was and was != name)):
            return
        then = f" (at the dump it was {was})" if was not in {"", name} else ""
        words = f"{inner}: {name} was made by somebody else{then}: its {keeps} stay"
        for what, labels in (("put back", put), ("left as its maker set it", kept), ("refused", refused)):
            words += f"; {what}: {', '.join(labels)}" if labels else ""
        self.notices.append(words)

    def _sysctl_of(self, operation: "Operation") -> None:
        _, (directory, leaf), slot, value, text = operation
        self._sysctl((SYSCTL, HOST, f"{directory}/{_name_in(self._slot(slot))}/{leaf}", value, text))

    def _announce(self, operation: "Operation") -> None:
        """Leave it to a helper: the links need a moment to come up, and nobody is to wait for that."""
        _, devices, requests, link, repeat, interval, text = operation
        devices = [device for device in devices if device[2] not in self.present]
        ends = [(self._slots[inner], outer and self._slots[outer]) for inner, outer, _ in devices]
        ends = [pair for pair in ends if pair[0] is not None]  # somebody else's are left alone
        if ends:
            self.after = lambda: self._announce_detached(ends, requests, link, (repeat, interval))
            self.done.append(text)

    def _announce_detached(
        self, ends: "list[Any]", requests: "Operation", link: bytes, pace: "tuple[int, float]"
    ) -> None:
        from criu_veth import announce  # noqa: PLC0415 - only where it is asked for

        init_pid = wire.get_u32(self._slot(SLOT_INIT_PID), 0)
        start = announce.copied if self.alone else announce.detached
        start(self._namespaces, ends, requests, link, pace, init_pid)

    def _journal(self, operation: "Operation") -> None:
        if self._journal_path is None:
            raise AssertionError("a program with a journal is run without one")
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC | posix.O_NOFOLLOW
        text = "".join(line + "\n" for line in (runs.made_in(), *operation[1]))
        try:
            descriptor = posix.open(self._journal_path, flags, 0o600)
            try:
                posix.write(descriptor, text.encode())
            finally:
                posix.close(descriptor)
        except OSError as error:  # that a restore may fail later is no reason for it to fail now
            names = ", ".join(line.partition(" ")[2] for line in operation[1])
            self.notices.append(
                f"cannot write {self._journal_path}: {error.strerror}; should criu die before it has moved {names},"
                " nobody removes what is left"
            )

    def _sysctl(self, operation: "Operation") -> None:
        _, ns, path, value, text = operation
        try:
            before = self._write_sysctl(ns, path, value)
        except OSError as error:
            raise OperationError(f"{text}: {errno_text(error.errno or 0)}") from None
        self._undo.append((ns, path, before, text))
        self.done.append(text)

    def _write_sysctl(self, ns: int, path: str, value: bytes) -> bytes:
        """Write ``value``, and return what stood there."""
        if ns == INNER:
            with self._namespaces.inside():
                return _exchange(path, value)
        return _exchange(path, value)

    def _within(self, operation: "Operation") -> None:
        from criu_veth import tree  # noqa: PLC0415 - only where a container has several network namespaces

        _, names, links, slots, operations, fault, required = operation
        init_pid = wire.get_u32(self._slot(SLOT_INIT_PID), 0)
        namespaces = tree.find(self._namespaces, init_pid, frozenset(names), links, early=not required)
        if namespaces is None:
            if required:
                raise OperationError(fault)
            self.notices.append(fault)
            return
        there = Executor(namespaces, slots, init_pid, present=self.present)
        there.alone = self.alone
        self._undo.append((there,))
        there.run(operations)
        self.done += there.done
        self.notices += there.notices
        before, later = self.after, there.after
        if later is not None:
            self.after = later if before is None else lambda: (before(), later())[-1]

    def _run_program(self, operation: "Operation") -> None:
        _, argv, parts, undo = operation
        mine = [part for part in parts if part[0] not in self.present]
        if not mine:
            return
        done, fault = run_program(argv + tuple(word for part in mine for word in part[1]), alone=self.alone)
        if done:
            words = undo + tuple(word for part in mine for word in part[2])
            self._undo.append((words, ", ".join(part[3] for part in mine)))
        if fault:
            raise OperationError(f"{mine[0][3]}: {fault}")
        self.done += [part[3] for part in mine]

    def _run_unless(self, operation: "Operation") -> None:
        import errno  # noqa: PLC0415 - builtin, and only Open vSwitch comes here

        _, ns, argv, parts = operation
        replies = self._rtnl(ns).request([message for message, _, _ in parts])
        gone = [part for part, reply in zip(parts, replies, strict=True) if reply.errno == errno.ENODEV]
        if gone:
            _, fault = run_program(argv + tuple(word for part in gone for word in part[1]), alone=self.alone)
            if fault:
                raise OperationError(f"{gone[0][2]}: {fault}")


def run_program(argv: "tuple[str, ...]", *, alone: bool = False) -> "tuple[bool, str]":
    """Run ``argv`` (its first word is a path) to its end, but no longer than `processes.PATIENCE`.

    Return whether it may have done something, and the fault: what it said of itself on stderr, even if it ends well
    (ovs-vsctl does where the database took what the switch then could not do). ``alone``: this process is our own.
    """
    from criu_veth import processes  # noqa: PLC0415 - only where there is a program to run

    name = argv[0].rpartition("/")[2]
    try:
        status, _, stderr = processes.run(argv, alone=alone)
    except OSError as error:
        return False, f"{name}: cannot be run: {errno_text(error.errno or 0)}"
    if status is None or status == -_SIGALRM:  # it has a limit of its own, a little shorter
        return True, f"{name}: no answer in time"
    said = stderr.decode("utf-8", "replace").splitlines()
    own = [line for line in said if line.startswith(f"{name}: ")]
    if status == 0:
        return True, own[0] if own else ""
    why = own[0] if own else f"{name}: {said[-1]}" if said else f"{name}: it says nothing, and its status is {status}"
    return status < 0, why


def _exchange(path: str, value: bytes) -> bytes:
    descriptor = posix.open("/proc/sys/net/" + path, posix.O_RDWR | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    try:
        before = posix.read(descriptor, 4096)
        posix.lseek(descriptor, 0, 0)
        posix.write(descriptor, value)
        return before
    finally:
        posix.close(descriptor)


def run_judged(
    executor: "Callable[[bool], Executor]",
    operations: "tuple[Operation, ...]",
    judge: "Callable[[frozenset[bytes]], None]",
) -> Executor:
    """Run ``operations``, and return the executor that has; where this host is not as they need it, ``judge`` first.

    ``judge`` is given the inner ends that somebody else made, and raises if the others cannot be made. ``executor``
    makes one, told whether that has been judged. Raises OperationError.
    """
    first = executor(False)
    try:
        first.run(operations)
    except UnsuitableError:
        judge(first.present)
        again = executor(True)
        again.run(operations)
        return again
    return first


def made_by_others(ready: "dict[str, str]", host: wire.Rtnl) -> "frozenset[str]":
    """Return the inner ends whose ready device, by inner end, is there and was not made by this project."""
    encoded = {inner: name.encode("utf-8", "surrogateescape") + b"\0" for inner, name in ready.items()}
    names = {inner: name for inner, name in encoded.items() if 1 < len(name) <= 16}  # others no device has
    requests = [wire.message(_RTM_GETLINK, 0, bytes(16) + wire.put_attr(_IFLA_IFNAME, name)) for name in names.values()]
    return frozenset(
        inner
        for inner, reply in zip(names, host.request(requests), strict=True)
        if reply.messages
        and wire.find_attr(reply.messages[0], LINK_ATTRIBUTES, (_IFLA_GROUP,)) != wire.u32(wire.MARK_GROUP)
    )


def _has_a_double(host: wire.Rtnl, link: bytes, identity: "tuple[bytes, tuple[bytes, ...]]") -> bool:
    from criu_veth import clones  # noqa: PLC0415 - at pre-restore alone

    return clones.double(host, link, *identity) is not None


def checks_hold(checks: "tuple[Operation, ...]", namespaces: wire.Namespaces) -> bool:
    """Say whether the host still is as it was when the program was made.

    A check is (message, errno that is expected, expects as in a QUERY); with None for the errno, nothing may be there
    that is as in expects. With CLONE, the device may not lead to a living container whose inner end has (MAC address,
    IP addresses) as in expects.
    """
    if not checks:
        return True
    executor = Executor(namespaces, FIRST_SLOT, None)
    replies = namespaces.host.request([message for message, _, _ in checks])
    for (_, expected, expects), reply in zip(checks, replies, strict=True):
        if expected == CLONE:
            if reply.messages and _has_a_double(namespaces.host, reply.messages[0], expects):
                return False
            continue
        if expected is not None and reply.errno != expected:
            return False
        fits = bool(reply.messages) and not executor.unexpected(reply.messages[0], expects)
        if expects and fits != (expected is not None):
            return False
    return True
