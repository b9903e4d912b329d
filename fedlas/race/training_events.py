"""Training events: what happens in the trainings of a race, told one by one to whoever draws their curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from fedlas.training.loop import EpochResult


@dataclass(frozen=True)
class TrainingBegun:
    """A training of a candidate begins; a race that goes on tells again of those that it has finished before.

    Attributes:
        candidate, method, scope: of the candidate.
        number: of the candidate in line, from 1; there are so many `candidates`.
        fold: of the calibration rows, from 1, that is left out of so many `folds`; None trains on all rows.
    """

    type: ClassVar[str] = "training"

    candidate: str
    method: str
    scope: str
    number: int
    candidates: int
    fold: int | None
    folds: int | None
    epochs: int

    @property
    def shown(self) -> str:
        """The training, for people."""
        return f"{self.candidate}, {'on all rows' if self.fold is None else f'fold {self.fold} of {self.folds}'}"

    def named(self) -> dict[str, object]:
        """What tells this training from all others of the race."""
        return {name: getattr(self, name) for name in ("candidate", "number", "fold", "folds")}

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of a training is over, and not yet saved: none is saved that was not told of."""

    type: ClassVar[str] = "epoch"

    training: TrainingBegun
    epoch: EpochResult

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {**self.training.named(), **asdict(self.epoch), "seconds": round(self.epoch.seconds, 3)}


@dataclass(frozen=True)
class FoldScored:
    """A training without a fold is over: the NLL of (some of) the fold's rows with a temperature that fits them."""

    type: ClassVar[str] = "score"

    training: TrainingBegun
    nll: float

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {**self.training.named(), "nll": self.nll}


TrainingEvent: TypeAlias = TrainingBegun | EpochEnded | FoldScored
OnTraining = Callable[[TrainingEvent], None]
