"""Subgroups: nothing is tested where nothing can be."""

from __future__ import annotations

import numpy as np

from fedlas.metrics.subgroups import chance_if_calibrated, chance_if_no_worse, share


def test_nothing_is_claimed_of_nothing() -> None:
    """No rows have no share; too few rows, or too few groups, have no p-value."""
    assert share(np.zeros(0), None, 0.95) is None
    assert np.isnan(chance_if_calibrated(np.full(19, 0.5), np.ones(19), None))
    assert np.isnan(chance_if_calibrated(np.full(90, 0.5), np.ones(90), np.repeat(np.arange(9), 10)))
    assert np.isnan(chance_if_no_worse(np.ones(50), np.ones(50, dtype=bool), None))
