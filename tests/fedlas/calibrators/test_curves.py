"""Beta, spline, quadratic and isotonic scaling against simulated truth, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import make_interp_spline
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
from fedlas.calibrators.regression import platt_targets
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


KINDS = [QuadraticScaling, SplineScaling]


def integral(slopes: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sum that a slope, linear between knots and constant outside, adds from the first knot to each value."""
    far = [knots[0] - 1e3, *knots, knots[-1] + 1e3]
    whole = make_interp_spline(far, [slopes[0], *slopes, slopes[-1]], k=1).antiderivative()
    return np.asarray(whole(values) - whole(knots[0]))


@pytest.mark.parametrize("bent", [0.02, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_is_the_minimum_that_scipy_finds(kind: type[SplineScaling], bent: float) -> None:
    """The penalised NLL of the docstring, with the slopes in their bounds, is as low as L-BFGS-B gets it."""
    x = 2 * np.random.default_rng(0).normal(size=400)
    targets = drawn(two_classes(0.6 * x + bent * x**2))
    fitted, line = kind().fit(two_classes(x), targets), AffineScaling().fit(two_classes(x), targets)
    soft = platt_targets(targets, np.full(400, 1 / 400))
    values, knots = line.slope * x + line.intercept, line.slope * fitted.knots + line.intercept
    widths = np.diff(knots)
    design = np.stack([np.ones(400), *(integral(slopes, knots, values) for slopes in np.eye(len(knots)))], axis=1)

    def objective(theta: np.ndarray) -> float:
        log_odds = design @ theta
        roughness = (np.diff(theta[1:]) ** 2 / widths).sum()  # ∫ g″², g″ being constant between knots
        pull = (theta[1:].mean() - 1) ** 2
        return float((np.logaddexp(0, log_odds) - soft * log_odds).mean() + (roughness + pull) / 400)

    start = np.append(knots[0], np.ones(len(knots)))
    bounds = [(None, None)] + [(0.01, 100)] * len(knots)
    best = minimize(objective, start, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9})
    theta = np.append(fitted.height, fitted.slopes / line.slope)
    assert (theta[1:].min() < 0.0101) == (bent == 0.1)  # where the truth turns over, a bound holds the slope
    assert objective(theta) <= best.fun + 1e-9
    np.testing.assert_allclose(expit(fitted(two_classes(x))[:, 1]), expit(design @ best.x), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_with_few_rows_it_is_the_affine_map(kind: type[Calibrator]) -> None:
    """Where the line is the truth, new rows lose less than 0.01 of NLL to it, mean of 20 draws of 40 rows."""
    losses = []
    for seed in range(20):
        x, new = (2 * np.random.default_rng(seed + s).normal(size=n) for n, s in ((40, 0), (2000, 100)))
        targets, new_targets = drawn(two_classes(0.5 * x - 1), seed), drawn(two_classes(0.5 * new - 1), seed + 100)
        curved, straight = (k().fit(two_classes(x), targets)(two_classes(new)) for k in (kind, AffineScaling))
        losses.append(nll(curved, new_targets) - nll(straight, new_targets))
    assert np.mean(losses) < 0.01


def test_a_bent_truth_is_found() -> None:
    """Confidences that mean nothing more above a point: the spline is near the truth and beats the parabola."""
    x, new = (2 * np.random.default_rng(seed).normal(size=8000) for seed in (0, 1))
    targets = drawn(two_classes(np.minimum(x, 0.5)))
    truth = softmax(two_classes(np.minimum(new, 0.5)))
    errors = [
        np.abs(softmax(kind().fit(two_classes(x), targets)(two_classes(new))) - truth).mean()
        for kind in (SplineScaling, QuadraticScaling, AffineScaling)
    ]
    assert errors[0] < 0.02
    assert errors[0] < 0.7 * errors[1] < 0.7 * errors[2]


@pytest.mark.parametrize("kind", KINDS)
def test_tails_are_straight(kind: type[SplineScaling]) -> None:
    """Beyond the outer knots, which leave out a hundredth of the rows on either side, it climbs by its last slope."""
    x = np.random.default_rng(2).standard_t(3, size=2000)
    fitted = kind().fit(two_classes(x), drawn(two_classes(x - 0.05 * x**2)))
    np.testing.assert_allclose(fitted.knots[[0, -1]], np.quantile(x, [0.01, 0.99], method="inverted_cdf"))
    far = fitted(two_classes(np.array([-2e4, -1e4, 1e4, 2e4])))[:, 1]
    np.testing.assert_allclose(np.diff(far)[[0, 2]], 1e4 * fitted.slopes[[0, -1]])
