"""The models that are attacked: ordinary ones with one large dimension, and graphs whose sizes come from values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_CLASSES = 3
_HIDDEN = 16


class _Graph:
    """A graph under construction: input `x`, output `logits`."""

    def __init__(self, shape: Sequence[int | str], classes: int = _CLASSES) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
        self._output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
        self._rng = np.random.default_rng(0)

    def node(self, kind: str, *inputs: str, outputs: int = 1, use: int = 0, **attributes: Any) -> str:
        """Add a node and return the name of one of its outputs."""
        names = [f"{kind}_{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[use]

    def constant(self, value: Any, kind: type = np.int64) -> str:
        """Add a constant and return its name."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def weights(self, *shape: int) -> str:
        """Add random weights."""
        return self.constant(self._rng.normal(size=shape) / np.sqrt(shape[-1]), np.float32)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """x·W + b."""
        return self.node("Gemm", x, self.weights(inputs, outputs), self.weights(outputs))

    def nothing(self, x: str) -> str:
        """Zero, whatever the one number x is: what is computed on the way to it stays computed."""
        return self.node("Cast", self.node("Greater", x, x), to=TensorProto.FLOAT)

    def done(self, logits: str) -> bytes:
        """The file."""
        self._nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        graph = helper.make_graph(self._nodes, "attacked", [self._input], [self._output], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def perceptron(inputs: int, hidden: int, classes: int = _CLASSES) -> bytes:
    """Two layers."""
    graph = _Graph([inputs], classes)
    return graph.done(graph.linear(graph.node("Relu", graph.linear("x", inputs, hidden)), hidden, classes))


def pixels(side: int) -> bytes:
    """Two layers over an image."""
    graph = _Graph([3, side, side])
    flat = graph.node("Flatten", "x")
    return graph.done(graph.linear(graph.node("Relu", graph.linear(flat, 3 * side * side, _HIDDEN)), _HIDDEN, _CLASSES))


def _plain(graph: _Graph, inputs: int, zero: str) -> str:
    """Two layers, between which a zero is added that was dear to compute."""
    hidden = graph.node("Relu", graph.linear("x", inputs, _HIDDEN))
    return graph.linear(graph.node("Add", hidden, zero), _HIDDEN, _CLASSES)


def _count(graph: _Graph) -> str:
    """The largest value of the first column as a shape of one dimension."""
    first = graph.node("Gather", "x", graph.constant([0]), axis=1)
    return graph.node("Cast", graph.node("ReduceMax", first, axes=[0, 1], keepdims=0), to=TensorProto.INT64)


def _shape(graph: _Graph, *sizes: int) -> str:
    """That count, then these sizes."""
    parts = [graph.node("Reshape", _count(graph), graph.constant([1]))]
    parts += [graph.constant(list(sizes))] if sizes else []
    return graph.node("Concat", *parts, axis=0)


def filled(inputs: int) -> bytes:
    """As many ones are summed up as a value says."""
    graph = _Graph([inputs])
    ones = graph.node("ConstantOfShape", _shape(graph), value=helper.make_tensor("", TensorProto.FLOAT, [1], [1.0]))
    zero = graph.nothing(graph.node("ReduceSum", ones, keepdims=0))
    return graph.done(_plain(graph, inputs, zero))


def stepped(inputs: int) -> bytes:
    """An LSTM runs as many steps as a value says."""
    graph, width = _Graph([inputs]), 4
    steps = graph.node("ConstantOfShape", _shape(graph, 1, 1))
    weights = (graph.weights(1, 4 * width, 1), graph.weights(1, 4 * width, width))
    last = graph.node("LSTM", steps, *weights, outputs=3, use=1, hidden_size=width)
    zero = graph.nothing(graph.node("ReduceSum", last, keepdims=0))
    return graph.done(_plain(graph, inputs, zero))


def cubic(inputs: int) -> bytes:
    """All pairs of rows, and all pairs of those with rows: x·xᵀ, and again."""
    graph = _Graph([inputs])
    pairs = graph.node("MatMul", "x", graph.node("Transpose", "x", perm=[1, 0]))
    planes = graph.node("Unsqueeze", pairs, graph.constant([2, 3]))
    threes = graph.node("Tanh", graph.node("Mul", planes, graph.node("Unsqueeze", "x", graph.constant([0, 1]))))
    zero = graph.nothing(graph.node("ReduceSum", threes, keepdims=0))
    return graph.done(_plain(graph, inputs, zero))


def paired() -> bytes:
    """Rows of any length, and all pairs of their values."""
    graph = _Graph(["L"])
    columns = graph.node("Unsqueeze", "x", graph.constant([2]))
    pairs = graph.node("Tanh", graph.node("MatMul", columns, graph.node("Unsqueeze", "x", graph.constant([1]))))
    mean = graph.node("ReduceMean", pairs, axes=[2], keepdims=0)
    pooled = graph.node("ReduceMean", mean, axes=[1], keepdims=1)
    return graph.done(graph.linear(graph.node("Relu", graph.linear(pooled, 1, _HIDDEN)), _HIDDEN, _CLASSES))
