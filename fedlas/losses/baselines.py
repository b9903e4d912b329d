"""The losses that FedLAS is compared with, means of row losses of logits alone."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlas.losses._checks import Reduction, as_rows, check_number, check_reduction


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

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


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

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"


class MbLSLoss(_RowLoss):
    """−log p[y] + α·mean_k relu(max_j s[j] − s[k] − margin) (Liu et al. 2022, arXiv 2111.15430)."""

    def __init__(self, margin: float = 10, alpha: float = 0.1, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = check_number("margin", margin, low=0)
        self.alpha = check_number("alpha", alpha, low=0)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        fit = F.cross_entropy(logits, targets, reduction="none")
        return fit + self.alpha * excess_over_margin(logits, self.margin)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, alpha={self.alpha}"


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

    def extra_repr(self) -> str:
        return f"margin={self.margin}, alpha={self.alpha}, pos_lambda={self.pos_lambda}, neg_lambda={self.neg_lambda}"
