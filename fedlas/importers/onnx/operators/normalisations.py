"""ONNX's normalisation layers; BatchNormalization only infers here, the importer has a module that also trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.table import operator

Ints = tuple[int, ...]


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
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(torch.square(x).flatten(2).unsqueeze(1), (0, 0, before, after))
    mean = F.avg_pool2d(squares, (size, 1), 1).squeeze(1).reshape(x.shape)
    return x / (bias + alpha * mean) ** beta


@operator("Dropout", host=(1,))
def dropout(x: Tensor, ratio_input: Tensor | None = None, *, ratio: float = 0.5, seed: int = 0) -> Tensor:
    """In inference; the importer uses a module that also trains."""
    return x
