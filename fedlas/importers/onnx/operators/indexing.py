"""ONNX operators that pick or place elements by computed indices: Gather, Scatter, OneHot."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import Mismatch
from fedlas.importers.onnx.operators.limits import bounded
from fedlas.importers.onnx.operators.table import operator

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Gather", host=(1,))
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis % x.ndim
    if indices.ndim == 0 and not indices.is_meta:
        return x.select(axis, int(indices))
    index = indices.to(x.device, torch.int64)
    index = torch.where(index < 0, index + x.shape[axis], index)
    try:
        if axis == 0 and x.ndim == 2:
            return F.embedding(index, x)
        picked = x.index_select(axis, index.reshape(-1))
    except IndexError as error:  # the rows are wrong, not the graph
        known = x.shape[axis]
        message = f"an index lies outside the {known} entries of a table of the model (a token beyond its vocabulary?)"
        raise Mismatch("inputs_refused", message) from error
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    return torch.where(indices < 0, indices + size, indices).long()


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    shared = x.shape[:batch_dims]
    rows = [
        torch.arange(size, device=x.device).reshape([-1 if i == j else 1 for j in range(indices.ndim - 1)])
        for i, size in enumerate(shared)
    ]
    return x[(*rows, *indices.long().unbind(-1))]


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction in ("none", "add"):
        return x.index_put(indices.long().unbind(-1), updates, accumulate=reduction == "add")
    depth = indices.shape[-1]
    row = torch.zeros_like(indices[..., 0]).long()
    for axis in range(depth):
        row = row * x.shape[axis] + _wrapped(indices[..., axis], x.shape[axis])
    rows = x.reshape(math.prod(x.shape[:depth]), -1)
    news = updates.reshape(row.numel(), -1)
    index = row.reshape(-1, 1).expand(news.shape)
    return rows.scatter_reduce(0, index, news, _REDUCTIONS[reduction]).reshape(x.shape)


@operator("ScatterElements", "Scatter")
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    index = _wrapped(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])


@operator("Compress")
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """The elements where the condition holds; it may be shorter than the axis."""
    x, along = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(along, torch.nonzero(condition.to(x.device)).squeeze(1))


@operator("NonZero", gradient=False)
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).T


@operator("OneHot", host=(1,))
def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    """Values are (off, on); an index outside the depth is off everywhere."""
    count = int(depth)
    bounded([indices.numel(), count])
    index = indices.long()
    index = torch.where(index < 0, index + count, index)
    hot = (index.unsqueeze(-1) == torch.arange(count, device=index.device)).movedim(-1, axis)
    return torch.where(hot, values[1], values[0])


@operator("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Turns the first elements of each row round, the rest stay."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    step = torch.arange(moved.shape[1], device=x.device)
    length = lengths.to(x.device)[:, None]
    index = torch.where(step < length, length - 1 - step, step)
    rows = torch.arange(moved.shape[0], device=x.device)[:, None]
    return moved[rows, index].movedim((0, 1), (batch_axis, time_axis))
