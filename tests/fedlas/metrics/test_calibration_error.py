"""Binned calibration errors agree with the authors' code and torchmetrics; every row falls in exactly one bin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlas import metrics
from fedlas.metrics.calibration_error import equal_mass_bins, equal_width_bins
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
        assert (np.diff(bins[np.lexsort((bins, array))]) >= 0).all()
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


VECTORS = np.load(Path(__file__).parents[2] / "data" / "fedlas_vectors.npz")
CASES = sorted({key.split("/")[1] for key in VECTORS.files if key.startswith("metrics/")})
Array = NDArray[Any]


def reference(case: str) -> tuple[torch.Tensor, Array, dict[str, float]]:
    logits = torch.from_numpy(VECTORS[f"metrics/{case}/logits"])
    values = {name: float(VECTORS[f"metrics/{case}/{name}"]) for name in ("ece", "adaece", "cwece")}
    return logits.softmax(dim=1), VECTORS[f"metrics/{case}/targets"], values


# The authors' values that show their flaws, see tests/data/NOTICE.md.
FLAWED_CLASSWISE = {"conf_exactly_one", "all_wrong", "one_sample", "highest_class_absent", "on_bin_edges_f64"}
BINNED = [metrics.ece, metrics.adaptive_ece, metrics.classwise_ece]


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
    # With the module, every process of the tests would load all of torchmetrics.
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, targets = drawn_rows(3000, 7)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(targets), num_classes=7, n_bins=num_bins, norm="l1"
    )
    assert metrics.ece(probs, targets, num_bins=num_bins) == pytest.approx(theirs.item(), abs=1e-6)


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
    assert metrics.classwise_ece(np.tile([0.7, 0.0, 0.3], (10, 1)), np.zeros(10, dtype=int)) == pytest.approx(0.6 / 3)


def test_signed_parts_add_up_to_the_ece() -> None:
    """A bin at 0.9 with accuracy 1 and one at 0.6 with accuracy 0: 0.05 under, 0.3 over, together 0.35."""
    probs = [[0.9, 0.1], [0.4, 0.6]]
    assert metrics.signed_ece(probs, [0, 0]) == pytest.approx((0.3, 0.05))
    assert metrics.ece(probs, [0, 0]) == pytest.approx(0.35)
