"""The progress reporter of a race: its position, and the result of each candidate, go to callables."""

from __future__ import annotations

from collections.abc import Callable

from fedlas.race.record import Record
from fedlas.race.results import CandidateResult, RaceProgress
from fedlas.race.time_budget import TimeBudget

OnProgress = Callable[[RaceProgress], None]
OnCandidate = Callable[[CandidateResult], None]


class ProgressReporter:
    """Reports to callables that may be None.

    Attributes:
        candidates: how many there are.
        planned, done: the work of all trainings, and of those that are over, in seconds as they were estimated.
    """

    def __init__(
        self, budget: TimeBudget, record: Record, on_progress: OnProgress | None, on_candidate: OnCandidate | None
    ) -> None:
        self._time, self._record = budget, record
        self._on_progress, self._on_candidate = on_progress, on_candidate
        self._fraction, self._began = 0.0, 0.0
        self.candidates, self.planned, self.done = 1, 0.0, 0.0

    def begin(self, planned: float) -> None:
        """Trainings of so much work begin, after what was planned before."""
        self._began = self._record.decided("training began", self._time.elapsed)
        self.planned += planned

    def report(self, number: int, name: str, epoch: int, epochs: int, *, work: float) -> None:
        """Of candidate `number` a training of so much work has so many of its epochs behind it."""
        if self._on_progress is None:
            return
        share = (self.done + work * epoch / epochs) / self.planned if self.planned else 1.0
        self._fraction = max(self._fraction, min(1.0, share))
        spent, left = self._time.elapsed() - self._began, self._time.remaining()
        eta = spent * (1 - self._fraction) / self._fraction if self._fraction > 0 else left
        eta = max(0.0, min(eta, left))
        self._on_progress(RaceProgress(number, self.candidates, name, epoch, epochs, self._fraction, eta))

    def candidate_ended(self, name: str, result: CandidateResult) -> None:
        """Report a result, once in all attempts at the race, which know it by `name`."""
        if self._on_candidate is not None:
            told = self._on_candidate
            self._record.once(f"told of {name}", lambda: told(result))
