"""What the kernel answers, and who answers in its place: real sockets, in namespaces of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lab import Host

ROOT = Path(__file__).parents[2]
BEGIN = """import errno, json, os, socket, struct, sys
sys.path.insert(0, sys.argv[1])
from criu_veth import bounds, entries, errors, execute, netlink, rules, wire
from criu_veth.state import Address, Vlan
"""


def ask(host: Host, code: str, *args: str) -> Any:
    """Run code on the host, and return what it prints, read as JSON."""
    text = BEGIN + textwrap.dedent(code)
    return json.loads(host.run(sys.executable, "-c", text, str(ROOT), *args).stdout)


@pytest.fixture
def confined(host: Host) -> int:
    """A process with a user and a network namespace of its own: in there its root may do everything."""
    process = host.popen(
        "unshare", "-U", "-r", "-n", "sh", "-c", "echo there; exec sleep infinity", stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == "there\n"
    return process.pid


# Sends, as root of the user namespace, an acknowledgement and the end of a dump to a port: what they ended with.
FORGE = """
def forge(pid, port, protocol):
    code = f'''if True:
    import errno, socket, struct
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, {protocol})
    s.bind((0, 0))
    for kind in (2, 3):
        for number in range(1, 9):
            try:
                s.sendto(struct.pack("=IHHIIi", 36, kind, 0x100, number, {port}, 0) + bytes(16), ({port}, 0))
                print("sent")
            except OSError as error:
                print(errno.errorcode[error.errno])
    '''
    enter = ["nsenter", "-t", pid, "-U", "-n", "--preserve-credentials", "setpriv", "--no-new-privs"]
    import subprocess
    done = subprocess.run([*enter, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sorted(set(done.stdout.split()))
"""
PROTOCOLS = {"routing": 0, "netfilter": 12, "generic": 16}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_nobody_can_send_to_a_socket_of_ours(host: Host, confined: int, protocol: int) -> None:
    code = """
    pid, protocol = sys.argv[2], int(sys.argv[3])
    with wire.Inside(f"/proc/{pid}/ns/net"):
        rtnl = wire.Rtnl(protocol)
    print(json.dumps(forge(pid, rtnl._socket.getsockname()[0], protocol)))
    """
    assert ask(host, FORGE + textwrap.dedent(code), str(confined), str(protocol)) == ["ECONNREFUSED"]


def test_what_was_sent_before_the_socket_was_connected_is_not_believed(host: Host, confined: int) -> None:
    """There is a moment in which it has a port and takes what comes."""
    code = """
    pid = sys.argv[2]

    class Late(socket.socket):
        def connect(self, address):
            self.bind((0, 0))
            self.forged = forge(pid, self.getsockname()[0], 0)
            super().connect(address)

    class Module:
        socket = Late
        def __getattr__(self, name):
            return getattr(socket, name)

    wire._socket = Module()
    rtnl = wire.Namespaces(f"/proc/{pid}/ns/net").inner
    refused, = rtnl.request([netlink.delete_link("nowhere")])
    links = [netlink.Link(data).ifname for data in rtnl.dump(netlink.dump_links())]
    print(json.dumps([rtnl._socket.forged, errno.errorcode[refused.errno], links]))
    """
    assert ask(host, FORGE + textwrap.dedent(code), str(confined)) == [["sent"], "ENODEV", ["lo"]]


def test_a_batch_whose_answers_fit_into_a_small_receive_buffer(host: Host, confined: int) -> None:
    """Only the host's root may have one that is larger than net.core.rmem_max, and a device takes much of it."""
    code = """
    user, inner = (os.open(f"/proc/{sys.argv[2]}/ns/{kind}", os.O_RDONLY) for kind in ("user", "net"))
    import ctypes
    libc = ctypes.CDLL(None)
    assert libc.setns(user, 0x10000000) == 0 and libc.setns(inner, 0x40000000) == 0
    wire._RECEIVE_BUFFER = 1 << 15
    replies = wire.Rtnl().request([netlink.get_link("lo")] * 300)
    print(json.dumps([bool(reply.messages) for reply in replies]))
    """
    assert ask(host, code, str(confined)) == [True] * 300


VLANS = """
    index, veths = int(sys.argv[2]), int(sys.argv[3])
    vlan = Vlan(tagged=rules.vlan_entries(range(1, 4095, 2)))
    messages = [bytearray(netlink.add_vlans(vlan)), bytearray(netlink.drop_other_vlans(vlan))]
    for message in messages:
        message[netlink.INDEX_OFFSET:netlink.INDEX_OFFSET + 4] = wire.u32(index)
    replies = wire.Rtnl().request([bytes(message) for message in messages] * veths)
    assert min(len(message) for message in messages) > 16000
    print(json.dumps([errno.errorcode.get(reply.errno, "") for reply in replies]))
"""


@pytest.mark.parametrize("veths", [1, 7, 16])
def test_a_batch_is_cut_by_its_bytes(host: Host, veths: int) -> None:
    """A port's VLANs take 16 KiB each time: a batch of them does not fit into the socket's send buffer."""
    assert ask(host, VLANS, "77", str(veths)) == ["ENODEV"] * (2 * veths)


@pytest.mark.kernel("vlan-filtering")
@pytest.mark.parametrize("veths", [1, 7, 16])
def test_ports_with_every_other_vlan(host: Host, veths: int) -> None:
    host.run("ip", "link", "add", "br9", "type", "bridge", "vlan_filtering", "1")
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
    host.run("ip", "link", "set", "p0", "master", "br9")
    assert ask(host, VLANS, str(host.link("p0")["ifindex"]), str(veths)) == [""] * (2 * veths)
    (port,) = json.loads(host.run("bridge", "-j", "vlan", "show", "dev", "p0").stdout)
    assert [entry["vlan"] for entry in port["vlans"]] == list(range(1, 4095, 2))


def test_a_request_larger_than_the_send_buffer(host: Host) -> None:
    code = """
    vlan = Vlan(tagged=rules.vlan_entries(range(1, 4095, 2)))
    rtnl = wire.Rtnl()
    rtnl._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    replies = rtnl.request([netlink.get_link("lo"), netlink.add_vlans(vlan), netlink.get_link("lo")] * 2)
    print(json.dumps([errno.errorcode.get(reply.errno, "") for reply in replies]))
    """
    assert ask(host, code) == ["", "ENODEV", ""] * 2


# 200 addresses of lo, in one batch.
ADDRESSES = """
def addresses():
    for number in range(200):
        one = Address(address=f"10.9.0.{number}/32")
        yield one, netlink.address(one), netlink.address(one, delete=True)

def on_lo(message):
    return message[:netlink.INDEX_OFFSET] + wire.u32(1) + message[netlink.INDEX_OFFSET + 4:]

def there(namespaces):
    namespaces.host.strict()
    found = entries.Entries(namespaces.host).addresses(1, bounds.Room(bounds.MOST, bounds.MOST_IN_ALL))
    return sum(one.get("IFA_ADDRESS").startswith("10.") for one in found)
"""


def test_lost_acknowledgements_are_undone(host: Host) -> None:
    """The kernel has done the whole batch, and its answers did not fit into the receive buffer."""
    code = """
    namespaces = wire.Namespaces(None)
    namespaces.host._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    operations = tuple(
        (execute.NETLINK, execute.HOST, on_lo(add), (), (), None, (execute.HOST, on_lo(delete), (), (), one.address),
         one.address)
        for one, add, delete in addresses()
    )
    executor = execute.Executor(namespaces, 0, None)
    executor._flush_as_it_was = executor._flush
    def flush():
        try:
            executor._flush_as_it_was()
        finally:
            seen.append(there(wire.Namespaces(None)))
    seen = []
    executor._flush = flush
    try:
        executor.run(operations)
    except errors.OperationError as error:
        print(json.dumps([error.faults, seen, there(namespaces), len(executor.done)]))
    """
    (fault, *more), seen, left, answered = ask(host, ADDRESSES + textwrap.dedent(code))
    assert more == []
    assert fault == (
        f"10.9.0.{answered}/32: No buffer space available (ENOBUFS): its answer was lost, and whether it was done is"
        " not known"
    )
    assert 0 < answered < 128
    assert seen == [128], "one batch was sent, and done"
    assert left == 0


def test_what_was_sent_before_a_batch_that_cannot_be_is_undone(host: Host) -> None:
    code = """
    namespaces = wire.Namespaces(None)
    rtnl = namespaces.host
    rtnl._most, sends, send = 50, [], rtnl._send
    def failing(out):
        sends.append(there(wire.Namespaces(None)))
        if len(sends) == 2:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        send(out)
    rtnl._send = failing
    operations = tuple(
        (execute.NETLINK, execute.HOST, on_lo(add), (), (), None, (execute.HOST, on_lo(delete), (), (), one.address),
         one.address)
        for one, add, delete in addresses()
    )
    try:
        execute.Executor(namespaces, 0, None).run(operations)
    except errors.OperationError as error:
        print(json.dumps([error.faults, sends[:2], there(namespaces)]))
    """
    faults, seen, left = ask(host, ADDRESSES + textwrap.dedent(code))
    assert faults == ["10.9.0.50/32: Cannot allocate memory (ENOMEM): it was not sent"]
    assert (seen, left) == ([0, 50], 0)


def test_addresses_that_were_to_be_settled_are_put_back(host: Host) -> None:
    """They are deleted and added again in one batch, of which the first part is all that is sent."""
    host.run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
    host.run("ip", "link", "set", "p1", "up")
    host.run("ip", "link", "set", "p0", "up")
    for number in range(1, 4):
        host.run("ip", "address", "add", f"fd00::{number}/64", "dev", "p0")
    host.run("ip", "route", "add", "fd99::/64", "via", "fd00::9", "src", "fd00::2", "dev", "p0", check=False)
    code = """
    from criu_veth import assemble
    ((slots, operations),) = assemble.settle_all().values()
    namespaces = wire.Namespaces("/proc/self/ns/net")
    rtnl = namespaces.inner
    rtnl._most, sends, send = 3, [], rtnl._send
    def failing(out):
        if wire.get_u16(out, 4) in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
            sends.append(wire.get_u16(out, 4))
            if len(sends) == 2:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        send(out)
    rtnl._send = failing
    try:
        execute.Executor(namespaces, slots, os.getpid()).run(operations)
    except errors.OperationError as error:
        print(json.dumps([error.faults, sends[:2]]))
    """
    (fault,), sends = ask(host, code)
    assert fault.endswith("Cannot allocate memory (ENOMEM): it was not sent")
    assert sends[0] == 21, "deletions came first"
    listed = host.run("ip", "-6", "-o", "address", "show", "dev", "p0", "scope", "global").stdout
    found = [line.split()[3] for line in listed.splitlines()]
    assert sorted(found) == ["fd00::1/64", "fd00::2/64", "fd00::3/64"]


def test_what_was_never_done_is_no_fault_of_the_undo(host: Host) -> None:
    """An answer that is lost may have been a refusal."""
    code = """
    namespaces = wire.Namespaces(None)
    namespaces.host._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    gone = netlink.delete_link("nowhere")
    operations = ((execute.NETLINK, execute.HOST, gone, (), (errno.ENODEV,), None, None, "nothing"),) * 20
    operations += ((execute.NETLINK, execute.HOST, gone, (), (), None, (execute.HOST, gone, (), (), "x"), "made"),)
    try:
        execute.Executor(namespaces, 0, None).run(operations)
    except errors.OperationError as error:
        print(json.dumps(error.faults))
    """
    assert ask(host, code) == [
        "nothing: No buffer space available (ENOBUFS): its answer was lost, and whether it was done is not known"
    ]


def test_a_list_that_changes_while_it_is_read(host: Host) -> None:
    """Linux says so (NLM_F_DUMP_INTR): it is read again, so often and not more."""
    code = """
    namespaces = wire.Namespaces(None)
    for third in range(10):
        ones = [Address(address=f"10.{third}.0.{number}/32") for number in range(200)]
        namespaces.host.request([on_lo(netlink.address(one)) for one in ones])
    other = wire.Rtnl()
    one = Address(address="10.200.0.1/32")

    class Busy(wire.Rtnl):
        changes = 0
        def _receive(self, flags=0):
            found = super()._receive(flags)
            if self.changes:
                self.changes -= 1
                other.request([on_lo(netlink.address(one, delete=bool(self.changes % 2)))])
            return found

    said = []
    for changes in (0, 4, -1):
        rtnl = Busy()
        rtnl.changes = changes
        try:
            found = rtnl.dump(netlink.dump_addresses4())
            said.append([len(found), rtnl._sequence > 1])
        except errors.UnsteadyError as error:
            said.append([error.faults, rtnl._sequence])
    print(json.dumps(said))
    """
    steady, changed, never = ask(host, ADDRESSES + textwrap.dedent(code))
    assert steady == [2001, False], "with 127.0.0.1"
    assert changed == [2002, True]
    assert never == [
        [
            "the kernel's list (request 22) changed each of the 10 times that it was read: try again when fewer"
            " devices, addresses and routes come and go"
        ],
        10,
    ]


def test_answers_that_do_not_fit(host: Host) -> None:
    code = """
    said = []
    for room in (wire._DATAGRAM, 64):
        rtnl = wire.Rtnl()
        rtnl._datagram = room
        replies = rtnl.request([netlink.get_link("lo"), netlink.get_link("nowhere"), netlink.get_link("lo")])
        said.append([netlink.Link(reply.messages[0]).get("IFLA_MTU") if reply.messages else 0 for reply in replies])
        rtnl._datagram = room
        said.append([netlink.Link(data).ifname for data in rtnl.dump(netlink.dump_links())])
    print(json.dumps(said))
    """
    assert ask(host, code) == [[65536, 0, 65536], ["lo"]] * 2


NOT_OURS = "be root on the host, with CAP_SYS_ADMIN there and CAP_SYS_PTRACE over the process"
GONE = "its process has ended"
WHERE = "the network namespace"
REFUSED = {
    "gone": ("/proc/2147483647/ns/net", f"cannot open {WHERE} PATH: No such file or directory (ENOENT): {GONE}"),
    "file": ("/etc/hostname", f"cannot enter {WHERE} PATH: Invalid argument (EINVAL): it is no network namespace"),
    "another kind": (
        "/proc/self/ns/uts",
        f"cannot enter {WHERE} PATH: Invalid argument (EINVAL): it is no network namespace",
    ),
    "loop": ("/proc/self/fd/loop", f"cannot open {WHERE} PATH: No such file or directory (ENOENT): {GONE}"),
    "directory's file": ("/etc/hostname/net", f"cannot open {WHERE} PATH: Not a directory (ENOTDIR)"),
}
ENTER = """
def enter(path):
    home = os.stat("/proc/thread-self/ns/net").st_ino
    try:
        with wire.Inside(path):
            return "entered"
    except errors.NamespaceError as error:
        assert os.stat("/proc/thread-self/ns/net").st_ino == home
        return [error.faults, error.errno, isinstance(error, FileNotFoundError), len(os.listdir("/proc/self/fd"))]
"""


@pytest.mark.parametrize("name", REFUSED)
def test_a_namespace_that_is_none(host: Host, name: str) -> None:
    path, fault = REFUSED[name]
    (said,), _, is_gone, descriptors = ask(host, ENTER + "print(json.dumps(enter(sys.argv[2])))", path)
    assert said == fault.replace("PATH", path)
    assert is_gone == (GONE in fault)
    assert descriptors == 4, "the standard ones and the directory's"


def test_a_namespace_whose_process_is_a_zombie(host: Host) -> None:
    code = """
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    said = enter(f"/proc/{child}/ns/net")
    print(json.dumps([child, said]))
    """
    child, ((said,), _, is_gone, _) = ask(host, ENTER + textwrap.dedent(code))
    path = f"/proc/{child}/ns/net"
    assert said == f"cannot open the network namespace {path}: No such file or directory (ENOENT): {GONE}"
    assert is_gone


def test_a_namespace_that_is_not_ours(host: Host, confined: int) -> None:
    """Root of a user namespace may not go to the host's network namespace, which it may look at here."""
    code = """
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    user, inner = (os.open(f"/proc/{sys.argv[2]}/ns/{kind}", os.O_RDONLY) for kind in ("user", "net"))
    import ctypes
    libc = ctypes.CDLL(None)
    assert libc.setns(user, 0x10000000) == 0 and libc.setns(inner, 0x40000000) == 0
    os.close(user), os.close(inner)
    from criu_veth import session
    host = os.getppid()
    try:
        session.container_netns(host)
    except errors.InputError as error:
        entered, opened = enter(f"/proc/self/fd/{namespace}"), enter(f"/proc/{host}/ns/net")
        print(json.dumps([namespace, entered, host, opened, *error.faults]))
    """
    number, ((entered,), *_), pid, ((opened,), *_), seen = ask(host, ENTER + textwrap.dedent(code), str(confined))
    assert entered == (
        f"cannot enter the network namespace /proc/self/fd/{number}: Operation not permitted (EPERM): {NOT_OURS}"
    )
    refused = f"the network namespace /proc/{pid}/ns/net: Permission denied (EACCES): {NOT_OURS}"
    assert opened == f"cannot open {refused}"
    assert seen == f"CRTOOLS_INIT_PID: cannot see {refused}"


def test_too_many_files(host: Host) -> None:
    code = """
    import resource
    os.strerror(1), errors.errno_text(errno.EMFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    try:
        wire.Inside("/proc/self/ns/net").__enter__()
    except errors.NamespaceError as error:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        print(json.dumps(error.faults))
    """
    assert ask(host, code) == [
        "cannot open the network namespace /proc/thread-self/ns/net: Too many open files (EMFILE): too many files are"
        " open: raise the limit (ulimit -n, LimitNOFILE=, fs.file-max)"
    ]


@pytest.mark.skipif(hasattr(os, "setns"), reason="Python 3.12 and newer have setns() itself")
def test_setns_without_a_function_for_it() -> None:
    from criu_veth import wire

    with pytest.raises(OSError, match="Bad file descriptor"):
        wire.enter_netns(1 << 20)
