"""Padding and sizes of sliding windows, shared by convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.limits import bounded

Ints = tuple[int, ...]


def explicit_pads(
    auto_pad: str, pads: Ints | None, size: Sequence[int], kernel: Sequence[int], stride: Ints, dilation: Ints
) -> Ints:
    """All beginnings, then all ends, as ONNX writes them."""
    if auto_pad in ("NOTSET", "VALID"):
        return pads if pads and auto_pad == "NOTSET" else (0,) * (2 * len(stride))
    total = [
        max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    return halves(total, more_at_end=auto_pad == "SAME_UPPER")


def halves(total: Sequence[int], *, more_at_end: bool) -> Ints:
    """Padding of `total` split between beginnings and ends; an odd one goes to the end or to the beginning."""
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return small + large if more_at_end else large + small


def pad(x: Tensor, pads: Ints, value: float = 0.0) -> Tensor:
    """`x` padded (cut where negative) along its last axes."""
    rank = len(pads) // 2
    bounded([*x.shape[:-rank], *(n + a + b for n, a, b in zip(x.shape[-rank:], pads[:rank], pads[rank:], strict=True))])
    return F.pad(x, [n for i in reversed(range(rank)) for n in (pads[i], pads[i + rank])], value=value)


def symmetric(pads: Ints) -> Ints | None:
    """The padding of each axis where beginning and end have the same, which PyTorch's layers take."""
    rank = len(pads) // 2
    return pads[:rank] if pads[:rank] == pads[rank:] and min(pads, default=0) >= 0 else None


def by_rank(rank: int, *functions: Callable[..., Any]) -> Callable[..., Any]:
    """The function for one, two or three spatial axes."""
    return functions[rank - 1]


def ends_of_windows(
    size: Sequence[int], pads: Ints, kernel: Sequence[int], stride: Ints, dilation: Ints, *, ceil_mode: bool
) -> Ints:
    """The padding at the ends with which the last window ends exactly where the padded input does.

    With `ceil_mode` a window may reach beyond the padding, but none begins in the padding at the end.
    """
    rank, ends = len(stride), []
    for i, n in enumerate(size):
        begin, end, reach = pads[i], pads[i + rank], (kernel[i] - 1) * dilation[i] + 1
        steps = (n + begin + end - reach) / stride[i]
        count = math.ceil(steps) if ceil_mode else math.floor(steps)
        if ceil_mode and count * stride[i] >= n + begin:
            count -= 1
        ends.append(count * stride[i] + reach - n - begin)
    return tuple(ends)
