"""The losses that FedLAS is compared with, means of row losses of logits alone; and the checks of arguments.

Shapes and dtypes are always checked, values (NaN, targets out of range) on the CPU only: on an accelerator a
look at them would make the host wait for the device in every step. There a NaN shows in the loss itself, and
the running statistics ignore what is not finite, so one bad batch cannot spoil the following ones.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(targets.shape) != expected:
        raise ValueError(f"targets must be {expected} class indices, got {tuple(targets.shape)}")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integer class indices, got {targets.dtype}")
    labels = targets.reshape(-1).long()
    if _values_are_cheap(rows):
        bad = (labels < 0) | (labels >= rows.shape[1])
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"targets must lie in 0..{rows.shape[1] - 1}, got {int(labels[row])} in row {row} of {len(labels)}"
            )
    return rows, labels


def logit_rows(logits: Tensor, num_classes: int | None = None) -> Tensor:
    if logits.ndim not in (2, 4) or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating (N, K) or (N, K, H, W), got {tuple(logits.shape)} of type {logits.dtype}"
        )
    num_outputs = logits.shape[1]
    if num_outputs < 2 or (num_classes is not None and num_outputs != num_classes):
        expected = "at least 2" if num_classes is None else str(num_classes)
        raise ValueError(f"logits must have {expected} classes in dimension 1, got {tuple(logits.shape)}")
    if logits.numel() == 0:
        raise ValueError(f"logits must hold at least one row, got {tuple(logits.shape)}")
    rows = logits if logits.ndim == 2 else logits.permute(0, 2, 3, 1).reshape(-1, num_outputs)
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
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


def _values_are_cheap(values: Tensor) -> bool:
    # A traced or compiled graph cannot branch on values either.
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def reduce(rows: Tensor, reduction: Reduction, like: Tensor) -> Tensor:
    """Mean or sum of the row losses (M,); for "none" the row losses in the shape of the targets `like`."""
    if reduction == "mean":
        return rows.mean()
    return rows.sum() if reduction == "sum" else rows.reshape(like.shape)


def excess_over_margin(logits: Tensor, margin: float) -> Tensor:
    """mean_k relu(max_j s_j − s_k − margin) for every row of logits (M, K)."""
    # `max`, not `amax`: where maxima tie, the whole gradient goes to one of them, as in the published losses.
    return F.relu(logits.max(dim=1, keepdim=True).values - logits - margin).mean(dim=1)


class _RowLoss(nn.Module):
    """A loss that is the mean (or sum) of one number per row."""

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)

    @abstractmethod
    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (M,) for logits (M, K) and targets (M,)."""

    def forward(self, logits: Tensor, targets: Tensor, features: Tensor | None = None) -> Tensor:
        """The loss of logits (N, K) or (N, K, H, W) and class indices (N,) or (N, H, W); reads no features.

        Returns:
            A scalar; for `reduction="none"` losses in the shape of `targets`. Half-precision logits are taken
            in float32.

        Raises:
            ValueError: shapes do not fit; on the CPU also logits that are not finite and targets that are no
                class.
        """
        scores, labels = as_rows(logits, targets)
        return reduce(self.rows(scores, labels), self.reduction, targets)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self).items() if isinstance(value, float))


class CrossEntropyLoss(_RowLoss):
    """−log p[y].

    >>> CrossEntropyLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item()  # log 2
    0.6931471824645996
    """

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")


class LabelSmoothingLoss(_RowLoss):
    """(1 − α)·(−log p[y]) + α·mean_k(−log p[k]) (Szegedy et al. 2016, arXiv 1512.00567); 0 <= α <= 1."""

    def __init__(self, alpha: float, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.alpha = check_number("alpha", alpha, low=0, high=1)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.alpha)


class FocalLoss(_RowLoss):
    """−(1 − p[y])^γ · log p[y] (Lin et al. 2017, arXiv 1708.02002; for calibration arXiv 2002.09437)."""

    def __init__(self, gamma: float = 3, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.gamma = check_number("gamma", gamma, low=0)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = -F.cross_entropy(logits, targets, reduction="none")
        # 1 − p by expm1 keeps its digits near p = 1; the floor keeps the gradient finite there when γ < 1.
        rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -(rest**self.gamma) * log_p


class MbLSLoss(_RowLoss):
    """−log p[y] + α·mean_k relu(max_j s[j] − s[k] − margin) (Liu et al. 2022, arXiv 2111.15430)."""

    def __init__(self, margin: float = 10, alpha: float = 0.1, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = check_number("margin", margin, low=0)
        self.alpha = check_number("alpha", alpha, low=0)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        fit = F.cross_entropy(logits, targets, reduction="none")
        return fit + self.alpha * excess_over_margin(logits, self.margin)


class ACLSLoss(_RowLoss):
    """−log p[y] + α·(λ⁺·P + λ⁻·Q/(K − 1)): adaptive and conditional smoothing (ACLS, arXiv 2308.11911).

    With M = max_j s[j]: P sums relu(M − margin)² over all k with s[k] = M (every tied maximum counts), and Q
    sums relu(M − s[k] − margin)² over all k with s[k] < M, where M passes no gradient.
    """

    def __init__(
        self,
        margin: float = 10,
        alpha: float = 0.1,
        pos_lambda: float = 1,
        neg_lambda: float = 0.1,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.margin = check_number("margin", margin, low=0)
        self.alpha = check_number("alpha", alpha, low=0)
        self.pos_lambda = check_number("pos_lambda", pos_lambda, low=0)
        self.neg_lambda = check_number("neg_lambda", neg_lambda, low=0)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        highest = logits.max(dim=1, keepdim=True).values
        on_top = logits == highest
        top = on_top.sum(dim=1) * F.relu(highest.squeeze(1) - self.margin).square()
        gap = F.relu(highest.detach() - logits - self.margin).square()
        rest = gap.masked_fill(on_top, 0).sum(dim=1) / (logits.shape[1] - 1)
        fit = F.cross_entropy(logits, targets, reduction="none")
        return fit + self.alpha * (self.pos_lambda * top + self.neg_lambda * rest)
