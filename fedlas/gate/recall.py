"""Guards of recall at the most probable class, for those who act on that answer alone (`max_recall_drop`).

By default they are off: a better calibrated model may name a class less often (`fedlas.gate.ranking` says more). A
class with 50 test rows or more may lose the limit, or what chance takes, but never more than twice the limit. Where it
has fewer rows, its recall may not fall to nothing, and all such classes together are tested like one.

At a limit of 0.05 they stop a harmless network (8 % of its answers changed, as many for the better as for the worse)
in 4 %, 7 % and 5 % of draws with 2, 10 and 100 classes of 50 rows (100 rows a class: 4 %, 14 % and 20 %). A true loss
of 20 points in one of them is stopped in 94 %, 84 % and 56 % (from 100 rows a class on: 95 % and more), one of 10
points in 54 %, 43 % and 17 %, and from 500 rows on always.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedlas.gate.class_findings import MIN_CLASS_ROWS, Finding, decisive, groups_of
from fedlas.gate.sign_test import MOST_LEVEL, lost_answers, sign_test_level, sign_tested, with_interval
from fedlas.metrics._checks import Floats, Ints


def worst_class_recall_drop(before: Floats, after: Floats, targets: Ints, groups: Ints | None, limit: float) -> Finding:
    """The class that stops the finalist, or else the one that loses most recall (0 where none has 50 rows).

    Args:
        before, after: probabilities (N, K) of the uploaded model and of the finalist.
        targets, groups: class indices (N,), group numbers (N,).
        limit: the recall that a class may lose, from 0 to 1.
    """
    lost, counts = lost_answers(before, after, targets), np.bincount(targets, minlength=before.shape[1])
    common = np.flatnonzero(counts >= MIN_CLASS_ROWS)
    level = sign_test_level(len(common))
    found = [
        sign_tested(lost[targets == k], groups_of(groups, targets == k), level, limit, 2 * limit, int(k))
        for k in common
    ]
    worst = decisive(found, limit)
    if worst.class_index is None:
        return worst
    rows = targets == worst.class_index
    return with_interval(worst, lost[rows], groups_of(groups, rows))


def rare_classes_recall_drop(
    before: Floats, after: Floats, targets: Ints, groups: Ints | None, limit: float
) -> Finding:
    """Classes with fewer than 50 test rows: none may fall to a recall of 0, and together they may not lose.

    A single row is an accident where there are many classes, but in a binary problem it is all that is known.
    Arguments are those of `worst_class_recall_drop`; `chance` is None where a class is not found at all any more.
    """
    lost, num_classes = lost_answers(before, after, targets), before.shape[1]
    counts, hits, left = (
        np.bincount(targets[rows], minlength=num_classes)
        for rows in (slice(None), before.argmax(axis=1) == targets, after.argmax(axis=1) == targets)
    )
    rare = (counts > 0) & (counts < MIN_CLASS_ROWS)
    gone = np.where(rare & (hits >= (1 if num_classes == 2 else 2)) & (left == 0), hits, 0)
    if gone.any():
        k = int(gone.argmax())
        rows = targets == k
        found = sign_tested(lost[rows], groups_of(groups, rows), 1.0, limit, 0.0, k)
        return replace(with_interval(found, lost[rows], groups_of(groups, rows)), passed=False, chance=None)
    rows = rare[targets]
    if not rows.any():
        return Finding(True, 0.0, limit)
    index = int(np.flatnonzero(rare)[0]) if rare.sum() == 1 else None
    found = sign_tested(lost[rows], groups_of(groups, rows), MOST_LEVEL, limit, 1.0, index)
    return with_interval(found, lost[rows], groups_of(groups, rows))
