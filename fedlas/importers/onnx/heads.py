"""Where a classifier ends: its logits, and the input of the last linear layer as its features; it knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.operators.table import words
from fedlas.importers.onnx.output_activation import (
    OutputActivation,
    before_layout,
    find_output_activation,
    is_distribution,
)
from fedlas.importers.onnx.weight_roles import constant_derived

Shapes = Mapping[str, tuple[int, ...]]

_LINEAR = ("Gemm", "MatMul", "Conv", "Einsum")
_POOLS = words("GlobalAveragePool AveragePool ReduceMean ReduceSum ReduceMax GlobalMaxPool MaxPool ReduceLogSumExp")
# What may stand between the last linear layer and the output where nothing else says that this is a classifier.
_AFTER_HEAD = _POOLS | words(
    "Add Sub Mul Div Identity Cast Flatten Reshape Squeeze Unsqueeze Dropout Gather GatherND Slice Transpose Sum Mean "
    "Concat BatchNormalization"
)
# Operators whose further inputs are shapes, axes or places.
_SHAPED = _POOLS | words("Reshape Expand Slice Tile Squeeze Unsqueeze Split Pad")
#: Added to probabilities before their logarithm is taken: less than any that float32 computes to more than zero places.
_TINY = 1e-30


@dataclass(frozen=True)
class Head:
    """The end of a classifier.

    Attributes:
        output: the graph's output that was read.
        logits: the tensor of the scores (N, K), perhaps with further axes of one; the probabilities of a mixture.
        kind: `"logits"` or `"probabilities"`: what the output was.
        columns: the number of scores of a row; one for a sigmoid.
        frontier: the features: the inputs of the last linear layers.
        positive: for one column, which of two classes it speaks for.
        mixture: probabilities that are no softmax of scores (a mean of softmaxes): their logarithms are the logits.
    """

    output: str
    logits: str
    kind: str
    columns: int
    frontier: tuple[str, ...]
    positive: int = 1
    mixture: bool = False


def find_head(
    graph: Graph,
    output: str,
    shapes: Shapes,
    features: str | None = None,
    *,
    examples: Mapping[str, Tensor] | None = None,
) -> Head:
    """Read the end of `graph` backwards from `output`.

    Args:
        shapes: the shape of every tensor for some number of rows.
        features: the tensor to tap, where the caller knows better.
        examples: rows on which the graph may be run, to see whether an output of unknown making holds probabilities.

    Raises:
        UnsupportedModel: `no_classifier_output`, `multilabel_unsupported`, `unknown_features`.
    """
    activation = find_output_activation(graph, output, shapes)
    logits = before_layout(graph, activation.scores, shapes)
    columns = _columns(output, logits, shapes, shapes[graph.input_names[0]][0])
    _check_activation(output, activation, columns)
    frontier, direct = _frontier(graph, logits, shapes)
    mixture = (
        activation.function is None
        and bool(frontier)
        and examples is not None
        and not (direct and _is_plain(graph, logits, frontier))
        and is_distribution(graph, logits, examples)
    )
    settled = bool(frontier) and (direct or activation.function is not None)
    if not (settled or mixture) and (features is None or not frontier):
        raise _no_output(
            f"output {output!r} of shape {_shown(shapes[logits], shapes[graph.input_names[0]][0])} does not come "
            f"from a linear layer (it is computed by {_producer_name(graph, logits)}), so it looks like an "
            "embedding or a regression"
        )
    if features is not None:
        frontier = _tapped(graph, features, shapes)
    for name in frontier:
        _check_rows(name, shapes, shapes[graph.input_names[0]][0])
    positive = 1 if activation.pair is None else activation.pair
    return Head(output, logits, "probabilities" if mixture else activation.kind, columns, frontier, positive, mixture)


def _is_plain(graph: Graph, logits: str, frontier: Sequence[str]) -> bool:
    """Whether nothing but sums and layouts follow the last linear layers, so that probabilities cannot come of them."""
    nodes = graph.cone([logits], stop=frontier)
    return all(node.op_type in (*_LINEAR, *_AFTER_HEAD) and node.op_type != "Div" for node in nodes)


def _columns(output: str, logits: str, shapes: Shapes, rows: int) -> int:
    shape = shapes[logits]
    columns = int(np.prod(shape[1:]))
    if not shape or shape[0] != rows or columns != max(shape[1:], default=1) or columns < 1:
        raise _no_output(
            f"output {output!r} has the shape {_shown(shapes[output], rows)}, one row of class scores is needed"
        )
    return columns


def _check_rows(name: str, shapes: Shapes, rows: int) -> None:
    if shapes[name][:1] != (rows,):
        raise _no_output(
            f"the last linear layer reads {name!r} of shape {shapes[name]}, whose first axis are not the rows"
        )


def _no_output(found: str) -> UnsupportedModel:
    return UnsupportedModel(
        "no_classifier_output",
        f"{found}; a classifier has an output (N, K) of logits or probabilities after a linear layer",
    )


def _shown(shape: tuple[int, ...], rows: int) -> str:
    return "(" + ", ".join("N" if i == 0 and n == rows else str(n) for i, n in enumerate(shape)) + ")"


def _producer_name(graph: Graph, name: str) -> str:
    node = graph.producers().get(name)
    return node.op_type if node is not None else "nothing"


def _check_activation(output: str, activation: OutputActivation, columns: int) -> None:
    if activation.function == "Sigmoid" and columns > 1:
        raise UnsupportedModel(
            "multilabel_unsupported",
            f"output {output!r} has {columns} independent sigmoids (several labels may be true at once); "
            "a classifier of exclusive classes is needed: logits or a softmax over the classes",
        )
    if activation.function == "Softmax" and columns == 1:
        raise _no_output(f"output {output!r} is a softmax over a single class, which is always 1")


def _frontier(graph: Graph, logits: str, shapes: Shapes) -> tuple[tuple[str, ...], bool]:
    """The inputs of the last linear layers on every path to the logits; whether only harmless operators follow them."""
    walk = _BackwardSearch(graph, shapes)
    found, direct = walk.back(logits, stop=set())
    # A path around a layer's input (its norm, by which a cosine head divides) ends there too.
    while found and (again := walk.back(logits, stop=set(found)))[0] != found:
        found, direct = again
    if all(name not in walk.producers for name in found) and not walk.has_linear(logits):
        return (), direct
    return tuple(found), direct


class _BackwardSearch:
    """Walks backwards from logits to linear layers."""

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.graph, self.shapes = graph, shapes
        self.producers, self.derived = graph.producers(), constant_derived(graph)
        self.readers = graph.consumers()

    def back(self, logits: str, stop: set[str]) -> tuple[list[str], bool]:
        """The tensors at which walking ends, tensors in `stop` among them, and whether the way is direct."""
        found: list[str] = []
        direct, pending, seen = True, [(logits, False)], set()
        while pending:
            name, scale = pending.pop()
            if name in seen or name in self.derived:
                continue
            seen.add(name)
            node = self.producers.get(name)
            if node is None or name in stop:
                direct = direct and name in stop
                found.append(name)
            elif (data := linear_input(node, self.derived)) is not None:
                found.append(data)
            elif node.op_type not in ("Shape", "Size"):
                # One number a row scales its scores, whatever it is computed by.
                scale = scale or (name != logits and int(np.prod(self.shapes[name][1:])) == 1)
                direct = direct and (scale or node.op_type in _AFTER_HEAD or self._before_pool(node))
                pending.extend((source, scale) for source in self._data_inputs(node))
        return list(dict.fromkeys(reversed(found))), direct

    def has_linear(self, logits: str) -> bool:
        return any(linear_input(node, self.derived) is not None for node in self.graph.cone([logits]))

    def _data_inputs(self, node: NodeProto) -> list[str]:
        """Places say which scores are taken (those of a text's last token), not what they are."""
        picks = node.op_type in ("Gather", "GatherND") and node.input[0] not in self.derived
        return list(node.input[:1] if picks or node.op_type in _SHAPED else node.input)

    def _before_pool(self, node: NodeProto) -> bool:
        """SqueezeNet applies its last ReLU between the 1×1 convolution and the pooling."""
        readers = self.readers.get(node.output[0], [])
        return node.op_type == "Relu" and bool(readers) and all(reader.op_type in _POOLS for reader, _ in readers)


def linear_input(node: NodeProto, derived: set[str]) -> str | None:
    """The data input of a product with constants, None for any other node."""
    if node.op_type not in _LINEAR or len(node.input) < 2:
        return None
    first, second = node.input[0], node.input[1]
    if second in derived and first not in derived:
        return str(first)
    return str(second) if first in derived and second not in derived and node.op_type != "Conv" else None


def _tapped(graph: Graph, features: str, shapes: Shapes) -> tuple[str]:
    if features not in shapes or features in graph.constants:
        near = ", ".join(sorted(name for node in graph.nodes[-12:] for name in node.output if name))
        raise UnsupportedModel("unknown_features", f"the graph has no tensor {features!r}; its last ones are {near}")
    return (features,)


def check_head_alone(graph: Graph, logits: str, frontier: Sequence[str]) -> None:
    """The features must be all that the logits depend on.

    Raises:
        UnsupportedModel: `unknown_features`.
    """
    nodes = graph.cone([logits], stop=frontier)
    known = {"", *graph.constants, *frontier, *(name for node in nodes for name in node.output)}
    others = sorted({name for node in nodes for name in node.input} - known)
    if others or not any(name in frontier for node in nodes for name in node.input):
        raise UnsupportedModel(
            "unknown_features",
            f"the logits cannot be computed from {', '.join(frontier)} alone (also read: {', '.join(others) or '-'}); "
            "pass features= with a tensor through which all of the network goes",
        )


def standard_logits(graph: Graph, head: Head, shapes: Shapes) -> str:
    """Append what makes the logits (N, K), and (N, 2) for one column; returns the tensor's name."""
    name = head.logits
    if len(shapes[name]) != 2:
        name = _append(graph, "Flatten", [name], axis=1)
    if head.columns == 1:
        pair = [[0.0, 1.0]] if head.positive == 1 else [[1.0, 0.0]]
        weight = graph.add_constant("fedlas_zero_and_logit", np.array(pair, np.float32))
        name = _append(graph, "MatMul", [name, weight])
    if head.mixture:
        tiny = graph.add_constant("fedlas_tiny", np.array(_TINY, np.float32))
        name = _append(graph, "Log", [_append(graph, "Add", [name, tiny])])
    return name


def _append(graph: Graph, op_type: str, inputs: list[str], **attributes: Any) -> str:
    output = graph.fresh("fedlas_logits")
    graph.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
    return output
