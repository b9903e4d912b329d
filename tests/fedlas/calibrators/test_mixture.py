"""The mixture of a temperature with a uniform mix: its optimum, its repairs, and that no decision moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from fedlas import metrics
from fedlas.calibrators import MixtureScaling, TemperatureScaling, softmax


def rows(number: int, *, wrong: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of five classes, twice too large, and labels of which a share is replaced by any class."""
    rng = np.random.default_rng(seed)
    truth = 3 * rng.normal(size=(number, 5))
    targets = (softmax(truth).cumsum(axis=1) > rng.random((number, 1))).argmax(axis=1)
    return 2 * truth, np.where(rng.random(number) < wrong, rng.integers(0, 5, number), targets)


def test_the_fit_is_the_optimum_of_both_numbers() -> None:
    """Temperature and share are those that SciPy finds by minimising the NLL over both."""
    logits, targets = rows(2000, wrong=0.1)

    def nll(v: NDArray[np.float64]) -> float:
        share = 1 / (1 + np.exp(-v[1]))
        mixture = (1 - share) * softmax(logits / np.exp(v[0])) + share / 5
        return float(-np.log(mixture[np.arange(2000), targets]).mean())

    best = minimize(nll, [0.0, -3.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    fitted = MixtureScaling().fit(logits, targets)
    np.testing.assert_allclose(fitted.temperature, np.exp(best.x[0]), rtol=1e-4)
    np.testing.assert_allclose(fitted.share, 1 / (1 + np.exp(-best.x[1])), rtol=1e-3)
    assert abs(fitted.share - 0.1) < 0.03, "a tenth of the labels was drawn at random"
    assert abs(fitted.temperature - 2.0) < 0.2, "the logits are twice too large"


def test_wrong_labels_do_not_cool_the_rest() -> None:
    """With 10 % wrong labels a temperature is far too high; the mixture's ECE on new rows is less than half of its."""
    fitting, new = rows(2000, wrong=0.1), rows(20_000, wrong=0.1, seed=1)
    found = {}
    for kind in (TemperatureScaling, MixtureScaling):
        probs = softmax(kind().fit(*fitting)(new[0]))
        found[kind.name] = (metrics.ece(probs, new[1]), metrics.nll(probs, new[1]))
    assert found["mixture"][0] < 0.5 * found["temperature"][0]
    assert found["mixture"][1] < found["temperature"][1] - 0.02


def test_without_doubt_it_is_the_temperature() -> None:
    """Where logits are only scaled, the share is next to nothing and the answers are those of a temperature."""
    logits, targets = rows(5000, wrong=0.0)
    plain, mixture = TemperatureScaling().fit(logits, targets), MixtureScaling().fit(logits, targets)
    assert mixture.share < 0.01
    np.testing.assert_allclose(softmax(mixture(logits)), softmax(plain(logits)), atol=0.02)


def test_no_decision_moves() -> None:
    """The most probable class stays, also for logits of ±10,000, and no answer is exactly 0."""
    logits, targets = rows(500, wrong=0.3)
    fitted = MixtureScaling().fit(logits, targets)
    for scores in (logits, 1e4 * np.sign(logits) + logits):
        probs = softmax(fitted(scores))
        np.testing.assert_array_equal(probs.argmax(axis=1), scores.argmax(axis=1))
        assert probs.min() >= fitted.share / 5 * 0.999
