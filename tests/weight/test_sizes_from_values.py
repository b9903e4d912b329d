"""Sizes that an upload takes from the values of a row are limited or refused, and what people export is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from fedlas.calibrators import Identity
from fedlas.errors import UnsupportedModel
from fedlas.export.graph import export_onnx
from fedlas.importers import check_parity, load_onnx
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.input_specs import input_spec
from fedlas.importers.onnx.runtime_session import predict_file
from fedlas.importers.onnx.sizes import limit_sizes
from fedlas.importers.onnx.sizes.abstract_tensor import AbstractTensor
from fedlas.importers.onnx.sizes.interpreter import MAX_ELEMENTS, Interpretation
from tests.helpers.networks import hand_made, node
from tests.helpers.sized_graphs import HOSTILE, LARGEST, LIMITED, MUST_PASS, REFUSED, Hostile

#: First values that ask for much, in the first row of two.
_BAD = (2.5e8, -2.5e8, 3e9, -3e9, 1e18, -1e18, 3.4e38, -3.4e38, 1e-30, np.inf, -np.inf, np.nan, 65.0, 1.0, 0.0)


def every_tensor(graph: Graph, rows: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime computes for each tensor, node by node as they are written."""
    names = [name for item in graph.nodes for name in item.output if name]
    model = graph.to_model([helper.make_empty_tensor_value_info(name) for name in names])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, rows), strict=True))


def assert_within(known: AbstractTensor, value: Any) -> None:
    """A computed tensor is no larger, and has no other elements, than the analysis says."""
    assert known.shape is None or len(known.shape) == value.ndim
    assert known.shape is None or all(a >= b for a, b in zip(known.shape, value.shape, strict=True))
    assert not (known.fixed and known.shape) or known.shape == value.shape
    assert known.count is None or known.count >= value.size
    if value.dtype.kind in "biu" and value.size:
        low, high = known.bounds
        assert low <= float(value.min())
        assert float(value.max()) <= high


@pytest.mark.parametrize("name", HOSTILE)
def test_no_row_asks_for_more_than_the_analysis_says(name: str, tmp_path: Path) -> None:
    """A hostile graph is refused by its stable code, or limited: then no value of a row makes a large tensor."""
    graph = Graph.from_model(onnx.load(HOSTILE[name].write(tmp_path)))
    if name in REFUSED:
        with pytest.raises(UnsupportedModel) as caught:
            limit_sizes(graph, [input_spec(info) for info in graph.inputs], {})
        assert caught.value.code == "size_depends_on_values"
        return
    assert limit_sizes(graph, [input_spec(info) for info in graph.inputs], {})
    walk = Interpretation(graph, {"x": (2, 4)}, constants={})
    for bad in _BAD:
        for tensor, value in _run(graph, bad).items():
            assert np.size(value) <= MAX_ELEMENTS
            assert_within(walk.tensors[tensor], value)


def _run(graph: Graph, bad: float) -> dict[str, Any]:
    """Every tensor for two rows; nothing where ONNX Runtime refuses them, as it does a negative size."""
    rows = np.array([[bad, 1, 2, 3], [1, 0, 0, 0]], np.float32)
    try:
        return every_tensor(graph, {"x": rows})
    except Exception as refusal:
        if "alloc" in str(refusal):
            raise
        return {}


@pytest.mark.parametrize("name", MUST_PASS)
def test_what_people_export_is_opened(name: str, tmp_path: Path) -> None:
    """It is imported, computes the same, has a limit only where one must be, and its sizes are as analysed."""
    path = MUST_PASS[name](tmp_path)
    classifier = load_onnx(path)
    assert check_parity(path, classifier) <= 1e-4
    assert any(note.code == "size_limited" for note in classifier.adjustments) == (name in LIMITED)
    graph = classifier.graph()
    rows = dict(zip(graph.input_names, classifier.example_rows(3), strict=True))
    walk = Interpretation(graph, {key: value.shape for key, value in rows.items()}, constants={}, strict=True)
    for tensor, value in every_tensor(graph, rows).items():
        if isinstance(value, np.ndarray):
            assert_within(walk.tensors[tensor], value)


@pytest.mark.parametrize("opset", [17, 11])
def test_a_limited_mask_is_the_same_for_every_length_of_a_row(opset: int, tmp_path: Path) -> None:
    """The served copy of `Range(0, max(lengths))` gives what the upload gives for lengths up to the width of a row."""
    name = "range of lengths" if opset == 17 else "range of lengths, operator set 11"
    path = MUST_PASS[name](tmp_path)
    classifier = load_onnx(path)
    export_onnx(classifier, tmp_path / "served.onnx", calibrator=Identity(), class_names=["a", "b", "c"])
    rows = np.random.default_rng(0).normal(size=(41, 40)).astype(np.float32)
    rows[:, 1] = np.arange(41)
    served, uploaded = predict_file(tmp_path / "served.onnx", [rows]), predict_file(path, [rows])
    np.testing.assert_allclose(served["logits"], uploaded["y"], rtol=1e-5, atol=1e-5)


def test_a_limit_grows_with_the_length_of_a_row(tmp_path: Path) -> None:
    """Where rows have any length, the limit is computed from it: 5,000 steps of 5,000 columns stay 5,000."""
    weight = {"axes": np.array([1]), "w": np.ones((1, 3)), "zero": np.array(0), "unit": np.array(1), "b": np.zeros(3)}
    nodes = [
        *LARGEST,
        node("Range", ["zero", "whole", "unit"], "steps"),
        node("Cast", ["steps"], "f", to=TensorProto.FLOAT),
        node("ReduceSum", ["f"], "total", keepdims=0),
        node("ReduceMean", ["x"], "mean", axes=[1], keepdims=1),
        node("Add", ["mean", "total"], "m"),
        node("Gemm", ["m", "w", "b"], "y"),
    ]
    classifier = load_onnx(hand_made(tmp_path, nodes, ["L"], weight))
    graph = classifier.graph()
    for given, expected in ((3.0, 3), (1024.0, 1024), (5000.0, 5000), (9e9, 5000)):
        row = np.zeros((1, 5000), np.float32)
        row[0, 0] = given
        assert len(every_tensor(graph, {"x": row})["steps"]) == expected


def test_the_owner_is_told(tmp_path: Path) -> None:
    """A limit that was written is named with the operator that reads the size."""
    classifier = load_onnx(HOSTILE["ConstantOfShape"].write(tmp_path))
    assert {("ConstantOfShape", 1024)} == {
        (note.evidence["operator"], note.evidence["limit"])
        for note in classifier.adjustments
        if note.code == "size_limited"
    }


def test_a_served_copy_is_analysed_again(tmp_path: Path) -> None:
    """What is written goes through the same analysis, whatever became of the graph since it was opened."""
    classifier = load_onnx(HOSTILE["ConstantOfShape"].write(tmp_path))
    graph = Graph.from_model(onnx.load(HOSTILE["ConstantOfShape"].write(tmp_path)))
    unlimited = classifier.graph()
    unlimited.nodes = graph.cone([classifier.logits_name, *classifier.feature_names])
    classifier.graph = lambda: unlimited  # type: ignore[method-assign]
    with pytest.raises(UnsupportedModel) as caught:
        export_onnx(classifier, tmp_path / "served.onnx", calibrator=Identity(), class_names=["a", "b", "c"])
    assert caught.value.code == "size_depends_on_values"


def test_least_of_many_integers_is_no_limit(tmp_path: Path) -> None:
    """Min of several 64-bit integers is not trusted: ONNX Runtime 1.31 gives 3e9 for min(3e9, 64) in a vector."""
    nodes = [
        node("Reshape", ["whole", "one"], "v"),
        node("Concat", ["one", "v"], "s", axis=0),
        node("Min", ["s", "most"], "few"),
        node("Expand", ["ones", "few"], "zeros"),
    ]
    hostile = Hostile(nodes, {"most": np.array([64, 64])})
    graph = Graph.from_model(onnx.load(hostile.write(tmp_path)))
    assert limit_sizes(graph, [input_spec(info) for info in graph.inputs], {})
    assert every_tensor(graph, {"x": np.full((2, 4), 3e9, np.float32)})["zeros"].size <= 1024


def test_an_unknown_operator_reads_sizes(tmp_path: Path) -> None:
    """What stands in no list is refused where values reach it."""
    graph = Graph.from_model(
        onnx.load(Hostile([node("Strange", ["whole"], "zeros", domain="com.example")]).write(tmp_path))
    )
    with pytest.raises(UnsupportedModel) as caught:
        Interpretation(graph, {"x": (2, 4)}, constants={})
    assert caught.value.code == "size_depends_on_values"
