"""ONNX operators that reduce, accumulate or normalise along axes: ReduceX, ArgMax, TopK, CumSum, LayerNormalization.

BatchNormalization only infers here; the importer has a module that also trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.table import enter_kinds, operator

Axes = tuple[int, ...]


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _extreme(x: Tensor, axes: Axes, keep: bool, *, largest: bool) -> Tensor:
    """The extreme of nothing is the opposite end of the type's range."""
    if all(x.shape[axis] for axis in axes):
        return torch.amax(x, axes, keep) if largest else torch.amin(x, axes, keep)
    worst = -math.inf if largest else math.inf
    if x.dtype is torch.bool:
        worst = not largest
    elif not x.is_floating_point():
        whole = torch.iinfo(x.dtype)
        worst = whole.min if largest else whole.max
    return torch.full(torch.sum(x, axes, keep).shape, worst, dtype=x.dtype, device=x.device)


def _in_floats(function: Callable[[Tensor, Axes, bool], Tensor]) -> Callable[[Tensor, Axes, bool], Tensor]:
    """Whole numbers are computed as floats and cut back, since PyTorch has no such reduction of them."""

    def reduced(x: Tensor, axes: Axes, keep: bool) -> Tensor:
        return function(x if x.is_floating_point() else x.double(), axes, keep).to(x.dtype)

    return reduced


_REDUCTIONS: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype),
    "ReduceMean": _in_floats(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceMax": lambda x, axes, keep: _extreme(x, axes, keep, largest=True),
    "ReduceMin": lambda x, axes, keep: _extreme(x, axes, keep, largest=False),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: torch.sum(x.abs(), axes, keep, dtype=x.dtype),
    "ReduceL2": _in_floats(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep, dtype=x.dtype),
    "ReduceLogSum": _in_floats(lambda x, axes, keep: torch.log(torch.sum(x, axes, keep))),
    "ReduceLogSumExp": _in_floats(lambda x, axes, keep: torch.logsumexp(x, axes, keep)),
}


def reduce(
    x: Tensor,
    axes_input: Tensor | None = None,
    *,
    kind: str,
    axes: Axes | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Axes are an attribute in old opsets and an input in new ones; none at all means every axis (or nothing to do)."""
    chosen = axes if axes_input is None else tuple(axes_input.tolist())
    if not chosen:
        if noop_with_empty_axes:
            return x
        chosen = tuple(range(x.ndim))
    if x.ndim == 0:  # a number is its own only element
        return _REDUCTIONS[kind](x.reshape(1), (0,), False)
    return _REDUCTIONS[kind](x, chosen, bool(keepdims))


enter_kinds(reduce, _REDUCTIONS, host=(1,))


def arg_extreme(x: Tensor, *, kind: str, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    find = torch.argmax if kind == "ArgMax" else torch.argmin
    if not select_last_index:
        return find(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - find(x.flip(axis), axis, bool(keepdims))


enter_kinds(arg_extreme, ("ArgMax", "ArgMin"), gradient=False)


@operator("TopK", host=(1,))
def top_k(
    x: Tensor, count: Tensor | None = None, *, axis: int = -1, largest: int = 1, sorted: int = 1, k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Among equals the one with the smaller index comes first, which `torch.topk` does not promise."""
    number = int(count) if count is not None else int(k or 0)
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, number), indices.narrow(axis, 0, number)


@operator("CumSum", host=(1,))
def cumulative_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Exclusive sums begin with zero and leave the last element out."""
    dim = int(axis)
    x = x.flip(dim) if reverse else x
    if exclusive:
        x = torch.cat((torch.zeros_like(x.narrow(dim, 0, 1)), x.narrow(dim, 0, x.shape[dim] - 1)), dim)
    total = torch.cumsum(x, dim, dtype=x.dtype)
    return total.flip(dim) if reverse else total


@operator("BatchNormalization")
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: Literal[1] = 1,
    training_mode: Literal[0] = 0,
) -> Tensor:
    if mean.requires_grad or var.requires_grad:  # computed statistics, as of standardised weights
        shape = [-1] + [1] * (x.ndim - 2)
        mean, var, scale, bias = (value.reshape(shape) for value in (mean, var, scale, bias))
        return (x - mean) * torch.rsqrt(var + epsilon) * scale + bias
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


@operator("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return torch.group_norm(x, x.shape[1], scale, bias, epsilon)


@operator("GroupNormalization")
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Opset 18 has one scale a group, opset 21 one a channel."""
    if len(scale) != x.shape[1]:
        repeat = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(repeat), bias.repeat_interleave(repeat)
    return torch.group_norm(x, num_groups, scale, bias, epsilon)


@operator("LayerNormalization")
def layer_normalization(
    x: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    num_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Over the axes from `axis` on; further outputs are the mean and the inverse standard deviation."""
    shape = x.shape[axis:]
    if all(value is None or value.shape == shape for value in (scale, bias)):
        result = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        result = F.layer_norm(x, shape, eps=epsilon)
        result = result if scale is None else result * scale
        result = result if bias is None else result + bias
    return result if num_outputs == 1 else (result, *_statistics(x, range(axis % x.ndim, x.ndim), epsilon))


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


@operator("com.microsoft.SkipLayerNormalization")
def skip_layer_normalization(
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    num_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """LayerNorm of `x + skip + bias`; the sum is the fourth output, statistics are none."""
    total = x + skip if bias is None else x + skip + bias
    result = F.layer_norm(total, total.shape[-1:], scale, shift, epsilon)
    return result if num_outputs == 1 else (result, *_statistics(total, [-1], epsilon), total)


@operator("com.microsoft.SkipSimplifiedLayerNormalization")
def skip_rms_normalization(
    x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-5, num_outputs: int = 1
) -> Tensor | tuple[Tensor, ...]:
    total = x + skip if bias is None else x + skip + bias
    result = F.rms_norm(total, total.shape[-1:], scale, epsilon)
    return result if num_outputs == 1 else (result, *_statistics(total, [-1], epsilon), total)


def _statistics(x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, tuple(axes), correction=0, keepdim=True)
    return mean, torch.rsqrt(var + epsilon)


@operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("LRN")
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """`x / (bias + alpha/size · Σ x²)^beta` over `size` channels, of an even number one more behind than before."""
    squares = F.pad(torch.square(x).flatten(2).unsqueeze(1), (0, 0, (size - 1) // 2, size // 2))
    mean = F.avg_pool2d(squares, (size, 1), 1).squeeze(1).reshape(x.shape)
    return x / (bias + alpha * mean) ** beta


@operator("Dropout", host=(1,))
def dropout(x: Tensor, ratio_input: Tensor | None = None, *, ratio: float = 0.5, seed: int = 0) -> Tensor:
    """In inference; the importer uses a module that also trains."""
    return x
