"""Confident and wrong: whether the answers that a model is sure of are right as often as it says.

Answers of a confidence of 0.8 and more are the ones that are acted upon. A proper score can improve while they become
untrue: on a class-weighted forest a temperature below one made 568 answers "85 % sure" of which 27 % were right.

Measured once (benchmarks/README.md: such a forest, three seeds, 20,000 hidden rows): the temperature
says "late" with 0.8 and more 544 to 787 times, of which a bin is right in 25 to 27 %, and is stopped each time; what is
served never says so. By `python -m benchmarks.guards`: a forgotten class is stopped in 50 % of 240 draws, and none of
720 finalists that are better than the upload.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.gate.class_findings import LEVEL, MIN_CLASS_ROWS, Finding, decisive, shown_excess, unit_errors, worth_a_test
from fedlas.metrics._checks import Floats, Ints, check_groups, check_rows
from fedlas.metrics.binning import top_label
from fedlas.metrics.bootstrap import ResamplingUnits

#: An answer is confident from here on.
CONFIDENT = 0.8
#: Confident answers may be right less often than they say by so much, or by what chance takes.
MAX_GAP = 0.05


@dataclass(frozen=True)
class ConfidentAnswers:
    """Whether confident answers are as true as they say, and the figures of all of them and of the worst class.

    `value` of a finding is the mean confidence minus the share that is right; it holds where there are no such answers.
    """

    overall: Finding
    worst_class: Finding

    @property
    def hold(self) -> bool:
        return self.decisive.passed

    @property
    def decisive(self) -> Finding:
        return decisive([self.overall, self.worst_class], MAX_GAP)


def confident_answers(probs: ArrayLike, targets: ArrayLike, groups: ArrayLike | None = None) -> ConfidentAnswers:
    """The answers (N, K) with a confidence of at least 0.8, all together and of each class with 50 or more of them.

    They hold where they are right less often than they say by at most 0.05, or by no more than chance explains: 1.64
    standard errors, by whole groups, and more where many classes are looked at.

    Raises:
        ValueError: as `fedlas.metrics.accuracy`, or groups that are not (N,).

    >>> answers = confident_answers([[0.9, 0.1]] * 100, [0] * 60 + [1] * 40)
    >>> answers.hold, round(answers.overall.value, 3)
    (False, 0.3)
    """
    rows, labels = check_rows(probs, targets)
    return confident_errors(None, rows, labels, check_groups(groups, len(rows)))


def confident_errors(
    before: Floats | None, after: Floats, targets: Ints, groups: Ints | None = None
) -> ConfidentAnswers:
    """The same, but what counts is the gap less that of the uploaded model's own confident answers.

    Where the uploaded model has no such answers, or is right more often than it says, its gap counts as 0; where it has
    fewer, the gap counts for so many: an upload that is sure and wrong ten times excuses no hundred.

    Args:
        before, after: probabilities (N, K) of the uploaded model (None: it does not count) and of the finalist.
        targets, groups: class indices (N,), group numbers (N,).
    """
    num_classes, now = after.shape[1], _Confident.of(after, targets)
    was = None if before is None else _Confident.of(before, targets)
    classes = np.flatnonzero(now.counts(num_classes) >= MIN_CLASS_ROWS)
    untrue = now.sums(num_classes) - (0.0 if was is None else was.excused(now, num_classes))
    excess = untrue[classes] / now.counts(num_classes)[classes]
    level = LEVEL / max(1, len(classes))
    found = [_tested(was, now, int(classes[i]), level, groups) for i in worth_a_test(excess, MAX_GAP)]
    return ConfidentAnswers(_tested(was, now, None, LEVEL, groups), decisive(found, MAX_GAP))


def _tested(was: _Confident | None, now: _Confident, k: int | None, level: float, groups: Ints | None) -> Finding:
    rows = now.of_class(k)
    if not rows.any():
        return Finding(True, 0.0, MAX_GAP)
    gap, influences = now.gap_of(rows)
    if was is not None:
        before = was.of_class(k)
        own_gap, own = was.gap_of(before)
        if own_gap > 0:
            share = min(1.0, before.sum() / rows.sum())
            gap, influences = gap - share * own_gap, influences - share * own
    units = ResamplingUnits(groups, len(rows))
    # A few answers that are all wrong, or all right, do not scatter: a calibrated model's error is the least.
    sure = now.confidences[rows]
    least = float((sure * (1 - sure)).sum()) ** 0.5 / len(sure)
    error = max(float(unit_errors(influences[:, None], units)[0]), least)
    num_units = len(sure) if groups is None else len(np.unique(groups[rows]))
    return shown_excess(gap, error, MAX_GAP, level, num_units, k)


@dataclass(frozen=True)
class _Confident:
    """Top labels, their confidences, how far each is above the truth (0 or 1), and which are confident, (N,) each."""

    classes: Ints
    confidences: Floats
    excess: Floats
    rows: NDArray[np.bool_]

    @classmethod
    def of(cls, probs: Floats, targets: Ints) -> _Confident:
        confidences, correct = top_label(probs, targets)
        sure = np.minimum(confidences, 1.0)
        return cls(probs.argmax(axis=1), sure, sure - correct, sure >= CONFIDENT)

    def of_class(self, k: int | None) -> NDArray[np.bool_]:
        return self.rows if k is None else self.rows & (self.classes == k)

    def counts(self, num_classes: int) -> Ints:
        """How many confident answers name each class, (K,)."""
        return np.bincount(self.classes[self.rows], minlength=num_classes)

    def sums(self, num_classes: int) -> Floats:
        """By how much their confidences are above the truth, (K,)."""
        sums = np.bincount(self.classes[self.rows], self.excess[self.rows], minlength=num_classes)
        return sums.astype(np.float64)

    def excused(self, after: _Confident, num_classes: int) -> Floats:
        """As much of that as counts for as many answers as `after` has at most, (K,)."""
        share = after.counts(num_classes) / np.maximum(self.counts(num_classes), 1)
        excused: Floats = np.maximum(self.sums(num_classes), 0) * np.minimum(share, 1)
        return excused

    def gap_of(self, rows: NDArray[np.bool_]) -> tuple[float, Floats]:
        """The gap of these answers, and the influence of every row on it, (N,)."""
        if not rows.any():
            return 0.0, np.zeros(len(rows))
        gap = float(self.excess[rows].mean())
        return gap, np.where(rows, self.excess - gap, 0.0) / rows.sum()
