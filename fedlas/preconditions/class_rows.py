"""The check of rows and classes: what the rows can tell at all."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from fedlas.data.labels import missing_classes
from fedlas.documents import Json
from fedlas.notice import Notice, first_names
from fedlas.preconditions.conflicting_rows import conflicting_rows
from fedlas.preconditions.leaking_column import leaking_column
from fedlas.preconditions.match import Examined

Floats = NDArray[np.float64]

#: Of two claims at 95 %, the first to be shown. Groups that all gain as much as the worst possible group would lose
#: have a p-value of two to the power of minus their number (`fedlas.metrics.betting_intervals`).
_FEWEST_GROUPS = ceil(log2(2 / 0.05))
#: Calibration rows from which a 95 % interval of the accuracy is no wider than ±0.2, (1.96 · 0.5 / 0.2)²: with fewer,
#: a model that is sure of 20 % too many rows cannot be told from a calibrated one.
MIN_CALIBRATION_ROWS = 25
#: Priors may be far from the shares, that is what they are for. These are what nobody means: the shares of other
#: classes, a class twenty times as frequent as among the rows, or most rows of other classes.
_FAR, _NEAR, _TIMES, _MOST = 0.15, 0.03, 20.0, 0.5


def class_rows(examined: Examined) -> list[Notice]:
    """All notices about rows and classes."""
    return [
        *few_rows(examined),
        *missing_classes(examined.dataset),
        *conflicting_rows(examined),
        *leaking_column(examined),
        *class_shares(examined),
        *few_groups(examined),
    ]


def few_rows(examined: Examined) -> list[Notice]:
    """`few_rows`, where so few rows calibrate that they tell nothing."""
    if (rows := len(examined.targets)) >= MIN_CALIBRATION_ROWS:
        return []
    message = (
        f"{rows} calibration rows tell an accuracy to within ±{100 * 0.98 / rows**0.5:.0f} points, so that no gap "
        f"between confidence and accuracy can be seen: at least {MIN_CALIBRATION_ROWS} are needed, some hundred are "
        "better."
    )
    evidence: dict[str, Json] = {"split": "calibration", "rows": rows, "needed": MIN_CALIBRATION_ROWS}
    return [Notice("few_rows", message, evidence, "error")]


def class_shares(examined: Examined) -> list[Notice]:
    """`class_shares`, where declared priors look like a mistake."""
    if examined.class_priors is None:
        return []
    names, weights = examined.dataset.class_names, examined.dataset.weights_of("calibration")
    counts = np.bincount(examined.targets, weights, minlength=len(names)) + 0.5
    shares, priors = counts / counts.sum(), np.array([examined.class_priors[name] for name in names])
    why = _mistaken(shares, priors, names)
    if why is None:
        return []
    return [
        Notice(
            "class_shares",
            f"The declared class_priors are far from the shares of the {len(examined.targets):,} calibration rows: "
            f"{why}.",
            {
                "class_priors": _by_name(names, priors),
                "shares": _by_name(names, shares),
                "distance": round(_distance(shares, priors), 6),
            },
        )
    ]


def few_groups(examined: Examined) -> list[Notice]:
    """`few_groups`, where the test rows are of so few groups that no gain could be shown."""
    groups = examined.dataset.groups_of("test")
    if groups is None or (found := len(np.unique(groups))) >= _FEWEST_GROUPS:
        return []
    return [
        Notice(
            "few_groups",
            f"The test rows are of {found} groups, which vary together, so that no gain, however large, could be "
            f"shown: from {_FEWEST_GROUPS} groups on a large one could.",
            {"split": "test", "groups": found, "needed": _FEWEST_GROUPS},
        )
    ]


def _mistaken(shares: Floats, priors: Floats, names: Sequence[str]) -> str | None:
    """What is wrong with the priors (K,), None where they may be meant."""
    # Sorted alike, both have the order in which they are as near to each other as they can be.
    nearest = np.empty_like(priors)
    nearest[np.argsort(shares, kind="stable")] = np.sort(priors)
    distance = _distance(shares, priors)
    if distance >= _FAR and _distance(shares, nearest) <= _NEAR:
        return "in another order of the classes they would fit, so they probably stand beside the wrong classes"
    times = priors / shares
    rare = int(times.argmax())
    if times[rare] >= _TIMES:
        return f"'{names[rare]}' is said to be {times[rare]:.0f} times as frequent as it is among them"
    return f"{100 * distance:.0f} % of the rows would have to be of other classes" if distance > _MOST else None


def _distance(shares: Floats, priors: Floats) -> float:
    """The share of rows that would have to change their class (total variation)."""
    return float(np.abs(shares - priors).sum() / 2)


def _by_name(names: Sequence[str], values: Floats) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(first_names(names), values, strict=False)}
