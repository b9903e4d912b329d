"""Calibration in the style of scikit-learn."""

from __future__ import annotations

from fedlas.extras import require

require("sklearn", "sklearn", "scipy")

from fedlas.sklearn.calibrated_classifier import CalibratedClassifier

__all__ = ["CalibratedClassifier"]
