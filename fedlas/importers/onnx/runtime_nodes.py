"""Runtime nodes: single nodes that ONNX Runtime computes, without a gradient, where the operator table has no function.

What lies behind such a node trains as ever; weights before it are constants, since no gradient reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from onnx import NodeProto, OperatorSetIdProto, defs, helper
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.input_roles import COUNTING, read_at
from fedlas.importers.onnx.known_sizes import known_sizes
from fedlas.importers.onnx.operators import OPERATORS, keywords, operator_name
from fedlas.importers.onnx.operators.dtypes import as_tensor, elem_type
from fedlas.importers.onnx.operators.limits import bounded
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS, Function, misfits
from fedlas.importers.onnx.runtime_operators import refused
from fedlas.importers.onnx.runtime_session import GraphSession

_NUMBERS = frozenset(f"tensor({kind})" for kind in ("float", "int64", "int32", "uint8", "bool"))


class RuntimeNode(nn.Module):
    """One node as a module; it has no weights and no gradient, and computes on the CPU."""

    def __init__(self, node: NodeProto, opset: int) -> None:
        super().__init__()
        self.content, self.opset = node.SerializeToString(deterministic=True), opset

    @torch.no_grad()
    def forward(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """The node's outputs, where its inputs are.

        Raises:
            UnsupportedModel: `unsupported_operator` where ONNX Runtime does not compute them, or the inputs have a
                shape alone; `declared_size` where they are too large.
        """
        given = [value for value in inputs if value is not None]
        if any(value.is_meta for value in given):
            raise UnsupportedModel("unsupported_operator", "ONNX Runtime computes values, not shapes alone")
        on_host = [None if value is None else value.detach().cpu() for value in inputs]
        _check_size(NodeProto.FromString(self.content), on_host, self.opset)
        types = tuple(0 if value is None else elem_type(value.dtype) for value in inputs)
        try:
            found = _session(self.content, self.opset, types)([value.numpy() for value in on_host if value is not None])
            results = [as_tensor(value) for value in found]
        except UnsupportedModel as error:
            raise UnsupportedModel("unsupported_operator", error.message) from error
        device = next((value.device for value in given if value.device.type != "cpu"), torch.device("cpu"))
        return tuple(value.to(device) for value in results)


def _check_size(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> None:
    """Refuse outputs that are too large by ONNX's inference, or by the numbers that the operator reads as sizes."""
    read = [value for i, value in enumerate(inputs) if value is not None and read_at(node, i) == "s"]
    # ONNX Runtime takes a vector of one number where inference wants a number.
    numbers = {id(value): value.reshape(()) for value in read if value.numel() == 1}
    found = known_sizes(node, inputs, opset) or known_sizes(
        node, [numbers.get(id(value), value) for value in inputs], opset
    )
    for size in found:
        bounded(size.shape)
    if not found and node.op_type not in COUNTING:
        bounded([int(abs(number)) for value in read for number in value.ravel().tolist()])


def _imports(opset: int) -> list[OperatorSetIdProto]:
    return [OperatorSetIdProto(version=opset)]


@lru_cache(maxsize=256)
def _session(content: bytes, opset: int, types: tuple[int, ...]) -> GraphSession:
    """The node for inputs of these types (0: left out), under names of its own, as one tensor may be read twice."""
    node = NodeProto.FromString(content)
    outputs = [f"output_{i}" for i in range(len(node.output))]
    inputs = [f"input_{i}" if kind else "" for i, kind in enumerate(types)]
    node = NodeProto(op_type=node.op_type, attribute=node.attribute, input=inputs, output=outputs)
    infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(inputs, types, strict=True) if kind]
    graph = Graph([node], {}, infos, outputs, opset, _imports(opset), helper.find_min_ir_version_for(_imports(opset)))
    return GraphSession(graph, outputs, typed=False)


def is_runtime_node(node: NodeProto) -> bool:
    """Whether ONNX Runtime computes the node alone: no function of the table knows it, or none knows its options."""
    if node.domain not in STANDARD_DOMAINS or (node.op_type in OPERATORS and not misfits(node)):
        return False
    return not refused([node]) and _takes_tensors(node.op_type)


@cache
def _takes_tensors(op_type: str) -> bool:
    """Whether all that an operator reads and makes may be tensors of numbers, not text, sequences or optionals."""
    schema = defs.get_schema(op_type)
    return all(_NUMBERS & {str(kind) for kind in value.types} for value in (*schema.inputs, *schema.outputs))


@dataclass(frozen=True)
class Call:
    """How a node is computed; `host` as in `Operator`, `several` where the function answers with a tuple."""

    function: Function
    keywords: Mapping[str, object]
    host: tuple[int, ...]
    several: bool


def call_of(node: NodeProto, opset: int) -> Call:
    """The table's function with the node's attributes, or ONNX Runtime, which takes all inputs wherever they are.

    Raises:
        UnsupportedModel: `unsupported_operator` for attributes that neither knows.
    """
    if is_runtime_node(node):
        return Call(RuntimeNode(node, opset), {}, tuple(range(len(node.input))), several=True)
    entry = OPERATORS[operator_name(node)]
    several = entry.several or ("num_outputs" in entry.keywords and len(node.output) > 1)
    return Call(entry.function, keywords(node, opset), entry.host, several)
