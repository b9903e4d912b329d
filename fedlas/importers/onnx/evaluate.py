"""Runs a graph node by node with the table's functions, without gradients: for shapes and checks; it trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from onnx import NodeProto
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.operators import OPERATORS, keywords, operator_name

Values = dict[str, Tensor]


def run_node(node: NodeProto, values: Mapping[str, Tensor], opset: int) -> dict[str, Tensor]:
    """The outputs of one node by name.

    Raises:
        UnsupportedModel: `invalid_graph` where the node cannot be computed from its inputs.
    """
    entry = OPERATORS[operator_name(node)]
    function = entry.function
    inputs = [values[name] if name else None for name in node.input]
    if any(value is not None and value.is_meta for value in inputs):
        inputs = [v if v is None or i in entry.host else v.to("meta") for i, v in enumerate(inputs)]
    try:
        result = function(*inputs, **keywords(node, opset))
    except UnsupportedModel:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, ArithmeticError) as error:
        shapes = [None if value is None else tuple(value.shape) for value in inputs]
        raise UnsupportedModel(
            "invalid_graph", f"operator {operator_name(node)} ({node.name}) fails on inputs of shape {shapes}: {error}"
        ) from error
    results = result if isinstance(result, tuple) else (result,)
    return dict(zip(node.output, results, strict=False))


def constant_tensors(graph: Graph) -> Values:
    """The graph's constants as tensors that share memory with its arrays."""
    return {name: torch.from_numpy(value) for name, value in graph.constants.items()}


@torch.no_grad()
def run(graph: Graph, inputs: Mapping[str, Tensor]) -> Iterator[tuple[NodeProto, dict[str, Tensor]]]:
    """Yield every node with its outputs; a tensor is forgotten after its last reader."""
    values: Values = constant_tensors(graph) | dict(inputs)
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.input}
    for i, node in enumerate(graph.nodes):
        results = run_node(node, values, graph.opset)
        yield node, results
        values.update(results)
        for name in {*node.input, *node.output}:
            if last.get(name, -1) <= i and name not in graph.outputs:
                values.pop(name, None)


def shapes_of(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor when the graph runs on `inputs`.

    First without computing anything but shapes; graphs whose shapes depend on values are really run.
    """
    try:
        return _shapes(graph, {name: value.to("meta") for name, value in inputs.items()})
    except UnsupportedModel:
        return _shapes(graph, inputs)


def _shapes(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(value.shape) for name, value in graph.constants.items()}
    shapes.update({name: tuple(value.shape) for name, value in inputs.items()})
    for _, results in run(graph, inputs):
        shapes.update({name: tuple(value.shape) for name, value in results.items()})
    return shapes


def outputs_of(graph: Graph, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The graph's outputs on `inputs`."""
    found: Values = dict(inputs)
    for _, results in run(graph, inputs):
        found.update({name: value for name, value in results.items() if name in graph.outputs})
    return [found[name] for name in graph.outputs]
