"""Normalisation of a graph to one form: constants in one place, inference mode, float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, inliner, numpy_helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Array, Graph, attribute, integer, set_attribute, tensor
from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS
from fedlas.importers.onnx.runtime import is_runtime_node

_MAX_BYTES = 2**31  # as large as a model file can be
_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_ANY_FLOAT = (TensorProto.FLOAT, *_FLOATS)
_OPTIONAL = defs.OpSchema.FormalParameterOption.Optional


def plain_graph(model: ModelProto) -> Graph:
    """The graph without local functions, sorted, its constants in one place; raises UnsupportedModel."""
    if model.graph.sparse_initializer:
        raise UnsupportedModel("unsupported_operator", "the graph has sparse initialisers; export dense ones")
    graph = Graph.from_model(inliner.inline_local_functions(model) if model.functions else model)
    hoist_constants(graph)
    graph.sort()
    return graph


def normalise(model: ModelProto) -> Graph:
    """The graph of `model` in the form that the other modules expect; raises as `plain_graph` does."""
    graph = plain_graph(model)
    forward_identities(graph)
    fold_fills(graph)
    for node in graph.nodes:
        to_inference(node)
    drop_unread_outputs(graph)
    undo_as_strided(graph)
    to_float32(graph)
    return graph


def hoist_constants(graph: Graph) -> None:
    kept = []
    for node in graph.nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS:
            graph.constants[node.output[0]] = _constant_value(node)
        else:
            kept.append(node)
    graph.nodes = kept


_CONSTANT_KINDS: dict[str, Callable[[Any], Array]] = {
    "value": lambda value: np.array(numpy_helper.to_array(value)),
    "value_float": lambda value: np.array(value, np.float32),
    "value_floats": lambda value: np.array(value, np.float32),
    "value_int": lambda value: np.array(value, np.int64),
    "value_ints": lambda value: np.array(value, np.int64),
}


def _constant_value(node: NodeProto) -> Array:
    for item in node.attribute:
        if item.name in _CONSTANT_KINDS:
            return _CONSTANT_KINDS[item.name](helper.get_attribute_value(item))
    raise UnsupportedModel(
        "unsupported_operator", "the graph has Constant nodes that are neither numbers nor dense tensors"
    )


def forward_identities(graph: Graph) -> None:
    """Readers of an Identity's output read its input, unless it is an output of the graph."""
    sources: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        for position, name in enumerate(node.input):
            if name in sources:
                node.input[position] = sources[name]
        if node.op_type == "Identity" and node.domain in STANDARD_DOMAINS and node.output[0] not in graph.outputs:
            sources[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    graph.nodes = kept


def fold_fills(graph: Graph) -> None:
    """ConstantOfShape of a known shape becomes a constant: weights of a constant value are written so.

    Zeros and ones stay: they are padding, masks and first states. Raises UnsupportedModel (`declared_size`).
    """
    total = 0
    for node in graph.nodes:
        value = tensor(node, "value") if node.op_type == "ConstantOfShape" else None
        if value is None or value.data_type not in _ANY_FLOAT or node.input[0] not in graph.constants:
            continue
        fill = _as_float32(numpy_helper.to_array(value)).ravel()[0]
        shape = [int(size) for size in graph.constants[node.input[0]]]
        total += 4 * math.prod(shape)
        if total > _MAX_BYTES:
            raise UnsupportedModel("declared_size", f"the graph fills tensors of {total} bytes with one value")
        if fill not in (0.0, 1.0) and shape:
            graph.constants[node.output[0]] = np.full(shape, fill, np.float32)
    graph.nodes = [node for node in graph.nodes if not node.output or node.output[0] not in graph.constants]


def to_inference(node: NodeProto) -> None:
    """Nodes exported in training mode compute as in inference: statistics that were learned, nothing dropped."""
    if node.op_type in ("BatchNormalization", "Dropout"):
        set_attribute(node, "training_mode", None)
        del node.output[1:]
    if node.op_type == "Dropout":
        del node.input[2:]


def drop_unread_outputs(graph: Graph) -> None:
    """Optional outputs at a node's end that nothing reads: statistics of a LayerNormalization, indices of a MaxPool."""
    read = {name for node in graph.nodes for name in node.input} | set(graph.outputs)
    for node in graph.nodes:
        if len(node.output) > 1 and node.domain in STANDARD_DOMAINS and defs.has(node.op_type):
            schema = defs.get_schema(node.op_type)
            optional = {i for i, value in enumerate(schema.outputs) if value.option == _OPTIONAL}
            while node.output[-1] not in read and len(node.output) - 1 in optional:
                del node.output[-1]


def undo_as_strided(graph: Graph) -> None:
    """Gather(Reshape(x, [-1]), 0…n−1 in some shape), which is how `as_strided` is exported, becomes a Reshape."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.op_type != "Gather" or attribute(node, "axis", 0) != 0 or node.input[1] not in graph.constants:
            continue
        flat, indices = producers.get(node.input[0]), graph.constants[node.input[1]]
        if flat is None or flat.op_type != "Reshape" or len(flat.input) < 2 or indices.size < 2:
            continue
        target = graph.constants.get(flat.input[1])
        if target is not None and target.tolist() == [-1] and np.array_equal(indices.ravel(), np.arange(indices.size)):
            shape = graph.add_constant("fedlas_shape", np.array(indices.shape, np.int64))
            node.CopyFrom(helper.make_node("Reshape", [flat.input[0], shape], [node.output[0]]))


def to_float32(graph: Graph) -> None:
    """Half and double precision become float32; inputs keep their types and are cast where they enter."""
    for name, value in graph.constants.items():
        if value.dtype.name in ("float16", "bfloat16", "float64"):
            graph.constants[name] = _as_float32(value)
    for node in graph.nodes:
        for name in ("to", "dtype"):
            if integer(node, name) in _FLOATS:
                set_attribute(node, name, TensorProto.FLOAT)
        fill = tensor(node, "value")
        if node.op_type == "ConstantOfShape" and fill is not None and fill.data_type in _FLOATS:
            set_attribute(node, "value", numpy_helper.from_array(_as_float32(numpy_helper.to_array(fill))))
    for info in graph.inputs:
        if info.type.tensor_type.elem_type in _FLOATS:
            name = graph.fresh("fedlas_float32")
            graph.replace_input(info.name, name)
            graph.nodes.insert(0, helper.make_node("Cast", [info.name], [name], to=TensorProto.FLOAT))


def _as_float32(value: Array) -> Array:
    """Large finite values (masks of -1.8e308) stay finite."""
    wide = value.astype(np.float64)
    limit = np.finfo(np.float32).max
    return np.asarray(np.where(np.isfinite(wide), np.clip(wide, -limit, limit), wide).astype(np.float32))


def no_gradient(nodes: Iterable[NodeProto]) -> UnsupportedModel:
    """The error that names these nodes' operators as those that stand in the way of training."""
    names = ", ".join(sorted({operator_name(node) for node in nodes}))
    return UnsupportedModel("unsupported_operator", f"the graph uses operators that cannot be trained here: {names}")


def unsupported(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes whose operators neither the table knows nor ONNX Runtime computes node by node."""
    return [node for node in nodes if operator_name(node) not in OPERATORS and not is_runtime_node(node)]
