"""A participant of a race: a process that carries out single trainings of a race that another one leads.

It is given the race's setup and, one by one, what to train and how much of the budget is spent; it decides nothing but
whether there is time for that. The outcome lies in its journal under the name of the training, with the bits that it
would have in the leading process, which takes it for its own.
"""

from __future__ import annotations

from fedlas.progress import JobProgress
from fedlas.race.candidate_training import Trainer
from fedlas.race.context import TrainingRows
from fedlas.race.journal import Journal
from fedlas.race.planned_training import PlannedTraining
from fedlas.race.progress import OnProgress, ProgressReporter
from fedlas.race.record import Record
from fedlas.race.resume import TrainingOutcome
from fedlas.race.setup import RaceSetup
from fedlas.race.time_budget import TimeBudget
from fedlas.race.training_events import OnTraining
from fedlas.race.training_runs import TrainingRuns


class Participant:
    """Carries out trainings of the race of a setup.

    Args:
        journal: reads what another one has left of a training that it had begun.
        on_progress, on_training: as `fedlas.race.run_race` calls them.
    """

    def __init__(
        self,
        setup: RaceSetup,
        *,
        journal: Journal | None = None,
        progress: JobProgress | None = None,
        on_progress: OnProgress | None = None,
        on_training: OnTraining | None = None,
    ) -> None:
        self._record = Record(journal, setup.settings(), leads=False)
        self._budget = TimeBudget(setup.budget_seconds, self._record)
        reporter = ProgressReporter(progress or JobProgress(), self._record, on_progress, None, on_training)
        context = setup.context(self._budget, self._record, reporter)
        self._runs = TrainingRuns(context, Trainer(context, setup.training or TrainingRows.of(None, setup.calibration)))

    def train(self, planned: PlannedTraining, *, spent_seconds: float, kept_seconds: float = 0.0) -> TrainingOutcome:
        """Carry out a training, or find its outcome.

        Args:
            spent_seconds: of the budget, in all processes of the race.
            kept_seconds: of the budget, for what the leading process does after the trainings.
        """
        self._record.stands_at(spent_seconds)
        self._budget.reserve = kept_seconds
        return self._runs.run(planned)
