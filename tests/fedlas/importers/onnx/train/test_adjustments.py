"""Changes that loading makes without being asked are reported, with their evidence; a plain file has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from fedlas.importers import load_onnx
from tests.helpers import classical_models
from tests.helpers.networks import Cnn, Composed, export, hand_made, images, mlp, node, table, trained_looking

Evidence = Mapping[str, Mapping[str, Any]]


def told(path: Path, **options: str) -> Evidence:
    """The evidence of each adjustment by its code; every one is a sentence for the owner."""
    found = load_onnx(path, **options).adjustments
    assert all(notice.severity == "info" and notice.message[0].isupper() for notice in found)
    assert all(notice.message.endswith(".") and "  " not in notice.message for notice in found)
    assert len({notice.code for notice in found}) == len(found)
    return {notice.code: notice.evidence for notice in found}


def exported(folder: Path, network: nn.Module, **options: Any) -> Path:
    """A network of ten columns as its file."""
    return export(network, table(4), folder / "m.onnx", **options)


@pytest.mark.parametrize("dynamo", [False, True])
def test_of_a_plain_network_nothing_is_told(tmp_path: Path, dynamo: bool) -> None:
    """Logits of a network with a free batch, in float32 and inference, are taken as they are."""
    assert told(exported(tmp_path, mlp(), dynamo=dynamo)) == {}


def test_a_fixed_batch(tmp_path: Path) -> None:
    """The number of rows that the exporter wrote is named."""
    assert told(exported(tmp_path, mlp(), dynamic=False)) == {"batch_freed": {"rows": 4}}


@pytest.mark.parametrize(
    ("function", "activation"),
    [
        (lambda y: y.softmax(1), "softmax"),
        (lambda y: y.log_softmax(1), "log-softmax"),
        (lambda y: torch.exp(y) / torch.exp(y).sum(1, keepdim=True), "softmax"),
    ],
)
def test_an_activation_is_cut_off(tmp_path: Path, function: Callable[[Any], Any], activation: str) -> None:
    """A softmax, however it is written, and its logarithm."""
    evidence = told(exported(tmp_path, Composed(mlp(), function), output_names=["probs"]))["activation_cut_off"]
    assert (evidence["output"], evidence["activation"]) == ("probs", activation)
    assert evidence["logits"] != "probs"


def test_one_column_becomes_two(tmp_path: Path) -> None:
    """The sigmoid of one score is cut off, and the other class is added."""
    found = told(exported(tmp_path, Composed(mlp(1), lambda y: y.sigmoid()), output_names=["p"]))
    assert found["activation_cut_off"]["activation"] == "sigmoid"
    assert found["second_class_added"] == {"output": "p", "scored_class": 1}


def test_labels_alone(tmp_path: Path) -> None:
    """An ArgMax is undone: the scores that it picks from are named."""
    found = told(exported(tmp_path, Composed(mlp(), lambda y: y.argmax(1)), output_names=["label"]))
    assert found["argmax_undone"]["output"] == "label"
    assert found["argmax_undone"]["scores"] not in ("label", "")
    assert "outputs_left_out" not in found


def test_other_outputs_are_left_out(tmp_path: Path) -> None:
    """Scores are taken, and labels left out."""
    found = told(exported(tmp_path, Composed(mlp(), lambda y: (y, y.argmax(1))), output_names=["scores", "label"]))
    assert found == {"outputs_left_out": {"output": "scores", "left_out": ["label"]}}


def test_a_mean_of_softmaxes(tmp_path: Path) -> None:
    """Probabilities that are no softmax: their logarithms are taken."""
    network = Composed(mlp(), lambda y: (y.softmax(1) + (2 * y).softmax(1)) / 2)
    assert told(exported(tmp_path, network, output_names=["p"])) == {"logarithm_taken": {"output": "p"}}


def test_training_mode_is_left(tmp_path: Path) -> None:
    """BatchNorm and Dropout that were exported as they train are named with their number."""
    mode = torch.onnx.TrainingMode.TRAINING
    path = export(
        trained_looking(Cnn()).train(), images(4), tmp_path / "m.onnx", training=mode, do_constant_folding=False
    )
    assert told(path)["training_mode_left"] == {"nodes": {"BatchNormalization": 2, "Dropout": 1}}
    path = export(trained_looking(Cnn()), images(4), tmp_path / "m.onnx")
    assert "training_mode_left" not in told(path)


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_other_precisions(tmp_path: Path, kind: str) -> None:
    """Weights in half or double precision are computed in float32; the number of tensors is reported."""
    path = export(mlp().to(getattr(torch, kind)), (table(4)[0].to(getattr(torch, kind)),), tmp_path / "m.onnx")
    assert told(path) == {"float32": {"tensors": {kind: 6}}}


def test_an_input_with_a_name_of_ours(tmp_path: Path) -> None:
    """An input called as an output of served files has another name."""
    path = exported(tmp_path, mlp(), dynamic=False, input_names=["features"], dynamic_axes={"features": {0: "N"}})
    (evidence,) = told(path).values()
    assert evidence == {"input": "features", "renamed": load_onnx(path).input_names[0]}


def test_shared_weights(tmp_path: Path) -> None:
    """A weight that two layers read has a copy for each."""
    nodes = [node("MatMul", ["x", "w"], "h"), node("Relu", ["h"], "a")]
    nodes += [node("MatMul", ["a", "w"], "b"), node("MatMul", ["b", "out"], "y")]
    constants = {"w": np.random.rand(4, 4), "out": np.random.rand(4, 3)}
    assert told(hand_made(tmp_path, nodes, [4], constants)) == {"weights_untied": {"weights": ["w"]}}


def test_pooling_after_the_last_layer(tmp_path: Path) -> None:
    """A mean over positions moves before the layer; where something lies between, the features are the map's mean."""
    constants = {"w": np.random.rand(3, 4, 1, 1), "b": np.random.rand(3)}
    convolution, pooled = node("Conv", ["x", "w", "b"], "c"), node("ReduceMean", ["c"], "y", axes=[2, 3], keepdims=0)
    assert told(hand_made(tmp_path, [convolution, pooled], [4, 5, 5], constants)) == {"pooling_moved": {}}
    between = [convolution, node("Relu", ["c"], "r"), node("ReduceMean", ["r"], "y", axes=[2, 3], keepdims=0)]
    assert told(hand_made(tmp_path, between, [4, 5, 5], constants)) == {"features_pooled": {}}


def test_a_scikit_learn_pipeline(tmp_path: Path) -> None:
    """The map of scores is taken off, the labels are left out, and operators that train are written."""
    rows, labels = classical_models.table()
    path = classical_models.save(
        make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), rows, tmp_path / "m.onnx"
    )
    found = told(path)
    assert found["map_removed"] == {}
    assert {"Scaler", "LinearClassifier"} <= set(found["classical_lowered"]["operators"])
    assert found["outputs_left_out"]["left_out"] == ["output_label"]


def test_a_forest_with_a_fixed_batch(tmp_path: Path) -> None:
    """Notices name the floor under a forest's probabilities and their logarithms, although nothing trains."""
    rows, labels = classical_models.table()
    forest = RandomForestClassifier(5, random_state=0).fit(rows, labels)
    path = classical_models.save(forest, rows, tmp_path / "m.onnx", options={id(forest): {"zipmap": False}})
    found = told(path)
    assert not load_onnx(path).trainable
    assert found["logarithm_taken"] == {"output": "probabilities"}
    assert found["probabilities_floored"]["floor"] == pytest.approx(4e-5 / 3)
    assert found["outputs_left_out"] == {"output": "probabilities", "left_out": ["label"]}
    assert "classical_lowered" not in found
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    assert told(path)["batch_freed"] == {"rows": 1}


def test_evidence_is_json(tmp_path: Path) -> None:
    """All that is reported can be stored: also names and numbers out of a file."""
    from fedlas.contract.profiles import Notice
    from fedlas.documents import as_json

    for notice in load_onnx(exported(tmp_path, Composed(mlp(1), lambda y: y.sigmoid()), dynamic=False)).adjustments:
        assert Notice.model_validate(as_json(notice)).stored()["evidence"] == dict(notice.evidence)
