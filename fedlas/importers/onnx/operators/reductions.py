"""ONNX operators that reduce or accumulate along axes: ReduceX, ArgMax, TopK, CumSum."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
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
    shape = torch.sum(x, axes, keep).shape
    worst = -math.inf if largest else math.inf
    if x.dtype is torch.bool:
        worst = not largest
    elif not x.is_floating_point():
        whole = torch.iinfo(x.dtype)
        worst = whole.min if largest else whole.max
    return torch.full(shape, worst, dtype=x.dtype, device=x.device)


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


def _arg_extreme(x: Tensor, axis: int, keepdims: int, select_last_index: int, largest: bool) -> Tensor:
    find = torch.argmax if largest else torch.argmin
    if not select_last_index:
        return find(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - find(x.flip(axis), axis, bool(keepdims))


@operator("ArgMax", gradient=False)
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg_extreme(x, axis, keepdims, select_last_index, largest=True)


@operator("ArgMin", gradient=False)
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg_extreme(x, axis, keepdims, select_last_index, largest=False)


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
