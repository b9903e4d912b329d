"""Validation of a parsed graph: names, order, functions, and sizes among the attributes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.table import words
from fedlas.importers.onnx.protobuf_limits import MOST_NODES

_LONGEST_NAME = 1000
#: Attributes that say how large something is, and the largest product of their numbers: a pooling window of 4096².
_SIZES = words(
    "kernel_shape pads strides dilations output_padding output_shape hidden_size blocksize size group num_heads"
)
_LARGEST = 2**24


def check_names(model: ModelProto) -> None:
    """Refuse names that no exporter writes: they end in logs, records and file formats of others.

    Raises:
        UnsupportedModel: `bad_name`.
    """
    for name in _names(model):
        if len(name) > _LONGEST_NAME or not name.isprintable():
            shown = "".join(character if character.isprintable() else "?" for character in name[:40])
            raise UnsupportedModel(
                "bad_name",
                f"the name {shown!r}… has {len(name)} characters; names must be printable and at most "
                f"{_LONGEST_NAME} characters long",
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
        found = pending.pop()
        yield found
        if isinstance(found, TensorProto):
            continue  # listing its fields would copy its content
        for field, value in found.ListFields():
            if field.message_type is not None:
                pending.extend([value] if hasattr(value, "ListFields") else value)


def check_order(graph: GraphProto) -> None:
    """Every tensor of the main graph is made once, and none from itself.

    Raises:
        UnsupportedModel: `duplicate_name`, `cyclic_graph`.
    """
    for names in ([*_outputs(graph)], [tensor.name for tensor in graph.initializer]):
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            raise UnsupportedModel("duplicate_name", f"the tensor {doubled[0]!r} is made more than once in the graph")
    given = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    both = given & set(_outputs(graph))
    if both:
        raise UnsupportedModel("duplicate_name", f"the tensor {min(both)!r} is given to the graph and made in it, too")
    _refuse_cycles(graph)


def _outputs(graph: GraphProto) -> list[str]:
    return [name for node in graph.node for name in node.output if name]


def _refuse_cycles(graph: GraphProto) -> None:
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
    """Local functions, written out where they are called, must end and stay small.

    Raises:
        UnsupportedModel: `cyclic_graph`, `too_many_nodes`.
    """
    functions = {_key(function): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    total = sum(_written_out(node, functions, sizes, ()) for node in model.graph.node) if functions else 0
    if total > MOST_NODES:
        raise UnsupportedModel(
            "too_many_nodes",
            f"the graph's functions, written out, have {total:,} nodes; at most {MOST_NODES:,} can be opened",
        )


def _key(item: FunctionProto | NodeProto) -> tuple[str, str]:
    return item.domain, item.name if isinstance(item, FunctionProto) else item.op_type


def _written_out(
    node: NodeProto,
    functions: dict[tuple[str, str], FunctionProto],
    sizes: dict[tuple[str, str], int],
    callers: tuple[tuple[str, str], ...],
) -> int:
    """How many nodes a call becomes."""
    key = _key(node)
    if key not in functions:
        return 1
    if key in callers or len(callers) > 50:
        raise UnsupportedModel(
            "cyclic_graph", f"the function {key[1]!r} calls itself, or functions are nested too deep"
        )
    if key not in sizes:
        sizes[key] = sum(_written_out(inner, functions, sizes, (*callers, key)) for inner in functions[key].node)
    return sizes[key]


def check_attributes(model: ModelProto) -> None:
    """Windows, strides and state sizes are those of a classifier: what runs over them takes as long as they are large.

    Raises:
        UnsupportedModel: `declared_size`.
    """
    for node in every_node(model):
        for attribute in node.attribute:
            if (
                attribute.name in _SIZES
                and math.prod(max(1, abs(n)) for n in [attribute.i, *attribute.ints]) > _LARGEST
            ):
                raise UnsupportedModel(
                    "declared_size",
                    f"{node.op_type} has {attribute.name} = {[*attribute.ints] or attribute.i}; "
                    f"sizes whose product is at most {_LARGEST:,} can be opened",
                )
