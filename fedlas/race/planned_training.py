"""A planned training: one candidate without one fold, or on all rows, as any process of the race can carry it out.

It is plain values: together with what the race was given it says which bits come out, so that it may be sent elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from fedlas.race.candidates import Candidate
from fedlas.race.training_events import TrainingBegun


@dataclass(frozen=True)
class PlannedTraining:
    """One training of a race.

    Attributes:
        candidate: with its scope, epochs and learning rate.
        place: of the candidate in line, from 0; there are so many `candidates`.
        fold: of the calibration rows, from 0, that is left out of so many `folds`; None trains on all rows.
        work, after: seconds that it was planned to take, and that the candidate needs then, lest it ends in nothing.
        trained_share: the share of the work that is steps; the rest is scoring.

    >>> one = PlannedTraining(Candidate("focal", 0.1, epochs=4, scope="all"), 2, 8, 0, 3, work=5.0, after=12.0)
    >>> one.name
    'candidate-03-04-fold-1'
    >>> PlannedTraining.of(one.as_dict()) == one
    True
    """

    candidate: Candidate
    place: int
    candidates: int
    fold: int | None
    folds: int | None
    work: float = 0.0
    after: float = 0.0
    trained_share: float = 1.0

    @property
    def name(self) -> str:
        """The training in records and in the steps of a job."""
        part = "refit" if self.fold is None else f"fold-{self.fold + 1}"
        return f"candidate-{self.place + 1:02}-{self.candidate.epochs or 1:02}-{part}"

    @property
    def begun(self) -> TrainingBegun:
        """Its beginning, as it is told."""
        one, fold = self.candidate, None if self.fold is None else self.fold + 1
        return TrainingBegun(
            one.name, one.method, one.scope, self.place + 1, self.candidates, fold, self.folds, one.epochs or 1
        )

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> Self:
        """What `as_dict` wrote."""
        return cls(**{**written, "candidate": Candidate(**written["candidate"])})
