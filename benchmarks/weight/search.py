"""Finds the most expensive point of a space: growth along every dimension from every arm, then climbing from the best.

It knows no HTTP: a point is measured by a callable, and what cannot be measured (`TooBig`) bounds the space.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.weight.cost import Cost
from benchmarks.weight.requests import TooBig
from benchmarks.weight.space import Point, Space, arms, between, mutated, sizes

Measure = Callable[[Point], Cost]

#: Below this nothing can be told from the noise of a machine that others use: then growth takes larger steps. A line
#: that begins higher must have doubled, unless what it begins with is more than noise.
_FLOOR, _NOISE = 0.4, 2.0
_LEAP, _GALLOP, _DOUBLE = 16, 4, 2
#: Measurable steps without a higher cost after which a line has ended.
_PATIENCE = 2
_BISECTIONS = 3
_ELITE = 3
#: Arms that grow along every dimension; the others grow along the first, and those that cost most go on from there.
_WHOLE_ARMS = 4
_FEWEST_LINES = 4


@dataclass
class Budget:
    """How long, and how often, may be measured; `enough` is a score beyond which nothing more has to be proven."""

    seconds: float
    trials: int = 400
    arms: int = 12
    enough: float = 20.0
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds

    @property
    def left(self) -> bool:
        """Whether another trial may begin."""
        return self.trials > 0 and time.monotonic() < self._until


@dataclass(frozen=True)
class Trial:
    """A point and what it cost."""

    point: Point
    cost: Cost


class Search:
    """One search; `trials` holds what was measured."""

    def __init__(self, space: Space, measure: Measure, budget: Budget, rng: random.Random) -> None:
        self.space = space
        self.trials: dict[Point, Trial | None] = {}  # None: no request of allowed size
        self._measure = measure
        self._budget = budget
        self._rng = rng

    def run(self) -> list[Trial]:
        """Everything that was measured, the most expensive first."""
        first, *others = sizes(self.space)
        starts = arms(self.space, self._budget.arms, self._rng)
        self._grow([Line(self.space, arm, first) for arm in starts])
        self._grow([Line(self.space, arm, name) for arm in starts[:_WHOLE_ARMS] for name in others])
        self._grow([Line(self.space, trial.point, name) for trial in self._elite() for name in sizes(self.space)])
        self._climb()
        return self._ranked()

    def _grow(self, lines: Sequence[Line]) -> None:
        """All by a step, in turn; as soon as costs can be measured, only the dearer half goes on (halving)."""
        growing = list(lines)
        while growing and self._going:
            for line in growing:
                point = line.next()
                if point is not None and self._going:
                    line.told(self.trial(point))
            growing = [line for line in growing if line.next() is not None]
            growing.sort(key=lambda line: -line.highest)
            if growing and growing[0].highest >= _FLOOR:
                growing = growing[: max(_FEWEST_LINES, len(growing) // 2)]

    def _climb(self) -> None:
        """From the best few to their neighbours, for as long as there is budget."""
        idle = 0
        while self._going and idle < 50 and (elite := self._elite()):
            point = mutated(self._rng.choice(elite).point, self.space, self._rng)
            idle = idle + 1 if point in self.trials else 0
            self.trial(point)

    def trial(self, point: Point) -> Trial | None:
        """Measure the point, once; None where it is no request of allowed size."""
        if point not in self.trials:
            try:
                self.trials[point] = Trial(point, self._measure(point))
                self._budget.trials -= 1
            except TooBig:
                self.trials[point] = None
        return self.trials[point]

    @property
    def _going(self) -> bool:
        best = self._ranked()[:1]
        return self._budget.left and not (best and best[0].cost.score >= self._budget.enough)

    def _ranked(self) -> list[Trial]:
        return sorted(filter(None, self.trials.values()), key=lambda trial: -trial.cost.score)

    def _elite(self) -> list[Trial]:
        return self._ranked()[:_ELITE]


class Line:
    """One dimension grows from a point: by leaps while the cost is not measurable, doubled while it rises.

    At a limit (refused for its size, or no request of allowed size) it halves its way towards the limit and ends.
    """

    def __init__(self, space: Space, start: Point, name: str) -> None:
        self._dimension = sizes(space)[name]
        self._start = start
        self._name = name
        self._good = start.size(name)
        self._next: int | None = self._good
        self._refused: int | None = None
        self._bisections = 0
        self._idle = 0
        self._floor = 0.0
        self.highest = 0.0

    def next(self) -> Point | None:
        """What is to be measured now; None at the end."""
        return None if self._next is None else self._start.but(self._name, self._next)

    def told(self, trial: Trial | None) -> None:
        """What `next` has cost."""
        assert self._next is not None
        if trial is None or trial.cost.limited:
            self._refused = self._next
        else:
            self._good = self._next
            risen = trial.cost.score > 1.1 * self.highest
            self.highest = max(self.highest, trial.cost.score)
            self._floor = self._floor or max(_FLOOR, min(2 * self.highest, _NOISE))
            self._idle = 0 if risen or self.highest < self._floor else self._idle + 1
        self._next = self._following()

    def _following(self) -> int | None:
        if self._idle >= _PATIENCE:
            return None
        if self._refused is not None:
            self._bisections += 1
            middle = between(self._good, self._refused)
            return middle if self._bisections <= _BISECTIONS and middle not in (self._good, self._refused) else None
        factor = _DOUBLE if self.highest >= self._floor else _GALLOP if self.highest >= self._floor / 2 else _LEAP
        grown = self._dimension.clamped(max(self._good * factor, self._good + 1))
        return grown if grown > self._good else None
