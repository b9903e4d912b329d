"""ONNX's element types as PyTorch's; it knows nothing else."""

from __future__ import annotations

import torch
from onnx import TensorProto

from fedlas.errors import UnsupportedModel

_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


def torch_dtype(elem_type: int) -> torch.dtype:
    """The PyTorch type of an ONNX element type.

    Raises:
        UnsupportedModel: `unsupported_type` for strings, complex numbers and 4- or 8-bit floats.
    """
    try:
        return _DTYPES[elem_type]
    except KeyError:
        name = TensorProto.DataType.Name(elem_type) if elem_type in TensorProto.DataType.values() else elem_type
        raise UnsupportedModel("unsupported_type", f"the graph computes with {name} tensors; use float32") from None
