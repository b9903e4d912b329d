"""The sections of a deployment: decisions with and without thresholds, class priors, and guarantees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedlas.deployment import Deployment, decide
from fedlas.gate.findings import groups_of
from fedlas.gate.guards import JudgedRows
from fedlas.guarantees import Guarantees, Unreachable
from fedlas.metrics import Estimate
from fedlas.metrics._checks import Floats, Ints
from fedlas.metrics.per_class import share
from fedlas.report.wording import as_sentence, listed, percent

ERROR_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)
COVERAGES = (0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class ErrorLevel:
    """A promised error rate: the threshold that keeps it, or the nearest level that one can keep (`reachable`)."""

    level: float
    threshold: float | None
    reachable: float | None
    answered: float
    error_rate: Estimate | None


@dataclass(frozen=True)
class CoverageLevel:
    """A promised coverage: mean size of the sets and the share that held the true class, or what is reachable."""

    level: float
    reachable: float | None
    mean_size: float | None
    covered: Estimate | None


@dataclass(frozen=True)
class GuaranteeTable:
    """The guarantees from `num_rows` guarantee rows, each kind failing with probability `delta` at most."""

    num_rows: int
    num_groups: int | None
    delta: float
    max_error: tuple[ErrorLevel, ...]
    coverage: tuple[CoverageLevel, ...]


def guarantee_table(
    guarantees: Guarantees | None, probs: Floats, rows: JudgedRows, confidence_level: float
) -> GuaranteeTable | None:
    """Threshold, share answered and error found for each level; sets and coverage for each coverage."""
    if guarantees is None:
        return None
    return GuaranteeTable(
        guarantees.num_rows,
        guarantees.num_groups,
        guarantees.delta,
        tuple(_error_level(guarantees, level, probs, rows, confidence_level) for level in ERROR_LEVELS),
        tuple(_coverage_level(guarantees, level, probs, rows, confidence_level) for level in COVERAGES),
    )


def _error_level(
    guarantees: Guarantees, level: float, probs: Floats, rows: JudgedRows, confidence_level: float
) -> ErrorLevel:
    try:
        threshold = guarantees.threshold_for(level)
    except Unreachable as reason:
        return ErrorLevel(level, None, reason.reachable, 0.0, None)
    # Serving compares float32 confidences with the threshold.
    kept = probs.max(axis=1).astype(np.float32).astype(np.float64) >= threshold
    wrong = (probs.argmax(axis=1) != rows.targets).astype(np.float64)
    found = share(wrong[kept], groups_of(rows.groups, kept), confidence_level)
    return ErrorLevel(level, threshold, None, float(kept.mean()), found)


def _coverage_level(
    guarantees: Guarantees, level: float, probs: Floats, rows: JudgedRows, confidence_level: float
) -> CoverageLevel:
    try:
        sets = guarantees.prediction_sets(probs, level)
    except Unreachable as reason:
        return CoverageLevel(level, reason.reachable, None, None)
    covered = sets[np.arange(len(rows.targets)), rows.targets].astype(np.float64)
    return CoverageLevel(level, None, float(sets.sum(axis=1).mean()), share(covered, rows.groups, confidence_level))


def allowed(table: GuaranteeTable) -> str:
    """Promises that so many guarantee rows allow, in words.

    >>> levels = ErrorLevel(0.01, None, 0.012, 0.0, None), ErrorLevel(0.05, 0.8, None, 0.62, None)
    >>> allowed(GuaranteeTable(500, None, 0.1, levels, ()))
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
_MUCH, _ROWS = 1.25, 10


@dataclass(frozen=True)
class Answers:
    """The share of test rows that are answered with one class, and the share of its rows among them."""

    answered: float
    recall: Estimate | None


@dataclass(frozen=True)
class DecisionRow:
    """One class: answered by the uploaded model, by the served one at its argmax, and by it with the thresholds.

    `threshold` is of a probability at the calibration rows' shares; at other default priors the file has its own.
    """

    name: str
    num_rows: int
    threshold: float
    uploaded: Answers
    argmax: Answers
    thresholds: Answers


@dataclass(frozen=True)
class DecisionTable:
    """The decisions of the served model, with thresholds that `keep` something of the uploaded one.

    Attributes:
        accuracy: of the decisions with the thresholds.
        rows: of `num_classes` classes those whose answers changed most.
    """

    keep: str
    num_classes: int
    accuracy: float
    rows: tuple[DecisionRow, ...]


@dataclass(frozen=True)
class PriorsSection:
    """Class priors by name: `shares` of the calibration rows, and the `default` of the answers.

    Attributes:
        shifted: whether they differ; the report judges at the shares all the same.
    """

    shifted: bool
    shares: Mapping[str, float]
    default: Mapping[str, float]


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
    # Of two classes both change by as many rows, and the rare one is of interest.
    by_change = -np.abs(counts["uploaded"] - counts["argmax"]), np.bincount(rows.targets, minlength=len(names))
    shown = tuple(
        DecisionRow(
            names[k],
            int((rows.targets == k).sum()),
            float(deployment.thresholds[k]),
            **{name: _answers(answers, k, rows, confidence_level) for name, answers in said.items()},
        )
        for k in np.lexsort(by_change[::-1])[:MAX_SHOWN].tolist()
    )
    return DecisionTable("alarm_rate", len(names), float((kept == rows.targets).mean()), shown)


def _answers(answers: Ints, k: int, rows: JudgedRows, confidence_level: float) -> Answers:
    of_class, said = rows.targets == k, answers == k
    recall = share(said[of_class].astype(np.float64), groups_of(rows.groups, of_class), confidence_level)
    return Answers(float(said.mean()), recall)


def priors_section(deployment: Deployment | None, names: Sequence[str]) -> PriorsSection | None:
    if deployment is None:
        return None
    return PriorsSection(deployment.priors.shifted, **deployment.priors.as_dict(names))


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
        f'{_recall(row.uploaded)}); decisions that keep the alarm rate (`decision: {{"keep": "alarm_rate"}}`) answer '
        f"it in {_percent(row.thresholds.answered)} (recall {_recall(row.thresholds)}) and leave the probabilities "
        "as they are."
    )


def priors_sentence(section: PriorsSection | None) -> str | None:
    """Which priors the answers are for, where they are not those of the calibration rows."""
    if section is None or not section.shifted:
        return None
    name = max(section.default, key=lambda name: abs(np.log(section.default[name] / section.shares[name])))
    return (
        f"The served probabilities are for the class priors that were ordered (“{name}” "
        f"{_percent(section.default[name])}, which {_percent(section.shares[name])} of the calibration rows are). All "
        "figures of this report are of the test rows as they are, without that shift: they hold where the classes have "
        "the shares of the dataset, and so do the promises of `max_error` and `coverage`, which are refused for "
        "other priors."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _recall(answers: Answers) -> str:
    return "unknown" if answers.recall is None else _percent(answers.recall.value)
