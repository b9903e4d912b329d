"""Training costs: the seconds that the trainings of a candidate take, from a few measured steps of a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedlas.race.candidate_training import Trainer, train_config
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext
from fedlas.race.schedule import PlannedCandidate
from fedlas.training.loop import steps_per_epoch
from fedlas.training.lr_range_test import STEPS

#: A step takes as long at any rate.
_ANY_RATE = 1e-3


class TrainingCosts:
    """The costs of sized candidates; each kind of step is measured once in all attempts."""

    def __init__(self, context: RaceContext, trainer: Trainer) -> None:
        self._context, self._rows, self._trainer = context, trainer.rows, trainer

    def planned(self, place: int, candidate: Candidate, *, may_shorten: bool) -> PlannedCandidate:
        """The candidate as a schedule takes it."""
        scored, steps = len(self._rows.calibration), steps_per_epoch(len(self._rows), candidate.batch_size)
        return PlannedCandidate(
            place,
            candidate.epochs or 1,
            steps * self._step_seconds(candidate),
            scored / len(self._rows),
            self._context.budget.prediction_seconds(0 if candidate.scope == "head" else scored),
            may_shorten,
        )

    def range_test(self, candidates: Sequence[Candidate]) -> float:
        """What finding the learning rates of these takes, if none is known; the edge of a head costs nothing."""
        known = {"head", *self._trainer.edges}
        wanting = [one for one in candidates if one.learning_rate is None and one.scope not in known]
        return STEPS * max(map(self._step_seconds, wanting), default=0.0)

    def _step_seconds(self, candidate: Candidate) -> float:
        return self._context.budget.step_seconds(
            self._context.classifier,
            self._rows.inputs,
            self._rows.targets,
            train_config(replace(candidate, learning_rate=_ANY_RATE), self._context.seed),
            features=self._trainer.features if candidate.scope == "head" else None,
            device=self._context.device,
        )
