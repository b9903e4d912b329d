"""Races on noisy digits, for tests: candidates, and a race with nothing but temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fedlas import metrics
from fedlas.contract.events import Progress, ReportedEvent, Stage
from fedlas.observer import Observer
from fedlas.progress import JobProgress
from fedlas.race.candidates import Candidate
from fedlas.race.context import Rows, TrainingRows
from fedlas.race.race import RaceOptions, RaceRows, run_race
from fedlas.race.results import RaceResult
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


class Heard(Observer):
    """An observer that keeps what it is called with."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.progress: list[Progress] = []
        self.events: list[ReportedEvent] = []

    def on_stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def on_event(self, event: ReportedEvent) -> None:
        self.events.append(event)


def race(
    *candidates: Candidate,
    classifier: Any = None,
    observer: Observer | None = None,
    progress: JobProgress | None = None,
    **options: Any,
) -> RaceResult:
    """A race on the digits with nothing but temperatures, unless `calibrators` says otherwise."""
    train, calibration, _ = noisy_digits()
    rows: dict[str, Any] = {"calibration": calibration, "training": training_rows(train, calibration)}
    rows |= {name: options.pop(name) for name in ("calibration", "training", "groups") if name in options}
    network = overconfident_classifier() if classifier is None else classifier
    chosen = RaceOptions(**{"budget_seconds": 600, "calibrators": ("temperature",), **options})
    return run_race(network, RaceRows(**rows), candidates, chosen, observer=observer, progress=progress)


@cache
def plain_race() -> RaceResult:
    """Three losses that run all folds; raced once."""
    return race(HOT, HOT_PLUS, PLAIN)


def nll(probs: np.ndarray, targets: np.ndarray) -> float:
    """The NLL of probabilities (N, K)."""
    return float(metrics.nll(probs, targets))


def bits(result: RaceResult) -> Any:
    """All that may not change: scores, notes, and every weight of the finalists."""
    finalists = list(result.finalists.values())
    weights = [[t.numpy().tobytes() for t in one.classifier.state_dict().values()] for one in finalists]
    diagnostics = [array.tobytes() for array in vars(result.diagnostics).values()] if result.diagnostics else None
    held_out = [one.held_out.tobytes() for one in finalists]
    candidates = [one.as_dict() for one in result.candidates]
    return candidates, result.notes, dict(result.rates), weights, held_out, diagnostics


def said(events: Sequence[ReportedEvent]) -> list[str]:
    """The texts of events, without the seconds."""
    return [f"{one.type} { {**one.data.model_dump(), 'seconds': 0} }" for one in events]
