"""The pooling rewrite: a pooling that follows the last linear layer moves before it, and a row has one feature vector.

A mean over positions, or the choice of one, commutes with a layer that treats every position alike: the result is the
same, and the penultimate features are (N, D) instead of (N, L, D), whatever the length L is.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from fedlas.importers.onnx.frontier import linear_input
from fedlas.importers.onnx.graph import Graph, Shapes, attribute, integers, set_attribute
from fedlas.importers.onnx.heads import Head
from fedlas.importers.onnx.weight_roles import constant_derived


def pool_first(graph: Graph, head: Head, shapes: Shapes) -> bool:
    """Move the pooling where that is possible; returns whether anything has changed."""
    derived = constant_derived(graph)
    linear, feature_axis = _reader(graph, head, shapes, derived)
    if linear is None or feature_axis is None:
        return False
    pooling = _pooling_after(graph, linear, derived, shapes, feature_axis)
    if pooling:
        _move(graph, linear, pooling, head.frontier[0], shapes)
    return bool(pooling)


def pool_features(graph: Graph, head: Head, shapes: Shapes) -> str | None:
    """Append the mean over positions of what the last linear layer reads; its name, None where there is one position.

    Where the pooling could not be moved (SqueezeNet has a ReLU before it) the logits need all positions, but a row's
    features are one vector (N, D) all the same.
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
    """What follows the layer and its biases: a pooling, or the choice of a position a row, flattened before it or not.

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
    """Whether the node picks positions, whole with their features."""
    if node.op_type == "Gather":
        return bool(attribute(node, "axis", 0) % (feature_axis + 1) != feature_axis)
    depth = attribute(node, "batch_dims", 0) + shapes[node.input[1]][-1] if node.op_type == "GatherND" else 0
    return bool(depth == feature_axis)


def _pools(graph: Graph, node: NodeProto, shape: tuple[int, ...], feature_axis: int) -> bool:
    """Whether the node averages over positions, or picks one, and leaves rows and features alone."""
    kept = {0, feature_axis}
    if node.op_type == "GlobalAveragePool":
        return feature_axis == 1
    if node.op_type == "Gather" and feature_axis != 1:
        index = graph.constants.get(node.input[1])
        return index is not None and index.size == 1 and attribute(node, "axis", 0) % len(shape) not in kept
    if node.op_type == "ReduceMean":
        known = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        axes = integers(node, "axes") or ([] if known is None else known.tolist())
        found = {axis % len(shape) for axis in axes}
        everything = found == set(range(len(shape))) - kept
        return everything if feature_axis == 1 else bool(found) and not found & kept
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
