"""Candidates, each a loss with its settings, learning rate, epochs and scope, and the recipe that makes them.

The recipe says which ones a method races on which kind of network, those that pay most often first. All are warm
restarts. Networks that were trained by SGD want SGD at a hot rate, a share of what the network stands, which the race
measures; transformers want AdamW, large ones at a third of the rate of a usual fine-tune. FedLAS+ leads but on
transformers, and plain cross-entropy takes part, so that the report can say what the loss added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypedDict

import torch
from torch import nn

from fedlas.importers.onnx.train.classifier import NetworkKind
from fedlas.losses import (
    ACLSLoss,
    CrossEntropyLoss,
    FedLASLoss,
    FedLASPlusLoss,
    FocalLoss,
    LabelSmoothingLoss,
    MbLSLoss,
)
from fedlas.race.results import Settings
from fedlas.training.loop import Optimizer

#: Methods that train; `auto` races several, `post_hoc` and `temperature` train nothing.
TRAINED = ("fedlas", "fedlas_plus", "label_smoothing", "mbls", "acls", "focal", "cross_entropy")
METHODS = ("auto", *TRAINED, "post_hoc", "temperature")
#: The settings of its loss that each method has, with the values it takes where none are given.
DEFAULTS: dict[str, Settings] = {
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
        keys = (*DEFAULTS[self.method], "optimizer", "learning_rate", "weight_decay", "epochs", "batch_size")
        return {key: getattr(self, key) for key in keys}


def make_loss(candidate: Candidate, num_classes: int, *, seed: int = 0) -> nn.Module:
    """The loss of a candidate; the gate of FedLAS starts from `seed`, the caller's random state is kept."""
    settings = {key: getattr(candidate, key) for key in DEFAULTS[candidate.method]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if candidate.method in _GATED:
            return _GATED[candidate.method](num_classes, **settings)
        return _BASELINES[candidate.method](**settings)


#: Hyperparameters as they are asked for: a number (or the word of a scope or an optimiser), or `auto`.
Asked: TypeAlias = Mapping[str, float | str]


class _Training(TypedDict, total=False):
    """Settings of a candidate beside its loss. With a learning rate AdamW trains, unless SGD is asked for."""

    learning_rate: float
    edge_share: float
    weight_decay: float
    usual_epochs: int


#: A pretrained network forgets at more.
_GENTLE: _Training = {"edge_share": 0.25, "usual_epochs": 4, "weight_decay": 0.01, "learning_rate": 1e-4}
#: Two layers of width 64 (measured once, benchmarks/README.md): NLL out of fold 1.678 and 1.729 on two seeds of words,
#: .568 on 16 patches at 1e-4; 1.640, 1.634 and .550 at 1e-3, there 1.646 and 1.625 with eight epochs; on hidden rows
#: alike. On one seed FedLAS is .013 and FedLAS+ .025 worse than cross-entropy.
_SMALL: _Training = {**_GENTLE, "learning_rate": 1e-3}
_SMALL_LONG: _Training = {**_SMALL, "usual_epochs": 8}
#: How each kind of network is trained, the best guess first. A share of the edge is that of SGD.
_TRAININGS: dict[NetworkKind, tuple[_Training, ...]] = {
    "other": ({"edge_share": 0.5}, {"edge_share": 0.25, "weight_decay": 0.02}, {"edge_share": 0.5, "usual_epochs": 25}),
    "convolutional": (
        {"edge_share": 0.125, "usual_epochs": 6},
        {"edge_share": 0.25, "usual_epochs": 6},
        {"edge_share": 0.125, "usual_epochs": 6, "weight_decay": 0.02},
    ),
    "transformer": (_GENTLE, {**_GENTLE, "usual_epochs": 2}),
    "small_transformer": (_SMALL, _SMALL_LONG, _GENTLE),
}
_HOT: _Training = _TRAININGS["other"][0]
_DECAYED: _Training = _TRAININGS["other"][1]
_LONG: _Training = _TRAININGS["other"][2]
_CONVOLUTIONAL: _Training = _TRAININGS["convolutional"][0]
_HOTTER: _Training = _TRAININGS["convolutional"][1]
_CONVOLUTIONAL_DECAYED: _Training = _TRAININGS["convolutional"][2]
_AUTO: dict[NetworkKind, tuple[tuple[str, float | None, _Training], ...]] = {
    "other": (
        ("fedlas_plus", 0.1, _HOT),
        ("cross_entropy", None, _DECAYED),
        ("cross_entropy", None, _HOT),
        ("fedlas_plus", 0.1, _LONG),
        ("label_smoothing", 0.1, _LONG),
        ("fedlas_plus", 0.1, {"edge_share": 0.25, "weight_decay": 0.005}),
    ),
    "convolutional": (
        ("fedlas_plus", 0.1, _HOTTER),
        ("cross_entropy", None, _CONVOLUTIONAL),
        ("label_smoothing", 0.05, _HOTTER),
        ("fedlas", 0.05, _HOTTER),
        ("cross_entropy", None, _CONVOLUTIONAL_DECAYED),
    ),
    "transformer": (
        ("cross_entropy", None, _GENTLE),
        ("fedlas", 0.05, _GENTLE),
        ("label_smoothing", 0.05, _GENTLE),
        ("fedlas_plus", 0.1, _GENTLE),
    ),
    "small_transformer": (
        ("cross_entropy", None, _SMALL),
        ("fedlas", 0.05, _SMALL),
        ("cross_entropy", None, _SMALL_LONG),
        ("cross_entropy", None, _GENTLE),
        ("label_smoothing", 0.05, _SMALL),
        ("fedlas_plus", 0.1, _SMALL),
    ),
}
HEAD_SHARE = 0.25
_ALPHAS = {"fedlas": (0.1, 0.05), "fedlas_plus": (0.1, 0.05), "label_smoothing": (0.1, 0.05)}
#: AdamW's peak where it is asked for. Six MLPs on tables gained most at 1e-2 of 3e-4 to 1e-2, where 3e-4 left FedLAS+
#: worse than a temperature on five; a small CNN gained at 1e-3, if less than by SGD.
_ADAMW_RATES: dict[NetworkKind, float] = {"convolutional": 1e-3, "other": 1e-2}
#: The weight of the newest batch in FedLAS's statistics, as the paper has it on transformers.
_TRANSFORMER_MOMENTUM = 0.001


def make_candidates(
    method: str, hyperparameters: Asked, *, kind: NetworkKind = "other", max_candidates: int = 16
) -> list[Candidate]:
    """The candidates to train, in order, at most `max_candidates` (uploaded + temperature is not counted).

    Args:
        hyperparameters: `auto` or a fixed value each; a fixed value holds for every candidate whose loss has
            that setting.

    Raises:
        ValueError: an unknown method or hyperparameter, or a value out of range (`alpha` > 0.5).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    fixed = check_hyperparameters(hyperparameters)
    if method in ("post_hoc", "temperature"):
        return []
    candidates = dict.fromkeys(_candidate(*entry, kind, fixed) for entry in _grid(method, kind))
    return list(candidates)[: max(0, max_candidates)]


def check_hyperparameters(hyperparameters: Asked) -> Settings:
    """The fixed values, checked; everything that is `auto` is left out. ValueError names the field."""
    fixed: Settings = {}
    for name, value in hyperparameters.items():
        if name not in _CHECKS:
            raise ValueError(f"hyperparameters.{name} is unknown; known are {', '.join(_CHECKS)}")
        if value == "auto":
            continue
        expected, accepts = _CHECKS[name]
        if isinstance(value, bool) or not accepts(value):
            raise ValueError(f"{name} must be {expected} or 'auto', got {value!r}")
        fixed[name] = value
    return fixed


def _number(value: object, low: float, high: float = math.inf, *, with_low: bool = True) -> bool:
    return (
        isinstance(value, int | float)
        and math.isfinite(value)
        and (low <= value if with_low else low < value)
        and value <= high
    )


_TRAINING_SETTINGS = ("optimizer", "learning_rate", "weight_decay", "epochs", "batch_size", "scope")
_CHECKS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "epochs": ("an integer of at least 1", lambda v: isinstance(v, int) and v >= 1),
    "learning_rate": ("a positive number", lambda v: _number(v, 0, with_low=False)),
    "batch_size": ("an integer of at least 1", lambda v: isinstance(v, int) and v >= 1),
    "alpha": ("a number in (0, 0.5]", lambda v: _number(v, 0, 0.5, with_low=False)),
    "beta": ("a number of at least 0", lambda v: _number(v, 0)),
    "margin": ("a number of at least 0", lambda v: _number(v, 0)),
    "momentum": ("a number in [0, 1]", lambda v: _number(v, 0, 1)),
    "optimizer": ("'sgd' or 'adamw'", lambda v: v in ("sgd", "adamw")),
    "weight_decay": ("a number of at least 0", lambda v: _number(v, 0)),
    "scope": ("'all' or 'head'", lambda v: v in ("all", "head")),
}


def _grid(method: str, kind: NetworkKind) -> tuple[tuple[str, float | None, _Training], ...]:
    if method == "auto":
        return _AUTO[kind]
    alphas = _ALPHAS.get(method, (DEFAULTS[method].get("alpha"),))
    return tuple((method, alpha, training) for training in _TRAININGS[kind] for alpha in alphas)


def _candidate(method: str, alpha: float | None, training: _Training, kind: NetworkKind, fixed: Settings) -> Candidate:
    defaults = DEFAULTS[method]
    candidate = replace(Candidate(method, **training), **defaults)
    by_adamw = candidate.learning_rate is not None
    candidate = replace(candidate, alpha=alpha)
    if by_adamw and "momentum" in defaults:
        candidate = replace(candidate, momentum=_TRANSFORMER_MOMENTUM)
    head = fixed.get("scope") == "head"
    if head:  # whatever the body is, its head is a linear map
        candidate = replace(candidate, edge_share=HEAD_SHARE, usual_epochs=10)
    if fixed.get("optimizer", "adamw" if by_adamw and not head else "sgd") == "adamw":
        rate = candidate.learning_rate or _ADAMW_RATES[kind]
        candidate = replace(candidate, optimizer="adamw", learning_rate=rate, edge_share=1.0)
    else:
        candidate = replace(candidate, learning_rate=None)
    given = {key: value for key, value in fixed.items() if key in {*defaults, *_TRAINING_SETTINGS}}
    # A fixed value leaves no doubles of the candidates that it overrules.
    return replace(
        candidate,
        edge_share=1.0 if "learning_rate" in given else candidate.edge_share,
        rate_is_fixed=bool({"learning_rate", "optimizer"} & given.keys()),
        usual_epochs=10 if "epochs" in given else candidate.usual_epochs,
        **given,
    )
