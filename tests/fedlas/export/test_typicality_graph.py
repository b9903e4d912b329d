"""The graph of typicality computes the same numbers as NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fedlas.export.typicality_graph import append_familiarity
from fedlas.guarantees.typicality import MAX_KNOTS, Familiarity, TypicalityScore
from fedlas.importers.onnx.graph import Graph
from tests.helpers.drawn_rows import drawn_features

Array = NDArray[Any]


def model(familiarity: Familiarity, opset: int) -> onnx.ModelProto:
    """The graph alone, from `features` to `familiarity`."""
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", familiarity.feature_dim])
    out = helper.make_tensor_value_info("familiarity", TensorProto.FLOAT, ["N"])
    graph = Graph([], {}, [given], ["familiarity"], opset, [helper.make_opsetid("", opset)], ir_version=8)
    append_familiarity(graph, familiarity, "features", "familiarity")
    return graph.to_model([out])


def run(made: onnx.ModelProto, rows: Array) -> Array:
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": rows.astype(np.float32)})[0])


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 18, 21])
@pytest.mark.parametrize(("dim", "score"), [(8, "mahalanobis"), (300, "mahalanobis"), (8, "norm")])
def test_the_graph_computes_the_same(opset: int, dim: int, score: TypicalityScore) -> None:
    """In every opset the graph is valid and equals numpy to 2e-4, near, far and absurdly far."""
    fitted = Familiarity.fit(*drawn_features(400, dim), score=score)
    made = model(fitted, opset)
    onnx.checker.check_model(made, full_check=True)
    rows = np.concatenate([drawn_features(300, dim, seed=4, shift=shift)[0] for shift in (0, 0.3, 5)]).astype(
        np.float32
    )
    np.testing.assert_allclose(run(made, rows), fitted(rows), atol=2e-4)
    far = run(made, np.array([[1e12] * dim, [-1e15] * dim]))
    np.testing.assert_allclose(far, 1 / 401, atol=1e-6)


def test_it_stays_small() -> None:
    """2,048 features take less than 2.5 MB and at most 64 pieces."""
    fitted = Familiarity.fit(*drawn_features(600, 2048, num_classes=20))
    assert model(fitted, 17).ByteSize() < 2_500_000
    assert len(fitted.knots) <= MAX_KNOTS


@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
def test_degenerate_features(score: TypicalityScore) -> None:
    """Dead units, constant features and two rows still give numbers, in numpy as in the graph."""
    dead = drawn_features(200, 12)[0]
    dead[:, :6] = 0
    for rows in (dead, np.ones((50, 4)), np.arange(6.0).reshape(2, 3)):
        fitted = Familiarity.fit(rows, score=score)
        found = fitted(rows)
        assert ((found > 0) & (found <= 1)).all()
        np.testing.assert_allclose(run(model(fitted, 17), rows), found, atol=2e-4)
