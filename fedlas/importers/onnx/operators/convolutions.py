"""ONNX's convolutions in one to three dimensions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.activations import fused_activation
from fedlas.importers.onnx.operators.table import operator
from fedlas.importers.onnx.operators.windows import Ints, by_rank, explicit_pads, halves, pad, symmetric


@operator("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    rank = x.ndim - 2
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
    edges = explicit_pads(auto_pad, pads, x.shape[2:], weight.shape[2:], stride, dilation)
    padding = symmetric(edges)
    if padding is None:
        x, padding = pad(x, edges), (0,) * rank
    result: Tensor = by_rank(rank, F.conv1d, F.conv2d, F.conv3d)(x, weight, bias, stride, padding, dilation, group)
    return result


@operator("com.microsoft.FusedConv")
def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    summand: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: tuple[float, ...] = (),
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """A convolution, a summand and an activation, as ONNX Runtime's optimiser writes them."""
    result = conv(x, weight, bias, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    return fused_activation(activation, result if summand is None else result + summand, *activation_params)


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Pads are cut from the full result, which also serves uneven ones and those that enlarge it."""
    rank = x.ndim - 2
    stride, dilation, extra = strides or (1,) * rank, dilations or (1,) * rank, output_padding or (0,) * rank
    full = [
        s * (n - 1) + e + (k - 1) * d + 1
        for n, k, s, d, e in zip(x.shape[2:], weight.shape[2:], stride, dilation, extra, strict=True)
    ]
    edges = _cut(auto_pad, full, x.shape[2:], stride, output_shape[-rank:] if output_shape else None, pads)
    remaining = [n - a - b for n, a, b in zip(full, edges[:rank], edges[rank:], strict=True)]
    if min(remaining) < 1:
        raise ValueError(f"pads {edges} leave nothing of a result of {full}")
    convolve = by_rank(rank, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    padding = symmetric(edges)
    result: Tensor
    if padding is not None and all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        result = convolve(x, weight, bias, stride, padding, extra, group, dilation)
        return result
    ends = tuple(e - n for e, n in zip(extra, edges[rank:], strict=True))
    result = pad(convolve(x, weight, None, stride, 0, 0, group, dilation), (*(-n for n in edges[:rank]), *ends))
    return result if bias is None else result + bias.reshape(-1, *(1,) * rank)


def _cut(
    auto_pad: str, full: list[int], size: torch.Size, stride: Ints, output: Ints | None, pads: Ints | None
) -> Ints:
    """What to cut from the full result's beginnings and ends; what it lacks is added at the end."""
    if output is None and not auto_pad.startswith("SAME"):
        return pads if pads and auto_pad == "NOTSET" else (0,) * (2 * len(stride))
    wanted = output or tuple(s * n for s, n in zip(stride, size, strict=True))
    total = [n - m for n, m in zip(full, wanted, strict=True)]
    edges = halves([max(n, 0) for n in total], more_at_end=auto_pad == "SAME_UPPER")
    if output is None:  # ONNX Runtime does not enlarge where the stride is wider than the window
        return edges
    rank = len(stride)
    return edges[:rank] + tuple(e + min(n, 0) for e, n in zip(edges[rank:], total, strict=True))


@operator("Col2Im", host=(1, 2))
def col2im(
    x: Tensor,
    image_shape: Tensor,
    block_shape: Tensor,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Adds columns back into an image: a transposed convolution with one-hot weights, in any rank up to three."""
    block, image = tuple(block_shape.tolist()), tuple(image_shape.tolist())
    rank, area = len(block), math.prod(block)
    stride, dilation, edges = strides or (1,) * rank, dilations or (1,) * rank, pads or (0,) * (2 * rank)
    counts = [
        (n + edges[i] + edges[i + rank] - (k - 1) * dilation[i] - 1) // stride[i] + 1
        for i, (n, k) in enumerate(zip(image, block, strict=True))
    ]
    columns = x.reshape(-1, area, *counts)
    weight = torch.eye(area, dtype=x.dtype, device=x.device).reshape(area, 1, *block)
    shape = conv_transpose(
        columns,
        weight,
        strides=stride,
        dilations=dilation,
        pads=edges,
        output_padding=tuple(
            n + edges[i] + edges[i + rank] - ((c - 1) * stride[i] + (k - 1) * dilation[i] + 1)
            for i, (n, c, k) in enumerate(zip(image, counts, block, strict=True))
        ),
    )
    return shape.reshape(x.shape[0], -1, *image)
