"""A candidate: one loss with its settings, learning rate, epochs and scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
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
from fedlas.race.results import Hyperparameters, Settings
from fedlas.training.loop import Optimizer

#: Methods that train; `auto` races several, `post_hoc` and `temperature` train nothing.
TRAINED = ("fedlas", "fedlas_plus", "label_smoothing", "mbls", "acls", "focal", "cross_entropy")
METHODS = ("auto", *TRAINED, "post_hoc", "temperature")

#: The settings of its loss that each method has, with the values it takes where none are given.
DEFAULTS: dict[str, Hyperparameters] = {
    "fedlas": {"alpha": 0.1, "beta": 4.0, "momentum": 0.95},
    "fedlas_plus": {"alpha": 0.1, "beta": 0.5, "momentum": 0.95, "margin": 6.0},
    "label_smoothing": {"alpha": 0.05},
    "mbls": {"alpha": 0.1, "margin": 10.0},
    "acls": {"alpha": 0.1, "margin": 10.0},
    "focal": {},
    "cross_entropy": {},
}

_GATED = {"fedlas": FedLASLoss, "fedlas_plus": FedLASPlusLoss}
_BASELINES: dict[str, type[nn.Module]] = {
    "label_smoothing": LabelSmoothingLoss,
    "mbls": MbLSLoss,
    "acls": ACLSLoss,
    "focal": FocalLoss,
    "cross_entropy": CrossEntropyLoss,
}


@dataclass(frozen=True)
class Candidate:
    """One fine-tune. Settings that its loss does not have are None.

    Attributes:
        learning_rate: the peak, or None: then it is `edge_share` of the highest rate that the network stands, which
            the race finds by a range test.
        epochs: None leaves their number to the race: `usual_epochs`, fewer where rows abound.
        rate_is_fixed: whether its rate and optimiser hold for a head too, where no whole network fits.
        scope: `all`, `head`, or `auto`: all where the time allows it, else the head.
    """

    method: str
    learning_rate: float | None = None
    alpha: float | None = None
    beta: float | None = None
    momentum: float | None = None
    margin: float | None = None
    epochs: int | None = None
    batch_size: int = 64
    scope: str = "auto"
    edge_share: float = 0.25
    optimizer: Optimizer = "sgd"
    weight_decay: float = 0.001
    usual_epochs: int = 10
    rate_is_fixed: bool = False

    @property
    def name(self) -> str:
        """For people, for example `fedlas α=0.1 lr=0.2`; what most candidates have is left out."""
        alpha = "" if self.alpha is None else f" α={self.alpha:g}"
        rate = f"{self.edge_share:g}×edge" if self.learning_rate is None else f"{self.learning_rate:.3g}"
        decay = "" if self.weight_decay == 0.001 else f" wd={self.weight_decay:g}"
        optimizer = "" if self.optimizer == "sgd" else f" {self.optimizer}"
        epochs = self.epochs or self.usual_epochs
        length = "" if epochs == 10 else f" {epochs} epochs"
        return f"{self.method}{alpha} lr={rate}{decay}{optimizer}{length}{' head' if self.scope == 'head' else ''}"

    def hyperparameters(self) -> Settings:
        """All settings that apply, ready for JSON."""
        keys = (*DEFAULTS[self.method], "optimizer", "learning_rate", "weight_decay", "epochs", "batch_size")
        return cast(Settings, {key: getattr(self, key) for key in keys})


def make_loss(candidate: Candidate, num_classes: int, *, seed: int = 0) -> nn.Module:
    """The loss of a candidate; the gate of FedLAS starts from `seed`, the caller's random state is kept."""
    settings = {key: getattr(candidate, key) for key in DEFAULTS[candidate.method]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if candidate.method in _GATED:
            return _GATED[candidate.method](num_classes, **settings)
        return _BASELINES[candidate.method](**settings)
