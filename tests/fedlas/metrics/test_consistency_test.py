"""The consistency test: its statistic, its level and its power."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas import metrics
from fedlas.metrics.consistency_test import _redrawn
from fedlas.metrics.l2_calibration_error import L2CalibrationError
from tests.helpers.drawn_rows import drawn_rows


def test_the_redrawn_statistic_is_the_squared_error() -> None:
    """All draws at once give what `L2CalibrationError` gives one by one from the same draws; bins of one row too."""
    probs, _ = drawn_rows(200, 3, seed=1)
    for confidences in (probs.max(axis=1), np.append(np.full(40, 0.5), 0.99)):
        hits = (np.random.default_rng(4).random((5, len(confidences))) < confidences).astype(float)
        expected = [L2CalibrationError(confidences, row, num_bins=10).value for row in hits]
        assert _redrawn(confidences, 10, 5, 4) == pytest.approx(np.array(expected), abs=1e-12)


def test_the_calibration_test_keeps_its_level_and_finds_overconfidence() -> None:
    """Calibrated: p ≤ 0.1 in about 10 % of draws (at most 19 of 100 by chance); three times too sure: always."""
    small = [metrics.calibration_test(*drawn_rows(300, 3, seed=s), num_draws=99).p_value <= 0.1 for s in range(100)]
    assert 2 <= sum(small) <= 19
    found = [metrics.calibration_test(*drawn_rows(300, 3, seed=s, scale=3), num_draws=99).p_value for s in range(20)]
    assert max(found) == 0.01
