"""The race of a job, as its events tell it: who trains, how far, and what the rows that each has not seen say of it.

It is followed event by event, so that whoever looks on reads each event once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from statistics import fmean

from service.registry import tables
from service.registry.documents import CandidateEnded, EpochEnded, FoldScored, TrainingBegun
from service.web.job_words import SCOPES


@dataclass
class Training:
    """One training of a candidate: without a fold of the calibration rows, or on all rows (`fold` is None).

    Attributes:
        losses: by epoch, in the candidate's own loss.
        nll: of the fold's rows; None before its end, and where there is none.
    """

    fold: int | None
    folds: int | None
    epochs: int
    losses: dict[int, float] = field(default_factory=dict)
    nll: float | None = None

    @property
    def rows(self) -> str:
        """The rows that it has.

        >>> Training(2, 3, epochs=10).rows, Training(None, None, epochs=10).rows
        ('without fold 2 of 3', 'on all rows')
        """
        return "on all rows" if self.fold is None else f"without fold {self.fold} of {self.folds}"

    @property
    def epoch(self) -> int:
        """The last epoch that is over."""
        return max(self.losses, default=0)


@dataclass
class Contender:
    """A candidate with its trainings; what was never trained has none, and no `number`."""

    name: str
    method: str = ""
    scope: str = ""
    number: int | None = None
    folds: int | None = None
    trainings: dict[int | None, Training] = field(default_factory=dict)
    ended: CandidateEnded | None = None

    @property
    def scores(self) -> list[float]:
        """The NLL of each fold that is over."""
        return [one.nll for one in self.trainings.values() if one.nll is not None]

    @property
    def nll(self) -> float | None:
        """The mean over its folds so far; of what has no folds, such as an average, that of all rows."""
        if self.scores:
            return fmean(self.scores)
        return None if self.ended is None else (self.ended.calibration or {}).get("nll")

    @property
    def folds_over(self) -> float:
        """How many folds have scored it; all rows have, once it is finished."""
        return inf if self.ended is not None and self.ended.status == "finished" else len(self.scores)

    @property
    def trains(self) -> str:
        """What of the network."""
        return SCOPES.get(self.scope, "–")


@dataclass(frozen=True)
class Score:
    """A point of a candidate's course: its NLL so far, so many seconds after the race began."""

    name: str
    seconds: float
    nll: float


@dataclass
class Race:
    """All candidates, and the course of their NLL.

    Attributes:
        expected: how many candidates there are in line; 0 before the first trains.
        at: the training that is underway, or was the last: the candidate's name and the fold.
    """

    contenders: dict[str, Contender] = field(default_factory=dict)
    expected: int = 0
    begun_at: datetime | None = None
    at: tuple[str, int | None] | None = None
    course: list[Score] = field(default_factory=list)

    def follow(self, events: Iterable[tables.Event]) -> Race:
        """Take in the next events, oldest first; those of other types are passed over."""
        for event in events:
            match event.type:
                case "training":
                    self._begin(TrainingBegun.read(event.data), event.at)
                case "epoch":
                    self._add_epoch(EpochEnded.read(event.data))
                case "score":
                    self._add_score(FoldScored.read(event.data), event.at)
                case "candidate":
                    self._end(CandidateEnded.read(event.data), event.at)
        return self

    @property
    def ranking(self) -> list[Contender]:
        """The best first: who is scored on more folds before others, since folds differ; then the lowest NLL."""
        return sorted(self.contenders.values(), key=lambda one: (one.nll is None, -one.folds_over, one.nll or 0.0))

    def underway(self, one: Contender) -> Training | None:
        """The training of this candidate that is underway; one on all rows follows its end."""
        if self.at is None or self.at[0] != one.name:
            return None
        training = one.trainings[self.at[1]]
        return training if training.nll is None and training.epoch < training.epochs else None

    def _begin(self, begun: TrainingBegun, at: datetime) -> None:
        one = self._named(begun.candidate)
        one.method, one.scope, one.number = begun.method, begun.scope, begun.number
        one.folds = begun.folds or one.folds
        one.trainings.setdefault(begun.fold, Training(begun.fold, begun.folds, begun.epochs))
        self.expected = max(self.expected, begun.candidates)
        self.begun_at = self.begun_at or at
        self.at = (begun.candidate, begun.fold)

    def _add_epoch(self, epoch: EpochEnded) -> None:
        training = self._training(epoch.candidate, epoch.fold, epoch.folds, epoch.epochs)
        training.losses[epoch.epoch] = epoch.loss
        self.at = (epoch.candidate, epoch.fold)

    def _add_score(self, score: FoldScored, at: datetime) -> None:
        training = self._training(score.candidate, score.fold, score.folds, 0)
        training.nll = score.nll
        self._note(self.contenders[score.candidate], at)

    def _end(self, ended: CandidateEnded, at: datetime) -> None:
        one = self._named(ended.name)
        one.method, one.scope, one.ended = ended.method, ended.scope, ended
        self._note(one, at)

    def _note(self, one: Contender, at: datetime) -> None:
        if one.nll is not None:
            self.begun_at = self.begun_at or at
            self.course.append(Score(one.name, (at - self.begun_at).total_seconds(), one.nll))

    def _named(self, name: str) -> Contender:
        return self.contenders.setdefault(name, Contender(name))

    def _training(self, name: str, fold: int | None, folds: int | None, epochs: int) -> Training:
        """One that was announced, or should have been."""
        return self._named(name).trainings.setdefault(fold, Training(fold, folds, epochs))
