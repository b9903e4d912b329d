"""ONNX's convolutions in one to three dimensions."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.activations import fused_activation
from fedlas.importers.onnx.operators.table import operator
from fedlas.importers.onnx.operators.windows import Ints, Window, WindowAttributes, by_rank, halves, pad


class ConvolutionAttributes(WindowAttributes, total=False):
    """The attributes that convolutions have beside those of their windows."""

    group: int


@operator("Conv")
def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Unpack[ConvolutionAttributes]) -> Tensor:
    window = Window.over(x.shape[2:], weight.shape[2:], attributes)
    padding = window.symmetric
    if padding is None:
        x, padding = pad(x, window.pads), (0,) * window.rank
    convolve = by_rank(window.rank, F.conv1d, F.conv2d, F.conv3d)
    return convolve(x, weight, bias, window.stride, padding, window.dilation, attributes.get("group", 1))


@operator("com.microsoft.FusedConv")
def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    summand: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: tuple[float, ...] = (),
    **attributes: Unpack[ConvolutionAttributes],
) -> Tensor:
    """A convolution, a summand and an activation, as ONNX Runtime's optimiser writes them."""
    result = conv(x, weight, bias, **attributes)
    return fused_activation(activation, result if summand is None else result + summand, *activation_params)


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    **attributes: Unpack[ConvolutionAttributes],
) -> Tensor:
    """Pads are cut from the full result, which also serves uneven ones and those that enlarge it."""
    window, group = Window.over(x.shape[2:], weight.shape[2:], attributes), attributes.get("group", 1)
    rank, extra = window.rank, output_padding or (0,) * window.rank
    full = [
        s * (n - 1) + e + reach for n, reach, s, e in zip(x.shape[2:], window.reach, window.stride, extra, strict=True)
    ]
    edges = _cut(window, full, x.shape[2:], output_shape[-rank:] if output_shape else None)
    remaining = [n - a - b for n, a, b in zip(full, edges[:rank], edges[rank:], strict=True)]
    if min(remaining) < 1:
        raise ValueError(f"pads {edges} leave nothing of a result of {full}")
    convolve = by_rank(rank, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    begins, ends = edges[:rank], edges[rank:]
    fits = all(e < max(s, d) for e, s, d in zip(extra, window.stride, window.dilation, strict=True))
    if begins == ends and min(edges) >= 0 and fits:
        return convolve(x, weight, bias, window.stride, begins, extra, group, window.dilation)
    result = convolve(x, weight, None, window.stride, 0, 0, group, window.dilation)
    ends = tuple(e - n for e, n in zip(extra, ends, strict=True))
    result = pad(result, (*(-n for n in begins), *ends))
    return result if bias is None else result + bias.reshape(-1, *(1,) * rank)


def _cut(window: Window, full: list[int], size: torch.Size, output: Ints | None) -> Ints:
    """What to cut from the full result's beginnings and ends; what it lacks is added at the end."""
    same = window.auto_pad.startswith("SAME")
    if output is None and not same:
        return window.pads
    wanted = output or tuple(s * n for s, n in zip(window.stride, size, strict=True))
    total = [n - m for n, m in zip(full, wanted, strict=True)]
    edges = halves([max(n, 0) for n in total], more_at_end=window.auto_pad == "SAME_UPPER")
    if output is None:  # ONNX Runtime does not enlarge where the stride is wider than the window
        return edges
    rank = window.rank
    return edges[:rank] + tuple(e + min(n, 0) for e, n in zip(edges[rank:], total, strict=True))
