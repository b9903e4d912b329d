"""Metrics by slice (device, site, age …): accuracy and calibration of parts of the rows.

Every slice is tested for miscalibration and for a lower accuracy than the rest. All p-values are corrected together
by Holm's procedure.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.contract.figures import SliceRow, SliceTable
from fedlas.metrics._checks import Floats, Ints, check_count, check_groups, check_level, check_rows
from fedlas.metrics.bootstrap import paired_bootstrap
from fedlas.metrics.per_class import chance_if_calibrated, chance_if_no_worse, gap, holm_adjusted, share
from fedlas.metrics.proper_scores import proper_rows

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
    """The `max_slices` worst slices of columns (N,) each; every slice is tested and corrected for, shown or not.

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
        _row(parts[i], confidences, scores, ids, adjusted[i], level, num_resamples, seed)
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
        found, which = np.unique(names, return_inverse=True)
        if len(found) > MAX_VALUES:
            skipped.append(str(column))
            continue
        parts += [(str(column), str(name), which == i) for i, name in enumerate(found)]
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


def _row(
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
