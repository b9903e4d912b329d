"""ONNX's pooling, over windows and over everything; PyTorch's layers where they mean the same, else sums by windows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.table import operator
from fedlas.importers.onnx.operators.windows import (
    Ints,
    by_rank,
    ends_of_windows,
    explicit_pads,
    pad,
    symmetric,
)


def _plan(
    x: Tensor,
    kernel: Ints,
    auto_pad: str,
    ceil_mode: int,
    dilations: Ints | None,
    pads: Ints | None,
    strides: Ints | None,
) -> tuple[Ints, Ints, Ints, bool]:
    """Stride, dilation, padding and whether sizes are rounded up, which automatic padding leaves no room for."""
    rank = x.ndim - 2
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
    edges = explicit_pads(auto_pad, pads, x.shape[2:], kernel, stride, dilation)
    return stride, dilation, edges, bool(ceil_mode) and not auto_pad.startswith("SAME")


def _as_pytorch(edges: Ints, kernel: Ints) -> Ints | None:
    """The padding as PyTorch's pooling takes it: even, and at most half a window."""
    padding = symmetric(edges)
    return padding if padding is not None and all(2 * p <= k for p, k in zip(padding, kernel, strict=True)) else None


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
    num_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    stride, dilation, edges, rounded_up = _plan(x, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    rank = len(stride)
    if not x.is_floating_point():  # exact: pooled integers are bytes
        result = max_pool(
            x.float(),
            kernel_shape=kernel_shape,
            ceil_mode=ceil_mode,
            dilations=dilations,
            pads=edges,
            storage_order=storage_order,
            strides=strides,
            num_outputs=num_outputs,
        )
        return result.to(x.dtype) if isinstance(result, Tensor) else (result[0].to(x.dtype), *result[1:])
    pool = by_rank(rank, F.max_pool1d, F.max_pool2d, F.max_pool3d)
    padding, values, before = _as_pytorch(edges, kernel_shape), x, (0,) * rank
    if padding is None:
        ends = ends_of_windows(x.shape[2:], edges, kernel_shape, stride, dilation, ceil_mode=rounded_up)
        values, padding, before, rounded_up = pad(x, edges[:rank] + ends, -math.inf), (0,) * rank, edges[:rank], False
    if num_outputs == 1:
        only: Tensor = pool(values, kernel_shape, stride, padding, dilation, rounded_up)
        return only
    pooled, places = pool(values, kernel_shape, stride, padding, dilation, rounded_up, return_indices=True)
    return pooled, _flat_indices(places, x, values.shape[2:], before, column_major=bool(storage_order))


def _flat_indices(places: Tensor, x: Tensor, padded: torch.Size, before: Ints, *, column_major: bool) -> Tensor:
    """Indices into one padded plane as ONNX counts them: through the whole unpadded tensor."""
    coordinates = torch.unravel_index(places, padded)
    order = range(len(padded)) if not column_major else reversed(range(len(padded)))
    flat = torch.zeros_like(places)
    for axis in order:
        flat = flat * x.shape[2 + axis] + (coordinates[axis] - before[axis])
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * math.prod(x.shape[2:])
    return flat + planes.reshape(x.shape[0], x.shape[1], *(1,) * len(padded))


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    stride, dilation, edges, rounded_up = _plan(x, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    padding, rank = _as_pytorch(edges, kernel_shape), len(stride)
    if padding is not None and set(dilation) == {1}:
        pool = by_rank(rank, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
        result: Tensor = pool(x, kernel_shape, stride, padding, rounded_up, bool(count_include_pad))
        return result
    ends = ends_of_windows(x.shape[2:], edges, kernel_shape, stride, dilation, ceil_mode=rounded_up)
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    rest = edges[:rank] + ends
    if count_include_pad:  # but never what only rounding up adds
        declared = tuple(min(a, b) for a, b in zip(edges[rank:], ends, strict=True))
        counted = pad(counted, edges[:rank] + declared, 1.0)
        rest = (0,) * rank + tuple(a - b for a, b in zip(ends, declared, strict=True))
    total = _window_sums(pad(x, edges[:rank] + ends), kernel_shape, stride, dilation)
    return total / _window_sums(pad(counted, rest), kernel_shape, stride, dilation)


def _window_sums(x: Tensor, kernel: Ints, stride: Ints, dilation: Ints) -> Tensor:
    rank = len(kernel)
    planes = x.reshape(-1, 1, *x.shape[2:])
    ones = torch.ones((1, 1, *kernel), dtype=x.dtype, device=x.device)
    sums: Tensor = by_rank(rank, F.conv1d, F.conv2d, F.conv3d)(planes, ones, None, stride, 0, dilation)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)
