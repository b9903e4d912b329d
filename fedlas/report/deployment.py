"""The sections of a deployment: decisions with and without thresholds, and the class priors of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedlas.deployment import Deployment, decide
from fedlas.gate.non_inferiority import JudgedRows
from fedlas.metrics import Estimate
from fedlas.metrics._checks import Floats, Ints
from fedlas.metrics.subgroups import share

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
    changed = np.lexsort(by_change[::-1])
    shown = tuple(
        DecisionRow(
            names[k],
            int((rows.targets == k).sum()),
            float(deployment.thresholds[k]),
            **{name: _answers(answers, k, rows, confidence_level) for name, answers in said.items()},
        )
        for k in changed[:MAX_SHOWN].tolist()
    )
    return DecisionTable("alarm_rate", len(names), float((kept == rows.targets).mean()), shown)


def _answers(answers: Ints, k: int, rows: JudgedRows, confidence_level: float) -> Answers:
    of_class, said = rows.targets == k, answers == k
    groups = None if rows.groups is None else rows.groups[of_class]
    return Answers(float(said.mean()), share(said[of_class].astype(np.float64), groups, confidence_level))


def priors_section(deployment: Deployment | None, names: Sequence[str]) -> PriorsSection | None:
    """The priors of the served model by class name."""
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
