"""The pool: its mixture by hand, its weights, and the graph that it writes."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.calibrators import MixtureScaling, Pool, TemperatureScaling, Uniform, softmax
from fedlas.calibrators.feature_map import FeatureScaling, shown_parameters
from fedlas.calibrators.pool import mixture_weights
from tests.helpers.written_calibrators import run_onnx


def drawn(num_classes: int, num_rows: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits twice too large, features of seven columns, and targets."""
    rng = np.random.default_rng(num_classes)
    truth = rng.normal(size=(num_rows, num_classes))
    targets = (softmax(truth).cumsum(axis=1) > rng.random((num_rows, 1))).argmax(axis=1)
    return 2 * truth, rng.normal(size=(num_rows, 7)), targets


def test_extreme_logits_stay_finite() -> None:
    """Logits of ±10,000 give probabilities of exactly 0 and 1 in every member, and a finite logarithm."""
    logits = np.array([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]])
    pool = Pool([TemperatureScaling(1.0), MixtureScaling(2.0, 0.0, 3)], [0.5, 0.5])
    for answer in (pool(logits), run_onnx(pool, logits)):
        assert np.isfinite(answer).all()
        assert softmax(answer) == pytest.approx(np.eye(3)[[0, 1]], abs=1e-12)


def test_members_that_keep_the_order_make_a_pool_that_does() -> None:
    """A mixture of equal orders has that order; the even share takes nothing from it."""
    logits, _, _ = drawn(5)
    pool = Pool([TemperatureScaling(0.5), MixtureScaling(3.0, 0.2, 5), Uniform()], [0.3, 0.3, 0.4])
    assert pool.keeps_order
    assert (pool(logits).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_weights_are_those_of_the_mixture_that_drew_the_rows() -> None:
    """Rows drawn in a third from one density and in the rest from another: their shares are found again."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(20_000) < 1 / 3, rng.normal(-2, 1, 20_000), rng.normal(2, 1, 20_000))
    densities = np.exp(-0.5 * (values[:, None] - [-2, 2]) ** 2)
    assert mixture_weights(densities, np.full(20_000, 1 / 20_000))[0] == pytest.approx(1 / 3, abs=0.01)


def test_a_member_that_says_nothing_is_dropped() -> None:
    """A weight under a thousandth is exactly 0, and the others sum to 1."""
    true_probs = np.stack([np.full(500, 0.8), np.full(500, 0.2)], axis=1)
    assert mixture_weights(true_probs, np.full(500, 0.002)).tolist() == [1.0, 0.0]


def test_a_fit_fits_the_members_again() -> None:
    """The mixture's weights stay, the members are those of the new rows."""
    logits, _, targets = drawn(3)
    pool = Pool([TemperatureScaling(), Uniform()], [0.9, 0.1]).fit(logits, targets)
    assert pool.members[0].parameters() == TemperatureScaling().fit(logits, targets).parameters()
    assert pool.weights.tolist() == [0.9, 0.1]


def test_parameters_are_ready_for_people() -> None:
    """Members by name, with their weights; a large table is shown by its shape."""
    wide = FeatureScaling(1.0, np.zeros((50, 20)), np.zeros(20))
    shown = shown_parameters(Pool([TemperatureScaling(2.0), wide], [0.25, 0.75]))
    assert shown["weights"] == [0.25, 0.75]
    assert shown["members"][0] == {"name": "temperature", "parameters": {"temperature": 2.0}}
    assert shown["members"][1]["parameters"]["matrix"] == "50 × 20 numbers"


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], r"\(M,\)"), ([0.5, 0.4], "sum to 1"), ([1.5, -0.5], "negative"), ([np.nan] * 2, "finite")],
)
def test_wrong_weights_are_refused(weights: list[float], message: str) -> None:
    """One weight per member, none negative, which sum to 1."""
    with pytest.raises(ValueError, match=message):
        Pool([TemperatureScaling(), Uniform()], weights)
