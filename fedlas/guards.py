"""The guards of the gate: what a better score may not cost. They can stop a promotion, never cause one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas import metrics
from fedlas.metrics.bootstrap import resampled_means

Floats: TypeAlias = NDArray[np.float64]
Score: TypeAlias = Literal["brier", "nll"]

#: AURC of a promoted model may be worse by this much, or by this share of the uploaded model's (point estimates): a
#: temperature moves the ranking a little too, and where AURC is 0.22 a rise of 0.005 is no loss that anybody notices.
MAX_AURC_RISE, MAX_AURC_SHARE = 0.005, 0.05
#: No class with at least so many test rows may lose more recall than this, beyond chance (sign test at this level).
MIN_CLASS_ROWS, MAX_RECALL_DROP, RECALL_LEVEL = 50, 0.05, 0.01

#: What a failed guard is called in a sentence.
GUARD_NAMES = {
    "accuracy_drop": "loses accuracy",
    "aurc_rise": "ranks its confidences worse (AURC)",
    "worst_class_recall_drop": "loses recall in one class",
    "nll_rise": "is shown to be worse in NLL",
    "brier_rise": "is shown to be worse in Brier score",
}


@dataclass(frozen=True)
class Guard:
    """One thing that a promoted finalist may not worsen beyond `limit`."""

    name: str
    finalist: str
    passed: bool
    value: float
    limit: float


def guard_finalist(
    finalist: str,
    probs: dict[str, Floats],
    targets: NDArray[np.int64],
    groups: ArrayLike | None,
    *,
    score: Score,
    max_accuracy_drop: float,
    level: float,
    seed: int,
    num_resamples: int,
) -> list[Guard]:
    """All guards of one finalist on the test rows: against the uploaded model, the other score against every rival.

    Args:
        probs: probabilities (N, K) by name, `uploaded` among them.
        score: the score that decides; the other proper score may not be shown to be worse at `level`.
    """
    before, after = probs["uploaded"], probs[finalist]
    other: Score = "nll" if score == "brier" else "brier"
    aurc_before = metrics.aurc(before, targets)
    values = (
        ("accuracy_drop", metrics.accuracy(before, targets) - metrics.accuracy(after, targets), max_accuracy_drop),
        (
            "aurc_rise",
            metrics.aurc(after, targets) - aurc_before,
            max(MAX_AURC_RISE, MAX_AURC_SHARE * aurc_before),
        ),
        ("worst_class_recall_drop", _worst_recall_drop(before, after, targets), MAX_RECALL_DROP),
        (f"{other}_rise", _shown_rise(finalist, probs, targets, groups, other, level, seed, num_resamples), 0.0),
    )
    # Shares of N rows are compared with a decimal limit: the tiny term keeps an exact tie on the right side.
    return [Guard(name, finalist, value <= limit + 1e-12, float(value), limit) for name, value, limit in values]


def _shown_rise(
    finalist: str,
    probs: dict[str, Floats],
    targets: NDArray[np.int64],
    groups: ArrayLike | None,
    score: Score,
    level: float,
    seed: int,
    num_resamples: int,
) -> float:
    """By how much the finalist is at least worse than some rival, at one-sided `level`; 0 where that is not shown."""
    rivals = [name for name in ("uploaded", "post_hoc") if name != finalist]
    rows = {name: metrics.row_scores(probs[name], targets, score=score) for name in (finalist, *rivals)}
    differences = np.stack([rows[finalist] - rows[rival] for rival in rivals], axis=1)
    draws = resampled_means(differences, groups=groups, num_resamples=num_resamples, seed=seed)
    return max(0.0, float(np.quantile(draws, level, axis=0).max()))


def _worst_recall_drop(before: Floats, after: Floats, targets: NDArray[np.int64]) -> float:
    """The largest loss of recall among the classes with enough rows whose loss is more than chance, else 0.

    Without the test of chance the guard would stop every second harmless promotion: among ten classes of 100 rows
    some class loses five points by luck alone.
    """
    counts = np.bincount(targets, minlength=before.shape[1])
    was_right, is_right = (p.argmax(axis=1) == targets for p in (before, after))
    lost = np.bincount(targets[was_right & ~is_right], minlength=len(counts))
    won = np.bincount(targets[is_right & ~was_right], minlength=len(counts))
    drops = [
        float((lost[k] - won[k]) / counts[k])
        for k in np.flatnonzero((counts >= MIN_CLASS_ROWS) & (lost > won))
        if _chance_of_losing(int(lost[k]), int(won[k])) <= RECALL_LEVEL
    ]
    return max(drops, default=0.0)


def _chance_of_losing(lost: int, won: int) -> float:
    """One-sided exact sign test (McNemar): the chance of at least so many losses if both were equally likely.

    >>> _chance_of_losing(3, 0)
    0.125
    """
    changed = lost + won
    if changed > 2000:  # the normal limit, where exact sums would grow slow
        return 0.5 * math.erfc((lost - won - 1) / math.sqrt(2 * changed))
    return float(sum(math.comb(changed, k) for k in range(lost, changed + 1)) / 2**changed)
