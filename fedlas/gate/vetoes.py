"""Vetoes of the test rows: a finalist gives way where test rows speak against it.

Calibration rows make the finalists, test rows only say whether they do harm. So what is served does not have to be
proven better: a few hundred rows can seldom do that, and an overconfident upload would come back unchanged. A finalist
gives way where a guard stops it, or where it is shown to be worse: than the uploaded model in NLL or in Brier score,
at half of the level each (few rows that an overconfident model gets wrong weigh so much in NLL that they hide what
wrong calibration labels did to all others), or than a temperature, which keeps every label, in NLL. A method that was
named obeys the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedlas.gate.non_inferiority import Guard, JudgedRows
from fedlas.metrics._checks import Floats
from fedlas.metrics.betting_intervals import paired_mean
from fedlas.metrics.proper_scores import Score, row_scores

#: With fewer rows, or groups of them, a mean is not normal enough for a t test.
MIN_UNITS = 30


@dataclass(frozen=True)
class Veto:
    """A finalist that gives way: a guard of that name failed, or (`worse`) it is shown to be worse than `against`.

    `value` is the figure of the guard, or the mean rise of the `score` with its one-sided p-value.
    """

    finalist: str
    reason: str
    value: float
    against: str | None = None
    p_value: float | None = None
    score: str | None = None


def find_vetoes(
    line: Sequence[str], probs: Mapping[str, Floats], rows: JudgedRows, guards: Sequence[Guard], *, level: float
) -> tuple[Veto, ...]:
    """All that speaks against the finalists in `line`, guards first.

    Args:
        probs: probabilities (N, K) by name, `uploaded` among them.
        level: of each one-sided test.
    """
    found = [Veto(guard.finalist, guard.name, guard.value) for guard in guards if not guard.passed]
    worse = (shown_worse(name, line, probs, rows, level=level) for name in line)
    return (*found, *(veto for veto in worse if veto is not None))


def shown_worse(
    name: str, line: Sequence[str], probs: Mapping[str, Floats], rows: JudgedRows, *, level: float
) -> Veto | None:
    """The veto against a finalist that is shown to be worse than another; arguments as above."""
    tested: list[tuple[str, Score]] = [("uploaded", "nll"), ("uploaded", "brier")]
    if name != "same_labels" and "same_labels" in line:
        tested.append(("same_labels", "nll"))
    for rival, score in tested:
        rise, p_value = score_rise(probs[name], probs[rival], rows, score)
        if p_value <= level:
            return Veto(name, "worse", rise, rival, p_value, score)
    return None


def score_rise(probs: Floats, rival: Floats, rows: JudgedRows, score: Score) -> tuple[float, float]:
    """The mean rise of a score over a rival's, (N, K) each, and the one-sided p-value that there is none.

    A t test of rows or of whole groups; below `MIN_UNITS` of them the betting bound, which needs no normal mean.

    >>> rows = JudgedRows(np.array([0, 1] * 20), None)
    >>> worse, better = np.full((40, 2), 0.5), np.array([[0.8, 0.2], [0.2, 0.8]] * 20)
    >>> rise, p_value = score_rise(worse, better, rows, "nll")
    >>> (round(rise, 3), p_value < 0.05, score_rise(better, better, rows, "nll"))
    (0.47, True, (0.0, 1.0))
    """
    rises = row_scores(probs, rows.targets, score=score) - row_scores(rival, rows.targets, score=score)
    mean, units = float(rises.mean()), len(rises) if rows.groups is None else int(rows.groups.max()) + 1
    if not mean > 0:
        return mean, 1.0
    if units < MIN_UNITS:
        return mean, paired_mean(probs, rival, rows.targets, score=score, groups=rows.groups).flipped().p_value()
    from scipy.special import stdtr  # loaded with the first judgement, not with the module

    residuals = rises - mean
    if rows.groups is not None:
        residuals = np.bincount(rows.groups, residuals).astype(np.float64)
    error = float(np.sqrt(np.square(residuals).sum() * units / (units - 1))) / len(rises)
    return mean, float(stdtr(units - 1, -mean / error)) if error > 0 else 0.0
