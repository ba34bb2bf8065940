"""The tables, and whether the budgets hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from . import startup, variants
from .restores import Measured
from .timing import Samples, median


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A bound on a ratio of two medians of the same run."""

    what: str
    ratio: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the ratio, as printed, is within the bound."""
        return round(self.ratio, 2) <= self.bound

    def __str__(self) -> str:
        sign, word = ("<=", "holds") if self.holds else (">", "MISSED")
        return f"budget: {self.what}: {word} ({self.ratio:.2f} {sign} {self.bound:g})"


def cell(values: Sequence[float] | None) -> str:
    """Median and minimum, in milliseconds."""
    if not values:
        return ""
    digits = 1 if median(values) < 100 else 0
    return f"{median(values):.{digits}f} ({min(values):.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its numbers to the right."""
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def sizes(measured: Sequence[Measured], kind: str) -> str:
    """A table of variants by number of veths."""
    columns: list[Samples] = [getattr(one, kind) for one in measured]
    names = [name for name in variants.ALL if any(name in column for column in columns)]
    head = ["", *(f"{one.veths} veth{'s' if one.veths > 1 else ''}" for one in measured)]
    return table(head, [[name, *(cell(column.get(name)) for column in columns)] for name in names])


def starts(samples: Mapping[str, Sequence[float]]) -> str:
    """A table of single calls."""
    return table(["", "ms"], [[name, cell(values)] for name, values in samples.items()])


def ratio(samples: Mapping[str, Sequence[float]], name: str, against: str) -> float | None:
    """The ratio of two medians, or None if one was not measured."""
    if not samples.get(name) or not samples.get(against):
        return None
    return median(samples[name]) / median(samples[against])


def budgets(single: Samples, measured: Sequence[Measured]) -> list[Budget]:
    """All bounds of which both sides were measured."""
    found: list[Budget] = []

    def bound(what: str, value: float | None, limit: float) -> None:
        if value is not None:
            found.append(Budget(what=what, ratio=value, bound=limit))

    s = startup
    bound(f"{s.NO_WORK}, against `{s.SHELL}`", ratio(single, s.NO_WORK, s.SHELL), 1.5)
    bound(f"{s.IDLE}, against `{s.SHELL}`", ratio(single, s.IDLE, s.SHELL), 1.5)
    bound(f"{s.WORK}, against `{s.PASS}`", ratio(single, s.WORK, s.PASS), 1.6)
    bound(f"{s.MAKE}, against `{s.PYROUTE2}`", ratio(single, s.MAKE, s.PYROUTE2), 0.6)
    for name, limit in ((s.REHEARSE, 1.4), (s.CHECK, 1.25)):
        without = name + s.UNREHEARSED
        bound(f"{name}, against {without.removeprefix(f'{name}, ')}", ratio(single, name, without), limit)
    for one in measured:
        what = f"whole restore, program ready, against {variants.SHELL_IP}, veths: {one.veths}"
        limit = 1.25 if one.veths < 8 else 1.0
        bound(what, ratio(one.restores, variants.READY, variants.SHELL_IP), limit)
    for name in single:
        if name.endswith(" other links"):
            alone = name.rpartition(",")[0]
            bound(f"{name}, against none", ratio(single, name, alone), 1.25)
    bound(f"one more veth at post-restore, program ready, against {variants.SHELL_BATCH}", growth(measured), 1.25)
    return found


def marginal(measured: Sequence[Measured], variant: str) -> float | None:
    """Milliseconds that one more veth costs at post-restore, from the fewest veths to the most."""
    points = sorted((one.veths, median(one.actions[variant])) for one in measured if one.actions.get(variant))
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return None
    return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])


def growth(measured: Sequence[Measured]) -> float | None:
    """What one more veth costs, against `ip -batch`.

    The kernel's own part grows faster than linear with the ports of a bridge, so a line would be
    the wrong measure: `ip -batch` has the same kernel to pay and nothing else.
    """
    hook, batch = (marginal(measured, name) for name in (variants.READY, variants.SHELL_BATCH))
    return hook / batch if hook and batch and batch > 0 else None


def lines(single: Samples, measured: Sequence[Measured]) -> Iterator[str]:
    """The whole report, in Markdown."""
    if measured:
        yield "Whole restore by CRIU of a small process, milliseconds, median (minimum):\n"
        yield sizes(measured, "restores")
    if any(one.actions for one in measured):
        yield "The action script alone at post-restore, milliseconds, median (minimum):\n"
        yield sizes(measured, "actions")
    if single:
        yield "Single calls, milliseconds, median (minimum):\n"
        yield starts(single)
    yield from (str(budget) for budget in budgets(single, measured))
