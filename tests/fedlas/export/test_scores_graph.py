"""Class priors in a file, a constant or an input, for any version and names; typicality's graph equals NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fedlas.calibrators import Identity, TemperatureScaling
from fedlas.deployment import ClassPriors, Deployment
from fedlas.export.graph import write_graph
from fedlas.export.scores_graph import append_typicality
from fedlas.guarantees.typicality import MAX_KNOTS, Typicality, TypicalityScore
from fedlas.importers import load_onnx
from fedlas.importers.onnx.graph import Graph
from tests.helpers.drawn_rows import drawn_features
from tests.helpers.gaussian_classes import TRUTH, network, world

Array = NDArray[Any]
NAMES = list("abcd")
SHARES, RARE = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.001, 0.001, 0.001, 0.997])
ROWS: Array = world()["x"][:50]


def run(file: Path, **inputs: Array) -> Array:
    """The probabilities that ONNX Runtime computes."""
    (probs,) = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(["probabilities"], inputs)
    return np.asarray(probs)


def shifted(probs: Array, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """By Bayes' theorem."""
    weighted = probs.astype(np.float64) * factors
    return np.asarray(weighted / weighted.sum(1, keepdims=True))


@pytest.mark.parametrize("version", [3, 4, 9])
@pytest.mark.parametrize("name", ["x", "class_priors"])
def test_priors_are_a_constant_and_can_be_an_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], version: int, name: str
) -> None:
    """A file answers for its priors bit by bit; a few bytes behind it make them an input, under a free name."""
    model = onnx.load_from_string(network(TRUTH))
    model.ir_version = version
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    onnx.save(model, tmp_path / "upload.onnx")
    classifier = load_onnx(tmp_path / "upload.onnx")
    calibrator, thresholds = TemperatureScaling(2.0), np.full(4, 0.25)
    given: dict[str, Any] = {"calibrator": calibrator, "class_names": NAMES, "verify_with": [ROWS]}
    assert write_graph(classifier, **given).save(tmp_path / "plain.onnx").priors_input == b""
    plain = run(tmp_path / "plain.onnx", **{name: ROWS})
    for default in (SHARES, RARE):
        deployment = Deployment(ClassPriors(SHARES, default), thresholds)
        more = write_graph(classifier, deployment=deployment, **given).save(tmp_path / "priors.onnx").priors_input
        assert onnx.load(tmp_path / "priors.onnx").ir_version == max(version, 4)
        capfd.readouterr()
        session = ort.InferenceSession(tmp_path / "priors.onnx", providers=["CPUExecutionProvider"])
        assert capfd.readouterr().err == ""
        assert ([one.name for one in session.get_inputs()], session.get_overridable_initializers()) == ([name], [])
        found = run(tmp_path / "priors.onnx", **{name: ROWS})
        if default is SHARES:
            np.testing.assert_array_equal(found, plain)
        np.testing.assert_allclose(found, shifted(plain, default / SHARES), atol=1e-6)
        (tmp_path / "input.onnx").write_bytes((tmp_path / "priors.onnx").read_bytes() + more)
        onnx.checker.check_model(tmp_path / "input.onnx")
        session = ort.InferenceSession(tmp_path / "input.onnx", providers=["CPUExecutionProvider"])
        (priors,) = session.get_overridable_initializers()
        assert (priors.name == "class_priors", priors.shape) == (name == "x", [4])
        np.testing.assert_array_equal(run(tmp_path / "input.onnx", **{name: ROWS}), found)
        other = run(tmp_path / "input.onnx", **{name: ROWS, priors.name: np.full(4, 0.25, np.float32)})
        np.testing.assert_allclose(other, shifted(plain, 0.25 / SHARES), atol=1e-6)


@pytest.mark.parametrize("with_input", [False, True], ids=["constant", "input"])
def test_a_file_with_priors_can_be_opened_again(tmp_path: Path, with_input: bool) -> None:
    """Priors of an opened file are part of the network, an input or not; new priors take the old ones' place."""
    (tmp_path / "0.onnx").write_bytes(network(TRUTH))
    given: dict[str, Any] = {"calibrator": Identity(), "class_names": NAMES, "verify_with": [ROWS]}
    first = Deployment(ClassPriors(SHARES, RARE), np.full(4, 0.25))
    more = write_graph(load_onnx(tmp_path / "0.onnx"), deployment=first, **given).save(tmp_path / "1.onnx").priors_input
    if with_input:  # as files of earlier versions are
        (tmp_path / "1.onnx").write_bytes((tmp_path / "1.onnx").read_bytes() + more)
    second = Deployment(ClassPriors(RARE, SHARES), np.full(4, 0.25))
    again = load_onnx(tmp_path / "1.onnx", output="probabilities")
    more = write_graph(again, deployment=second, **given).save(tmp_path / "2.onnx").priors_input
    once = run(tmp_path / "1.onnx", x=ROWS)
    np.testing.assert_allclose(run(tmp_path / "2.onnx", x=ROWS), shifted(once, SHARES / RARE), atol=1e-5)
    (tmp_path / "3.onnx").write_bytes((tmp_path / "2.onnx").read_bytes() + more)
    np.testing.assert_allclose(run(tmp_path / "3.onnx", x=ROWS, class_priors=RARE.astype(np.float32)), once, atol=1e-5)


def model(typicality: Typicality, opset: int) -> onnx.ModelProto:
    """The graph alone, from `features` to `typicality`."""
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", typicality.feature_dim])
    out = helper.make_tensor_value_info("typicality", TensorProto.FLOAT, ["N"])
    graph = Graph([], {}, [given], ["typicality"], opset, [helper.make_opsetid("", opset)], ir_version=8)
    append_typicality(graph, typicality, "features", "typicality")
    return graph.to_model([out])


def run_session(made: onnx.ModelProto, rows: Array) -> Array:
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": rows.astype(np.float32)})[0])


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 18, 21])
@pytest.mark.parametrize(("dim", "score"), [(8, "mahalanobis"), (300, "mahalanobis"), (8, "norm")])
def test_the_graph_computes_the_same(opset: int, dim: int, score: TypicalityScore) -> None:
    """In every opset the graph is valid and equals numpy to 2e-4, near, far and absurdly far."""
    fitted = Typicality.fit(*drawn_features(400, dim), score=score)
    made = model(fitted, opset)
    onnx.checker.check_model(made, full_check=True)
    parts = [drawn_features(300, dim, seed=4, shift=shift)[0] for shift in (0, 0.3, 5)]
    rows = np.concatenate(parts).astype(np.float32)
    np.testing.assert_allclose(run_session(made, rows), fitted(rows), atol=2e-4)
    np.testing.assert_allclose(run_session(made, np.array([[1e12] * dim, [-1e15] * dim])), 1 / 401, atol=1e-6)


def test_it_stays_small() -> None:
    """2,048 features take less than 2.5 MB and at most 64 pieces."""
    fitted = Typicality.fit(*drawn_features(600, 2048, num_classes=20))
    assert model(fitted, 17).ByteSize() < 2_500_000
    assert len(fitted.knots) <= MAX_KNOTS


@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
def test_degenerate_features(score: TypicalityScore) -> None:
    """Dead units, constant features and two rows still give numbers, in numpy as in the graph."""
    dead = drawn_features(200, 12)[0]
    dead[:, :6] = 0
    for rows in (dead, np.ones((50, 4)), np.arange(6.0).reshape(2, 3)):
        fitted = Typicality.fit(rows, score=score)
        found = fitted(rows)
        assert ((found > 0) & (found <= 1)).all()
        np.testing.assert_allclose(run_session(model(fitted, 17), rows), found, atol=2e-4)
