"""The order of the classes that explains the labels best, and whether it explains them better than the present one.

An optimal assignment of outputs to labels, on the shares of each class's rows that are answered as each output, is
chosen on one half of the rows and tested on the other; where rows are few, it is chosen on all, and the test allows
for all other orders that might have been. Each class counts the same: an order that only follows the most
frequent class, or a threshold in the wrong place, explains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fedlas.data.dataset import Integers
from fedlas.metrics.betting_intervals import BoundedMean

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]

#: Classes beyond these, by their number of rows, are left as they are: the assignment takes the cube of their number.
_MOST_CLASSES = 1000
#: What classes that take another output must gain, in recall and against chance, to be looked at further.
_LEAST_GAIN, _LEAST_Z = 0.1, 2.5
#: Answers further below the largest are equally impossible.
_LOWEST = -30.0
#: What the present order is ahead of any other, in recall.
_PRESENT = 0.01


@dataclass(frozen=True)
class Order:
    """Another order of the classes.

    Attributes:
        outputs: the output that seems to be each label (K,), itself where nothing speaks for another.
        before, after: mean recall of the classes that take another output, as they are and with it; on rows that did
            not choose it, where these are enough.
        p_value: of the hypothesis that the present order is as good.
    """

    outputs: Integers
    before: float
    after: float
    p_value: float

    @property
    def gain(self) -> float:
        """In mean recall."""
        return self.after - self.before

    @property
    def moved(self) -> Integers:
        """Labels that take another output."""
        return np.flatnonzero(self.outputs != np.arange(len(self.outputs)))


@dataclass(frozen=True)
class _Rows:
    """Scores (N, K), labels, weights and groups (N,)."""

    scores: Scores
    labels: Integers
    weights: Floats
    groups: Integers | None

    def __getitem__(self, chosen: NDArray[np.bool_]) -> _Rows:
        groups = None if self.groups is None else self.groups[chosen]
        return _Rows(self.scores[chosen], self.labels[chosen], self.weights[chosen], groups)

    @property
    def num_classes(self) -> int:
        return int(self.scores.shape[1])


@dataclass(frozen=True)
class _Test:
    """Mean recall before and after, and the p-value, on the rows of classes that take another output."""

    before: float
    after: float
    p_value: float


def better_order(
    logits: Scores, targets: Integers, *, weights: Floats | None = None, groups: Integers | None = None
) -> Order | None:
    """The order that explains `targets` (N,) better than the order of `logits` (N, K), None where none does.

    Args:
        groups: of rows (N,) that vary together; None takes each row alone.

    >>> rows = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    >>> better_order(rows, np.repeat([1, 2, 0], 20)).outputs.tolist()
    [2, 0, 1]
    """
    counts = np.ones(len(targets)) if weights is None else weights / weights.mean()
    scores = np.maximum(logits - logits.max(axis=1, keepdims=True), _LOWEST)
    rows = _Rows(scores, targets, counts, groups)
    outputs, shift = _chosen(rows)
    whole = _tested(rows, outputs, shift)
    if whole is None:
        return None
    halves = _halves(rows)
    both = 0 < halves.sum() < len(halves)  # rows of a single group have no other half
    held_out = [_tested(rows[halves != half], *_chosen(rows[halves == half])) for half in (0, 1) if both]
    found = [test for test in held_out if test is not None] or [whole]
    before, after = (float(np.mean([getattr(test, name) for test in found])) for name in ("before", "after"))
    chance = min(_among_all(whole.p_value, outputs), *(2 * test.p_value for test in found))
    return Order(outputs, before, after, min(1.0, 2 * chance))


def _among_all(p_value: float, outputs: Integers) -> float:
    """A p-value of the best of all orders that move as many classes (Bonferroni; the more, the less of the level)."""
    size, moved = len(outputs), int((outputs != np.arange(len(outputs))).sum())
    orders = lgamma(size + 1) - lgamma(size - moved + 1) - 1 + max(0, moved - 2) * log(2)
    return exp(min(0.0, log(max(p_value, 1e-300)) + max(0.0, orders)))


def _halves(rows: _Rows) -> Integers:
    """0 or 1 for every row (N,): every second row of each class, or every second group."""
    rng = np.random.default_rng(0)
    if rows.groups is not None:
        codes = np.unique(rows.groups, return_inverse=True)[1]
        return (rng.permutation(int(codes.max()) + 1) % 2)[codes]
    order = np.lexsort((rng.random(len(rows.labels)), rows.labels))
    halves = np.empty(len(order), np.int64)
    halves[order] = np.arange(len(order)) % 2
    return halves


def _tested(rows: _Rows, outputs: Integers, shift: Scores) -> _Test | None:
    """What the outputs of labels (K,) change, None where no class with rows takes another."""
    rows = rows[(outputs != np.arange(len(outputs)))[rows.labels]]
    labels = rows.labels
    if not len(labels):
        return None
    answers = (rows.scores - shift).argmax(axis=1)
    shares = rows.weights / np.bincount(labels, rows.weights)[labels]  # each class counts the same
    right, as_mapped = answers == labels, answers == outputs[labels]
    classes, size = len(np.unique(labels)), shares / shares.max()
    # A group that is answered otherwise as a whole loses in one class what it gains in another.
    cells = None if rows.groups is None else rows.groups * rows.num_classes + labels
    lost = BoundedMean.of(size * (right.astype(np.float64) - as_mapped), lower=-size, upper=size, groups=cells)
    return _Test(float(shares @ right) / classes, float(shares @ as_mapped) / classes, lost.p_value())


def _chosen(rows: _Rows) -> tuple[Integers, Scores]:
    """The best output of each label (K,), and what to take from the scores (K,) before they answer.

    Where one class is rare, or a threshold stands in the wrong place, all rows may be answered alike. So answers are
    read in two ways, as they are and with each score less its mean over the classes, and the way that tells the
    classes apart better is taken.
    """
    labels, size = rows.labels, rows.num_classes
    shares = rows.weights / np.bincount(labels, rows.weights, minlength=size)[labels] / len(np.unique(labels))
    best: tuple[float, Integers, Scores] | None = None
    for shift in (np.zeros(size, np.float32), (shares @ rows.scores).astype(np.float32)):
        outputs, told = _assigned((rows.scores - shift).argmax(axis=1), labels, rows.weights, size)
        if best is None or told > best[0] + _PRESENT:
            best = told, outputs, shift
    assert best is not None
    return best[1], best[2]


def _assigned(answers: Integers, labels: Integers, weights: Floats, size: int) -> tuple[Integers, float]:
    """The outputs of all labels (K,) that maximise the mean recall, as far as they gain, and that mean."""
    rows = np.bincount(labels, minlength=size)
    present = np.argsort(-rows, kind="stable")[: min(_MOST_CLASSES, int((rows > 0).sum()))]
    answered = np.union1d(present, np.unique(answers))
    place, column = np.full(size, -1), np.full(size, -1)
    place[present], column[answered] = np.arange(len(present)), np.arange(len(answered))
    kept = place[labels] >= 0
    table = np.zeros((len(present), len(answered)))
    np.add.at(table, (place[labels[kept]], column[answers[kept]]), weights[kept])
    recalls = table / (np.bincount(place[labels[kept]], weights[kept]) + 1)[:, None]
    own = np.arange(len(present)), column[present]
    recalls[own] += _PRESENT
    chosen = linear_sum_assignment(recalls, maximize=True)
    outputs = np.arange(size)
    outputs[present] = _that_gain(
        present, answered[chosen[1]], table[chosen], table[own], recalls[chosen] - recalls[own]
    )
    return outputs, float(recalls[chosen].mean())


def _that_gain(labels: Integers, outputs: Integers, after: Floats, before: Floats, gains: Floats) -> Integers:
    """The outputs of labels, or the labels themselves in every chain of exchanges that gains too little."""
    size = int(max(labels.max(), outputs.max())) + 1
    links = coo_array((np.ones(len(labels)), (labels, outputs)), shape=(size, size))
    chains = connected_components(links, directed=False)[1][labels]
    length, gain = np.bincount(chains), np.bincount(chains, gains)
    better, worse = np.bincount(chains, after), np.bincount(chains, before)
    holds = (gain >= _LEAST_GAIN * length) & (better - worse >= _LEAST_Z * np.sqrt(better + worse))
    return np.where(holds[chains], outputs, labels)
