"""ONNX's convolutions and pooling in one to three dimensions, and the sliding windows that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.elementwise import fused_activation
from fedlas.importers.onnx.operators.table import bounded, operator

Ints = tuple[int, ...]


class WindowAttributes(TypedDict, total=False):
    auto_pad: str
    dilations: Ints
    kernel_shape: Ints
    pads: Ints
    strides: Ints


@dataclass(frozen=True)
class Window:
    """A window along the spatial axes; `pads` are all beginnings, then all ends, as ONNX writes them."""

    kernel: Ints
    stride: Ints
    dilation: Ints
    pads: Ints
    auto_pad: str

    @classmethod
    def over(cls, size: Sequence[int], kernel: Sequence[int], attributes: WindowAttributes) -> Window:
        rank, auto_pad = len(size), attributes.get("auto_pad", "NOTSET")
        given = attributes.get("pads") if auto_pad == "NOTSET" else None
        ones = (1,) * rank
        stride, dilation = attributes.get("strides") or ones, attributes.get("dilations") or ones
        window = cls(tuple(kernel), stride, dilation, given or (0,) * (2 * rank), auto_pad)
        if not auto_pad.startswith("SAME"):
            return window
        axes = zip(size, window.stride, window.reach, strict=True)
        total = [max((math.ceil(n / s) - 1) * s + reach - n, 0) for n, s, reach in axes]
        return replace(window, pads=halves(total, more_at_end=auto_pad == "SAME_UPPER"))

    @property
    def rank(self) -> int:
        return len(self.stride)

    @property
    def reach(self) -> Ints:
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def begins(self) -> Ints:
        return self.pads[: self.rank]

    @property
    def ends(self) -> Ints:
        return self.pads[self.rank :]

    @property
    def symmetric(self) -> Ints | None:
        """The padding of each axis where beginning and end have the same, which PyTorch's layers take."""
        return self.begins if self.begins == self.ends and min(self.pads, default=0) >= 0 else None

    def exact_ends(self, size: Sequence[int], *, ceil_mode: bool) -> Ints:
        """The padding at the ends with which the last window, begun before it, ends where the padded input does."""
        ends = []
        for n, stride, reach, begin, end in zip(size, self.stride, self.reach, self.begins, self.ends, strict=True):
            steps = (n + begin + end - reach) / stride
            count = math.ceil(steps) if ceil_mode else math.floor(steps)
            if ceil_mode and count * stride >= n + begin:
                count -= 1
            ends.append(count * stride + reach - n - begin)
        return tuple(ends)


def halves(total: Sequence[int], *, more_at_end: bool) -> Ints:
    """Padding of `total` split between beginnings and ends; an odd one goes to the end or to the beginning."""
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return small + large if more_at_end else large + small


def pad(x: Tensor, pads: Ints, value: float = 0.0) -> Tensor:
    """`x` padded (cut where negative) along its last axes."""
    rank = len(pads) // 2
    bounded([*x.shape[:-rank], *(n + a + b for n, a, b in zip(x.shape[-rank:], pads[:rank], pads[rank:], strict=True))])
    return F.pad(x, [n for i in reversed(range(rank)) for n in (pads[i], pads[i + rank])], value=value)


def by_rank(rank: int, *functions: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function for one, two or three spatial axes; raises ValueError where there is none."""
    if not 1 <= rank <= len(functions):
        raise ValueError(f"windows over {rank} spatial axes, 1 to {len(functions)} are supported")
    return functions[rank - 1]


class ConvolutionAttributes(WindowAttributes, total=False):
    group: int


@operator("Conv")
def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Unpack[ConvolutionAttributes]) -> Tensor:
    window = Window.over(x.shape[2:], weight.shape[2:], attributes)
    if (padding := window.symmetric) is None:
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
    if min(n - a - b for n, a, b in zip(full, edges[:rank], edges[rank:], strict=True)) < 1:
        raise ValueError(f"pads {edges} leave nothing of a result of {full}")
    convolve = by_rank(rank, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    begins, ends = edges[:rank], edges[rank:]
    fits = all(e < max(s, d) for e, s, d in zip(extra, window.stride, window.dilation, strict=True))
    if begins == ends and min(edges) >= 0 and fits:
        return convolve(x, weight, bias, window.stride, begins, extra, group, window.dilation)
    result = convolve(x, weight, None, window.stride, 0, 0, group, window.dilation)
    result = pad(result, (*(-n for n in begins), *(e - n for e, n in zip(extra, ends, strict=True))))
    return result if bias is None else result + bias.reshape(-1, *(1,) * rank)


def _cut(window: Window, full: list[int], size: torch.Size, output: Ints | None) -> Ints:
    """Pads to cut from the full result's beginnings and ends; what it lacks is added at the end."""
    if output is None and not window.auto_pad.startswith("SAME"):
        return window.pads
    wanted = output or tuple(s * n for s, n in zip(window.stride, size, strict=True))
    total = [n - m for n, m in zip(full, wanted, strict=True)]
    edges = halves([max(n, 0) for n in total], more_at_end=window.auto_pad == "SAME_UPPER")
    if output is None:  # ONNX Runtime does not enlarge where the stride is wider than the window
        return edges
    return edges[: window.rank] + tuple(e + min(n, 0) for e, n in zip(edges[window.rank :], total, strict=True))


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
