"""The parts of a calibration: what the temperature, the pool of calibrators, the refit and the average each added.

Each part is compared with the one before it, row by row, on calibration rows out of fold and on the test rows. The
calibration rows choose among the parts; the figures of the test rows describe, and what is claimed is the gate's.

FedLAS's own part is the best candidate of its losses against the best of label smoothing and of cross-entropy. All are
warm restarts on the same fresh rows in the same folds, those that all candidates ran. Each is the best of the
candidates of its method by the same rows, which flatters the method with more candidates a little, and they may differ
in rate, epochs and weight decay too: the recipe gives each loss what suited it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.calibrators import softmax
from fedlas.contract.figures import ConfidenceGap, Estimate
from fedlas.contract.sections import AddedPart, AddedParts, LossComparison, MethodDifference, PartScore
from fedlas.gate.guards import JudgedRows
from fedlas.metrics.calibration_error import top_label, top_label_gap
from fedlas.metrics.evaluate import Score, row_scores
from fedlas.metrics.statistics import Floats, clustered_mean
from fedlas.report.number_words import listed


@dataclass(frozen=True)
class OutOfFold:
    """NLL (N,) of the calibration rows, each under a network and a calibrator that were fitted without it.

    Attributes:
        by_part: by `uploaded`, `temperature` and the names of the finalists.
        top_labels: confidences (N,) and whether they are right (N,), out of fold, by the same names.
        by_method: of the best candidate of each training method, with a temperature, on `compared_rows`.
        groups, weights: (N,) of the rows, if there are any.
        compared_rows: indices (M,) of the rows of the folds that all candidates ran; None is all rows.
    """

    by_part: Mapping[str, Floats]
    by_method: Mapping[str, Floats] = field(default_factory=dict)
    groups: ArrayLike | None = None
    weights: ArrayLike | None = None
    compared_rows: NDArray[np.int64] | None = None
    top_labels: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)

    @classmethod
    def of(cls, held_out: Mapping[str, ArrayLike], targets: NDArray[np.int64], **others: Any) -> Self:
        """Score calibrated logits (N, K) by part on class indices (N,); the others are those of the constructor."""
        probs = {name: softmax(logits) for name, logits in held_out.items()}
        nll = {name: row_scores(one, targets, score="nll") for name, one in probs.items()}
        return cls(nll, top_labels={name: top_label(one, targets) for name, one in probs.items()}, **others)

    def mean(self, values: Floats, confidence_level: float) -> Estimate:
        return clustered_mean(values, groups=self.groups, weights=self.weights, confidence_level=confidence_level)

    def gap(self, part: str) -> ConfidenceGap | None:
        """Confidence gap of a part, in the error of these rows alone: all out-of-fold fits saw nearly the same rows."""
        answers = self.top_labels.get(part)
        return None if answers is None else top_label_gap(*answers, groups=self.groups, weights=self.weights)

    def compared_mean(self, values: Floats, confidence_level: float) -> Estimate:
        rows = slice(None) if self.compared_rows is None else self.compared_rows
        groups, weights = (None if one is None else np.asarray(one)[rows] for one in (self.groups, self.weights))
        return clustered_mean(values, groups=groups, weights=weights, confidence_level=confidence_level)


PART_NAMES = {
    "uploaded": "the uploaded model",
    "temperature": "a temperature",
    "post_hoc": "the post-hoc calibrators",
    "trained": "the refit on fresh rows",
    "average": "the average",
}


def added_parts(
    out_of_fold: OutOfFold | None,
    probs: Mapping[str, ArrayLike],
    rows: JudgedRows,
    *,
    served: str | None,
    confidence_level: float = 0.95,
) -> AddedParts | None:
    """Each part that was tried, with `probs` (N, K) of the test rows by part; None without scores out of fold."""
    if out_of_fold is None:
        return None
    names = [name for name in PART_NAMES if name in out_of_fold.by_part or name in probs]

    def on_test_rows(score: Score) -> dict[str, PartScore]:
        values = {name: row_scores(probs[name], rows.targets, score=score) for name in names if name in probs}
        return _scores(
            names, values, lambda one: clustered_mean(one, groups=rows.groups, confidence_level=confidence_level)
        )

    fitted = _scores(names, out_of_fold.by_part, lambda one: out_of_fold.mean(one, confidence_level))
    nll, brier = on_test_rows("nll"), on_test_rows("brier")
    parts = tuple(
        AddedPart(
            name=name,
            served=name == served,
            out_of_fold_nll=fitted.get(name),
            test_nll=nll.get(name),
            test_brier=brier.get(name),
        )
        for name in names
    )
    return AddedParts(
        num_calibration_rows=len(next(iter(out_of_fold.by_part.values()))), rows=parts, sentence=_parts_sentence(parts)
    )


def _scores(names: list[str], values: Mapping[str, Floats], mean: Callable[[Floats], Estimate]) -> dict[str, PartScore]:
    """Means of row values (N,) by part, and the change from the part before."""
    return {
        name: PartScore(
            value=mean(values[name]).value,
            change=mean(values[name] - values[before]) if before is not None and before in values else None,
        )
        for name, before in zip(names, [None, *names], strict=False)
        if name in values
    }


def _parts_sentence(parts: tuple[AddedPart, ...]) -> str:
    changes = {
        PART_NAMES[part.name]: part.out_of_fold_nll.change
        for part in parts
        if part.out_of_fold_nll is not None and part.out_of_fold_nll.change is not None
    }
    lower = [name for name, change in changes.items() if change.high < 0]
    higher = [name for name, change in changes.items() if change.low > 0]
    open_ = [name for name in changes if name not in lower and name not in higher]
    told = [
        f"{what} {listed(names)}"
        for names, what in (
            (lower, "falls with"),
            (open_, "does not clearly change with"),
            (higher, "rises with"),
        )
        if names
    ]
    return f"On held-out calibration rows the NLL {'; it '.join(told)}." if told else ""


METHOD_NAMES = {
    "fedlas": "FedLAS",
    "fedlas_plus": "FedLAS+",
    "label_smoothing": "label smoothing",
    "cross_entropy": "cross-entropy",
}
OURS = ("fedlas", "fedlas_plus")
RIVALS = ("label_smoothing", "cross_entropy")


def loss_comparison(out_of_fold: OutOfFold | None, *, confidence_level: float = 0.95) -> LossComparison | None:
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
        return LossComparison(
            method=None,
            num_rows=num_rows,
            differences=(),
            sentence="No candidate was trained with FedLAS, so what its loss adds is unknown.",
        )
    differences = tuple(
        _difference(name, by_method[method] - by_method[name], out_of_fold, confidence_level)
        for name in RIVALS
        if name in by_method
    )
    return LossComparison(
        method=method, num_rows=num_rows, differences=differences, sentence=_losses_sentence(method, differences)
    )


def _difference(against: str, rows: Floats, out_of_fold: OutOfFold, level: float) -> MethodDifference:
    mean = out_of_fold.compared_mean(rows, level)
    finding = "better" if mean.high < 0 else "worse" if mean.low > 0 else "no_difference_shown"
    return MethodDifference(
        against=against, nll=mean, rows_better=int(np.sum(rows < 0)), rows_worse=int(np.sum(rows > 0)), finding=finding
    )


_FINDINGS: Mapping[str, str] = {
    "better": "better than",
    "worse": "worse than",
    "no_difference_shown": "not clearly different from",
}


def _losses_sentence(method: str, differences: tuple[MethodDifference, ...]) -> str:
    if not differences:
        return (
            "What FedLAS's loss adds is unknown: no candidate with label smoothing or cross-entropy was trained "
            "beside it."
        )
    parts = [f"{_FINDINGS[one.finding]} the best with {METHOD_NAMES[one.against]}" for one in differences]
    missing = [
        f" No candidate with {METHOD_NAMES[name]} was trained."
        for name in RIVALS
        if all(one.against != name for one in differences)
    ]
    return (
        f"Of the losses, the best {METHOD_NAMES[method]} candidate is {' and '.join(parts)}, on held-out "
        f"calibration rows; they may differ in rate, epochs and weight decay too.{''.join(missing)}"
    )
