"""FedLAS and FedLAS+ (arXiv 2606.28654): every row's label smoothed by its own amount.

The amount ε comes from two parts with the paper's names. The Norm-based Confidence Indicator (NCI) reads the
penultimate features; the Bidirectional Calibration Gate (BCG) reads the logits and says whether a large norm
means more or less smoothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedlas.losses.baselines import (
    Reduction,
    as_rows,
    check_finite,
    check_num_classes,
    check_number,
    check_reduction,
    excess_over_margin,
    feature_rows,
    logit_rows,
    reduce,
)

# The authors' start values; they fit hardly any other network, hence `init_statistics`.
START_MEAN = 20.0
START_STD = 100.0
STD_EPSILON = 1e-3


class NormConfidenceIndicator(nn.Module):
    """z = (‖f‖₁ − μ)/(σ + 1e-3), where μ and σ are running statistics of the norms.

    In training mode a call first updates μ ← m·mean + (1 − m)·μ and σ alike (the unbiased deviation): the
    momentum m weighs the *new* batch. A batch of one row has no deviation and leaves σ as it is.

    Attributes:
        running_mean, running_std: 0-dim buffers, 20 and 100 until `init_statistics`, float32 or wider.
    """

    running_mean: Tensor
    running_std: Tensor

    def __init__(self, *, momentum: float = 0.95) -> None:
        super().__init__()
        self.momentum = check_number("momentum", momentum, low=0, high=1)
        self.register_buffer("running_mean", torch.tensor(START_MEAN, dtype=torch.get_default_dtype()))
        self.register_buffer("running_std", torch.tensor(START_STD, dtype=torch.get_default_dtype()))

    @staticmethod
    def norms(features: Tensor) -> Tensor:
        """L1 norms (N,) of features (N, D), without gradient; half precision is summed in float32."""
        rows = feature_rows(features)
        wide = rows.dtype if rows.dtype == torch.float64 else torch.float32
        lengths: Tensor = torch.linalg.vector_norm(rows, ord=1, dim=1, dtype=wide)
        check_finite("features", lengths)
        return lengths

    @torch.no_grad()
    def init_statistics(self, norms: Tensor) -> None:
        """Set μ and σ from norms (N,) of a pass over the data, N >= 2.

        Raises:
            ValueError: norms are not (N,) with N >= 2, not finite or negative.
        """
        if norms.ndim != 1 or len(norms) < 2:
            raise ValueError(f"norms must be (N,) with N >= 2, got {tuple(norms.shape)}")
        lengths = norms.detach().double()
        if not bool((torch.isfinite(lengths) & (lengths >= 0)).all()):
            raise ValueError("norms must be finite and not negative")
        self.running_mean.copy_(lengths.mean())
        self.running_std.copy_(lengths.std())

    @torch.no_grad()
    def update(self, norms: Tensor) -> None:
        """Move μ and σ towards the norms (N,) of one batch."""
        _move(self.running_mean, norms.mean(), self.momentum)
        if len(norms) > 1:
            _move(self.running_std, norms.std(), self.momentum)

    def standardise(self, norms: Tensor) -> Tensor:
        """z (N,) of norms (N,) under the statistics as they stand."""
        return (norms - self.running_mean) / (self.running_std + STD_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        """z (N,) for features (N, D); in training mode the statistics take this batch in first."""
        norms = self.norms(features)
        if self.training:
            self.update(norms)
        return self.standardise(norms)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `.half()` must not squeeze the statistics: norms leave the range of float16.
        def keep_width(buffer: Tensor) -> Tensor:
            moved = fn(buffer)
            return buffer.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        super()._apply(keep_width, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}"


def _move(statistic: Tensor, batch: Tensor, weight: float) -> None:
    moved = weight * batch + (1 - weight) * statistic
    # On an accelerator the values are not checked; a broken batch must not make the statistic NaN for
    # ever.
    statistic.copy_(torch.where(torch.isfinite(moved), moved, statistic))


class BidirectionalCalibrationGate(nn.Module):
    """g = sign(q[1] − q[0]), q = softmax(fc_out(leaky_relu(fc_in(s), 0.01))); logits s pass no gradient.

    The backward pass is straight-through: the gradient passes `sign` unchanged.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        hidden = check_num_classes(num_classes) // 2
        self.fc_in = nn.Linear(num_classes, hidden)
        self.fc_out = nn.Linear(hidden, 2)

    def soft(self, logits: Tensor) -> Tensor:
        """q[1] − q[0] in (−1, 1), shape (N,), for logits (N, K)."""
        scores = logits.detach().to(self.fc_in.weight.dtype)
        down, up = F.softmax(self.fc_out(F.leaky_relu(self.fc_in(scores), 0.01)), dim=1).unbind(dim=1)
        return up - down

    def forward(self, logits: Tensor) -> Tensor:
        """g (N,) in {−1, 0, 1} for logits (N, K)."""
        soft = self.soft(logits)
        # Adding an exact zero carries the gradient and leaves g exactly −1, 0 or 1.
        return soft.detach().sign() + (soft - soft.detach())


class FedLASLoss(nn.Module):
    """mean_i (1 − ε_i)·(−log p_i[y_i]) + ε_i·mean_k(−log p_i[k]): label smoothing by ε_i for row i.

    ε = 2·α·sigmoid(β·g·z), so 0 < ε < 2·α. Give its parameters (the gate) to the model's optimiser, and its
    `state_dict` to the checkpoint.

    >>> loss = FedLASLoss(3, alpha=0.1)
    >>> logits, targets, features = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), torch.rand(4, 8)
    >>> round(loss(logits, targets, features).item(), 6)  # log 3, however much is smoothed
    1.098612
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.05,
        beta: float = 4,
        momentum: float = 0.95,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.num_classes = check_num_classes(num_classes)
        self.alpha = check_number("alpha", alpha, low=0, high=0.5, low_included=False)
        self.beta = check_number("beta", beta, low=0)
        self.reduction = check_reduction(reduction)
        self.nci = NormConfidenceIndicator(momentum=momentum)
        self.bcg = BidirectionalCalibrationGate(num_classes)

    def init_statistics(self, norms: Tensor) -> None:
        """Set the running statistics from the L1 norms (N,) of a pass over the data, N >= 2."""
        self.nci.init_statistics(norms)

    def smoothing(self, logits: Tensor, features: Tensor) -> Tensor:
        """ε (N,) under the statistics as they stand; nothing is updated, in training mode neither.

        After a training step on the same batch it is what that step used, but for the optimiser's move of the
        gate.
        """
        rows = logit_rows(logits, self.num_classes)
        return self._epsilon(rows, self.nci.standardise(self.nci.norms(feature_rows(features, len(rows)))))

    def forward(self, logits: Tensor, targets: Tensor, features: Tensor) -> Tensor:
        """The loss of logits (N, K), targets (N,) and features (N, D); training updates the statistics.

        Logits (N, K, H, W) go with targets (N, H, W) and features (N·H·W, D) in that order. Half-precision
        logits and features are taken in float32.

        Returns:
            A scalar; for `reduction="none"` losses in the shape of `targets`.

        Raises:
            ValueError: shapes do not fit; on the CPU also values that are not finite and targets that are no
                class.
        """
        rows, labels = as_rows(logits, targets, self.num_classes)
        epsilon = self._epsilon(rows, self.nci(feature_rows(features, len(rows))))
        return reduce(self.rows(rows, labels, epsilon), self.reduction, targets)

    def rows(self, logits: Tensor, targets: Tensor, epsilon: Tensor) -> Tensor:
        """Losses (M,) for logits (M, K), targets (M,) and smoothing (M,)."""
        log_p = F.log_softmax(logits, dim=1)
        return (1 - epsilon) * F.nll_loss(log_p, targets, reduction="none") - epsilon * log_p.mean(dim=1)

    def _epsilon(self, rows: Tensor, z: Tensor) -> Tensor:
        return 2 * self.alpha * torch.sigmoid(self.beta * self.bcg(rows) * z)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, alpha={self.alpha}, beta={self.beta}"


class FedLASPlusLoss(FedLASLoss):
    """FedLAS with a margin: mean_i (1 − ε_i)·(−log p_i[y_i]) + ε_i·mean_k relu(max_j s_i[j] − s_i[k] − margin)."""

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.1,
        beta: float = 0.5,
        momentum: float = 0.95,
        margin: float = 6,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_classes, alpha=alpha, beta=beta, momentum=momentum, reduction=reduction)
        self.margin = check_number("margin", margin, low=0)

    def rows(self, logits: Tensor, targets: Tensor, epsilon: Tensor) -> Tensor:
        fit = F.cross_entropy(logits, targets, reduction="none")
        return (1 - epsilon) * fit + epsilon * excess_over_margin(logits, self.margin)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, margin={self.margin}"
