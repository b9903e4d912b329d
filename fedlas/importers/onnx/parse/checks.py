"""Checks of an ONNX file: its bytes before they are parsed, then names, order, functions, sizes and weights.

Two bytes of a file can become an object of hundreds in memory, so parts are counted on the bytes, along the fields that
ONNX defines. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import numpy as np
from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.table import words

#: The largest classifiers that exporters write stay below ten thousand nodes; importing takes about 1 ms for each.
MAX_NODES = 20_000
_MAX_PARTS = 1_000_000
#: An element of a list may be a field of its own, in files of very old writers and in trees of many nodes.
_MAX_FIELDS = 20_000_000
#: Model, graph, node, attribute, tensor; each nested graph adds three. The parser itself gives up at 100.
_MAX_DEPTH = 60
_NUMBER = 0
_EIGHT_BYTES = 1
_SIZED = 2
_FOUR_BYTES = 5
_MAX_NAME = 1000
#: Attributes that say how large something is, and the largest product of their numbers: a pooling window of 4096².
_SIZES = words(
    "kernel_shape pads strides dilations output_padding output_shape hidden_size blocksize size group num_heads"
)
_MAX_SIZE_PRODUCT = 2**24
_CONTENTS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
#: Operators whose constant inputs are weights: no infinity there means "masked", as it does elsewhere.
_WEIGHTED = words(
    "Conv ConvTranspose Gemm MatMul BatchNormalization LayerNormalization InstanceNormalization GroupNormalization "
    "RMSNormalization PRelu LSTM GRU RNN Einsum FusedConv FusedMatMul FusedGemm Attention"
)
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_PARTS_OF_A_BYTE = {
    value: 2 if name.endswith(("INT4", "FLOAT4E2M1")) else 4
    for name, value in TensorProto.DataType.items()
    if name.endswith(("INT4", "FLOAT4E2M1", "INT2"))
}


def survey(content: bytes) -> None:
    """Refuse what would take far more memory or depth than any classifier.

    Raises:
        UnsupportedModel: `too_many_nodes`, `too_deep`.
        DecodeError: the bytes are no message, or end before it does.
    """
    position, end, message = 0, len(content), ModelProto.DESCRIPTOR
    outer: list[tuple[int, Descriptor]] = []  # ends and kinds of the messages around this one
    nodes = parts = fields = 0
    while position < end or outer:
        if position >= end:
            _within(position, end)
            end, message = outer.pop()
            continue
        fields += 1
        if fields > _MAX_FIELDS:
            break
        tag, position = _varint(content, position, end)
        kind = tag & 7
        if kind == _SIZED:
            size, position = _varint(content, position, end)
            field = message.fields_by_number.get(tag >> 3)
            if field is None or field.message_type is None:
                position += size
                continue
            parts += 1
            nodes += field.message_type is NodeProto.DESCRIPTOR
            _check(parts, fields, len(outer))
            _within(position + size, end)
            outer.append((end, message))
            end, message = position + size, field.message_type
        elif kind == _NUMBER:
            _, position = _varint(content, position, end)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise DecodeError("a group, which ONNX does not use")
    _within(position, end)
    _check(parts, fields, len(outer))
    if nodes > MAX_NODES:
        raise UnsupportedModel("too_many_nodes", f"the graph has {nodes:,} nodes; at most {MAX_NODES:,} can be opened")


def _within(position: int, end: int) -> None:
    if position > end:
        raise DecodeError("a field reaches beyond its message")


def _check(parts: int, fields: int, depth: int) -> None:
    """Refuse a file by the limits that end the count: how much lies beyond them is not known; nodes are all counted."""
    if parts > _MAX_PARTS:
        raise UnsupportedModel(
            "too_many_nodes",
            f"the graph has more than {_MAX_PARTS:,} parts (nodes, attributes, tensors, descriptions), the most that "
            f"can be opened; classifiers have at most {MAX_NODES:,} nodes",
        )
    if fields > _MAX_FIELDS:
        raise UnsupportedModel(
            "too_many_nodes",
            f"the file has more than {_MAX_FIELDS:,} values in lists that are not packed (for example those of a "
            "tree ensemble), the most that can be opened; send fewer or smaller trees",
        )
    if depth > _MAX_DEPTH:
        raise UnsupportedModel(
            "too_deep", f"graphs are nested more than {_MAX_DEPTH} levels deep; a classifier needs no nested graphs"
        )


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the place after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("a number that does not end")


def check_names(model: ModelProto) -> None:
    """Refuse names that no exporter writes: they end in logs and records; raises UnsupportedModel (`bad_name`)."""
    for name in _names(model):
        if len(name) > _MAX_NAME or not name.isprintable():
            shown = "".join(character if character.isprintable() else "?" for character in name[:40])
            raise UnsupportedModel(
                "bad_name",
                f"the name {shown!r}… has {len(name)} characters; names must be printable and at most "
                f"{_MAX_NAME} characters long",
            )


def _names(model: ModelProto) -> Iterator[str]:
    graph = model.graph
    yield from (info.name for info in [*graph.input, *graph.output, *graph.value_info])
    yield from (tensor.name for tensor in graph.initializer)
    for node in every_node(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def every_node(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes, also those of functions and nested graphs."""
    return (message for message in _every(model) if isinstance(message, NodeProto))


def every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors wherever they hide: nested graphs, attributes, functions, sparse tensors, training graphs."""
    return (message for message in _every(model) if isinstance(message, TensorProto))


def _every(message: Message) -> Iterator[Message]:
    pending = [message]
    while pending:
        part = pending.pop()
        yield part
        if isinstance(part, TensorProto):
            continue  # listing its fields would copy its content
        for field, value in part.ListFields():
            if field.message_type is not None:
                pending.extend([value] if hasattr(value, "ListFields") else value)


def check_order(graph: GraphProto) -> None:
    """Every tensor is made once, and none from itself; raises UnsupportedModel (`duplicate_name`, `cyclic_graph`)."""
    outputs = [name for node in graph.node for name in node.output if name]
    for names in (outputs, [tensor.name for tensor in graph.initializer]):
        if doubled := [name for name, count in Counter(names).items() if count > 1]:
            raise UnsupportedModel("duplicate_name", f"the tensor {doubled[0]!r} is made more than once in the graph")
    given = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    both = given & set(outputs)
    if both:
        raise UnsupportedModel("duplicate_name", f"the tensor {min(both)!r} is given to the graph and made in it, too")
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {index: [makers[name] for name in node.input if name in makers] for index, node in enumerate(graph.node)}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        node = graph.node[error.args[1][0]]
        raise UnsupportedModel(
            "cyclic_graph", f"the node {node.name or node.op_type!r} needs what is made from it"
        ) from error


def check_functions(model: ModelProto) -> None:
    """Local functions, written out, end and stay small; raises UnsupportedModel (`cyclic_graph`, `too_many_nodes`)."""
    functions = {_key(function): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    total = sum(_written_out(node, functions, sizes, ()) for node in model.graph.node) if functions else 0
    if total > MAX_NODES:
        raise UnsupportedModel(
            "too_many_nodes",
            f"the graph's functions, written out, have {total:,} nodes; at most {MAX_NODES:,} can be opened",
        )


def _key(item: FunctionProto | NodeProto) -> tuple[str, str]:
    return item.domain, item.name if isinstance(item, FunctionProto) else item.op_type


def _written_out(
    node: NodeProto,
    functions: dict[tuple[str, str], FunctionProto],
    sizes: dict[tuple[str, str], int],
    callers: tuple[tuple[str, str], ...],
) -> int:
    if (key := _key(node)) not in functions:
        return 1
    if key in callers or len(callers) > 50:
        raise UnsupportedModel(
            "cyclic_graph", f"the function {key[1]!r} calls itself, or functions are nested too deep"
        )
    if key not in sizes:
        sizes[key] = sum(_written_out(inner, functions, sizes, (*callers, key)) for inner in functions[key].node)
    return sizes[key]


def check_attributes(model: ModelProto) -> None:
    """Refuse windows, strides and states that take too long to run over; raises UnsupportedModel (`declared_size`)."""
    for node in every_node(model):
        for attribute in node.attribute:
            product = math.prod(max(1, abs(n)) for n in [attribute.i, *attribute.ints])
            if attribute.name in _SIZES and product > _MAX_SIZE_PRODUCT:
                raise UnsupportedModel(
                    "declared_size",
                    f"{node.op_type} has {attribute.name} = {[*attribute.ints] or attribute.i}; "
                    f"sizes whose product is at most {_MAX_SIZE_PRODUCT:,} can be opened",
                )


def check_size(tensor: TensorProto) -> None:
    """A tensor holds as much as its shape says; raises UnsupportedModel (`corrupt`)."""
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.ByteSize():
        return  # an empty message, as `sparse_tensor` holds one where there is none
    count = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims) or (count == 0 and max(tensor.dims) > 2**31):
        raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} has the shape {tuple(tensor.dims)}")
    if tensor.HasField("segment"):
        raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} is one of several segments, which cannot be read")
    held, needed = sum(len(getattr(tensor, kind)) for kind in _CONTENTS), count
    if is_raw := tensor.HasField("raw_data"):
        held = len(tensor.raw_data)
    if tensor.data_type in _PARTS_OF_A_BYTE:
        needed = -(-count // _PARTS_OF_A_BYTE[tensor.data_type])
    elif is_raw:
        try:
            needed = count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        except (KeyError, ValueError):
            raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} has an unknown element type") from None
    elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        needed = 2 * count
    if held != needed:
        unit = "bytes" if is_raw else "values"
        raise UnsupportedModel(
            "corrupt", f"tensor {tensor.name!r} holds {held} {unit}, its shape {tuple(tensor.dims)} needs {needed}"
        )


def check_weights(model: ModelProto) -> None:
    """No weight is NaN or infinite, which training would spread; raises UnsupportedModel (`non_finite_weights`).

    Infinities elsewhere are legitimate (attention masks, open bounds of Clip), NaN in a single number is, too.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.HasField("t") and node.output)
    weights = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input}
    for name, tensor in tensors.items():
        if tensor.data_type in _FLOATS and math.prod(tensor.dims) > 1:
            values = np.asarray(numpy_helper.to_array(tensor))
            bad = ~np.isfinite(values) if name in weights else np.isnan(values)
            if bad.any():
                raise UnsupportedModel(
                    "non_finite_weights",
                    f"{int(bad.sum())} of {bad.size} values of the weights {name!r} are NaN or infinite; "
                    "send the model from before its training diverged",
                )
