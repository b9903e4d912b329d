"""Caveats: what makes the figures of a report doubtful, each in a sentence that says what to check."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from fedlas.gate.guards import JudgedRows
from fedlas.metrics._checks import Ints
from fedlas.metrics.confidence_gap import SplitAccuracy
from fedlas.metrics.evaluate import Estimates
from fedlas.report.document import Evidence

#: A model of such accuracy and NLL has usually seen the rows.
ACCURACY_TOO_GOOD = 0.995
NLL_TOO_GOOD = 0.05
MIN_DOUBTED_ROWS = 200
#: Such accuracy is common where one class has nearly all rows: of the errors of always answering it, this share is
#: left at most.
ERRORS_LEFT = 0.1
#: Calibration rows that are so much easier than test rows, beyond chance, were seen or come from elsewhere.
ACCURACY_APART = 0.02
FEW_ROWS = 200
FEW_GROUPS = 30


def caveats(
    evidence: Evidence, rows: JudgedRows, names: Sequence[str], uploaded: Estimates, apart: str | None
) -> tuple[str, ...]:
    """All warnings about the test rows, given the uploaded model's metrics and what `splits_apart` says."""
    targets, accuracy, nll = rows.targets, uploaded["accuracy"].value, uploaded["nll"].value
    # What a notice has said of the test rows is not said again.
    told = {notice.code for notice in evidence.warnings if notice.evidence.get("split") == "test"}
    found = [
        _too_good(rows, accuracy, nll, evidence.seen_by_model),
        _no_better_than_guessing(targets, names, accuracy),
        apart,
        None if "class_not_met" in told else _missing_classes(targets, names),
        None if "few_groups" in told else _few(rows),
    ]
    duplicated = [
        f"{count:,} test row{'s' if count > 1 else ''} also occur{'' if count > 1 else 's'} in the split '{split}': "
        "figures on such rows are too good."
        for split, count in (evidence.duplicates or {}).items()
        if count > 0
    ]
    return (*filter(None, found), *duplicated)


def _too_good(rows: JudgedRows, accuracy: float, nll: float, seen_by_model: str | None) -> str | None:
    num_rows, guessed = len(rows.targets), float(np.bincount(rows.targets).max() / len(rows.targets))
    if seen_by_model == "unknown" or num_rows < MIN_DOUBTED_ROWS or _few_groups(rows):
        return None
    if accuracy < ACCURACY_TOO_GOOD or nll > NLL_TOO_GOOD or 1 - accuracy > ERRORS_LEFT * (1 - guessed):
        return None
    return (
        f"The uploaded model has an accuracy of {100 * accuracy:.2f} % and an NLL of {nll:.4f} on the {num_rows:,} "
        "test rows. Check that it has not seen these rows: for rows that it was trained on, nothing in this report "
        "holds."
    )


def _no_better_than_guessing(targets: Ints, names: Sequence[str], accuracy: float) -> str | None:
    counts = np.bincount(targets)
    share = float(counts.max() / len(targets))
    if accuracy > share + sqrt(share * (1 - share) / len(targets)) or share == 1:
        return None
    commonest = names[int(counts.argmax())]
    how = "not shown to be higher" if accuracy > share else "not higher"
    return (
        f"The uploaded model has an accuracy of {100 * accuracy:.1f} %, {how} than that of always answering "
        f"“{commonest}” ({100 * share:.1f} %): accuracy is no evidence that it has learned anything. The recall of "
        "each class tells more."
    )


def splits_apart(before: SplitAccuracy | None, now: SplitAccuracy) -> str | None:
    """Warning that calibration and test rows do not look alike, by the uploaded model's accuracy on them; else None."""
    if before is None or abs(before.value - now.value) < ACCURACY_APART or not before.is_apart(now):
        return None
    fell = before.value < now.value
    cause = "labels of calibration rows are wrong" if fell else "it was trained on the calibration rows"
    return (
        f"The uploaded model has an accuracy of {100 * before.value:.1f} % on the calibration rows and of "
        f"{100 * now.value:.1f} % on the test rows, more than chance explains. Check whether {cause}, and whether both "
        "splits were drawn alike (same time, same source): what was fitted on the calibration rows may "
        f"{'not hold on the test rows' if fell else 'be too confident'}."
    )


def _missing_classes(targets: Ints, names: Sequence[str]) -> str | None:
    num_classes = len(names)
    missing = np.flatnonzero(np.bincount(targets, minlength=num_classes) == 0)
    if len(missing) == 0:
        return None
    if len(missing) == num_classes - 1:
        return f"All test rows are of one class ({names[int(targets[0])]}): nothing is known about the others."
    shown = ", ".join(names[k] for k in missing[:5]) + (" …" if len(missing) > 5 else "")
    return f"{len(missing)} of {num_classes} classes have no test row, so nothing is known about them: {shown}."


def _few(rows: JudgedRows) -> str | None:
    if rows.groups is not None and _few_groups(rows):
        return (
            f"The test rows come from only {int(rows.groups.max()) + 1} groups: intervals that resample so few groups "
            "are too short."
        )
    if len(rows.targets) < FEW_ROWS:
        return f"There are only {len(rows.targets)} test rows: intervals are wide, and binned errors are mostly noise."
    return None


def _few_groups(rows: JudgedRows) -> bool:
    return rows.groups is not None and int(rows.groups.max()) + 1 < FEW_GROUPS
