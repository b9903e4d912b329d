"""What was not shown: what a reader might take from a report that the test rows leave open, each with its range."""

from __future__ import annotations

from fedlas.gate.sentences import FINALIST_NAMES, SCORE_NAMES
from fedlas.metrics import Estimate
from fedlas.report.document import CalibrationReport
from fedlas.report.wording import signed


def not_shown(report: CalibrationReport) -> list[str]:
    """Sentences, each about one thing that is neither proven nor refuted; the last one holds for every report."""
    return [*_claims(report), *_accuracy(report), *_calibration(report), *_parts(report), _elsewhere(report)]


def _claims(report: CalibrationReport) -> list[str]:
    score = SCORE_NAMES[report.gate.score]
    return [
        f"That {FINALIST_NAMES[claim.finalist]} beats {FINALIST_NAMES[one.against]}: the difference in {score} lies "
        f"between {signed(one.low)} and {signed(one.high)}."
        for claim in report.gate.claims
        for one in claim.comparisons
        if one.p_value > claim.level
    ]


def _accuracy(report: CalibrationReport) -> list[str]:
    found = report.differences["calibrated_minus_uploaded"]["accuracy"]
    if not report.promoted or not isinstance(found, Estimate) or not found.low <= 0 <= found.high:
        return []
    if found.low == found.high:
        return []
    between = f"{signed(100 * found.low, 1)} and {signed(100 * found.high, 1)} points"
    return [f"That accuracy changed, up or down: its difference to the uploaded model lies between {between}."]


def _calibration(report: CalibrationReport) -> list[str]:
    told = "That the confidences are exact: that chance explains their gap to the accuracy is less."
    return [] if report.confidence_gap["calibrated"].test.beyond_chance else [told]


def _parts(report: CalibrationReport) -> list[str]:
    """Of classes and slices: what has too few rows to be tested is not sound for that."""
    untested = [row for row in report.classes.rows if row.p_adjusted is None]
    few = sum(row.p_miscalibrated is None for row in report.slices.rows) if report.slices else 0
    told = []
    if untested:
        told.append(f"{len(untested):,} of the classes in the table, which are predicted too seldom to be tested")
    if few:
        told.append(f"{few:,} of the slices in the table, which have too few rows")
    return [f"Anything about {part}." for part in told]


def _elsewhere(report: CalibrationReport) -> str:
    rows = "those of the dataset's test split" if report.subject and report.subject.dataset else "the test rows"
    return f"That any figure holds for rows of another kind than {rows}: in another place, later, or chosen otherwise."
