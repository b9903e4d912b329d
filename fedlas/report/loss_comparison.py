"""FedLAS's own part: the best candidate of its losses against the best of label smoothing and of cross-entropy.

All of them are warm restarts on the same fresh rows in the same folds, those that all candidates ran. Each is the best
of the candidates of its method by the same rows, which flatters the method with more candidates a little, and they may
differ in rate, epochs and weight decay too: the recipe gives each loss what suited it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedlas.metrics._checks import Floats
from fedlas.metrics.bootstrap import Estimate
from fedlas.report.out_of_fold import OutOfFold

#: Training methods, as a sentence names them.
METHOD_NAMES = {
    "fedlas": "FedLAS",
    "fedlas_plus": "FedLAS+",
    "label_smoothing": "label smoothing",
    "cross_entropy": "cross-entropy",
}
OURS, RIVALS = ("fedlas", "fedlas_plus"), ("label_smoothing", "cross_entropy")


@dataclass(frozen=True)
class MethodDifference:
    """FedLAS's NLL minus the rival's, out of fold: the mean, and on how many rows it is lower and higher.

    `finding` is `better` or `worse` where the interval excludes 0, else `no_difference_shown`.
    """

    against: str
    nll: Estimate
    rows_better: int
    rows_worse: int
    finding: str


@dataclass(frozen=True)
class LossComparison:
    """The better of FedLAS and FedLAS+ against the other losses; `method` is None where neither was trained."""

    method: str | None
    num_rows: int
    differences: tuple[MethodDifference, ...]
    sentence: str


def loss_comparison(out_of_fold: OutOfFold | None, *, confidence_level: float = 0.95) -> LossComparison | None:
    """FedLAS's own part, None where nothing was trained."""
    if out_of_fold is None or not out_of_fold.by_method:
        return None
    by_method = out_of_fold.by_method
    num_rows = len(next(iter(by_method.values())))
    method = min(
        (name for name in OURS if name in by_method),
        key=lambda name: out_of_fold.compared_mean(by_method[name], confidence_level).value,
        default=None,
    )
    if method is None:
        return LossComparison(None, num_rows, (), "FedLAS was not trained beside it, so what its loss adds is unknown.")
    differences = tuple(
        _difference(name, by_method[method] - by_method[name], out_of_fold, confidence_level)
        for name in RIVALS
        if name in by_method
    )
    return LossComparison(method, num_rows, differences, _sentence(method, differences))


def _difference(against: str, rows: Floats, out_of_fold: OutOfFold, level: float) -> MethodDifference:
    mean = out_of_fold.compared_mean(rows, level)
    finding = "better" if mean.high < 0 else "worse" if mean.low > 0 else "no_difference_shown"
    return MethodDifference(against, mean, int(np.sum(rows < 0)), int(np.sum(rows > 0)), finding)


_FINDINGS: Mapping[str, str] = {
    "better": "better than",
    "worse": "worse than",
    "no_difference_shown": "not shown to differ from",
}


def _sentence(method: str, differences: tuple[MethodDifference, ...]) -> str:
    """The findings without their figures."""
    if not differences:
        return (
            "What FedLAS's loss adds is unknown: no candidate with label smoothing or cross-entropy was trained "
            "beside it."
        )
    parts = [f"{_FINDINGS[one.finding]} the best with {METHOD_NAMES[one.against]}" for one in differences]
    compared = {one.against for one in differences}
    missing = [f" No candidate with {METHOD_NAMES[name]} was trained." for name in RIVALS if name not in compared]
    return (
        f"Of the losses, the best {METHOD_NAMES[method]} candidate is {' and '.join(parts)}, on calibration rows out "
        f"of fold; they may differ in rate, epochs and weight decay too.{''.join(missing)}"
    )
