"""Metrics by class: recall, precision, calibration; with Holm's procedure and the tests of any part of the rows.

Where rows belong to groups, the exact tests of independent rows are joined by a normal test whose
draws are whole groups, and the larger p-value counts.

Metrics by slice (device, site, age …): accuracy and calibration of parts of the rows.

Every slice is tested for miscalibration and for a lower accuracy than the rest. All p-values are corrected together
by Holm's procedure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.contract.figures import ClassFigures, Estimate, SliceRow, SliceTable
from fedlas.metrics.calibration_error import top_label
from fedlas.metrics.evaluate import proper_rows
from fedlas.metrics.l2_calibration_error import L2CalibrationError
from fedlas.metrics.statistics import (
    Floats,
    Ints,
    chance_of_so_few,
    chance_of_sum,
    check_count,
    check_groups,
    check_level,
    check_rows,
    clustered_z,
    effective_rows,
    normal_cdf,
    paired_bootstrap,
    wilson,
)


def holm_adjusted(p_values: ArrayLike) -> Floats:
    """Holm's adjusted p-values (M,) (Holm 1979): those at most α are significant, with a chance of α for any false one.

    It holds for any dependence between the tests, as rows shared by several slices require. NaN marks a test
    that was not made: it stays NaN and costs nothing.

    Raises:
        ValueError: p-values that are not (M,) in [0, 1] or NaN.

    >>> holm_adjusted([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise ValueError(f"p_values must be (M,) in [0, 1] or NaN, got shape {values.shape}")
    adjusted = np.full(len(values), np.nan)
    made = np.flatnonzero(~np.isnan(values))
    order = made[np.argsort(values[made], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


def holm(p_values: Sequence[float], level: float) -> tuple[list[float], list[bool]]:
    """The level each claim is tested at and whether it is shown (Holm 1979): the smallest p first, at level / m.

    >>> holm([0.04, 0.01], 0.05)
    ([0.05, 0.025], [True, True])
    >>> holm([0.04, 0.03], 0.05)
    ([0.025, 0.025], [False, False])
    """
    levels, shown = [0.0] * len(p_values), [False] * len(p_values)
    open_still = True
    current = level / max(1, len(p_values))
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        if open_still:
            current = level / (len(p_values) - rank)
            open_still = bool(p_values[i] <= current)
        levels[i], shown[i] = current, open_still
    return levels, shown


#: Smaller parts are shown but not tested: they would only cost the others power.
MIN_ROWS = 20
#: With fewer groups the normal test of whole groups means nothing.
MIN_GROUPS = 10


def share(values: Floats, groups: Ints | None, confidence_level: float) -> Estimate | None:
    """The share of ones among values (n,) with Wilson's interval, None of nothing; rows of a group count as fewer."""
    if len(values) == 0:
        return None
    low, high = wilson(values.mean(), effective_rows(values, groups), confidence_level)
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


def gap(confidences: Floats, correct: Floats, groups: Ints | None, confidence_level: float) -> Estimate | None:
    """Mean confidence minus accuracy: positive where overconfident. The confidences are given, what is right is not."""
    right = share(correct, groups, confidence_level)
    if right is None:
        return None
    says = float(confidences.mean())
    return Estimate(value=says - right.value, low=says - right.high, high=says - right.low)


def chance_if_calibrated(confidences: Floats, correct: Floats, groups: Ints | None) -> float:
    """Two-sided p-value of so many right answers if each is right with its confidence; NaN where it is not tested."""
    if not _testable(len(correct), groups):
        return nan
    exact = chance_of_sum(confidences.clip(0, 1), round(float(correct.sum())))
    if groups is None:
        return exact
    z = clustered_z(confidences - correct, groups)
    return exact if z is None else max(exact, 2 * normal_cdf(-abs(z)))


def chance_if_no_worse(correct: Floats, inside: NDArray[np.bool_], groups: Ints | None) -> float:
    """One-sided p-value of so few right answers inside if they are as common as outside; NaN where not tested."""
    size, num_rows = int(inside.sum()), len(correct)
    if size == num_rows or not _testable(size, None if groups is None else groups[inside]):
        return nan
    exact = chance_of_so_few(round(float(correct[inside].sum())), size, round(float(correct.sum())), num_rows)
    if groups is None:
        return exact
    z = clustered_z(np.where(inside, 1 / size, -1 / (num_rows - size)) * (correct - correct.mean()), groups)
    return exact if z is None else max(exact, normal_cdf(z))


def _testable(num_rows: int, groups: Ints | None) -> bool:
    return num_rows >= MIN_ROWS and (groups is None or len(np.unique(groups)) >= MIN_GROUPS)


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
    return [
        L2CalibrationError(
            rows[:, k].clip(max=1), (labels == k).astype(np.float64), num_bins=num_bins, groups=ids
        ).estimate(level)
        for k in chosen
    ]


def class_table(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    confidence_level: float = 0.95,
    max_classes: int = 50,
) -> list[ClassFigures]:
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
) -> ClassFigures:
    of_class, said = labels == k, predicted == k
    confidences, right = rows[said, k], of_class[said].astype(np.float64)
    own, its = (None, None) if groups is None else (groups[of_class], groups[said])
    return ClassFigures(
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


#: A column with more values than this says nothing about any of them.
MAX_VALUES = 200
#: Numbers with more different values than this are cut into four parts of about equal size.
MAX_NUMBERS = 20

MISSING = "(missing)"


def slice_table(
    probs: ArrayLike,
    targets: ArrayLike,
    slices: Mapping[str, ArrayLike],
    *,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
    max_slices: int = 50,
    seed: int = 0,
) -> SliceTable:
    """The `max_slices` worst slices of columns (N,) each; every slice is tested and corrected for, listed or not.

    First come slices shown to fail, the widest gap or shortfall of accuracy first, then the others by p-value. NLL
    and Brier have bootstrap intervals, accuracy and gap Wilson's.

    Raises:
        ValueError: as `accuracy`, a column or groups that are not (N,), or an option is out of range.
    """
    rows, labels = check_rows(probs, targets)
    level, ids = check_level(confidence_level), check_groups(groups, len(rows))
    scores, confidences = proper_rows(rows, labels), rows.max(axis=1).clip(max=1)
    parts, skipped = _parts(slices, len(rows))
    p_values, gaps = _tests(parts, confidences, scores[:, 0], ids)
    adjusted = holm_adjusted(p_values.ravel()).reshape(p_values.shape)
    lowest, lowest_adjusted = (np.where(np.isnan(p), 2, p).min(axis=1, initial=2) for p in (p_values, adjusted))
    shown = lowest_adjusted <= 1 - level
    order = np.lexsort((lowest, np.where(shown, -gaps, 0), ~shown))
    table = [
        _slice_row(parts[i], confidences, scores, ids, adjusted[i], level, num_resamples, seed)
        for i in order[: check_count("max_slices", max_slices)]
    ]
    return SliceTable(num_slices=len(parts), correction="holm", skipped=skipped, rows=tuple(table))


Part = tuple[str, str, NDArray[np.bool_]]


def _parts(slices: Mapping[str, ArrayLike], num_rows: int) -> tuple[list[Part], tuple[str, ...]]:
    parts: list[Part] = []
    skipped = []
    for column, values in slices.items():
        names = slice_names(values)
        if names.shape != (num_rows,):
            raise ValueError(f"slices[{column!r}] must be ({num_rows},), one for each row, got {names.shape}")
        distinct, which = np.unique(names, return_inverse=True)
        if len(distinct) > MAX_VALUES:
            skipped.append(str(column))
            continue
        parts += [(str(column), str(name), which == i) for i, name in enumerate(distinct)]
    return parts, tuple(skipped)


def slice_names(values: ArrayLike) -> NDArray[np.str_]:
    """The name of every row's slice: its value as text, or for numbers with many values the quarter it lies in.

    >>> slice_names(["a", None, "b"]).tolist()
    ['a', '(missing)', 'b']
    >>> sorted(set(slice_names(np.arange(100.0)).tolist()))
    ['24.75 to 49.5', '49.5 to 74.25', '74.25 to 99', 'up to 24.75']
    """
    raw = np.asarray(values)
    if raw.ndim == 1 and np.issubdtype(raw.dtype, np.number):
        return _number_names(raw.astype(np.float64))
    names = [MISSING if value is None or value != value or value == "" else str(value) for value in raw.ravel()]
    return np.asarray(names, dtype=np.str_).reshape(raw.shape)


def _number_names(numbers: Floats) -> NDArray[np.str_]:
    present = ~np.isnan(numbers)
    names = np.full(len(numbers), MISSING, dtype=object)
    if len(np.unique(numbers[present])) <= MAX_NUMBERS:
        names[present] = [f"{number:g}" for number in numbers[present]]
    else:
        cuts = np.unique(np.quantile(numbers[present], [0.25, 0.5, 0.75, 1.0]))
        ends = [f"{cut:.6g}" for cut in cuts]
        labels = [f"up to {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends))]
        names[present] = [labels[i] for i in np.searchsorted(cuts, numbers[present], side="left")]
    return names.astype(np.str_)


def _tests(parts: list[Part], confidences: Floats, correct: Floats, groups: Ints | None) -> tuple[Floats, Floats]:
    """p-values (S, 2) of "miscalibrated" and "worse than the rest", and the larger of both effects (S,)."""
    p_values, effects = np.full((len(parts), 2), np.nan), np.zeros(len(parts))
    for i, (_, _, inside) in enumerate(parts):
        own = None if groups is None else groups[inside]
        p_values[i] = (
            chance_if_calibrated(confidences[inside], correct[inside], own),
            chance_if_no_worse(correct, inside, groups),
        )
        accuracy = correct[inside].mean()
        effects[i] = max(abs(confidences[inside].mean() - accuracy), correct.mean() - accuracy)
    return p_values, effects


def _slice_row(
    part: Part,
    confidences: Floats,
    scores: Floats,
    groups: Ints | None,
    adjusted: Floats,
    level: float,
    num_resamples: int,
    seed: int,
) -> SliceRow:
    column, value, inside = part
    own, says, rows = None if groups is None else groups[inside], confidences[inside], scores[inside]
    accuracy, difference = share(rows[:, 0], own, level), gap(says, rows[:, 0], own, level)
    assert accuracy is not None  # a slice has rows
    assert difference is not None
    nll, brier = (
        paired_bootstrap(values, groups=own, num_resamples=num_resamples, confidence_level=level, seed=seed)
        for values in (rows[:, 1], rows[:, 2])
    )
    miscalibrated, worse = (None if np.isnan(p) else float(p) for p in adjusted)
    return SliceRow(
        column=column,
        value=value,
        num_rows=int(inside.sum()),
        accuracy=accuracy,
        mean_confidence=float(says.mean()),
        gap=difference,
        brier=brier,
        nll=nll,
        p_miscalibrated=miscalibrated,
        p_worse=worse,
    )
