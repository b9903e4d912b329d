"""The costs of a race that is not run: how many candidates a job would train, and how long that would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedlas.calibration.preparation import Start, rows_of
from fedlas.progress import JobProgress
from fedlas.race.candidate_training import Trainer
from fedlas.race.candidates import Candidate
from fedlas.race.context import RaceContext
from fedlas.race.obstacles import head_obstacle, training_obstacle
from fedlas.race.progress import ProgressReporter
from fedlas.race.race import number_of_refits
from fedlas.race.record import Record
from fedlas.race.schedule import Plan, plan
from fedlas.race.selection import CalibratorSelector
from fedlas.race.time_budget import TimeBudget
from fedlas.race.training_costs import TrainingCosts

_TOO_SHORT = "The budget is too short for a single candidate on the whole network: {instead}."


@dataclass(frozen=True)
class RaceCosts:
    """Candidates that fit the budget and their seconds, and those of all in full; `notes` say why there are none."""

    candidates: int = 0
    seconds: float = 0.0
    seconds_in_full: float = 0.0
    notes: tuple[str, ...] = ()


def race_costs(start: Start, seconds: float) -> RaceCosts:
    """What the trainings of a job would cost that has so many seconds for them, from a few steps of a copy."""
    if not start.trains:
        return RaceCosts()
    rows, groups, record = start.training_rows(), start.dataset.groups_of("calibration"), Record()
    budget = TimeBudget(seconds, record)
    budget.note_speed(start.outputs)
    context = RaceContext(
        start.classifier,
        rows,
        rows_of(start.dataset, "calibration"),
        start.outputs,
        CalibratorSelector(
            start.targets, ("temperature",), reads_features=False, groups=groups, seed=start.options.seed
        ),
        budget,
        record,
        ProgressReporter(JobProgress(), record, None, None),
        start.options.seed,
    )
    if obstacle := training_obstacle(context):
        return RaceCosts(notes=(f"Nothing would be trained: {obstacle}.",))
    return _costs(start, context, Trainer(context, rows))


def _costs(start: Start, context: RaceContext, trainer: Trainer) -> RaceCosts:
    """As the race plans it: heads run where no whole network fits, and where they were asked for."""
    candidates, without_heads = start.candidates(), head_obstacle(start.classifier, trainer)
    whole = [one for one in candidates if one.scope != "head"]
    heads = [] if without_heads else [one for one in candidates if one.scope == "head"]
    planned = _Planned(start, context, trainer)
    fits, full = planned.of("all", whole) if whole else (Plan(), Plan())
    if whole and not fits.candidates and not without_heads:
        heads += [one for one in whole if one.scope == "auto"]
    fit_heads, full_heads = planned.of("head", heads) if heads else (Plan(), Plan())
    notes: tuple[str, ...] = ()
    if whole and not fits.candidates:
        instead = "its head would be trained" if fit_heads.candidates else "nothing would be trained"
        notes = (_TOO_SHORT.format(instead=instead),)
    return RaceCosts(
        len(fits.candidates) + len(fit_heads.candidates),
        fits.seconds + fit_heads.seconds + planned.measuring,
        (full if whole else full_heads).seconds + planned.measuring,
        notes,
    )


class _Planned:
    """Plans of one scope after the other, within what is left."""

    def __init__(self, start: Start, context: RaceContext, trainer: Trainer) -> None:
        self._context, self._trainer = context, trainer
        self._costs, self._refits = TrainingCosts(context, trainer), number_of_refits(start.max_cost_factor())
        self._spent = self.measuring = 0.0

    def of(self, scope: str, candidates: Sequence[Candidate]) -> tuple[Plan, Plan]:
        """What fits, and all in full."""
        sized = [self._trainer.sized(candidate, scope) for candidate in candidates]
        line = [
            self._costs.planned(place, one, may_shorten=candidate.epochs is None)
            for place, (one, candidate) in enumerate(zip(sized, candidates, strict=True))
        ]
        line = [one for one in line if math.isfinite(one.epoch_seconds)]
        rates, folds = self._costs.range_test(sized) if line else 0.0, len(self._context.folds())
        self.measuring += rates
        left = self._context.budget.remaining() - self._spent - rates
        fits, full = (plan(line, most, num_folds=folds, refits=self._refits) for most in (left, math.inf))
        self._spent += fits.seconds
        return fits, full
