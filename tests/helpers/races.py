"""Races on noisy digits, for tests: candidates, and a race with nothing but temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fedlas import metrics
from fedlas.race.candidates import Candidate
from fedlas.race.context import Rows, TrainingRows
from fedlas.race.race import run_race
from fedlas.race.results import RaceResult, TrainingEvent
from tests.helpers.small_classifier import noisy_digits, overconfident_classifier

HOT = Candidate("fedlas", 0.2, alpha=0.2, beta=4.0, momentum=0.95, epochs=6, scope="all")
HOT_PLUS = Candidate("fedlas_plus", 0.2, alpha=0.1, beta=0.5, momentum=0.95, margin=6.0, epochs=6, scope="all")
PLAIN = Candidate("cross_entropy", 0.2, epochs=6, scope="all")
HEAD = Candidate("cross_entropy", 0.05, epochs=4, scope="head")


def training_rows(train: Rows | None, calibration: Rows) -> TrainingRows:
    """Rows that lie apart, copied one behind the other."""
    if train is None:
        return TrainingRows(*calibration, np.arange(len(calibration[1])))
    inputs = [np.concatenate(pair) for pair in zip(train[0], calibration[0], strict=True)]
    places = len(train[1]) + np.arange(len(calibration[1]))
    return TrainingRows(inputs, np.concatenate([train[1], calibration[1]]), places)


def race(*candidates: Candidate, budget_seconds: float = 600, classifier: Any = None, **options: Any) -> RaceResult:
    """A race on the digits with nothing but temperatures, unless `calibrators` says otherwise."""
    train, calibration, _ = noisy_digits()
    settings: dict[str, Any] = {
        "training": training_rows(train, calibration),
        "calibration": calibration,
        "calibrators": ("temperature",),
        **options,
    }
    network = overconfident_classifier() if classifier is None else classifier
    return run_race(network, candidates=candidates, budget_seconds=budget_seconds, **settings)


@cache
def plain_race() -> RaceResult:
    """Three losses that run all folds; raced once."""
    return race(HOT, HOT_PLUS, PLAIN)


def nll(probs: np.ndarray, targets: np.ndarray) -> float:
    """Of probabilities (N, K)."""
    return float(metrics.nll(probs, targets))


def bits(result: RaceResult) -> Any:
    """All that may not change: scores, notes, and every weight of the finalists."""
    finalists = list(result.finalists.values())
    weights = [[t.numpy().tobytes() for t in one.classifier.state_dict().values()] for one in finalists]
    diagnostics = [array.tobytes() for array in vars(result.diagnostics).values()] if result.diagnostics else None
    held_out = [one.held_out.tobytes() for one in finalists]
    return (
        [one.as_dict() for one in result.candidates],
        result.notes,
        dict(result.rates),
        weights,
        held_out,
        diagnostics,
    )


def said(events: Sequence[TrainingEvent]) -> list[str]:
    """What events say, without the seconds."""
    return [f"{one.type} { {**one.as_dict(), 'seconds': 0} }" for one in events]
