"""Whole restores with real CRIU, and the same scripts called alone."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab import Container, Criu, Host, Link
from lab.container import ROOT
from lab.iproute import batch

from . import variants
from .timing import Command, Samples, Stopwatch, interleave
from .variants import BRIDGE, COLD, EMPTY, FINISHING, READY, READY_MADE, Hooks

#: The way for which `criu-veth prepare` makes the program ahead.
WAYS = {READY: "external", READY_MADE: "ready", EMPTY: "empty"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Milliseconds at one number of veths."""

    veths: int
    restores: Samples
    actions: Samples
    """The action scripts alone, called at post-restore with all their work to do."""


class Arena:
    """A host with a container of `count` veths in images, restored again and again."""

    def __init__(self, host: Host, criu: Criu, count: int, images: Path) -> None:
        self.host = host
        self.criu = criu
        self.count = count
        self.images = images
        self.outer = [veth.outer for veth in variants.veths(count)]
        self.watch = Stopwatch(host)
        host.bridge(BRIDGE)
        self.hooks: Hooks = variants.write_hooks(host, count)
        links = [Link(inner=veth.inner, outer=veth.outer, mtu=variants.MTU) for veth in variants.veths(count)]
        container = host.container(links)
        criu.dump(container, images)
        container.wait_unplugged()

    def command(self, variant: str) -> Command:
        """The restore by one variant."""
        script = self.hooks.scripts.get(variant)
        argv = [str(self.criu.path), "restore", "-d", "-D", str(self.images), "-o", "restore.log"]
        argv += ["--manage-cgroups=ignore", "--root", ROOT, "--pidfile", str(self.pidfile)]
        argv += ["--action-script", script] if script else []
        return Command(
            argv=[*argv, *self.hooks.options(variant, self.images)], env={"CRIU_VETH_CONFIG": self.hooks.config}
        )

    @property
    def pidfile(self) -> Path:
        """Where CRIU writes the restored process's number."""
        return self.images / "restored.pid"

    def action(self, variant: str, action: str, pid: int | None = None) -> Command:
        """One call of a variant's script, as CRIU does it."""
        env = {"CRIU_VETH_CONFIG": self.hooks.config, "CRTOOLS_SCRIPT_ACTION": action}
        if pid is not None:
            env["CRTOOLS_INIT_PID"] = str(pid)
        return Command(argv=[self.hooks.scripts[variant]], env=env, images=self.images)

    def prepare(self, variant: str) -> None:
        """What the variant takes for granted before the restore starts."""
        self.pidfile.unlink(missing_ok=True)
        if variant == COLD:
            shutil.rmtree(self.host.path("/run/criu-veth"), ignore_errors=True)
        elif variant in WAYS:
            self.host.run(
                *(sys.executable, "-m", "criu_veth", "prepare", "--mode", WAYS[variant], str(self.images)),
                env={"CRIU_VETH_CONFIG": self.hooks.config},
            )

    def restore(self, variant: str) -> tuple[float, Container]:
        """Restore once; return milliseconds and the container."""
        self.prepare(variant)
        try:
            taken = self.watch(self.command(variant))
        except AssertionError as error:
            log = (self.images / "restore.log").read_text(errors="replace")
            raise AssertionError(f"{variant}: {error}\n{log[-4000:]}") from None
        return taken, Container(self.host, int(self.pidfile.read_text()))

    def end(self, container: Container) -> None:
        """Kill the container and wait until its veths are gone."""
        container.kill()
        container.close()
        self.host.wait_no_link(*self.outer, deadline=60)

    def restores(self, names: Sequence[str], rounds: int) -> Samples:
        """Restore by each variant in turn; the warm-up round checks what each one did."""
        checked: set[str] = set()

        def once(variant: str) -> float:
            taken, container = self.restore(variant)
            if variant not in checked:
                variants.check(self.host, variant, self.count)
                checked.add(variant)
            self.end(container)
            return taken

        return interleave({name: partial(once, name) for name in names}, rounds)

    def actions(self, names: Sequence[str], rounds: int) -> Samples:
        """Call each finishing script alone at post-restore, with all its work to do."""
        calls = [name for name in names if name in FINISHING and name not in (COLD, READY_MADE, EMPTY)]
        container = self.host.container()
        plugged = Plugged(self.host, container, self.count)

        def once(variant: str) -> float:
            if variant == READY:
                self.watch(self.action(READY, "pre-restore"))
            plugged.make()
            taken = self.watch(self.action(variant, "post-restore", container.pid))
            plugged.remove()
            return taken

        return interleave({name: partial(once, name) for name in calls}, rounds)


class Plugged:
    """Outer ends as CRIU leaves them before post-restore, made and removed again and again."""

    GROUP = "7"

    def __init__(self, host: Host, container: Container, count: int) -> None:
        self.host = host
        self.container = container
        mappings = variants.veths(count)
        self._made = batch(
            [
                *("link", "add", veth.outer, "group", self.GROUP, "type", "veth"),
                *("peer", "name", veth.inner, "netns", str(container.pid)),
            ]
            for veth in mappings
        )
        self._up = batch(["link", "set", veth.inner, "up"] for veth in mappings)

    def make(self) -> None:
        """Make the pairs; the outer ends stay down."""
        self.host.run("ip", "-batch", "-", stdin=self._made)
        self.container.run("ip", "-batch", "-", stdin=self._up)

    def remove(self) -> None:
        """Delete them all, in one message."""
        self.host.run("ip", "link", "delete", "group", self.GROUP)


def measure_restores(criu: Criu, count: int, names: Sequence[str], rounds: int, images: Path) -> Measured:
    """Measure everything at one number of veths, on a host of its own."""
    with Host() as host:
        images.mkdir()
        arena = Arena(host, criu, count, images)
        return Measured(
            veths=count,
            restores=arena.restores(names, rounds),
            actions=arena.actions(names, max(2 * rounds, 10)),
        )


def quick_check(path: Path) -> None:
    """Fail with a sentence where nothing can be measured."""
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root, to make network namespaces and to run CRIU")
    if not os.access(path, os.X_OK):
        raise SystemExit(f"bench: cannot run {path}")
