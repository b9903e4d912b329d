"""The costs of a race that is not run: how many candidates a job would train, and how long that would take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedlas.calibration.preparation import Start, rows_of
from fedlas.race.candidate_training import Trainer
from fedlas.race.context import RaceContext
from fedlas.race.obstacles import head_obstacle, training_obstacle
from fedlas.race.progress import ProgressReporter
from fedlas.race.race import number_of_refits
from fedlas.race.record import Record
from fedlas.race.schedule import plan
from fedlas.race.selection import CalibratorSelector
from fedlas.race.time_budget import TimeBudget
from fedlas.race.training_costs import TrainingCosts

_TOO_SHORT = "The budget is too short for a single candidate on the whole network: at most its head would be trained."


@dataclass(frozen=True)
class RaceCosts:
    """Seconds of all candidates in full, and their number; `notes` say why there are none.

    Attributes:
        budget: the speeds that were measured.
    """

    budget: TimeBudget
    candidates: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def race_costs(start: Start) -> RaceCosts:
    """What the race of a job would cost, from a few steps of a copy; nothing is trained for keeps."""
    options, record = start.options, Record()
    budget = TimeBudget(options.budget_seconds, record)
    budget.note_speed(start.outputs)
    if not start.trains:
        return RaceCosts(budget)
    rows, groups = start.training_rows(), start.dataset.groups_of("calibration")
    context = RaceContext(
        start.classifier,
        rows,
        rows_of(start.dataset, "calibration"),
        start.outputs,
        CalibratorSelector(start.targets, ("temperature",), reads_features=False, groups=groups, seed=options.seed),
        budget,
        record,
        ProgressReporter(budget, record, None, None),
        options.seed,
    )
    if obstacle := training_obstacle(context):
        return RaceCosts(budget, notes=(f"Nothing would be trained: {obstacle}.",))
    trainer = Trainer(context, rows)
    costs, without_heads = TrainingCosts(context, trainer), head_obstacle(start.classifier, trainer)
    candidates = [
        trainer.sized(candidate, "head" if candidate.scope == "head" else "all")
        for candidate in start.candidates()
        if candidate.scope != "head" or not without_heads
    ]
    line = [costs.planned(place, one, may_shorten=True) for place, one in enumerate(candidates)]
    refits = number_of_refits(start.max_cost_factor())
    whole = plan(line, math.inf, num_folds=len(context.folds()), refits=refits)
    rates = costs.range_test(candidates)
    left = plan(line, options.budget_seconds - rates, num_folds=len(context.folds()), refits=refits)
    notes = (_TOO_SHORT,) if line and not left.candidates else ()
    return RaceCosts(budget, len(line), whole.seconds + rates, notes)
