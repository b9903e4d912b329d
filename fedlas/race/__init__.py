"""Candidates fine-tuned and judged on calibration rows: one post-hoc and one trained finalist."""

from __future__ import annotations

from fedlas.race.candidates import METHODS, Candidate, make_loss
from fedlas.race.recipe import check_hyperparameters, recipe
from fedlas.race.results import CandidateResult, Finalist, RaceProgress, RaceResult
from fedlas.race.running import race

__all__ = [
    "METHODS",
    "Candidate",
    "CandidateResult",
    "Finalist",
    "RaceProgress",
    "RaceResult",
    "check_hyperparameters",
    "make_loss",
    "race",
    "recipe",
]
