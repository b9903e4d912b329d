"""The check of the order of the classes: do the labels mean the outputs that they are taken for?

An optimal assignment of outputs to labels, on the shares of each class's rows that are answered as each output, is
chosen on one half of the rows and tested on the other; where rows are few, it is chosen on all, and the test allows
for all other orders that might have been. Each class counts the same: an order that only follows the most
frequent class, or a threshold in the wrong place, explains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fedlas.contract.profiles import Notice
from fedlas.data.dataset import Floats, Integers
from fedlas.documents import Severity, first_names
from fedlas.metrics.betting_intervals import BoundedMean
from fedlas.preconditions.trials import Answers, Examined

Scores = NDArray[np.floating]
#: Classes beyond these, by their number of rows, are left as they are: the assignment takes the cube of their number.
_MAX_CLASSES = 1000
#: The gain of classes that take another output, in recall and against chance, at which they are looked at further.
_MIN_GAIN = 0.1
_MIN_Z = 2.5
#: Answers further below the largest are equally impossible.
_MIN_LOGIT = -30.0
#: The lead of the present order over any other, in recall.
_PRESENT = 0.01
#: Chance for a warning, and for what is certain.
_WARNS_AT = 1e-3
_CERTAIN_AT = 1e-6
#: Gains in recall: of most classes; of a few, which a bad model may confuse; and what no model misses by itself.
_MIN_GAIN_OF_MOST = 0.1
_MIN_GAIN_OF_FEW = 0.2
_HUGE_GAIN = 0.5
#: Recall in the other order that leaves no doubt. Any answers that differ between classes have an order that fits best:
#: among four of random networks it is 0.5 (one of ten: 0.67), and a wrong preprocessing leaves no more. With less, a
#: mistake is as certain where most classes are recalled no better than by guessing, but it may be one of the inputs.
_CERTAIN_RECALL = 0.7
_DOUBT = ". Or the inputs are wrong (preprocessing, order of the columns): then, too, some other order fits better"
#: The share of the labels that must agree that all are shifted by the same number.
_AGREE = 0.8
#: Scores (N × K) that are read; more would only take time.
_MAX_SCORES = 20_000_000
_MAX_ROWS = 50_000
_SHOWN_PAIRS = 10
_SHOWN_NAMES = 20
_SHOWN_LETTERS = 60


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
        return self.after - self.before

    @property
    def moved(self) -> Integers:
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


def better_order(
    logits: Scores, targets: Integers, *, weights: Floats | None = None, groups: Integers | None = None
) -> Order | None:
    """The order that explains `targets` (N,) better than that of `logits` (N, K), None where none does.

    Args:
        groups: of rows (N,) that vary together; None takes each row alone.

    >>> rows = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    >>> better_order(rows, np.repeat([1, 2, 0], 20)).outputs.tolist()
    [2, 0, 1]
    """
    counts = np.ones(len(targets)) if weights is None else weights / weights.mean()
    rows = _Rows(np.maximum(logits - logits.max(axis=1, keepdims=True), _MIN_LOGIT), targets, counts, groups)
    outputs, shift = _chosen(rows)
    if (whole := _tested(rows, outputs, shift)) is None:
        return None
    halves = _halves(rows)
    both = 0 < halves.sum() < len(halves)  # rows of a single group have no other half
    held_out = [_tested(rows[halves != half], *_chosen(rows[halves == half])) for half in (0, 1) if both]
    tests = [test for test in held_out if test is not None] or [whole]
    before, after = (float(np.mean([getattr(test, name) for test in tests])) for name in ("before", "after"))
    chance = min(_among_all(whole.p_value, outputs), *(2 * test.p_value for test in tests))
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


def _tested(rows: _Rows, outputs: Integers, shift: Scores) -> Order | None:
    """Accuracies and p-value of the outputs of labels (K,), None where no class with rows takes another."""
    rows = rows[(outputs != np.arange(len(outputs)))[rows.labels]]
    labels = rows.labels
    if not len(labels):
        return None
    answers = (rows.scores - shift).argmax(axis=1)
    shares = rows.weights / np.bincount(labels, rows.weights)[labels]  # each class counts the same
    right, as_mapped = answers == labels, answers == outputs[labels]
    classes, size = len(np.unique(labels)), shares / shares.max()
    # A group that is answered otherwise as a whole loses in one class what it gains in another.
    cells = None if rows.groups is None else rows.groups * rows.scores.shape[1] + labels
    lost = BoundedMean.of(size * (right.astype(np.float64) - as_mapped), lower=-size, upper=size, groups=cells)
    return Order(outputs, float(shares @ right) / classes, float(shares @ as_mapped) / classes, lost.p_value())


def _chosen(rows: _Rows) -> tuple[Integers, Scores]:
    """The best output of each label (K,), and what to take from the scores (K,) before they answer.

    A rare class or a wrong threshold has all rows answered alike, so answers are read as they are and with each score
    less its mean over the classes; the way that tells the classes apart better is taken.
    """
    labels, size = rows.labels, rows.scores.shape[1]
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
    present = np.argsort(-rows, kind="stable")[: min(_MAX_CLASSES, int((rows > 0).sum()))]
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
    holds = (gain >= _MIN_GAIN * length) & (better - worse >= _MIN_Z * np.sqrt(better + worse))
    return np.where(holds[chains], outputs, labels)


def label_order(examined: Answers) -> list[Notice]:
    """`labels_from_one` or `label_order`, where another order of the classes explains the labels far better."""
    logits, targets = examined.logits, examined.targets
    weights, groups = examined.dataset.weights_of("calibration"), examined.dataset.groups_of("calibration")
    most = min(_MAX_ROWS, max(1000, _MAX_SCORES // examined.num_classes))
    if len(targets) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(targets), most, replace=False))
        logits, targets = logits[rows], targets[rows]
        weights = None if weights is None else weights[rows]
        groups = None if groups is None else groups[rows]
    order = better_order(logits, targets, weights=weights, groups=groups)
    severity = _severity(order)
    if severity is None and groups is not None:  # a few groups can show nothing, whatever is seen
        order = better_order(logits, targets, weights=weights)
        severity = "warning" if order and _severity(order) and order.gain >= _HUGE_GAIN else None
    return [] if order is None or severity is None else [_notice(examined, order, severity)]


def _severity(order: Order | None) -> Severity | None:
    """None where chance or a bad model explains as much."""
    if order is None or order.p_value > _WARNS_AT:
        return None
    twice, most = order.after >= 2 * order.before, 2 * len(order.moved) >= len(order.outputs)
    if not (most and order.gain >= _MIN_GAIN_OF_MOST) and not (twice and order.gain >= _MIN_GAIN_OF_FEW):
        return None
    certain = twice and order.after >= _CERTAIN_RECALL and (order.gain >= _HUGE_GAIN or most)
    guesses = most and order.before <= 1 / len(order.outputs)
    return "error" if (certain or guesses) and order.p_value <= _CERTAIN_AT else "warning"


def _notice(examined: Answers, order: Order, severity: Severity) -> Notice:
    dataset, targets, names = examined.dataset, examined.targets, examined.dataset.class_names
    counts = np.bincount(dataset.targets, minlength=examined.num_classes)
    labels = dataset.label_names or names
    shift = _shift(order, counts) if dataset.label_names else 0
    outputs = np.clip(np.arange(examined.num_classes) - shift, 0, examined.num_classes - 1) if shift else order.outputs
    likely, mapping = _order_of_outputs(outputs, counts, labels), {}
    for label in np.flatnonzero((counts > 0) & (outputs != np.arange(len(outputs)))).tolist():
        mapping[labels[label]] = names[outputs[label]]
    right = examined.logits.argmax(axis=1)
    as_is, as_mapped = (
        float(np.average(right == meant, weights=dataset.weights_of("calibration")))
        for meant in (targets, outputs[targets])
    )
    shown = min(len(first_names(mapping)), len(first_names(mapping.values())))
    if shift:
        what = "the labels start at 1" if shift == 1 else f"the labels are shifted by {shift}"
        remedy = f"{'Subtract' if shift > 0 else 'Add'} {abs(shift)}"
    else:
        what, remedy = _said_of_order(mapping), _remedy(examined, likely)
    doubt = _DOUBT if severity == "warning" or order.after < _CERTAIN_RECALL else ""
    return Notice(
        code="labels_from_one" if shift == 1 and not counts[0] else "label_order",
        message=f"{what}. The model is right on {100 * as_is:.1f} % of the {len(targets):,} calibration rows as they "
        "are, and "
        f"on {100 * as_mapped:.1f} % so understood. {remedy}{doubt}",
        evidence={
            "accuracy_as_is": round(as_is, 6),
            "accuracy_as_mapped": round(as_mapped, 6),
            "recall_as_is": round(order.before, 6),
            "recall_as_mapped": round(order.after, 6),
            "model_order": first_names(names),
            "dataset_order": first_names(labels),
            "likely_order": first_names(likely),
            "mapping": dict(list(mapping.items())[:shown]),
            "rows": len(targets),
            "p_value": max(order.p_value, 1e-15),
        },
        severity=severity,
    )


def _shift(order: Order, counts: Integers) -> int:
    """The number by which nearly all labels are too large, 0 where there is none."""
    present = np.flatnonzero(counts)
    steps, many = np.unique(present - order.outputs[present], return_counts=True)
    most = int(steps[many.argmax()])
    fits = many.max() >= _AGREE * len(present) and len(present) > 2 and present[0] >= most
    return most if fits and (most < 0 or present[0] >= most) else 0


def _order_of_outputs(outputs: Integers, counts: Integers, labels: Sequence[str]) -> list[str]:
    """The label that each output seems to be; outputs that no row tells of take the labels that are left."""
    names: list[str | None] = [None] * len(outputs)
    for label in np.flatnonzero(counts).tolist():
        names[int(outputs[label])] = labels[label]
    left = iter([name for i, name in enumerate(labels) if not counts[i]])
    return [name if name is not None else next(left, "?") for name in names]


def _said_of_order(mapping: dict[str, str]) -> str:
    shown = list(mapping.items())[:_SHOWN_PAIRS]
    pairs = ", ".join(f"label '{_short(label)}' is the model's '{_short(answer)}'" for label, answer in shown)
    more = f" and {len(mapping) - len(shown)} more" if len(mapping) > len(shown) else ""
    return f"the labels fit another order of the classes: {pairs}{more}"


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_LETTERS else f"{name[: _SHOWN_LETTERS - 1]}…"


def _remedy(examined: Answers, likely: Sequence[str]) -> str:
    if examined.dataset.label_names:
        return (
            "Send labels in the model's numbering; or labels that are names, and class_names=… with the model in the "
            "order of its outputs"
        )
    if not isinstance(examined, Examined):
        names = ", ".join(map(_short, likely[:_SHOWN_NAMES]))
        return f"Put the columns of the scores into the order of the labels; now they are probably {names}"
    names = ",".join(map(_short, likely[:_SHOWN_NAMES])) + (",…" if len(likely) > _SHOWN_NAMES else "")
    remedy = f"Send class_names=… with the model in the order of its outputs, probably {names}"
    if examined.dataset.matched_by == "name":
        return remedy
    return f"The model has no names of its classes, so the dataset's were taken in their order. {remedy}"
