"""ONNX's Resize and Upsample: PyTorch's interpolation where it means the same, else weighted sums along each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlas.importers.onnx.operators.table import bounded, operator

Where = Literal["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
_INTERPOLATIONS = {
    ("linear", 3): "linear",
    ("linear", 4): "bilinear",
    ("linear", 5): "trilinear",
    ("cubic", 4): "bicubic",
}


@dataclass(frozen=True)
class _ResizeOptions:
    """Resize's attributes that concern one axis, by ONNX's names."""

    mode: str
    coordinate_transformation_mode: str
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75


@dataclass(frozen=True)
class _ResizedAxis:
    dim: int
    size: int
    target: int
    scale: float


@operator("Resize", host=(1, 2, 3))
def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: Where = "half_pixel",
    cubic_coeff_a: float = -0.75,
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int,
) -> Tensor:
    """Opset 10 has scales as its second input and knows no options."""
    if opset < 11:
        return upsample(x, roi, mode=mode)
    dims = [axis % x.ndim for axis in axes] if axes else list(range(x.ndim))
    if sizes is not None and sizes.numel():
        target = sizes.tolist()
        factors = [n / x.shape[d] for d, n in zip(dims, target, strict=True)]
    else:
        factors = [] if scales is None else scales.tolist()
        target = [_scaled(x.shape[d], s) for d, s in zip(dims, factors, strict=True)]
    parts = [_ResizedAxis(d, x.shape[d], n, s) for d, n, s in zip(dims, target, factors, strict=True)]
    return _resize(x, parts, _ResizeOptions(mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a))


@operator("Upsample", host=(1,))
def upsample(
    x: Tensor, scales_input: Tensor | None = None, *, mode: str = "nearest", scales: tuple[float, ...] = ()
) -> Tensor:
    factors = list(scales) if scales_input is None else scales_input.tolist()
    parts = [_ResizedAxis(d, n, _scaled(n, s), s) for d, (n, s) in enumerate(zip(x.shape, factors, strict=True))]
    return _resize(x, parts, _ResizeOptions(mode, "asymmetric", "simple"))


def _scaled(size: int, scale: float) -> int:
    """In single precision, as ONNX Runtime does it: 10 · 0.7 is 7."""
    return int(torch.tensor(size, dtype=torch.float32) * torch.tensor(scale, dtype=torch.float32))


def _resize(x: Tensor, axes: Sequence[_ResizedAxis], options: _ResizeOptions) -> Tensor:
    target = list(x.shape)
    for axis in axes:
        target[axis.dim] = axis.target
    bounded(target)
    axes = [axis for axis in axes if axis.size != axis.target or not math.isclose(axis.scale, 1.0)]
    if axes and _is_pytorchs(x, axes, options):
        mode = "nearest" if options.mode == "nearest" else _INTERPOLATIONS[options.mode, x.ndim]
        corners = None if mode == "nearest" else options.coordinate_transformation_mode == "align_corners"
        return F.interpolate(x, size=target[2:], mode=mode, align_corners=corners)
    result = x if x.is_floating_point() else x.double()
    for axis in axes:
        result = _along(result, axis, options)
    if x.is_floating_point():
        return result
    limits = torch.iinfo(x.dtype)
    return result.clamp(limits.min, limits.max).to(x.dtype)


def _is_pytorchs(x: Tensor, axes: Sequence[_ResizedAxis], options: _ResizeOptions) -> bool:
    """True where `F.interpolate` has the same definition (and then does it in one fast step)."""
    spatial = all(axis.dim > 1 for axis in axes) and 3 <= x.ndim <= 5 and x.is_floating_point()
    exact = all(abs(axis.scale * axis.size - axis.target) < 1e-5 and axis.target > 1 for axis in axes)
    if not spatial or not exact:
        return False
    where = options.coordinate_transformation_mode
    if options.mode == "nearest":
        whole = all(axis.target % axis.size == 0 for axis in axes) and where in ("half_pixel", "pytorch_half_pixel")
        floor = options.nearest_mode == "floor" or (
            options.nearest_mode == "simple" and min(a.scale for a in axes) >= 1
        )
        return (whole and options.nearest_mode.startswith("round")) or (where == "asymmetric" and floor)
    same = where in ("half_pixel", "pytorch_half_pixel", "align_corners") and (options.mode, x.ndim) in _INTERPOLATIONS
    return same and (options.mode == "linear" or options.cubic_coeff_a == -0.75)


def _along(x: Tensor, axis: _ResizedAxis, options: _ResizeOptions) -> Tensor:
    index, weight = _taps(_coordinates(axis, options.coordinate_transformation_mode), axis, options)
    shape = [-1 if d == axis.dim else 1 for d in range(x.ndim)]
    index, weight = index.to(x.device), weight.to(x.device, x.dtype)
    result = torch.zeros((), dtype=x.dtype, device=x.device)
    for k in range(index.shape[1]):
        result = result + x.index_select(axis.dim, index[:, k]) * weight[:, k].reshape(shape)
    return result


def _coordinates(axis: _ResizedAxis, transformation: str) -> Tensor:
    """Where in the input each element of the result lies; in single precision, as ONNX Runtime rounds."""
    i = torch.arange(bounded([axis.target])[0], dtype=torch.float32)
    if transformation == "align_corners":
        return i * (axis.size - 1) / max(axis.target - 1, 1)
    if transformation == "asymmetric":
        return i / axis.scale
    if transformation == "pytorch_half_pixel" and axis.target == 1:
        return i
    return (i + 0.5) / axis.scale - 0.5


def _taps(place: Tensor, axis: _ResizedAxis, options: _ResizeOptions) -> tuple[Tensor, Tensor]:
    """For each result the indices (results, taps) of the elements that it sums, and their weights."""
    if options.mode == "nearest":
        index, weight = _nearest(place, options.nearest_mode, axis.scale)[:, None], torch.ones(len(place), 1)
    else:
        base = torch.floor(place)
        offsets = torch.arange(0, 2) if options.mode == "linear" else torch.arange(-1, 3)
        index = base[:, None] + offsets
        distance = (offsets - (place - base)[:, None]).abs()
        weight = 1 - distance if options.mode == "linear" else _cubic(distance, options.cubic_coeff_a)
    return index.long().clamp(0, axis.size - 1), weight


def _nearest(place: Tensor, mode: str, scale: float) -> Tensor:
    """Before opset 11 the mode was not written down; ONNX Runtime rounds down when it enlarges, else up."""
    if mode == "simple":
        mode = "ceil" if scale < 1 else "floor"
    if mode == "floor":
        return torch.floor(place)
    if mode == "ceil":
        return torch.ceil(place)
    return torch.ceil(place - 0.5) if mode == "round_prefer_floor" else torch.floor(place + 0.5)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' kernel, https://doi.org/10.1109/TASSP.1981.1163711."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
