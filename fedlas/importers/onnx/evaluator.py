"""The reference evaluator: a graph node by node with the functions of the operator table, without gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from onnx import NodeProto, helper
from torch import Tensor

from fedlas.errors import Mismatch, UnsupportedModel
from fedlas.importers.onnx.graph import Graph, Shape
from fedlas.importers.onnx.known_sizes import known_sizes
from fedlas.importers.onnx.operators import MAX_BYTES, operator_name, words
from fedlas.importers.onnx.operators.dtypes import as_tensor
from fedlas.importers.onnx.runtime_nodes import call_of, is_runtime_node

Values = dict[str, Tensor]


# Operators whose result may be large though their inputs are small: sizes are numbers that they read.
_DECLARING = words("AveragePool Conv ConvTranspose Expand MaxPool OneHot Pad Resize Tile Upsample")
# Up to so many pairs of elements no other operator's result can be large.
_SMALL = 2**24
# A product of elements, of all constants and of the inputs: a layer multiplies fewer, since it meets a part of each.
_LIGHT = 2**30


def run_node(node: NodeProto, values: Mapping[str, Tensor], opset: int) -> dict[str, Tensor]:
    """The outputs of one node by name.

    Raises:
        UnsupportedModel: `invalid_graph` where the node cannot be computed from its inputs, `declared_size` where an
            output is larger than `MAX_BYTES`; it is not computed then.
    """
    inputs = [values[name] if name else None for name in node.input]
    if any(value is not None and value.is_meta for value in inputs):
        return _bounded_results(node, apply_node(node, _on_meta(node, inputs, opset), opset))
    if is_runtime_node(node):  # it checks what it makes
        return _bounded_results(node, apply_node(node, inputs, opset))
    if node.op_type in _DECLARING or math.prod(max(1, v.numel()) for v in inputs if v is not None) > _SMALL:
        _check_size(node, inputs, opset)
    return apply_node(node, inputs, opset)


def _on_meta(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> list[Tensor | None]:
    """The inputs as shapes only, less those that are read as numbers."""
    host = call_of(node, opset).host
    return [value if value is None or i in host else value.to("meta") for i, value in enumerate(inputs)]


def apply_node(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> dict[str, Tensor]:
    """The outputs of one node by name, however large they are.

    Raises:
        UnsupportedModel: `invalid_graph` where the node cannot be computed from its inputs.
    """
    try:
        call = call_of(node, opset)
        result = call.function(*inputs, **call.keywords)
    except (UnsupportedModel, Mismatch):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, ArithmeticError) as error:
        shapes = [None if value is None else tuple(value.shape) for value in inputs]
        raise UnsupportedModel(
            "invalid_graph", f"operator {operator_name(node)} ({node.name}) fails on inputs of shape {shapes}: {error}"
        ) from error
    results = result if isinstance(result, tuple) else (result,)
    return {name: value for name, value in zip(node.output, results, strict=False) if name}


def _check_size(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> None:
    """Find the shapes of the outputs first, by ONNX's inference or by computing nothing else.

    Where they depend on values (NonZero) they are not larger than those.
    """
    known = known_sizes(node, inputs, opset)
    for size in known:
        _bounded(node, size.shape, helper.tensor_dtype_to_np_dtype(size.elem).itemsize)
    if known:
        return
    try:
        results = apply_node(node, _on_meta(node, inputs, opset), opset)
    except UnsupportedModel as failure:
        if failure.code == "declared_size":
            raise
    else:
        _bounded_results(node, results)


def _bounded_results(node: NodeProto, results: dict[str, Tensor]) -> dict[str, Tensor]:
    for value in results.values():
        _bounded(node, tuple(value.shape), value.element_size())
    return results


def _bounded(node: NodeProto, shape: Shape, element_size: int) -> None:
    if math.prod(shape) * element_size > MAX_BYTES:
        raise UnsupportedModel(
            "declared_size",
            f"operator {operator_name(node)} ({node.name}) makes a tensor of shape {shape}; "
            f"{MAX_BYTES} bytes are the limit",
        )


def constant_tensors(graph: Graph) -> Values:
    """The graph's constants as tensors that share memory with its arrays."""
    return {name: as_tensor(value) for name, value in graph.constants.items()}


@torch.no_grad()
def run(graph: Graph, inputs: Mapping[str, Tensor]) -> Iterator[tuple[NodeProto, dict[str, Tensor]]]:
    """Yield every node with its outputs; a tensor is forgotten after its last reader."""
    values: Values = constant_tensors(graph) | dict(inputs)
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.input}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    for i, node in enumerate(graph.nodes):
        results = run_node(node, values, graph.opset)
        yield node, results
        values.update(results)
        for name in {*node.input, *node.output}:
            if last.get(name, -1) <= i:
                values.pop(name, None)


def is_light(graph: Graph, inputs: Mapping[str, Tensor]) -> bool:
    """Whether running the graph on `inputs` is less work than finding its shapes alone.

    With its first tensor of shapes alone a process loads PyTorch's compiler, a second of computing; see `_LIGHT`.
    """
    constants = sum(value.size for value in graph.constants.values())
    return constants * sum(value.numel() for value in inputs.values()) <= _LIGHT


def shapes_of(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shape of every tensor when the graph runs on `inputs`.

    A light graph is run. Of any other nothing but shapes is computed; it is really run where they depend on values.
    """
    if not is_light(graph, inputs):
        try:
            return _shapes(graph, {name: value.to("meta") for name, value in inputs.items()})
        except UnsupportedModel:
            pass
    return _shapes(graph, inputs)


def _shapes(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Shape]:
    shapes = {name: tuple(value.shape) for name, value in graph.constants.items()}
    shapes.update({name: tuple(value.shape) for name, value in inputs.items()})
    for _, results in run(graph, inputs):
        shapes.update({name: tuple(value.shape) for name, value in results.items()})
    return shapes


def outputs_of(graph: Graph, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The graph's outputs on `inputs`."""
    wanted = set(graph.outputs)
    found: Values = {name: as_tensor(graph.constants[name]) for name in wanted & graph.constants.keys()} | dict(inputs)
    for _, results in run(graph, inputs):
        found.update({name: value for name, value in results.items() if name in wanted})
    return [found[name] for name in graph.outputs]
