"""ONNX operators that move, cut, repeat and create elements, and shape arithmetic; they know no weights.

Shapes are int64 tensors on the CPU, so that they stay a function of the batch that is running.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import Mismatch, UnsupportedModel
from fedlas.importers.onnx.operators.dtypes import torch_dtype
from fedlas.importers.onnx.operators.table import operator

#: More elements than any tensor of a sane classifier has (1 GiB of float32): a few bytes can declare petabytes.
MAX_ELEMENTS = 2**28


def bounded(shape: Sequence[int]) -> list[int]:
    """`shape` as a list.

    Raises:
        UnsupportedModel: `declared_size` where a tensor of that shape has more than `MAX_ELEMENTS` elements.
    """
    if math.prod(shape) > MAX_ELEMENTS:
        raise UnsupportedModel(
            "declared_size",
            f"the graph declares a tensor of shape {tuple(shape)}; {MAX_ELEMENTS} elements are the limit",
        )
    return list(shape)


@operator("Identity")
def identity(x: Tensor) -> Tensor:
    return x


@operator("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


@operator("Size")
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
    """Broadcasting goes both ways: a 1 in the target keeps the input's size."""
    return x.expand(bounded(torch.broadcast_shapes(x.shape, tuple(target.tolist()))))


@operator("Tile", host=(1,))
def tile(x: Tensor, repeats: Tensor) -> Tensor:
    counts = repeats.tolist()
    bounded([n * size for n, size in zip(counts, x.shape, strict=True)])
    return x.repeat(counts)


@operator("Concat")
def concat(*values: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(values, axis)


@operator("Split", host=(1,))
def split(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, split: tuple[int, ...] | None = None,
          num_outputs: int) -> tuple[Tensor, ...]:  # fmt: skip
    """Without sizes the parts are equal, the last one possibly smaller."""
    given = list(split or ()) if sizes is None else sizes.tolist()
    return torch.split(x, given if given else math.ceil(x.shape[axis] / num_outputs), axis)


@operator("Slice", host=(1, 2, 3, 4))
def slice_(x: Tensor, start: Tensor | None = None, end: Tensor | None = None, axis: Tensor | None = None,
           step: Tensor | None = None, *, starts: tuple[int, ...] = (), ends: tuple[int, ...] = (),
           axes: tuple[int, ...] | None = None) -> Tensor:  # fmt: skip
    """Bounds are attributes below opset 10; they are clamped like Python's, and steps may be negative."""
    first = list(starts) if start is None else start.tolist()
    last = list(ends) if end is None else end.tolist()
    along = list(axes or range(len(first))) if axis is None else axis.tolist()
    steps = [1] * len(first) if step is None else step.tolist()
    for begin, stop, dim, stride in zip(first, last, along, steps, strict=True):
        x = _slice_axis(x, dim, slice(begin, stop, stride))
    return x


def _slice_axis(x: Tensor, dim: int, part: slice) -> Tensor:
    begin, stop, stride = part.indices(x.shape[dim])
    if stride > 0:
        index: list[slice] = [slice(None)] * x.ndim
        index[dim] = slice(begin, max(begin, stop), stride)
        return x[tuple(index)]
    return x.index_select(dim, torch.arange(begin, stop, stride, device=x.device))


@operator("Gather", host=(1,))
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = axis % x.ndim
    if indices.ndim == 0:
        return x.select(axis, int(indices))
    index = indices.to(x.device, torch.int64)
    index = torch.where(index < 0, index + x.shape[axis], index)
    try:
        if axis == 0 and x.ndim == 2:
            return F.embedding(index, x)
        picked = x.index_select(axis, index.reshape(-1))
    except IndexError as error:  # the rows are to blame, not the graph: its owner can mend them
        known = x.shape[axis]
        message = f"an index lies outside the {known} entries of a table of the model (a token beyond its vocabulary?)"
        raise Mismatch("inputs_refused", message) from error
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


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
    if reduction not in ("none", "add"):
        raise UnsupportedModel("unsupported_operator", f"ScatterND with reduction={reduction!r} is not supported")
    return x.index_put(indices.long().unbind(-1), updates, accumulate=reduction == "add")


@operator("ScatterElements")
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    index = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    if reduction == "none":
        return x.scatter(axis, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, index, updates, names[reduction])


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(sizes: Tensor, *, value: tuple[list[float], str] = ([0.0], "float32")) -> Tensor:
    (fill,), dtype = value
    return torch.full(bounded(sizes.tolist()), fill, dtype=getattr(torch, dtype))


@operator("Range", host=(0, 1, 2))
def range_(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    bounded([max(0, math.ceil((last - first) / step))])
    return torch.arange(first, last, step, dtype=start.dtype)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    kind = x.dtype if dtype is None else torch_dtype(dtype)
    ones = torch.ones(x.shape, dtype=torch.float32, device=x.device)
    return torch.diagonal_scatter(torch.zeros_like(ones), torch.diagonal(ones, k), k).to(kind)


@operator("Trilu", host=(1,))
def trilu(x: Tensor, diagonal: Tensor | None = None, *, upper: int = 1) -> Tensor:
    k = 0 if diagonal is None else int(diagonal)
    return torch.triu(x, k) if upper else torch.tril(x, k)


@operator("NonZero")
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).T


@operator("OneHot", host=(1,))
def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    count = int(depth)
    hot = F.one_hot(indices.long() % count, count).bool().movedim(-1, axis)
    return torch.where(hot, values[1], values[0])


@operator("Pad", host=(1, 2, 3))
def pad(x: Tensor, amounts: Tensor | None = None, fill: Tensor | None = None, axes: Tensor | None = None, *,
        mode: str = "constant", pads: tuple[int, ...] = (), value: float = 0.0) -> Tensor:  # fmt: skip
    """ONNX lists all beginnings, then all ends; PyTorch pairs them, last axis first."""
    widths = list(pads) if amounts is None else amounts.tolist()
    dims = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.tolist()]
    begin, end = dict(zip(dims, widths, strict=False)), dict(zip(dims, widths[len(dims) :], strict=True))
    pairs = [n for dim in reversed(range(x.ndim)) for n in (begin.get(dim, 0), end.get(dim, 0))]
    bounded([size + begin.get(dim, 0) + end.get(dim, 0) for dim, size in enumerate(x.shape)])
    if mode == "constant":
        return F.pad(x, pairs, value=value if fill is None else fill.item())
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]  # reflection is only defined for the last axes
    return F.pad(x, pairs, {"edge": "replicate", "wrap": "circular"}.get(mode, mode))


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    x = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)
