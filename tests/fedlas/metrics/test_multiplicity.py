"""Holm's procedure by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas import metrics
from fedlas.metrics.multiplicity import holm


def test_holm_by_hand() -> None:
    """Sorted, multiplied, never falling, at most 1; tests that were not made cost nothing."""
    adjusted = metrics.holm_adjusted([0.04, 0.001, np.nan, 0.03])
    assert adjusted[[0, 1, 3]] == pytest.approx([0.06, 0.003, 0.06])
    assert np.isnan(adjusted[2])
    with pytest.raises(ValueError, match="p_values must be"):
        metrics.holm_adjusted([1.5])


def test_holm_is_holm() -> None:
    """The smallest p-value is tested at level / m and a failure stops everything after it."""
    assert holm([0.02, 0.04], 0.05) == ([0.025, 0.05], [True, True])
    assert holm([0.03, 0.001], 0.05) == ([0.05, 0.025], [True, True])
    assert holm([0.03, 0.04], 0.05)[1] == [False, False]
