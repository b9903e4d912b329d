"""A candidate: one loss with its settings, learning rate and scope; it knows neither data nor budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlas.losses import (
    ACLSLoss,
    CrossEntropyLoss,
    FedLASLoss,
    FedLASPlusLoss,
    FocalLoss,
    LabelSmoothingLoss,
    MbLSLoss,
)

#: Methods that train; `auto` races several, `post_hoc` and `temperature` train nothing.
TRAINED = ("fedlas", "fedlas_plus", "label_smoothing", "mbls", "acls", "focal", "cross_entropy")
METHODS = ("auto", *TRAINED, "post_hoc", "temperature")

#: The settings of its loss that each method has, with the values it takes where none are given.
DEFAULTS: dict[str, dict[str, float]] = {
    "fedlas": {"alpha": 0.1, "beta": 4.0, "momentum": 0.95},
    "fedlas_plus": {"alpha": 0.1, "beta": 0.5, "momentum": 0.95, "margin": 6.0},
    "label_smoothing": {"alpha": 0.05},
    "mbls": {"alpha": 0.1, "margin": 10.0},
    "acls": {"alpha": 0.1, "margin": 10.0},
    "focal": {},
    "cross_entropy": {},
}


_HEAD_RATE = 10.0


@dataclass(frozen=True)
class Candidate:
    """One fine-tune. Settings that its loss does not have are None; scope `auto` is decided by the budget."""

    method: str
    learning_rate: float
    alpha: float | None = None
    beta: float | None = None
    momentum: float | None = None
    margin: float | None = None
    epochs: int = 10
    batch_size: int = 64
    scope: str = "auto"
    fixed_rate: bool = False  # the learning rate was asked for, so nobody may adapt it

    @property
    def name(self) -> str:
        """For people, for example `fedlas α=0.1 lr=0.2`."""
        alpha = "" if self.alpha is None else f" α={self.alpha:g}"
        return f"{self.method}{alpha} lr={self.learning_rate:.3g}"

    def hyperparameters(self) -> dict[str, Any]:
        """All settings that apply, ready for JSON."""
        keys = (*DEFAULTS[self.method], "learning_rate", "epochs", "batch_size")
        return {key: getattr(self, key) for key in keys}


def for_head(candidate: Candidate, features: NDArray[np.float32]) -> Candidate:
    """The candidate for a head alone, its learning rate fitted to the size of the features (N, D) it trains on.

    The curvature of cross-entropy in a linear head's weights is at most E‖f‖²/2, so the rates of a whole network are
    far too high for it: taken as they are they destroyed the head of a `resnet18` (calibration NLL 0.62-0.91, the
    uploaded model 0.58); divided by E‖f‖²/10 they brought it to 0.55.
    """
    rate = candidate.learning_rate
    if not candidate.fixed_rate:
        size = float(np.square(features, dtype=np.float64).sum(axis=1).mean())
        rate = min(rate, _HEAD_RATE * rate / max(size, 1e-12))
    return replace(candidate, scope="head", learning_rate=rate)


def make_loss(candidate: Candidate, num_classes: int, *, seed: int = 0) -> nn.Module:
    """The loss of a candidate; the gate of FedLAS starts from `seed`, the caller's random state is kept."""
    settings = {key: getattr(candidate, key) for key in DEFAULTS[candidate.method]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match candidate.method:
            case "fedlas":
                return FedLASLoss(num_classes, **settings)
            case "fedlas_plus":
                return FedLASPlusLoss(num_classes, **settings)
            case "label_smoothing":
                return LabelSmoothingLoss(**settings)
            case "mbls":
                return MbLSLoss(**settings)
            case "acls":
                return ACLSLoss(**settings)
            case "focal":
                return FocalLoss()
            case _:
                return CrossEntropyLoss()
