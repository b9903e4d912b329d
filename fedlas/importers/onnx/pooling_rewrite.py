"""The pooling rewrite: a pooling that follows the last linear layer moves before it, and a row has one feature vector.

A mean over positions, or the choice of one, commutes with a layer that treats every position alike: the result is the
same, and the penultimate features are (N, D) instead of (N, L, D), whatever the length L is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, helper

from fedlas.importers.onnx.frontier import linear_input
from fedlas.importers.onnx.graph import Graph, attribute, set_attribute
from fedlas.importers.onnx.heads import Head
from fedlas.importers.onnx.weight_roles import constant_derived

Shapes = Mapping[str, tuple[int, ...]]


def pool_first(graph: Graph, head: Head, shapes: Shapes) -> bool:
    """Move the pooling where that is possible; returns whether anything has changed."""
    derived = constant_derived(graph)
    linear, feature_axis = _reader(graph, head, shapes, derived)
    if linear is None or feature_axis is None:
        return False
    pool = _pool_after(graph, linear, derived, shapes, feature_axis)
    if pool is not None:
        _swap(graph, linear, pool, head.frontier[0])
    elif choice := _choice_after(graph, linear, derived, shapes, feature_axis):
        _choose_first(graph, linear, choice, head.frontier[0], shapes)
    return pool is not None or bool(choice)


def pool_features(graph: Graph, head: Head, shapes: Shapes) -> str | None:
    """Append the mean over positions of what the last linear layer reads; its name, None where there is one position.

    Where the pooling could not be moved (SqueezeNet has a ReLU before it) the logits need all positions, but a row's
    features are one vector (N, D) all the same.
    """
    _, feature_axis = _reader(graph, head, shapes, constant_derived(graph))
    if feature_axis is None:
        return None
    source, name = head.frontier[0], graph.fresh("fedlas_pooled_features")
    axes = [axis for axis in range(1, len(shapes[source])) if axis != feature_axis]
    if graph.opset < 18:
        graph.nodes.append(helper.make_node("ReduceMean", [source], [name], axes=axes, keepdims=0))
    else:
        places = graph.add_constant("fedlas_positions", np.array(axes, np.int64))
        graph.nodes.append(helper.make_node("ReduceMean", [source, places], [name], keepdims=0))
    return name


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


def _pool_after(
    graph: Graph, linear: NodeProto, derived: set[str], shapes: Shapes, feature_axis: int
) -> NodeProto | None:
    """The pooling that follows the layer and its biases, where nothing else reads what lies between."""
    consumers, name = graph.consumers(), linear.output[0]
    while len(readers := consumers.get(name, [])) == 1 and name not in graph.outputs:
        node, position = readers[0]
        if node.op_type == "Add":
            bias = shapes[node.input[1 - position]]
            axis = feature_axis - len(shapes[name]) + len(bias)
            if node.input[1 - position] not in derived or any(n != 1 for i, n in enumerate(bias) if i != axis):
                return None
        else:
            return node if position == 0 and _pools(graph, node, shapes[name], feature_axis) else None
        name = node.output[0]
    return None


def _choice_after(
    graph: Graph, linear: NodeProto, derived: set[str], shapes: Shapes, feature_axis: int
) -> list[NodeProto]:
    """The nodes that pick one position a row after the layer and its biases (the last token of a text), or none."""
    consumers, name, chosen = graph.consumers(), linear.output[0], list[NodeProto]()
    if feature_axis != len(shapes[name]) - 1:
        return []
    while name not in graph.outputs:
        readers = [(node, i) for node, i in consumers.get(name, []) if node.op_type != "Shape" or node.attribute]
        if len(readers) != 1:
            return []
        (node, position), axis = readers[0], len(shapes[name]) - 1
        if node.op_type == "Add" and not chosen:
            bias = node.input[1 - position]
            if bias not in derived or int(np.prod(shapes[bias][:-1])) != 1:
                return []
        elif position == 0 and node.op_type == "Flatten" and attribute(node, "axis", 1) % len(shapes[name]) == axis:
            chosen.append(node)
        elif position == 0 and _picks(node, shapes, axis):
            return [*chosen, node] if len(shapes[node.output[0]]) == 2 else []
        else:
            return []
        name = node.output[0]
    return []


def _picks(node: NodeProto, shapes: Shapes, feature_axis: int) -> bool:
    """Whether the node picks positions, whole with their features."""
    if node.op_type == "Gather":
        return bool(attribute(node, "axis", 0) % (feature_axis + 1) != feature_axis)
    depth = attribute(node, "batch_dims", 0) + shapes[node.input[1]][-1] if node.op_type == "GatherND" else 0
    return bool(depth == feature_axis)


def _choose_first(graph: Graph, linear: NodeProto, choice: list[NodeProto], features: str, shapes: Shapes) -> None:
    """Pick positions of the features instead of positions of the scores; their shape is still asked for."""
    before, after = choice[0].input[0], choice[-1].output[0]
    pooled, columns = graph.fresh("fedlas_pooled"), shapes[before][-1]
    consumers = graph.consumers()
    readers = [node for name in {linear.output[0], before} for node, _ in consumers.get(name, [])]
    for node in (reader for reader in readers if reader.op_type == "Shape"):
        last = graph.add_constant("fedlas_columns", np.array([columns], np.int64))
        lengths, leading = graph.fresh("fedlas_lengths"), graph.fresh("fedlas_lengths")
        places = graph.add_constant("fedlas_places", np.arange(len(shapes[before]) - 1, dtype=np.int64))
        graph.nodes += [
            helper.make_node("Shape", [features], [lengths]),
            helper.make_node("Gather", [lengths, places], [leading]),
            helper.make_node("Concat", [leading, last], [node.output[0]], axis=0),
        ]
        graph.nodes.remove(node)
    graph.replace_input(after, before)
    choice[0].input[0], choice[-1].output[0] = features, pooled
    linear.input[list(linear.input).index(features)] = pooled
    graph.sort()


def _pools(graph: Graph, node: NodeProto, shape: tuple[int, ...], feature_axis: int) -> bool:
    """Whether the node averages over positions, or picks one, and leaves rows and features alone."""
    kept = {0, feature_axis}
    if node.op_type == "GlobalAveragePool":
        return feature_axis == 1
    if node.op_type == "Gather" and feature_axis != 1:
        index = graph.constants.get(node.input[1])
        return index is not None and index.size == 1 and attribute(node, "axis", 0) % len(shape) not in kept
    if node.op_type == "ReduceMean":
        axes = attribute(node, "axes") or (graph.constants[node.input[1]].tolist() if _known(graph, node) else [])
        found = {axis % len(shape) for axis in axes}
        everything = found == set(range(len(shape))) - kept
        return everything if feature_axis == 1 else bool(found) and not found & kept
    return False


def _known(graph: Graph, node: NodeProto) -> bool:
    return len(node.input) > 1 and node.input[1] in graph.constants


def _swap(graph: Graph, linear: NodeProto, pool: NodeProto, features: str) -> None:
    before, after = pool.input[0], pool.output[0]
    pooled = graph.fresh("fedlas_pooled")
    flattens = linear.op_type == "Conv" and pool.op_type == "ReduceMean" and not attribute(pool, "keepdims", 1)
    if flattens:
        set_attribute(pool, "keepdims", 1)
        graph.nodes.append(helper.make_node("Flatten", [before], [after], axis=1))
    else:
        graph.replace_input(after, before)
    pool.input[0], pool.output[0] = features, pooled
    place = list(linear.input).index(features)
    linear.input[place] = pooled
    graph.sort()
