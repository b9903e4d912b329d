"""Which constants of a graph are weights: told by their role in the graph, never by their names; it trains nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
from onnx import NodeProto

from fedlas.importers.onnx.graph import Array, Graph

Shapes = Mapping[str, tuple[int, ...]]

#: How the constants begin that are added to a graph here or by an earlier export; they are never weights.
OURS = "fedlas_"

# Inputs that are weights whatever else is known.
_WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "PRelu": (1,),
}
# Operators that combine a weight (bias, layer scale, position embedding, class token) with what was learned before.
_COMBINING = ("Add", "Mul", "Sub", "Concat")
# Operators that only rearrange their first input.
_TRANSPARENT = ("Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Cast", "Slice",
                "Gather", "Split", "Tile", "Concat", "Pad")  # fmt: skip


def unshare(graph: Graph) -> None:
    """Give every layer that reads a float constant its own copy, also behind operators that only rearrange it.

    Exporters merge initialisers that are equal (two fresh LayerNorms), and merged layers would stay tied in training.
    Nodes that compute a weight from constants (its norm, its standardised form) keep sharing what they read.
    """
    rearranged = {name for name, value in graph.constants.items() if value.dtype == np.float32 and value.ndim}
    data = data_dependent(graph)
    movers: list[NodeProto] = []
    shares: set[int] = set()
    for node in graph.nodes:
        if any(name in data for name in node.input):
            continue
        if node.op_type in _TRANSPARENT and len(node.output) == 1 and node.input[0] in rearranged:
            rearranged.update(node.output)
            movers.append(node)
        else:
            shares.add(id(node))
    for node in reversed(movers):
        if _clone_per_layer(graph, node, shares):
            shares.add(id(node))
    for name, readers in graph.consumers().items():
        value = graph.constants.get(name)
        if value is None or value.dtype != np.float32 or value.ndim == 0:
            continue
        for node, position in _layers_to_part(readers, shares):
            node.input[position] = graph.add_constant(name, value)


def _layers_to_part(readers: list[tuple[NodeProto, int]], shares: set[int]) -> list[tuple[NodeProto, int]]:
    """The readers that need a copy: all layers, less one where nobody shares the original."""
    layers = [(node, position) for node, position in readers if id(node) not in shares]
    return layers if len(layers) < len(readers) else layers[1:]


def _clone_per_layer(graph: Graph, node: NodeProto, shares: set[int]) -> bool:
    """Clone a rearranging node for each layer that reads it; returns whether the original serves a computation."""
    readers = graph.consumers().get(node.output[0], [])
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    for reader, position in _layers_to_part(readers, shares):
        clone = copy.deepcopy(node)
        clone.name = ""
        clone.output[0] = reader.input[position] = graph.fresh(node.output[0])
        graph.nodes.insert(place, clone)
    return any(id(reader) in shares for reader, _ in readers)


def constant_derived(graph: Graph) -> set[str]:
    """The names of tensors that no input can change, not even by its shape."""
    derived = {"", *graph.constants}
    for node in graph.nodes:
        if node.input and all(name in derived for name in node.input):
            derived.update(node.output)
    return derived


def find_weights(graph: Graph, shapes: Shapes) -> set[str]:
    """The names of the constants that are weights.

    Weights of layers count always; operands of Add, Mul, Sub and Concat where the other operand was learned, or where
    they widen a raw input (a tokeniser of numbers does, a scaler of inputs does not). Single numbers, masks, sinusoidal
    positions and values of 1e4 and more are constants.
    """
    origins: dict[str, set[str]] = {
        n: {n} for n, v in graph.constants.items() if v.dtype == np.float32 and not n.startswith(OURS)
    }
    moved = dict(origins)  # as `origins`, but only through operators that rearrange: a computed mask is no weight
    weights: set[str] = set()
    learned: set[str] = set()
    data = data_dependent(graph)
    for node in graph.nodes:
        for position, name in enumerate(node.input):
            if name in origins and _is_strong(graph, node, position, data):
                weights |= {n for n in origins[name] if n == name or graph.constants[n].size > 1}
            elif name in moved and _is_operand(node, position, learned, data, shapes):
                bias = _follows_product(graph, node)
                weights |= {n for n in moved[name] if _could_be_weight(graph.constants[n], bias and n == name)}
        if any(name in learned or origins.get(name, set()) & weights for name in node.input):
            learned.update(node.output)
        if node.input and not any(name in data for name in node.input):
            _pass_on(node, origins, node.input)
            _pass_on(node, moved, node.input if node.op_type in _TRANSPARENT else [])
    return weights


def _pass_on(node: NodeProto, origins: dict[str, set[str]], inputs: Iterable[str]) -> None:
    sources = set().union(*(origins.get(name, set()) for name in inputs))
    if sources:
        origins.update(dict.fromkeys(node.output, sources))


def data_dependent(graph: Graph) -> set[str]:
    """The names of tensors that the values of the inputs can change (a shape alone does not)."""
    dependent = set(graph.input_names)
    for node in graph.nodes:
        if node.op_type not in ("Shape", "Size") and any(name in dependent for name in node.input):
            dependent.update(node.output)
    return dependent


def _is_strong(graph: Graph, node: NodeProto, position: int, data: set[str]) -> bool:
    if node.op_type == "Gather":  # an embedding, looked up by an input
        table = graph.constants.get(node.input[0])
        return position == 0 and node.input[1] in data and (table is None or (table.ndim == 2 and _varied(table)))
    if node.op_type == "InstanceNormalization" and _is_group_norm(graph, node):
        return False
    return position in _WEIGHT_INPUTS.get(node.op_type, ()) and any(name in data for name in node.input)


def _is_group_norm(graph: Graph, node: NodeProto) -> bool:
    """Exporters write a GroupNorm as an InstanceNormalization of ones and zeros, its weights come after it."""
    scale, bias = (graph.constants.get(name) for name in node.input[1:3])
    producer = graph.producers().get(node.input[0])
    plain = scale is not None and bias is not None and bool(np.all(scale == 1)) and not np.any(bias)
    return plain and producer is not None and producer.op_type == "Reshape"


def _is_operand(node: NodeProto, position: int, learned: set[str], data: set[str], shapes: Shapes) -> bool:
    if node.op_type not in _COMBINING:
        return False
    others = [name for i, name in enumerate(node.input) if i != position]
    if any(name in learned for name in others):
        return True
    widened = shapes.get(node.output[0], ()) != next((shapes.get(name) for name in others if name in data), ())
    return node.op_type == "Mul" and any(name in data for name in others) and widened


def _follows_product(graph: Graph, node: NodeProto) -> bool:
    """A bias of one element is a weight where it follows a product."""
    producers = graph.producers()
    return any(name in producers and producers[name].op_type == "MatMul" for name in node.input)


def _could_be_weight(value: Array, single: bool) -> bool:
    if value.size < 2 and not (single and value.ndim > 0 and value.size == 1):
        return False
    return bool(np.all(np.isfinite(value)) and np.abs(value).max() < 1e4) and _varied(value)


def _varied(value: Array) -> bool:
    """False for masks (two values, one of them zero) and for sinusoidal tables (sin² + cos² = 1 in every row)."""
    if (
        value.size >= 16
        and len(distinct := np.unique(value[..., :64])) == 2
        and 0 in distinct
        and len(np.unique(value)) == 2
    ):
        return False
    width = value.shape[-1]
    if value.ndim < 2 or width < 4 or width % 2:
        return True
    return not np.allclose(np.square(value).sum(-1), width / 2, rtol=1e-3)
