"""One-vs-rest scaling against its definition, real rows and simulated truth."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from sklearn.datasets import load_digits
from sklearn.naive_bayes import GaussianNB

from fedlas.calibrators import MatrixScaling, OneVsRestScaling, SplineScaling, softmax
from tests.helpers.drawn_labels import drawn, nll, normal, two_classes


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


def test_with_few_rows_it_is_about_the_matrix() -> None:
    """Where a temperature is the truth, 150 rows of 5 classes lose less than 0.03 of NLL to the matrix, of 5 draws."""
    losses = []
    for seed in range(5):
        old, new = (normal(n, 5, seed=seed + s) for n, s in ((150, 0), (4000, 100)))
        targets, new_targets = drawn(old, seed), drawn(new, seed + 100)
        curves, matrix = (kind().fit(2 * old, targets)(2 * new) for kind in (OneVsRestScaling, MatrixScaling))
        losses.append(nll(curves, new_targets) - nll(matrix, new_targets))
    assert np.mean(losses) < 0.03
