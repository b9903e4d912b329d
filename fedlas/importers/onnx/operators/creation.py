"""ONNX operators that make tensors up from numbers and shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedlas.importers.onnx.operators.dtypes import dtype_of, torch_dtype
from fedlas.importers.onnx.operators.limits import bounded
from fedlas.importers.onnx.operators.table import enter_kinds, operator


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


@operator("EyeLike", gradient=False)
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = x.dtype if dtype is None else torch_dtype(dtype)
    ones = torch.ones(x.shape, dtype=torch.float32, device=x.device)
    return torch.diagonal_scatter(torch.zeros_like(ones), torch.diagonal(ones, k), k).to(kind)


_WINDOWS: dict[str, tuple[float, ...]] = {
    "HannWindow": (0.5, 0.5),
    "HammingWindow": (25 / 46, 21 / 46),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


def window(size: Tensor, *, kind: str, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    """`a₀ - a₁·cos(2πn/N) + a₂·cos(4πn/N)`, with N the size, or one less where the window is symmetric."""
    count = bounded([int(size)])[0]
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / max(count if periodic else count - 1, 1)
    terms = [(-1) ** i * a * torch.cos(i * angle) for i, a in enumerate(_WINDOWS[kind])]
    return torch.stack(terms).sum(0).to(torch_dtype(output_datatype))


enter_kinds(window, _WINDOWS, host=(0,), gradient=False)
