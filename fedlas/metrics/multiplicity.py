"""Multiple testing: Holm's procedure, as adjusted p-values and as levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats


def holm_adjusted(p_values: ArrayLike) -> Floats:
    """Holm's adjusted p-values (M,) (Holm 1979): those at most α are shown with a chance of any false one of at most α.

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
