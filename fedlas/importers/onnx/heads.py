"""Where a classifier ends: cuts a trailing softmax, finds the input of the last linear layer; it knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph, attribute
from fedlas.importers.onnx.roles import constant_derived

Shapes = Mapping[str, tuple[int, ...]]

_RESHAPING = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
_TAIL = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Log", "Exp")
_LINEAR = ("Gemm", "MatMul", "Conv", "Einsum")
# What may stand between the last linear layer and the output where nothing else says that this is a classifier.
_AFTER_HEAD = ("Add", "Sub", "Mul", "Div", "Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze",
               "Dropout", "GlobalAveragePool", "AveragePool", "ReduceMean", "Gather", "Slice", "Transpose", "Sum",
               "Mean", "Concat", "BatchNormalization")  # fmt: skip


@dataclass(frozen=True)
class Head:
    """The end of a classifier: its logits (N, K, perhaps further axes of one), what the output was, its features."""

    output: str
    logits: str
    kind: str
    columns: int
    frontier: tuple[str, ...]


def find_head(graph: Graph, output: str, shapes: Shapes, features: str | None = None) -> Head:
    """Read the end of `graph` backwards from `output`.

    Args:
        shapes: the shape of every tensor for some number of rows.
        features: the tensor to tap, where the caller knows better.

    Raises:
        UnsupportedModel: `no_classifier_output`, `multilabel_unsupported`.
    """
    before, kind, activation = _cut_tail(graph, output, shapes)
    logits = _before_reshapes(graph, before, shapes)
    shape = shapes[logits]
    columns = int(np.prod(shape[1:]))
    rows = shapes[graph.input_names[0]][0]
    if not shape or shape[0] != rows or columns != max(shape[1:], default=1) or columns < 1:
        raise _no_output(
            f"output {output!r} has the shape {_shown(shapes[output], rows)}, one row of class scores is needed"
        )
    _check_activation(output, activation, columns)
    if features is not None:
        return Head(output, logits, kind, columns, _tapped(graph, features, shapes))
    frontier, direct = _frontier(graph, logits)
    if not frontier or (activation is None and not direct):
        raise _no_output(
            f"output {output!r} of shape {_shown(shape, rows)} does not come from a linear layer "
            f"(it is computed by {_producer_name(graph, logits)}), so it looks like an embedding or a regression"
        )
    for name in frontier:
        if shapes[name][:1] != (rows,):
            raise _no_output(
                f"the last linear layer reads {name!r} of shape {shapes[name]}, whose first axis are not the rows"
            )
    return Head(output, logits, kind, columns, frontier)


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


def _cut_tail(graph: Graph, output: str, shapes: Shapes) -> tuple[str, str, NodeProto | None]:
    """The tensor before a trailing activation, whether the output was logits or probabilities, and that activation."""
    producers = graph.producers()
    name = output
    passed: list[str] = []
    while (node := producers.get(name)) is not None:
        if node.op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
            if node.op_type != "Sigmoid" and not _over_classes(node, shapes, graph.opset):
                break
            log = (node.op_type == "LogSoftmax") != (sum(op in ("Log", "Exp") for op in passed) % 2 == 1)
            return node.input[0], "logits" if log else "probabilities", node
        if node.op_type not in _TAIL:
            break
        passed.append(node.op_type)
        name = node.input[0]
    return output, "logits", None


def _before_reshapes(graph: Graph, name: str, shapes: Shapes) -> str:
    """Scores before changes of shape that leave the rows alone: logits are flattened here anyway."""
    producers, rows = graph.producers(), shapes[graph.input_names[0]][0]
    while (node := producers.get(name)) is not None and node.op_type in _RESHAPING:
        if shapes[node.input[0]][:1] != (rows,) or shapes[name][:1] != (rows,):
            break
        name = node.input[0]
    return name


def _over_classes(node: NodeProto, shapes: Shapes, opset: int) -> bool:
    """Whether a softmax runs over all of a row's scores."""
    shape = shapes[node.input[0]]
    axis = attribute(node, "axis", -1 if opset >= 13 else 1) % len(shape)
    covered = shape[axis] if opset >= 13 else int(np.prod(shape[axis:]))
    return axis > 0 and covered == int(np.prod(shape[1:]))


def _check_activation(output: str, activation: NodeProto | None, columns: int) -> None:
    if activation is not None and activation.op_type == "Sigmoid" and columns > 1:
        raise UnsupportedModel(
            "multilabel_unsupported",
            f"output {output!r} has {columns} independent sigmoids (several labels may be true at once); "
            "a classifier of exclusive classes is needed: logits or a softmax over the classes",
        )
    if activation is not None and activation.op_type == "Softmax" and columns == 1:
        raise _no_output(f"output {output!r} is a softmax over a single class, which is always 1")


def _frontier(graph: Graph, logits: str) -> tuple[tuple[str, ...], bool]:
    """The inputs of the last linear layers on every path to the logits; whether only harmless operators follow them."""
    producers, derived = graph.producers(), constant_derived(graph)
    found: list[str] = []
    direct, pending, seen = True, [logits], set()
    while pending:
        name = pending.pop()
        if name in seen or name in derived:
            continue
        seen.add(name)
        node = producers.get(name)
        if node is None:
            direct = False
            found.append(name)
        elif (data := linear_input(node, derived)) is not None:
            found.append(data)
        elif node.op_type not in ("Shape", "Size"):
            direct = direct and (node.op_type in _AFTER_HEAD or _before_pool(graph, node))
            pending.extend(_data_inputs(node))
    only_inputs = all(name not in producers for name in found) and not any(
        linear_input(node, derived) is not None for node in graph.cone([logits])
    )
    return (() if only_inputs else tuple(dict.fromkeys(reversed(found)))), direct


def _before_pool(graph: Graph, node: NodeProto) -> bool:
    """SqueezeNet applies its last ReLU between the 1×1 convolution and the pooling."""
    readers = graph.consumers().get(node.output[0], [])
    pools = ("GlobalAveragePool", "ReduceMean", "AveragePool")
    return node.op_type == "Relu" and bool(readers) and all(reader.op_type in pools for reader, _ in readers)


def _data_inputs(node: NodeProto) -> list[str]:
    shape_like = (
        "Reshape",
        "Expand",
        "Slice",
        "Tile",
        "Squeeze",
        "Unsqueeze",
        "ReduceMean",
        "ReduceSum",
        "Split",
        "Pad",
    )
    return list(node.input[:1] if node.op_type in shape_like else node.input)


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
        flat = graph.fresh("fedlas_flat_logits")
        graph.nodes.append(helper.make_node("Flatten", [name], [flat], axis=1))
        name = flat
    if head.columns == 1:
        pair = graph.fresh("fedlas_two_logits")
        weight = graph.add_constant("fedlas_zero_and_logit", np.array([[0.0, 1.0]], np.float32))
        graph.nodes.append(helper.make_node("MatMul", [name, weight], [pair]))
        name = pair
    return name
