"""The recipe: which candidates a method races, those that pay most often first.

Warm restarts at a high peak learning rate, FedLAS+ first; plain cross-entropy and label smoothing take part, so that
the report can say what the loss added. Learning rates are shares of what the network stands, which the race measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias, cast

from fedlas.race.candidates import DEFAULTS, METHODS, TRAINED, Candidate
from fedlas.race.hyperparameters import Hyperparameters

#: Hyperparameters as they are asked for: a number (or the word of a scope), or `auto`.
Asked: TypeAlias = Mapping[str, float | str]
#: Shares of the highest rate that the network stands: the peaks 0.2, 0.1 and 0.05 of one that stands 0.4.
_HIGH, _MIDDLE, _LOW = 0.5, 0.25, 0.125
#: (method, alpha, share of the edge, scope): what `auto` races, those that pay most often first.
_AUTO: tuple[tuple[str, float | None, float, str], ...] = (
    ("fedlas_plus", 0.1, _MIDDLE, "all"),
    ("fedlas", 0.05, _MIDDLE, "all"),
    ("cross_entropy", None, _MIDDLE, "all"),
    ("fedlas", 0.05, _MIDDLE, "head"),
    ("label_smoothing", 0.05, _MIDDLE, "all"),
    ("fedlas_plus", 0.1, _HIGH, "all"),
    ("cross_entropy", None, _MIDDLE, "head"),
    ("fedlas", 0.1, _HIGH, "all"),
    ("fedlas", 0.02, _LOW, "all"),
    ("cross_entropy", None, _LOW, "all"),
    ("fedlas_plus", 0.1, _MIDDLE, "head"),
    ("fedlas", 0.1, _MIDDLE, "all"),
    ("fedlas_plus", 0.1, _LOW, "all"),
    ("fedlas", 0.02, _MIDDLE, "all"),
    ("label_smoothing", 0.05, _MIDDLE, "head"),
    ("cross_entropy", None, _HIGH, "all"),
)
_ALPHAS = (0.1, 0.05, 0.02, 0.2)
_SHARES = (_MIDDLE, _HIGH, _LOW)
#: On rows the model has never seen gentle candidates pay most.
_FRESH_FIRST = frozenset({("fedlas", 0.02, _LOW), ("cross_entropy", None, _LOW)})


def make_candidates(
    method: str, hyperparameters: Asked, *, max_candidates: int = 16, fresh_rows: bool = False
) -> list[Candidate]:
    """The candidates to train, in order, at most `max_candidates` (uploaded + temperature is not counted).

    Args:
        method: one of `METHODS`.
        hyperparameters: `auto` or a fixed number each; a fixed number holds for every candidate whose loss has
            that setting.
        fresh_rows: the model has seen none of the rows, so a gentle candidate is tried early.

    Raises:
        ValueError: an unknown method or hyperparameter, or a value out of range (`alpha` > 0.5).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    fixed = check_hyperparameters(hyperparameters)
    if method in ("post_hoc", "temperature"):
        return []
    candidates = [_fixed(candidate, fixed) for candidate in _grid(method, fresh_rows)]
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
    if not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return (low <= value if with_low else low < value) and value <= high


_CHECKS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "epochs": ("an integer of at least 1", lambda v: isinstance(v, int) and v >= 1),
    "learning_rate": ("a positive number", lambda v: _number(v, 0, with_low=False)),
    "batch_size": ("an integer of at least 1", lambda v: isinstance(v, int) and v >= 1),
    "alpha": ("a number in (0, 0.5]", lambda v: _number(v, 0, 0.5, with_low=False)),
    "beta": ("a number of at least 0", lambda v: _number(v, 0)),
    "margin": ("a number of at least 0", lambda v: _number(v, 0)),
    "momentum": ("a number in [0, 1]", lambda v: _number(v, 0, 1)),
    "scope": ("'all' or 'head'", lambda v: v in ("all", "head")),
}


def _grid(method: str, fresh_rows: bool) -> list[Candidate]:
    """All candidates of a method at the recipe's own values."""
    if method == "auto":
        chosen = sorted(_AUTO, key=lambda entry: not (fresh_rows and entry[:3] in _FRESH_FIRST))
    else:
        alphas = _ALPHAS if method == "fedlas" else (DEFAULTS[method].get("alpha"),)
        chosen = [(method, alpha, share, scope) for scope in ("all", "head") for alpha in alphas for share in _SHARES]
    return [_candidate(*entry) for entry in chosen]


def _candidate(method: str, alpha: float | None, edge_share: float, scope: str) -> Candidate:
    assert method in TRAINED
    candidate = replace(Candidate(method, edge_share=edge_share, scope=scope), **DEFAULTS[method])
    return candidate if alpha is None else replace(candidate, alpha=alpha)


def _fixed(candidate: Candidate, fixed: Hyperparameters) -> Candidate:
    own = (*DEFAULTS[candidate.method], "learning_rate", "epochs", "batch_size", "scope")
    given = cast(Hyperparameters, {name: value for name, value in fixed.items() if name in own})
    if "learning_rate" in given:  # one fixed rate is one candidate, whatever share of the edge it would have been
        candidate = replace(candidate, edge_share=1.0)
    return replace(candidate, **given)
