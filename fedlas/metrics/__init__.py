"""Metrics of classifiers: proper scores, calibration errors and selective risk, with intervals or noise floors."""

from __future__ import annotations

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")

from fedlas.contract.figures import (
    BinnedEstimate,
    CalibrationTest,
    ClassFigures,
    ConfidenceGap,
    Estimate,
    PositiveClassFigures,
    SliceRow,
    SliceTable,
)
from fedlas.metrics.binary import CalibrationLine, average_precision, calibration_line, positive_class
from fedlas.metrics.calibration_error import (
    CorpCurve,
    CurveBand,
    ReliabilityCurve,
    SignedError,
    adaptive_ece,
    classwise_ece,
    confidence_gap,
    corp_band,
    corp_curve,
    ece,
    reliability_curve,
    signed_ece,
)
from fedlas.metrics.evaluate import METRICS, accuracy, brier, compare, evaluate, nll, row_scores
from fedlas.metrics.l2_calibration_error import (
    ConsistencyBand,
    calibration_error_l2,
    calibration_test,
    consistency_band,
)
from fedlas.metrics.per_class import class_calibration_errors, class_table, holm_adjusted, slice_table
from fedlas.metrics.selective import RiskCoverageCurve, augrc, aurc, risk_coverage_curve
from fedlas.metrics.statistics import paired_bootstrap

__all__ = [
    "METRICS",
    "BinnedEstimate",
    "CalibrationLine",
    "CalibrationTest",
    "ClassFigures",
    "ConfidenceGap",
    "ConsistencyBand",
    "CorpCurve",
    "CurveBand",
    "Estimate",
    "PositiveClassFigures",
    "ReliabilityCurve",
    "RiskCoverageCurve",
    "SignedError",
    "SliceRow",
    "SliceTable",
    "accuracy",
    "adaptive_ece",
    "augrc",
    "aurc",
    "average_precision",
    "brier",
    "calibration_error_l2",
    "calibration_line",
    "calibration_test",
    "class_calibration_errors",
    "class_table",
    "classwise_ece",
    "compare",
    "confidence_gap",
    "consistency_band",
    "corp_band",
    "corp_curve",
    "ece",
    "evaluate",
    "holm_adjusted",
    "nll",
    "paired_bootstrap",
    "positive_class",
    "reliability_curve",
    "risk_coverage_curve",
    "row_scores",
    "signed_ece",
    "slice_table",
]
