"""Priors, typicality and guarantees travel in the file, for any version and names; the graph equals NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from fedlas.calibrators import Identity, TemperatureScaling, softmax
from fedlas.deployment import ClassPriors, Deployment
from fedlas.errors import ExportError
from fedlas.export.graph import write_graph
from fedlas.export.scores_graph import append_typicality
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import MAX_KNOTS, Typicality, TypicalityScore
from fedlas.importers import load_onnx
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.runtime import predict_file
from tests.helpers.drawn_rows import drawn_features
from tests.helpers.gaussian_classes import TRUTH, network, world
from tests.helpers.networks import Cnn, export, images, mlp, table, trained_looking

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


def network_outputs(classifier: nn.Module, rows: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [part.double().numpy() for part in classifier.eval()(rows)]


@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
@pytest.mark.parametrize(("opset", "dynamo"), [(7, False), (13, False), (18, False), (23, True)])
def test_typicality_in_every_opset(opset: int, dynamo: bool, score: TypicalityScore, tmp_path: Path) -> None:
    """The output `typicality` (N,) is float32 and equals what the classifier's features give in numpy."""
    torch.manual_seed(0)
    path = export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx", dynamo=dynamo, opset_version=opset)
    classifier = load_onnx(path)
    assert classifier.opset == opset
    rows, new = images(120)[0], images(40)[0] * torch.linspace(0.9, 1.2, 40).reshape(-1, 1, 1, 1)
    names = [f"k{i}" for i in range(classifier.num_classes)]
    fitted = Typicality.fit(network_outputs(classifier, rows)[1], score=score)
    out = tmp_path / "out.onnx"
    told = {"class_names": names, "typicality": fitted}
    write_graph(classifier, calibrator=Identity(), verify_with=[new.numpy()], **told).save(out)
    if classifier.ir_version >= 4:  # older files had to name constants among the inputs; no runtime asks for that
        onnx.checker.check_model(onnx.load(out), full_check=True)
    found = predict_file(out, [new.numpy()])
    assert list(found) == ["logits", "probabilities", "confidence", "features", "typicality"]
    assert (found["typicality"].dtype, found["typicality"].shape) == (np.float32, (40,))
    np.testing.assert_allclose(found["typicality"], fitted(network_outputs(classifier, new)[1]), atol=1e-3)
    assert np.ptp(found["typicality"]) > 0.3


def test_guarantees_in_the_metadata(tmp_path: Path) -> None:
    """The file alone suffices to keep the same guarantees."""
    torch.manual_seed(0)
    classifier = load_onnx(export(mlp().eval(), table(2), tmp_path / "m.onnx"))
    (rows,) = table(300)
    calibrator = TemperatureScaling(0.2)
    probs = softmax(calibrator(network_outputs(classifier, rows)[0]))
    targets = (probs.cumsum(1) > np.random.default_rng(0).random((300, 1))).argmax(1)
    guarantees = Guarantees.fit(probs, targets, class_names=["a", "b", "c"])
    out = tmp_path / "out.onnx"
    write_graph(classifier, calibrator=calibrator, class_names=["a", "b", "c"]).save(out, guarantees=guarantees)
    stored = {item.key: item.value for item in onnx.load(out).metadata_props}["guarantees"]
    read = Guarantees.from_dict(json.loads(stored))
    assert read.as_dict() == guarantees.as_dict()
    confidences = predict_file(out, [rows.numpy()])["confidence"]
    level = float(guarantees.bounds.max())
    assert ((confidences >= read.threshold_for(level)) == (probs.max(1) >= guarantees.threshold_for(level))).all()
    with pytest.raises(ValueError, match="guarantees are for the classes"):
        write_graph(classifier, calibrator=calibrator, class_names=["a", "b", "d"]).save(out, guarantees=guarantees)


def test_a_file_with_typicality_can_be_opened_again(tmp_path: Path) -> None:
    """A file with the output `typicality` is an ordinary upload, whose new typicality takes the old one's place."""
    torch.manual_seed(0)
    path, output = export(mlp().eval(), table(2), tmp_path / "m.onnx"), None
    (rows,) = table(100)
    for step in range(2):
        classifier = load_onnx(path, output=output)
        fitted = Typicality.fit(network_outputs(classifier, rows)[1])
        path, output = tmp_path / f"{step}.onnx", "probabilities"
        write_graph(
            classifier,
            calibrator=TemperatureScaling(2.0),
            class_names=["a", "b", "c"],
            typicality=fitted,
            verify_with=[rows.numpy()],
        ).save(path)
    found = predict_file(path, [rows.numpy()])
    np.testing.assert_allclose(found["typicality"], fitted(found["features"]), atol=1e-3)


def test_what_does_not_fit(tmp_path: Path) -> None:
    """Typicality of other features is refused, and one that the file does not reproduce is an error of ours."""
    classifier = load_onnx(export(mlp().eval(), table(2), tmp_path / "m.onnx"))
    (rows,) = table(50)
    names, out = ["a", "b", "c"], tmp_path / "out.onnx"
    other = Typicality.fit(np.random.default_rng(0).normal(size=(50, 7)))
    with pytest.raises(ValueError, match="7 features, the classifier has 16"):
        write_graph(classifier, calibrator=Identity(), class_names=names, typicality=other).save(out)

    class Wrong(Typicality):
        def __call__(self, features: object) -> np.ndarray:
            return np.full(50, 0.5)

    fitted = Typicality.fit(network_outputs(classifier, rows)[1])
    wrong = Wrong(fitted.measure, fitted.knots, fitted.values, 50, 16)
    with pytest.raises(ExportError, match="typicality"):
        told = {"class_names": names, "typicality": wrong}
        write_graph(classifier, calibrator=Identity(), verify_with=[rows.numpy()], **told).save(out)
    assert not out.exists()
