"""Beta, spline and isotonic scaling against simulated truth, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from fedlas.calibrators import (
    AffineScaling,
    BetaScaling,
    Calibrator,
    IsotonicScaling,
    QuadraticScaling,
    SplineScaling,
    TemperatureScaling,
    VectorScaling,
    softmax,
)
from fedlas.calibrators.isotonic import MAX_KNOTS, monotone_knots
from tests.helpers.drawn_labels import drawn, nll, normal, two_classes


def test_beta_is_the_minimum_that_scipy_finds() -> None:
    """On many rows a, b and c are those of an unpenalised logistic regression on ln p and −ln(1 − p)."""
    x = 2 * np.random.default_rng(0).normal(size=5000)
    truth = 0.6 * log_expit(x) - 1.5 * log_expit(-x) + 0.4
    targets = drawn(two_classes(truth))
    fitted = BetaScaling().fit(two_classes(x), targets)
    u, v = log_expit(x / fitted.temperature), -log_expit(-x / fitted.temperature)
    best = minimize(lambda t: nll(two_classes(t[0] * u + t[1] * v + t[2]), targets), [1.0, 1.0, 0.0], tol=1e-10)
    assert (fitted.a, fitted.b, fitted.c) == pytest.approx(tuple(best.x), abs=0.02)
    assert np.abs(expit(fitted(two_classes(x))[:, 1]) - expit(truth)).max() < 0.06


def test_beta_mends_tails_that_a_line_cannot() -> None:
    """Confident on one side and timid on the other: beta beats the affine map on new rows."""
    x, new = (2 * np.random.default_rng(s).normal(size=5000) for s in (1, 2))
    bent = [np.where(v > 0, 0.2 * v, 1.5 * v) for v in (x, new)]
    targets, new_targets = drawn(two_classes(bent[0])), drawn(two_classes(bent[1]), 5)
    beta, affine = (kind().fit(two_classes(x), targets)(two_classes(new)) for kind in (BetaScaling, AffineScaling))
    assert nll(beta, new_targets) < nll(affine, new_targets) - 0.005


@pytest.mark.parametrize("turned", [False, True])
def test_curves_never_turn_the_order_round(turned: bool) -> None:
    """Even against labels that fall with the log-odds a higher score stays a higher probability."""
    x = 2 * np.random.default_rng(3).normal(size=3000)
    targets = drawn(two_classes(-x if turned else np.sin(2 * x)))
    grid = two_classes(np.linspace(-30, 30, 2001))
    for kind in (BetaScaling, QuadraticScaling, SplineScaling, IsotonicScaling):
        assert (np.diff(kind().fit(two_classes(x), targets)(grid)[:, 1]) > 0).all()


def test_knots_lie_on_the_true_curve() -> None:
    """Each knot (p, hit) lies near p² for 50,000 rows whose hits come with probability p²; there are at most 32."""
    rng = np.random.default_rng(0)
    probs = rng.random(50_000)
    means, found = monotone_knots(probs, (rng.random(50_000) < probs**2).astype(float), np.ones(50_000))
    assert 20 < len(means) <= MAX_KNOTS
    assert np.abs(found - means**2).max() < 0.04
    assert (np.diff(means) > 0).all()
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("num_classes", [2, 6])
def test_isotonic_finds_a_bent_curve(num_classes: int) -> None:
    """Where confidences above a point mean nothing more, it beats temperature and straight lines on new rows."""

    def bent(logits: np.ndarray) -> np.ndarray:
        logs = np.log(softmax(logits))
        if num_classes == 2:
            return two_classes(np.clip(logs[:, 1] - logs[:, 0], -0.7, 0.7))
        return np.maximum(logs, -2.5)

    old, new = 1.5 * normal(8000, num_classes), 1.5 * normal(8000, num_classes, seed=4)
    targets, new_targets = drawn(bent(old)), drawn(bent(new), seed=4)
    kinds: list[type[Calibrator]] = [TemperatureScaling, AffineScaling if num_classes == 2 else VectorScaling]
    isotonic = nll(IsotonicScaling().fit(old, targets)(new), new_targets)
    assert all(isotonic < nll(kind().fit(old, targets)(new), new_targets) - 0.01 for kind in kinds)


@pytest.mark.parametrize("num_classes", [2, 6])
def test_isotonic_of_few_rows_is_about_the_temperature(num_classes: int) -> None:
    """Where the temperature is the truth and rows are few, new rows lose less than 0.03 of NLL, mean of 5 draws."""
    losses = []
    for seed in range(5):
        old, new = normal(150, num_classes, seed=seed), normal(4000, num_classes, seed=seed + 50)
        targets, new_targets = drawn(old, seed), drawn(new, seed + 50)
        curve, simple = (kind().fit(old, targets)(new) for kind in (IsotonicScaling, TemperatureScaling))
        losses.append(nll(curve, new_targets) - nll(simple, new_targets))
    assert np.mean(losses) < 0.03


def test_isotonic_of_many_classes_keeps_the_whole_order() -> None:
    """Not only the top class but the order of all classes stays."""
    logits = 3 * normal(2000, 8)
    fitted = IsotonicScaling().fit(logits, drawn(logits / 3))
    np.testing.assert_array_equal(np.argsort(fitted(logits), axis=1), np.argsort(logits, axis=1))


def test_isotonic_is_never_certain() -> None:
    """400 rows of one confidence that are all right leave a doubt of about one row in 400, never 0 or 1."""
    logits = two_classes(np.repeat([-1.0, 1.0], 200))
    assert 1 / 4000 < softmax(IsotonicScaling().fit(logits, logits.argmax(axis=1))(logits)).min() < 1 / 150
    assert np.isfinite(IsotonicScaling().fit(logits, logits.argmax(axis=1))(1e4 * logits)).all()
