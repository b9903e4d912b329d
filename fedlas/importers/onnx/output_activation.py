"""The output activation of a graph: the softmax or sigmoid after its class scores, however it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.evaluator import outputs_of
from fedlas.importers.onnx.graph import Graph, attribute

Shapes = Mapping[str, tuple[int, ...]]

LAYOUT = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
# What JAX and TensorFlow write between a reduction and the tensor that it is taken off or divides.
_WIDENING = ("Expand", "Max", "Cast")
_SUMS = ("ReduceSum", "ReduceMax", "ReduceLogSumExp")


@dataclass(frozen=True)
class OutputActivation:
    """The tensor before a final activation.

    Attributes:
        scores: that tensor; the output itself where there is no activation.
        kind: `"logits"` or `"probabilities"`: what the output is.
        function: `"Softmax"`, `"Sigmoid"` or None.
        pair: for an output [1 − p, p] of one sigmoid, the column of p.
    """

    scores: str
    kind: str
    function: str | None = None
    pair: int | None = None


def find_output_activation(graph: Graph, output: str, shapes: Shapes) -> OutputActivation:
    """Read the graph backwards from `output` over casts, changes of layout, Log and Exp to an activation."""
    return _ActivationMatcher(graph, shapes).read(output)


def before_layout(graph: Graph, name: str, shapes: Shapes) -> str:
    """The tensor before changes of layout that keep every row's scores in their order."""
    return _ActivationMatcher(graph, shapes).before_layout(name)


def labelled_scores(graph: Graph, output: str, shapes: Shapes) -> str | None:
    """The scores whose ArgMax an output is; None for any other output."""
    reader = _ActivationMatcher(graph, shapes)
    node = reader.producer(output, "ArgMax", "Cast", *LAYOUT)
    while node is not None and node.op_type != "ArgMax":
        node = reader.producer(node.input[0], "ArgMax", "Cast", *LAYOUT)
    if node is None or len(shapes[node.input[0]]) < 2:
        return None
    return node.input[0] if attribute(node, "axis", 0) % len(shapes[node.input[0]]) > 0 else None


def is_distribution(graph: Graph, name: str, inputs: Mapping[str, Tensor]) -> bool:
    """Whether every row of a tensor (N, K) holds probabilities, seen by running the graph."""
    part = graph.copy()
    try:
        part.prune([name])
        (value,) = outputs_of(part, inputs)
    except UnsupportedModel:
        return False
    value = value.flatten(1).double() if value.ndim > 1 else value[:, None].double()
    sums = value.sum(1)
    return value.shape[1] > 1 and bool((value >= 0).all() and ((sums - 1).abs() < 1e-3).all())


class _ActivationMatcher:
    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.graph, self.shapes = graph, shapes
        self.producers = graph.producers()
        self.rows = shapes[graph.input_names[0]][0]

    def producer(self, name: str, *op_types: str) -> NodeProto | None:
        """The node that computes a tensor, where it is one of these operators."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type in op_types else None

    def read(self, output: str) -> OutputActivation:
        name, logarithms = output, 0
        while (node := self.producers.get(name)) is not None:
            if (found := self._activation(node)) is not None:
                scores, function, log = found
                kind = "logits" if (logarithms % 2 == 1) != log else "probabilities"
                return OutputActivation(scores, kind, function)
            if (pair := self._pair(node)) is not None:
                return pair
            if node.op_type not in ("Cast", "Log", "Exp") and not self._keeps_order(node):
                break
            logarithms += node.op_type in ("Log", "Exp")
            name = node.input[0]
        return OutputActivation(output, "logits")

    def before_layout(self, name: str) -> str:
        while (node := self.producer(name, *LAYOUT)) is not None and self._keeps_order(node):
            name = node.input[0]
        return name

    def _keeps_order(self, node: NodeProto) -> bool:
        before, after = self.shapes[node.input[0]], self.shapes[node.output[0]]
        if node.op_type not in LAYOUT or before[:1] != (self.rows,) or after[:1] != (self.rows,):
            return False
        return node.op_type != "Transpose" or sum(size > 1 for size in before[1:]) <= 1

    def _activation(self, node: NodeProto) -> tuple[str, str, bool] | None:
        """(tensor before it, its name, whether it gives logarithms)."""
        if node.op_type in ("Softmax", "LogSoftmax") and self._over_classes(node):
            return node.input[0], "Softmax", node.op_type == "LogSoftmax"
        if node.op_type == "Sigmoid":
            return node.input[0], "Sigmoid", False
        if (scores := self._written_softmax(node)) is not None:
            return scores, "Softmax", False
        if (scores := self._written_log_softmax(node)) is not None:
            return scores, "Softmax", True
        scores = self._written_sigmoid(node)
        return None if scores is None else (scores, "Sigmoid", False)

    def _over_classes(self, node: NodeProto) -> bool:
        """Whether a softmax runs over all of a row's scores."""
        shape, opset = self.shapes[node.input[0]], self.graph.opset
        axis = attribute(node, "axis", -1 if opset >= 13 else 1) % len(shape)
        covered = shape[axis] if opset >= 13 else int(np.prod(shape[axis:]))
        return axis > 0 and covered == int(np.prod(shape[1:]))

    def _reduced(self, name: str, op_type: str) -> str | None:
        """What a reduction over all of a row's scores has reduced, also where it is widened to their shape again."""
        node = self.producer(name, *_SUMS, *LAYOUT, *_WIDENING)
        while node is not None and node.op_type not in _SUMS:
            source = self._floored(node) if node.op_type == "Max" else node.input[0]
            node = None if source is None else self.producer(source, *_SUMS, *LAYOUT, *_WIDENING)
        if node is None or node.op_type != op_type or int(np.prod(self.shapes[node.output[0]])) != self.rows:
            return None
        return str(node.input[0])

    def _floored(self, node: NodeProto) -> str | None:
        """The other operand of a maximum with minus infinity, which JAX takes of every maximum."""
        others = [name for name in node.input if not self._is_lowest(name)]
        return others[0] if len(others) == 1 else None

    def _is_lowest(self, name: str) -> bool:
        value = self.graph.constants.get(name)
        return value is not None and bool(np.all(value <= np.finfo(np.float32).min))

    def _written_softmax(self, node: NodeProto) -> str | None:
        """exp(z) / Σ exp(z), also times the reciprocal, also with the maximum taken off before."""
        for above, below in self._quotients(node):
            exponential = self.producer(above, "Exp")
            if exponential is not None and self._reduced(below, "ReduceSum") == above:
                return self._unshifted(exponential.input[0])
        return None

    def _quotients(self, node: NodeProto) -> list[tuple[str, str]]:
        if node.op_type == "Div":
            return [(node.input[0], node.input[1])]
        if node.op_type != "Mul":
            return []
        pairs = [(node.input[0], node.input[1]), (node.input[1], node.input[0])]
        return [(a, inverse.input[0]) for a, b in pairs if (inverse := self.producer(b, "Reciprocal")) is not None]

    def _unshifted(self, name: str) -> str:
        node = self.producer(name, "Sub")
        return (
            node.input[0] if node is not None and self._reduced(node.input[1], "ReduceMax") == node.input[0] else name
        )

    def _written_log_softmax(self, node: NodeProto) -> str | None:
        """z − log Σ exp(z), also with the maximum taken off z before."""
        if node.op_type != "Sub":
            return None
        scores, taken = node.input[0], node.input[1]
        if self._reduced(taken, "ReduceLogSumExp") == scores:
            return str(scores)
        logarithm = self.producer(taken, "Log")
        summed = None if logarithm is None else self._reduced(logarithm.input[0], "ReduceSum")
        exponential = None if summed is None else self.producer(summed, "Exp")
        return self._unshifted(scores) if exponential is not None and exponential.input[0] == scores else None

    def _written_sigmoid(self, node: NodeProto) -> str | None:
        """1 / (1 + exp(−z))."""
        if node.op_type == "Div" and self._is_one(node.input[0]):
            below = node.input[1]
        elif node.op_type == "Reciprocal":
            below = node.input[0]
        else:
            return None
        added = self.producer(below, "Add")
        parts = [] if added is None else [name for name in added.input if not self._is_one(name)]
        exponential = self.producer(parts[0], "Exp") if len(parts) == 1 else None
        negated = None if exponential is None else self.producer(exponential.input[0], "Neg")
        return None if negated is None else str(negated.input[0])

    def _is_one(self, name: str) -> bool:
        value = self.graph.constants.get(name)
        return value is not None and value.size == 1 and float(value.ravel()[0]) == 1.0

    def _pair(self, node: NodeProto) -> OutputActivation | None:
        """[1 − p, p], or [p, 1 − p], of one sigmoid p."""
        if (
            node.op_type != "Concat"
            or len(node.input) != 2
            or int(np.prod(self.shapes[node.output[0]])) != 2 * self.rows
        ):
            return None
        columns = [self.before_layout(name) for name in node.input]
        for positive in (0, 1):
            taken = self.producer(columns[1 - positive], "Sub")
            p = columns[positive]
            if taken is None or not self._is_one(taken.input[0]) or self.before_layout(taken.input[1]) != p:
                continue
            activation = self.read(p)
            if activation.function == "Sigmoid" and activation.kind == "probabilities":
                return OutputActivation(activation.scores, "probabilities", "Sigmoid", pair=positive)
        return None
