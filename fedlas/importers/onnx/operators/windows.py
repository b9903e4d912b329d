"""Sliding windows, shared by convolutions and pooling: their attributes, padding and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.limits import bounded

Ints = tuple[int, ...]


class WindowAttributes(TypedDict, total=False):
    """The attributes that all operators with windows have."""

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
        """The window of a node whose input has the spatial axes `size`."""
        rank, auto_pad = len(size), attributes.get("auto_pad", "NOTSET")
        given = attributes.get("pads") if auto_pad == "NOTSET" else None
        ones = (1,) * rank
        stride, dilation = attributes.get("strides") or ones, attributes.get("dilations") or ones
        window = cls(tuple(kernel), stride, dilation, given or (0,) * (2 * rank), auto_pad)
        return replace(window, pads=window._same_pads(size)) if auto_pad.startswith("SAME") else window

    def _same_pads(self, size: Sequence[int]) -> Ints:
        axes = zip(size, self.stride, self.reach, strict=True)
        total = [max((math.ceil(n / s) - 1) * s + reach - n, 0) for n, s, reach in axes]
        return halves(total, more_at_end=self.auto_pad == "SAME_UPPER")

    @property
    def rank(self) -> int:
        return len(self.stride)

    @property
    def reach(self) -> Ints:
        """How many elements a window spans along each axis."""
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
        """The padding at the ends with which the last window ends exactly where the padded input does.

        With `ceil_mode` a window may reach beyond the padding, but none begins in the padding at the end.
        """
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
    """The function for one, two or three spatial axes.

    Raises:
        ValueError: there is none.
    """
    if not 1 <= rank <= len(functions):
        raise ValueError(f"windows over {rank} spatial axes, 1 to {len(functions)} are supported")
    return functions[rank - 1]
