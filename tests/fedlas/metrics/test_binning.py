"""Binning: every row falls in exactly one bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlas import metrics
from fedlas.metrics.binning import equal_mass_bins, equal_width_bins
from tests.helpers.drawn_rows import drawn_rows


def test_bins_are_closed_above() -> None:
    """Bins are (lo, hi], with 0 in the first and 1 in the last."""
    edges = np.linspace(0, 1, 11)
    assert equal_width_bins(edges, 10).tolist() == [0, *range(10)]
    assert equal_width_bins(np.nextafter(edges[1:-1], 1), 10).tolist() == list(range(1, 10))


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=1),
    num_bins=st.integers(1, 20),
)
def test_every_row_falls_in_exactly_one_bin(values: list[float], num_bins: int) -> None:
    """Each binning gives every value one bin in range, larger values no lower bin, and equal values the same."""
    array = np.array(values)
    for binning in (equal_width_bins, equal_mass_bins):
        bins = binning(array, num_bins)
        assert bins.shape == array.shape
        assert bins.min() >= 0
        assert bins.max() < num_bins
        order = np.lexsort((bins, array))
        assert (np.diff(bins[order]) >= 0).all()
        assert all(len(set(bins[array == value])) == 1 for value in values)


@pytest.mark.parametrize("num_bins", [5, 15])
def test_equal_mass_bins_hold_equally_many_rows(num_bins: int) -> None:
    """Without ties the bins differ by at most one row."""
    sizes = np.bincount(equal_mass_bins(np.random.default_rng(0).random(101), num_bins))
    assert len(sizes) == num_bins
    assert sizes.max() - sizes.min() <= 1


def test_the_reliability_curve_holds_every_row() -> None:
    """Counts add up to N, empty bins are NaN, and the curve's gaps add up to the ECE."""
    probs, targets = drawn_rows(1000, 3)
    curve = metrics.reliability_curve(probs, targets, num_bins=10)
    assert curve.edges.tolist() == np.linspace(0, 1, 11).tolist()
    assert curve.counts.sum() == 1000
    assert np.isnan(curve.accuracy[:3]).all()
    gaps = np.abs(curve.mean_confidence - curve.accuracy) * curve.counts / 1000
    assert np.nansum(gaps) == pytest.approx(metrics.ece(probs, targets, num_bins=10))
