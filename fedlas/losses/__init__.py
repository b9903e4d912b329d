"""Training losses for calibrated classifiers: FedLAS, FedLAS+ and the losses they are compared with."""

from __future__ import annotations

from fedlas.extras import require

require("library", "torch")

from fedlas.losses.baselines import ACLSLoss, CrossEntropyLoss, FocalLoss, LabelSmoothingLoss, MbLSLoss
from fedlas.losses.fedlas import BidirectionalCalibrationGate, FedLASLoss, FedLASPlusLoss, NormConfidenceIndicator

__all__ = [
    "ACLSLoss",
    "BidirectionalCalibrationGate",
    "CrossEntropyLoss",
    "FedLASLoss",
    "FedLASPlusLoss",
    "FocalLoss",
    "LabelSmoothingLoss",
    "MbLSLoss",
    "NormConfidenceIndicator",
]
