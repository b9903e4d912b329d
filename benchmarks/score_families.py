"""Judges with a known truth that a promise is counted against: sharp, useless, tied, grouped, weighted, deceiving."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedlas.contract.scores import WantedPromise
from fedlas.guarantees.guarantees import upper_bound
from fedlas.scores.calibration import _levels, _Promising
from fedlas.scores.curve import Evidence, rank_score, sigmoid
from fedlas.scores.promise import Rows, accepted_within, first_rank

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Draw = Callable[[int, np.random.Generator], "Drawn"]
POPULATION = 200_000
WANTED = WantedPromise()
SIZES = (100, 200, 300, 400, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Drawn:
    """Rows of a judge: scores (N,), the probability that each is right, and whether people say that it is."""

    scores: Floats
    probs: Floats
    right: Ints
    clusters: Ints | None = None
    weights: Floats | None = None


class Truth:
    """The error among all rows of a judge at or beyond a score, from many draws."""

    def __init__(self, draw: Draw, *, higher: bool) -> None:
        drawn = draw(POPULATION, np.random.default_rng(99))
        weights = np.ones(len(drawn.scores)) if drawn.weights is None else drawn.weights
        positions = drawn.scores if higher else -drawn.scores
        order = np.argsort(-positions, kind="stable")
        self._positions, self._higher = positions[order], higher
        mass = np.cumsum(weights[order])
        self._errors, self._shares = np.cumsum((weights * (1 - drawn.probs))[order]) / mass, mass / mass[-1]

    def at(self, threshold: float) -> tuple[float, float]:
        """The error at or beyond a threshold, and the share of rows."""
        position = threshold if self._higher else -threshold
        known = self._positions[~np.isnan(self._positions)]
        place = max(int(np.searchsorted(-known, -position, side="right")) - 1, 0)
        return float(self._errors[place]), float(self._shares[place])


def _alone(scores: Floats, probs: Floats, rng: np.random.Generator) -> Drawn:
    return Drawn(scores, probs, (rng.random(len(scores)) < probs).astype(np.int64))


def _logit(spread: float, centre: float, score: Callable[[Floats], Floats] = sigmoid) -> Draw:
    def draw(count: int, rng: np.random.Generator) -> Drawn:
        logits = centre + spread * rng.normal(size=count)
        return _alone(score(logits), sigmoid(logits), rng)

    return draw


def _of_ten(logits: Floats) -> Floats:
    return np.ceil(10 * sigmoid(logits))


def _by_place(error: Callable[[Floats], Floats], score: Callable[[Floats], Floats] = lambda place: 1 - place) -> Draw:
    """A judge whose error depends on the place in 0..1 of a row, the best first."""

    def draw(count: int, rng: np.random.Generator) -> Drawn:
        place = rng.random(count)
        return _alone(score(place), 1 - error(place), rng)

    return draw


def _saturated(error: float) -> Draw:
    """Half of the rows have one score, the highest; the error there."""
    return _by_place(
        lambda place: np.where(place < 0.5, error, np.minimum(error + place - 0.5, 0.5)),
        lambda place: np.where(place < 0.5, 1.0, 1.5 - place),
    )


def _grades(ends: tuple[float, ...], errors: tuple[float, ...]) -> Draw:
    """Whole grades, the best first, with the share of rows down to each, and its error."""
    return _by_place(
        lambda place: np.array(errors)[np.searchsorted(ends, place)],
        lambda place: float(len(ends)) - np.searchsorted(ends, place),
    )


def _heavy_tail(count: int, rng: np.random.Generator) -> Drawn:
    logits = 1.5 + 1.2 * rng.standard_t(2, size=count)
    return _alone(logits**3, sigmoid(np.clip(logits, -6, 6)), rng)


def _missing(count: int, rng: np.random.Generator) -> Drawn:
    whole = _logit(1.8, 1.5)(count, rng)
    return Drawn(np.where(rng.random(count) < 0.3, np.nan, whole.scores), whole.probs, whole.right)


def _grouped(whole: Draw, sizes: Callable[[int, np.random.Generator], Ints], *, shared: float, named: bool) -> Draw:
    """Rows in groups, each of which shares one fate with this probability."""

    def draw(count: int, rng: np.random.Generator) -> Drawn:
        clusters = np.repeat(np.arange(count), sizes(count, rng))[:count]
        rows = whole(count, rng)
        fate, shares = rng.random(count)[clusters], (rng.random(count) < shared)[clusters]
        right = np.where(shares, fate, rng.random(count)) < rows.probs
        order = rng.permutation(count)
        return Drawn(
            rows.scores[order],
            rows.probs[order],
            right[order].astype(np.int64),
            clusters[order].astype(np.int64) if named else None,
        )

    return draw


def _rare_heavy(count: int, rng: np.random.Generator) -> Drawn:
    """One group in fifty has forty rows, a third of which are wrong together: more than 5 % of all rows."""
    heavy = rng.random(count) < 0.02
    clusters = np.repeat(np.arange(count), np.where(heavy, 40, 5))[:count]
    probs = np.where(heavy, 0.6, 1.0)[clusters]
    right = rng.random(count)[clusters] < probs
    order = rng.permutation(count)
    return Drawn(rng.random(count), probs[order], right[order].astype(np.int64), clusters[order])


def _weighted(whole: Draw, error: float | None = None) -> Draw:
    """Weights of one to five; where an error is given the heavier half has it."""

    def draw(count: int, rng: np.random.Generator) -> Drawn:
        rows, weights = whole(count, rng), rng.uniform(1, 5, size=count)
        probs = rows.probs if error is None else np.where(weights > 3, 1 - error, rows.probs)
        return Drawn(rows.scores, probs, (rng.random(count) < probs).astype(np.int64), None, weights / weights.mean())

    return draw


def _noisy(count: int, rng: np.random.Generator) -> Drawn:
    """Three in ten of the wrong rows are called right."""
    whole = _logit(1.8, 1.5)(count, rng)
    return Drawn(whole.scores, whole.probs, np.where(rng.random(count) < 0.3, 1, whole.right))


def _flat(error: float) -> Draw:
    return _by_place(lambda place: np.full(len(place), error))


_USUAL = _logit(1.8, 1.5)
#: A judge of whole grades: 70 of 300 rows at 9 and above, hardly one wrong; of the next 55 rows six.
INTEGERS = {
    "grades: pure 9 and above": _grades((0.09, 0.233, 0.42, 0.6, 0.8, 1.0), (0.005, 0.005, 0.11, 0.2, 0.4, 0.6)),
    "grades: rising error": _grades((0.06, 0.16, 0.3, 0.5, 0.75, 1.0), (0.01, 0.02, 0.05, 0.12, 0.3, 0.6)),
    "grades: pure 10": _grades((0.25, 0.5, 0.7, 1.0), (0.005, 0.1, 0.3, 0.6)),
    "usual, 1 to 10": _logit(1.8, 1.5, _of_ten),
    "sharp, 1 to 10": _logit(4.0, 2.0, _of_ten),
}
FAMILIES: dict[str, Draw] = {
    "sharp": _logit(4.0, 2.0),
    "usual": _USUAL,
    "weak": _logit(0.8, 1.5),
    **INTEGERS,
    "grades: 5.1 % at the top": _grades((0.1, 0.25, 0.5, 1.0), (0.051, 0.051, 0.1, 0.3)),
    "half at 1, 3 % wrong": _saturated(0.03),
    "half at 1, 5.5 % wrong": _saturated(0.055),
    "overconfident top": _by_place(lambda place: np.where(place < 0.03, 0.35, 0.01 + 0.08 * place**2)),
    "heavy tail": _heavy_tail,
    "three modes": _by_place(lambda place: 0.01 + 0.03 * (np.abs((3 * place) % 1 - 0.5) < 0.25) + 0.1 * (place > 0.7)),
    "U-shaped": _by_place(lambda place: 0.4 - 1.5 * (place - 0.5) ** 2),
    "flat 5.1 %": _flat(0.051),
    "flat 6 %": _flat(0.06),
    "cliff": _by_place(lambda place: np.where(place < 0.17, 0.03, 0.0546)),
    "inverted": _logit(1.8, 1.5, lambda logits: 1 - sigmoid(logits)),
    "missing 30 %": _missing,
    "groups of 6": _grouped(_USUAL, lambda count, rng: rng.geometric(1 / 6, size=count), shared=0.5, named=True),
    "groups of 10, 5.2 %": _grouped(_flat(0.052), lambda count, rng: np.full(count, 10), shared=1.0, named=True),
    "weights": _weighted(_USUAL),
    "weights, 5.2 %": _weighted(_flat(0.052)),
    "weights, heavy rows 8 %": _weighted(_flat(0.03), 0.08),
}
#: Faults that no procedure can see in the rows: their promises are reported and not counted.
UNSEEN: dict[str, Draw] = {
    "runs of 5, no group column": _grouped(_flat(0.06), lambda count, rng: np.full(count, 5), shared=1.0, named=False),
    "wrong labels": _noisy,
    "rare heavy groups": _rare_heavy,
}


def before(rows: Rows, max_error: float, level: float) -> float | None:
    """The threshold by the former start: a tenth of the rows, and from 300 rows on 100 in place of 65."""
    start = first_rank(max_error, level, errors=1)
    if rows.size < 3 * start:
        start = first_rank(max_error, level)
    ranks = rows.ranks(max(start, int(0.1 * rows.size)))
    passed = np.append(upper_bound(*rows.counts(ranks), level) <= max_error if len(ranks) else [], False)
    number = int(np.argmin(passed))
    return float(rows.scores[ranks[number - 1] - 1]) if number else None


def ours(rows: Rows, max_error: float, level: float) -> float | None:
    found = accepted_within(rows, max_error, level)
    return None if found is None else found.threshold


RULES = (ours, before)


def family_cell(cell: tuple[str, int], repeats: int) -> list[Floats]:
    """For each rule the shares of broken promises, of rows accepted, and of samples with a promise."""
    name, count = cell
    draw, rng = (FAMILIES | UNSEEN)[name], np.random.default_rng([count, len(name)])
    truths = {higher: Truth(draw, higher=higher) for higher in (True, False)}
    found = np.zeros((len(RULES), 3))
    for _ in range(repeats):
        drawn = draw(count, rng)
        rank = rank_score(Evidence(drawn.scores, drawn.right, None, np.ones(count)))
        promising = _Promising(
            drawn.scores, drawn.right == 0, 1 - drawn.probs, drawn.clusters, drawn.weights, higher=rank >= 0
        )
        level, _ = _levels(promising, rank, WANTED, 0)
        rows, _ = promising.of(slice(None))
        for place, rule in enumerate(RULES):
            if (threshold := rule(rows, WANTED.error, level)) is not None:
                error, share = truths[rank >= 0].at(threshold)
                found[place] += error > WANTED.error, share, 1
    return list(found / repeats)


def families(repeats: int) -> Iterator[str]:
    """Broken promises and accepted rows of every family, by the rule and by the start that was."""
    yield from _table([(name, count) for name in FAMILIES | UNSEEN for count in SIZES], repeats)


def integers(repeats: int) -> Iterator[str]:
    """Judges of whole grades at 300 and 2,000 rows, and on the way."""
    counts = (200, 250, 279, 280, 299, 300, 350, 400, 600, 1000, 2000, 4000)
    yield from _table([(name, count) for name in INTEGERS for count in counts], repeats)


def _table(cells: list[tuple[str, int]], repeats: int) -> Iterator[str]:
    yield "| judge | n | broken, % | accepted | with a promise | before: broken, % | accepted | with a promise |"
    yield "|---|---|---|---|---|---|---|---|"
    counted = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for (name, count), found in zip(cells, pool.map(partial(family_cell, repeats=repeats), cells), strict=True):
            figures = " | ".join(f"{100 * broken:.1f} | {share:.3f} | {made:.2f}" for broken, share, made in found)
            yield f"| {name} | {count} | {figures} |"
            if name not in UNSEEN:
                counted.append(np.array(found))
    (worst, *_), (worst_before, *_) = np.max(counted, axis=0)
    (broken, share, _), (broken_before, share_before, _) = np.mean(counted, axis=0)
    yield f"\n{repeats} draws: broken at most {100 * worst:.1f} % of a cell, {100 * broken:.2f} %; accepted {share:.3f}"
    yield f"before: at most {100 * worst_before:.1f} %, {100 * broken_before:.2f} %; {share_before:.3f}"
