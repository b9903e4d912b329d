"""The generator of `benchmarks.weight` finds what is dear without being told where it lies; no service runs here."""

from __future__ import annotations

import gzip
import math
import random
import re
from collections.abc import Callable

import pytest

from benchmarks.weight.content import gzipped, listed, repeated, text
from benchmarks.weight.cost import Cost
from benchmarks.weight.families import FAMILIES
from benchmarks.weight.requests import MOST_BODY, TooBig, request
from benchmarks.weight.search import Budget, Search, Trial
from benchmarks.weight.space import Point, Size, Space, arms, choice
from benchmarks.weight.world import World

WORLD = World(
    key="k",
    models=dict.fromkeys(("small", "wide", "named", "image", "filled", "stepped", "cubic", "paired"), "mdl_0"),
    verdicts={},
    dataset="ds_0",
)
SPACE: Space = {
    "count": Size(1, 1 << 26),
    "other": Size(1, 1 << 10),
    "kind": choice("a", "b", "c"),
    "form": choice("x", "y"),
}


def _searched(cost: Callable[[Point], Cost], *, trials: int = 300, enough: float = 1e9) -> list[Trial]:
    return Search(SPACE, cost, Budget(seconds=20, trials=trials, enough=enough), random.Random(0)).run()


def test_growth_finds_the_one_choice_whose_cost_rises_with_its_size() -> None:
    """Only b in form y is dear, and only when it is large: the search ends near its largest size."""

    def cost(point: Point) -> Cost:
        dear = (point.values["kind"], point.values["form"]) == ("b", "y")
        return Cost(standstill=1e-7 * point.size("count") if dear else 0.01)

    worst = _searched(cost)[0]
    assert (worst.point.values["kind"], worst.point.values["form"]) == ("b", "y")
    assert worst.point.size("count") == 1 << 26


def test_a_cost_of_two_sizes_together_is_climbed() -> None:
    """Neither size costs anything measurable alone; their product does."""

    def cost(point: Point) -> Cost:
        return Cost(standstill=2e-8 * min(point.size("count"), 1 << 20) * point.size("other"))

    worst = _searched(cost)[0].point
    assert worst.size("other") > 1 << 8
    assert worst.size("count") >= 1 << 20


@pytest.mark.parametrize("as_answer", [True, False])
def test_a_limit_is_approached_from_below(as_answer: bool) -> None:
    """What is refused for its size, by the service or by the attacker itself, is halved: the best lies just below."""
    limit = 3_000_000

    def cost(point: Point) -> Cost:
        if point.size("count") > limit:
            if as_answer:
                return Cost(status=413)
            raise TooBig
        return Cost(standstill=1e-7 * point.size("count"), status=200)

    assert limit / 2 < _searched(cost)[0].point.size("count") <= limit


def test_a_process_that_ends_is_worse_than_everything_else_and_enough() -> None:
    """A service that is gone needs no further proof: the search stops there."""

    def cost(point: Point) -> Cost:
        return Cost(end="process ended") if point.size("count") > 1000 else Cost(standstill=0.1)

    trials = _searched(cost, enough=100)
    assert trials[0].cost.end == "process ended"
    assert sum(bool(trial.cost.end) for trial in trials) == 1


def test_the_same_seed_finds_the_same_points() -> None:
    """A run can be repeated."""

    def cost(point: Point) -> Cost:
        return Cost(standstill=0.01 * math.log2(point.size("count") * point.size("other")))

    first, again = (_searched(cost, trials=60) for _ in range(2))
    assert [trial.point for trial in first] == [trial.point for trial in again]


def test_every_value_of_every_choice_is_an_arm() -> None:
    """A sample of the combinations leaves out none of their values."""
    space: Space = {"count": Size(1, 2), "unit": choice(*"abcdefghij"), "place": choice(*"123"), "form": choice(*"xyz")}
    sampled = arms(space, 4, random.Random(0))
    assert len(sampled) == 10
    for name in ("unit", "place", "form"):
        assert {point.values[name] for point in sampled} == set(getattr(space[name], "values"))  # noqa: B009


def test_a_goal_that_is_missed_is_named() -> None:
    """Costs name the goals that they miss, and nothing where they miss none."""
    assert Cost(standstill=0.25, kept=64 << 20, status=422).misses == []
    assert Cost(standstill=0.3, status=500).misses == ["standstill 0.30 s", "status 500"]
    assert Cost(end="process ended").score > Cost(standstill=60, kept=1 << 32).score


def test_content_is_as_long_as_it_says() -> None:
    """Sizes are known without making the bytes, numbered copies and compressed ones included."""
    numbered = b"{" + listed(b'"%08x":"%08x"', 70_000) + b"}" + repeated(b"[]", 100_001)
    made = b"".join(numbered.chunks())
    assert len(made) == numbered.size
    assert made.startswith(b'{"00000000":"00000000","00000001":"00000001"')
    assert max(map(len, numbered.chunks())) <= 1 << 17
    packed = gzipped(numbered)
    assert gzip.decompress(b"".join(packed.chunks())) == made
    assert packed.size < numbered.size / 4


def test_a_body_is_never_larger_than_any_may_be() -> None:
    """The attacker keeps to what is allowed; what would be larger is no point of the space."""
    assert b"Content-Length: 4\r\n" in b"".join(request("POST", "/", text(b"{  }")).chunks())
    with pytest.raises(TooBig):
        request("POST", "/", repeated(b"a", MOST_BODY + 1))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_builds_requests_at_its_smallest_points_and_their_neighbours(name: str) -> None:
    """Every combination of choices becomes HTTP, or is said to be too big; the length announced is the length sent."""
    space = FAMILIES[name].space
    assert any(isinstance(dimension, Size) for dimension in space.values())
    for point in arms(space, 8, random.Random(0)):
        sizes = {key: 3 if isinstance(value, int) else value for key, value in point.items}
        for tried in (point, Point.of(sizes)):
            try:
                wire = FAMILIES[name].attack(WORLD, tried).shots[-1].wire
            except TooBig:
                continue
            sent = b"".join(wire.chunks())
            assert len(sent) == wire.size
            assert re.match(rb"([A-Z]+ |$)", sent)
