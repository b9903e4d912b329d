"""The written file computes what was trained, for any number of rows, in the upload's own versions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import nn

from fedlas.calibrators import AffineScaling, Identity, TemperatureScaling, softmax
from fedlas.errors import ExportError
from fedlas.export.graph import write_graph
from fedlas.importers import OnnxClassifier, load_onnx
from fedlas.importers.onnx.runtime import predict_file
from tests.helpers.networks import (
    NETWORKS,
    Cnn,
    Composed,
    Inputs,
    export,
    images,
    mlp,
    run_file,
    table,
    trained_looking,
)
from tests.helpers.refusals import refusal
from tests.helpers.uploads import to_onnx


def names(classifier: OnnxClassifier) -> list[str]:
    return [f"class {i}" for i in range(classifier.num_classes)]


def train_a_little(classifier: OnnxClassifier, inputs: Inputs, steps: int = 3) -> None:
    optimiser = torch.optim.SGD(classifier.parameters(), lr=0.05)
    classifier.train()
    for _ in range(steps):
        optimiser.zero_grad()
        logits, _ = classifier(*inputs)
        F.cross_entropy(logits, torch.arange(len(logits)) % classifier.num_classes).backward()
        optimiser.step()


@pytest.mark.parametrize("batch", [None, 1, 4], ids=["open", "one", "four"])
@pytest.mark.parametrize("name", NETWORKS)
def test_tuned_weights_come_back(name: str, batch: int | None, tmp_path: Path) -> None:
    """The file equals the network to 1e-6 right after the import, and to 1e-5 after training, at any batch."""
    make, rows = NETWORKS[name]
    torch.manual_seed(0)
    path = export(trained_looking(make()), rows(batch or 2), tmp_path / "m.onnx", dynamic=batch is None)
    classifier = load_onnx(path)
    arrays = [value.numpy() for value in rows(9)]
    out, told = tmp_path / "out.onnx", {"class_names": names(classifier), "verify_with": arrays}
    report = write_graph(classifier, calibrator=Identity(), tolerance=1e-6, **told).save(out)
    assert (report.parity.num_rows, report.opset) == (9, classifier.opset)
    np.testing.assert_allclose(
        predict_file(out, [a[: batch or 9] for a in arrays])["logits"],
        run_file(path, tuple(torch.from_numpy(a[: batch or 9]) for a in arrays)),
        atol=1e-5,
    )
    train_a_little(classifier, rows(8))
    untrained = predict_file(out, arrays)
    calibrator = TemperatureScaling(1.7)
    report = write_graph(classifier, calibrator=calibrator, tolerance=1e-5, **told).save(out)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    trained = predict_file(out, arrays)
    assert np.abs(trained["logits"] - untrained["logits"]).max() > 1e-3
    expected = torch.from_numpy(trained["logits"] / 1.7).softmax(1)
    np.testing.assert_allclose(trained["probabilities"], expected, atol=1e-6)
    for count in (1, 3, 8):
        some = predict_file(out, [a[:count] for a in arrays])
        for key in ("logits", "probabilities", "confidence", "features"):
            np.testing.assert_allclose(some[key], trained[key][:count], atol=1e-5)


def test_standard_outputs(tmp_path: Path) -> None:
    """Exactly the four outputs, in float32, with the features that the classifier gives and the largest probability."""
    classifier = load_onnx(export(Composed(mlp(), lambda y: y.softmax(1)).eval(), table(2), tmp_path / "m.onnx"))
    out = tmp_path / "out.onnx"
    write_graph(classifier, calibrator=Identity(), class_names=names(classifier)).save(out)
    (x,) = table(5)
    found = predict_file(out, [x.numpy()], batch_size=2)
    logits, features = classifier(x)
    assert list(found) == ["logits", "probabilities", "confidence", "features"]
    assert {value.dtype.name for value in found.values()} == {"float32"}
    np.testing.assert_allclose(found["logits"], logits.detach(), atol=1e-6)
    np.testing.assert_allclose(found["features"], features.detach(), atol=1e-6)
    np.testing.assert_allclose(found["confidence"], found["probabilities"].max(1))
    outputs = onnx.load(out).graph.output
    shapes = {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in outputs}
    assert shapes == {"logits": ["N", 3], "probabilities": ["N", 3], "confidence": ["N"], "features": ["N", 16]}


def test_running_statistics_are_written(tmp_path: Path) -> None:
    """BatchNorm's running statistics as training left them are in the file."""
    torch.manual_seed(0)
    mode = torch.onnx.TrainingMode.TRAINING
    path = export(Cnn().train(), images(4), tmp_path / "m.onnx", training=mode, do_constant_folding=False)
    classifier = load_onnx(path)
    out = tmp_path / "out.onnx"
    rows = images(16)
    write_graph(classifier, calibrator=Identity(), class_names=names(classifier)).save(out)
    before = predict_file(out, [rows[0].numpy()])["logits"]
    with torch.no_grad():
        for _ in range(5):
            classifier.train()(3 * rows[0] + 1)
    told = {"class_names": names(classifier), "verify_with": [rows[0].numpy()]}
    report = write_graph(classifier, calibrator=Identity(), **told).save(out)
    assert report.parity.max_probability_error < 1e-6
    assert classifier.training, "the export changed the classifier's mode"
    assert np.abs(predict_file(out, [rows[0].numpy()])["logits"] - before).max() > 1e-2


def test_names_that_collide(tmp_path: Path) -> None:
    """Uploads whose tensors or inputs bear the standard outputs' names are renamed, and still compute the same."""
    network = mlp().eval()
    for position, name in [("output_names", "features"), ("output_names", "logits"), ("input_names", "features")]:
        classifier = load_onnx(export(network, table(2), tmp_path / "m.onnx", dynamic=False, **{position: [name]}))
        (x,) = table(4)
        out = tmp_path / "out.onnx"
        write_graph(classifier, calibrator=Identity(), class_names=names(classifier)).save(out)
        np.testing.assert_allclose(predict_file(out, [x.numpy()])["logits"], network(x).detach(), atol=1e-5)
        assert set(classifier.input_names).isdisjoint({"features", "logits"})


def test_binary_with_an_affine_calibrator(tmp_path: Path) -> None:
    """One sigmoid is served as two columns; an affine calibrator moves the log-odds in the file as in numpy."""
    classifier = load_onnx(export(Composed(mlp(1).eval(), torch.sigmoid), table(2), tmp_path / "m.onnx"))
    (x,) = table(6)
    train_a_little(classifier, (x,))
    out = tmp_path / "out.onnx"
    affine = AffineScaling(2.0, -0.5)
    write_graph(classifier, calibrator=affine, class_names=["no", "yes"], verify_with=[x.numpy()]).save(out)
    found = predict_file(out, [x.numpy()])
    assert np.array_equal(found["logits"][:, 0], np.zeros(6, np.float32))
    odds = torch.from_numpy(found["logits"][:, 1])
    np.testing.assert_allclose(found["probabilities"][:, 1], torch.sigmoid(2 * odds - 0.5), atol=1e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 5e-3), (torch.float64, 1e-5)], ids=str)
def test_other_precisions_are_written_back(dtype: torch.dtype, atol: float, tmp_path: Path) -> None:
    """An upload in half or double precision keeps its input's type, trains in float32 and gives float32 outputs."""
    path = export(mlp().eval().to(dtype), (torch.randn(2, 10).to(dtype),), tmp_path / "m.onnx")
    classifier = load_onnx(path)
    x = torch.randn(5, 10).to(dtype).numpy()
    assert classifier.inputs[0].dtype == x.dtype.name
    assert {p.dtype for p in classifier.parameters()} == {torch.float32}
    expected = run_file(path, (torch.from_numpy(x),))
    np.testing.assert_allclose(classifier(torch.from_numpy(x))[0].detach(), expected, atol=atol)
    out = tmp_path / "out.onnx"
    write_graph(classifier, calibrator=Identity(), class_names=names(classifier), verify_with=[x], tolerance=1e-6).save(
        out
    )
    assert predict_file(out, [x])["probabilities"].dtype == np.float32


def test_metadata(tmp_path: Path) -> None:
    """Class names, the calibrator and further metadata can be read from the file."""
    classifier = load_onnx(export(mlp().eval(), table(2), tmp_path / "m.onnx"))
    out = tmp_path / "out.onnx"
    written = write_graph(classifier, calibrator=TemperatureScaling(2.5), class_names=["a", "b", "c"])
    written.save(out, metadata={"job_id": "job_1"})
    properties = {item.key: item.value for item in onnx.load(out).metadata_props}
    assert json.loads(properties["class_names"]) == ["a", "b", "c"]
    assert json.loads(properties["calibrator"]) == {"name": "temperature", "parameters": {"temperature": 2.5}}
    assert properties["job_id"] == "job_1"


def test_a_calibrated_file_is_an_ordinary_upload(tmp_path: Path) -> None:
    """A written file can be imported again; its logits are then the calibrated ones, its temperature does not train."""
    network = mlp().eval()
    classifier = load_onnx(export(network, table(2), tmp_path / "m.onnx"))
    out = tmp_path / "out.onnx"
    write_graph(classifier, calibrator=TemperatureScaling(2.0), class_names=["a", "b", "c"]).save(out)
    again = load_onnx(out)
    (x,) = table(4)
    torch.testing.assert_close(again(x)[0].softmax(1), (network(x) / 2).softmax(1), atol=1e-6, rtol=1e-5)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in classifier.parameters())
    write_graph(again, calibrator=Identity(), class_names=["a", "b", "c"], verify_with=[x.numpy()]).save(out)


@pytest.mark.parametrize("factor", [2.0, np.nan])
def test_a_file_that_differs_is_an_error(factor: float, tmp_path: Path) -> None:
    """Where file and network disagree, or numbers are none, nothing is written."""

    class Wrong(Identity):
        def __call__(self, logits: ArrayLike, features: ArrayLike | None = None) -> np.ndarray:
            return factor * np.asarray(logits, np.float64)

    classifier = load_onnx(export(mlp().eval(), table(2), tmp_path / "m.onnx"))
    out = tmp_path / "out.onnx"
    with refusal(ExportError, "parity"):
        write_graph(
            classifier, calibrator=Wrong(), class_names=["a", "b", "c"], verify_with=[table(3)[0].numpy()]
        ).save(out)
    assert not out.exists()


def test_wrong_number_of_class_names(tmp_path: Path) -> None:
    """There must be one name for every class."""
    classifier = load_onnx(export(mlp().eval(), table(2), tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match="2 names"):
        write_graph(classifier, calibrator=Identity(), class_names=["a", "b"]).save(tmp_path / "out.onnx")


def test_dead_nodes_are_left_out(tmp_path: Path) -> None:
    """Nodes that only served other outputs of the upload are not in the file."""
    network = Composed(nn.Sequential(mlp(), nn.Softmax(1)), lambda y: (y.argmax(1), y))
    classifier = load_onnx(export(network.eval(), table(2), tmp_path / "m.onnx"))
    out = tmp_path / "out.onnx"
    write_graph(classifier, calibrator=Identity(), class_names=names(classifier)).save(out)
    operators = [node.op_type for node in onnx.load(out).graph.node]
    assert "ArgMax" not in operators
    assert operators.count("Softmax") == 1


def test_calibrators_compose(tmp_path: Path) -> None:
    """Temperatures 2, 3 and 3 written one after the other act as one temperature of 18; names never collide."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    path = tmp_path / "uploaded.onnx"
    path.write_bytes(to_onnx(network, (torch.from_numpy(rows[:2]),)))
    output = None
    for step, temperature in enumerate((2.0, 3.0, 3.0)):
        classifier = load_onnx(path, output=output)
        path, output = tmp_path / f"{step}.onnx", "probabilities"
        calibrator = TemperatureScaling(temperature)
        write_graph(classifier, calibrator=calibrator, class_names=list("abcd"), verify_with=[rows]).save(path)
    with torch.no_grad():
        expected = softmax(network(torch.from_numpy(rows)).numpy() / 18)
    np.testing.assert_allclose(predict_file(path, [rows])["probabilities"], expected, atol=1e-6)
