"""Binary metrics: scikit-learn agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from fedlas import metrics
from tests.helpers.drawn_rows import drawn_rows, rounded

Array = NDArray[Any]


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_agrees_with_scikit_learn(ties: bool) -> None:
    """Average precision is scikit-learn's with and without ties, for either class as the positive one."""
    probs, targets = drawn_rows(400, 2, seed=2)
    probs = rounded(probs) if ties else probs
    for positive in (0, 1):
        expected = average_precision_score(targets == positive, probs[:, positive])
        assert metrics.average_precision(probs, targets, positive=positive) == pytest.approx(expected, rel=1e-12)
    assert metrics.average_precision(probs, np.zeros(400, int)) is None


def test_the_calibration_line_agrees_with_scikit_learn() -> None:
    """Slope and intercept are those of unpenalised logistic regression on the log-odds."""
    probs, targets = drawn_rows(800, 2, seed=3, scale=2)
    line = metrics.calibration_line(probs, targets)
    referee = LogisticRegression(C=np.inf, tol=1e-10).fit(np.log(probs[:, 1] / probs[:, 0])[:, None], targets)
    assert line is not None
    assert line.slope.value == pytest.approx(float(referee.coef_[0, 0]), rel=1e-5)
    assert line.intercept.value == pytest.approx(float(referee.intercept_[0]), abs=1e-5)
    assert line.slope.high < 1


def test_the_calibration_lines_interval_covers() -> None:
    """For a calibrated model the 95 % intervals hold slope 1 and intercept 0 in at least 88 of 100 draws."""
    lines = [metrics.calibration_line(*drawn_rows(400, 2, seed=s)) for s in range(100)]
    assert sum(line is not None and line.slope.low <= 1 <= line.slope.high for line in lines) >= 88
    assert sum(line is not None and line.intercept.low <= 0 <= line.intercept.high for line in lines) >= 88


def test_no_line_is_invented() -> None:
    """One class only, one probability only, or perfect separation: none."""
    separated = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.0, 1.0]])
    assert metrics.calibration_line(separated, [0, 0, 1, 1]) is None
    assert metrics.calibration_line(separated, [1, 1, 1, 1]) is None
    assert metrics.calibration_line([[0.5, 0.5]] * 4, [0, 1, 0, 1]) is None


def test_missing_every_positive_is_seen() -> None:
    """With 0.3 % positives, never answering "positive" is 99.7 % accurate and has a recall of 0."""
    targets = np.zeros(2000, int)
    targets[:6] = 1
    found = metrics.positive_class(np.tile([0.997, 0.003], (2000, 1)), targets, num_resamples=50)
    assert (found.recall, found.precision, found.prevalence) == (0.0, None, 0.003)
    assert found.average_precision is not None
    assert found.average_precision.value == pytest.approx(0.003)
    assert found.ece == pytest.approx(0)
