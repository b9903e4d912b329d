"""ONNX's pooling, over windows and over everything; PyTorch's layers where they mean the same, else sums by windows."""

from __future__ import annotations

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.table import operator
from fedlas.importers.onnx.operators.windows import Ints, Window, WindowAttributes, by_rank, pad


class PoolAttributes(WindowAttributes, total=False):
    """The attributes of pooling; `ceil_mode` rounds sizes up, for which automatic padding leaves no room."""

    ceil_mode: int


def _window(x: Tensor, attributes: PoolAttributes) -> tuple[Window, Ints | None, bool]:
    """The window, its padding as PyTorch's pooling takes it (even, at most half a window), and whether to round up."""
    window = Window.over(x.shape[2:], attributes["kernel_shape"], attributes)
    padding = window.symmetric
    if padding is not None and any(2 * p > k for p, k in zip(padding, window.kernel, strict=True)):
        padding = None
    return window, padding, bool(attributes.get("ceil_mode")) and not window.auto_pad.startswith("SAME")


@operator("MaxPool")
def max_pool(x: Tensor, *, storage_order: int = 0, **attributes: Unpack[PoolAttributes]) -> Tensor:
    """`storage_order` is about the indices, a second output that only ONNX Runtime computes."""
    if not x.is_floating_point():  # exact: pooled integers are bytes
        return max_pool(x.float(), **attributes).to(x.dtype)
    window, padding, rounded_up = _window(x, attributes)
    if padding is None:
        ends = window.exact_ends(x.shape[2:], ceil_mode=rounded_up)
        x, padding, rounded_up = pad(x, window.begins + ends, -math.inf), (0,) * window.rank, False
    pool = by_rank(window.rank, F.max_pool1d, F.max_pool2d, F.max_pool3d)
    return pool(x, window.kernel, window.stride, padding, window.dilation, rounded_up)


@operator("AveragePool")
def average_pool(x: Tensor, *, count_include_pad: int = 0, **attributes: Unpack[PoolAttributes]) -> Tensor:
    window, padding, rounded_up = _window(x, attributes)
    if padding is not None and set(window.dilation) == {1}:
        pool = by_rank(window.rank, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
        return pool(x, window.kernel, window.stride, padding, rounded_up, bool(count_include_pad))
    ends = window.exact_ends(x.shape[2:], ceil_mode=rounded_up)
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    rest = window.begins + ends
    if count_include_pad:  # but never what only rounding up adds
        declared = tuple(min(a, b) for a, b in zip(window.ends, ends, strict=True))
        counted = pad(counted, window.begins + declared, 1.0)
        rest = (0,) * window.rank + tuple(a - b for a, b in zip(ends, declared, strict=True))
    return _window_sums(pad(x, window.begins + ends), window) / _window_sums(pad(counted, rest), window)


def _window_sums(x: Tensor, window: Window) -> Tensor:
    planes = x.reshape(-1, 1, *x.shape[2:])
    ones = torch.ones((1, 1, *window.kernel), dtype=x.dtype, device=x.device)
    sums = by_rank(window.rank, F.conv1d, F.conv2d, F.conv3d)(planes, ones, None, window.stride, 0, window.dilation)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)
