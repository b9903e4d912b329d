"""The table of guarantees: each guaranteed level beside what the test rows show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlas.gate.non_inferiority import JudgedRows
from fedlas.guarantees import Guarantees, Unreachable
from fedlas.metrics import Estimate
from fedlas.metrics._checks import Floats
from fedlas.metrics.subgroups import share
from fedlas.report.wording import as_sentence, listed, percent

ERROR_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2)
COVERAGES = (0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class ErrorLevel:
    """A promised error rate: the threshold that keeps it, or the nearest level that one can keep (`reachable`)."""

    level: float
    threshold: float | None
    reachable: float | None
    answered: float
    error_rate: Estimate | None


@dataclass(frozen=True)
class CoverageLevel:
    """A promised coverage: mean size of the sets and the share that held the true class, or what is reachable."""

    level: float
    reachable: float | None
    mean_size: float | None
    covered: Estimate | None


@dataclass(frozen=True)
class GuaranteeTable:
    """The guarantees from `num_rows` guarantee rows, each kind failing with probability `delta` at most."""

    num_rows: int
    num_groups: int | None
    delta: float
    max_error: tuple[ErrorLevel, ...]
    coverage: tuple[CoverageLevel, ...]


def guarantee_table(
    guarantees: Guarantees | None, probs: Floats, rows: JudgedRows, confidence_level: float
) -> GuaranteeTable | None:
    """Threshold, share answered and error found for each level; sets and coverage for each coverage."""
    if guarantees is None:
        return None
    return GuaranteeTable(
        guarantees.num_rows,
        guarantees.num_groups,
        guarantees.delta,
        tuple(_error_level(guarantees, level, probs, rows, confidence_level) for level in ERROR_LEVELS),
        tuple(_coverage_level(guarantees, level, probs, rows, confidence_level) for level in COVERAGES),
    )


def _error_level(
    guarantees: Guarantees, level: float, probs: Floats, rows: JudgedRows, confidence_level: float
) -> ErrorLevel:
    try:
        threshold = guarantees.threshold_for(level)
    except Unreachable as reason:
        return ErrorLevel(level, None, reason.reachable, 0.0, None)
    # Serving compares float32 confidences with the threshold.
    kept = probs.max(axis=1).astype(np.float32).astype(np.float64) >= threshold
    wrong = (probs.argmax(axis=1) != rows.targets).astype(np.float64)
    found = share(wrong[kept], None if rows.groups is None else rows.groups[kept], confidence_level)
    return ErrorLevel(level, threshold, None, float(kept.mean()), found)


def _coverage_level(
    guarantees: Guarantees, level: float, probs: Floats, rows: JudgedRows, confidence_level: float
) -> CoverageLevel:
    try:
        sets = guarantees.prediction_sets(probs, level)
    except Unreachable as reason:
        return CoverageLevel(level, reason.reachable, None, None)
    covered = sets[np.arange(len(rows.targets)), rows.targets].astype(np.float64)
    return CoverageLevel(level, None, float(sets.sum(axis=1).mean()), share(covered, rows.groups, confidence_level))


def allowed(table: GuaranteeTable) -> str:
    """What so many guarantee rows allow to be promised, in words.

    >>> levels = ErrorLevel(0.01, None, 0.012, 0.0, None), ErrorLevel(0.05, 0.8, None, 0.62, None)
    >>> allowed(GuaranteeTable(500, None, 0.1, levels, ()))
    'They allow an error rate of at most 5 % with 62 % of the rows answered; less than 1.2 % cannot be promised.'
    """
    reached = [row for row in table.max_error if row.threshold is not None]
    limits = [row.reachable for row in table.max_error if row.reachable is not None]
    kept = [f"{percent(row.level, 0)} with {percent(row.answered, 0)} of the rows answered" for row in reached]
    least = f"less than {percent(max(limits))} cannot be promised" if limits else ""
    if not kept:
        return f"{as_sentence(least)} No level in the table can be kept." if least else ""
    told = f"They allow an error rate of at most {listed(kept)}"
    return f"{told}; {least}." if least else f"{told}."
