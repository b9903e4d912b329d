"""Bootstrap intervals: counts are resampled rows, groups stay whole, and the interval covers."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas import metrics
from fedlas.metrics import paired_bootstrap
from fedlas.metrics.bootstrap import ResamplingUnits
from fedlas.metrics.selective import RiskCoverage
from tests.helpers.drawn_rows import drawn_rows


def test_an_interval_from_counts_is_that_of_resampled_rows() -> None:
    """Means and AURC from counts equal those computed on the resampled rows themselves, ties included."""
    probs, targets = drawn_rows(60, 3, seed=3)
    probs = np.round(probs, 1) + 1e-9
    probs /= probs.sum(axis=1, keepdims=True)
    units = ResamplingUnits(None, 60)
    counts = next(iter(units.resamples(20, seed=0)))
    areas = RiskCoverage(probs, targets).areas(units.of_rows(counts))
    scores = metrics.row_scores(probs, targets, score="brier")
    means = units.means(counts, units.sums(scores[:, None]))[:, 0]
    for row, area, mean in zip(counts, areas, means, strict=True):
        held = np.repeat(np.arange(60), row)
        assert area == pytest.approx(metrics.aurc(probs[held], targets[held]), rel=1e-12)
        assert mean == pytest.approx(metrics.brier(probs[held], targets[held]), rel=1e-12)


def test_groups_are_resampled_whole() -> None:
    """Every row five times over has the interval of the rows alone if grouped, and a shorter one if not."""
    differences = np.random.default_rng(0).normal(size=200)
    alone = paired_bootstrap(differences)
    five = np.repeat(differences, 5)
    grouped = paired_bootstrap(five, groups=np.repeat([f"patient {i:03}" for i in range(200)], 5))
    ungrouped = paired_bootstrap(five)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), rel=1e-9)
    assert ungrouped.high - ungrouped.low < 0.6 * (alone.high - alone.low)


def test_paired_bootstrap_covers_the_true_mean() -> None:
    """Nominal 95 % intervals hold the true mean in about 95 % of draws."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        estimate = paired_bootstrap(rng.normal(0.3, 1, size=200), num_resamples=300, seed=seed)
        held += estimate.low <= 0.3 <= estimate.high
    assert 0.90 <= held / 300 <= 0.985
