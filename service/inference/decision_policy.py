"""What a client wants to do with the confidences: error rates, sets and costs; it knows a profile and no model.

Everything is checked against the model's profile before the model runs, and refused in words for the client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from fedlas.guarantees import Guarantees, Unreachable
from service.inference.excerpts import listed, shown
from service.registry.errors import InvalidRequest

Shares = float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """Checked wishes, ready for any number of rows."""

    class_names: Sequence[str]
    guarantees: Guarantees | None = None
    threshold: float = 0.0
    coverage: Shares | None = None
    costs: np.ndarray | None = None
    least_probability: float | None = None
    positive: int = 1

    def prediction_sets(self, probs: np.ndarray) -> list[list[str]]:
        """The names of the classes in each row's set, the most probable first."""
        classes, sizes = self.sets(probs)
        names = [self.class_names[k] for k in classes.tolist()]
        return [names[begin:end] for begin, end in pairwise([0, *sizes.cumsum().tolist()])]

    def sets(self, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The classes in all rows' sets (M,), row after row and the most probable first, and how many are in each (N,).

        `probs` (N, K), as everywhere here.
        """
        assert self.guarantees is not None
        assert self.coverage is not None
        inside = self.guarantees.prediction_sets(probs, self.coverage)
        order = np.argsort(-probs, axis=1, kind="stable")
        ranked = np.take_along_axis(inside, order, axis=1)
        return order[ranked], ranked.sum(axis=1)

    def decisions(self, probs: np.ndarray) -> list[str] | None:
        """The label to act on for each row, or None where no decision was asked for."""
        decided = self.decided(probs)
        return None if decided is None else [self.class_names[k] for k in decided.tolist()]

    def decided(self, probs: np.ndarray) -> np.ndarray | None:
        """The class to act on for each row (N,), or None where no decision was asked for."""
        if self.costs is not None:
            cheapest: np.ndarray = (probs @ self.costs.T).argmin(axis=1)
            return cheapest
        if self.least_probability is not None:
            # As float64: numpy would round the threshold to the probabilities' type.
            reached = probs[:, self.positive].astype(np.float64) >= self.least_probability
            return np.where(reached, self.positive, 1 - self.positive)
        return None


def acting(
    profile: Mapping[str, Any],
    *,
    max_error: Shares | None = None,
    coverage: Shares | None = None,
    decision: Mapping[str, Any] | None = None,
) -> DecisionPolicy:
    """Check the wishes against what the model can promise.

    Raises InvalidRequest with the field: `no_guarantee_rows`, `max_error_unreachable` or `coverage_unreachable` (with
    the value that can be reached), `invalid_request` for unknown classes, wrong shapes and impossible numbers.
    """
    names = profile["class_names"]
    if max_error is None and coverage is None and decision is None:
        return DecisionPolicy(names)
    wishes: dict[str, Any] = {"class_names": names, "positive": positive_index(profile)}
    if max_error is not None or coverage is not None:
        guarantees = _guarantees(profile, "coverage" if max_error is None else "max_error")
        wishes |= {"guarantees": guarantees, "coverage": coverage}
        if max_error is not None:
            wishes["threshold"] = _threshold(guarantees, max_error)
        if coverage is not None:
            _check_coverage(guarantees, coverage)
    if decision is not None:
        wishes |= _decision(decision, names, profile.get("task"))
    return DecisionPolicy(**wishes)


def positive_index(profile: Mapping[str, Any]) -> int:
    """The column of a binary model's positive class."""
    positive = profile.get("positive_class")
    return 1 if positive is None else int(profile["class_names"].index(positive))


def _guarantees(profile: Mapping[str, Any], field: str) -> Guarantees:
    content = profile.get("guarantees")
    if content is None:
        message = (
            "nothing can be promised for this model: promises are made for the calibrated model of a job whose dataset "
            "has rows in the split 'guarantee' (a model that a job left unchanged carries none)"
        )
        raise InvalidRequest("no_guarantee_rows", message, field=field)
    return Guarantees.from_dict(content)


def _threshold(guarantees: Guarantees, max_error: Shares) -> float:
    try:
        return guarantees.threshold_for(max_error)
    except Unreachable as error:
        raise InvalidRequest("max_error_unreachable", str(error), field="max_error") from error
    except ValueError as error:
        raise InvalidRequest("invalid_request", str(error), field="max_error") from error


def _check_coverage(guarantees: Guarantees, coverage: Shares) -> None:
    try:
        guarantees.check_coverage(coverage)
    except Unreachable as error:
        raise InvalidRequest("coverage_unreachable", str(error), field="coverage") from error
    except ValueError as error:
        raise InvalidRequest("invalid_request", str(error), field="coverage") from error


def _decision(decision: Mapping[str, Any], names: Sequence[str], task: str | None) -> dict[str, Any]:
    if set(decision) == {"threshold"}:
        return {"least_probability": _least_probability(decision["threshold"], len(names), task)}
    if set(decision) != {"costs"}:
        _refuse(f'must be {{"threshold": t}} or {{"costs": [[…]]}}, found {listed(decision)}')
    return {"costs": _costs(decision["costs"], len(names))}


def _least_probability(value: object, num_classes: int, task: str | None) -> float:
    if task != "binary" and num_classes != 2:
        _refuse(f'"threshold" is for binary models; this one has {num_classes} classes: give "costs"')
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        _refuse(f'"threshold" must be a probability between 0 and 1, found {shown(value)}')
    return float(value)


def _costs(value: object, num_classes: int) -> np.ndarray:
    needed = f"{num_classes} rows (decision) of {num_classes} numbers (truth), in the order of the model's classes"
    rows = value if isinstance(value, list) else []
    sizes = [len(row) if isinstance(row, list) else -1 for row in rows]
    if sizes != [num_classes] * num_classes:
        _refuse(f'"costs" must be {needed}')
    numbers = [number for row in rows for number in row]
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        _refuse(f'"costs" must be {needed}; something in it is no number')
    try:
        costs = np.array(rows, dtype=np.float64)
    except OverflowError:
        _refuse('"costs" holds an integer that is too large')
    if not np.isfinite(costs).all() or (costs < 0).any():
        advice = "adding the same number to a whole column changes no decision"
        _refuse(f'"costs" must be finite and not negative ({advice})')
    return costs


def _refuse(message: str) -> NoReturn:
    raise InvalidRequest("invalid_request", f"decision: {message}", field="decision")
