"""The schedule of a race: which candidates are trained within the time, on how many folds, and for how many epochs.

A few candidates run all folds. Of many all run two folds, and the best three run on (against all folds for all eight
candidates of the study: 0 better, 37 to 44 the same, 1 to 2 worse). Then one is trained on all rows, which is what may
be served. Where not even one candidate fits it gets fewer epochs, then two folds. A plan is made again once its
candidates have run: a busy minute makes all of them look slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

#: More candidates than so many run `FIRST_FOLDS` folds each, and the best so many the other folds too.
KEPT, FIRST_FOLDS = 3, 2
#: A candidate is cut to this share of its epochs at the least, and to two.
_LEAST_EPOCHS = 0.5


@dataclass(frozen=True)
class PlannedCandidate:
    """A candidate by its place in line: how long an epoch on all rows takes, and a pass over the calibration rows.

    Attributes:
        calibration_share: of all rows, of which one fold is left out at a time.
        may_shorten: whether its number of epochs is ours to choose.
    """

    place: int
    epochs: int
    epoch_seconds: float
    calibration_share: float = 0.0
    scoring_seconds: float = 0.0
    may_shorten: bool = True

    def fold_seconds(self, epochs: int, folds: int) -> float:
        """Of a training without one of so many folds, and its scores."""
        return (1 - self.calibration_share / folds) * epochs * self.epoch_seconds + self.scoring_seconds / folds

    def refit_seconds(self, epochs: int) -> float:
        """Of a training on all rows."""
        return epochs * self.epoch_seconds + self.scoring_seconds


class WrittenPlan(TypedDict):
    """A plan in plain values: epochs by place in line, and how many folds all run and the best run."""

    epochs: list[list[int]]
    first_folds: int
    folds: int


@dataclass(frozen=True)
class Plan:
    """Candidates with their epochs; all run `first_folds` folds, the best `KEPT` `folds`, one is refitted.

    Attributes:
        ran: candidates of earlier plans, whose refit may be the dearest.
    """

    candidates: tuple[tuple[PlannedCandidate, int], ...] = ()
    first_folds: int = 0
    folds: int = 0
    refits: int = 1
    ran: tuple[tuple[PlannedCandidate, int], ...] = ()

    @property
    def seconds(self) -> float:
        folds = [one.fold_seconds(epochs, self.folds) for one, epochs in self.candidates]
        refits = sorted((one.refit_seconds(epochs) for one, epochs in (*self.candidates, *self.ran)), reverse=True)
        dearest = sorted(folds, reverse=True)[:KEPT]
        return (
            self.first_folds * sum(folds) + (self.folds - self.first_folds) * sum(dearest) + sum(refits[: self.refits])
        )

    def written(self) -> WrittenPlan:
        """The plan as a record keeps it."""
        epochs = [[one.place, count] for one, count in self.candidates]
        return {"epochs": epochs, "first_folds": self.first_folds, "folds": self.folds}


def plan(
    line: Sequence[PlannedCandidate],
    seconds: float,
    *,
    num_folds: int,
    refits: int = 1,
    ran: Sequence[tuple[PlannedCandidate, int]] = (),
) -> Plan:
    """The plan that lets most candidates take part within `seconds`; those first in line come first.

    Args:
        ran: the candidates of earlier plans, with their epochs: one of them may be refitted, and counts among the many.
            Beside them none is shortened, and where the first in line does not fit another one may.

    >>> line = [PlannedCandidate(i, 10, 1.0, calibration_share=0.3) for i in range(4)]
    >>> [len(plan(line, seconds, num_folds=3).candidates) for seconds in (130, 90, 40, 5)]
    [4, 2, 1, 0]
    >>> plan(line, 25, num_folds=3).written()
    {'epochs': [[0, 6]], 'first_folds': 3, 'folds': 3}
    """
    return next((one for one in _plans(line, num_folds, refits, ran) if one.seconds <= seconds), Plan())


def _plans(
    line: Sequence[PlannedCandidate], num_folds: int, refits: int, ran: Sequence[tuple[PlannedCandidate, int]]
) -> Iterator[Plan]:
    """All plans, those first that are preferred where they fit."""
    others = [line[i : i + 1] for i in range(1, len(line))] if ran else []
    for taken in (*(line[:count] for count in range(len(line), 0, -1)), *others):
        many = len(ran) + len(taken) > KEPT and num_folds > FIRST_FOLDS
        first = FIRST_FOLDS if many else num_folds
        yield Plan(tuple((one, one.epochs) for one in taken), first, num_folds, refits, tuple(ran))
    if ran:
        return
    for folds in dict.fromkeys((num_folds, min(num_folds, FIRST_FOLDS))):
        for one in line[:1]:
            fewest = max(min(2, one.epochs), round(_LEAST_EPOCHS * one.epochs)) if one.may_shorten else one.epochs
            for epochs in range(one.epochs, fewest - 1, -1):
                yield Plan(((one, epochs),), folds, folds)
