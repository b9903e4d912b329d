"""Copies of one graph become one that computes common parts once, and computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fedlas.export.graph import merge
from fedlas.importers.onnx.graph import Graph

onnx_reference = pytest.importorskip("onnx.reference")


def graph(body: float, head: float, *, name: str = "x", extra: bool = False) -> Graph:
    """relu(x @ body) @ head, with an optional random addition before the head."""
    weights: dict[str, np.ndarray] = {
        "body": np.full((3, 4), body, np.float32) * np.arange(1, 5, dtype=np.float32),
        "head": np.full((4, 2), head, np.float32) * np.array([1, -1], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", [name, "body"], ["product"], name="first"),
        helper.make_node("Relu", ["product"], ["features"]),
    ]
    last = "features"
    if extra:
        nodes += [
            helper.make_node("RandomNormalLike", ["features"], ["noise"]),
            helper.make_node("Add", ["features", "noise"], ["noisy"]),
        ]
        last = "noisy"
    nodes.append(helper.make_node("MatMul", [last, "head"], ["logits"]))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    return Graph.from_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def operators(found: Graph) -> list[str]:
    return [node.op_type for node in found.nodes]


def run(found: Graph, outputs: list[str], x: np.ndarray) -> list[np.ndarray]:
    model = found.to_model([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]) for name in outputs])
    onnx.checker.check_model(model)
    answers: list[np.ndarray] = onnx_reference.ReferenceEvaluator(model).run(None, {"x": x})
    return answers


def test_a_common_body_is_kept_once() -> None:
    """Three copies that differ in their heads: one body, three heads, and each computes what it computed."""
    graphs = [graph(1.0, head) for head in (1.0, 2.0, 3.0)]
    merged, names = merge(graphs, [["logits", "features"]] * 3)
    assert operators(merged) == ["MatMul", "Relu", "MatMul", "MatMul", "MatMul"]
    assert len(merged.constants) == 4
    assert len({logits for logits, _ in names}) == 3
    assert len({features for _, features in names}) == 1
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for one, answer in zip(graphs, run(merged, [logits for logits, _ in names], x), strict=True):
        np.testing.assert_array_equal(answer, run(one, ["logits"], x)[0])


def test_identical_copies_add_nothing() -> None:
    """The second of two equal graphs has no node and no constant of its own, whatever its tensors are called."""
    renamed = graph(1.0, 1.0)
    for node in renamed.nodes:
        for tensors in (node.input, node.output):
            for i, tensor in enumerate(tensors):
                tensors[i] = "hidden" if tensor == "features" else tensor
    merged, names = merge([graph(1.0, 1.0), renamed], [["logits"], ["logits"]])
    assert operators(merged) == ["MatMul", "Relu", "MatMul"]
    assert names[0] == names[1]


def test_other_bodies_stay_apart() -> None:
    """Copies whose first weights differ share nothing, though their tensors have the same names."""
    graphs = [graph(1.0, 1.0), graph(-1.0, 1.0)]
    merged, names = merge(graphs, [["logits"], ["logits"]])
    assert operators(merged) == ["MatMul", "Relu", "MatMul"] * 2
    assert len(merged.constants) == 3, "equal heads are stored once"
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    answers = run(merged, [name for (name,) in names], x)
    np.testing.assert_array_equal(answers[0], run(graphs[0], ["logits"], x)[0])
    np.testing.assert_array_equal(answers[1], run(graphs[1], ["logits"], x)[0])
    assert np.abs(answers[0] - answers[1]).max() > 0


def test_attributes_tell_nodes_apart() -> None:
    """Two nodes of one kind and input are one only where their attributes are equal."""
    graphs = [graph(1.0, 1.0) for _ in range(3)]
    for one, alpha in zip(graphs, (0.1, 0.2, 0.1), strict=True):
        one.nodes[1].op_type = "LeakyRelu"
        one.nodes[1].attribute.append(helper.make_attribute("alpha", alpha))
    merged, names = merge(graphs, [["logits"]] * 3)
    assert operators(merged).count("LeakyRelu") == 2
    assert names[0] == names[2] != names[1]


def test_chance_is_drawn_for_each() -> None:
    """Random nodes are never taken for the same computation."""
    merged, names = merge([graph(1.0, 1.0, extra=True)] * 2, [["logits"]] * 2)
    assert operators(merged).count("RandomNormalLike") == 2
    assert names[0] != names[1]


def test_the_graphs_are_left_as_they_are() -> None:
    """Merging changes neither nodes nor constants of what it was given."""
    graphs = [graph(1.0, 1.0), graph(2.0, 2.0)]
    before = [([n.SerializeToString() for n in g.nodes], set(g.constants)) for g in graphs]
    merge(graphs, [["logits"]] * 2)
    assert before == [([n.SerializeToString() for n in g.nodes], set(g.constants)) for g in graphs]


def test_different_inputs_are_refused() -> None:
    """Graphs over inputs of other names cannot be merged."""
    with pytest.raises(ValueError, match=r"same inputs.*\['x'\], \['y'\]"):
        merge([graph(1.0, 1.0), graph(1.0, 1.0, name="y")], [["logits"]] * 2)
