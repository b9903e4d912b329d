"""Constant folding of abstract tensors: the elements of few-element results, exactly or as intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from fedlas.errors import Mismatch, UnsupportedModel
from fedlas.importers.onnx.evaluator import run_node
from fedlas.importers.onnx.graph import Array
from fedlas.importers.onnx.operators import OPERATORS, words
from fedlas.importers.onnx.operators.dtypes import as_tensor
from fedlas.importers.onnx.sizes.abstract_tensor import (
    COMPUTED,
    FEW,
    AbstractTensor,
    bounded_tensor,
    constant_tensor,
    unbounded_tensor,
)
from fedlas.importers.onnx.sizes.shape_rules import Inputs

#: Elements move about: each end of the intervals is computed as values would be.
_MOVES = words("Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Concat Expand Tile Split")
#: A product of two vectors of as many elements as are computed.
_MOST_PAIRS = COMPUTED**2
_NOT_COMPUTED = (UnsupportedModel, Mismatch, KeyError, TypeError, RuntimeError)


def fold(name: str, node: NodeProto, inputs: Inputs, opset: int) -> list[AbstractTensor] | None:
    """The results with their elements, where all inputs are known; None where the operator table does not compute them.

    Nodes of many pairs of elements are left out: those that read no size make no more of their inputs.
    """
    values = [None if tensor is None else tensor.value for tensor in inputs]
    known = [value for value in values if value is not None]
    if not known or len(known) < sum(tensor is not None for tensor in inputs) or name not in OPERATORS:
        return None
    if math.prod(max(1, value.size) for value in known) > _MOST_PAIRS:
        return None
    found = _run(node, values, opset)
    if not all(output in found for output in node.output if output):
        return None
    return [constant_tensor(found[output]) if output else unbounded_tensor(0, None) for output in node.output]


def fold_bounds(name: str, node: NodeProto, inputs: Inputs, result: AbstractTensor, opset: int) -> AbstractTensor:
    """The result with bounds of its own for each element, where few elements are moved about; else as it is."""
    if name not in _MOVES or len(node.output) != 1 or result.value is not None or not result.fixed:
        return result
    data = list(inputs) if name == "Concat" else list(inputs[:1])
    moved = all(tensor is not None and tensor.per_element for tensor in data)
    steered = all(tensor is None or tensor.value is not None for tensor in inputs[len(data) :])
    if result.count is None or result.count > FEW or not moved or not steered:
        return result
    ends = []
    for end in ("low", "high"):
        values = [None if tensor is None else tensor.value for tensor in inputs]
        values[: len(data)] = [getattr(tensor, end) for tensor in data]
        found = _run(node, values, opset)
        if node.output[0] not in found or found[node.output[0]].shape != result.shape:
            return result
        ends.append(found[node.output[0]])
    return bounded_tensor(result.elem, result.shape, *ends, tainted=result.tainted)


def _run(node: NodeProto, values: Sequence[Array | None], opset: int) -> dict[str, Array]:
    """The outputs by name, none where the operator table does not compute them."""
    pairs = zip(node.input, values, strict=True)
    try:
        tensors = {name: as_tensor(np.array(value)) for name, value in pairs if value is not None}
        return {name: value.numpy() for name, value in run_node(node, tensors, opset).items()}
    except _NOT_COMPUTED:
        return {}
