"""The schedule of a race: which candidates are trained within the time budget, on how many folds, for how many epochs.

A few candidates run all folds. Of many all run two folds, and the best three run on (against all folds for all eight
candidates of the study: 0 better, 37 to 44 the same, 1 to 2 worse). Then one is trained on all rows, which is what may
be served. Where not even one candidate fits it gets fewer epochs, then two folds. A plan is made again once its
candidates have run, or one of them ran out of time: a busy minute makes all of them look slow, or quick.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.losses import CrossEntropyLoss
from fedlas.race.record import Record
from fedlas.race.results import Floats
from fedlas.training.fit import fit
from fedlas.training.loop import TrainConfig, TrainingOptions, steps_per_epoch

#: Estimates are stretched by this, since other work shares the machine; not once whole trainings have told the speed.
_CAUTION = 1.1
#: A candidate that started in time may overrun the budget by this share of it before it is stopped.
_GRACE = 0.07
#: A measurement shorter than this says nothing yet; a longer one is made.
_MIN_MEASURED_S = 0.1
#: More candidates than so many run `FIRST_FOLDS` folds each, and the best so many the other folds too.
KEPT = 3
FIRST_FOLDS = 2
#: A candidate is cut to two epochs at the least, and the first that runs to this share of its own.
_MIN_SHARE = 0.5
MIN_EPOCHS = 2


@dataclass(eq=False)
class BudgetExceeded(Exception):
    """A candidate runs so much slower than measured that it would end long after the budget; `share` of it is done."""

    share: float = 0.0


class TimeBudget:
    """Seconds since the job began, and measured speeds, which a later attempt takes over from the record."""

    def __init__(self, budget_seconds: float, record: Record | None = None) -> None:
        self._budget = budget_seconds
        self._record = record or Record()
        self._row_seconds = 0.0
        #: Seconds that are kept for what comes after all trainings.
        self.reserve = 0.0

    @property
    def longest(self) -> float:
        return self.remaining() - self.reserve + _GRACE * self._budget

    def remaining(self) -> float:
        return self._budget - self._record.elapsed()

    def for_trainings(self) -> float:
        return self.remaining() - self.reserve

    def fits(self, seconds: float) -> bool:
        """True where so many more seconds of training end not long after the budget."""
        return seconds <= self.longest

    def check(self, share: float, seconds: float, *, planned: float = 0.0, after: float = 0.0) -> None:
        """Raise BudgetExceeded where a training of which a share took so long would end long after the budget.

        Args:
            planned: seconds that all of it was to take.
            after: seconds that must be left then, as they were planned: more where it is slower than planned, and less
                where it is faster.
        """
        slower = seconds / share / planned if planned else 1.0
        to_come = seconds * (1 - share) / share + slower * after
        if to_come > 0 and not self.fits(to_come):
            raise BudgetExceeded(share)

    def note_speed(self, seconds_per_row: float) -> None:
        self._row_seconds = self._record.decided("seconds per row", lambda: seconds_per_row)

    def prediction_seconds(self, num_rows: int) -> float:
        return _CAUTION * num_rows * self._row_seconds

    def step_seconds(
        self,
        classifier: Classifier,
        inputs: Sequence[Array],
        targets: NDArray[np.int64],
        config: TrainConfig,
        *,
        features: Floats | None,
        device: torch.device | str | None,
    ) -> float:
        """How long one step of `fit` takes, from a few on a copy, measured once per scope, optimiser and batch size."""
        seconds: float = self._record.decided(
            f"seconds per step, {config.scope}, {config.optimizer}, batches of {config.batch_size}",
            lambda: _measured_step(copy.deepcopy(classifier), inputs, targets, config, features, device),
        )
        return _CAUTION * seconds


def _measured_step(
    network: Classifier,
    inputs: Sequence[Array],
    targets: NDArray[np.int64],
    config: TrainConfig,
    features: Floats | None,
    device: torch.device | str | None,
) -> float:
    """Seconds of one step."""
    for steps in (1, 10):
        rows = slice(0, steps * config.batch_size)
        done = fit(
            network,
            CrossEntropyLoss(),
            [array[rows] for array in inputs],
            targets[rows],
            replace(config, epochs=2, learning_rate=1e-6),
            TrainingOptions(features=None if features is None else features[rows]),
            device=device,
        )
        if done.diverged:
            return 0.0  # the candidates will say so themselves
        second = done.history[1].seconds - done.history[0].seconds  # the first epoch warms up
        if second > _MIN_MEASURED_S:
            break
    return second / steps_per_epoch(len(targets[rows]), config.batch_size)


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
        """Seconds of a training without one of so many folds, and its scores."""
        return (1 - self.calibration_share / folds) * epochs * self.epoch_seconds + self.scoring_seconds / folds

    def refit_seconds(self, epochs: int) -> float:
        return epochs * self.epoch_seconds + self.scoring_seconds


class WrittenPlan(TypedDict):
    """A plan in plain values: epochs by place in line, and how many folds all run and the best run."""

    epochs: list[list[int]]
    first_folds: int
    folds: int


@dataclass(frozen=True)
class Plan:
    """Candidates with their epochs; all run `first_folds` folds, the best `KEPT` `folds`, one is refitted."""

    candidates: tuple[tuple[PlannedCandidate, int], ...] = ()
    first_folds: int = 0
    folds: int = 0
    refits: int = 1
    ran: tuple[tuple[PlannedCandidate, int], ...] = ()

    @property
    def seconds(self) -> float:
        folds = [one.fold_seconds(epochs, self.folds) for one, epochs in self.candidates]
        refits = sorted((one.refit_seconds(epochs) for one, epochs in (*self.candidates, *self.ran)), reverse=True)
        best = sum(sorted(folds, reverse=True)[:KEPT])
        return self.first_folds * sum(folds) + (self.folds - self.first_folds) * best + sum(refits[: self.refits])

    def written(self) -> WrittenPlan:
        return {
            "epochs": [[one.place, count] for one, count in self.candidates],
            "first_folds": self.first_folds,
            "folds": self.folds,
        }


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
            Beside them one runs as many folds, and where the first in line does not fit another one may; the one that
            loses the smallest share of its epochs.

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
    single = line if ran else line[:1]
    whole = [line[:count] for count in range(len(line), 0, -1)] + [[one] for one in single[1:]]
    taken = [[(one, one.epochs) for one in several] for several in whole]
    fewest = {one.place: max(MIN_EPOCHS, 0 if ran else round(_MIN_SHARE * one.epochs)) for one in single}
    shorter = [(one, n) for one in single if one.may_shorten for n in range(fewest[one.place], one.epochs)]
    taken += [[pair] for pair in sorted(shorter, key=lambda pair: -pair[1] / pair[0].epochs)]
    for candidates in taken:
        first = FIRST_FOLDS if len(ran) + len(candidates) > KEPT and num_folds > FIRST_FOLDS else num_folds
        yield Plan(tuple(candidates), first, num_folds, refits, tuple(ran))
    if not ran and num_folds > FIRST_FOLDS:
        yield from _plans(line[:1], FIRST_FOLDS, refits, ran)
