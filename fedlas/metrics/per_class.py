"""Metrics by class: recall, precision, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, Ints, check_count, check_groups, check_level, check_rows
from fedlas.metrics.binning import top_label
from fedlas.metrics.bootstrap import Estimate
from fedlas.metrics.l2_calibration_error import L2CalibrationError
from fedlas.metrics.multiplicity import holm_adjusted
from fedlas.metrics.subgroups import chance_if_calibrated, gap, share


@dataclass(frozen=True)
class ClassRow:
    """One class on N rows.

    Attributes:
        num_rows, num_predicted: rows that are of the class, and rows where it is the most probable one.
        recall: share of its rows that are predicted as it; None without such rows.
        precision, mean_confidence, gap: of the rows predicted as it: share right, mean stated, their difference.
        calibration_error_l2: debiased squared error of p[k] against 1[y = k] on all rows (arXiv 1909.10155).
        brier: mean of (p[k] − 1[y = k])², which adds up to the Brier score over the classes.
        p_value, p_adjusted: of `gap` if the class were calibrated, alone and after Holm over all classes; None where
            it has too few predictions to be tested.
    """

    index: int
    num_rows: int
    num_predicted: int
    recall: Estimate | None
    precision: Estimate | None
    mean_confidence: float | None
    gap: Estimate | None
    calibration_error_l2: Estimate
    brier: float
    p_value: float | None
    p_adjusted: float | None


def class_calibration_errors(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    classes: Sequence[int] | None = None,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    confidence_level: float = 0.95,
) -> list[Estimate]:
    """Debiased squared ℓ2 error of p[k] against 1[y = k], with its interval, for each class (or those of `classes`).

    Bins of equal mass for each class; see `fedlas.metrics.l2_calibration_error` for the interval (arXiv
    1909.10155, 2408.08998).

    Raises:
        ValueError: as `accuracy`, groups that are not (N,) or fewer than two, or an option is out of range.
    """
    rows, labels = check_rows(probs, targets)
    level, ids, num_bins = check_level(confidence_level), check_groups(groups, len(rows)), check_count("bins", num_bins)
    chosen = range(rows.shape[1]) if classes is None else classes
    errors = (
        L2CalibrationError(rows[:, k].clip(max=1), (labels == k).astype(np.float64), num_bins=num_bins, groups=ids)
        for k in chosen
    )
    return [error.estimate(level) for error in errors]


def class_table(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    confidence_level: float = 0.95,
    max_classes: int = 50,
) -> list[ClassRow]:
    """The `max_classes` worst classes, worst first; all K are tested and corrected for together (Holm).

    First come classes that are shown to be miscalibrated where they are predicted, the widest gap first, then the
    others by p-value, then those that cannot be tested by their recall.

    Raises:
        ValueError: as `class_calibration_errors`.
    """
    rows, labels = check_rows(probs, targets)
    level, ids = check_level(confidence_level), check_groups(groups, len(rows))
    confidences, correct = top_label(rows, labels)
    predicted = rows.argmax(axis=1)
    p_values = np.full(rows.shape[1], np.nan)
    gaps = np.zeros(rows.shape[1])
    for k, members in _members(predicted, rows.shape[1]):
        gaps[k] = float((confidences[members] - correct[members]).mean())
        p_values[k] = chance_if_calibrated(
            confidences[members], correct[members], None if ids is None else ids[members]
        )
    adjusted = holm_adjusted(p_values)
    recalls = np.bincount(labels, correct, minlength=rows.shape[1]) / np.maximum(
        np.bincount(labels, minlength=rows.shape[1]), 1
    )
    shown = adjusted <= 1 - level
    order = np.lexsort((recalls, np.where(np.isnan(p_values), 2, p_values), np.where(shown, -np.abs(gaps), 0), ~shown))
    chosen = [int(k) for k in order[: check_count("max_classes", max_classes)]]
    errors = class_calibration_errors(
        rows, labels, classes=chosen, groups=groups, num_bins=num_bins, confidence_level=level
    )
    return [
        _row(k, rows, labels, predicted, ids, level, error, float(p_values[k]), float(adjusted[k]))
        for k, error in zip(chosen, errors, strict=True)
    ]


def _members(predicted: Ints, num_classes: int) -> list[tuple[int, Ints]]:
    """The rows predicted as each class that is predicted at all."""
    order = np.argsort(predicted, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(predicted, minlength=num_classes))[:-1])
    return [(k, members) for k, members in enumerate(parts) if len(members)]


def _row(
    k: int,
    rows: Floats,
    labels: Ints,
    predicted: Ints,
    groups: Ints | None,
    level: float,
    error: Estimate,
    p_value: float,
    adjusted: float,
) -> ClassRow:
    of_class, said = labels == k, predicted == k
    confidences, right = rows[said, k], of_class[said].astype(np.float64)
    own, its = (None, None) if groups is None else (groups[of_class], groups[said])
    return ClassRow(
        index=k,
        num_rows=int(of_class.sum()),
        num_predicted=int(said.sum()),
        recall=share(said[of_class].astype(np.float64), own, level),
        precision=share(right, its, level),
        mean_confidence=float(confidences.mean()) if len(confidences) else None,
        gap=gap(confidences, right, its, level),
        calibration_error_l2=error,
        brier=float(((rows[:, k] - of_class) ** 2).mean()),
        p_value=None if np.isnan(p_value) else p_value,
        p_adjusted=None if np.isnan(adjusted) else adjusted,
    )
