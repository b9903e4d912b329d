"""Class priors against Bayes' theorem; thresholds that keep the alarm rate against optimal transport."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from fedlas.calibrators import softmax
from fedlas.contract.options import check_priors
from fedlas.deployment import ClassPriors, Deployment, class_shares, decide, keep_alarm_rate, priors_of, shifted_logits


def test_a_shifted_posterior_is_that_of_the_other_population() -> None:
    """With the densities p(x | k) the same, log-odds at one set of shares become those at another exactly."""
    densities = norm.logpdf(np.linspace(-6, 6, 50)[:, None], loc=[-1.0, 0.5, 2.0], scale=[1.0, 0.7, 1.5])
    here, there = np.array([0.2, 0.5, 0.3]), np.array([0.002, 0.098, 0.9])
    found = softmax(shifted_logits(densities + np.log(here), there, here))
    joint = np.exp(densities) * there
    np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True), rtol=1e-12)


def test_shares_count_rows_and_leave_no_class_out() -> None:
    """Shares are relative frequencies; a class without a row has half a row, so that nothing is divided by zero."""
    np.testing.assert_allclose(class_shares(np.repeat([0, 1, 2], [10, 70, 20]), 3), [0.1, 0.7, 0.2])
    np.testing.assert_allclose(class_shares([0, 0, 0], 2), [3 / 3.5, 0.5 / 3.5])
    np.testing.assert_allclose(class_shares([0, 1, 1], 2, weights=[6, 1, 1]), [0.75, 0.25])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": 0.5, "b": 0.4}, "sum to 0.9"),
        ({"a": 0.5, "b": 0.500002}, "sum to 1.000002"),
        ({"a": 1.0, "b": 0.0}, "'b' is 0.0"),
        ({"a": 1.2, "b": -0.2}, "'a' is 1.2"),
        ({"a": 0.5, "b": float("nan")}, "'b' is nan"),
        ({"a": 1 - 1e-12, "b": 1e-12}, "at least 1e-09"),
        ({"a": 1.0}, "'b' missing"),
        ({"a": 0.5, "b": 0.4, "c": 0.1}, "name 'c', but the classes are 'a', 'b'"),
    ],
)
def test_what_are_no_priors(given: dict[str, float], words: str) -> None:
    """Wrong priors are named as they came; a sum within a millionth of one is put right."""
    with pytest.raises(ValueError, match=words):
        priors_of(given, ["a", "b"])
    assert priors_of({"b": 0.3, "a": 0.7000005}, ["a", "b"]).sum() == pytest.approx(1, abs=1e-15)
    check_priors({"anything": 0.25, "else": 0.75})


def test_thresholds_move_with_the_priors() -> None:
    """At the default priors of a file a row is decided as it was at the shares."""
    rng = np.random.default_rng(0)
    probs, other = softmax(rng.normal(size=(200, 4))), softmax(2 * rng.normal(size=(200, 4)) + [0, 1, 0, -1])
    priors = np.array([0.7, 0.1, 0.1, 0.1])
    found = Deployment.fit(probs, other, rng.integers(0, 4, 200), priors=priors)
    assert found.priors.shifted
    assert found.default_thresholds.sum() == pytest.approx(1)
    shifted = probs * priors / found.priors.shares
    shifted /= shifted.sum(1, keepdims=True)
    np.testing.assert_array_equal((shifted / found.default_thresholds).argmax(1), (probs / found.thresholds).argmax(1))
    names = ["a", "b", "c", "d"]
    again = ClassPriors.from_dict(found.priors.as_dict(names), names)
    np.testing.assert_array_equal(again.shares, found.priors.shares)
    np.testing.assert_array_equal(again.default, priors)


Array = NDArray[np.float64]


def models(num_rows: int, num_classes: int, seed: int) -> tuple[Array, Array]:
    """Probabilities of a calibrated model, and of one with other preferences."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_rows, num_classes)) + 1.5 * rng.normal(size=num_classes)
    return softmax(logits), softmax(3 * logits + 3 * rng.normal(size=num_classes))


def answers(probs: Array) -> NDArray[np.int64]:
    """How often each class is answered."""
    return np.bincount(probs.argmax(1), minlength=probs.shape[1])


@pytest.mark.parametrize(("num_rows", "num_classes"), [(60, 2), (500, 2), (300, 5), (1000, 26), (400, 200)])
def test_each_class_is_answered_as_often_as_before(num_rows: int, num_classes: int) -> None:
    """Exactly, where no two rows are alike; at the argmax it was far from that."""
    calibrated, uploaded = models(num_rows, num_classes, seed=num_classes)
    assert np.abs(answers(calibrated) - answers(uploaded)).sum() > num_rows / 10
    thresholds = keep_alarm_rate(calibrated, uploaded)
    assert (thresholds > 0).all()
    assert thresholds.sum() == pytest.approx(1)
    decided = np.bincount(decide(calibrated, thresholds), minlength=num_classes)
    np.testing.assert_array_equal(decided, answers(uploaded))


def test_no_other_decisions_with_these_rates_are_more_probable() -> None:
    """No other decisions with these counts per class have a larger sum of log p, as an exact solver finds."""
    calibrated, uploaded = models(120, 4, seed=1)
    seats = np.repeat(np.arange(4), answers(uploaded))
    rows, places = linear_sum_assignment(-np.log(calibrated)[:, seats])
    np.testing.assert_array_equal(decide(calibrated, keep_alarm_rate(calibrated, uploaded))[rows], seats[places])


def test_equal_thresholds_where_the_argmax_keeps_the_rates() -> None:
    """A calibrator that keeps labels needs none."""
    calibrated, _ = models(200, 6, seed=2)
    np.testing.assert_allclose(keep_alarm_rate(calibrated, softmax(5 * np.log(calibrated))), 1 / 6)


def test_what_is_never_answered_stays_so() -> None:
    """A class that the uploaded model never answers is not answered either, nor one answer for all rows changed."""
    calibrated, uploaded = models(300, 5, seed=3)
    uploaded[:, 2] = 0
    assert 2 not in decide(calibrated, keep_alarm_rate(calibrated, uploaded))
    always = np.tile([0.0, 0.0, 0.0, 1.0, 0.0], (300, 1))
    assert set(decide(calibrated, keep_alarm_rate(calibrated, always))) == {3}


def test_rows_count_by_their_weights() -> None:
    """A row of weight two counts as the row twice; rows alike stay together, as near to the rate as that allows."""
    calibrated, uploaded = models(200, 3, seed=4)
    weights = np.where(np.arange(200) < 50, 2.0, 1.0)
    twice = np.concatenate([np.arange(200), np.arange(50)])
    expected = keep_alarm_rate(calibrated[twice], uploaded[twice])
    np.testing.assert_array_equal(
        decide(calibrated, keep_alarm_rate(calibrated, uploaded, weights=weights)), decide(calibrated, expected)
    )
    alike = np.tile([[0.9, 0.1], [0.6, 0.4]], (50, 1))
    alarming = np.tile([[0.9, 0.1], [0.4, 0.6]], (50, 1))
    np.testing.assert_array_equal(decide(alike, keep_alarm_rate(alike, alarming)), np.tile([0, 1], 50))


@pytest.mark.parametrize(
    ("held_out", "uploaded", "options"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), {}),
        (np.ones((0, 2)), np.ones((0, 2)), {}),
        (np.ones(3), np.ones(3), {}),
        (np.ones((3, 2)), np.ones((3, 2)), {"weights": np.zeros(3)}),
        (np.ones((3, 2)), np.ones((3, 2)), {"weights": np.ones(2)}),
    ],
)
def test_what_does_not_fit(held_out: Array, uploaded: Array, options: dict[str, Any]) -> None:
    """Shapes that differ, no rows and no weight are named."""
    with pytest.raises(ValueError, match=r"must be|must both be"):
        keep_alarm_rate(held_out, uploaded, **options)
