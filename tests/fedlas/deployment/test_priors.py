"""Class priors: against Bayes' theorem where densities are known, and what are no priors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from fedlas.calibrators import softmax
from fedlas.deployment import ClassPriors, Deployment, check_priors, class_shares, priors_of, shifted_logits


def test_a_shifted_posterior_is_that_of_the_other_population() -> None:
    """With the densities p(x | k) the same, log-odds at one set of shares become those at another exactly."""
    x = np.linspace(-6, 6, 50)[:, None]
    densities = norm.logpdf(x, loc=[-1.0, 0.5, 2.0], scale=[1.0, 0.7, 1.5])
    here, there = np.array([0.2, 0.5, 0.3]), np.array([0.002, 0.098, 0.9])
    found = softmax(shifted_logits(densities + np.log(here), there, here))
    joint = np.exp(densities) * there
    np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True), rtol=1e-12)


def test_shares_count_rows_and_leave_no_class_out() -> None:
    """They are relative frequencies; a class without a row has half a row, so that nothing is divided by zero."""
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
    """What was found is named; a sum within a millionth of one is put right."""
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
    decided = (probs / found.thresholds).argmax(1)
    np.testing.assert_array_equal((shifted / found.default_thresholds).argmax(1), decided)
    names = ["a", "b", "c", "d"]
    again = ClassPriors.from_dict(found.priors.as_dict(names), names)
    np.testing.assert_array_equal(again.shares, found.priors.shares)
    np.testing.assert_array_equal(again.default, priors)
