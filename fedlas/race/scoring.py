"""Scores on calibration rows, cross-fitting, and the calibrators that may compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fedlas import metrics
from fedlas.calibrators import Calibrator, softmax
from fedlas.metrics._checks import Floats, Ints, check_groups

_FOLDS = 5
#: Fewer calibration rows than this carry one number at most.
FEW_ROWS = 100
#: Richer calibrators are offered where they can be cross-fitted in seconds and have rows to learn from.
_ROWS_PER_CLASS = 10
_ISOTONIC_ROWS = 200
_MAX_MIXED_LOGITS = 5_000_000
_MAX_LOGITS = 1_500_000
_MAX_MATRIX_LOGITS = 500_000
_MAX_MATRIX_CLASSES = 100


@dataclass(frozen=True)
class CrossFitted:
    """A fitted calibrator, and the calibrated logits (N, K) of rows that it was not fitted on."""

    calibrator: Calibrator
    held_out: Floats


def score(logits: ArrayLike, targets: Ints, weights: Floats | None = None) -> dict[str, float]:
    """Scores of logits (N, K) that went through their calibrator, weighted by row but for the binned error."""
    probs = softmax(logits)
    return {
        "nll": float(np.average(metrics.row_scores(probs, targets, score="nll"), weights=weights)),
        "accuracy": accuracy(probs, targets, weights),
        "brier": float(np.average(metrics.row_scores(probs, targets, score="brier"), weights=weights)),
        "ece": metrics.ece(probs, targets),
    }


def accuracy(scores: ArrayLike, targets: Ints, weights: Floats | None = None) -> float:
    """The (weighted) share of rows whose highest score (N, K) is that of their class."""
    return float(np.average(np.asarray(scores).argmax(axis=1) == targets, weights=weights))


def post_hoc_names(num_classes: int, num_rows: int, task: str = "multiclass") -> tuple[str, ...]:
    """Calibrators that may compete for so many classes and calibration rows; the temperature always comes first.

    Two classes get those of the log-odds. With more, per-class and matrix scaling need a few rows per class, and are
    left out where five cross-fits would take long.

    With few rows only a temperature is fitted, shrunk towards 1.

    >>> post_hoc_names(10, 40)
    ('shrunken_temperature',)
    >>> post_hoc_names(2, 1000, "binary")
    ('temperature', 'mixture', 'affine', 'beta', 'quadratic', 'spline', 'isotonic')
    >>> post_hoc_names(10, 1000, "multiclass")
    ('temperature', 'mixture', 'structured_vector', 'structured_matrix', 'one_vs_rest', 'isotonic')
    """
    if task == "binary" and num_classes != 2:
        raise ValueError(f"a binary task needs num_classes 2, got {num_classes}")
    if num_rows < FEW_ROWS:
        return ("shrunken_temperature",)
    few = num_rows * num_classes <= _MAX_LOGITS
    names = ["temperature", "mixture"] if num_rows * num_classes <= _MAX_MIXED_LOGITS else ["temperature"]
    if num_classes == 2:
        names += ["affine", "beta", "quadratic", "spline"] if few else ["affine", "beta"]
    elif few and num_rows >= _ROWS_PER_CLASS * num_classes:
        names += ["structured_vector"]
        if num_classes <= _MAX_MATRIX_CLASSES and num_rows * num_classes <= _MAX_MATRIX_LOGITS:
            names += ["structured_matrix", "one_vs_rest"]
    if few and num_rows >= _ISOTONIC_ROWS:
        names += ["isotonic"]
    return tuple(names)


def lone_temperature(num_rows: int, num_classes: int) -> tuple[str]:
    """The calibrator of a job that fits a temperature alone: `mixture`, or a plain temperature where that takes long.

    The likelihood of a plain temperature is ruled by a few sure errors, which soften every answer; no other fit of one
    number mended that without a higher NLL (measured once, benchmarks/README.md).

    >>> lone_temperature(1000, 10), lone_temperature(50_000, 1000)
    (('mixture',), ('temperature',))
    """
    return ("mixture" if num_rows * num_classes <= _MAX_MIXED_LOGITS else "temperature",)


def cross_fitted_logits(
    kind: type[Calibrator], logits: Floats, targets: Ints, folds: Sequence[Ints], weights: Floats | None = None
) -> Floats:
    """Calibrated logits (N, K) of rows that were not fitted on: each fold by a fit on the rows outside of it."""
    calibrated = np.empty(np.shape(logits))
    for rows in folds:
        others = np.delete(np.arange(len(targets)), rows)
        others = others if len(others) else rows  # one row alone cannot be left out
        weighed = None if weights is None else weights[others]
        calibrated[rows] = kind().fit(logits[others], targets[others], weights=weighed)(logits[rows])
    return calibrated


def row_nll(logits: ArrayLike, targets: Ints) -> Floats:
    return metrics.row_scores(softmax(logits), targets, score="nll")


def make_folds(targets: Ints, *, groups: ArrayLike | None = None, seed: int, num_folds: int = _FOLDS) -> list[Ints]:
    """Rows of each fold, ascending: each row is in exactly one, classes are spread evenly and groups stay whole.

    Groups are dealt out like cards, sorted by their rarest class and then by size, so a class with as many groups as
    folds is in every fold. With a single group there is nothing to keep apart, and rows are dealt instead.

    >>> [fold.tolist() for fold in make_folds(np.array([0, 0, 1, 1]), groups=[7, 7, 8, 8], seed=0)]
    [[0, 1], [2, 3]]
    """
    codes = group_codes(groups, len(targets))
    if codes.max() == 0:
        codes = np.arange(len(targets))
    sizes = np.bincount(codes)
    frequencies = np.bincount(targets)[targets]
    # The class of a group is that of its rarest row: the last one written wins.
    rarest = np.empty(len(sizes), dtype=np.int64)
    order = np.argsort(-frequencies, kind="stable")
    rarest[codes[order]] = targets[order]
    dealt = np.lexsort((np.random.default_rng(seed).random(len(sizes)), -sizes, rarest))
    fold = np.empty(len(sizes), dtype=np.int64)
    fold[dealt] = np.arange(len(sizes)) % min(num_folds, len(sizes))
    return [np.flatnonzero(fold[codes] == i) for i in range(int(fold.max()) + 1)]


def group_codes(groups: ArrayLike | None, num_rows: int) -> Ints:
    """Groups as numbers 0, 1, …; without groups every row is its own."""
    codes = check_groups(groups, num_rows)
    return np.arange(num_rows) if codes is None else codes


def clearly_positive(gains: Floats, clusters: Ints, standard_errors: float, weights: Floats | None = None) -> bool:
    """True where the (weighted) mean gain exceeds so many standard errors, taken over whole clusters."""
    shares = np.full(len(gains), 1 / len(gains)) if weights is None else weights / weights.sum()
    mean = float(shares @ gains)
    centred = np.bincount(clusters, shares * (gains - mean))
    count = len(centred)
    error = float(np.sqrt(np.square(centred).sum() * count / max(count - 1, 1)))
    return mean > standard_errors * error and mean > 0
