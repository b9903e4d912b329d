"""ONNX operators that reduce or normalise along axes: ReduceX, Softmax, ArgMax, TopK, CumSum; they know no weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedlas.importers.onnx.operators.table import OPERATORS, Operator, keyword_names, operator


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep)
    return x


_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: torch.sum(x, axes, keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: torch.mean(x, axes, keep),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: torch.sum(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep)),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
}


def reduce(x: Tensor, axes_input: Tensor | None = None, *, kind: str, axes: tuple[int, ...] | None = None,
           keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:  # fmt: skip
    """Axes are an attribute in old opsets and an input in new ones; none at all means every axis (or nothing to do)."""
    chosen = axes if axes_input is None else tuple(axes_input.tolist())
    if not chosen:
        if noop_with_empty_axes or x.ndim == 0:
            return x
        chosen = tuple(range(x.ndim))
    return _REDUCTIONS[kind](x, chosen, bool(keepdims))


OPERATORS.update(
    {kind: Operator(reduce, (1,), keyword_names(reduce) - {"kind"}, {"kind": kind}) for kind in _REDUCTIONS}
)


def _softmax(x: Tensor, axis: int | None, opset: int, log: bool) -> Tensor:
    """Below opset 13 everything from `axis` (default 1) on is one axis."""
    function = torch.log_softmax if log else torch.softmax
    if opset >= 13:
        return function(x, -1 if axis is None else axis)
    start = (1 if axis is None else axis) % x.ndim
    return function(x.flatten(start), -1).view(x.shape) if start < x.ndim - 1 else function(x, -1)


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    return _softmax(x, axis, opset, log=False)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    return _softmax(x, axis, opset, log=True)


def _arg_extreme(x: Tensor, axis: int, keepdims: int, select_last_index: int, largest: bool) -> Tensor:
    find = torch.argmax if largest else torch.argmin
    if not select_last_index:
        return find(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - find(x.flip(axis), axis, bool(keepdims))


@operator("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg_extreme(x, axis, keepdims, select_last_index, largest=True)


@operator("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg_extreme(x, axis, keepdims, select_last_index, largest=False)


@operator("TopK", host=(1,))
def top_k(x: Tensor, count: Tensor | None = None, *, axis: int = -1, largest: int = 1, sorted: int = 1,
          k: int | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    number = int(count) if count is not None else int(k or 0)
    values, indices = torch.topk(x, number, axis, bool(largest), bool(sorted))
    return values, indices


@operator("CumSum", host=(1,))
def cumulative_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    dim = int(axis)
    x = x.flip(dim) if reverse else x
    total = torch.cumsum(x, dim, dtype=x.dtype)
    total = total - x if exclusive else total
    return total.flip(dim) if reverse else total


@operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)
