"""Label information: how much a classifier's answers tell of the labels, however confident they are.

An overconfident classifier, or one trained for other class shares, may have a larger loss than one that knows nothing
but the class frequencies. So losses are compared at each one's best temperature, with and without the frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import stdtr

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
#: Inverse temperatures for logits of unit spread; 0 leaves only the frequencies.
_SCALES = (0.0, *np.geomspace(0.1, 60, 12))
#: The same to a factor of 1.3, where the temperature is what is wanted; steps that match the frequencies.
_FINE_SCALES, _STEPS = np.geomspace(0.05, 100, 30), 5
#: With fewer rows for each class than this, the best order of the classes is chance.
_ROWS_FOR_EACH_CLASS = 5
#: Of more classes the confusion alone takes hundreds of megabytes, and the order the cube of their number.
_MOST_CLASSES = 1000


def class_frequencies(targets: Integers, num_classes: int) -> Floats:
    """Shares (K,) of the classes, none of them zero."""
    counts = np.bincount(targets, minlength=num_classes) + 1 / num_classes
    return np.asarray(counts / counts.sum())


def row_losses(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> Floats:
    """The negative log-likelihood (M,) of each label at the temperature that suits these rows best."""
    tried = (losses[0] for losses in _at_scales(logits[None], targets, frequencies))
    return np.asarray(min(tried, key=lambda losses: float(losses.mean())))


def mean_losses(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> Floats:
    """The means (C,) of the losses of several answers (C, M, K) to the same rows, each at its best temperature."""
    tried = [losses.mean(axis=1) for losses in _at_scales(logits, targets, frequencies)]
    return np.asarray(np.min(tried, axis=0))


def chance_of_gain(gains: Floats) -> float:
    """The one-sided chance of a mean gain (M,) as high as this where there is none: a t test, without `scipy.stats`.

    That would delay every job by half a second.

    >>> round(chance_of_gain(np.array([1.0, 2.0, 3.0])), 3)
    0.037
    """
    rows, mean = len(gains), float(gains.mean())
    error = float(gains.std(ddof=1)) / rows**0.5 if rows > 1 else 0.0
    return float(stdtr(rows - 1, -mean / error)) if error > 0 else float(mean <= 0)


def best_temperature(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> float:
    """The number by which logits are best divided.

    Where they tell nothing of the labels, none is best: there, it is the one with which they are as sure as they, or
    the class frequencies, are right; infinite where logits are all alike.
    """
    unit, spread = _unit(logits[None])
    places = np.arange(len(targets))
    nothing = float(-np.log(frequencies)[targets].mean())
    tried = [(float(-_log_softmax(scale * unit)[0, places, targets].mean()), scale) for scale in _FINE_SCALES]
    loss, best = min(tried)
    if loss >= nothing:
        right = max(float((unit[0].argmax(axis=1) == targets).mean()), float(frequencies.max()))
        sure = [float(np.exp(_log_softmax(scale * unit).max(axis=-1)).mean()) for scale in _FINE_SCALES]
        best = float(_FINE_SCALES[min(int(np.searchsorted(sure, right)), len(sure) - 1)])
    return float(spread[0, 0, 0]) / best if unit.any() else float("inf")


def _unit(logits: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Logits (C, M, K) of mean 0 in each row and deviation 1, and what the deviation was."""
    finite = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e6, neginf=-1e6)
    centred = finite - finite.mean(axis=-1, keepdims=True)
    spread = centred.std(axis=(1, 2), keepdims=True)
    return centred / np.where(spread > 0, spread, 1), spread


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _at_scales(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> Iterator[Floats]:
    """Losses (C, M) of answers (C, M, K) for each temperature, with the class frequencies and without."""
    unit, _ = _unit(logits)
    places, known = np.arange(len(targets)), np.log(frequencies)
    for scale in _SCALES:
        for prior in (known, 0 * known):
            yield -_log_softmax(scale * unit + prior)[:, places, targets]


def matched_loss(logits: NDArray[np.float32], targets: Integers, frequencies: Floats) -> float:
    """The mean loss at the best temperature with the classes as frequent among the answers as among the labels.

    Rows that are all shifted alike shift the scores of classes: this takes it back, and leaves what wrong columns do.
    """
    unit, _ = _unit(logits[None])
    places, known, losses = np.arange(len(targets)), np.log(frequencies), []
    for scale in _SCALES:
        scores = scale * unit
        for _ in range(_STEPS):
            # Where the mean probability of every class is its frequency, no bias of a class can be improved.
            scores = scores + known - np.log(np.exp(_log_softmax(scores)).mean(axis=1, keepdims=True) + 1e-12)
        losses.append(float(-_log_softmax(scores)[0, places, targets].mean()))
    return min(losses)


def best_order(logits: NDArray[np.float32], targets: Integers) -> Integers:
    """The order (K,) of the columns of `logits` that makes most right; as they are for few rows or many classes."""
    num_classes = logits.shape[1]
    order = np.arange(num_classes)
    if num_classes > _MOST_CLASSES or len(targets) < _ROWS_FOR_EACH_CLASS * num_classes:
        return order
    confusion = np.zeros((num_classes, num_classes))
    np.add.at(confusion, (targets, logits.argmax(axis=1)), 1)
    found = linear_sum_assignment(-confusion)[1]
    return np.asarray(found) if confusion[order, found].sum() > confusion.trace() else order
