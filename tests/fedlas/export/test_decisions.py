"""Typicality and guarantees travel in the file: the outputs equal numpy in every opset, the promises are readable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fedlas.calibrators import Identity, TemperatureScaling, softmax
from fedlas.errors import ExportError
from fedlas.export.graph import write_graph
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import Typicality, TypicalityScore
from fedlas.importers import load_onnx
from fedlas.importers.onnx.runtime import predict_file
from tests.helpers.networks import Cnn, export, images, mlp, table, trained_looking


def network_outputs(classifier: nn.Module, rows: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [part.double().numpy() for part in classifier.eval()(rows)]


@pytest.mark.parametrize("score", ["mahalanobis", "norm"])
@pytest.mark.parametrize(
    ("opset", "dynamo"), [(7, False), (9, False), (13, False), (17, False), (18, False), (20, True), (23, True)]
)
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
