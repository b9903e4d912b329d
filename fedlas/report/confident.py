"""The section of confident answers: those that are acted upon, and whether they are as true as they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlas.gate.guards import JudgedRows
from fedlas.gate.probabilities import CONFIDENT, confident_answers
from fedlas.metrics._checks import Floats
from fedlas.metrics.calibration_error import top_label


@dataclass(frozen=True)
class ConfidentSection:
    """The answers with a confidence of at least `threshold`; `hold`: they are not shown to be too sure.

    Where they do not hold, `excess` is the mean confidence minus the share that is right: of the answers with the class
    `worst_class`, or of all where that is None.
    """

    threshold: float
    num_rows: int
    mean_confidence: float | None
    accuracy: float | None
    hold: bool
    worst_class: str | None
    excess: float | None


def confident_section(probs: Floats, rows: JudgedRows, names: Sequence[str]) -> ConfidentSection:
    """The confident answers among probabilities (N, K), judged by themselves (`fedlas.gate.probabilities`)."""
    found = confident_answers(probs, rows.targets, rows.groups)
    confidences, correct = top_label(probs, rows.targets)
    sure = confidences >= CONFIDENT
    worst = found.decisive
    return ConfidentSection(
        CONFIDENT,
        int(sure.sum()),
        float(confidences[sure].mean()) if sure.any() else None,
        float(correct[sure].mean()) if sure.any() else None,
        found.hold,
        None if found.hold or worst.class_index is None else names[worst.class_index],
        None if found.hold else worst.value,
    )


def confident_sentence(section: ConfidentSection, num_rows: int) -> str | None:
    """How many of the answers are confident, and how often those are right."""
    if section.accuracy is None or section.mean_confidence is None:
        return None
    told = (
        f"The {section.num_rows:,} of {num_rows:,} answers with a confidence of at least {section.threshold:.0%} have "
        f"a mean confidence of {section.mean_confidence:.1%}, and {section.accuracy:.1%} of them are right"
    ).replace("%", " %")
    if section.hold or section.excess is None:
        return f"{told}."
    whose = "they" if section.worst_class is None else f"those with “{section.worst_class}”"
    return f"{told}: {whose} are too sure by {100 * section.excess:.1f} points."
