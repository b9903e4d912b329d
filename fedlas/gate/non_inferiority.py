"""Non-inferiority guards of the gate: figures that a better score may not cost. They can only stop a promotion.

Accuracy may fall by a margin, or by what chance takes, and AURC by a margin (a point difference, with its interval
beside it); the other proper score may not be shown to be worse. No class may become harder to find
(`fedlas.gate.ranking`) or lose its probability (`fedlas.gate.class_probabilities`), and confident answers may not
become untrue (`fedlas.gate.confident_errors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fedlas import metrics
from fedlas.gate.class_findings import Finding
from fedlas.gate.class_probabilities import log_score_rise, share_error
from fedlas.gate.confident_errors import confident_errors
from fedlas.gate.ranking import auroc_drop, recall_drop_at_equal_alarms
from fedlas.gate.recall import rare_classes_recall_drop, worst_class_recall_drop
from fedlas.gate.sign_test import lost_answers, sign_tested
from fedlas.metrics._checks import Floats, Ints
from fedlas.metrics.betting_intervals import BoundedMean, paired_mean
from fedlas.metrics.bootstrap import Estimate, ResamplingUnits, percentile_interval
from fedlas.metrics.proper_scores import Score
from fedlas.metrics.selective import RiskCoverage

#: AURC of a promoted model may be worse by this much, or by this share of the uploaded model's (point estimates): a
#: temperature moves the ranking a little too, and where AURC is 0.22 a rise of 0.005 is negligible.
MAX_AURC_RISE, MAX_AURC_SHARE = 0.005, 0.05

#: A loss of accuracy beyond the margin is excused where chance explains it, by a sign test of the answers that changed
#: at this level: on 500 rows the margin of 0.005 is two answers.
ACCURACY_LEVEL = 0.05

#: Shares of N rows are compared with a decimal limit: this keeps an exact tie on the right side.
_TIE = 1e-12

#: What a failed guard is called in a sentence.
GUARD_NAMES = {
    "accuracy_drop": "loses accuracy",
    "aurc_rise": "ranks its confidences worse (AURC)",
    "recall_at_equal_alarms_drop": "finds fewer rows of one class with as many alarms for it as before",
    "class_auroc_drop": "ranks the rows of one class worse among all rows (AUROC)",
    "class_log_score_rise": "tells one class, or all rare ones, worse from the rest (log score, relative rise)",
    "class_share_error": "says that one class is rarer or more common than it is (as a factor)",
    "confident_errors": "is less often right than it says where it is at least 80 % sure, by more than before",
    "worst_class_recall_drop": "loses recall in one class",
    "rare_classes_recall_drop": "loses recall in classes with fewer than 50 test rows",
    "nll_rise": "is shown to be worse in NLL",
    "brier_rise": "is shown to be worse in Brier score",
}


#: The rivals that each finalist must beat. `same_labels` is served where a guard stops the richer calibrator.
RIVALS = {
    "same_labels": ("uploaded",),
    "post_hoc": ("uploaded",),
    "trained": ("uploaded", "same_labels", "post_hoc"),
    "average": ("uploaded", "same_labels", "post_hoc"),
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
    """Options of one judgement: the score that decides, the level (1 − confidence), the margins, the resamples.

    `max_recall_drop` turns on the guards of recall at the most probable class, with this limit.
    """

    score: Score = "brier"
    level: float = 0.05
    max_accuracy_drop: float = 0.005
    seed: int = 0
    num_resamples: int = 1000
    max_recall_drop: float | None = None

    @property
    def other_score(self) -> Score:
        """The proper score in which nothing is claimed."""
        return "nll" if self.score == "brier" else "brier"


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
    accuracy, interval = _accuracy(before, after, rows, options), accuracy_drop(before, after, rows, options.level)
    guards = [
        Guard("accuracy_drop", finalist, **{**vars(accuracy), "low": interval.low, "high": interval.high}),
        _aurc_rise(finalist, before, after, rows, options),
        _other_score(finalist, probs, rows, options),
    ]
    return guards + [
        Guard(name, finalist, **vars(finding)) for name, finding in _classes(finalist, probs, rows, options)
    ]


def is_stopped(finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: GateOptions) -> bool:
    """Whether a guard of `guard_finalist` fails, without the intervals, which take most of its time."""
    before, after = probs["uploaded"], probs[finalist]
    rise = metrics.aurc(after, rows.targets) - metrics.aurc(before, rows.targets)
    if not _accuracy(before, after, rows, options).passed or rise > _aurc_limit(before, rows) + _TIE:
        return True
    # The lower end of a rise lies above 0 exactly where the p-value is below the level.
    if any(mean.flipped().p_value() < options.level for mean in _other_means(finalist, probs, rows, options)):
        return True
    return any(not finding.passed for _, finding in _classes(finalist, probs, rows, options))


def _classes(
    finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: GateOptions
) -> Iterable[tuple[str, Finding]]:
    """The findings about classes by the names of their guards, with those that an option turns on."""
    found = class_findings(finalist, probs, rows)
    if options.max_recall_drop is not None:
        judged = probs["uploaded"], probs[finalist], rows.targets, rows.groups, options.max_recall_drop
        found["worst_class_recall_drop"] = worst_class_recall_drop(*judged)
        found["rare_classes_recall_drop"] = rare_classes_recall_drop(*judged)
    return found.items()


def class_findings(finalist: str, probs: Mapping[str, Floats], rows: JudgedRows) -> dict[str, Finding]:
    """The guards of classes and of confident answers, by name; the arguments are those of `guard_finalist`."""
    before, after = probs["uploaded"], probs[finalist]
    kept = before if finalist == "same_labels" else probs.get("same_labels", before)
    judged = (after, rows.targets, rows.groups)
    # With three classes and more one temperature moves the order of the rows as well, for better or worse.
    ranking = {} if finalist == "same_labels" else {"class_auroc_drop": auroc_drop(before, *judged)}
    return ranking | {
        "recall_at_equal_alarms_drop": recall_drop_at_equal_alarms(before, *judged),
        "class_log_score_rise": log_score_rise(kept, *judged),
        "class_share_error": share_error(before, *judged),
        "confident_errors": confident_errors(before, *judged).decisive,
    }


def _accuracy(before: Floats, after: Floats, rows: JudgedRows, options: GateOptions) -> Finding:
    lost = lost_answers(before, after, rows.targets)
    return sign_tested(lost, rows.groups, ACCURACY_LEVEL, options.max_accuracy_drop, 1.0, None)


def accuracy_drop(before: Floats, after: Floats, rows: JudgedRows, level: float) -> Estimate:
    """The loss of accuracy; only a row whose answer changed can have lost or won."""
    possible = (before.argmax(axis=1) != after.argmax(axis=1)).astype(np.float64)
    lost = lost_answers(before, after, rows.targets)
    return BoundedMean.of(lost, lower=-possible, upper=possible, groups=rows.groups).estimate(level / 2)


def _aurc_rise(finalist: str, before: Floats, after: Floats, rows: JudgedRows, options: GateOptions) -> Guard:
    curves = [RiskCoverage(probs, rows.targets) for probs in (after, before)]
    value, draws = ResamplingUnits(rows.groups, len(before)).row_draws(
        lambda counts: curves[0].areas(counts) - curves[1].areas(counts), options.num_resamples, options.seed
    )
    limit, interval = _aurc_limit(before, rows), percentile_interval(draws, 1 - options.level)
    return Guard("aurc_rise", finalist, bool(value <= limit + _TIE), float(value), limit, *interval)


def _aurc_limit(before: Floats, rows: JudgedRows) -> float:
    return max(MAX_AURC_RISE, MAX_AURC_SHARE * metrics.aurc(before, rows.targets))


def _other_score(finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: GateOptions) -> Guard:
    """The rise of the other proper score against the rival where it is worst; stops where it is shown to be one."""
    rises = [mean.estimate(options.level) for mean in _other_means(finalist, probs, rows, options)]
    worst = max(rises, key=lambda rise: rise.low)
    return Guard(f"{options.other_score}_rise", finalist, worst.low <= _TIE, worst.value, 0.0, worst.low, worst.high)


def _other_means(
    finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: GateOptions
) -> list[BoundedMean]:
    """The differences of the other proper score from every rival."""
    rivals = [probs[rival] for rival in RIVALS[finalist] if rival in probs]
    return [
        paired_mean(probs[finalist], rival, rows.targets, score=options.other_score, groups=rows.groups)
        for rival in rivals
    ]
