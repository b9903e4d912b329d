"""Per-class, matrix and one-vs-rest scaling against their definitions, simulated truth, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

from fedlas.calibrators import (
    Calibrator,
    MatrixScaling,
    OneVsRestScaling,
    SplineScaling,
    TemperatureScaling,
    VectorScaling,
    softmax,
)
from tests.helpers.drawn_labels import drawn, nll, normal, two_classes


def penalised(kind: type[Calibrator], z: np.ndarray, targets: np.ndarray, theta: np.ndarray) -> float:
    """The objective that the docstrings name, of a deviation θ from tempered log-probabilities z."""
    n, k = z.shape
    strength = k / n
    if kind is VectorScaling:
        deviation, offset = theta[:k], theta[k:]
        return nll(z * (1 + deviation) + offset, targets) + strength * float((deviation**2).sum() + (offset**2).sum())
    matrix, offset = theta[: k * k].reshape(k, k), theta[k * k :]
    diagonal = np.diag(matrix)
    rest = (matrix**2).sum() - (diagonal**2).sum()
    ridge = strength * ((diagonal**2).sum() + (offset**2).sum()) + (k - 1) * strength * rest
    return nll(z @ (np.eye(k) + matrix) + offset, targets) + float(ridge)


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_the_fit_is_the_minimum_that_scipy_finds(kind: type[Calibrator]) -> None:
    """The penalised NLL named in the docstring is as low as BFGS gets it, to nine digits, at the same probabilities."""
    logits = 3 * normal(300, 4)
    targets = drawn(logits / 3 + [0.0, 1.0, -1.0, 0.5])
    fitted = kind().fit(logits, targets)
    z = np.log(300 / 301 * softmax(logits / TemperatureScaling().fit(logits, targets).temperature) + 1 / 301 / 4)
    size = 8 if kind is VectorScaling else 20
    best = minimize(lambda theta: penalised(kind, z, targets, theta), np.zeros(size), tol=1e-10, method="BFGS")
    if kind is VectorScaling:
        theta = np.concatenate([fitted.scale - 1, fitted.offset])
        expected = z * (1 + best.x[:4]) + best.x[4:]
    else:
        theta = np.concatenate([(fitted.matrix - np.eye(4)).ravel(), fitted.offset])
        expected = z @ (np.eye(4) + best.x[:16].reshape(4, 4)) + best.x[16:]
    assert penalised(kind, z, targets, theta) == pytest.approx(best.fun, abs=1e-9)
    np.testing.assert_allclose(softmax(fitted(logits)), softmax(expected), atol=1e-4)


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_shifted_base_rates_are_found(kind: type[Calibrator]) -> None:
    """On many rows a factor of 3 and an offset per class are undone, up to the common shift."""
    truth, offset = normal(30_000, 4), np.array([0.0, 1.5, -1.0, 0.5])
    targets = drawn(truth + offset)
    fitted = kind().fit(3 * truth, targets)
    error = fitted(3 * truth) - (truth + offset)
    error -= error.mean(axis=1, keepdims=True)
    assert np.abs(error).mean() < 0.05
    assert nll(fitted(3 * truth), targets) < nll(truth + offset, targets) + 1e-3
    assert nll(TemperatureScaling().fit(3 * truth, targets)(3 * truth), targets) > nll(truth + offset, targets) + 0.1


def test_the_matrix_finds_confusions_that_no_scale_per_class_can() -> None:
    """Where a third of one class is really another, the matrix has the lower NLL on new rows."""
    mixing = np.eye(5)
    mixing[0, 1], mixing[2, 3] = 0.9, -0.7
    old, new = normal(4000, 5), normal(4000, 5, seed=9)
    targets, new_targets = drawn(old @ mixing), drawn(new @ mixing, seed=9)
    vector, matrix = (kind().fit(old, targets)(new) for kind in (VectorScaling, MatrixScaling))
    assert nll(matrix, new_targets) < nll(vector, new_targets) - 0.02


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_a_class_without_rows_stays_possible(kind: type[Calibrator]) -> None:
    """A class without rows becomes rarer, never impossible."""
    logits = normal(1000, 4)
    probs = softmax(kind().fit(logits, drawn(logits[:, :3]))(logits))
    assert softmax(logits)[:, 3].mean() > 0.2
    assert 1e-4 < probs[:, 3].mean() < 0.05


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_what_is_added_to_a_whole_row_counts_for_nothing(kind: type[Calibrator]) -> None:
    """Logits and the log-probabilities of the same rows give the same map."""
    logits = 3 * normal(500, 4)
    targets = drawn(logits / 3)
    fits = [softmax(kind().fit(rows, targets)(rows)) for rows in (logits, log_softmax(logits, axis=1))]
    np.testing.assert_allclose(fits[0], fits[1], atol=1e-7)


def test_a_thousand_classes_are_scaled_or_refused() -> None:
    """VectorScaling takes K = 1000; MatrixScaling, whose matrix would have a million numbers, refuses it."""
    logits = normal(1500, 1000)
    targets = drawn(logits + np.linspace(-2, 2, 1000))
    assert nll(VectorScaling().fit(logits, targets)(logits), targets) < nll(logits, targets)
    with pytest.raises(ValueError, match="K <= 256"):
        MatrixScaling().fit(logits, targets)
    with pytest.raises(ValueError, match=r"N·K <="):
        VectorScaling().fit(np.broadcast_to(np.zeros(1000), (20_001, 1000)), np.zeros(20_001, int))


def test_the_formed_hessian_is_the_one_of_conjugate_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of solving for a Newton step end at the same scaling."""
    logits = 3 * normal(500, 6)
    targets = drawn(logits / 3 + np.linspace(0, 2, 6))
    formed = VectorScaling().fit(logits, targets)
    monkeypatch.setattr("fedlas.calibrators.regression._MAX_DENSE_CLASSES", 0)
    np.testing.assert_allclose(formed(logits), VectorScaling().fit(logits, targets)(logits), atol=1e-4)


def test_each_class_has_the_spline_of_a_problem_of_two_classes() -> None:
    """The probabilities are those of K binary splines on the matrix's probabilities, made to sum to one."""
    logits = 3 * normal(400, 4)
    targets = drawn(logits / 3)
    probs = softmax(MatrixScaling().fit(logits, targets)(logits))
    binary = []
    for k in range(4):
        log_odds = two_classes(logit(probs[:, k]))
        binary.append(expit(SplineScaling().fit(log_odds, (targets == k).astype(int))(log_odds)[:, 1]))
    expected = np.stack(binary, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(OneVsRestScaling().fit(logits, targets)(logits)), expected, atol=1e-6)


def test_naive_bayes_on_digits_is_calibrated_better_than_by_a_matrix() -> None:
    """Errors of naive Bayes are bent: on new rows the curves have the lower NLL, mean of 4 splits."""
    digits, gains = load_digits(), []
    for seed in range(4):
        first, second, third = np.split(np.random.default_rng(seed).permutation(len(digits.target)), [500, 1100])
        model = GaussianNB(var_smoothing=1e-2).fit(digits.data[first], digits.target[first])
        old, new = (model.predict_log_proba(digits.data[rows]) for rows in (second, third))
        fits = [kind().fit(old, digits.target[second])(new) for kind in (MatrixScaling, OneVsRestScaling)]
        gains.append(nll(fits[0], digits.target[third]) - nll(fits[1], digits.target[third]))
    assert np.mean(gains) > 0.01


def test_what_a_temperature_hides_is_still_found() -> None:
    """Where certain rows are mostly wrong the best temperature is endless; curves of the plain logits see the rest."""
    rng = np.random.default_rng(0)
    truth = normal(2000, 4) / 2
    targets = drawn(truth)
    logits = np.where(rng.random((2000, 1)) < 0.1, 40 * np.eye(4)[rng.integers(0, 4, 2000)], truth)
    fitted = OneVsRestScaling().fit(logits[:1000], targets[:1000])
    assert fitted.temperature == 1.0
    matrix = MatrixScaling().fit(logits[:1000], targets[:1000])
    assert matrix.temperature > 5
    assert nll(fitted(logits[1000:]), targets[1000:]) < nll(matrix(logits[1000:]), targets[1000:]) - 0.05
