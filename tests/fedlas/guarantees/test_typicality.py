"""Typicality is a p-value among calibration rows; conformal quantiles keep every level exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance

from fedlas.guarantees.typicality import LEVELS, Quantiles, Typicality, TypicalityScore
from tests.helpers.drawn_rows import drawn_features

Array = NDArray[Any]


@pytest.mark.parametrize("dim", [3, 64])
@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
def test_new_rows_are_evenly_typical(dim: int, score: TypicalityScore) -> None:
    """A share p, or a little less, of new rows of the same kind has a typicality of at most p."""
    found = Typicality.fit(*drawn_features(1500, dim), score=score)(drawn_features(20_000, dim, seed=1)[0])
    for share in (0.02, 0.05, 0.1, 0.3, 0.5, 0.8):
        assert (found <= share).mean() == pytest.approx(share, abs=0.045)
    assert 1 / 1501 <= found.min() <= found.max() <= 1


def test_the_fitted_rows_flatter_themselves() -> None:
    """With fewer rows than features new rows would look untypical if distances were not cross-fitted."""
    fitted = Typicality.fit(*drawn_features(200, 500))
    own, new = (drawn_features(200, 500, seed=seed)[0] for seed in (0, 1))
    assert np.median(fitted.distance(new)) > 1.5 * np.median(fitted.distance(own))
    assert (fitted(new) <= 0.05).mean() < 0.1


@pytest.mark.parametrize(("rows", "dim"), [(1000, 10), (1000, 64), (300, 400)])
def test_far_rows_are_untypical(rows: int, dim: int) -> None:
    """Rows that were moved have a typicality at the lower end."""
    fitted = Typicality.fit(*drawn_features(rows, dim))
    assert np.median(fitted(drawn_features(500, dim, seed=2, shift=4.0)[0])) <= 2 / (rows + 1)


def test_mahalanobis_is_scikit_learns() -> None:
    """With all directions kept the distance is scikit-learn's for the shrunk covariance and the nearest mean."""
    rows, targets = drawn_features(800, 6)
    fitted = Typicality.fit(rows, targets)
    means = np.stack([rows[targets == k].mean(0) for k in range(5)])
    within = EmpiricalCovariance(assume_centered=True).fit(rows - means[targets])
    within.covariance_ = 0.95 * within.covariance_ + 0.05 * np.trace(within.covariance_) / 6 * np.eye(6)
    within.precision_ = np.linalg.inv(within.covariance_)
    new = drawn_features(50, 6, seed=3)[0]
    expected = np.min([within.mahalanobis(new - mean) for mean in means], axis=0)
    np.testing.assert_allclose(fitted.distance(new), expected, rtol=1e-9)


def test_the_norm_is_two_sided() -> None:
    """Rows with a far larger and a far smaller norm are both strange."""
    rows = np.random.default_rng(0).normal(size=(500, 20)) + 5
    fitted = Typicality.fit(rows, score="norm")
    assert fitted.score == "norm"
    assert (fitted(np.stack([10 * rows[0], 0.1 * rows[0]])) <= 1 / 501).all()
    assert fitted(rows[np.argsort(rows.sum(1))[250]][None])[0] > 0.95


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (np.ones(5), {}, r"\(N, D\)"),
        (np.ones((1, 5)), {}, "N >= 2"),
        (np.array([[1.0], [np.nan]]), {}, "row 1"),
        (np.ones((3, 2)), {"targets": [0, 1]}, "targets"),
        (np.ones((3, 2)), {"score": "energy"}, "energy"),
    ],
)
def test_wrong_arguments(given: Array, options: dict[str, Any], words: str) -> None:
    """A meaningless argument is a ValueError that says what is needed."""
    with pytest.raises(ValueError, match=words):
        Typicality.fit(given, **options)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        Typicality.fit(np.ones((3, 4)))(np.ones((2, 5)))


def test_every_kept_level_is_exact() -> None:
    """At the levels of the table the quantile is the ⌈(n+1)c⌉-th smallest score; between them the next higher one."""
    scores = np.random.default_rng(0).random(2500)
    table = Quantiles.fit(scores, 1, LEVELS)
    assert len(table.ranks) <= 200
    ordered = np.sort(scores)
    for level in LEVELS:
        rank = math.ceil(2501 * float(level) - 1e-9)
        if rank <= 2500:
            assert 0 < table.at(float(level)) - ordered[rank - 1] < 2.1e-6
    for level in np.random.default_rng(1).random(200) * 2500 / 2501:
        score = table.at(float(level))
        assert score is not None
        assert score > ordered[math.ceil(2501 * level) - 1]
