"""The watch over one training: it tells what is reached, and ends what would end long after the budget."""

from __future__ import annotations

import time

from fedlas.race.planned_training import PlannedTraining
from fedlas.race.progress import ProgressReporter
from fedlas.race.time_budget import TimeBudget
from fedlas.race.training_events import EpochEnded
from fedlas.training.loop import EpochResult

#: Within an epoch the budget is looked at so often, once so much of the training tells its speed.
_CHECK_S, _TELLING_SHARE = 5.0, 0.02


class TrainingWatch:
    """Watches one training."""

    def __init__(self, reporter: ProgressReporter, budget: TimeBudget, planned: PlannedTraining) -> None:
        self._reporter, self._budget, self._training = reporter, budget, planned.begun
        self._work, self._after, self._trained = planned.work, planned.after, planned.trained_share
        self._first: tuple[float, float] | None = None
        self._checked = time.perf_counter()

    def begins(self) -> None:
        """No epoch is over yet."""
        self._reporter.happened(self._training)
        self._reporter.report(self._training, 0)

    def on_epoch(self, epoch: EpochResult) -> None:
        """An epoch is over. Raises BudgetExceeded."""
        self._reporter.happened(EpochEnded(self._training, epoch))
        self._reporter.report(self._training, epoch.epoch)
        self._budget.check(epoch.epoch / epoch.epochs, epoch.seconds, planned=self._work, after=self._after)

    def on_share(self, share: float) -> None:
        """A step is over. Raises BudgetExceeded."""
        self._reporter.progress.reached(share * self._trained)
        now = time.perf_counter()
        if self._first is None:  # steps of an earlier attempt took no time in this one
            self._first = share, now
        if now - self._checked < _CHECK_S:
            return
        self._checked, (first, began) = now, self._first
        if share - first > _TELLING_SHARE:
            seconds = (now - began) / (share - first) * share
            self._budget.check(share, seconds, planned=self._work, after=self._after)
