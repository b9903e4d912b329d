"""All metrics: what they accept, what they refuse, and what they do not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlas import metrics
from tests.helpers.drawn_rows import drawn_rows

BINNED = [metrics.ece, metrics.adaptive_ece, metrics.classwise_ece]
EVERY: list[Callable[..., float]] = [
    metrics.accuracy,
    metrics.nll,
    metrics.brier,
    metrics.ece,
    metrics.adaptive_ece,
    metrics.classwise_ece,
    metrics.calibration_error_l2,
    metrics.aurc,
]
Array = NDArray[Any]


def changed(rows: Array, row: int, values: list[float]) -> Array:
    copy = rows.copy()
    copy[row] = values
    return copy


PROBS, TARGETS = np.tile([0.7, 0.2, 0.1], (6, 1)), np.array([0, 1, 2, 0, 1, 2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 60), num_bins=st.integers(1, 20))
def test_no_metric_depends_on_the_order_of_the_rows(seed: int, rows: int, num_bins: int) -> None:
    """Shuffled rows, rounded so that confidences tie, have the same metrics."""
    probs, targets = drawn_rows(rows, 3, seed=seed)
    probs = np.round(probs, 1)
    probs[:, 0] += 1 - probs.sum(axis=1)
    probs = np.abs(probs) / np.abs(probs).sum(axis=1, keepdims=True)
    order = np.random.default_rng(seed).permutation(rows)
    for metric in BINNED:
        shuffled = metric(probs[order], targets[order], num_bins=num_bins)
        assert metric(probs, targets, num_bins=num_bins) == pytest.approx(shuffled, abs=1e-12)
    assert metrics.aurc(probs, targets) == pytest.approx(metrics.aurc(probs[order], targets[order]), abs=1e-12)


@pytest.mark.parametrize("metric", EVERY)
def test_tensors_and_arrays_give_the_same_float(metric: Callable[..., float]) -> None:
    """A CPU tensor, even one with a gradient, is as good as an array; the result is a Python float."""
    probs, targets = drawn_rows(100, 4)
    value = metric(torch.from_numpy(probs).requires_grad_(), torch.from_numpy(targets))
    assert isinstance(value, float)
    assert value == metric(probs, targets)


@pytest.mark.parametrize("metric", EVERY)
@pytest.mark.parametrize(
    ("probs", "targets", "message"),
    [
        (changed(PROBS, 3, [math.nan, 0.5, 0.5]), TARGETS, "probs must be finite, got nan in row 3 of 6"),
        (changed(PROBS, 2, [1.1, -0.2, 0.1]), TARGETS, "probs must not be negative, got -0.2 in row 2 of 6"),
        (changed(PROBS, 1, [0.7, 0.2, 0.2]), TARGETS, r"probs must sum to 1 .* got 1\.\d+ in row 1 of 6"),
        (PROBS[:0], TARGETS[:0], r"probs must be \(N, K\) with N >= 1 and K >= 2, got \(0, 3\)"),
        (PROBS[:, :1], TARGETS, r"probs must be \(N, K\) .* got \(6, 1\)"),
        (PROBS[0], TARGETS, r"probs must be \(N, K\) .* got \(3,\)"),
        (PROBS, TARGETS[:5], r"targets must be 6 integer class indices, got \(5,\)"),
        (PROBS, TARGETS.astype(float), "targets must be 6 integer class indices, .* float64"),
        (PROBS, np.array([0, 1, 2, 3, 1, 2]), r"targets must lie in 0\.\.2, got 3 in row 3 of 6"),
        (PROBS, np.array([0, 1, 2, 0, 1, -1]), r"targets must lie in 0\.\.2, got -1 in row 5 of 6"),
    ],
)
def test_bad_rows_are_named(metric: Callable[..., float], probs: Array, targets: Array, message: str) -> None:
    """NaN, negative, unnormalised, empty and foreign input is a ValueError that names the row."""
    with pytest.raises(ValueError, match=message):
        metric(probs, targets)


@pytest.mark.parametrize("metric", [*BINNED, metrics.calibration_error_l2])
@pytest.mark.parametrize("num_bins", [0, -1, 2.5])
def test_a_wrong_number_of_bins_is_named(metric: Callable[..., float], num_bins: Any) -> None:
    """`num_bins` is an integer of at least 1."""
    with pytest.raises(ValueError, match="num_bins must be an integer of at least 1"):
        metric(PROBS, TARGETS, num_bins=num_bins)


@pytest.mark.parametrize("metric", EVERY)
def test_one_row_is_enough(metric: Callable[..., float]) -> None:
    """Every metric of a single row is finite."""
    assert math.isfinite(metric([[0.6, 0.4]], [0]))
