"""A lowered graph computes what its nodes compute, whatever outputs they have, and trains only what is a weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import outputs_of
from fedlas.importers.onnx.graph import Array, Graph
from fedlas.importers.onnx.train import lowering
from fedlas.importers.onnx.train.lowering import lower

X = torch.linspace(-2, 2, 12).reshape(3, 4)


def graph_of(nodes: list[NodeProto], constants: dict[str, Array] | None = None, opset: int = 17) -> Graph:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    return Graph(nodes, constants or {}, [info], [nodes[-1].output[0]], opset, [helper.make_opsetid("", opset)], 8)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Split", ["x"], ["y"], axis=1)],
        [helper.make_node("Split", ["x"], ["a", "y"], axis=1), helper.make_node("Neg", ["a"], ["z"])],
        [helper.make_node("TopK", ["x", "k"], ["", "i"]), helper.make_node("Identity", ["i"], ["y"])],
        [helper.make_node("Dropout", ["x"], ["d", "mask"]), helper.make_node("Where", ["mask", "d", "x"], ["y"])],
        [helper.make_node("Dropout", ["x"], ["y", ""])],
        [helper.make_node("LayerNormalization", ["x", "s"], ["y", "", ""])],
        [helper.make_node("LayerNormalization", ["x", "s"], ["y", "", "inv"]), helper.make_node("Neg", ["inv"], ["z"])],
        [helper.make_node("LSTM", ["t", "w", "r"], ["", "y"], hidden_size=2)],
    ],
    ids=lambda nodes: "-".join(node.op_type for node in nodes),
)
def test_outputs_by_position(nodes: list[NodeProto]) -> None:
    """Nodes with one, several, unnamed or unread outputs are lowered to the values that they have in the graph."""
    constants = {
        "k": np.array([2]),
        "s": np.ones(4, np.float32),
        "w": np.full((1, 8, 4), 0.1, np.float32),
        "r": np.full((1, 8, 2), 0.2, np.float32),
    }
    if any("t" in node.input for node in nodes):
        nodes = [helper.make_node("Unsqueeze", ["x", "zero"], ["t"]), *nodes]
        constants["zero"] = np.array([0])
    graph = graph_of(nodes, constants)
    graph.outputs = [nodes[-1].output[-1] if nodes[-1].op_type == "LSTM" else nodes[-1].output[0]]
    module = lower(graph, ["x"], graph.outputs, set()).module.eval()
    torch.testing.assert_close(list(module(X)), outputs_of(graph, {"x": X}))


def test_layers_without_names_stay_apart() -> None:
    """Hundreds of nodes without a name become modules of their own, each with its own statistics."""
    nodes, constants, last = [], {}, "x"
    for i in range(200):
        names = [f"{kind}{i}" for kind in ("scale", "bias", "mean", "var")]
        constants |= {name: np.full(4, 1 + i / 1000, np.float32) for name in names}
        nodes.append(helper.make_node("BatchNormalization", [last, *names], [f"y{i}"]))
        last = f"y{i}"
    graph = graph_of(nodes, constants)
    lowered = lower(graph, ["x"], graph.outputs, {name for name in constants if name.startswith(("scale", "bias"))})
    assert len(set(lowered.weights.values())) == 800
    torch.testing.assert_close(list(lowered.module.eval()(X)), outputs_of(graph, {"x": X}))


def test_constants_may_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants that a graph computes from constants alone are limited in total, not only for each tensor."""
    monkeypatch.setattr(lowering, "MAX_FOLDED_BYTES", 10_000)
    fills = [helper.make_node("ConstantOfShape", ["n"], [f"c{i}"]) for i in range(5)]
    sums = [helper.make_node("Add", [f"s{i}" if i else "x", f"c{i}"], [f"s{i + 1}"]) for i in range(5)]
    graph = graph_of([*fills, *sums], {"n": np.array([200, 4])})
    with pytest.raises(UnsupportedModel) as caught:
        lower(graph, ["x"], ["s5"], set())
    assert caught.value.code == "declared_size"
