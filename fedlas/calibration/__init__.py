"""A calibration from top to bottom: rows with labels in, a judged calibrator or tuned network with its report out.

`calibrate` takes a network, `calibrate_scores` the scores of one that is not at hand; both share `Evaluation`. Names
are loaded when they are asked for: scores need no PyTorch.

>>> import numpy as np
>>> from fedlas.calibration import ScoredRows, calibrate_scores
>>> from fedlas.data import Dataset
>>> rng = np.random.default_rng(0)
>>> truth = 2 * rng.normal(size=(400, 3))
>>> labels, splits = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1), np.arange(400, dtype=np.int8) % 2 * 2 + 1
>>> scores = {"logits": (3 * truth).astype(np.float32)}
>>> judged = calibrate_scores(ScoredRows.of(Dataset(scores, labels, ["a", "b", "c"], True, splits, seen_by_model="no")))
>>> judged.verdict.verdict
'post_hoc'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")

from fedlas.calibration.evaluation import CalibrationOptions, Evaluation

if TYPE_CHECKING:
    from fedlas.calibration.network import Calibration, ReportHeader, calibrate
    from fedlas.calibration.scores import ScoredRows, ScoresCalibration, calibrate_scores

_HOMES = {
    **dict.fromkeys(("Calibration", "ReportHeader", "calibrate"), "network"),
    **dict.fromkeys(("ScoredRows", "ScoresCalibration", "calibrate_scores"), "scores"),
}

__all__ = [
    "Calibration",
    "CalibrationOptions",
    "Evaluation",
    "ReportHeader",
    "ScoredRows",
    "ScoresCalibration",
    "calibrate",
    "calibrate_scores",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fedlas.calibration.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fedlas.calibration' has no attribute {name!r}")
