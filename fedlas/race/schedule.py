"""The schedule of a race: all candidates in full where the time allows it, else successive halving.

Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) in two rounds: every candidate runs a quarter of
the epochs as a complete short warm restart, and the best third runs again in full. A restart cannot be continued where
a shorter one ended, since its learning rate has already fallen to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

#: The first round's share of the epochs, and which share of its trials the second one keeps.
_SHORT, _KEPT = 4, 3


@dataclass(frozen=True)
class PlannedTrial:
    """A candidate by its place in line, and what an epoch of it costs."""

    place: int
    epochs: int
    seconds_per_epoch: float

    def seconds(self, epochs: int) -> float:
        return epochs * self.seconds_per_epoch

    @property
    def short(self) -> int:
        return max(1, round(self.epochs / _SHORT))


class WrittenPlan(TypedDict):
    """A plan in plain values: places with the epochs of a short first round, how many or which of them run in full."""

    short: list[list[int]]
    kept: int
    full: list[int]


@dataclass(frozen=True)
class Plan:
    """Trials of a first short round (none where all run in full), and how many of them or which run in full."""

    short: tuple[PlannedTrial, ...]
    kept: int
    full: tuple[PlannedTrial, ...]

    @property
    def seconds(self) -> float:
        dearest = sorted((r.seconds(r.epochs) for r in self.short), reverse=True)[: self.kept]
        return sum(r.seconds(r.short) for r in self.short) + sum(dearest) + sum(r.seconds(r.epochs) for r in self.full)

    def written(self) -> WrittenPlan:
        """The plan as a record keeps it."""
        short = [[trial.place, trial.short] for trial in self.short]
        return {"short": short, "kept": self.kept, "full": [trial.place for trial in self.full]}


def plan(trials: Sequence[PlannedTrial], seconds: float) -> Plan:
    """The plan that lets most candidates take part within `seconds`; those first in line come first.

    >>> line = [PlannedTrial(i, 10, 1.0) for i in range(6)]
    >>> [(len(plan(line, t).short), len(plan(line, t).full)) for t in (60, 50, 25, 5)]
    [(0, 6), (0, 5), (5, 0), (0, 0)]
    """
    in_full = _longest(lambda n: Plan((), 0, tuple(trials[:n])), len(trials), seconds)
    if len(in_full.full) == len(trials):
        return in_full
    halved = _longest(lambda n: Plan(tuple(trials[:n]), max(1, n // _KEPT), ()), len(trials), seconds)
    # One short look at two more candidates is worth less than a full run, a look at many is worth more.
    return halved if len(halved.short) >= len(in_full.full) + 3 else in_full


def _longest(make: Callable[[int], Plan], most: int, seconds: float) -> Plan:
    plans = (make(n) for n in range(most, 0, -1))
    return next((found for found in plans if found.seconds <= seconds), Plan((), 0, ()))
