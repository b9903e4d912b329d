"""The head of a classifier: its logits, and the inputs of its last linear layers as its features.

A pooling that follows the last linear layer moves before it: a mean over positions, or the choice of one, commutes with
a layer that treats every position alike, and the features are then (N, D) instead of (N, L, D), whatever L is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph, Shapes, attribute, constant_derived, integers, set_attribute
from fedlas.importers.onnx.train.output_activation import (
    AFTER_HEAD,
    LINEAR,
    OutputActivation,
    before_layout,
    find_frontier,
    find_output_activation,
    is_distribution,
    labelled_scores,
    linear_input,
)

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
        activation: the `"Softmax"` or `"Sigmoid"` between the scores and the output, where there is one.
        labels: the output of the graph, where that holds labels alone; `output` are then the scores before it.
    """

    output: str
    logits: str
    kind: str
    columns: int
    frontier: tuple[str, ...]
    positive: int = 1
    mixture: bool = False
    activation: str | None = None
    labels: str | None = None


def find_head(
    graph: Graph,
    output: str,
    shapes: Shapes,
    features: str | None = None,
    *,
    examples: Mapping[str, Tensor] | None = None,
) -> Head:
    """Read the end of `graph` backwards from `output`; raises UnsupportedModel (`no_classifier_output`, …).

    Args:
        shapes: the shape of every tensor for some number of rows.
        features: the tensor to tap, where the caller knows better.
        examples: rows on which the graph may be run, to see whether an output of unknown making holds probabilities.
    """
    rows = shapes[graph.input_names[0]][0]
    activation = find_output_activation(graph, output, shapes)
    logits = before_layout(graph, activation.scores, shapes)
    columns = _columns(output, logits, shapes, rows)
    _check_activation(output, activation, columns)
    frontier, direct = find_frontier(graph, logits, shapes)
    mixture = (
        activation.function is None
        and bool(frontier)
        and examples is not None
        and not (direct and _is_plain(graph, logits, frontier))
        and is_distribution(graph, logits, examples)
    )
    settled = bool(frontier) and (direct or activation.function is not None)
    if not (settled or mixture) and (features is None or not frontier):
        producer = graph.producers().get(logits)
        raise _no_output(
            f"output {output!r} of shape {_shown(shapes[logits], rows)} does not come from a linear layer (it is "
            f"computed by {'nothing' if producer is None else producer.op_type}), so it looks like an embedding or a "
            "regression"
        )
    if features is not None:
        if features not in shapes or features in graph.constants:
            near = ", ".join(sorted(name for node in graph.nodes[-12:] for name in node.output if name))
            raise UnsupportedModel(
                "unknown_features", f"the graph has no tensor {features!r}; its last ones are {near}"
            )
        frontier = (features,)
    for name in frontier:
        if shapes[name][:1] != (rows,):
            raise _no_output(
                f"the last linear layer reads {name!r} of shape {shapes[name]}, whose first axis are not the rows"
            )
    kind = "probabilities" if mixture else activation.kind
    return Head(output, logits, kind, columns, frontier, activation.positive, mixture, activation.function)


def choose_head(
    graph: Graph, shapes: Shapes, output: str | None, features: str | None, examples: Mapping[str, Tensor]
) -> Head:
    """The one head of the graph's outputs, or the last of several that lead to each other; raises UnsupportedModel."""
    heads: dict[str, Head] = {}
    failures: list[UnsupportedModel] = []
    for name in graph.outputs:
        try:
            head = find_head(graph, name, shapes, features, examples=examples)
        except UnsupportedModel as failure:
            failures.append(failure)
        else:
            heads.setdefault(head.logits, head)
    if not heads:  # labels alone: the scores that they were picked from lie before them
        for name in graph.outputs:
            if (scores := labelled_scores(graph, name, shapes)) is not None:
                return replace(find_head(graph, scores, shapes, features, examples=examples), labels=name)
        raise failures[0]
    last = [head for head in heads.values() if all(_leads_to(graph, other, head) for other in heads.values())]
    if len(last) != 1:
        names = [head.output for head in heads.values()]
        raise UnsupportedModel(
            "several_outputs", f"several outputs look like class scores: {names}; pass output= to choose one"
        )
    return last[0]


def _leads_to(graph: Graph, other: Head, head: Head) -> bool:
    """True where `other` is a step on the way to `head`, as scores before a further layer's are, and embeddings."""
    if other is head:
        return True
    if other.kind == "probabilities":
        return False
    if other.frontier == head.frontier and head.kind == "probabilities":
        return True
    # A calibrator of ours may read the features beside the logits, whose classes are its own.
    beside = other.frontier if other.columns == head.columns else ()
    read = {name for node in graph.cone([head.logits], stop=[other.logits, *beside]) for name in node.input}
    return other.logits in read and read.isdisjoint(graph.input_names)


def _is_plain(graph: Graph, logits: str, frontier: Sequence[str]) -> bool:
    """True where only sums and layouts follow the last linear layers, so that probabilities cannot come of them."""
    nodes = graph.cone([logits], stop=frontier)
    return all(node.op_type in (*LINEAR, *AFTER_HEAD) and node.op_type != "Div" for node in nodes)


def _columns(output: str, logits: str, shapes: Shapes, rows: int) -> int:
    shape = shapes[logits]
    columns = int(np.prod(shape[1:]))
    if not shape or shape[0] != rows or columns != max(shape[1:], default=1) or columns < 1:
        raise _no_output(
            f"output {output!r} has the shape {_shown(shapes[output], rows)}, one row of class scores is needed"
        )
    return columns


def _no_output(reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        "no_classifier_output",
        f"{reason}; a classifier has an output (N, K) of logits or probabilities after a linear layer",
    )


def _shown(shape: tuple[int, ...], rows: int) -> str:
    return "(" + ", ".join("N" if i == 0 and n == rows else str(n) for i, n in enumerate(shape)) + ")"


def _check_activation(output: str, activation: OutputActivation, columns: int) -> None:
    if activation.function == "Sigmoid" and columns > 1:
        raise UnsupportedModel(
            "multilabel_unsupported",
            f"output {output!r} has {columns} independent sigmoids (several labels may be true at once); "
            "a classifier of exclusive classes is needed: logits or a softmax over the classes",
        )
    if activation.function == "Softmax" and columns == 1:
        raise _no_output(f"output {output!r} is a softmax over a single class, which is always 1")


def check_head_alone(graph: Graph, logits: str, frontier: Sequence[str]) -> None:
    """The features must be all that the logits depend on; raises UnsupportedModel (`unknown_features`)."""
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
        name = graph.append("Flatten", [name], "fedlas_logits", axis=1)
    if head.columns == 1:
        pair = [[0.0, 1.0]] if head.positive == 1 else [[1.0, 0.0]]
        weight = graph.add_constant("fedlas_zero_and_logit", np.array(pair, np.float32))
        name = graph.append("MatMul", [name, weight], "fedlas_logits")
    if head.mixture:
        tiny = graph.add_constant("fedlas_tiny", np.array(_TINY, np.float32))
        name = graph.append("Log", [graph.append("Add", [name, tiny], "fedlas_logits")], "fedlas_logits")
    return name


def check_task(head: Head, task: str | None) -> None:
    """The columns of the scores fit the task that the owner says; raises UnsupportedModel (`ambiguous_output`)."""
    if head.columns == 1 and head.kind == "logits" and task != "binary":
        raise UnsupportedModel(
            "ambiguous_output",
            f"output {head.output!r} is one column without a sigmoid: a binary classifier's logit or a regression; "
            "pass task='binary' if it is a logit",
        )
    if head.columns > 2 and task == "binary":
        raise UnsupportedModel(
            "ambiguous_output", f"task='binary', but output {head.output!r} has {head.columns} columns"
        )


def pool_first(graph: Graph, head: Head, shapes: Shapes) -> bool:
    """Move the pooling where that is possible; returns whether anything has changed."""
    derived = constant_derived(graph)
    linear, feature_axis = _reader(graph, head, shapes, derived)
    if linear is None or feature_axis is None:
        return False
    if pooling := _pooling_after(graph, linear, derived, shapes, feature_axis):
        _move(graph, linear, pooling, head.frontier[0], shapes)
    return bool(pooling)


def pool_features(graph: Graph, head: Head, shapes: Shapes) -> str | None:
    """Append the mean over positions of what the last linear layer reads; its name, None where there is one position.

    So features are (N, D) also where the pooling could not be moved (SqueezeNet has a ReLU before it).
    """
    _, feature_axis = _reader(graph, head, shapes, constant_derived(graph))
    if feature_axis is None:
        return None
    source = head.frontier[0]
    axes = [axis for axis in range(1, len(shapes[source])) if axis != feature_axis]
    return graph.reduce("ReduceMean", source, axes, "fedlas_pooled_features")


def _reader(graph: Graph, head: Head, shapes: Shapes, derived: set[str]) -> tuple[NodeProto | None, int | None]:
    """The linear layer that reads several positions of one tensor, and the axis of their features, where both exist."""
    if len(head.frontier) != 1 or int(np.prod(shapes[head.frontier[0]][2:])) <= 1:
        return None, None
    readers = graph.consumers().get(head.frontier[0], [])
    linear = next((node for node, _ in readers if linear_input(node, derived) == head.frontier[0]), None)
    return linear, None if linear is None else _feature_axis(linear, derived, shapes)


def _feature_axis(linear: NodeProto, derived: set[str], shapes: Shapes) -> int | None:
    """The axis of the features where the layer treats the positions on all other axes alike."""
    if linear.op_type == "MatMul" and linear.input[1] in derived and len(shapes[linear.input[1]]) == 2:
        return len(shapes[linear.input[0]]) - 1
    if linear.op_type == "Conv" and set(shapes[linear.input[1]][2:]) == {1}:
        moves = any(attribute(linear, "pads", [0])) or set(attribute(linear, "strides", [1])) != {1}
        return None if moves or attribute(linear, "auto_pad", b"NOTSET").startswith(b"SAME") else 1
    return None


def _pooling_after(
    graph: Graph, linear: NodeProto, derived: set[str], shapes: Shapes, feature_axis: int
) -> list[NodeProto]:
    """Nodes after the layer and its biases: a pooling, or the choice of a position a row, flattened before it or not.

    None where anything else reads what lies between, but for its shape where features come last.
    """
    consumers, name, pooling = graph.consumers(), linear.output[0], list[NodeProto]()
    features_last = feature_axis == len(shapes[name]) - 1
    while name not in graph.outputs:
        readers = consumers.get(name, [])
        readers = [(node, i) for node, i in readers if not features_last or node.op_type != "Shape" or node.attribute]
        if len(readers) != 1:
            return []
        (node, position), axis = readers[0], len(shapes[name]) - 1
        if node.op_type == "Add" and not pooling:
            bias = node.input[1 - position]
            own = feature_axis - len(shapes[name]) + len(shapes[bias])
            if bias not in derived or any(n != 1 for i, n in enumerate(shapes[bias]) if i != own):
                return []
        elif position == 0 and not pooling and _pools(graph, node, shapes[name], feature_axis):
            return [node]
        elif position or not features_last:
            return []
        elif node.op_type == "Flatten" and attribute(node, "axis", 1) % (axis + 1) == axis:
            pooling.append(node)
        else:
            return [*pooling, node] if _picks(node, shapes, axis) and len(shapes[node.output[0]]) == 2 else []
        name = node.output[0]
    return []


def _picks(node: NodeProto, shapes: Shapes, feature_axis: int) -> bool:
    """True where the node picks positions, whole with their features."""
    if node.op_type == "Gather":
        return bool(attribute(node, "axis", 0) % (feature_axis + 1) != feature_axis)
    depth = attribute(node, "batch_dims", 0) + shapes[node.input[1]][-1] if node.op_type == "GatherND" else 0
    return bool(depth == feature_axis)


def _pools(graph: Graph, node: NodeProto, shape: tuple[int, ...], feature_axis: int) -> bool:
    """True where the node averages over positions, or picks one, and leaves rows and features alone."""
    kept = {0, feature_axis}
    if node.op_type == "GlobalAveragePool":
        return feature_axis == 1
    if node.op_type == "Gather" and feature_axis != 1:
        index = graph.constants.get(node.input[1])
        return index is not None and index.size == 1 and attribute(node, "axis", 0) % len(shape) not in kept
    if node.op_type == "ReduceMean":
        known = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        axes = integers(node, "axes") or ([] if known is None else known.tolist())
        averaged = {axis % len(shape) for axis in axes}
        everything = averaged == set(range(len(shape))) - kept
        return everything if feature_axis == 1 else bool(averaged) and not averaged & kept
    return False


def _move(graph: Graph, linear: NodeProto, pooling: list[NodeProto], features: str, shapes: Shapes) -> None:
    """Let the pooling read the features, and the layer what is pooled; what asks for the shape between is answered."""
    before, after = pooling[0].input[0], pooling[-1].output[0]
    pooled, consumers = graph.fresh("fedlas_pooled"), graph.consumers()
    readers = [node for name in {linear.output[0], before} for node, _ in consumers.get(name, [])]
    for node in (reader for reader in readers if reader.op_type == "Shape"):
        columns = graph.add_constant("fedlas_columns", np.array([shapes[before][-1]], np.int64))
        places = graph.add_constant("fedlas_places", np.arange(len(shapes[before]) - 1))
        sizes = graph.append("Shape", [features], "fedlas_lengths")
        leading = graph.append("Gather", [sizes, places], "fedlas_lengths")
        graph.append("Concat", [leading, columns], output=node.output[0], axis=0)
        graph.nodes.remove(node)
    if linear.op_type == "Conv" and pooling[0].op_type == "ReduceMean" and not attribute(pooling[0], "keepdims", 1):
        set_attribute(pooling[0], "keepdims", 1)
        graph.append("Flatten", [before], output=after, axis=1)
    else:
        graph.replace_input(after, before)
    pooling[0].input[0], pooling[-1].output[0] = features, pooled
    linear.input[list(linear.input).index(features)] = pooled
    graph.sort()
