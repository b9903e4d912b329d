"""ONNX operators that make tensors up from numbers and shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedlas.importers.onnx.operators.dtypes import dtype_of
from fedlas.importers.onnx.operators.limits import bounded
from fedlas.importers.onnx.operators.table import operator


@operator("ConstantOfShape", host=(0,), gradient=False)
def constant_of_shape(sizes: Tensor, *, value: tuple[list[float], str] = ([0.0], "float32")) -> Tensor:
    (fill,), dtype = value
    return torch.full(bounded(sizes.tolist()), fill, dtype=dtype_of(dtype))


@operator("Range", host=(0, 1, 2), gradient=False)
def range_(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    """Low-precision floats are counted in a wider type and rounded once."""
    first, last, step = start.item(), limit.item(), delta.item()
    count = bounded([max(0, math.ceil((last - first) / step))])[0]
    if start.is_floating_point():
        wide = torch.float64 if start.dtype is torch.float64 else torch.float32
        return (first + torch.arange(count, dtype=wide) * step).to(start.dtype)
    return first + torch.arange(count, dtype=start.dtype) * step
