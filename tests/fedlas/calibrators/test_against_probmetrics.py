"""Structured and quadratic scaling against `probmetrics`, whose authors wrote the paper of the structured ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlas.calibrators import Calibrator, MatrixScaling, QuadraticScaling, VectorScaling, softmax
from tests.helpers.drawn_labels import drawn, nll, normal, two_classes

pytestmark = pytest.mark.filterwarnings(
    # What it is built on says so at import; in another category since PyTorch 2.14, in other words on Python 3.14.
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    "ignore:`torch.jit.script` is (deprecated|not supported in Python 3.14):FutureWarning",
    "ignore:'penalty' was deprecated:FutureWarning",  # how it calls scikit-learn
)


def referee(calibrator: Any, logits: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The probabilities that a calibrator of `probmetrics` gives new logits (N, K)."""
    from probmetrics.distributions import CategoricalLogits
    from torch import from_numpy

    calibrator.fit_torch(CategoricalLogits(from_numpy(logits)), from_numpy(targets))
    probs: np.ndarray = calibrator.predict_proba_torch(CategoricalLogits(from_numpy(new))).get_probs().numpy()
    return probs


@pytest.mark.parametrize(("num_rows", "num_classes"), [(60, 3), (1000, 5)])
@pytest.mark.parametrize(("kind", "name"), [(VectorScaling, "svs"), (MatrixScaling, "sms")])
def test_structured_scaling_is_its_authors(kind: type[Calibrator], name: str, num_rows: int, num_classes: int) -> None:
    """On new rows probabilities agree as closely as their BFGS ends near its minimum, and the NLL to four digits."""
    from probmetrics.calibrators import get_calibrator

    shift = np.linspace(0, 1, num_classes)
    old, new = normal(num_rows, num_classes), normal(2000, num_classes, seed=3)
    targets, new_targets = drawn(old + shift), drawn(new + shift, seed=4)
    expected = referee(get_calibrator(name), 3 * old, targets, 3 * new)
    found = kind().fit(3 * old, targets)(3 * new)
    np.testing.assert_allclose(softmax(found), expected, atol=2e-3)
    assert nll(found, new_targets) == pytest.approx(nll(np.log(expected), new_targets), abs=1e-4)


def test_a_quadratic_that_increases_is_the_one_of_logistic_regression() -> None:
    """With many rows all within the outer knots its probabilities are those of an unpenalised fit, to three digits."""
    from probmetrics.calibrators import BinaryLogisticCalibrator

    x = np.random.default_rng(0).choice(np.linspace(-4, 3, 15), 30_000)  # a fifteenth of the rows at either end
    logits, truth = two_classes(x), two_classes(0.05 * x**2 + 0.7 * x - 1)
    targets = drawn(truth)
    expected = referee(BinaryLogisticCalibrator(type="quadratic"), logits, targets, logits)
    np.testing.assert_allclose(softmax(QuadraticScaling().fit(logits, targets)(logits)), expected, atol=1e-3)


def test_a_quadratic_that_would_turn_over_does_not() -> None:
    """Where the other's parabola calls the surest row unlikely, ours still increases."""
    from probmetrics.calibrators import BinaryLogisticCalibrator

    x = 2 * np.random.default_rng(0).normal(size=1000)
    logits, targets = two_classes(x), drawn(two_classes(np.minimum(0.8 * x, 1.0)))
    sure = two_classes(np.array([0.0, 3.0, 30.0]))
    assert referee(BinaryLogisticCalibrator(type="quadratic"), logits, targets, sure)[2, 1] < 0.01
    assert (np.diff(QuadraticScaling().fit(logits, targets)(sure)[:, 1]) > 0).all()
