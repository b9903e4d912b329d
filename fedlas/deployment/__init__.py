"""Deployment: what a model is used for, kept apart from what it knows: class priors, and thresholds of decisions."""

from __future__ import annotations

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")

from fedlas.deployment.deployment import (
    CLASS_PRIORS,
    ClassPriors,
    Deployment,
    class_shares,
    decide,
    keep_alarm_rate,
    priors_of,
    same,
    shifted_logits,
)

__all__ = [
    "CLASS_PRIORS",
    "ClassPriors",
    "Deployment",
    "class_shares",
    "decide",
    "keep_alarm_rate",
    "priors_of",
    "same",
    "shifted_logits",
]
