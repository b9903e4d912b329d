"""ONNX operators that make, move, cut, pick and repeat elements, and shape arithmetic.

Shapes are int64 tensors on the CPU, so that they stay a function of the batch that is running.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import Mismatch
from fedlas.importers.onnx.operators.table import bounded, dtype_of, operator

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Identity")
def identity(x: Tensor) -> Tensor:
    return x


@operator("Shape", gradient=False)
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


@operator("Size", gradient=False)
def size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Reshape", host=(1,))
def reshape(x: Tensor, target: Tensor | None = None, *, allowzero: int = 0, shape: tuple[int, ...] = ()) -> Tensor:
    sizes = list(shape) if target is None else target.tolist()
    return x.reshape(sizes if allowzero else [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)])


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    return x.permute(perm or tuple(reversed(range(x.ndim))))


@operator("Squeeze", host=(1,))
def squeeze(x: Tensor, axes_input: Tensor | None = None, *, axes: tuple[int, ...] | None = None) -> Tensor:
    chosen = axes if axes_input is None else tuple(axes_input.tolist())
    return x.squeeze() if chosen is None else x.squeeze(chosen)


@operator("Unsqueeze", host=(1,))
def unsqueeze(x: Tensor, axes_input: Tensor | None = None, *, axes: tuple[int, ...] = ()) -> Tensor:
    chosen = axes if axes_input is None else tuple(axes_input.reshape(-1).tolist())
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Expand", host=(1,))
def expand(x: Tensor, target: Tensor) -> Tensor:
    """Broadcasting goes both ways: a 1 in the target keeps the input's size. No memory is taken."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(target.tolist())))


@operator("Tile", host=(1,))
def tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


@operator("Concat")
def concat(*values: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(values, axis)


@operator("Split", host=(1,))
def split(
    x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, split: tuple[int, ...] | None = None, num_outputs: int
) -> tuple[Tensor, ...]:
    """Without sizes the parts are equal, the last one possibly smaller."""
    given = list(split or ()) if sizes is None else sizes.tolist()
    if not given:
        part = math.ceil(x.shape[axis] / num_outputs)
        given = [part] * (num_outputs - 1) + [x.shape[axis] - part * (num_outputs - 1)]
    return torch.split(x, given, axis)


@operator("Slice", host=(1, 2, 3, 4))
def slice_(
    x: Tensor,
    start: Tensor | None = None,
    end: Tensor | None = None,
    axis: Tensor | None = None,
    step: Tensor | None = None,
    *,
    starts: tuple[int, ...] = (),
    ends: tuple[int, ...] = (),
    axes: tuple[int, ...] | None = None,
) -> Tensor:
    """Bounds are attributes below opset 10; they are clamped like Python's, and steps may be negative."""
    first = list(starts) if start is None else start.tolist()
    last = list(ends) if end is None else end.tolist()
    along = list(axes or range(len(first))) if axis is None else axis.tolist()
    steps = [1] * len(first) if step is None else step.tolist()
    for begin, stop, dim, step_size in zip(first, last, along, steps, strict=True):
        low, high, stride = slice(begin, stop, step_size).indices(x.shape[dim])
        if stride > 0:
            index: list[slice] = [slice(None)] * x.ndim
            index[dim] = slice(low, max(low, high), stride)
            x = x[tuple(index)]
        else:
            x = x.index_select(dim, torch.arange(low, high, stride, device=x.device))
    return x


@operator("Trilu", host=(1,))
def trilu(x: Tensor, diagonal: Tensor | None = None, *, upper: int = 1) -> Tensor:
    # Further away than any element makes no difference, but may be more than PyTorch takes.
    k = 0 if diagonal is None else max(-(2**31), min(int(diagonal), 2**31))
    return torch.triu(x, k) if upper else torch.tril(x, k)


# From the places along an axis (negative and beyond its end where padded) and its size to the elements read there.
_PADDINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "edge": lambda place, size: place.clamp(0, size - 1),
    "reflect": lambda place, size: (size - 1) - ((place % max(2 * size - 2, 1)) - (size - 1)).abs(),
    "wrap": lambda place, size: place % size,
}


@operator("Pad", host=(1, 2, 3))
def pad(
    x: Tensor,
    amounts: Tensor | None = None,
    fill: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str = "constant",
    pads: tuple[int, ...] = (),
    value: float = 0.0,
) -> Tensor:
    """ONNX lists all beginnings, then all ends; PyTorch pairs them, last axis first."""
    widths = list(pads) if amounts is None else amounts.tolist()
    dims = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
    begin, end = dict(zip(dims, widths, strict=False)), dict(zip(dims, widths[len(dims) :], strict=True))
    pairs = [(begin.get(dim, 0), end.get(dim, 0)) for dim in range(x.ndim)]
    bounded([size + before + after for size, (before, after) in zip(x.shape, pairs, strict=True)])
    if mode == "constant":
        flat = [n for pair in reversed(pairs) for n in pair]
        return F.pad(x, flat, value=value if fill is None else fill.item())
    if (fast := _as_pytorch(x, pairs, mode)) is not None:
        return fast
    for dim, (before, after) in enumerate(pairs):
        if before or after:
            place = torch.arange(-before, x.shape[dim] + after, device=x.device)
            x = x.index_select(dim, _PADDINGS[mode](place, x.shape[dim]))
    return x


def _as_pytorch(x: Tensor, pairs: list[tuple[int, int]], mode: str) -> Tensor | None:
    """Images padded by less than their size, which PyTorch has fast kernels for."""
    name = {"edge": "replicate", "reflect": "reflect"}.get(mode)
    spatial = pairs[2:]
    small = all(0 <= n < size for size, pair in zip(x.shape[2:], spatial, strict=True) for n in pair)
    if name is None or x.ndim not in (3, 4, 5) or any(map(any, pairs[:2])) or not small or not x.is_floating_point():
        return None
    return F.pad(x, [n for pair in reversed(spatial) for n in pair], name)


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    x = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    if mode == "CRD":
        return F.pixel_unshuffle(x, blocksize)
    x = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


@operator("Gather", host=(1,))
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis % x.ndim
    if indices.ndim == 0 and not indices.is_meta:
        return x.select(axis, int(indices))
    index = _wrapped(indices.to(x.device, torch.int64), x.shape[axis])
    try:
        if axis == 0 and x.ndim == 2:
            return F.embedding(index, x)
        picked = x.index_select(axis, index.reshape(-1))
    except IndexError as error:  # the rows are wrong, not the graph
        raise Mismatch(
            "inputs_refused",
            f"an index lies outside the {x.shape[axis]} entries of a table of the model (a token beyond its "
            "vocabulary?)",
        ) from error
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    return torch.where(indices < 0, indices + size, indices).long()


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    rows = [
        torch.arange(size, device=x.device).reshape([-1 if i == j else 1 for j in range(indices.ndim - 1)])
        for i, size in enumerate(x.shape[:batch_dims])
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
    index = _wrapped(indices.long(), count)
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


@operator("ConstantOfShape", host=(0,), gradient=False)
def constant_of_shape(sizes: Tensor, *, value: tuple[list[float], str] = ([0.0], "float32")) -> Tensor:
    (fill,), dtype = value
    return torch.full(bounded(sizes.tolist()), fill, dtype=dtype_of(dtype))


@operator("Range", host=(0, 1, 2), gradient=False)
def range_(start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1) -> Tensor:
    """Low-precision floats are counted in a wider type and rounded once."""
    first, last, step = start.item(), limit.item(), delta.item()
    count = bounded([max(0, math.ceil((last - first) / step))])[0]
    if start.is_floating_point():
        wide = torch.float64 if start.dtype is torch.float64 else torch.float32
        return (first + torch.arange(count, dtype=wide) * step).to(start.dtype)
    return first + torch.arange(count, dtype=start.dtype) * step
