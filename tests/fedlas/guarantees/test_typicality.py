"""Familiarity is a p-value among calibration rows, and the graph computes the same numbers as numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.covariance import EmpiricalCovariance

from fedlas.export.typicality_graph import familiarity_graph
from fedlas.guarantees.typicality import MAX_KNOTS, Familiarity, TypicalityScore

Array = NDArray[Any]


def features(
    num_rows: int, dim: int, *, seed: int = 0, num_classes: int = 5, shift: float = 0.0
) -> tuple[Array, Array]:
    """Rows around class centres with a low-rank scatter and a little noise, and their classes."""
    fixed = np.random.default_rng(99)
    centres = 2 * fixed.normal(size=(num_classes, dim))
    scatter, away = fixed.normal(size=(min(dim, 20), dim)), fixed.normal(size=dim)
    rng = np.random.default_rng(seed)
    targets = rng.integers(num_classes, size=num_rows)
    noise = rng.normal(size=(num_rows, len(scatter))) @ scatter + 0.3 * rng.normal(size=(num_rows, dim))
    return centres[targets] + noise + shift * away, targets


def model(familiarity: Familiarity, opset: int) -> onnx.ModelProto:
    """The graph alone, from `features` to `familiarity`."""
    nodes, initializers = familiarity_graph(familiarity, "features", "familiarity", opset=opset)
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", familiarity.feature_dim])
    out = helper.make_tensor_value_info("familiarity", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(nodes, "g", [given], [out], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(made: onnx.ModelProto, rows: Array) -> Array:
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": rows.astype(np.float32)})[0])


@pytest.mark.parametrize("dim", [3, 64])
@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
def test_new_rows_are_evenly_familiar(dim: int, score: TypicalityScore) -> None:
    """Of new rows of the same kind, a share p or a little less has a familiarity of at most p."""
    fitted = Familiarity.fit(*features(1500, dim), score=score)
    found = fitted(features(20_000, dim, seed=1)[0])
    for share in (0.02, 0.05, 0.1, 0.3, 0.5, 0.8):
        assert (found <= share).mean() == pytest.approx(share, abs=0.045)
    assert 1 / 1501 <= found.min() <= found.max() <= 1


def test_the_fitted_rows_flatter_themselves() -> None:
    """With fewer rows than features new rows would look untypical if distances were not cross-fitted."""
    fitted = Familiarity.fit(*features(200, 500))
    own, new = (features(200, 500, seed=seed)[0] for seed in (0, 1))
    assert np.median(fitted.distance(new)) > 1.5 * np.median(fitted.distance(own))
    assert (fitted(new) <= 0.05).mean() < 0.1


@pytest.mark.parametrize(("rows", "dim"), [(1000, 10), (1000, 64), (300, 400)])
def test_far_rows_are_unfamiliar(rows: int, dim: int) -> None:
    """Rows that were moved have a familiarity at the lower end."""
    fitted = Familiarity.fit(*features(rows, dim))
    assert np.median(fitted(features(500, dim, seed=2, shift=4.0)[0])) <= 2 / (rows + 1)


def test_mahalanobis_is_scikit_learns() -> None:
    """With all directions kept the distance is scikit-learn's for the shrunk covariance and the nearest mean."""
    rows, targets = features(800, 6)
    fitted = Familiarity.fit(rows, targets)
    means = np.stack([rows[targets == k].mean(0) for k in range(5)])
    within = EmpiricalCovariance(assume_centered=True).fit(rows - means[targets])
    within.covariance_ = 0.95 * within.covariance_ + 0.05 * np.trace(within.covariance_) / 6 * np.eye(6)
    within.precision_ = np.linalg.inv(within.covariance_)
    new = features(50, 6, seed=3)[0]
    expected = np.min([within.mahalanobis(new - mean) for mean in means], axis=0)
    np.testing.assert_allclose(fitted.distance(new), expected, rtol=1e-9)


def test_the_norm_is_two_sided() -> None:
    """Rows with a far larger and a far smaller norm are both strange."""
    rows = np.random.default_rng(0).normal(size=(500, 20)) + 5
    fitted = Familiarity.fit(rows, score="norm")
    assert fitted.score == "norm"
    assert (fitted(np.stack([10 * rows[0], 0.1 * rows[0]])) <= 1 / 501).all()
    middle = rows[np.argsort(rows.sum(1))[250]]
    assert fitted(middle[None])[0] > 0.95


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 18, 21])
@pytest.mark.parametrize(("dim", "score"), [(8, "mahalanobis"), (300, "mahalanobis"), (8, "norm")])
def test_the_graph_computes_the_same(opset: int, dim: int, score: TypicalityScore) -> None:
    """In every opset the graph is valid and equals numpy to 2e-4, near, far and absurdly far."""
    fitted = Familiarity.fit(*features(400, dim), score=score)
    made = model(fitted, opset)
    onnx.checker.check_model(made, full_check=True)
    rows = np.concatenate([features(300, dim, seed=4, shift=shift)[0] for shift in (0, 0.3, 5)]).astype(np.float32)
    np.testing.assert_allclose(run(made, rows), fitted(rows), atol=2e-4)
    far = run(made, np.array([[1e12] * dim, [-1e15] * dim]))
    np.testing.assert_allclose(far, 1 / 401, atol=1e-6)


def test_it_stays_small() -> None:
    """2,048 features take less than 2.5 MB and at most 64 pieces."""
    fitted = Familiarity.fit(*features(600, 2048, num_classes=20))
    assert model(fitted, 17).ByteSize() < 2_500_000
    assert len(fitted.knots) <= MAX_KNOTS


@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
def test_degenerate_features(score: TypicalityScore) -> None:
    """Dead units, constant features and two rows still give numbers, in numpy as in the graph."""
    dead = features(200, 12)[0]
    dead[:, :6] = 0
    for rows in (dead, np.ones((50, 4)), np.arange(6.0).reshape(2, 3)):
        fitted = Familiarity.fit(rows, score=score)
        found = fitted(rows)
        assert ((found > 0) & (found <= 1)).all()
        np.testing.assert_allclose(run(model(fitted, 17), rows), found, atol=2e-4)


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
    """What cannot be meant is a ValueError that says what is needed."""
    with pytest.raises(ValueError, match=words):
        Familiarity.fit(given, **options)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        Familiarity.fit(np.ones((3, 4)))(np.ones((2, 5)))
