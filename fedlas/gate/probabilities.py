"""Guards of each class's probability: what it says about the class against the rest, and how common it says it is.

They see what a ranking cannot: a class that is forgotten (its probability divided by a thousand) keeps its order. The
log score of one class against all others finds it, and a mean probability far from the class's share of the rows finds
what is left, a class whose odds are divided by three.

Measured by `python -m benchmarks.guards` (eight worlds of 2 to 100 classes, 2,000 test rows): score and share stop a
forgotten class in 100 and 100 % of 240 draws, odds divided by ten in 87 and 98 %, by three in 68 and 69 % (either, or
another guard: 87 %), probabilities times five in 85 and 82 %, and none of 720 finalists that beat the upload.
What they let pass is mostly a class that the upload, trained with class weights, said as wrong before.

Confident and wrong: whether the answers that a model is sure of are right as often as it says.

Answers of a confidence of 0.8 and more are the ones that are acted upon. A proper score can improve while they become
untrue: on a class-weighted forest a temperature below one made 568 answers "85 % sure" of which 27 % were right.

Measured once (benchmarks/README.md: such a forest, three seeds, 20,000 hidden rows): the temperature
says "late" with 0.8 and more 544 to 787 times, of which a bin is right in 25 to 27 %, and is stopped each time; what is
served never says so. By `python -m benchmarks.guards`: a forgotten class is stopped in 50 % of 240 draws, and none of
720 finalists that are better than the upload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.gate.findings import (
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
from fedlas.metrics.calibration_error import top_label
from fedlas.metrics.statistics import Floats, Ints, ResamplingUnits, check_groups, check_rows

#: A class's one-vs-rest log score may be worse by this share of the reference's, or by what chance takes.
MAX_LOG_SCORE_RISE = 0.05
#: A class may be said to be this many times as common, or as rare, as it is, or what three standard errors take.
MAX_SHARE_FACTOR = 1.3
SHARE_LEVEL = 0.00135
#: The factor of being worse than before: a temperature moves all shares a little, for worse as often as for better.
MIN_WORSENING = 1.2
_MIN_PROB = float(np.finfo(np.float64).tiny)
_MAX_PROB = float(np.nextafter(1.0, 0.0))


def log_score_rise(reference: Floats, after: Floats, targets: Ints, groups: Ints | None) -> Finding:
    """The largest relative rise of a class's log score against the rest; classes of less than 50 rows count as one.

    A score under 1/N, one doubtful row of all, counts as 1/N.

    Args:
        reference, after: probabilities (N, K) of the calibration that keeps every label, and of the finalist.
        targets, groups: class indices (N,), group numbers (N,).
    """
    units, num_rows = ResamplingUnits(groups, len(targets)), len(targets)
    class_rises: list[tuple[int | None, float, float]] = []
    for classes, scores, rises in _scores_and_rises(reference, after, targets):
        means, scale = rises.mean(axis=0), np.maximum(scores.mean(axis=0), 1 / num_rows)
        errors = unit_errors((rises - means) / num_rows, units) / scale
        class_rises += zip(classes, (means / scale).tolist(), errors.tolist(), strict=True)
    level, num_units = LEVEL / max(1, len(class_rises)), len(units.sizes)
    return decisive(
        [shown_excess(rise, error, MAX_LOG_SCORE_RISE, level, num_units, k) for k, rise, error in class_rises],
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
    p = probs[:, classes].clip(_MIN_PROB, _MAX_PROB)
    return -np.log(np.where(targets[:, None] == classes, p, 1 - p))


def share_error(before: Floats, after: Floats, targets: Ints, groups: Ints | None) -> Finding:
    """The largest factor between a class's mean probability and its share, where a fifth worse than before.

    Half a row is added to both, so that a class without rows has a factor. A standard error is never taken to be less
    than a calibrated model's, which counts few rows for what they are worth; and it is that of two samples, since the
    finalist learnt its shares from rows that scatter as well. `before` is the uploaded model's.
    """
    counts = np.bincount(targets, minlength=after.shape[1])
    was, now = (np.exp(np.abs(np.log((p.sum(axis=0) + 0.5) / (counts + 0.5)))) for p in (before, after))
    factors = np.where(now > MIN_WORSENING * was, now, 1.0)
    units, level = ResamplingUnits(groups, len(targets)), min(SHARE_LEVEL, LEVEL / (2 * len(counts)))

    def tested(k: int) -> Finding:
        deviations = after[:, k] - (targets == k)
        scatter = float(unit_errors((deviations - deviations.mean())[:, None], units)[0])
        error = (2 * max(scatter**2, float((after[:, k] * (1 - after[:, k])).sum()))) ** 0.5
        chance = chance_of(abs(float(deviations.sum())), error, len(units.sizes))
        passed = factors[k] <= MAX_SHARE_FACTOR or chance > level
        return Finding(bool(passed), float(factors[k]), MAX_SHARE_FACTOR, class_index=k, chance=chance)

    return decisive([tested(k) for k in worth_a_test(factors, MAX_SHARE_FACTOR)], MAX_SHARE_FACTOR)


#: An answer is confident from here on.
CONFIDENT = 0.8
#: Confident answers may be right less often than they say by so much, or by what chance takes.
MAX_GAP = 0.05


@dataclass(frozen=True)
class ConfidentAnswers:
    """Confident answers against their own confidence: the figures of all of them and of the worst class.

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
    """Confident answers judged by their gap less that of the uploaded model's (N, K; None: it does not count).

    Where the uploaded model has no such answers, or is right more often than it says, its gap counts as 0; where it has
    fewer, the gap counts for so many: an upload that is sure and wrong ten times excuses no hundred.
    """
    num_classes, now = after.shape[1], _Confident.of(after, targets)
    was = None if before is None else _Confident.of(before, targets)
    classes = np.flatnonzero(now.counts(num_classes) >= MIN_CLASS_ROWS)
    untrue = now.sums(num_classes) - (0.0 if was is None else was.excused(now, num_classes))
    excess = untrue[classes] / now.counts(num_classes)[classes]
    level = LEVEL / max(1, len(classes))
    findings = [_tested(was, now, int(classes[i]), level, groups) for i in worth_a_test(excess, MAX_GAP)]
    return ConfidentAnswers(_tested(was, now, None, LEVEL, groups), decisive(findings, MAX_GAP))


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
        """Part of `sums` above 0, (K,), that counts for at most as many answers as `after` has."""
        share = after.counts(num_classes) / np.maximum(self.counts(num_classes), 1)
        return np.maximum(self.sums(num_classes), 0) * np.minimum(share, 1)

    def gap_of(self, rows: NDArray[np.bool_]) -> tuple[float, Floats]:
        """The gap of these answers, and the influence of every row on it, (N,)."""
        if not rows.any():
            return 0.0, np.zeros(len(rows))
        gap = float(self.excess[rows].mean())
        return gap, np.where(rows, self.excess - gap, 0.0) / rows.sum()
