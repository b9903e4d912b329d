"""Non-inferiority guards of the gate: figures that a better score may not cost. They can only stop a promotion.

Accuracy may fall by a margin, or by what chance takes, and AURC by a margin (a point difference, with its interval
beside it); the other proper score may not be shown to be worse. No class may become harder to find
(`fedlas.gate.ranking`) or lose its probability, and confident answers may not become untrue
(`fedlas.gate.probabilities`).

Vetoes of the test rows: a finalist gives way where test rows speak against it.

Calibration rows make the finalists, test rows only say whether they do harm. So what is served does not have to be
proven better: a few hundred rows can seldom do that, and an overconfident upload would come back unchanged. A finalist
gives way where a guard stops it, or where it is shown to be worse: than the uploaded model in NLL or in Brier score,
at half of the level each (few rows that an overconfident model gets wrong weigh so much in NLL that they hide what
wrong calibration labels did to all others), or than a temperature, which keeps every label, in NLL. A method that was
named obeys the same rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedlas import metrics
from fedlas.contract.figures import Estimate
from fedlas.contract.report import GateGuard, GateVeto
from fedlas.contract.requests import GateOptions
from fedlas.gate.findings import Finding, lost_answers, sign_tested
from fedlas.gate.probabilities import confident_errors, log_score_rise, share_error
from fedlas.gate.ranking import (
    auroc_drop,
    rare_classes_recall_drop,
    recall_drop_at_equal_alarms,
    worst_class_recall_drop,
)
from fedlas.metrics.betting_intervals import BoundedMean, paired_mean
from fedlas.metrics.evaluate import Score, row_scores
from fedlas.metrics.selective import RiskCoverage
from fedlas.metrics.statistics import Floats, Ints, ResamplingUnits, percentile_interval

#: AURC of a calibrated model may be worse by this much, or by this share of the uploaded model's (point estimates): a
#: temperature moves the ranking a little too, and where AURC is 0.22 a rise of 0.005 is negligible.
MAX_AURC_RISE = 0.005
MAX_AURC_SHARE = 0.05
#: A loss of accuracy beyond the margin is excused where chance explains it, by a sign test of the answers that changed
#: at this level: on 500 rows the margin of 0.005 is two answers.
ACCURACY_LEVEL = 0.05
#: Shares of N rows are compared with a decimal limit: this keeps an exact tie on the right side.
_TIE = 1e-12

GUARD_NAMES = {
    "accuracy_drop": "loses accuracy",
    "aurc_rise": "ranks its confidences worse (AURC)",
    "recall_at_equal_alarms_drop": "finds fewer rows of one class with as many alarms for it as before",
    "class_auroc_drop": "ranks the rows of one class worse among all rows (AUROC)",
    "class_log_score_rise": "tells one class, or all rare ones, worse from the rest (log score, relative rise)",
    "class_share_error": "gets the share of one class wrong (as a factor)",
    "confident_errors": "is too sure in its answers of 80 % confidence and more, and more so than before",
    "worst_class_recall_drop": "loses recall in one class",
    "rare_classes_recall_drop": "loses recall in classes with fewer than 50 test rows",
    "nll_rise": "is significantly worse in NLL",
    "brier_rise": "is significantly worse in Brier score",
}
#: The rivals that each finalist must beat. `same_labels` is served where a guard stops the richer calibrator.
RIVALS = {
    "same_labels": ("uploaded",),
    "post_hoc": ("uploaded",),
    "trained": ("uploaded", "same_labels", "post_hoc"),
    "average": ("uploaded", "same_labels", "post_hoc"),
}


@dataclass(frozen=True)
class JudgementOptions:
    """Options of one judgement: the rule, and what draws the interval of the AURC difference, which decides nothing."""

    gate: GateOptions = field(default_factory=GateOptions)
    seed: int = 0
    num_resamples: int = 1000

    @property
    def level(self) -> float:
        return 1 - self.gate.confidence_level

    @property
    def other_score(self) -> Score:
        return "nll" if self.gate.score == "brier" else "brier"


@dataclass(frozen=True)
class JudgedRows:
    """The rows that judge: class indices (N,), and the groups (N,) that they belong to."""

    targets: Ints
    groups: Ints | None


def guard_finalist(
    finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: JudgementOptions
) -> list[GateGuard]:
    """All guards of one finalist: against the uploaded model, and the other proper score against every rival."""
    before, after = probs["uploaded"], probs[finalist]
    accuracy, interval = _accuracy(before, after, rows, options), accuracy_drop(before, after, rows, options.level)
    rises = [mean.estimate(options.level) for mean in _other_means(finalist, probs, rows, options)]
    worst = max(rises, key=lambda rise: rise.low)  # against the rival where it is worst
    return [
        GateGuard(
            name="accuracy_drop", finalist=finalist, **{**vars(accuracy), "low": interval.low, "high": interval.high}
        ),
        _aurc_rise(finalist, before, after, rows, options),
        GateGuard(
            name=f"{options.other_score}_rise",
            finalist=finalist,
            passed=worst.low <= _TIE,
            value=worst.value,
            limit=0.0,
            low=worst.low,
            high=worst.high,
        ),
        *(
            GateGuard(name=name, finalist=finalist, **vars(finding))
            for name, finding in _classes(finalist, probs, rows, options)
        ),
    ]


def is_stopped(finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: JudgementOptions) -> bool:
    """True where a guard of `guard_finalist` fails; the intervals, which take most of its time, are left out."""
    before, after = probs["uploaded"], probs[finalist]
    rise = metrics.aurc(after, rows.targets) - metrics.aurc(before, rows.targets)
    if not _accuracy(before, after, rows, options).passed or rise > _aurc_limit(before, rows) + _TIE:
        return True
    # The lower end of a rise lies above 0 exactly where the p-value is below the level.
    if any(mean.flipped().p_value() < options.level for mean in _other_means(finalist, probs, rows, options)):
        return True
    return any(not finding.passed for _, finding in _classes(finalist, probs, rows, options))


def _classes(
    finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: JudgementOptions
) -> Iterable[tuple[str, Finding]]:
    """The findings about classes by the names of their guards, with those that an option turns on."""
    before, after = probs["uploaded"], probs[finalist]
    kept = before if finalist == "same_labels" else probs.get("same_labels", before)
    judged = (after, rows.targets, rows.groups)
    findings = {
        "recall_at_equal_alarms_drop": recall_drop_at_equal_alarms(before, *judged),
        "class_log_score_rise": log_score_rise(kept, *judged),
        "class_share_error": share_error(before, *judged),
        "confident_errors": confident_errors(before, *judged).decisive,
    }
    if finalist != "same_labels":
        # With three classes and more one temperature moves the order of the rows as well, for better or worse.
        findings = {"class_auroc_drop": auroc_drop(before, *judged), **findings}
    if options.gate.max_recall_drop is not None:
        findings["worst_class_recall_drop"] = worst_class_recall_drop(before, *judged, options.gate.max_recall_drop)
        findings["rare_classes_recall_drop"] = rare_classes_recall_drop(before, *judged, options.gate.max_recall_drop)
    return findings.items()


def _accuracy(before: Floats, after: Floats, rows: JudgedRows, options: JudgementOptions) -> Finding:
    lost = lost_answers(before, after, rows.targets)
    return sign_tested(lost, rows.groups, ACCURACY_LEVEL, options.gate.max_accuracy_drop, 1.0, None)


def accuracy_drop(before: Floats, after: Floats, rows: JudgedRows, level: float) -> Estimate:
    """The loss of accuracy; only a row whose answer changed can have lost or won."""
    possible = (before.argmax(axis=1) != after.argmax(axis=1)).astype(np.float64)
    lost = lost_answers(before, after, rows.targets)
    return BoundedMean.of(lost, lower=-possible, upper=possible, groups=rows.groups).estimate(level / 2)


def _aurc_rise(finalist: str, before: Floats, after: Floats, rows: JudgedRows, options: JudgementOptions) -> GateGuard:
    curves = [RiskCoverage(probs, rows.targets) for probs in (after, before)]
    value, draws = ResamplingUnits(rows.groups, len(before)).row_draws(
        lambda counts: curves[0].areas(counts) - curves[1].areas(counts), options.num_resamples, options.seed
    )
    limit, (low, high) = _aurc_limit(before, rows), percentile_interval(draws, 1 - options.level)
    passed = bool(value <= limit + _TIE)
    return GateGuard(
        name="aurc_rise", finalist=finalist, passed=passed, value=float(value), limit=limit, low=low, high=high
    )


def _aurc_limit(before: Floats, rows: JudgedRows) -> float:
    return max(MAX_AURC_RISE, MAX_AURC_SHARE * metrics.aurc(before, rows.targets))


def _other_means(
    finalist: str, probs: Mapping[str, Floats], rows: JudgedRows, options: JudgementOptions
) -> list[BoundedMean]:
    return [
        paired_mean(probs[finalist], probs[rival], rows.targets, score=options.other_score, groups=rows.groups)
        for rival in RIVALS[finalist]
        if rival in probs
    ]


#: With fewer rows, or groups of them, a mean is not normal enough for a t test.
MIN_UNITS = 30


def find_vetoes(
    line: Sequence[str], probs: Mapping[str, Floats], rows: JudgedRows, guards: Sequence[GateGuard], *, level: float
) -> tuple[GateVeto, ...]:
    """All that speaks against the finalists in `line`, guards first; `level` is of each one-sided test."""
    vetoes = [
        GateVeto(finalist=guard.finalist, reason=guard.name, value=guard.value) for guard in guards if not guard.passed
    ]
    return (*vetoes, *filter(None, (shown_worse(name, line, probs, rows, level=level) for name in line)))


def shown_worse(
    name: str, line: Sequence[str], probs: Mapping[str, Floats], rows: JudgedRows, *, level: float
) -> GateVeto | None:
    """The veto against a finalist that is shown to be worse than another; arguments as above."""
    tested: list[tuple[str, Score]] = [("uploaded", "nll"), ("uploaded", "brier")]
    if name != "same_labels" and "same_labels" in line:
        tested.append(("same_labels", "nll"))
    for rival, score in tested:
        rise, p_value = score_rise(probs[name], probs[rival], rows, score)
        if p_value <= level:
            return GateVeto(finalist=name, reason="worse", value=rise, against=rival, p_value=p_value, score=score)
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

    residuals = rises - mean if rows.groups is None else np.bincount(rows.groups, rises - mean).astype(np.float64)
    error = float(np.sqrt(np.square(residuals).sum() * units / (units - 1))) / len(rises)
    return mean, float(stdtr(units - 1, -mean / error)) if error > 0 else 0.0
