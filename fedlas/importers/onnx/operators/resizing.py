"""ONNX's Resize and Upsample, as far as PyTorch's interpolation has the same definition; they know only NC…."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.shapes import bounded
from fedlas.importers.onnx.operators.table import operator


def _sizes(x: Tensor, scales: list[float], sizes: list[int]) -> list[int]:
    target = sizes if sizes else [int(n * s) for n, s in zip(x.shape, scales, strict=True)]
    return bounded(target)


def _interpolate(x: Tensor, size: list[int], mode: str, transformation: str) -> Tensor:
    torch_mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2] if mode == "linear" else "bicubic"
    return F.interpolate(x, size=size, mode=torch_mode, align_corners=transformation == "align_corners")


@operator("Resize", host=(1, 2, 3))
def resize(x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None, *,
           antialias: int = 0, axes: tuple[int, ...] | None = None, coordinate_transformation_mode: str = "half_pixel",
           cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
           keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
           nearest_mode: str = "round_prefer_floor") -> Tensor:  # fmt: skip
    """Nearest as PyTorch (asymmetric, floor, or whole factors); linear, cubic with half pixels or aligned corners."""
    given_scales = scales.tolist() if scales is not None and scales.numel() else []
    given_sizes = sizes.tolist() if sizes is not None and sizes.numel() else []
    if axes is not None:
        full_scales, full_sizes = [1.0] * x.ndim, list(x.shape)
        for place, axis in enumerate(axes):
            if given_sizes:
                full_sizes[axis] = given_sizes[place]
            else:
                full_scales[axis] = given_scales[place]
        given_scales, given_sizes = full_scales, full_sizes if given_sizes else []
    target = _sizes(x, given_scales, given_sizes)
    if target == list(x.shape):
        return x
    if mode == "nearest" and _nearest_as_pytorch(x, target, coordinate_transformation_mode, nearest_mode):
        return F.interpolate(x, size=target[2:], mode="nearest")
    same = coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if mode in ("linear", "cubic") and same and not antialias and cubic_coeff_a == -0.75:
        return _interpolate(x, target[2:], mode, coordinate_transformation_mode)
    raise UnsupportedModel(
        "unsupported_operator",
        f"Resize with mode={mode!r}, coordinate_transformation_mode={coordinate_transformation_mode!r}, "
        f"nearest_mode={nearest_mode!r} is not supported",
    )


def _nearest_as_pytorch(x: Tensor, target: list[int], transformation: str, nearest_mode: str) -> bool:
    whole = all(t % n == 0 for t, n in zip(target, x.shape, strict=True))
    return (transformation == "asymmetric" and nearest_mode == "floor") or (
        whole and transformation in ("half_pixel", "pytorch_half_pixel") and nearest_mode.startswith("round")
    )


@operator("Upsample", host=(1,))
def upsample(
    x: Tensor, scales_input: Tensor | None = None, *, mode: str = "nearest", scales: tuple[float, ...] = ()
) -> Tensor:
    factors = list(scales) if scales_input is None else scales_input.tolist()
    target = _sizes(x, factors, [])[2:]
    return F.interpolate(x, size=target, mode="nearest") if mode == "nearest" else _interpolate(x, [*target], mode, "")
