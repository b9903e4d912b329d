"""ONNX's operators that read an image at computed places: GridSample, AffineGrid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.limits import bounded
from fedlas.importers.onnx.operators.table import operator

_MODES = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic", "nearest": "nearest"}


@operator("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """Opset 16 calls its modes bilinear and bicubic, later ones linear and cubic."""
    if x.ndim not in (4, 5) or (x.ndim == 5 and _MODES[mode] == "bicubic"):
        raise UnsupportedModel(
            "unsupported_operator", f"operator GridSample with mode {mode!r} on {x.ndim - 2} spatial axes"
        )
    return F.grid_sample(x, grid, _MODES[mode], padding_mode, bool(align_corners))


@operator("AffineGrid", host=(1,))
def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    return F.affine_grid(theta, bounded(size.tolist()), bool(align_corners))
