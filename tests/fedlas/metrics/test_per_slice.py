"""Metrics by slice: the slice that fails is named, and chance names none."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas import metrics
from fedlas.metrics.per_class import slice_names
from tests.helpers.drawn_rows import drawn_rows


def test_the_slice_that_fails_is_named_and_chance_names_none() -> None:
    """Flipped labels in one of eight slices: shown as miscalibrated and as worse; without them nothing is shown."""
    probs, targets = drawn_rows(2000, 3, seed=6)
    site = np.random.default_rng(1).choice(list("abcdefgh"), 2000)
    clean = metrics.slice_table(probs, targets, {"site": site}, num_resamples=50)
    assert all(p is None or p > 0.05 for row in clean.rows for p in (row.p_miscalibrated, row.p_worse))
    broken = np.where((site == "d") & (np.random.default_rng(2).random(2000) < 0.4), (targets + 1) % 3, targets)
    worst = metrics.slice_table(probs, broken, {"site": site}, num_resamples=50).rows[0]
    assert (worst.column, worst.value, worst.num_rows) == ("site", "d", int((site == "d").sum()))
    assert worst.p_miscalibrated is not None
    assert worst.p_worse is not None
    assert max(worst.p_miscalibrated, worst.p_worse) < 0.01


def test_slices_are_the_metrics_of_their_rows() -> None:
    """Accuracy, confidence, Brier and NLL of each slice are those of its rows alone."""
    probs, targets = drawn_rows(300, 3, seed=7)
    column = np.where(np.arange(300) % 3 == 0, "x", "y")
    for row in metrics.slice_table(probs, targets, {"c": column}, num_resamples=50).rows:
        inside = column == row.value
        for name in ("accuracy", "brier", "nll"):
            assert getattr(row, name).value == pytest.approx(getattr(metrics, name)(probs[inside], targets[inside]))
        assert row.gap.value == pytest.approx(row.mean_confidence - row.accuracy.value)


def test_chance_rarely_names_a_slice() -> None:
    """Calibrated models with ten random slices: a false alarm in about 5 % of draws or fewer (at most 9 of 60)."""
    alarms = 0
    for seed in range(60):
        probs, targets = drawn_rows(400, 3, seed=seed)
        slices = {"s": np.random.default_rng(seed).integers(0, 10, 400)}
        table = metrics.slice_table(probs, targets, slices, num_resamples=2)
        alarms += any(p is not None and p <= 0.05 for row in table.rows for p in (row.p_miscalibrated, row.p_worse))
    assert alarms <= 9


def test_columns_become_slices() -> None:
    """Missing values are a slice, few numbers stay, many numbers become quarters, names by the hundred are skipped."""
    assert slice_names(np.array([1.0, 2.0, np.nan])).tolist() == ["1", "2", "(missing)"]
    quarters, sizes = np.unique(slice_names(np.random.default_rng(0).normal(size=400)), return_counts=True)
    assert (len(quarters), sizes.tolist()) == (4, [100] * 4)
    probs, targets = drawn_rows(300, 3)
    table = metrics.slice_table(probs, targets, {"id": [f"row {i}" for i in range(300)]}, num_resamples=2)
    assert (table.skipped, table.num_slices) == (("id",), 0)
    with pytest.raises(ValueError, match=r"slices\['a'\] must be \(300,\)"):
        metrics.slice_table(probs, targets, {"a": ["x"]})
