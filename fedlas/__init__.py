"""FedLAS: feature-modulated bidirectional label smoothing (arXiv 2606.28654), and what calibrating a classifier takes.

The public names are loaded on first use, so that `import fedlas` and its torch-free parts never load PyTorch.

>>> import sys, fedlas
>>> loss = fedlas.FedLASLoss(num_classes=10)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlas import calibration as calibration
    from fedlas import calibrators, importers, losses, metrics
    from fedlas import conversion as conversion
    from fedlas import export as export
    from fedlas import gate as gate
    from fedlas import guarantees as guarantees
    from fedlas import race as race
    from fedlas import report as report
    from fedlas import scores as scores
    from fedlas import sklearn as sklearn
    from fedlas import training as training
    from fedlas.calibration.evaluation import CalibrationOptions
    from fedlas.calibration.in_memory import calibrate
    from fedlas.calibration.model_scores import LabelledRows, LabelledScores, ModelSource
    from fedlas.classifier import Classifier
    from fedlas.losses import (
        ACLSLoss,
        BidirectionalCalibrationGate,
        CrossEntropyLoss,
        FedLASLoss,
        FedLASPlusLoss,
        FocalLoss,
        LabelSmoothingLoss,
        MbLSLoss,
        NormConfidenceIndicator,
    )
    from fedlas.observer import Observer, PrintingObserver
    from fedlas.scores.result import ScoreResult

    __version__: str

_PACKAGES = {
    *("calibration", "calibrators", "conversion", "export", "gate", "guarantees", "importers"),
    *("losses", "metrics", "race", "report", "scores", "sklearn", "training"),
}
#: Where a public name is defined, unless it is a loss.
_HOMES = {
    "CalibrationOptions": "fedlas.calibration.evaluation",
    "Classifier": "fedlas.classifier",
    "ScoreResult": "fedlas.scores.result",
    "calibrate": "fedlas.calibration.in_memory",
    **dict.fromkeys(("LabelledRows", "LabelledScores", "ModelSource"), "fedlas.calibration.model_scores"),
    **dict.fromkeys(("Observer", "PrintingObserver"), "fedlas.observer"),
}

__all__ = [
    "ACLSLoss",
    "BidirectionalCalibrationGate",
    "CalibrationOptions",
    "Classifier",
    "CrossEntropyLoss",
    "FedLASLoss",
    "FedLASPlusLoss",
    "FocalLoss",
    "LabelSmoothingLoss",
    "LabelledRows",
    "LabelledScores",
    "MbLSLoss",
    "ModelSource",
    "NormConfidenceIndicator",
    "Observer",
    "PrintingObserver",
    "ScoreResult",
    "calibrate",
    "calibrators",
    "importers",
    "losses",
    "metrics",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":  # said once, in pyproject.toml
        from importlib.metadata import version

        return version("fedlas")
    if name in _PACKAGES:
        return import_module(f"fedlas.{name}")
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "fedlas.losses")), name)
    raise AttributeError(f"module 'fedlas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
