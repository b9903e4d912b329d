"""The metrics against the authors' numbers where these are sane, scikit-learn, torchmetrics, and cases done by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from fedlas import metrics
from fedlas.metrics.binning import equal_mass_bins, equal_width_bins

VECTORS = np.load(Path(__file__).parents[2] / "data" / "fedlas_vectors.npz")
CASES = sorted({key.split("/")[1] for key in VECTORS.files if key.startswith("metrics/")})
# The authors' values that show their flaws, see tests/data/NOTICE.md.
FLAWED_CLASSWISE = {
    "conf_exactly_one",
    "all_wrong",
    "one_sample",
    "highest_class_absent",
    "on_bin_edges_f64",
}

Array = NDArray[Any]
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
BINNED = [metrics.ece, metrics.adaptive_ece, metrics.classwise_ece]


def reference(case: str) -> tuple[torch.Tensor, Array, dict[str, float]]:
    logits = torch.from_numpy(VECTORS[f"metrics/{case}/logits"])
    values = {name: float(VECTORS[f"metrics/{case}/{name}"]) for name in ("ece", "adaece", "cwece")}
    return logits.softmax(dim=1), VECTORS[f"metrics/{case}/targets"], values


def draw(rows: int, classes: int, *, seed: int = 0, sharpness: float = 2.0) -> tuple[Array, Array]:
    """Probabilities, and labels drawn from them: a perfectly calibrated classifier."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(rows, classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs, (rng.random((rows, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)


@pytest.mark.parametrize("case", [case for case in CASES if case != "on_bin_edges_f32"])
def test_ece_agrees_with_the_authors_code(case: str) -> None:
    """ECE has the authors' value wherever that is sane."""
    probs, targets, values = reference(case)
    assert metrics.ece(probs, targets) == pytest.approx(values["ece"], abs=2e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case not in FLAWED_CLASSWISE])
def test_classwise_ece_agrees_with_the_authors_code(case: str) -> None:
    """Classwise ECE has the authors' value wherever that is sane."""
    probs, targets, values = reference(case)
    assert metrics.classwise_ece(probs, targets) == pytest.approx(values["cwece"], abs=2e-6)


def test_adaptive_ece_agrees_with_the_authors_code_where_nothing_ties() -> None:
    """A perfect classifier has the authors' adaptive ECE, their only sane case."""
    probs, targets, values = reference("perfect")
    assert metrics.adaptive_ece(probs, targets) == pytest.approx(values["adaece"], abs=1e-6)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_agrees_with_torchmetrics(num_bins: int) -> None:
    """On confidences away from the bin edges ECE is torchmetrics' l1 calibration error."""
    probs, targets = draw(3000, 7)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(targets), num_classes=7, n_bins=num_bins, norm="l1"
    )
    assert metrics.ece(probs, targets, num_bins=num_bins) == pytest.approx(theirs.item(), abs=1e-6)


def test_proper_scores_agree_with_scikit_learn() -> None:
    """NLL is `log_loss`, Brier summed over classes is the multiclass `brier_score_loss` (unscaled)."""
    probs, targets = draw(500, 4)
    labels = np.arange(4)
    assert metrics.nll(probs, targets) == pytest.approx(log_loss(targets, probs, labels=labels), rel=1e-12)
    theirs = brier_score_loss(targets, probs, labels=labels, scale_by_half=False)
    assert metrics.brier(probs, targets) == pytest.approx(theirs, rel=1e-12)
    assert metrics.row_scores(probs, targets, score="nll").mean() == metrics.nll(probs, targets)
    assert metrics.row_scores(probs, targets, score="brier").mean() == metrics.brier(probs, targets)


def test_adaptive_ece_keeps_rows_tied_with_the_lowest_confidence() -> None:
    """All wrong at confidence 1 is an error of 1, not of 0."""
    probs = np.tile([1.0, 0.0], (20, 1))
    for metric in (*BINNED, metrics.calibration_error_l2):
        assert metric(probs, np.ones(20, dtype=int)) == pytest.approx(1.0)


def test_adaptive_ece_by_hand() -> None:
    """Two bins of two rows: |0.65 − 0.5|/2 + |0.85 − 1|/2."""
    confidences = np.array([0.6, 0.9, 0.7, 0.8])
    targets = np.array([1, 0, 0, 0])
    probs = np.stack([confidences, 1 - confidences], axis=1)
    assert metrics.adaptive_ece(probs, targets, num_bins=2) == pytest.approx(0.15)


def test_classwise_ece_counts_classes_without_a_label() -> None:
    """A class that never occurs still counts: (0.3 + 0 + 0.3)/3 where 0.3 goes to a class that is never right."""
    probs = np.tile([0.7, 0.0, 0.3], (10, 1))
    assert metrics.classwise_ece(probs, np.zeros(10, dtype=int)) == pytest.approx(0.6 / 3)


@pytest.mark.parametrize("metric", BINNED)
def test_confidences_of_exactly_0_and_1_fall_in_a_bin(metric: Callable[..., float]) -> None:
    """One right and one wrong row of confidence 1 are an error of one half."""
    assert metric([[1.0, 0.0], [1.0, 0.0]], [0, 1]) == pytest.approx(0.5)


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


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 60), num_bins=st.integers(1, 20))
def test_no_metric_depends_on_the_order_of_the_rows(seed: int, rows: int, num_bins: int) -> None:
    """Shuffled rows, rounded so that confidences tie, have the same metrics."""
    probs, targets = draw(rows, 3, seed=seed)
    probs = np.round(probs, 1)
    probs[:, 0] += 1 - probs.sum(axis=1)
    probs = np.abs(probs) / np.abs(probs).sum(axis=1, keepdims=True)
    order = np.random.default_rng(seed).permutation(rows)
    for metric in BINNED:
        shuffled = metric(probs[order], targets[order], num_bins=num_bins)
        assert metric(probs, targets, num_bins=num_bins) == pytest.approx(shuffled, abs=1e-12)
    assert metrics.aurc(probs, targets) == pytest.approx(metrics.aurc(probs[order], targets[order]), abs=1e-12)


@pytest.mark.parametrize("num_bins", [5, 15])
def test_equal_mass_bins_hold_equally_many_rows(num_bins: int) -> None:
    """Without ties the bins differ by at most one row."""
    sizes = np.bincount(equal_mass_bins(np.random.default_rng(0).random(101), num_bins))
    assert len(sizes) == num_bins
    assert sizes.max() - sizes.min() <= 1


def test_signed_parts_add_up_to_the_ece() -> None:
    """A bin at 0.9 with accuracy 1 and one at 0.6 with accuracy 0: 0.05 under, 0.3 over, together 0.35."""
    probs = [[0.9, 0.1], [0.4, 0.6]]
    parts = metrics.signed_ece(probs, [0, 0])
    assert parts == pytest.approx((0.3, 0.05))
    assert metrics.ece(probs, [0, 0]) == pytest.approx(0.35)


def brute_force_aurc(confidences: Array, wrong: Array) -> float:
    """Mean over many random orders within ties."""
    rng, total = np.random.default_rng(0), 0.0
    for _ in range(4000):
        order = np.lexsort((rng.random(len(wrong)), -confidences))
        total += (np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)).mean()
    return total / 4000


def test_aurc_averages_over_the_orders_of_ties() -> None:
    """The closed form is the mean over random orders, and by hand (0 + 1/2 + 1 + 1/2)/4 for two tied rows."""
    assert metrics.aurc([[0.9, 0.1], [0.9, 0.1]], [0, 1]) == pytest.approx(0.5)
    rng = np.random.default_rng(1)
    confidences = rng.choice([0.6, 0.7, 0.8, 0.95], size=30)
    targets = rng.integers(2, size=30)
    probs = np.stack([confidences, 1 - confidences], axis=1)
    assert metrics.aurc(probs, targets) == pytest.approx(brute_force_aurc(confidences, targets), abs=3e-3)


def test_aurc_without_ties_is_the_mean_of_the_selective_risks() -> None:
    """Without ties AURC is the plain mean of cumulative error rates."""
    probs, targets = draw(300, 5)
    wrong = (probs.argmax(axis=1) != targets)[np.argsort(-probs.max(axis=1))]
    assert metrics.aurc(probs, targets) == pytest.approx((wrong.cumsum() / np.arange(1, 301)).mean(), rel=1e-12)


def test_nll_moves_only_probabilities_of_exactly_0() -> None:
    """A tiny probability keeps its own loss, and 0 costs the log of the smallest normal float64."""
    assert metrics.nll([[1.0, 1e-300]], [1]) == pytest.approx(300 * math.log(10))
    assert metrics.nll([[1.0, 0.0]], [1]) == pytest.approx(-math.log(np.finfo(np.float64).tiny))


@pytest.mark.parametrize("metric", EVERY)
def test_tensors_and_arrays_give_the_same_float(metric: Callable[..., float]) -> None:
    """A CPU tensor, even one with a gradient, is as good as an array; the result is a Python float."""
    probs, targets = draw(100, 4)
    tensor = torch.from_numpy(probs).requires_grad_()
    value = metric(tensor, torch.from_numpy(targets))
    assert isinstance(value, float)
    assert value == metric(probs, targets)


def changed(rows: Array, row: int, values: list[float]) -> Array:
    copy = rows.copy()
    copy[row] = values
    return copy


PROBS, TARGETS = np.tile([0.7, 0.2, 0.1], (6, 1)), np.array([0, 1, 2, 0, 1, 2])


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


def test_an_unknown_row_score_is_named() -> None:
    """`score` is "brier" or "nll"."""
    with pytest.raises(ValueError, match="score must be 'brier' or 'nll', got 'mse'"):
        metrics.row_scores(PROBS, TARGETS, score="mse")  # type: ignore[arg-type]


def test_the_reliability_curve_holds_every_row() -> None:
    """Counts add up to N, empty bins are NaN, and the curve's gaps add up to the ECE."""
    probs, targets = draw(1000, 3)
    curve = metrics.reliability_curve(probs, targets, num_bins=10)
    assert curve.edges.tolist() == np.linspace(0, 1, 11).tolist()
    assert curve.counts.sum() == 1000
    assert np.isnan(curve.accuracy[:3]).all()
    gaps = np.abs(curve.mean_confidence - curve.accuracy) * curve.counts / 1000
    assert np.nansum(gaps) == pytest.approx(metrics.ece(probs, targets, num_bins=10))
