"""Metrics of classifiers in plain NumPy: proper scores, calibration errors, selective risk, and what each may claim."""

from __future__ import annotations

from fedlas.metrics.binning import ReliabilityCurve, reliability_curve
from fedlas.metrics.bootstrap import Estimate, paired_bootstrap
from fedlas.metrics.calibration import SignedError, adaptive_ece, classwise_ece, ece, signed_ece
from fedlas.metrics.evaluate import METRICS, compare, evaluate
from fedlas.metrics.noise import BinnedEstimate, ConsistencyBand, consistency_band
from fedlas.metrics.scores import accuracy, brier, nll, row_scores
from fedlas.metrics.selective import aurc
from fedlas.metrics.squared import calibration_error_l2

__all__ = [
    "METRICS",
    "BinnedEstimate",
    "ConsistencyBand",
    "Estimate",
    "ReliabilityCurve",
    "SignedError",
    "accuracy",
    "adaptive_ece",
    "aurc",
    "brier",
    "calibration_error_l2",
    "classwise_ece",
    "compare",
    "consistency_band",
    "ece",
    "evaluate",
    "nll",
    "paired_bootstrap",
    "reliability_curve",
    "row_scores",
    "signed_ece",
]
