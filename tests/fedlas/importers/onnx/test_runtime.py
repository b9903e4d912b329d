"""Nodes that ONNX Runtime computes within a network: their values, sizes and what of the network still trains."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from fedlas.calibrators import TemperatureScaling
from fedlas.errors import UnsupportedModel
from fedlas.export.graph import write_graph
from fedlas.importers import OnnxClassifier, check_parity, load_onnx
from fedlas.importers.onnx.cost.serving_cost import Interpretation
from fedlas.importers.onnx.evaluator import run_node
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.operators import node_has_gradient
from fedlas.importers.onnx.runtime import is_runtime_node
from tests.helpers.networks import hand_made
from tests.helpers.refusals import refusal
from tests.helpers.single_node import Case, assert_agrees, ints, random_floats

floats = random_floats(2)
IMAGE, LINE, X = floats(2, 4, 7, 6), floats(2, 20, 1), floats(3, 4)
HEADS = (floats(2, 4, 5, 6), floats(2, 2, 7, 6), floats(2, 2, 7, 6))
CASES = [
    Case("GridSample", (IMAGE, np.tanh(floats(2, 3, 5, 2))), {"mode": "bicubic"}, opset=16),
    Case("AffineGrid", (floats(2, 2, 3), ints(2, 4, 5, 6)), {"align_corners": 1}, opset=20),
    Case("DFT", (floats(2, 6, 5, 1), np.array(8)), {"axis": 1, "onesided": 1}, opset=17),
    Case("STFT", (LINE, np.array(3), np.hanning(8).astype(np.float32)), opset=17),
    Case("STFT", (LINE, np.array(4), None, np.array(6)), opset=17),
    Case("HannWindow", (np.array(10),), opset=17),
    Case("Col2Im", (floats(1, 8, 6), ints(3, 4), ints(2, 2)), opset=18),
    Case("EyeLike", (X,), {"dtype": TensorProto.INT64, "k": 1}, opset=9),
    Case("Hardmax", (X,), opset=13),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 2], "storage_order": 1}, opset=12, outputs=2),
    Case("Resize", (IMAGE, None, None, ints(5, 4)), {"axes": [2, 3], "mode": "linear", "antialias": 1}, opset=18),
    Case(
        "Resize", (IMAGE, None, None, ints(2, 4, 5, 5)), {"coordinate_transformation_mode": "half_pixel_symmetric"}, 19
    ),
    Case("Attention", HEADS, {"softcap": 2.0}, opset=23),
    Case("Attention", (*HEADS, None, floats(2, 2, 3, 6), floats(2, 2, 3, 6)), opset=23, outputs=3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_onnx_runtime(case: Case) -> None:
    """An operator, or an option of one, that the table does not know is computed; it has no gradient."""
    assert is_runtime_node(case.node)
    assert not node_has_gradient(case.node)
    assert_agrees(case)


def test_a_tensor_that_is_read_twice() -> None:
    """One tensor may be several inputs of a node."""
    node = helper.make_node("CenterCropPad", ["x", "x"], ["y"])
    assert run_node(node, {"x": torch.tensor([3, 1, 2])[:1]}, 18)["y"].tolist() == [0, 3, 0]


GEOMETRY = {"w": floats(4, 6), "v": floats(6, 3), "axis": np.array([1]), "two": np.array([2])}


def spoken(tmp_path: Path, rows: int | str) -> Path:
    """A network whose middle is a node without a function: the layer before it is not trained, those behind it are."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Unsqueeze", ["a", "two"], ["m"]),
        helper.make_node("DFT", ["m"], ["s"], axis=1),
        helper.make_node("ReduceSumSquare", ["s", "two"], ["power"], keepdims=0),
        helper.make_node("MatMul", ["power", "v"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    return hand_made(tmp_path, nodes, [4], GEOMETRY, outputs=["p"], opset=18, rows=rows)


@pytest.mark.parametrize("rows", ["N", 1, 3])
def test_layers_behind_a_runtime_node_train(rows: int | str, tmp_path: Path) -> None:
    """Weights behind the node get a gradient, those before it are constants; the tuned file computes the same."""
    path = spoken(tmp_path, rows)
    classifier = load_onnx(path)
    assert isinstance(classifier, OnnxClassifier)
    assert check_parity(path, classifier) < 1e-5
    assert [tuple(parameter.shape) for parameter in classifier.parameters()] == [(6, 3)]
    tuned = copy.deepcopy(classifier).train()
    tuned(torch.from_numpy(floats(5, 4)))[0].square().sum().backward()
    (weight,) = tuned.parameters()
    assert weight.grad is not None
    assert bool((weight.grad != 0).all())
    with torch.no_grad():
        weight.add_(0.1)
    report = write_graph(
        tuned.eval(),
        calibrator=TemperatureScaling(1.5),
        class_names=list("abc"),
        verify_with=classifier.example_rows(3),
    ).save(tmp_path / "tuned.onnx")
    assert report.parity.max_probability_error < 1e-5


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (helper.make_node("HannWindow", ["a"], ["y"]), [torch.tensor(10**10)]),
        (helper.make_node("AffineGrid", ["a", "b"], ["y"]), [torch.zeros(1, 2, 3), torch.tensor([1, 1, 10**5, 10**5])]),
        (helper.make_node("HannWindow", ["a"], ["y"]), [torch.tensor([10**10])]),
        (helper.make_node("DFT", ["a", "b"], ["y"]), [torch.zeros(1, 4, 1), torch.tensor([10**14])]),
        (
            helper.make_node("MaxUnpool", ["a", "b", "c"], ["y"], kernel_shape=[2, 2]),
            [torch.zeros(1, 1, 2, 2), torch.arange(4).reshape(1, 1, 2, 2), torch.tensor([1, 1, 10**6, 10**6])],
        ),
    ],
)
def test_large_results_are_refused_before_they_are_computed(node: Any, inputs: list[torch.Tensor]) -> None:
    """A node that declares 40 GB or more is refused, as ONNX's inference tells or by the sizes that it reads."""
    with refusal(UnsupportedModel, "declared_size"):
        run_node(node, dict(zip(node.input, inputs, strict=True)), 20)


def heard(tmp_path: Path, **attributes: int) -> Path:
    """A classifier of sounds of 64 numbers: the spectrogram of windows of 16, and a layer over all of it."""
    frequencies = 9 if attributes.get("onesided", 1) else 16
    constants = {
        "step": np.array(8),
        "window": np.hanning(16).astype(np.float32),
        "flat": np.array([-1, 7 * frequencies * 2]),
        "w": floats(7 * frequencies * 2, 3),
    }
    nodes = [
        helper.make_node("STFT", ["x", "step", "window"], ["s"], **attributes),
        helper.make_node("Reshape", ["s", "flat"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["z"]),
    ]
    return hand_made(tmp_path, nodes, [64, 1], constants, outputs=["z"])


@pytest.mark.parametrize("attributes", [{}, {"onesided": 1}, {"onesided": 0}], ids=str)
def test_a_spectrogram_has_the_sizes_of_onnx_runtime(attributes: dict[str, int], tmp_path: Path) -> None:
    """One-sided, which is the default, has half the frequencies, though ONNX's inference says all; both import."""
    path = heard(tmp_path, **attributes)
    classifier = load_onnx(path)
    assert isinstance(classifier, OnnxClassifier)
    assert check_parity(path, classifier) < 1e-4
    sizes = Interpretation(Graph.from_model(onnx.load(path)), {"x": (5, 64, 1)}, constants={}).tensors
    assert sizes["s"].shape == (5, 7, 16 if attributes.get("onesided") == 0 else 9, 2)
