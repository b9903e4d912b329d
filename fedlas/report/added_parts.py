"""What each part of a calibration added: the temperature, the pool of calibrators, the refit, and the average.

Each part is compared with the one before it, row by row, on calibration rows out of fold and on the test rows. The
calibration rows choose among the parts; the figures of the test rows describe, and what is claimed is the gate's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from numpy.typing import ArrayLike

from fedlas.gate.non_inferiority import JudgedRows
from fedlas.metrics._checks import Floats
from fedlas.metrics.bootstrap import Estimate
from fedlas.metrics.clustered_mean import clustered_mean
from fedlas.metrics.proper_scores import Score, row_scores
from fedlas.report.out_of_fold import OutOfFold
from fedlas.report.wording import listed

#: The parts in the order in which they are added, as a sentence names them.
PART_NAMES = {
    "uploaded": "the uploaded model",
    "temperature": "a temperature",
    "post_hoc": "the post-hoc calibrators",
    "trained": "the refit on fresh rows",
    "average": "the average",
}


@dataclass(frozen=True)
class PartScore:
    """The mean score of a part, and the mean paired change from the part before it (negative is better).

    The change is None of the first part, and where the part before it has no such score.
    """

    value: float
    change: Estimate | None


@dataclass(frozen=True)
class AddedPart:
    """One part with its scores; None where it was not scored on these rows.

    `out_of_fold_nll` is that of the calibration rows, `test_nll` and `test_brier` those of the test rows.
    """

    name: str
    served: bool
    out_of_fold_nll: PartScore | None
    test_nll: PartScore | None
    test_brier: PartScore | None


@dataclass(frozen=True)
class AddedParts:
    """The parts that were tried, each compared with the one before it, and the changes in a sentence."""

    num_calibration_rows: int
    rows: tuple[AddedPart, ...]
    sentence: str


def added_parts(
    out_of_fold: OutOfFold,
    probs: Mapping[str, ArrayLike],
    rows: JudgedRows,
    *,
    served: str | None,
    confidence_level: float = 0.95,
) -> AddedParts:
    """What each part added, as far as it was tried.

    Args:
        probs: probabilities (N, K) of the test rows, by part.
        rows: the test rows.
        served: the finalist that is served.
    """
    names = [name for name in PART_NAMES if name in out_of_fold.by_part or name in probs]

    def on_test_rows(score: Score) -> dict[str, PartScore]:
        values = {name: row_scores(probs[name], rows.targets, score=score) for name in names if name in probs}
        return _scores(
            names, values, lambda one: clustered_mean(one, groups=rows.groups, confidence_level=confidence_level)
        )

    fitted = _scores(names, out_of_fold.by_part, lambda one: out_of_fold.mean(one, confidence_level))
    nll, brier = on_test_rows("nll"), on_test_rows("brier")
    parts = tuple(AddedPart(name, name == served, fitted.get(name), nll.get(name), brier.get(name)) for name in names)
    num_rows = len(next(iter(out_of_fold.by_part.values())))
    return AddedParts(num_rows, parts, _sentence(parts))


def _scores(names: list[str], values: Mapping[str, Floats], mean: Callable[[Floats], Estimate]) -> dict[str, PartScore]:
    """Of row values (N,) by part: their mean, and the change from the part before."""
    return {
        name: PartScore(
            mean(values[name]).value,
            mean(values[name] - values[before]) if before is not None and before in values else None,
        )
        for name, before in zip(names, [None, *names], strict=False)
        if name in values
    }


def _sentence(parts: tuple[AddedPart, ...]) -> str:
    """Which parts lower the NLL of the calibration rows out of fold, and which do not, without the figures."""
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
            (lower, "is lowered by"),
            (open_, "is not shown to be changed by"),
            (higher, "is raised by"),
        )
        if names
    ]
    return f"On the calibration rows, out of fold, the NLL {'; it '.join(told)}." if told else ""
