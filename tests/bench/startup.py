"""What one call costs, against the start of the interpreters, and with many other links around."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab import Host
from lab.criu import REPOSITORY
from lab.iproute import batch

from . import variants
from .restores import Plugged
from .timing import Command, Samples, Stopwatch, interleave
from .variants import BRIDGE, CRIU_VETH

SHELL = "sh -c :"
PASS = "python -I -S -c pass"
PYROUTE2 = "python -c 'import pyroute2'"
NO_WORK = "hook, network-unlock"
IDLE = "hook, setup-namespaces with no work"
WORK = "hook, post-restore, program ready"
MAKE = "hook, pre-restore making the program"
REHEARSE = "hook, pre-restore making a program that is rehearsed"
CHECK = "criu-veth check"
UNREHEARSED = ", rehearsing nothing"
REUSE = "hook, pre-restore, program ready"
CROWDED = ", {} other links"


#: What the kernel might refuse, so that it is rehearsed.
DOUBTFUL = """addresses = ["169.254.1.1/32"]
routes = ["10.99.0.2/32", "10.98.0.0/24 via 10.99.0.2"]
sysctl = { "ipv4.proxy_arp" = 1 }
port = { hairpin = true, isolated = true }
"""
#: Runs a program that may make no network namespace, so that it rehearses nothing.
WEAK = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")


class Place:
    """A host where the hook is called for one veth."""

    def __init__(self, host: Host, images: Path, other_links: int) -> None:
        self.host = host
        self.images = images
        self.watch = Stopwatch(host)
        self.suffix = CROWDED.format(other_links) if other_links else ""
        host.bridge(BRIDGE)
        self.hooks = variants.write_hooks(host, 1)
        self.doubtful = f"{self.hooks.config.rpartition('/')[0]}/doubtful.toml"
        host.path(self.doubtful).write_text(host.path(self.hooks.config).read_text().rstrip() + "\n" + DOUBTFUL)
        host.path(self.doubtful).chmod(0o644)
        # The kernel's cheapest device that it surely has; a pair is two links.
        pairs = range(other_links // 2)
        host.run("ip", "-batch", "-", stdin=batch(pair_words(i) for i in pairs), timeout=300)
        self._plugged: Plugged | None = None
        self._checked = False

    def call(self, action: str, config: str = "", prefix: tuple[str, ...] = ()) -> Callable[[], float]:
        """A measurement of one action; `prefix` is a command that runs the hook."""
        env = {"CRIU_VETH_CONFIG": config or self.hooks.config, "CRTOOLS_SCRIPT_ACTION": action}
        if self._plugged is not None and action != "pre-restore":
            env["CRTOOLS_INIT_PID"] = str(self._plugged.container.pid)
        command = Command(argv=[*found(prefix), str(CRIU_VETH)], env=env, images=self.images)
        return lambda: self.watch(command)

    def forget(self) -> None:
        """Remove the hook's programs."""
        shutil.rmtree(self.host.path("/run/criu-veth"), ignore_errors=True)

    def make(self, config: str = "", prefix: tuple[str, ...] = ()) -> float:
        """pre-restore that finds no program."""
        self.forget()
        return self.call("pre-restore", config, prefix)()

    def check(self, prefix: tuple[str, ...] = ()) -> Callable[[], float]:
        """A measurement of `criu-veth check`."""
        argv = [*found(prefix), sys.executable, "-m", "criu_veth", "check", self.doubtful]
        command = Command(argv=argv, env={"PYTHONPATH": str(REPOSITORY)})
        return lambda: self.watch(command)

    def plug(self) -> None:
        """Start the container, for the actions after pre-restore."""
        container = self.host.container()
        self._plugged = Plugged(self.host, container, 1)

    def idle(self) -> float:
        """setup-namespaces in a restore where it has nothing to do."""
        self.call("pre-restore")()
        return self.call("setup-namespaces")()

    def work(self) -> float:
        """post-restore after pre-restore, with CRIU's part between them done as CRIU does it."""
        assert self._plugged
        self.call("pre-restore")()
        self._plugged.make()
        taken = self.call("post-restore")()
        if not self._checked:
            variants.check(self.host, variants.READY, 1)
            self._checked = True
        self._plugged.remove()
        return taken


def found(prefix: tuple[str, ...]) -> list[str]:
    """A command with its program's path."""
    return [shutil.which(prefix[0]) or prefix[0], *prefix[1:]] if prefix else []


def pair_words(number: int) -> list[str]:
    """The words for `ip` that make two links."""
    return ["link", "add", f"o{number}", "type", "veth", "peer", "name", f"p{number}"]


@contextmanager
def places(directory: Path, other_links: int) -> Iterator[list[Place]]:
    """A plain host and, with other links, a crowded one."""
    with ExitStack() as stack:
        made = []
        for links in [0, *([other_links] if other_links else [])]:
            images = directory / f"startup-{links}"
            images.mkdir()
            (images / "inventory.img").touch()
            (images / "netdev-9.img").touch()  # CRIU saved devices, so it brings them back
            made.append(Place(stack.enter_context(Host()), images, links))
        yield made


def measure_startup(directory: Path, rounds: int, other_links: int) -> Samples:
    """Measure the starts of the interpreters and, if the hook is there, its calls."""
    with places(directory, other_links if variants.available() else 0) as hosts:
        plain = hosts[0]
        shell = shutil.which("sh") or "/bin/sh"

        def start(*argv: str) -> Callable[[], float]:
            return lambda: plain.watch(Command(argv=argv, env={}))

        starts = {SHELL: start(shell, "-c", ":"), PASS: start(sys.executable, "-I", "-S", "-c", "pass")}
        before = {**starts, PYROUTE2: start(sys.executable, "-c", "import pyroute2")}
        if not variants.available():
            return interleave(before, rounds)
        before[NO_WORK] = plain.call("network-unlock")
        for place in hosts:
            before[MAKE + place.suffix] = place.make
            before[REUSE + place.suffix] = place.call("pre-restore")
        before[REHEARSE] = lambda: plain.make(plain.doubtful)
        before[REHEARSE + UNREHEARSED] = lambda: plain.make(plain.doubtful, WEAK)
        before[CHECK], before[CHECK + UNREHEARSED] = plain.check(), plain.check(WEAK)
        made = interleave(before, rounds)

        after: dict[str, Callable[[], float]] = dict(starts)
        for place in hosts:
            place.plug()
            after[IDLE + place.suffix] = place.idle
            after[WORK + place.suffix] = place.work
        worked = interleave(after, rounds)
    return {**made, **{name: made.get(name, []) + values for name, values in worked.items()}}
