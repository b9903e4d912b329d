"""Trials: remedies tried on a few calibration rows, and judged on others, within a time that is set beforehand.

How much answers tell of the labels is compared however confident they are: an overconfident classifier, or one trained
for other class shares, may have a larger loss than one that knows nothing but the class frequencies. So losses are
compared at each one's best temperature, with and without the frequencies.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax, stdtr

from fedlas.data import Dataset
from fedlas.data.dataset import Array, Floats, Integers
from fedlas.preconditions.remedy import Change, Remedy, Rows

if TYPE_CHECKING:  # scores are examined without PyTorch
    from fedlas.importers import GraphClassifier

#: Inverse temperatures for logits of unit spread; 0 leaves only the frequencies.
_SCALES = (0.0, *np.geomspace(0.1, 60, 12))
#: Scales to a factor of 1.3, where the temperature is what is wanted; steps that match the frequencies.
_FINE_SCALES = np.geomspace(0.05, 100, 30)
_STEPS = 5
#: With fewer rows for each class than this, the best order of the classes is chance.
_ROWS_FOR_EACH_CLASS = 5
#: The confusion of more classes alone takes hundreds of megabytes, and the order the cube of their number.
_MAX_CLASSES = 1000
#: A remedy must take away this share of the loss on the screened rows to be judged at all.
SCREEN_GAIN = 0.04
#: No doubt is left where so little of the loss is, or answers had so little of their information, at this level.
_MUCH = 0.7
_LITTLE = 0.5
_CERTAIN = 1e-9
#: No network is so overconfident in itself: its inputs are multiplied. Of 60 that were trained for too long the best
#: temperatures are up to 9.5 (the right pairs of benchmarks/README.md, measured once).
_WILD = 12.0
#: Seconds that all trials take together: a pass over the calibration rows, but at least the first and at most the
#: second of these numbers; of this thread's own work, so that what is found does not depend on what else a machine
#: does, and at most so many times as long by the clock.
_SECONDS = (2.0, 3.5)
_WAITING = 3
#: Where a row takes fewer seconds than this, so many rows are tried without a look at the time left.
_CHEAP_ROW = 1e-4
_CHEAP_ROWS = 15_000
#: Rows that choose among remedies and rows that judge the chosen, of tables and of larger rows, their bytes and scores.
_TABLE = (200, 2000)
_LARGER = (64, 400)
_MAX_BYTES = 2**26
_MAX_SCORES = 1_000_000
_MIN_ROWS = 16
#: Up to so many rows of tables choose among a fixed list of remedies and judge them too: the level allows for it.
_ALL = 200
#: So many remedies are judged, each at this level; the test is of paired losses.
_FINALISTS = 3
_LEVEL = 1e-5
#: The most that answers without information give, as a share of the labels' entropy; and the least that a remedy
#: must leave.
_NOTHING = 0.2
_SOMETHING = 0.1


def class_frequencies(targets: Integers, num_classes: int) -> Floats:
    """Shares (K,) of the classes, none of them zero."""
    counts = np.bincount(targets, minlength=num_classes) + 1 / num_classes
    return np.asarray(counts / counts.sum())


def row_losses(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> Floats:
    """The negative log-likelihood (M,) of each label at the temperature that suits these rows best."""
    tried = (losses[0] for losses in _at_scales(logits[None], targets, frequencies))
    return np.asarray(min(tried, key=lambda losses: float(losses.mean())))


def chance_of_gain(gains: Floats) -> float:
    """The one-sided chance of a mean gain (M,) as high as this where there is none: a t test.

    Without `scipy.stats`, which would delay every job by half a second.

    >>> round(chance_of_gain(np.array([1.0, 2.0, 3.0])), 3)
    0.037
    """
    rows, mean = len(gains), float(gains.mean())
    error = float(gains.std(ddof=1)) / rows**0.5 if rows > 1 else 0.0
    return float(stdtr(rows - 1, -mean / error)) if error > 0 else float(mean <= 0)


def best_temperature(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> float:
    """The number by which logits are best divided, infinite where they are all alike.

    Where they tell nothing of the labels, it is that with which they are as sure as they or the frequencies are right.
    """
    unit, spread = _unit(logits[None])
    places = np.arange(len(targets))
    nothing = float(-np.log(frequencies)[targets].mean())
    tried = [(float(-log_softmax(scale * unit, axis=-1)[0, places, targets].mean()), scale) for scale in _FINE_SCALES]
    loss, best = min(tried)
    if loss >= nothing:
        right = max(float((unit[0].argmax(axis=1) == targets).mean()), float(frequencies.max()))
        sure = [float(np.exp(log_softmax(scale * unit, axis=-1).max(axis=-1)).mean()) for scale in _FINE_SCALES]
        best = float(_FINE_SCALES[min(int(np.searchsorted(sure, right)), len(sure) - 1)])
    return float(spread[0, 0, 0]) / best if unit.any() else float("inf")


def _unit(logits: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Logits (C, M, K) of mean 0 in each row and deviation 1, and what the deviation was."""
    finite = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e6, neginf=-1e6)
    centred = finite - finite.mean(axis=-1, keepdims=True)
    spread = centred.std(axis=(1, 2), keepdims=True)
    return centred / np.where(spread > 0, spread, 1), spread


def _at_scales(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> Iterator[Floats]:
    """Losses (C, M) of answers (C, M, K) for each temperature, with the class frequencies and without."""
    unit, _ = _unit(logits)
    places, known = np.arange(len(targets)), np.log(frequencies)
    for scale in _SCALES:
        for prior in (known, 0 * known):
            yield -log_softmax(scale * unit + prior, axis=-1)[:, places, targets]


def matched_loss(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> float:
    """The mean loss at the best temperature with classes as frequent in answers as in labels, whatever shift."""
    unit, _ = _unit(logits[None])
    places, known, losses = np.arange(len(targets)), np.log(frequencies), []
    for scale in _SCALES:
        scores = scale * unit
        for _ in range(_STEPS):
            # Where the mean probability of every class is its frequency, no bias of a class can be improved.
            scores = scores + known - np.log(np.exp(log_softmax(scores, axis=-1)).mean(axis=1, keepdims=True) + 1e-12)
        losses.append(float(-log_softmax(scores, axis=-1)[0, places, targets].mean()))
    return min(losses)


def best_order(logits: NDArray[np.float32], targets: Integers) -> Integers:
    """The order (K,) of the columns of `logits` that makes most right; as they are for few rows or many classes."""
    num_classes = logits.shape[1]
    order = np.arange(num_classes)
    if num_classes > _MAX_CLASSES or len(targets) < _ROWS_FOR_EACH_CLASS * num_classes:
        return order
    confusion = np.zeros((num_classes, num_classes))
    np.add.at(confusion, (targets, logits.argmax(axis=1)), 1)
    assignment = linear_sum_assignment(-confusion)[1]
    return np.asarray(assignment) if confusion[order, assignment].sum() > confusion.trace() else order


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Calibration rows as they were answered, by a classifier that need not be at hand.

    Attributes:
        dataset: in the classifier's inputs and classes (`fedlas.data.align`).
        logits, targets: (N, K) and (N,) of these rows.
        class_priors: declared by class name, if any.
    """

    dataset: Dataset
    logits: NDArray[np.floating]
    targets: NDArray[np.int64]
    class_priors: Mapping[str, float] | None = None

    @property
    def num_classes(self) -> int:
        return int(self.logits.shape[1])


@dataclass(frozen=True, kw_only=True)
class Examined(Answers):
    """A classifier and its answers; `inputs` are of the calibration rows, in the classifier's order, (N, ...) each."""

    classifier: GraphClassifier
    inputs: Sequence[Array]

    def answers(self, inputs: Sequence[Array]) -> NDArray[np.float32]:
        """Logits (M, K) of the classifier for other inputs (M, ...), to try a remedy."""
        from fedlas.training.fit import predict_logits

        return predict_logits(self.classifier, list(inputs))[0]


@dataclass(frozen=True)
class Finding:
    """A remedy that explains the labels, with what it was judged on; `entropy` is of the labels, in nats."""

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
        told, told_after = self.entropy - self.loss, self.entropy - self.loss_after
        much = self.loss_after < _MUCH * self.loss or told < _LITTLE * told_after
        return (much and self.p_value < _CERTAIN) or self.tames

    @property
    def tames(self) -> bool:
        """True where the remedy explains the confidence: wild without it, not with it, as right as before."""
        tamed = is_wild(self.temperature) and not is_wild(self.temperature_after)
        # Of answers that tell nothing, with the remedy or without, any temperature is as good as any other.
        told = self.loss_after < (1 - _SOMETHING) * self.entropy
        return self.remedy.scales and tamed and told and self.loss_after < (1 + SCREEN_GAIN) * self.loss


def is_wild(temperature: float) -> bool:
    """True where answers are more confident, or less, than any classifier is of itself."""
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
        most = max(2 * _MIN_ROWS, min(count, _MAX_BYTES // max(row_bytes, 1), _MAX_SCORES // self.num_classes))
        table = all(array.ndim <= 2 for array in examined.inputs)
        order = np.random.default_rng(seed).permutation(count)
        choosing, judging = _TABLE if table else _LARGER
        self._fewest_judged = _TABLE[0] if table else 2 * _MIN_ROWS
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
        return self._examined.num_classes

    def _rows(self, rows: NDArray[np.int64]) -> Rows:
        return [np.asarray(array[rows]) for array in self._examined.inputs]

    def _losses(self, logits: NDArray[np.float32], rows: NDArray[np.int64]) -> Floats:
        return row_losses(logits, self._examined.targets[rows], self._frequencies)

    @property
    def seconds_left(self) -> float:
        """Seconds left for trials; the first answer tells what a pass takes."""
        least, most = _SECONDS
        granted = min(most, max(least, self._row_seconds * len(self._examined.targets)))
        worked, waited = time.thread_time() - self._started[0], time.monotonic() - self._started[1]
        return min(granted - worked, _WAITING * granted - waited)

    def affordable(self, rows: int) -> bool:
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
        """Remedy of a fixed list that explains the labels best, None where none does."""
        both = np.concatenate([self._judged, self._screened])
        return self.judge(self.screen(list(remedies)), np.sort(both) if len(both) <= _ALL else None)

    def screen(self, remedies: Sequence[Remedy]) -> list[Remedy]:
        """The few that lower the loss on the screened rows most, and those that only tame wild confidence."""
        places = self._screened[: self._screen_size(len(remedies))]
        rows = [array[: len(places)] for array in self.screened]
        base = self.screen_loss(places)
        scored: list[tuple[float, int, Remedy]] = []
        for number, remedy in enumerate(remedies):
            if number and not self.affordable(len(places) + _MIN_ROWS):
                break
            if (logits := self.answers(rows, remedy.change)) is not None:
                loss = float(self._losses(logits, places).mean())
                tamed = remedy.scales and self._wild and loss < (1 + SCREEN_GAIN) * base
                scored += [(loss, number, remedy)] if tamed or loss < (1 - SCREEN_GAIN) * base else []
        return [remedy for _, _, remedy in sorted(scored, key=lambda item: item[:2])[:_FINALISTS]]

    def screen_loss(self, places: NDArray[np.int64] | None = None) -> float:
        places = self._screened if places is None else places
        own = self._examined.logits[places]
        return float(min(self._losses(own, places).mean(), self._losses(own[:, self._order], places).mean()))

    def screen_losses(self, logits: NDArray[np.float32]) -> Floats:
        """Losses (C,) on the screened rows of several answers (C, M, K) to them, each at its best temperature."""
        targets = self._examined.targets[self._screened]
        tried = [losses.mean(axis=1) for losses in _at_scales(logits, targets, self._frequencies)]
        return np.asarray(np.min(tried, axis=0))

    def _screen_size(self, remedies: int) -> int:
        """Number of rows that half of the time allows, measured on a few."""
        if not self._row_seconds:
            few = [array[:_MIN_ROWS] for array in self.screened]
            self.answers(few)
            self._row_seconds = 0.0  # the first call warms up
            self.answers(few)
            if self.affordable(len(self._screened)):  # what a call takes anyhow weighs little among many rows
                self._row_seconds = 0.0
                self.answers(self.screened)
        if self._row_seconds < _CHEAP_ROW and remedies * len(self._screened) <= _CHEAP_ROWS:
            return len(self._screened)
        fitting = int(0.5 * self.seconds_left / max(self._row_seconds, 1e-9) / max(remedies, 1))
        return min(len(self._screened), max(fitting, _MIN_ROWS))

    def judge(self, remedies: Sequence[Remedy], places: NDArray[np.int64] | None = None) -> Finding | None:
        """Remedy of these that explains the labels with the lowest loss on the judged rows, None where none does."""
        places = self._judged if places is None else places
        findings = [
            finding for remedy in remedies if (finding := self._judge(remedy, places, len(remedies))) is not None
        ]
        return min(findings, key=lambda finding: finding.loss_after, default=None)

    def _judge(self, remedy: Remedy, places: NDArray[np.int64], share: int) -> Finding | None:
        if remedy.near_chance and self.information > _NOTHING:
            return None
        fitting = int(self.seconds_left / max(self._row_seconds, 1e-9) / max(share, 1))
        if self._row_seconds >= _CHEAP_ROW:
            places = places[: max(fitting, self._fewest_judged)]
        rows = self._rows(places)
        if (logits := self.answers(rows, remedy.change)) is None:
            return None
        finding = self._compared(remedy, places, logits)
        if finding.tames:
            return finding
        enough = finding.loss_after < (1 - remedy.least_gain) * finding.loss
        if not (enough and finding.p_value < _LEVEL and finding.loss_after < (1 - _SOMETHING) * finding.entropy):
            return None
        if remedy.searched:  # it must do more than to shift the scores of classes, as a shift of all rows does
            targets, own = self._examined.targets[places], self._examined.logits[places]
            before, after = (matched_loss(each, targets, self._frequencies) for each in (own, logits))
            if after >= (1 - remedy.least_gain) * before:
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
