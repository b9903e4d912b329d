"""ONNX operators that carry weights: products, convolutions, pooling, normalisation, attention; they only infer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.table import operator

Ints = tuple[int, ...]


@operator("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0,
         transA: int = 0, transB: int = 0) -> Tensor:  # fmt: skip
    a, weight = (a.T if transA else a), (b if transB else b.T)
    if alpha == beta == 1.0 and (c is None or (c.ndim == 1 and len(c) == len(weight))):
        return F.linear(a, weight, c)
    product = alpha * F.linear(a, weight)
    return product if c is None else product + beta * c


@operator("Einsum")
def einsum(*values: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *values)


def _explicit_pads(auto_pad: str, pads: Ints | None, size: Sequence[int], kernel: Sequence[int], stride: Ints,
                   dilation: Ints) -> Ints:  # fmt: skip
    """All beginnings, then all ends, as ONNX writes them."""
    if auto_pad in ("NOTSET", "VALID"):
        return pads if pads and auto_pad == "NOTSET" else (0,) * (2 * len(stride))
    total = [
        max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return small + large if auto_pad == "SAME_UPPER" else large + small


def _pad(x: Tensor, pads: Ints, value: float = 0.0) -> Tensor:
    rank = len(pads) // 2
    return F.pad(x, [n for i in reversed(range(rank)) for n in (pads[i], pads[i + rank])], value=value)


def _symmetric(pads: Ints) -> Ints | None:
    rank = len(pads) // 2
    return pads[:rank] if pads[:rank] == pads[rank:] else None


def _by_rank(rank: int, *functions: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return functions[rank - 1]


@operator("Conv")
def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET",
         dilations: Ints | None = None, group: int = 1, kernel_shape: Ints | None = None, pads: Ints | None = None,
         strides: Ints | None = None) -> Tensor:  # fmt: skip
    rank = x.ndim - 2
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
    edges = _explicit_pads(auto_pad, pads, x.shape[2:], weight.shape[2:], stride, dilation)
    padding = _symmetric(edges)
    if padding is None:
        x, padding = _pad(x, edges), (0,) * rank
    return _by_rank(rank, F.conv1d, F.conv2d, F.conv3d)(x, weight, bias, stride, padding, dilation, group)


@operator("ConvTranspose")
def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET",
                   dilations: Ints | None = None, group: int = 1, kernel_shape: Ints | None = None,
                   output_padding: Ints | None = None, pads: Ints | None = None,
                   strides: Ints | None = None) -> Tensor:  # fmt: skip
    """Pads are cut from the full result, which also serves uneven ones."""
    rank = x.ndim - 2
    stride, dilation, extra = strides or (1,) * rank, dilations or (1,) * rank, output_padding or (0,) * rank
    edges = pads or (0,) * (2 * rank)
    if auto_pad.startswith("SAME"):
        total = [(k - 1) * d + 1 + e - s for k, d, e, s in zip(weight.shape[2:], dilation, extra, stride, strict=True)]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        edges = small + large if auto_pad == "SAME_UPPER" else large + small
    convolve = _by_rank(rank, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    padding = _symmetric(edges)
    if padding is not None:
        return convolve(x, weight, bias, stride, padding, extra, group, dilation)
    return _pad(convolve(x, weight, bias, stride, 0, extra, group, dilation), tuple(-n for n in edges))


@operator("MaxPool")
def max_pool(x: Tensor, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0,
             dilations: Ints | None = None, pads: Ints | None = None, storage_order: int = 0,
             strides: Ints | None = None) -> Tensor:  # fmt: skip
    rank = x.ndim - 2
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
    edges = _explicit_pads(auto_pad, pads, x.shape[2:], kernel_shape, stride, dilation)
    padding = _symmetric(edges)
    if padding is None or any(2 * p > k for p, k in zip(padding, kernel_shape, strict=True)):
        x, padding = _pad(x, edges, -math.inf), (0,) * rank
    pool = _by_rank(rank, F.max_pool1d, F.max_pool2d, F.max_pool3d)
    return pool(x, kernel_shape, stride, padding, dilation, bool(ceil_mode))


@operator("AveragePool")
def average_pool(x: Tensor, *, kernel_shape: Ints, auto_pad: str = "NOTSET", ceil_mode: int = 0,
                 count_include_pad: int = 0, pads: Ints | None = None,
                 strides: Ints | None = None) -> Tensor:  # fmt: skip
    rank = x.ndim - 2
    stride = strides or (1,) * rank
    edges = _explicit_pads(auto_pad, pads, x.shape[2:], kernel_shape, stride, (1,) * rank)
    pool = _by_rank(rank, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    padding = _symmetric(edges)
    if padding is not None and all(2 * p <= k for p, k in zip(padding, kernel_shape, strict=True)):
        return pool(x, kernel_shape, stride, padding, bool(ceil_mode), bool(count_include_pad))
    total = pool(_pad(x, edges), kernel_shape, stride, 0, bool(ceil_mode))
    if count_include_pad:
        return total
    share = pool(_pad(torch.ones_like(x[:1, :1]), edges), kernel_shape, stride, 0, bool(ceil_mode))
    return total / share


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("BatchNormalization")
def batch_normalization(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5,
                        momentum: float = 0.9, spatial: int = 1) -> Tensor:  # fmt: skip
    """In inference; where scale and statistics are constants the importer uses a module that also trains."""
    if mean.requires_grad or var.requires_grad:  # computed statistics, as of standardised weights
        shape = [-1] + [1] * (x.ndim - 2)
        mean, var, scale, bias = (value.reshape(shape) for value in (mean, var, scale, bias))
        return (x - mean) * torch.rsqrt(var + epsilon) * scale + bias
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


@operator("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    # A group of one channel each is the same normalisation, and also takes a single element per channel.
    return F.group_norm(x, x.shape[1], scale, bias, epsilon)


@operator("GroupNormalization")
def group_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5,
                        stash_type: int = 1) -> Tensor:  # fmt: skip
    """Opset 18 has one scale a group, opset 21 one a channel."""
    if len(scale) != x.shape[1]:
        repeat = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(repeat), bias.repeat_interleave(repeat)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("LayerNormalization")
def layer_normalization(x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, *, axis: int = -1,
                        epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:  # fmt: skip
    shape = x.shape[axis:]
    if all(value is None or value.shape == shape for value in (scale, bias)):
        return F.layer_norm(x, shape, scale, bias, epsilon)
    normal = F.layer_norm(x, shape, eps=epsilon)
    normal = normal if scale is None else normal * scale
    return normal if bias is None else normal + bias


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


@operator("LRN")
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)


@operator("Dropout", host=(1, 2))
def dropout(x: Tensor, ratio_input: Tensor | None = None, training_mode: Tensor | None = None, *, ratio: float = 0.5,
            seed: int = 0) -> Tensor:  # fmt: skip
    """In inference; the importer uses a module that also trains."""
    return x


@operator("Attention")
def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, is_causal: int = 0,
              kv_num_heads: int | None = None, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0,
              scale: float | None = None, softcap: float = 0.0, softmax_precision: int = 1) -> Tensor:  # fmt: skip
    """Scaled dot products over (N, heads, L, d), or over (N, L, heads·d) with the numbers of heads as attributes."""
    if softcap:
        raise UnsupportedModel("unsupported_operator", "operator Attention with softcap is not supported")
    packed = query.ndim == 3
    if packed:
        query = query.reshape(*query.shape[:2], q_num_heads or 1, -1).transpose(1, 2)
        key, value = (t.reshape(*t.shape[:2], kv_num_heads or 1, -1).transpose(1, 2) for t in (key, value))
    grouped = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=bool(is_causal), scale=scale, enable_gqa=grouped
    )
    return out.transpose(1, 2).flatten(2) if packed else out
