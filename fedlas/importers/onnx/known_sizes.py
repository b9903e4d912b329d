"""Known sizes: those of a node's outputs by ONNX's own inference, for inputs that are there; nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from onnx import NodeProto, defs, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs
from torch import Tensor

from fedlas.importers.onnx.graph import Shape
from fedlas.importers.onnx.operators.dtypes import elem_type

#: Up to so many elements an input may be what a size is read from.
_FEW = 64


class KnownSize(NamedTuple):
    """The type of an output in ONNX's numbering, and its sizes."""

    elem: int
    shape: Shape


def known_sizes(node: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> list[KnownSize]:
    """The sizes of all outputs of a node of ONNX's own operators; none where its inference does not tell each."""
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    types = {
        name: helper.make_tensor_type_proto(elem_type(value.dtype), tuple(value.shape)) for name, value in given.items()
    }
    try:
        few = {name: value.numpy() for name, value in given.items() if value.numel() <= _FEW}
        data = {name: numpy_helper.from_array(value, name) for name, value in few.items()}
        schema = defs.get_schema(node.op_type, opset, node.domain)
        found = infer_node_outputs(schema, node, types, data, opset_imports=[helper.make_opsetid("", opset)])
    except Exception:  # whatever does not fit the operator: what computes it says it better
        return []
    tensors = [value.tensor_type for value in found.values()]
    if not all(tensor.HasField("shape") for tensor in tensors):
        return []
    if not all(dim.HasField("dim_value") for tensor in tensors for dim in tensor.shape.dim):
        return []
    return [KnownSize(tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)) for tensor in tensors]
