"""Spline and quadratic scaling against SciPy's minimum and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import make_interp_spline
from scipy.optimize import minimize
from scipy.special import expit

from fedlas.calibrators import AffineScaling, Calibrator, QuadraticScaling, SplineScaling, softmax
from fedlas.calibrators.regression import platt_targets
from tests.helpers.drawn_labels import drawn, nll, two_classes

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
