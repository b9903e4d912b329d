"""The check of the order of the classes: do the labels mean the outputs that they are taken for?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlas.data.dataset import Integers
from fedlas.notice import Notice, Severity, first_names
from fedlas.preconditions.class_order import Order, better_order
from fedlas.preconditions.match import Examined

#: Chance for a warning, and for what is certain.
_WARNS_AT, _CERTAIN_AT = 1e-3, 1e-6
#: Gains in recall: of most classes; of a few, which a bad model may confuse; and what no model misses by itself.
_GAIN_OF_MOST, _GAIN_OF_FEW, _HUGE_GAIN = 0.1, 0.2, 0.5
#: Recall in the other order that leaves no doubt. Any answers that differ between classes have an order that fits best:
#: among four of random networks it is 0.5 (one of ten: 0.67), and a wrong preprocessing leaves no more. With less, a
#: mistake is as certain where most classes are recalled no better than by guessing, but it may be one of the inputs.
_CERTAIN_RECALL = 0.7
_DOUBT = ". Or the inputs are wrong (preprocessing, order of the columns): then, too, some other order fits better"
#: Of the labels, how many must agree that all are shifted by the same number.
_AGREE = 0.8
#: Scores (N × K) that are read; more would only take time.
_MOST_SCORES, _MOST_ROWS = 20_000_000, 50_000
_SHOWN_PAIRS, _SHOWN_NAMES, _SHOWN_LETTERS = 10, 20, 60


def label_order(examined: Examined) -> list[Notice]:
    """`labels_from_one` or `label_order`, where another order of the classes explains the labels far better."""
    logits, targets = examined.logits, examined.targets
    weights, groups = examined.dataset.weights_of("calibration"), examined.dataset.groups_of("calibration")
    most = min(_MOST_ROWS, max(1000, _MOST_SCORES // examined.num_classes))
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
    if not (most and order.gain >= _GAIN_OF_MOST) and not (twice and order.gain >= _GAIN_OF_FEW):
        return None
    certain = twice and order.after >= _CERTAIN_RECALL and (order.gain >= _HUGE_GAIN or most)
    guesses = most and order.before <= 1 / len(order.outputs)
    return "error" if (certain or guesses) and order.p_value <= _CERTAIN_AT else "warning"


def _notice(examined: Examined, order: Order, severity: Severity) -> Notice:
    """What was found, both lists, and what is to be sent instead."""
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
    from_one = shift == 1 and not counts[0]
    what, remedy = _said_of_shift(shift) if shift else (_said_of_order(mapping), _remedy(examined, likely))
    doubt = _DOUBT if severity == "warning" or order.after < _CERTAIN_RECALL else ""
    return Notice(
        "labels_from_one" if from_one else "label_order",
        f"{what}. The model is right on {100 * as_is:.1f} % of the {len(targets):,} calibration rows as they are, and "
        f"on {100 * as_mapped:.1f} % so understood. {remedy}{doubt}",
        {
            "accuracy_as_is": round(as_is, 6),
            "accuracy_as_mapped": round(as_mapped, 6),
            "recall_as_is": round(order.before, 6),
            "recall_as_mapped": round(order.after, 6),
            "model_order": first_names(names),
            "dataset_order": first_names(labels),
            "likely_order": first_names(likely),
            "mapping": _first_pairs(mapping),
            "rows": len(targets),
            "p_value": max(order.p_value, 1e-15),
        },
        severity,
    )


def _first_pairs(mapping: dict[str, str]) -> dict[str, str]:
    shorter = min(len(first_names(mapping)), len(first_names(mapping.values())))
    return dict(list(mapping.items())[:shorter])


def _shift(order: Order, counts: Integers) -> int:
    """The number by which nearly all labels are too large, 0 where there is none."""
    present = np.flatnonzero(counts)
    steps, many = np.unique(present - order.outputs[present], return_counts=True)
    most = int(steps[many.argmax()])
    fits = many.max() >= _AGREE * len(present) and len(present) > 2 and present[0] >= most
    return most if fits and (most < 0 or present[0] >= most) else 0


def _order_of_outputs(outputs: Integers, counts: Integers, labels: Sequence[str]) -> list[str]:
    """The label that each output seems to be; outputs that no row tells of take the labels that are left."""
    found: list[str | None] = [None] * len(outputs)
    present = np.flatnonzero(counts)
    for label in present.tolist():
        found[int(outputs[label])] = labels[label]
    left = iter([name for i, name in enumerate(labels) if not counts[i]])
    return [name if name is not None else next(left, "?") for name in found]


def _said_of_shift(shift: int) -> tuple[str, str]:
    what = "the labels start at 1" if shift == 1 else f"the labels are shifted by {shift}"
    return what, f"{'Subtract' if shift > 0 else 'Add'} {abs(shift)}"


def _said_of_order(mapping: dict[str, str]) -> str:
    shown = list(mapping.items())[:_SHOWN_PAIRS]
    pairs = ", ".join(f"label '{_short(label)}' is the model's '{_short(answer)}'" for label, answer in shown)
    more = f" and {len(mapping) - len(shown)} more" if len(mapping) > len(shown) else ""
    return f"the labels fit another order of the classes: {pairs}{more}"


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_LETTERS else f"{name[: _SHOWN_LETTERS - 1]}…"


def _remedy(examined: Examined, likely: Sequence[str]) -> str:
    """What to send instead."""
    if examined.dataset.label_names:
        return (
            "Send labels in the model's numbering; or labels that are names, and class_names=… with the model in the "
            "order of its outputs"
        )
    names = ",".join(map(_short, likely[:_SHOWN_NAMES])) + (",…" if len(likely) > _SHOWN_NAMES else "")
    remedy = f"Send class_names=… with the model in the order of its outputs, probably {names}"
    if examined.dataset.matched_by == "name":
        return remedy
    return f"The model has no names of its classes, so the dataset's were taken in their order. {remedy}"
