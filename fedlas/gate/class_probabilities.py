"""Guards of each class's probability: what it says about the class against the rest, and how common it says it is.

They see what a ranking cannot: a class that is forgotten (its probability divided by a thousand) keeps its order. The
log score of one class against all others finds it, and a mean probability far from the class's share of the rows finds
what is left, a class whose odds are divided by three.

Measured by `python -m benchmarks.guards` (eight worlds of 2 to 100 classes, 2,000 test rows): score and share stop a
forgotten class in 100 and 100 % of 240 draws, odds divided by ten in 87 and 98 %, by three in 68 and 69 % (either, or
another guard: 87 %), probabilities times five in 85 and 82 %, and none of 720 finalists that beat the upload.
What they let pass is mostly a class that the upload, trained with class weights, said as wrong before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedlas.gate.class_findings import (
    LEVEL,
    MIN_CLASS_ROWS,
    Finding,
    chance_of,
    class_blocks,
    decisive,
    judged_classes,
    shown_excess,
    unit_errors,
    worth_a_test,
)
from fedlas.metrics._checks import Floats, Ints
from fedlas.metrics.bootstrap import ResamplingUnits

#: A class's one-vs-rest log score may be worse by this share of the reference's, or by what chance takes.
MAX_LOG_SCORE_RISE = 0.05
#: A class may be said to be this many times as common, or as rare, as it is, or what three standard errors take.
MAX_SHARE_FACTOR, SHARE_LEVEL = 1.3, 0.00135
#: What makes it worse than before: a temperature moves all shares a little, for the worse as often as for the better.
LEAST_WORSENING = 1.2
_LEAST, _MOST = float(np.finfo(np.float64).tiny), float(np.nextafter(1.0, 0.0))


def log_score_rise(reference: Floats, after: Floats, targets: Ints, groups: Ints | None) -> Finding:
    """The largest relative rise of a class's log score against the rest; classes of less than 50 rows count as one.

    A score under 1/N, one doubtful row of all, counts as 1/N.

    Args:
        reference, after: probabilities (N, K) of the calibration that keeps every label, and of the finalist.
        targets, groups: class indices (N,), group numbers (N,).
    """
    units, num_rows = ResamplingUnits(groups, len(targets)), len(targets)
    found: list[tuple[int | None, float, float]] = []
    for classes, scores, rises in _scores_and_rises(reference, after, targets):
        means, scale = rises.mean(axis=0), np.maximum(scores.mean(axis=0), 1 / num_rows)
        errors = unit_errors((rises - means) / num_rows, units) / scale
        found += zip(classes, (means / scale).tolist(), errors.tolist(), strict=True)
    level, num_units = LEVEL / max(1, len(found)), len(units.sizes)
    return decisive(
        [shown_excess(rise, error, MAX_LOG_SCORE_RISE, level, num_units, k) for k, rise, error in found],
        MAX_LOG_SCORE_RISE,
    )


def _scores_and_rises(
    reference: Floats, after: Floats, targets: Ints
) -> Iterator[tuple[list[int | None], Floats, Floats]]:
    """The reference's scores (N, C) and their rises, class by class in blocks; last the sum of the rare classes."""
    for block in class_blocks(judged_classes(targets, after.shape[1]), len(targets)):
        scores = one_vs_rest_log_scores(reference, targets, block)
        yield list(block.tolist()), scores, one_vs_rest_log_scores(after, targets, block) - scores
    counts = np.bincount(targets, minlength=after.shape[1])
    rare = np.flatnonzero((counts > 0) & (counts < MIN_CLASS_ROWS))
    if len(rare) and after.shape[1] > 2:
        sums = np.zeros((2, len(targets)))
        for block in class_blocks(rare, len(targets)):
            sums += [one_vs_rest_log_scores(probs, targets, block).sum(axis=1) for probs in (reference, after)]
        yield [None], sums[0][:, None], (sums[1] - sums[0])[:, None]


def one_vs_rest_log_scores(probs: Floats, targets: Ints, classes: Ints) -> Floats:
    """−log p[k] of the rows of class k, −log(1 − p[k]) of all others, (N, C), in nats.

    >>> one_vs_rest_log_scores(np.array([[0.5, 0.3, 0.2]]), np.array([0]), np.array([0, 2])).round(3).tolist()
    [[0.693, 0.223]]
    """
    p = probs[:, classes].clip(_LEAST, _MOST)
    scores: Floats = -np.log(np.where(targets[:, None] == classes, p, 1 - p))
    return scores


def share_error(before: Floats, after: Floats, targets: Ints, groups: Ints | None) -> Finding:
    """The largest factor between a class's mean probability and its share, where a fifth worse than before.

    Half a row is added to both, so that a class without rows has a factor. A standard error is never taken to be less
    than a calibrated model's, which counts few rows for what they are worth; and it is that of two samples, since the
    finalist learnt its shares from rows that scatter as well.

    Args:
        before, after: probabilities (N, K) of the uploaded model and of the finalist.
        targets, groups: class indices (N,), group numbers (N,).
    """
    counts = np.bincount(targets, minlength=after.shape[1])
    was, now = (_factors(probs.sum(axis=0), counts) for probs in (before, after))
    factors = np.where(now > LEAST_WORSENING * was, now, 1.0)
    units, level = ResamplingUnits(groups, len(targets)), min(SHARE_LEVEL, LEVEL / (2 * len(counts)))

    def tested(k: int) -> Finding:
        deviations = after[:, k] - (targets == k)
        scatter = float(unit_errors((deviations - deviations.mean())[:, None], units)[0])
        error = (2 * max(scatter**2, float((after[:, k] * (1 - after[:, k])).sum()))) ** 0.5
        chance = chance_of(abs(float(deviations.sum())), error, len(units.sizes))
        passed = factors[k] <= MAX_SHARE_FACTOR or chance > level
        return Finding(bool(passed), float(factors[k]), MAX_SHARE_FACTOR, class_index=k, chance=chance)

    return decisive([tested(k) for k in worth_a_test(factors, MAX_SHARE_FACTOR)], MAX_SHARE_FACTOR)


def _factors(expected: Floats, counts: Ints) -> Floats:
    factors: Floats = np.exp(np.abs(np.log((expected + 0.5) / (counts + 0.5))))
    return factors
