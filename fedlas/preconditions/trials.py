"""Trials: remedies tried on a few calibration rows, and judged on others, within a time that is set beforehand."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlas.data import Dataset
from fedlas.data.dataset import Array
from fedlas.importers import GraphClassifier
from fedlas.preconditions.label_information import (
    Floats,
    best_order,
    best_temperature,
    chance_of_gain,
    class_frequencies,
    matched_loss,
    mean_losses,
    row_losses,
)
from fedlas.preconditions.remedy import Change, Remedy, Rows
from fedlas.training.fit import predict_logits

#: A remedy must take away this share of the loss on the screened rows to be judged at all.
SCREEN_GAIN = 0.04
#: What leaves no doubt: so little of the loss is left, or so little of what answers can tell was told, at this level.
_MUCH, _LITTLE, _CERTAIN = 0.7, 0.5, 1e-9
#: No network is so overconfident in itself: its inputs are multiplied. Of 60 that were trained for too long the best
#: temperatures are up to 9.5 (the right pairs of benchmarks/README.md, measured once).
_WILD = 12.0
#: Seconds that all trials take together: a pass over the calibration rows, but at least the first and at most the
#: second of these numbers; of this thread's own work, so that what is found does not depend on what else a machine
#: does, and at most so many times as long by the clock.
_SECONDS, _WAITING = (2.0, 3.5), 3
#: Where a row takes fewer seconds than this, so many rows are tried without a look at the time left.
_CHEAP_ROW, _CHEAP_ROWS = 1e-4, 15_000
#: Rows that choose among remedies and rows that judge the chosen, of tables and of larger rows, their bytes and scores.
_TABLE, _LARGER, _MOST_BYTES, _MOST_SCORES = (200, 2000), (64, 400), 2**26, 1_000_000
_FEWEST = 16
#: Up to so many rows of tables choose among a fixed list of remedies and judge them too: the level allows for it.
_ALL = 200
#: So many remedies are judged, each at this level; the test is of paired losses.
_FINALISTS, _LEVEL = 3, 1e-5
#: What answers that tell nothing of the labels tell at most, as a share of the labels' entropy; what a remedy must
#: leave at least.
_NOTHING, _SOMETHING = 0.2, 0.1


@dataclass(frozen=True)
class Examined:
    """A classifier and the calibration rows that it has answered.

    Attributes:
        dataset: in the classifier's inputs and classes (`fedlas.data.align`).
        inputs: of the calibration rows, in the classifier's order, (N, ...) each.
        logits, targets: (N, K) and (N,) of these rows.
        class_priors: declared by class name, if any.
    """

    classifier: GraphClassifier
    dataset: Dataset
    inputs: Sequence[Array]
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    class_priors: Mapping[str, float] | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.logits.shape[1])

    def answers(self, inputs: Sequence[Array]) -> NDArray[np.float32]:
        """Logits (M, K) of the classifier for other inputs (M, ...), to try a remedy."""
        return predict_logits(self.classifier, list(inputs))[0]


@dataclass(frozen=True)
class Finding:
    """A remedy that explains the labels, with what it was judged on.

    Attributes:
        entropy: of the labels, in nats: the loss of who knows nothing but the class frequencies.
    """

    remedy: Remedy
    rows: int
    entropy: float
    accuracy: float
    accuracy_after: float
    loss: float
    loss_after: float
    p_value: float
    temperature: float
    temperature_after: float

    @property
    def certain(self) -> bool:
        """Whether the rows leave no doubt."""
        told, told_after = self.entropy - self.loss, self.entropy - self.loss_after
        much = self.loss_after < _MUCH * self.loss or told < _LITTLE * told_after
        return (much and self.p_value < _CERTAIN) or self.tames

    @property
    def tames(self) -> bool:
        """Whether it is the confidence that the remedy explains: wild without it, not with it, as right as before."""
        tamed = is_wild(self.temperature) and not is_wild(self.temperature_after)
        return self.remedy.scales and tamed and self.loss_after < (1 + SCREEN_GAIN) * self.loss


def is_wild(temperature: float) -> bool:
    """Whether answers are more confident, or less, than any classifier is of itself."""
    return bool(np.isfinite(temperature)) and not 1 / _WILD < temperature < _WILD


class Trials:
    """The rows on which remedies are tried, and the time that is left for it.

    Attributes:
        screened, judged: rows (M, ...) of every input.
        reordered: whether another order of the classes explains the answers.
        information: the share of the labels' entropy that the answers tell, on the judged rows.
    """

    def __init__(self, examined: Examined, seed: int = 0) -> None:
        self._examined = examined
        count = len(examined.targets)
        row_bytes = sum(array[:1].nbytes for array in examined.inputs)
        most = max(2 * _FEWEST, min(count, _MOST_BYTES // max(row_bytes, 1), _MOST_SCORES // self.num_classes))
        table = all(array.ndim <= 2 for array in examined.inputs)
        order = np.random.default_rng(seed).permutation(count)
        choosing, judging = _TABLE if table else _LARGER
        self._fewest_judged = _TABLE[0] if table else 2 * _FEWEST
        screened = min(choosing, most // 2)
        judged = min(judging, most - screened)
        self._judged, self._screened = np.sort(order[:judged]), np.sort(order[judged : judged + screened])
        others = np.sort(order[judged:])
        targets, logits = examined.targets, examined.logits
        self._frequencies = class_frequencies(targets, examined.num_classes)
        self._entropy = float(-(self._frequencies * np.log(self._frequencies)).sum())
        self._order = best_order(logits[others], targets[others])
        self.screened, self.judged = self._rows(self._screened), self._rows(self._judged)
        ordered = float(self._losses(logits[self._judged][:, self._order], self._judged).mean())
        as_is = float(self._losses(logits[self._judged], self._judged).mean())
        entropy = float(-np.log(self._frequencies)[targets[self._judged]].mean())
        self.reordered = ordered < 0.9 * as_is
        self.information = 1 - min(ordered, as_is) / entropy
        self._wild = is_wild(best_temperature(logits[self._judged], targets[self._judged], self._frequencies))
        self._row_seconds, self._started = 0.0, (time.thread_time(), time.monotonic())

    @property
    def num_classes(self) -> int:
        """K."""
        return self._examined.num_classes

    def _rows(self, rows: NDArray[np.int64]) -> Rows:
        return [np.asarray(array[rows]) for array in self._examined.inputs]

    def _losses(self, logits: NDArray[np.float32], rows: NDArray[np.int64]) -> Floats:
        return row_losses(logits, self._examined.targets[rows], self._frequencies)

    @property
    def seconds_left(self) -> float:
        """Of the time for trials; the first answer tells what a pass takes."""
        least, most = _SECONDS
        granted = min(most, max(least, self._row_seconds * len(self._examined.targets)))
        worked, waited = time.thread_time() - self._started[0], time.monotonic() - self._started[1]
        return min(granted - worked, _WAITING * granted - waited)

    @property
    def _is_cheap(self) -> bool:
        return self._row_seconds < _CHEAP_ROW

    def affordable(self, rows: int) -> bool:
        """Whether time is left for so many more rows."""
        return self._row_seconds * rows <= self.seconds_left

    def answers(self, rows: Rows, change: Change | None = None) -> NDArray[np.float32] | None:
        """Logits for rows, None where a change or the classifier cannot take them (an id outside its vocabulary)."""
        start = time.thread_time()
        try:
            changed = rows if change is None else change(rows)
            return self._examined.answers([np.ascontiguousarray(array) for array in changed])
        except (ArithmeticError, IndexError, ValueError, RuntimeError):
            return None
        finally:
            taken = time.thread_time() - start
            self._row_seconds = max(self._row_seconds / 2, taken / max(len(rows[0]), 1))

    def explain(self, remedies: Iterable[Remedy]) -> Finding | None:
        """Of a fixed list of remedies the one that explains the labels best, None where none does."""
        chosen = self.screen(list(remedies))
        both = np.concatenate([self._judged, self._screened])
        few = len(both) <= _ALL
        return self.judge(chosen, np.sort(both) if few else None)

    def screen(self, remedies: Sequence[Remedy]) -> list[Remedy]:
        """The few that lower the loss on the screened rows most, and those that only tame wild confidence."""
        places = self._screened[: self._screen_size(len(remedies))]
        rows = [array[: len(places)] for array in self.screened]
        base = self.screen_loss(places)
        scored: list[tuple[float, int, Remedy]] = []
        for number, remedy in enumerate(remedies):
            if number and not self.affordable(len(places) + _FEWEST):
                break
            logits = self.answers(rows, remedy.change)
            if logits is not None:
                loss = float(self._losses(logits, places).mean())
                tamed = remedy.scales and self._wild and loss < (1 + SCREEN_GAIN) * base
                scored += [(loss, number, remedy)] if tamed or loss < (1 - SCREEN_GAIN) * base else []
        return [remedy for _, _, remedy in sorted(scored, key=lambda item: item[:2])[:_FINALISTS]]

    def screen_loss(self, places: NDArray[np.int64] | None = None) -> float:
        """The loss of the classifier's own answers on the screened rows."""
        places = self._screened if places is None else places
        own = self._examined.logits[places]
        return float(min(self._losses(own, places).mean(), self._losses(own[:, self._order], places).mean()))

    def screen_losses(self, logits: NDArray[np.float32]) -> Floats:
        """The losses (C,) on the screened rows of several answers (C, M, K) to them."""
        return mean_losses(logits, self._examined.targets[self._screened], self._frequencies)

    def _screen_size(self, remedies: int) -> int:
        """As many rows as half of the time allows, measured on a few."""
        if not self._row_seconds:
            few = [array[:_FEWEST] for array in self.screened]
            self.answers(few)
            self._row_seconds = 0.0  # the first call warms up
            self.answers(few)
            if self.affordable(len(self._screened)):  # what a call takes anyhow weighs little among many rows
                self._row_seconds = 0.0
                self.answers(self.screened)
        if self._is_cheap and remedies * len(self._screened) <= _CHEAP_ROWS:
            return len(self._screened)
        fitting = int(0.5 * self.seconds_left / max(self._row_seconds, 1e-9) / max(remedies, 1))
        return min(len(self._screened), max(fitting, _FEWEST))

    def judge(self, remedies: Sequence[Remedy], places: NDArray[np.int64] | None = None) -> Finding | None:
        """Of a few remedies the one with the lowest loss on the judged rows among those that explain the labels."""
        places = self._judged if places is None else places
        found = [finding for remedy in remedies if (finding := self._judge(remedy, places, len(remedies))) is not None]
        return min(found, key=lambda finding: finding.loss_after, default=None)

    def _judge(self, remedy: Remedy, places: NDArray[np.int64], share: int) -> Finding | None:
        if remedy.near_chance and self.information > _NOTHING:
            return None
        fitting = int(self.seconds_left / max(self._row_seconds, 1e-9) / max(share, 1))
        if not self._is_cheap:
            places = places[: max(fitting, self._fewest_judged)]
        rows = self._rows(places)
        logits = self.answers(rows, remedy.change)
        if logits is None:
            return None
        finding = self._compared(remedy, places, logits)
        if finding.tames:
            return finding
        enough = finding.loss_after < (1 - remedy.least_gain) * finding.loss
        if not (enough and finding.p_value < _LEVEL and finding.loss_after < (1 - _SOMETHING) * finding.entropy):
            return None
        if remedy.searched and not self._tells_more(remedy, places, logits):
            return None
        control = None if remedy.control is None else self.answers(rows, remedy.control)
        if control is None or finding.loss_after < 0.9 * float(self._losses(control, places).mean()):
            return finding
        return None

    def _compared(self, remedy: Remedy, places: NDArray[np.int64], logits: NDArray[np.float32]) -> Finding:
        targets, own = self._examined.targets[places], self._examined.logits[places]
        orders = (own, own[:, self._order])
        before = min((self._losses(each, places) for each in orders), key=lambda losses: float(losses.mean()))
        after = self._losses(logits, places)
        return Finding(
            remedy,
            len(places),
            self._entropy,
            float((own.argmax(axis=1) == targets).mean()),
            float((logits.argmax(axis=1) == targets).mean()),
            float(before.mean()),
            float(after.mean()),
            chance_of_gain(before - after),
            best_temperature(own, targets, self._frequencies),
            best_temperature(logits, targets, self._frequencies),
        )

    def _tells_more(self, remedy: Remedy, places: NDArray[np.int64], logits: NDArray[np.float32]) -> bool:
        """Whether it does more than to shift the scores of classes, as a shift of all rows does."""
        own, targets = self._examined.logits[places], self._examined.targets[places]
        before, after = (matched_loss(each, targets, self._frequencies) for each in (own, logits))
        return after < (1 - remedy.least_gain) * before
