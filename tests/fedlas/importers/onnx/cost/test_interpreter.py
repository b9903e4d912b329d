"""Sizes that an upload takes from the values of a row are refused, and what people export is opened."""

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
from fedlas.export.graph import write_graph
from fedlas.importers import check_parity, load_onnx
from fedlas.importers.onnx.cost.serving_cost import Interpretation, check_sizes
from fedlas.importers.onnx.cost.shape_rules import AbstractTensor
from fedlas.importers.onnx.evaluator import input_spec
from fedlas.importers.onnx.graph import Graph
from tests.helpers.networks import node
from tests.helpers.sized_graphs import HOSTILE, MUST_PASS, Hostile


def every_tensor(graph: Graph, rows: dict[str, Any]) -> dict[str, Any]:
    """The value that ONNX Runtime computes for each tensor, node by node as they are written."""
    names = [name for item in graph.nodes for name in item.output if name]
    model = graph.to_model([helper.make_empty_tensor_value_info(name) for name in names])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, rows), strict=True))


def assert_within(known: AbstractTensor, value: Any) -> None:
    """A computed tensor is no larger than the analysis says."""
    assert known.shape is None or len(known.shape) == value.ndim
    assert known.shape is None or all(a >= b for a, b in zip(known.shape, value.shape, strict=True))
    assert not (known.fixed and known.shape) or known.shape == value.shape
    assert known.count is None or known.count >= value.size


@pytest.mark.parametrize("name", HOSTILE)
def test_no_row_chooses_a_size(name: str, tmp_path: Path) -> None:
    """A graph that takes a size from values is refused by its stable code, however they reach it."""
    graph = Graph.from_model(onnx.load(HOSTILE[name].write(tmp_path)))
    with pytest.raises(UnsupportedModel) as caught:
        check_sizes(graph, [input_spec(info) for info in graph.inputs], {})
    assert caught.value.code == "size_depends_on_values"


@pytest.mark.parametrize("name", MUST_PASS)
def test_what_people_export_is_opened(name: str, tmp_path: Path) -> None:
    """An exported graph is imported, computes equal outputs, and has the sizes of the analysis."""
    path = MUST_PASS[name](tmp_path)
    classifier = load_onnx(path)
    assert check_parity(path, classifier) <= 1e-4
    graph = classifier.graph()
    rows = dict(zip(graph.input_names, classifier.example_rows(3), strict=True))
    walk = Interpretation(graph, {key: value.shape for key, value in rows.items()}, constants={}, strict=True)
    for tensor, value in every_tensor(graph, rows).items():
        if isinstance(value, np.ndarray):
            assert_within(walk.tensors[tensor], value)


def test_a_served_copy_is_analysed_again(tmp_path: Path) -> None:
    """A written graph goes through the analysis again, whatever became of it since it was opened."""
    classifier = load_onnx(MUST_PASS["mlp"](tmp_path))
    unlimited = classifier.graph()
    (x,) = classifier.input_names
    largest = unlimited.append("Cast", [unlimited.append("ReduceMax", [x], "m", keepdims=0)], "m", to=TensorProto.INT64)
    size = unlimited.append("Reshape", [largest, unlimited.add_constant("one", np.array([1]))], "m")
    nothing = unlimited.append("ReduceSum", [unlimited.append("ConstantOfShape", [size], "m")], "m", keepdims=0)
    classifier.logits_name = unlimited.append("Add", [classifier.logits_name, nothing], "m")
    classifier.graph = lambda: unlimited  # type: ignore[method-assign]
    with pytest.raises(UnsupportedModel) as caught:
        write_graph(classifier, calibrator=Identity(), class_names=["a", "b", "c"]).save(tmp_path / "served.onnx")
    assert caught.value.code == "size_depends_on_values"


def test_an_unknown_operator_reads_sizes(tmp_path: Path) -> None:
    """An operator that stands in no list is refused where values reach it."""
    strange = Hostile([node("Strange", ["whole"], "zeros", domain="com.example")])
    graph = Graph.from_model(onnx.load(strange.write(tmp_path)))
    with pytest.raises(UnsupportedModel) as caught:
        Interpretation(graph, {"x": (2, 4)}, constants={})
    assert caught.value.code == "size_depends_on_values"
