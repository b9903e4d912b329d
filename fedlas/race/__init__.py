"""Candidates fine-tuned and judged on calibration rows: one post-hoc and one trained finalist.

Names are loaded when they are asked for: choosing a calibrator for scores (`fedlas.race.scoring`) needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlas.race.candidates import METHODS, Candidate, make_loss
    from fedlas.race.journal import FolderJournal, Journal, MemoryJournal
    from fedlas.race.race import run_race
    from fedlas.race.recipe import check_hyperparameters, make_candidates
    from fedlas.race.results import CandidateResult, Finalist, RaceProgress, RaceResult

_HOMES = {
    **dict.fromkeys(("METHODS", "Candidate", "make_loss"), "fedlas.race.candidates"),
    **dict.fromkeys(("FolderJournal", "Journal", "MemoryJournal"), "fedlas.race.journal"),
    **dict.fromkeys(("check_hyperparameters", "make_candidates"), "fedlas.race.recipe"),
    **dict.fromkeys(("CandidateResult", "Finalist", "RaceProgress", "RaceResult"), "fedlas.race.results"),
    "run_race": "fedlas.race.race",
}

__all__ = [
    "METHODS",
    "Candidate",
    "CandidateResult",
    "Finalist",
    "FolderJournal",
    "Journal",
    "MemoryJournal",
    "RaceProgress",
    "RaceResult",
    "check_hyperparameters",
    "make_candidates",
    "make_loss",
    "run_race",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedlas.race' has no attribute {name!r}")
