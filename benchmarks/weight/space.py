"""The space that is searched: named dimensions that grow or are chosen, and points in it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Size:
    """Grows by multiplication from `low` to `high`, both included."""

    low: int
    high: int

    def clamped(self, value: float) -> int:
        """The nearest size that is allowed."""
        return int(min(self.high, max(self.low, value)))


@dataclass(frozen=True)
class Choice:
    """One of several values; the first is the plain one."""

    values: tuple[str, ...]


def choice(*values: str) -> Choice:
    """One of these."""
    return Choice(values)


Dimension = Size | Choice
Space = Mapping[str, Dimension]
Value = int | str


@dataclass(frozen=True)
class Point:
    """A value for every dimension, in the order of the space."""

    items: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Point:
        """The point with these values."""
        return cls(tuple(values.items()))

    @property
    def values(self) -> dict[str, Value]:
        """By name of the dimension."""
        return dict(self.items)

    def size(self, name: str) -> int:
        """The value of a dimension that grows."""
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def but(self, name: str, value: Value) -> Point:
        """The same with another value in one dimension."""
        return Point(tuple((key, value if key == name else old) for key, old in self.items))

    def __str__(self) -> str:
        shown = (f"{name}={value:,}" if isinstance(value, int) else f"{name}={value}" for name, value in self.items)
        return ", ".join(shown)


def sizes(space: Space) -> dict[str, Size]:
    """The dimensions that grow."""
    return {name: dimension for name, dimension in space.items() if isinstance(dimension, Size)}


def smallest(space: Space, point: Point) -> Point:
    """The point with the same choices where nothing has grown."""
    return Point.of({**point.values, **{name: size.low for name, size in sizes(space).items()}})


def arms(space: Space, most: int, rng: random.Random) -> list[Point]:
    """Smallest points, one for each combination of choices; of more than `most` a sample in which all values occur."""
    options = {name: d.values for name, d in space.items() if isinstance(d, Choice)}
    smallest: dict[str, Value] = {name: d.low if isinstance(d, Size) else d.values[0] for name, d in space.items()}
    combinations = [dict(zip(options, values, strict=True)) for values in product(*options.values())]
    needed = max(most, *map(len, options.values())) if options else 1
    chosen = combinations if len(combinations) <= needed else _covering(combinations, needed, rng)
    return [Point.of({**smallest, **combination}) for combination in chosen]


def _covering(combinations: Sequence[dict[str, str]], most: int, rng: random.Random) -> list[dict[str, str]]:
    """The plain combination, then those that show most values not shown yet."""
    plain, *others = combinations
    rng.shuffle(others)
    chosen, shown = [plain], set(plain.items())
    while len(chosen) < most:
        best = max(others, key=lambda combination: len(set(combination.items()) - shown))
        others.remove(best)
        chosen.append(best)
        shown |= set(best.items())
    return chosen


def mutated(point: Point, space: Space, rng: random.Random) -> Point:
    """A neighbour: one or two dimensions are doubled, quadrupled, halved, quartered or chosen anew."""
    for name in rng.sample(list(space), min(len(space), rng.choice((1, 1, 2)))):
        dimension = space[name]
        if isinstance(dimension, Size):
            point = point.but(name, dimension.clamped(point.size(name) * rng.choice((0.25, 0.5, 2, 4))))
        else:
            point = point.but(name, rng.choice(dimension.values))
    return point


def between(low: int, high: int) -> int:
    """The geometric middle."""
    return math.isqrt(low * high)
