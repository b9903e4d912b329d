"""Candidates fine-tuned and judged on calibration rows: one post-hoc and one trained finalist.

Names are loaded when they are asked for: choosing a calibrator for scores (`fedlas.race.results`) needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fedlas.extras import require

require("arrays", "numpy", "pydantic", "scipy")

_NAMES = {
    "candidates": ("METHODS", "Candidate", "check_hyperparameters", "make_candidates", "make_loss"),
    "race": ("RaceOptions", "RaceRows", "run_race"),
    "record": ("FolderJournal", "Journal"),
    "results": ("CandidateResult", "Finalist", "RaceResult"),
}

__all__ = [name for names in _NAMES.values() for name in names]


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"fedlas.race.{module}"), name)
    raise AttributeError(f"module 'fedlas.race' has no attribute {name!r}")
