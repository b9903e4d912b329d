"""The sections of a report, each computed from probabilities and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlas import metrics
from fedlas.gate.guards import JudgedRows
from fedlas.metrics._checks import Floats
from fedlas.report.document import (
    BinarySection,
    ClassTable,
    ConfidenceGaps,
    ConfidenceSummary,
    Corp,
    NamedClassRow,
    PositiveClassSection,
    Reliability,
    RiskCoverageSection,
    SetAside,
)
from fedlas.report.evidence import Evidence

#: A longer table is of no use to a reader; the worst come first.
MAX_SHOWN = 50
#: The share of rows left to a person in the sentence about abstaining.
SET_ASIDE = 0.2


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
        probs,
        num_resamples=options.num_resamples,
        confidence_level=options.confidence_level,
        seed=options.seed,
    )
    return Corp(**_rounded(curve), band=metrics.CorpBand(**_rounded(band)))


def _rounded(part: metrics.CorpCurve | metrics.CorpBand) -> dict[str, Any]:
    return {name: np.round(values, 5) for name, values in vars(part).items()}


def confidence(probs: Floats, rows: JudgedRows, options: Resampling) -> ConfidenceSummary:
    """Mean confidence, accuracy, and the ECE split by its sign."""
    signed = metrics.signed_ece(probs, rows.targets, num_bins=options.num_bins)
    return ConfidenceSummary(float(probs.max(axis=1).mean()), metrics.accuracy(probs, rows.targets), *signed)


def confidence_gaps(models: Mapping[str, Floats], rows: JudgedRows, evidence: Evidence) -> dict[str, ConfidenceGaps]:
    """The gap of every model; what was fitted on calibration rows has their chance, too."""
    # The scores of a model that may have seen the calibration rows are not out of fold.
    scored = None if evidence.seen_by_model == "unknown" else evidence.out_of_fold
    fitted = None if evidence.calibration_accuracy is None else evidence.calibration_accuracy.effective_units
    gaps = {}
    for name, probs in models.items():
        as_it_came = np.array_equal(probs, models["uploaded"])
        units = None if as_it_came else fitted
        test = metrics.confidence_gap(probs, rows.targets, groups=rows.groups, fitted_units=units)
        part = "uploaded" if as_it_came else evidence.gate.finalist if name == "calibrated" else name
        gaps[name] = ConfidenceGaps(test, None if scored is None or part is None else scored.gap(part))
    return gaps


def calibration_test(probs: Floats, rows: JudgedRows, options: Resampling) -> metrics.CalibrationTest:
    """Whether the confidences are refuted."""
    return metrics.calibration_test(
        probs, rows.targets, num_bins=options.num_bins, num_draws=options.num_resamples, seed=options.seed
    )


def risk_coverage(probs: Floats, rows: JudgedRows, options: Resampling) -> RiskCoverageSection:
    """The curve, and what setting aside the least sure rows would leave."""
    curve = metrics.risk_coverage_curve(
        probs, rows.targets, groups=rows.groups, confidence_level=options.confidence_level
    )
    # Where many rows are equally sure, they stay together, and fewer than asked are set aside.
    i = int(np.argmax(curve.coverage >= 1 - SET_ASIDE - 1e-9))
    rest = metrics.Estimate(float(curve.error_rate[i]), float(curve.low[i]), float(curve.high[i]))
    aside = SetAside(float(1 - curve.coverage[i]), float(curve.thresholds[i]), rest)
    return RiskCoverageSection(**{name: np.round(values, 6) for name, values in vars(curve).items()}, set_aside=aside)


def class_section(probs: Floats, rows: JudgedRows, names: Sequence[str], options: Resampling) -> ClassTable:
    """The worst classes."""
    table = metrics.class_table(
        probs,
        rows.targets,
        groups=rows.groups,
        num_bins=options.num_bins,
        confidence_level=options.confidence_level,
        max_classes=MAX_SHOWN,
    )
    named = tuple(NamedClassRow(**vars(row), name=names[row.index]) for row in table)
    return ClassTable(probs.shape[1], "holm", named)


def slice_section(
    probs: Floats, rows: JudgedRows, slices: Mapping[str, ArrayLike], options: Resampling
) -> metrics.SliceTable | None:
    """The worst slices, None without slice columns."""
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


def _positive_class(probs: Floats, rows: JudgedRows, positive: int, options: Resampling) -> PositiveClassSection:
    found = metrics.positive_class(probs, rows.targets, positive=positive, groups=rows.groups, **vars(options))
    line = metrics.calibration_line(
        probs, rows.targets, positive=positive, groups=rows.groups, confidence_level=options.confidence_level
    )
    return PositiveClassSection(
        **vars(found), slope=line.slope if line else None, intercept=line.intercept if line else None
    )
