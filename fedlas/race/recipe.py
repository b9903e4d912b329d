"""The recipe: which candidates a method races, those that pay most often first; it knows no data.

The order and the values were measured on five data sets and then frozen: warm restarts at a high peak learning
rate, FedLAS+ first. The last in line is plain cross-entropy, so that the report can say what the loss added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedlas.race.candidates import DEFAULTS, METHODS, TRAINED, Candidate

_CHEAP = (("fedlas_plus", 0.1, 0.1), ("fedlas_plus", 0.1, 0.2), ("fedlas", 0.1, 0.2))
_CHEAP_FRESH = (("fedlas", 0.02, 0.05),)
_REST = (
    ("fedlas", 0.05, 0.1),
    ("fedlas", 0.1, 0.1),
    ("fedlas", 0.05, 0.2),
    ("fedlas_plus", 0.1, 0.05),
    ("fedlas", 0.02, 0.1),
    ("fedlas", 0.02, 0.05),
    ("fedlas", 0.05, 0.05),
    ("fedlas", 0.1, 0.05),
    ("fedlas", 0.02, 0.2),
    ("fedlas", 0.2, 0.1),
    ("fedlas", 0.2, 0.2),
    ("fedlas", 0.2, 0.05),
    ("cross_entropy", None, 0.1),
)
_RATES = (0.1, 0.2, 0.05)


def recipe(
    method: str, hyperparameters: Mapping[str, Any], *, max_candidates: int = 16, fresh_rows: bool = False
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


def check_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
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
    return fixed


def _number(value: object, low: float, high: float = math.inf, *, with_low: bool = True) -> bool:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return (low <= value if with_low else low < value) and value <= high


_CHECKS: dict[str, tuple[str, Any]] = {
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
    race = [*_CHEAP, *(_CHEAP_FRESH if fresh_rows else ()), *_REST]
    if method == "auto":
        chosen = race
    elif method == "fedlas":
        chosen = [entry for entry in race if entry[0] == "fedlas"]
    else:
        chosen = [(method, DEFAULTS[method].get("alpha"), rate) for rate in _RATES]
    return [_candidate(name, alpha, rate) for name, alpha, rate in chosen]


def _candidate(method: str, alpha: float | None, learning_rate: float) -> Candidate:
    assert method in TRAINED
    settings: dict[str, Any] = dict(DEFAULTS[method])
    if alpha is not None:
        settings["alpha"] = alpha
    return Candidate(method, learning_rate, **settings)


def _fixed(candidate: Candidate, fixed: Mapping[str, Any]) -> Candidate:
    own = (*DEFAULTS[candidate.method], "learning_rate", "epochs", "batch_size", "scope")
    given = {name: value for name, value in fixed.items() if name in own}
    return replace(candidate, **given, fixed_rate="learning_rate" in given)
