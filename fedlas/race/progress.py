"""The progress reporter of a race: its position, its trainings and the result of each candidate go to callables."""

from __future__ import annotations

from collections.abc import Callable

from fedlas.progress import JobProgress
from fedlas.race.record import Record
from fedlas.race.results import CandidateResult, RaceProgress
from fedlas.race.training_events import OnTraining, TrainingBegun, TrainingEvent

OnProgress = Callable[[RaceProgress], None]
OnCandidate = Callable[[CandidateResult], None]


class ProgressReporter:
    """Reports to callables that may be None.

    Attributes:
        progress: the steps of the job.
        candidates: how many there are.
    """

    def __init__(
        self,
        progress: JobProgress,
        record: Record,
        on_progress: OnProgress | None,
        on_candidate: OnCandidate | None,
        on_training: OnTraining | None = None,
    ) -> None:
        self.progress, self._record = progress, record
        self._on_progress, self._on_candidate, self._on_training = on_progress, on_candidate, on_training
        self.candidates = 1

    def report(self, training: TrainingBegun, epoch: int) -> None:
        """The training that runs has so many of its epochs behind it."""
        if self._on_progress is not None:
            where, of = self.progress.position(), training
            told = RaceProgress(of.number, of.candidates, of.shown, epoch, of.epochs, where.fraction, where.eta_seconds)
            self._on_progress(told)

    def happened(self, event: TrainingEvent) -> None:
        """Report what happens in a training."""
        if self._on_training is not None:
            self._on_training(event)

    def candidate_ended(self, name: str, result: CandidateResult) -> None:
        """Report a result, once in all attempts at the race, which know it by `name`."""
        if self._on_candidate is not None:
            told = self._on_candidate
            self._record.once(f"told of {name}", lambda: told(result))
