"""The sections of a deployment: decisions with and without thresholds, class priors, and guarantees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlas.contract.sections import (
    Answers,
    CoverageLevel,
    DecisionRow,
    DecisionTable,
    ErrorLevel,
    GuaranteeTable,
    PriorsSection,
)
from fedlas.deployment import Deployment, decide
from fedlas.gate.findings import groups_of
from fedlas.gate.guards import JudgedRows
from fedlas.guarantees import Guarantees, Unreachable
from fedlas.metrics.per_class import share
from fedlas.metrics.statistics import Floats, Ints
from fedlas.report.number_words import as_sentence, listed, percent

ERROR_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)
COVERAGES = (0.8, 0.9, 0.95, 0.99)


def guarantee_table(
    guarantees: Guarantees | None, probs: Floats, rows: JudgedRows, confidence_level: float
) -> GuaranteeTable | None:
    """Threshold, share answered and error found for each level; sets and coverage for each coverage."""
    if guarantees is None:
        return None
    return GuaranteeTable(
        num_rows=guarantees.num_rows,
        num_groups=guarantees.num_groups,
        delta=guarantees.delta,
        max_error=tuple(_error_level(guarantees, level, probs, rows, confidence_level) for level in ERROR_LEVELS),
        coverage=tuple(_coverage_level(guarantees, level, probs, rows, confidence_level) for level in COVERAGES),
    )


def _error_level(
    guarantees: Guarantees, level: float, probs: Floats, rows: JudgedRows, confidence_level: float
) -> ErrorLevel:
    try:
        threshold = guarantees.threshold_for(level)
    except Unreachable as reason:
        return ErrorLevel(level=level, threshold=None, reachable=reason.reachable, answered=0.0, error_rate=None)
    # Serving compares float32 confidences with the threshold.
    kept = probs.max(axis=1).astype(np.float32).astype(np.float64) >= threshold
    wrong = (probs.argmax(axis=1) != rows.targets).astype(np.float64)
    error_rate = share(wrong[kept], groups_of(rows.groups, kept), confidence_level)
    return ErrorLevel(
        level=level, threshold=threshold, reachable=None, answered=float(kept.mean()), error_rate=error_rate
    )


def _coverage_level(
    guarantees: Guarantees, level: float, probs: Floats, rows: JudgedRows, confidence_level: float
) -> CoverageLevel:
    try:
        sets = guarantees.prediction_sets(probs, level)
    except Unreachable as reason:
        return CoverageLevel(level=level, reachable=reason.reachable, mean_size=None, covered=None)
    covered = sets[np.arange(len(rows.targets)), rows.targets].astype(np.float64)
    return CoverageLevel(
        level=level,
        reachable=None,
        mean_size=float(sets.sum(axis=1).mean()),
        covered=share(covered, rows.groups, confidence_level),
    )


def allowed(table: GuaranteeTable) -> str:
    """Promises that so many guarantee rows allow, in words.

    >>> unkept = {"reachable": 0.012, "threshold": None, "answered": 0.0, "error_rate": None}
    >>> kept = {"reachable": None, "threshold": 0.8, "answered": 0.62, "error_rate": None}
    >>> levels = ErrorLevel(level=0.01, **unkept), ErrorLevel(level=0.05, **kept)
    >>> allowed(GuaranteeTable(num_rows=500, num_groups=None, delta=0.1, max_error=levels, coverage=()))
    'They allow an error rate of at most 5 % with 62 % of the rows answered; less than 1.2 % cannot be promised.'
    """
    reached = [row for row in table.max_error if row.threshold is not None]
    limits = [row.reachable for row in table.max_error if row.reachable is not None]
    kept = [f"{percent(row.level, 0)} with {percent(row.answered, 0)} of the rows answered" for row in reached]
    least = f"less than {percent(max(limits))} cannot be promised" if limits else ""
    if not kept:
        return f"{as_sentence(least)} No level in the table can be kept." if least else ""
    told = f"They allow an error rate of at most {listed(kept)}"
    return f"{told}; {least}." if least else f"{told}."


MAX_SHOWN = 50
#: Answers to a class that changed by this factor, and by so many rows, are worth a sentence.
_MUCH = 1.25
_ROWS = 10


def decision_table(
    deployment: Deployment | None,
    uploaded: Floats,
    calibrated: Floats,
    rows: JudgedRows,
    names: Sequence[str],
    confidence_level: float,
) -> DecisionTable | None:
    """Answers and recalls of every class on the test rows; probabilities (N, K) at the shares, as they are judged."""
    if deployment is None:
        return None
    kept = decide(calibrated, deployment.thresholds)
    said = {"uploaded": uploaded.argmax(axis=1), "argmax": calibrated.argmax(axis=1), "thresholds": kept}
    counts = {name: np.bincount(answers, minlength=len(names)) for name, answers in said.items()}
    # Two classes both change by as many rows, and the rare one is of interest.
    by_change = -np.abs(counts["uploaded"] - counts["argmax"]), np.bincount(rows.targets, minlength=len(names))
    shown = tuple(
        DecisionRow(
            name=names[k],
            num_rows=int((rows.targets == k).sum()),
            threshold=float(deployment.thresholds[k]),
            **{name: _answers(answers, k, rows, confidence_level) for name, answers in said.items()},
        )
        for k in np.lexsort(by_change[::-1])[:MAX_SHOWN].tolist()
    )
    return DecisionTable(
        keep="alarm_rate", num_classes=len(names), accuracy=float((kept == rows.targets).mean()), rows=shown
    )


def _answers(answers: Ints, k: int, rows: JudgedRows, confidence_level: float) -> Answers:
    of_class, said = rows.targets == k, answers == k
    recall = share(said[of_class].astype(np.float64), groups_of(rows.groups, of_class), confidence_level)
    return Answers(answered=float(said.mean()), recall=recall)


def priors_section(deployment: Deployment | None, names: Sequence[str]) -> PriorsSection | None:
    if deployment is None:
        return None
    return PriorsSection(shifted=deployment.priors.shifted, **deployment.priors.as_dict(names))


def decision_sentence(table: DecisionTable | None, num_rows: int) -> str | None:
    """The class whose answers changed most; None where none changed much."""
    if table is None:
        return None
    row = table.rows[0]
    before, after = (round(part.answered * num_rows) for part in (row.uploaded, row.argmax))
    if abs(before - after) < _ROWS or max(before, after) < _MUCH * min(before, after):
        return None
    return (
        f"At its argmax the served model answers “{row.name}” in {_percent(row.argmax.answered)} of the test rows "
        f"(recall {_recall(row.argmax)}), the uploaded one in {_percent(row.uploaded.answered)} (recall "
        f'{_recall(row.uploaded)}); decisions that keep the alarm rate (decision: {{"keep": "alarm_rate"}}) answer '
        f"it in {_percent(row.thresholds.answered)} (recall {_recall(row.thresholds)}) and leave the probabilities "
        "as they are."
    )


def priors_sentence(section: PriorsSection | None) -> str | None:
    """The priors that the answers are for, where they are not those of the calibration rows."""
    if section is None or not section.shifted:
        return None
    name = max(section.default, key=lambda name: abs(np.log(section.default[name] / section.shares[name])))
    return (
        f"The served probabilities are for the class priors of the request (“{name}” "
        f"{_percent(section.default[name])}, which {_percent(section.shares[name])} of the calibration rows are). All "
        "figures of this report are of the test rows as they are, without that shift: they hold where the classes have "
        "the shares of the dataset, and so do the promises of max_error and coverage, which are refused for "
        "other priors."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _recall(answers: Answers) -> str:
    return "unknown" if answers.recall is None else _percent(answers.recall.value)
