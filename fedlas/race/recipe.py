"""The recipe: which candidates a method races on which kind of network, those that pay most often first.

All are warm restarts. Networks that were trained by SGD want SGD at a hot rate, a share of what the network stands,
which the race measures; transformers want AdamW, large ones at a third of the rate of a usual fine-tune. FedLAS+ leads
but on transformers, and plain cross-entropy takes part, so that the report can say what the loss added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias, TypedDict, cast

from fedlas.importers.network_kind import NetworkKind
from fedlas.race.candidates import DEFAULTS, METHODS, Candidate
from fedlas.race.results import Hyperparameters

#: Hyperparameters as they are asked for: a number (or the word of a scope or an optimiser), or `auto`.
Asked: TypeAlias = Mapping[str, float | str]


class _Training(TypedDict, total=False):
    """What of a candidate is not its loss. With a learning rate AdamW trains, unless SGD is asked for."""

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
    "other": (
        {"edge_share": 0.5},
        {"edge_share": 0.25, "weight_decay": 0.02},
        {"edge_share": 0.5, "usual_epochs": 25},
    ),
    "convolutional": (
        {"edge_share": 0.125, "usual_epochs": 6},
        {"edge_share": 0.25, "usual_epochs": 6},
        {"edge_share": 0.125, "usual_epochs": 6, "weight_decay": 0.02},
    ),
    "transformer": (_GENTLE, {**_GENTLE, "usual_epochs": 2}),
    "small_transformer": (_SMALL, _SMALL_LONG, _GENTLE),
}
_HOT, _DECAYED, _LONG = _TRAININGS["other"]
_CONVOLUTIONAL, _HOTTER, _CONVOLUTIONAL_DECAYED = _TRAININGS["convolutional"]
#: (method, alpha, training): what `auto` races.
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
#: The share of its edge at which a head is trained.
HEAD_SHARE = 0.25
#: The mean smoothings that a named method races.
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
        method: one of `METHODS`.
        hyperparameters: `auto` or a fixed value each; a fixed value holds for every candidate whose loss has
            that setting.
        kind: what `network_kind` says of the network.

    Raises:
        ValueError: an unknown method or hyperparameter, or a value out of range (`alpha` > 0.5).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    fixed = check_hyperparameters(hyperparameters)
    if method in ("post_hoc", "temperature"):
        return []
    candidates = [_candidate(*entry, kind, fixed) for entry in _grid(method, kind)]
    return list(dict.fromkeys(candidates))[: max(0, max_candidates)]


def check_hyperparameters(hyperparameters: Asked) -> Hyperparameters:
    """The fixed values, checked; everything that is `auto` is left out. ValueError names the field."""
    fixed = {}
    for name, value in hyperparameters.items():
        if name not in _CHECKS:
            raise ValueError(f"hyperparameters.{name} is unknown; known are {', '.join(_CHECKS)}")
        if value == "auto":
            continue
        expected, accepts = _CHECKS[name]
        if isinstance(value, bool) or not accepts(value):
            raise ValueError(f"{name} must be {expected} or 'auto', got {value!r}")
        fixed[name] = value
    return cast(Hyperparameters, fixed)


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
    """What a method races: losses, their mean smoothing, and how they train."""
    if method == "auto":
        return _AUTO[kind]
    alphas = _ALPHAS.get(method, (DEFAULTS[method].get("alpha"),))
    return tuple((method, alpha, training) for training in _TRAININGS[kind] for alpha in alphas)


def _candidate(
    method: str, alpha: float | None, training: _Training, kind: NetworkKind, fixed: Hyperparameters
) -> Candidate:
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
    own = (*defaults, *_TRAINING_SETTINGS)
    given = cast(Hyperparameters, {name: value for name, value in fixed.items() if name in own})
    # What is fixed leaves no doubles of what it overrules.
    return replace(
        candidate,
        edge_share=1.0 if "learning_rate" in given else candidate.edge_share,
        rate_is_fixed=bool({"learning_rate", "optimizer"} & given.keys()),
        usual_epochs=10 if "epochs" in given else candidate.usual_epochs,
        **given,
    )
