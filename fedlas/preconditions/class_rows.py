"""The check of rows and classes: one class, contradicting labels, a label in disguise, a copied row."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2

import numpy as np

from fedlas.contract.profiles import Notice
from fedlas.data import Dataset
from fedlas.data.dataset import Array, Floats, Integers
from fedlas.data.duplicates import copied_rows, row_digests
from fedlas.data.labels import missing_classes
from fedlas.documents import first_names, shortened
from fedlas.preconditions.trials import Answers, Examined

#: Tables of codes and whole numbers have conflicts by nature: one row of nine of the US census's incomes. From this
#: share on, of rows that few others equal, they are a mistake; of images from the other.
_MIN_SHARE = 0.2
_MIN_SHARE_OF_IMAGES = 0.05
_MIN_EQUAL_ROWS = 4
_MAX_SHARE_OF_FEW = 0.5
#: With more rows or bytes only the calibration rows are read.
_MAX_ROWS = 1_000_000
_MAX_BYTES = 1 << 29
_MAX_ROWS_OF_A_SEARCH = 4_000
_MIN_ROWS = 100
_MAX_COLUMNS = 4_096
_MAX_CELLS = 2_000_000
#: The share of rows, classes alike, that a leaking column tells, and that no other column may tell.
_LEAKS = 0.995
_OTHERS = 0.97
#: Rows of the rarest class, under which a column may tell it by chance.
_MIN_ROWS_OF_CLASS = 10
#: Groups that the first of two claims at 95 % needs. Groups that all gain as much as the worst possible one would lose
#: have a p-value of two to the power of minus their number (`fedlas.metrics.betting_intervals`).
_MIN_GROUPS = ceil(log2(2 / 0.05))
#: Calibration rows from which a 95 % interval of the accuracy is no wider than ±0.2, (1.96 · 0.5 / 0.2)²: with fewer,
#: a model that is sure of 20 % too many rows looks like a calibrated one.
MIN_CALIBRATION_ROWS = 25
#: Priors may be far from the shares, that is what they are for. No owner means one of these: the shares of other
#: classes, a class twenty times as frequent as among the rows, or most rows of other classes.
_FAR = 0.15
_NEAR = 0.03
_TIMES = 20.0
_MAX_SHARE = 0.5


def conflicting_rows(examined: Examined) -> list[Notice]:
    """`conflicting_duplicates`, where many rows have the inputs of rows with another label."""
    dataset = examined.dataset
    size = sum(array.nbytes for array in dataset.inputs.values())
    rows = None if len(dataset) <= _MAX_ROWS and size <= _MAX_BYTES else dataset.rows("calibration")
    targets = dataset.targets if rows is None else dataset.targets[rows]
    _, inputs = np.unique(row_digests(list(dataset.inputs.values()), rows), return_inverse=True)
    pairs, counts = np.unique(inputs * examined.num_classes + targets, return_counts=True)
    owner = pairs // examined.num_classes
    kinds, equal = np.bincount(owner), np.bincount(inputs)
    conflicting = int(equal[kinds > 1].sum())
    share = conflicting / len(targets)
    images = any(array.ndim > 2 for array in dataset.inputs.values())
    among_few = int(equal[(kinds > 1) & (equal <= _MIN_EQUAL_ROWS)].sum()) / len(targets)
    if among_few < max(_MIN_SHARE_OF_IMAGES if images else _MIN_SHARE, _MAX_SHARE_OF_FEW * share):
        return []
    most = np.zeros(len(kinds), np.int64)
    np.maximum.at(most, owner, counts)
    reachable = float(most.sum()) / len(targets)
    return [
        Notice(
            code="conflicting_duplicates",
            message=f"{conflicting:,} of {len(targets):,} {'rows' if rows is None else 'calibration rows'} "
            f"({100 * share:.1f} %) have exactly the inputs of rows with another label, so no model can be right on "
            f"more than {100 * reachable:.1f} % of them: look for rows that were sent twice, and for labels that stand "
            "beside the wrong rows.",
            evidence={
                "rows": conflicting,
                "of": len(targets),
                "share": round(share, 6),
                "reachable_accuracy": round(reachable, 6),
                "examples": _examples(dataset, rows, inputs, kinds),
            },
        )
    ]


def _examples(dataset: Dataset, rows: Integers | None, inputs: Integers, kinds: Integers) -> list[list[int]]:
    """Up to five pairs of rows of the owner's file that are equal but for their labels."""
    pairs = []
    first = np.unique(inputs[kinds[inputs] > 1], return_index=True)
    for one in first[0][np.argsort(first[1])][:5]:
        places = np.flatnonzero(inputs == one)
        places = places if rows is None else rows[places]
        other = places[np.argmax(dataset.targets[places] != dataset.targets[places[0]])]
        pairs.append(dataset.in_file(np.array([places[0], other])).tolist())
    return pairs


def leaking_column(examined: Examined) -> list[Notice]:
    """`leaking_column`, where one column alone tells nearly every label and no other comes near it, or is a copy."""
    array = examined.inputs[0]
    if len(examined.inputs) != 1 or array.ndim != 2 or not 2 <= array.shape[1] <= _MAX_COLUMNS:
        return []
    most = min(_MAX_ROWS_OF_A_SEARCH, _MAX_CELLS // array.shape[1])
    rows = np.random.default_rng(0).permutation(len(examined.targets))[:most]
    present, targets = np.unique(examined.targets[rows], return_inverse=True)
    if len(rows) < _MIN_ROWS or len(present) < 2 or np.bincount(targets).min() < _MIN_ROWS_OF_CLASS:
        return []
    table = np.asarray(array[rows], np.float64)
    told = np.array([_told(column, targets, len(present)) for column in table.T])
    best = int(told.argmax())
    others = np.delete(told, best)
    values, codes = np.unique(table[:, best], return_inverse=True)
    # In a copy each value stands for one class and each class for one value.
    copy = len(np.unique(codes * len(present) + targets)) == len(values) == len(present)
    if told[best] < _LEAKS or (others.max() > _OTHERS and not copy):
        return []
    name = shortened(examined.dataset.columns[best]) if examined.dataset.columns else None
    named = f"Column {best} (counted from 0)" if name is None else f"The column '{name}'"
    right = float((examined.logits.argmax(axis=1) == examined.targets).mean())
    return [
        Notice(
            code="leaking_column",
            message=f"{named} alone tells the label of {100 * told[best]:.1f} % of the rows, the next best column of "
            f"{100 * others.max():.1f} % (classes count alike; the model is right on {100 * right:.1f} %): it is "
            "probably made from the label, and will not be known where the model is used.",
            evidence={
                "column": best if name is None else name,
                "index": best,
                "share_told": round(float(told[best]), 6),
                "next_best_share": round(float(others.max()), 6),
                "rows": len(rows),
            },
        )
    ]


def _told(column: Array, targets: Integers, num_classes: int) -> float:
    """The mean recall, on one half of the rows (N,), of the class of the nearest value in the other half."""
    half = len(column) // 2
    order = np.argsort(column[:half], kind="stable")
    known, values = column[:half][order], column[half:]
    right = np.clip(np.searchsorted(known, values), 1, half - 1)
    nearer = np.where(np.abs(known[right] - values) < np.abs(values - known[right - 1]), right, right - 1)
    hits = targets[order][nearer] == targets[half:]
    counts = np.bincount(targets[half:], minlength=num_classes)
    told = np.bincount(targets[half:], hits, minlength=num_classes)
    return float(np.mean(told[counts > 0] / counts[counts > 0]))


def class_rows(examined: Examined) -> list[Notice]:
    return [
        *few_rows(examined),
        *missing_classes(examined.dataset),
        *conflicting_rows(examined),
        *copies_across_splits(examined),
        *leaking_column(examined),
        *class_shares(examined),
        *few_groups(examined),
    ]


def rows_of_scores(answers: Answers) -> list[Notice]:
    """Notices of the rows of scores, whose inputs are not known."""
    return [
        *missing_classes(answers.dataset),
        *copies_across_splits(answers),
        *class_shares(answers),
        *few_groups(answers),
    ]


def copies_across_splits(examined: Answers) -> list[Notice]:
    """`copied_rows`, where rows of given splits that judge or promise are copies of calibration rows."""
    dataset = examined.dataset
    copies = None if dataset.drawn else copied_rows(dataset.inputs, dataset.targets, scores=type(examined) is Answers)
    if copies is None:
        return []
    known = copies[dataset.rows("calibration")]
    found = {name: int(np.isin(copies[dataset.rows(name)], known).sum()) for name in ("guarantee", "test")}
    counts = {name: count for name, count in found.items() if count}
    said = " and ".join(f"{count:,} of {len(dataset.rows(split)):,} {split} rows" for split, count in counts.items())
    message = (
        f"{said} are copies of calibration rows: what is measured and promised on them is too good. The splits stay as "
        "they were sent: leave the copies out, or send no splits, and copies are kept together."
    )
    return [Notice(code="copied_rows", message=message, evidence={"copies": counts})] if counts else []


def few_rows(examined: Examined) -> list[Notice]:
    """`few_rows`, where so few rows calibrate that they tell nothing."""
    if (rows := len(examined.targets)) >= MIN_CALIBRATION_ROWS:
        return []
    return [
        Notice(
            code="few_rows",
            message=f"{rows} calibration rows tell an accuracy to within ±{100 * 0.98 / rows**0.5:.0f} points, so "
            "that no gap "
            f"between confidence and accuracy can be seen: at least {MIN_CALIBRATION_ROWS} are needed, some hundred "
            "are better.",
            evidence={"split": "calibration", "rows": rows, "needed": MIN_CALIBRATION_ROWS},
            severity="error",
        )
    ]


def class_shares(examined: Answers) -> list[Notice]:
    """`class_shares`, where declared priors look like a mistake."""
    if examined.class_priors is None:
        return []
    names, weights = examined.dataset.class_names, examined.dataset.weights_of("calibration")
    counts = np.bincount(examined.targets, weights, minlength=len(names)) + 0.5
    shares, priors = counts / counts.sum(), np.array([examined.class_priors[name] for name in names])
    if (why := _mistaken(shares, priors, names)) is None:
        return []
    return [
        Notice(
            code="class_shares",
            message=f"The declared class_priors are far from the shares of the {len(examined.targets):,} calibration "
            "rows: "
            f"{why}.",
            evidence={
                "class_priors": _by_name(names, priors),
                "shares": _by_name(names, shares),
                "distance": round(_distance(shares, priors), 6),
            },
        )
    ]


def few_groups(examined: Answers) -> list[Notice]:
    """`few_groups`, where the test rows are of so few groups that no gain could be shown."""
    groups = examined.dataset.groups_of("test")
    if groups is None or (num_groups := len(np.unique(groups))) >= _MIN_GROUPS:
        return []
    return [
        Notice(
            code="few_groups",
            message=f"The test rows are of {num_groups} groups, which vary together, so that no gain, however large, "
            "could be "
            f"shown: from {_MIN_GROUPS} groups on a large one could.",
            evidence={"split": "test", "groups": num_groups, "needed": _MIN_GROUPS},
        )
    ]


def _mistaken(shares: Floats, priors: Floats, names: Sequence[str]) -> str | None:
    """Mistake in the priors (K,), in words; None where they may be meant."""
    # Sorted alike, both have the order in which they are as near to each other as they can be.
    nearest = np.empty_like(priors)
    nearest[np.argsort(shares, kind="stable")] = np.sort(priors)
    if (distance := _distance(shares, priors)) >= _FAR and _distance(shares, nearest) <= _NEAR:
        return "in another order of the classes they would fit, so they probably stand beside the wrong classes"
    times = priors / shares
    rare = int(times.argmax())
    if times[rare] >= _TIMES:
        return f"'{names[rare]}' is said to be {times[rare]:.0f} times as frequent as it is among them"
    return f"{100 * distance:.0f} % of the rows would have to be of other classes" if distance > _MAX_SHARE else None


def _distance(shares: Floats, priors: Floats) -> float:
    """The share of rows that would have to change their class (total variation)."""
    return float(np.abs(shares - priors).sum() / 2)


def _by_name(names: Sequence[str], values: Floats) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(first_names(names), values, strict=False)}
