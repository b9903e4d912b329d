"""The sections of a report: what each holds, how it is computed from probabilities and labels, and its sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlas import metrics
from fedlas.contract.figures import (
    ClassRow,
    Corp,
    CorpBand,
    Estimate,
    PositiveClass,
    Reliability,
    RiskCoverage,
    SetAside,
    SliceRow,
    SliceTable,
)
from fedlas.contract.sections import BinarySection, ClassTable, ConfidenceGaps, ConfidenceSummary, ConfidentSection
from fedlas.documents import shortened
from fedlas.gate.guards import JudgedRows
from fedlas.gate.probabilities import CONFIDENT, confident_answers
from fedlas.metrics.calibration_error import top_label
from fedlas.metrics.statistics import Floats
from fedlas.report.number_words import direction, percent
from fedlas.report.parts import OutOfFold

#: A longer table is of no use to a reader; the worst come first.
MAX_SHOWN = 50
SET_ASIDE = 0.2
_NAMED = 8


@dataclass(frozen=True)
class Resampling:
    """Options of resampling for intervals; the metrics take them by name (`**vars(options)`)."""

    num_bins: int
    num_resamples: int
    confidence_level: float
    seed: int


def reliability(probs: Floats, rows: JudgedRows, options: Resampling) -> Reliability:
    """The curve and its consistency band, bin by bin, and without bins; empty bins have counts 0 and no values."""
    curve = metrics.reliability_curve(probs, rows.targets, num_bins=options.num_bins)
    band = metrics.consistency_band(probs, **vars(options))
    return Reliability(**vars(curve), band_low=band.low, band_high=band.high, corp=corp(probs, rows, options))


def corp(probs: Floats, rows: JudgedRows, options: Resampling) -> Corp:
    """The curve without bins, its band, and what miscalibration costs of the Brier score of the top label."""
    curve = metrics.corp_curve(probs, rows.targets)
    band = metrics.corp_band(
        probs, num_resamples=options.num_resamples, confidence_level=options.confidence_level, seed=options.seed
    )
    return Corp(**_rounded(curve), band=CorpBand(**_rounded(band)))


def _rounded(part: metrics.CorpCurve | metrics.CurveBand) -> dict[str, Any]:
    return {name: np.round(values, 5) for name, values in vars(part).items()}


def confidence(probs: Floats, rows: JudgedRows, options: Resampling) -> ConfidenceSummary:
    over, under = metrics.signed_ece(probs, rows.targets, num_bins=options.num_bins)
    return ConfidenceSummary(
        mean_confidence=float(probs.max(axis=1).mean()),
        accuracy=metrics.accuracy(probs, rows.targets),
        over_confidence=over,
        under_confidence=under,
    )


def confidence_gaps(
    models: Mapping[str, Floats],
    rows: JudgedRows,
    scored: OutOfFold | None,
    *,
    finalist: str | None,
    fitted_units: float | None,
) -> dict[str, ConfidenceGaps]:
    """The gap of every model; what was fitted on calibration rows has their chance, too."""
    gaps = {}
    for name, probs in models.items():
        as_it_came = np.array_equal(probs, models["uploaded"])
        test = metrics.confidence_gap(
            probs, rows.targets, groups=rows.groups, fitted_units=None if as_it_came else fitted_units
        )
        part = "uploaded" if as_it_came else finalist if name == "calibrated" else name
        gaps[name] = ConfidenceGaps(test=test, out_of_fold=None if scored is None or part is None else scored.gap(part))
    return gaps


def confident_section(probs: Floats, rows: JudgedRows, names: Sequence[str]) -> ConfidentSection:
    """The confident answers among probabilities (N, K), judged by themselves (`fedlas.gate.probabilities`)."""
    answers = confident_answers(probs, rows.targets, rows.groups)
    confidences, correct = top_label(probs, rows.targets)
    sure = confidences >= CONFIDENT
    worst = answers.decisive
    return ConfidentSection(
        threshold=CONFIDENT,
        num_rows=int(sure.sum()),
        mean_confidence=float(confidences[sure].mean()) if sure.any() else None,
        accuracy=float(correct[sure].mean()) if sure.any() else None,
        hold=answers.hold,
        worst_class=None if answers.hold or worst.class_index is None else names[worst.class_index],
        excess=None if answers.hold else worst.value,
    )


def confident_sentence(section: ConfidentSection, num_rows: int) -> str | None:
    """How many of the answers are confident, and how often those are right."""
    if section.accuracy is None or section.mean_confidence is None:
        return None
    told = (
        f"The {section.num_rows:,} of {num_rows:,} answers with a confidence of at least {section.threshold:.0%} have "
        f"a mean confidence of {section.mean_confidence:.1%}, and {section.accuracy:.1%} of them are right"
    ).replace("%", " %")
    if section.hold or section.excess is None:
        return f"{told}."
    whose = "they" if section.worst_class is None else f"those with “{section.worst_class}”"
    return f"{told}: {whose} are too sure by {100 * section.excess:.1f} points."


def risk_coverage(probs: Floats, rows: JudgedRows, options: Resampling) -> RiskCoverage:
    """The curve, and what setting aside the least sure rows would leave."""
    curve = metrics.risk_coverage_curve(
        probs, rows.targets, groups=rows.groups, confidence_level=options.confidence_level
    )
    # Where many rows are equally sure, they stay together, and fewer than asked are set aside.
    i = int(np.argmax(curve.coverage >= 1 - SET_ASIDE - 1e-9))
    rest = Estimate(value=float(curve.error_rate[i]), low=float(curve.low[i]), high=float(curve.high[i]))
    aside = SetAside(share=float(1 - curve.coverage[i]), threshold=float(curve.thresholds[i]), error_rate=rest)
    return RiskCoverage(**{name: np.round(values, 6) for name, values in vars(curve).items()}, set_aside=aside)


def class_section(probs: Floats, rows: JudgedRows, names: Sequence[str], options: Resampling) -> ClassTable:
    table = metrics.class_table(
        probs,
        rows.targets,
        groups=rows.groups,
        num_bins=options.num_bins,
        confidence_level=options.confidence_level,
        max_classes=MAX_SHOWN,
    )
    return ClassTable(
        num_classes=probs.shape[1],
        correction="holm",
        rows=tuple(ClassRow(**vars(row), name=names[row.index]) for row in table),
    )


def slice_section(
    probs: Floats, rows: JudgedRows, slices: Mapping[str, ArrayLike], options: Resampling
) -> SliceTable | None:
    if not slices:
        return None
    return metrics.slice_table(
        probs,
        rows.targets,
        slices,
        groups=rows.groups,
        num_resamples=options.num_resamples,
        confidence_level=options.confidence_level,
        max_slices=MAX_SHOWN,
        seed=options.seed,
    )


def worst_class(section: ClassTable, level: float) -> str:
    """The class whose mean confidence and precision differ most where it is predicted, beyond chance."""
    row = next((row for row in section.rows if row.p_adjusted is not None), None)
    if row is None or row.p_adjusted is None or row.precision is None or row.gap is None:
        return "No class is predicted often enough to be tested."
    if row.p_adjusted > 1 - level:
        return "For no class do mean confidence and precision differ by more than chance explains."
    return (
        f"Worst class: predictions of “{shortened(row.name)}” have a mean confidence of {percent(row.mean_confidence)} "
        f"and a precision of {percent(row.precision.value)} ({row.num_predicted:,} rows): {direction(row.gap.value)}."
    )


def worst_slice(section: SliceTable | None, level: float) -> str | None:
    """The slice that is most too sure or too cautious, or worse than the rest, beyond chance."""
    if section is None:
        return None
    if not section.rows:
        return "No column has slices that could be tested."
    row = section.rows[0]
    smallest = min((p for p in (row.p_miscalibrated, row.p_worse) if p is not None), default=None)
    if smallest is None:
        return "No slice has enough rows to be tested."
    if smallest > 1 - level:
        return (
            f"In none of the {section.num_slices} slices is the confidence off, or the accuracy lower than elsewhere, "
            "by more than chance explains."
        )
    return (
        f"Worst slice: {shortened(row.column)} = “{shortened(row.value)}” ({row.num_rows:,} rows) has an accuracy of "
        f"{percent(row.accuracy.value)} and a mean confidence of {percent(row.mean_confidence)} "
        f"({failings(row, 1 - level)})."
    )


def failings(row: SliceRow, alpha: float) -> str:
    tested = (row.p_miscalibrated, direction(row.gap.value)), (row.p_worse, "less accurate than the other rows")
    return ", ".join(words for p, words in tested if p is not None and p <= alpha)


def found_in_classes(section: ClassTable, level: float) -> str:
    """The classes that are too sure or too cautious, in a sentence beside the table that has their figures."""
    shown = [row for row in section.rows if row.p_adjusted is not None and row.p_adjusted <= 1 - level]
    if not shown:
        return worst_class(section, level)
    names = [f"“{shortened(row.name)}” ({direction(row.gap.value)})" for row in shown[:_NAMED] if row.gap is not None]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return f"Mean confidence and precision differ by more than chance explains for {', '.join(names)}{more}."


def found_in_slices(section: SliceTable, level: float) -> str | None:
    """The sentence that no slice is significantly weak; where one is, its row in the table says so."""
    return None if any(failings(row, 1 - level) for row in section.rows) else worst_slice(section, level)


def binary_section(
    models: Mapping[str, Floats],
    rows: JudgedRows,
    names: Sequence[str],
    positive_class: str | None,
    options: Resampling,
) -> BinarySection | None:
    """The positive class in every model, None where there are not two classes.

    Raises:
        ValueError: `positive_class` is none of the names.
    """
    if len(names) != 2:
        return None
    if positive_class is not None and positive_class not in names:
        raise ValueError(f"positive_class must be one of {list(names)}, got {positive_class!r}")
    positive = 1 if positive_class is None else names.index(positive_class)
    shown = {name: _positive_class(probs, rows, positive, options) for name, probs in models.items()}
    return BinarySection(positive_class=names[positive], **shown)


def _positive_class(probs: Floats, rows: JudgedRows, positive: int, options: Resampling) -> PositiveClass:
    figures = metrics.positive_class(probs, rows.targets, positive=positive, groups=rows.groups, **vars(options))
    line = metrics.calibration_line(
        probs, rows.targets, positive=positive, groups=rows.groups, confidence_level=options.confidence_level
    )
    return PositiveClass(
        **vars(figures), slope=line.slope if line else None, intercept=line.intercept if line else None
    )
