"""ONNX's element types as PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from fedlas.errors import UnsupportedModel

_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
_ELEM_TYPES = {dtype: number for number, dtype in _DTYPES.items()}
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}


def torch_dtype(number: int) -> torch.dtype:
    """The PyTorch type of an ONNX element type.

    Raises:
        UnsupportedModel: `unsupported_type` for strings, complex numbers and 2- to 8-bit floats.
    """
    try:
        return _DTYPES[number]
    except KeyError:
        name = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else number
        raise UnsupportedModel("unsupported_type", f"the graph computes with {name} tensors; use float32") from None


def elem_type(dtype: torch.dtype) -> int:
    """ONNX's number of a PyTorch type, 0 for one that ONNX does not have."""
    return int(_ELEM_TYPES.get(dtype, 0))


def dtype_of(name: str) -> torch.dtype:
    """The PyTorch type of a NumPy type's name.

    Raises:
        UnsupportedModel: `unsupported_type`, as for `torch_dtype`.
    """
    if name not in _BY_NAME:
        raise UnsupportedModel("unsupported_type", f"the graph computes with {name} tensors; use float32")
    return _BY_NAME[name]


def as_tensor(array: NDArray[Any]) -> Tensor:
    """The array as a tensor that shares its memory; NumPy's own bfloat16 is none that PyTorch takes.

    Raises:
        UnsupportedModel: `unsupported_type`, as for `torch_dtype`.
    """
    dtype = dtype_of(array.dtype.name)
    return torch.from_numpy(array.view(np.int16)).view(dtype) if dtype is torch.bfloat16 else torch.from_numpy(array)
