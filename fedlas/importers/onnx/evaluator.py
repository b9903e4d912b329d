"""The reference evaluator: a graph node by node without gradients, its inputs and made-up rows that fit them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from onnx import NodeProto, ValueInfoProto, helper
from torch import Tensor

from fedlas.contract.profiles import TensorSpec
from fedlas.errors import Mismatch, UnsupportedModel
from fedlas.importers.onnx.graph import Graph, Shape
from fedlas.importers.onnx.operators import operator_name
from fedlas.importers.onnx.operators.table import DECLARING, MAX_BYTES, as_tensor
from fedlas.importers.onnx.runtime import call_of, is_runtime_node, known_sizes

Values = dict[str, Tensor]
# Up to so many pairs of elements no other operator's result can be large.
_MAX_PAIRS = 2**24
# A product of elements, of all constants and of the inputs: a layer multiplies fewer, since it meets a part of each.
_LIGHT = 2**30
#: Lengths tried for axes that the exporter left open, the likeliest first.
LENGTHS = (16, 64, 224, 32, 8, 4, 128, 3, 2, 1, 256, 299, 512)


def run_node(node: NodeProto, values: Mapping[str, Tensor], opset: int) -> dict[str, Tensor]:
    """The outputs of one node by name; raises UnsupportedModel (`invalid_graph`, `declared_size`)."""
    inputs = [values[name] if name else None for name in node.input]
    if any(value is not None and value.is_meta for value in inputs):
        return _bounded_results(node, apply_node(node, _on_meta(node, inputs, opset), opset))
    if is_runtime_node(node):  # it checks what it makes
        return _bounded_results(node, apply_node(node, inputs, opset))
    if node.op_type in DECLARING or math.prod(max(1, v.numel()) for v in inputs if v is not None) > _MAX_PAIRS:
        _check_size(node, inputs, opset)
    return apply_node(node, inputs, opset)


def _on_meta(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> list[Tensor | None]:
    """Inputs as shapes only, less those that are read as numbers."""
    host = call_of(node, opset).host
    return [value if value is None or i in host else value.to("meta") for i, value in enumerate(inputs)]


def apply_node(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> dict[str, Tensor]:
    """The outputs of one node by name, however large they are; raises UnsupportedModel (`invalid_graph`)."""
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
    """Refuse outputs by their shapes first, found by ONNX's inference or by computing nothing else."""
    known = known_sizes(node, inputs, opset)
    for elem, shape in known:
        _bounded(node, shape, helper.tensor_dtype_to_np_dtype(elem).itemsize)
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
    """True where running the graph on `inputs` is less work than finding its shapes alone.

    With its first tensor of shapes alone a process loads PyTorch's compiler, a second of computing; see `_LIGHT`.
    """
    constants = sum(value.size for value in graph.constants.values())
    return constants * sum(value.numel() for value in inputs.values()) <= _LIGHT


def shapes_of(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shape of every tensor; a light graph, or one whose shapes depend on values, is run on `inputs` for them."""
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
    wanted = set(graph.outputs)
    values: Values = {name: as_tensor(graph.constants[name]) for name in wanted & graph.constants.keys()} | dict(inputs)
    for _, results in run(graph, inputs):
        values.update({name: value for name, value in results.items() if name in wanted})
    return [values[name] for name in graph.outputs]


def input_spec(info: ValueInfoProto) -> TensorSpec:
    """The specification of a graph's input; raises UnsupportedModel (`unsupported_input`)."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.elem_type or tensor.elem_type == 8:
        raise UnsupportedModel("unsupported_input", f"input {info.name!r} is not a tensor of numbers")
    dims = [
        dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"dim_{i}" for i, dim in enumerate(tensor.shape.dim)
    ]
    if not dims:
        raise UnsupportedModel("unsupported_input", f"input {info.name!r} has no shape whose first axis are the rows")
    return TensorSpec(
        name=info.name, dtype=helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape=["N", *dims[1:]]
    )


def fixed_batch(inputs: list[ValueInfoProto]) -> int | None:
    """The number of rows that the exporter wrote into the inputs, None where it is open; raises UnsupportedModel."""
    sizes = {info.name: max(0, info.type.tensor_type.shape.dim[0].dim_value) for info in inputs}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name}: {size or 'open'}" for name, size in sizes.items())
        raise UnsupportedModel(
            "no_classifier_output",
            f"every input must have the rows as its first axis, but these differ ({shown}); inputs of one row among "
            "others are recurrent states, which a classifier of independent rows does not have, or constants whose "
            "values the exporter left out (tf2onnx does so for Keras' Normalization): export with their values inside",
        )
    return next(iter(sizes.values())) or None


def set_batch(graph: Graph) -> None:
    """Name the first axis of every input N."""
    renamed = []
    for info in graph.inputs:
        copy = ValueInfoProto()
        copy.CopyFrom(info)
        copy.type.tensor_type.shape.dim[0].dim_param = "N"
        renamed.append(copy)
    graph.inputs = renamed


def example_inputs(specs: list[TensorSpec], rows: int, lengths: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Random rows: normal floats; integers are zeros and ones (valid as token ids and masks), starting with a one."""
    generator = np.random.default_rng(seed)
    made = {}
    for spec in specs:
        shape = [rows, *(size if isinstance(size, int) else lengths[size] for size in spec.shape[1:])]
        if spec.dtype.startswith(("float", "bfloat")):
            values = torch.from_numpy(generator.standard_normal(shape, np.float32))
        else:
            values = torch.from_numpy(generator.integers(0, 2, shape))
            if values.ndim > 1:
                values[..., :1] = 1
        made[spec.name] = values.to(getattr(torch, spec.dtype))
    return made


def find_lengths(graph: Graph, specs: list[TensorSpec], rows: int) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Lengths of the open axes with which the graph runs, and all tensors' shapes then; raises UnsupportedModel."""
    names = {size: axis for spec in specs for axis, size in enumerate(spec.shape[1:]) if isinstance(size, str)}
    channels = {s for spec in specs if len(spec.shape) >= 4 for s in spec.shape[1:2] if isinstance(s, str)}
    failure: UnsupportedModel | Mismatch | None = None
    # The exporter may have written sizes into the graph although it declared the axis open.
    sizes = {size for value in graph.constants.values() for size in value.shape}
    for value in graph.constants.values():
        if value.dtype == np.int64 and value.size <= 8:
            sizes.update(value.ravel().tolist())
    for length in dict.fromkeys((*LENGTHS, *sorted(size for size in sizes if 1 < size <= 1024)[:100])):
        for depth in (3, 1) if channels else (1,):
            lengths = {name: depth if name in channels else length for name in names}
            try:
                return lengths, shapes_of(graph, example_inputs(specs, rows, lengths))
            except (UnsupportedModel, Mismatch) as error:  # a length beyond a table of positions is a mismatch
                failure = failure or error
        if not names:
            break
    assert failure is not None
    if isinstance(failure, Mismatch):
        raise UnsupportedModel("invalid_graph", f"no made-up row can be run: {failure}") from failure
    raise failure
