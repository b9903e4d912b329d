"""Guards of ranking by class: no class may become harder to find among all rows.

Recall at the argmax is a decision, and a better model may move it: Platt's line under a model trained with class
weights takes alarms away from the rare class, because it was alarmed too often. What the finalist may not do is find
fewer rows of a class with *equal alarms*, or rank its rows worse. A ranking is blind to one thing: a class whose
probability is divided by a thousand keeps its order. That is what `fedlas.gate.probabilities` is for.

Measured by `python -m benchmarks.guards` (eight worlds of 2 to 100 classes, 2,000 test rows): a class said at its base
rate is stopped by recall in 100 % and by AUROC in 100 % of 240 draws, a class said with noise in 93 and 100 %, a
forgotten one in 10 and 12 %, and of 720 finalists that are better than the upload none.

Guards of recall at the most probable class, for those who act on that answer alone (`max_recall_drop`), are off by
default: a better calibrated model may name a class less often. A
class with 50 test rows or more may lose the limit, or what chance takes, but never more than twice the limit. Where it
has fewer rows, its recall may not fall to nothing, and all such classes together are tested like one.

At a limit of 0.05 they stop a harmless network (8 % of its answers changed, as many for the better as for the worse)
in 4 %, 7 % and 5 % of draws with 2, 10 and 100 classes of 50 rows (100 rows a class: 4 %, 14 % and 20 %). A true loss
of 20 points in one of them is stopped in 94 %, 84 % and 56 % (from 100 rows a class on: 95 % and more), one of 10
points in 54 %, 43 % and 17 %, and from 500 rows on always.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlas.gate.findings import (
    CHANCE_CLASSES,
    LEVEL,
    MAX_LEVEL,
    MIN_CLASS_ROWS,
    MIN_LEVEL,
    Finding,
    class_blocks,
    decisive,
    groups_of,
    judged_classes,
    lost_answers,
    shown_excess,
    sign_tested,
    unit_errors,
    with_interval,
    worth_a_test,
)
from fedlas.metrics.statistics import Floats, Ints, ResamplingUnits

#: Recall at equal alarms may drop by so much, or by what chance takes, but never by more than the second.
MAX_RECALL_DROP = 0.05
MAX_RECALL_DROP_OF_FEW_ROWS = 0.1
#: A class's one-vs-rest AUROC may drop by so much, or by what chance takes.
MAX_AUROC_DROP = 0.02


def recall_drop_at_equal_alarms(before: Floats, after: Floats, targets: Ints, groups: Ints | None) -> Finding:
    """The largest drop of a class's recall if the finalist raises as many alarms for it as the uploaded model does.

    The uploaded model's alarms for class k are the rows whose most probable class is k; the finalist's are as many
    rows, those of the highest p[k]. Rows that share the last place share the alarms that are left.

    Args:
        before, after: probabilities (N, K) of the uploaded model and of the finalist.
        targets, groups: class indices (N,), group numbers (N,).
    """
    answers, num_classes = before.argmax(axis=1), before.shape[1]
    counts, alarms = (np.bincount(values, minlength=num_classes) for values in (targets, answers))
    classes = np.flatnonzero((counts >= MIN_CLASS_ROWS) & (alarms > 0))
    level = LEVEL / max(1, len(classes))
    findings, losses = [], {}
    for k, column in class_columns(after, classes):
        rows = targets == k
        losses[k] = (answers[rows] == k) - alarm_shares(column, int(alarms[k]))[rows], groups_of(groups, rows)
        findings.append(sign_tested(*losses[k], level, MAX_RECALL_DROP, MAX_RECALL_DROP_OF_FEW_ROWS, k))
    worst = decisive(findings, MAX_RECALL_DROP)
    return worst if worst.class_index is None else with_interval(worst, *losses[worst.class_index])


def alarm_shares(scores: Floats, num_alarms: int) -> Floats:
    """1 for the `num_alarms` >= 1 highest scores (N,), else 0; equal scores at the border share what is left.

    >>> alarm_shares(np.array([0.9, 0.5, 0.5, 0.1]), 2).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    least = np.partition(scores, -num_alarms)[-num_alarms]
    above, tied = scores > least, scores == least
    return np.asarray(above + tied * ((num_alarms - above.sum()) / tied.sum()))


def auroc_drop(before: Floats, after: Floats, targets: Ints, groups: Ints | None) -> Finding:
    """The largest drop of a class's area under the one-vs-rest ROC curve; arguments as above."""
    classes, units = judged_classes(targets, before.shape[1]), ResamplingUnits(groups, len(targets))
    columns = zip(class_columns(before, classes), class_columns(after, classes), strict=True)
    drops = np.array([Roc(was, targets == k).area - Roc(now, targets == k).area for (k, was), (_, now) in columns])

    def tested(i: int) -> Finding:
        was, now = (Roc(probs[:, classes[i]], targets == classes[i]) for probs in (before, after))
        error = float(unit_errors((was.influences() - now.influences())[:, None], units)[0])
        return shown_excess(
            float(drops[i]), error, MAX_AUROC_DROP, LEVEL / len(classes), len(units.sizes), int(classes[i])
        )

    return decisive([tested(i) for i in worth_a_test(drops, MAX_AUROC_DROP)], MAX_AUROC_DROP)


class Roc:
    """The area under the ROC curve of scores (N,) for rows that are hits (N,), of which some are and some are not.

    Its standard error is DeLong's (1988), of whole groups Obuchowski's (1997), which a bootstrap tends to: both are
    the root of the summed squares of the rows' influences, how far a row's placement among the others lies off the
    mean.
    """

    def __init__(self, scores: Floats, hits: NDArray[np.bool_]) -> None:
        self._scores, self._hits, self._ones = scores, hits, np.sort(scores[hits])
        # Placed among all rows less placed among hits: so only hits are searched for.
        among_all = _placed(np.sort(scores), self._ones) - _placed(self._ones, self._ones)
        self._placements = among_all / (len(scores) - len(self._ones))
        self.area = float(self._placements.mean())

    def influences(self) -> Floats:
        """Influence of each row on the area's deviation, (N,)."""
        influences = np.empty(len(self._scores))
        ones, zeros = self._scores[self._hits], self._scores[~self._hits]
        influences[self._hits] = (self._placements[np.searchsorted(self._ones, ones)] - self.area) / len(ones)
        influences[~self._hits] = (1 - _placed(self._ones, zeros) / len(ones) - self.area) / len(zeros)
        return influences


def class_columns(probs: Floats, classes: Ints) -> Iterator[tuple[int, Floats]]:
    """Each class with its probabilities (N,), read in blocks: of many classes a single column lies scattered."""
    for block in class_blocks(classes, len(probs)):
        yield from zip(block.tolist(), np.ascontiguousarray(probs[:, block].T), strict=True)


def _placed(ordered: Floats, values: Floats) -> Floats:
    """How many of the ordered values lie below each value, equal ones counting half."""
    left, right = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (left + right) / 2


def worst_class_recall_drop(before: Floats, after: Floats, targets: Ints, groups: Ints | None, limit: float) -> Finding:
    """The class that stops the finalist, or else the one that loses most recall (0 where none has 50 rows).

    Arguments as above; `limit` is the recall that a class may lose, from 0 to 1.
    """
    lost, counts = lost_answers(before, after, targets), np.bincount(targets, minlength=before.shape[1])
    common = np.flatnonzero(counts >= MIN_CLASS_ROWS)
    # 10 % for up to five classes, less for more, and 1 % from fifty.
    level = min(MAX_LEVEL, max(MIN_LEVEL, CHANCE_CLASSES / max(1, len(common))))
    findings = [
        sign_tested(lost[targets == k], groups_of(groups, targets == k), level, limit, 2 * limit, int(k))
        for k in common
    ]
    worst = decisive(findings, limit)
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
        finding = sign_tested(lost[rows], groups_of(groups, rows), 1.0, limit, 0.0, k)
        return replace(with_interval(finding, lost[rows], groups_of(groups, rows)), passed=False, chance=None)
    rows = rare[targets]
    if not rows.any():
        return Finding(True, 0.0, limit)
    index = int(np.flatnonzero(rare)[0]) if rare.sum() == 1 else None
    finding = sign_tested(lost[rows], groups_of(groups, rows), MAX_LEVEL, limit, 1.0, index)
    return with_interval(finding, lost[rows], groups_of(groups, rows))
