"""Checks of a loss's arguments: shapes and values of tensors.

Shapes and dtypes are always checked, values (NaN, targets out of range) on the CPU only: on an accelerator a
look at them would make the host wait for the device in every step. There a NaN shows in the loss itself, and
the running statistics ignore what is not finite, so one bad batch cannot spoil the following ones.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def check_number(name: str, value: float, *, low: float, high: float = math.inf, low_included: bool = True) -> float:
    """`value` as a finite float inside [low, high], or (low, high] where `low_included` is false."""
    inside = (low <= value if low_included else low < value) and value <= high
    if not (inside and math.isfinite(value)):
        bounds = f"{'[' if low_included else '('}{low:g}, {high:g}{']' if math.isfinite(high) else ')'}"
        raise ValueError(f"{name} must lie in {bounds}, got {value!r}")
    return float(value)


def check_num_classes(num_classes: int) -> int:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes must be an integer of at least 2, got {num_classes!r}")
    return num_classes


def check_reduction(reduction: Reduction) -> Reduction:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction


def as_rows(logits: Tensor, targets: Tensor, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits (M, K), float32 or wider, and targets (M,); (N, K, H, W) becomes M rows in order N, H, W."""
    rows = logit_rows(logits, num_classes)
    _check_targets(logits, targets)
    labels = targets.reshape(-1).long()
    if _values_are_cheap(rows):
        _check_target_range(labels, rows.shape[1])
    return rows, labels


def logit_rows(logits: Tensor, num_classes: int | None = None) -> Tensor:
    if logits.ndim not in (2, 4) or not logits.is_floating_point():
        found_here = f"{tuple(logits.shape)} of type {logits.dtype}"
        raise ValueError(f"logits must be floating (N, K) or (N, K, H, W), got {found_here}")
    found = logits.shape[1]
    if found < 2 or (num_classes is not None and found != num_classes):
        expected = "at least 2" if num_classes is None else str(num_classes)
        raise ValueError(f"logits must have {expected} classes in dimension 1, got {tuple(logits.shape)}")
    if logits.numel() == 0:
        raise ValueError(f"logits must hold at least one row, got {tuple(logits.shape)}")
    rows = logits if logits.ndim == 2 else logits.permute(0, 2, 3, 1).reshape(-1, found)
    rows = at_least_float32(rows)
    if _values_are_cheap(rows):
        check_finite("logits", rows)
    return rows


def feature_rows(features: Tensor | None, num_rows: int | None = None) -> Tensor:
    """Features (M, D) without gradient; M is `num_rows`, one for every row of logits, where it is given."""
    expected = f"({'N' if num_rows is None else num_rows}, D)"
    if features is None:
        raise ValueError(f"features must be a tensor {expected}, got None")
    if features.ndim != 2 or 0 in features.shape or num_rows not in (None, features.shape[0]):
        raise ValueError(f"features must be {expected}, a row for each row of logits, got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating, got {features.dtype}")
    return features.detach()


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ValueError that names the first bad row; one sum is enough to see that there is none."""
    values = values.detach()
    if not _values_are_cheap(values) or math.isfinite(values.sum().item()):
        return
    bad = ~torch.isfinite(values.reshape(values.shape[0], -1)).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"{name} must be finite, found NaN or infinity in row {row} of {len(bad)}")


def at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _check_targets(logits: Tensor, targets: Tensor) -> None:
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(targets.shape) != expected:
        raise ValueError(f"targets must be {expected} class indices, got {tuple(targets.shape)}")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integer class indices, got {targets.dtype}")


def _check_target_range(labels: Tensor, num_classes: int) -> None:
    lowest, highest = (int(bound) for bound in torch.aminmax(labels))
    if lowest < 0 or highest >= num_classes:
        row = int(((labels < 0) | (labels >= num_classes)).nonzero()[0])
        raise ValueError(
            f"targets must lie in 0..{num_classes - 1}, got {int(labels[row])} in row {row} of {len(labels)}"
        )


def _values_are_cheap(values: Tensor) -> bool:
    # A traced or compiled graph cannot branch on values either.
    return values.device.type == "cpu" and not torch.compiler.is_compiling()
