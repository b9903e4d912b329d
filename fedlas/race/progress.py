"""The progress reporter of a race: its position, and the result of each candidate, go to callables."""

from __future__ import annotations

from collections.abc import Callable

from fedlas.progress import JobProgress
from fedlas.race.record import Record
from fedlas.race.results import CandidateResult, RaceProgress

OnProgress = Callable[[RaceProgress], None]
OnCandidate = Callable[[CandidateResult], None]


class ProgressReporter:
    """Reports to callables that may be None.

    Attributes:
        progress: the steps of the job.
        candidates: how many there are.
    """

    def __init__(
        self, progress: JobProgress, record: Record, on_progress: OnProgress | None, on_candidate: OnCandidate | None
    ) -> None:
        self.progress, self._record = progress, record
        self._on_progress, self._on_candidate = on_progress, on_candidate
        self.candidates = 1

    def report(self, number: int, name: str, epoch: int, epochs: int) -> None:
        """The training of candidate `number` that runs has so many of its epochs behind it."""
        if self._on_progress is not None:
            where = self.progress.position()
            told = RaceProgress(number, self.candidates, name, epoch, epochs, where.fraction, where.eta_seconds)
            self._on_progress(told)

    def candidate_ended(self, name: str, result: CandidateResult) -> None:
        """Report a result, once in all attempts at the race, which know it by `name`."""
        if self._on_candidate is not None:
            told = self._on_candidate
            self._record.once(f"told of {name}", lambda: told(result))
