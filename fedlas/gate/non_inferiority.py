"""Non-inferiority guards of the gate: figures that a better score may not cost. They can only stop a promotion.

Accuracy and AURC may fall by a margin (point differences, with their intervals beside them), the other proper score
may not be shown to be worse, and no class may lose recall. A class with 50 test rows or more that loses more than five
points stops a finalist unless chance explains it: a sign test of the rows that changed, at 10 % for up to five
such classes, down to 1 % from fifty. Without that test the guard stopped a harmless network (8 % of its answers
changed, as many for the better as for the worse) in 20 %, 64 % and 100 % of draws with 2, 10 and 100 classes of 50
rows; with it in 4 %, 7 % and 5 % (100 rows a class: 4 %, 14 % and 20 %). A true loss of 20
points in one of them is stopped in 94 %, 84 % and 56 % (from 100 rows a class on: 95 % and more), one of 10 points in
54 %, 43 % and 17 %, and from 500 rows on always.

Where a class has fewer rows, its recall may not fall to nothing, and all such classes together are tested like one.
The sign tests take the rows of a group as if they were independent, which makes them stop rather more than less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedlas import metrics
from fedlas.metrics._checks import Floats, Ints
from fedlas.metrics.betting_intervals import BoundedMean, paired_mean
from fedlas.metrics.bootstrap import Estimate, ResamplingUnits, percentile_interval
from fedlas.metrics.proper_scores import Score
from fedlas.metrics.selective import RiskCoverage

#: AURC of a promoted model may be worse by this much, or by this share of the uploaded model's (point estimates): a
#: temperature moves the ranking a little too, and where AURC is 0.22 a rise of 0.005 is negligible.
MAX_AURC_RISE, MAX_AURC_SHARE = 0.005, 0.05
#: No class with at least so many test rows may lose more recall than this.
MIN_CLASS_ROWS, MAX_RECALL_DROP = 50, 0.05
#: A larger loss is never excused by chance in such a class.
MOST_RECALL_DROP = 0.1
#: The sign test of a class: so many classes may be stopped by chance among all, and a level within these ends.
CHANCE_CLASSES, LEAST_LEVEL, MOST_LEVEL = 0.5, 0.01, 0.1

#: What a failed guard is called in a sentence.
GUARD_NAMES = {
    "accuracy_drop": "loses accuracy",
    "aurc_rise": "ranks its confidences worse (AURC)",
    "worst_class_recall_drop": "loses recall in one class",
    "rare_classes_recall_drop": "loses recall in classes with fewer than 50 test rows",
    "nll_rise": "is shown to be worse in NLL",
    "brier_rise": "is shown to be worse in Brier score",
}


#: The rivals that each finalist must beat. `same_labels` is served where a guard stops the richer calibrator.
RIVALS = {
    "same_labels": ("uploaded",),
    "parametric": ("uploaded",),
    "post_hoc": ("uploaded",),
    "trained": ("uploaded", "same_labels", "post_hoc"),
}


@dataclass(frozen=True)
class Guard:
    """One thing that a promoted finalist may not worsen beyond `limit`; the interval where there is one.

    `class_index` is the class that `value` belongs to, and `chance` the one-sided p-value of its loss.
    """

    name: str
    finalist: str
    passed: bool
    value: float
    limit: float
    low: float | None = None
    high: float | None = None
    class_index: int | None = None
    chance: float | None = None


@dataclass(frozen=True)
class GateOptions:
    """Options of one judgement: the score that decides, the level (1 − confidence), the margin, the resamples."""

    score: Score = "brier"
    level: float = 0.05
    max_accuracy_drop: float = 0.005
    seed: int = 0
    num_resamples: int = 1000


@dataclass(frozen=True)
class JudgedRows:
    """The rows that judge: class indices (N,), and the groups (N,) that they belong to."""

    targets: Ints
    groups: Ints | None


def guard_finalist(finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: GateOptions) -> list[Guard]:
    """All guards of one finalist: against the uploaded model, and the other proper score against every rival.

    Args:
        probs: probabilities (N, K) by name, `uploaded` among them.
    """
    before, after = probs["uploaded"], probs[finalist]
    accuracy = accuracy_drop(before, after, rows, options.level)
    aurc = _aurc_rise(before, after, rows, options)
    allowed = max(MAX_AURC_RISE, MAX_AURC_SHARE * metrics.aurc(before, rows.targets))
    changes = ClassChanges.of(before, after, rows.targets)
    return [
        _margin("accuracy_drop", finalist, accuracy, options.max_accuracy_drop),
        _margin("aurc_rise", finalist, aurc, allowed),
        changes.worst_class(finalist),
        changes.rare_classes(finalist),
        _other_score(finalist, probs, rows, options),
    ]


def accuracy_drop(before: Floats, after: Floats, rows: JudgedRows, level: float) -> Estimate:
    """The loss of accuracy; only a row whose answer changed can have lost or won."""
    was, now = before.argmax(axis=1), after.argmax(axis=1)
    lost = (was == rows.targets).astype(np.float64) - (now == rows.targets)
    possible = (was != now).astype(np.float64)
    return BoundedMean.of(lost, lower=-possible, upper=possible, groups=rows.groups).estimate(level / 2)


def _aurc_rise(before: Floats, after: Floats, rows: JudgedRows, options: GateOptions) -> Estimate:
    curves = [RiskCoverage(probs, rows.targets) for probs in (after, before)]
    value, draws = ResamplingUnits(rows.groups, len(before)).row_draws(
        lambda counts: curves[0].areas(counts) - curves[1].areas(counts), options.num_resamples, options.seed
    )
    return Estimate(float(value), *percentile_interval(draws, 1 - options.level))


def _margin(name: str, finalist: str, estimate: Estimate, limit: float) -> Guard:
    # Shares of N rows are compared with a decimal limit: the tiny term keeps an exact tie on the right side.
    return Guard(name, finalist, estimate.value <= limit + 1e-12, estimate.value, limit, estimate.low, estimate.high)


def _other_score(finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: GateOptions) -> Guard:
    """The rise of the other proper score against the rival where it is worst; stops where it is shown to be one."""
    other: Score = "nll" if options.score == "brier" else "brier"
    rises = [
        paired_mean(probs[finalist], probs[rival], rows.targets, score=other, groups=rows.groups).estimate(
            options.level
        )
        for rival in RIVALS[finalist]
        if rival in probs
    ]
    worst = max(rises, key=lambda rise: rise.low)
    return Guard(f"{other}_rise", finalist, worst.low <= 1e-12, worst.value, 0.0, worst.low, worst.high)


@dataclass(frozen=True)
class ClassChanges:
    """By class (K,): rows, rows that were right before, and those that the finalist lost and won."""

    counts: Ints
    hits: Ints
    lost: Ints
    won: Ints

    @classmethod
    def of(cls, before: Floats, after: Floats, targets: Ints) -> ClassChanges:
        was, now = (p.argmax(axis=1) == targets for p in (before, after))
        chosen = (np.ones(len(targets), dtype=bool), was, was & ~now, now & ~was)
        return cls(*(np.bincount(targets[rows], minlength=before.shape[1]) for rows in chosen))

    def worst_class(self, finalist: str) -> Guard:
        """The class that stops the finalist, or else the one that loses most recall (0 where none has 50 rows)."""
        common = np.flatnonzero(self.counts >= MIN_CLASS_ROWS)
        level = min(MOST_LEVEL, max(LEAST_LEVEL, CHANCE_CLASSES / max(1, len(common))))
        found = [
            self._loss("worst_class_recall_drop", finalist, [int(k)], level, most=MOST_RECALL_DROP) for k in common
        ]
        if not found:
            return Guard("worst_class_recall_drop", finalist, True, 0.0, MAX_RECALL_DROP)
        worst = max(range(len(found)), key=lambda i: (not found[i].passed, found[i].value))
        return self._with_interval(found[worst], [int(common[worst])])

    def rare_classes(self, finalist: str) -> Guard:
        """Classes with fewer than 50 test rows: none may fall to a recall of 0, and together they may not lose.

        A single row is an accident where there are many classes, but in a binary problem it is all that is known.
        """
        name = "rare_classes_recall_drop"
        rare = np.flatnonzero((self.counts > 0) & (self.counts < MIN_CLASS_ROWS))
        if len(rare) == 0:
            return Guard(name, finalist, True, 0.0, MAX_RECALL_DROP)
        least = 1 if len(self.counts) == 2 else 2
        lost_all = rare[(self.hits[rare] >= least) & (self.hits[rare] + self.won[rare] == self.lost[rare])]
        if len(lost_all):
            classes = [int(max(lost_all, key=lambda k: int(self.hits[k])))]
            stopped = replace(self._loss(name, finalist, classes, 1.0), passed=False, chance=None)
            return self._with_interval(stopped, classes)
        return self._with_interval(self._loss(name, finalist, rare.tolist(), MOST_LEVEL), rare.tolist())

    def _loss(self, name: str, finalist: str, classes: list[int], level: float, *, most: float = 1.0) -> Guard:
        rows, lost, won = (int(column[classes].sum()) for column in (self.counts, self.lost, self.won))
        drop, chance = (lost - won) / rows, chance_of_losing(lost, won)
        excused = chance > level and drop <= most + 1e-12
        passed = drop <= MAX_RECALL_DROP + 1e-12 or excused
        index = classes[0] if len(classes) == 1 else None
        return Guard(name, finalist, passed, drop, MAX_RECALL_DROP, class_index=index, chance=chance)

    def _with_interval(self, guard: Guard, classes: list[int]) -> Guard:
        rows, lost, won = (int(column[classes].sum()) for column in (self.counts, self.lost, self.won))
        change = np.repeat([1.0, -1.0, 0.0], [lost, won, rows - lost - won])
        estimate = BoundedMean.of(change, lower=-1.0, upper=1.0).estimate(0.025)
        return replace(guard, low=estimate.low, high=estimate.high)


def chance_of_losing(lost: int, won: int) -> float:
    """One-sided exact sign test (McNemar): the chance of at least so many losses if both were equally likely.

    >>> chance_of_losing(3, 0)
    0.125
    """
    from scipy.special import betainc  # loaded with the first judgement, not with the module

    return float(betainc(lost, won + 1, 0.5)) if lost else 1.0
