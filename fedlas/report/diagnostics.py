"""FedLAS's own diagnostics: how well the feature norm predicts correctness, and what gate and smoothing make of it.

FedLAS smooths by the feature norm. Where the norm says nothing about correctness, the method has nothing to work with,
and a gain comes from further training.

Label noise: how often the verdict stays the same where some test labels are replaced by wrong ones.

The simulation adds errors to those that the labels already have; it cannot tell the verdict on the true labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.contract.figures import Estimate
from fedlas.contract.sections import (
    Diagnostics,
    GateDiagnostic,
    LabelNoise,
    NoiseLevel,
    NormDiagnostic,
    SmoothingDiagnostic,
)
from fedlas.metrics.statistics import Floats, Ints, wilson

#: An AUROC nearer to 1/2 than this is of no use, even where the difference is shown.
USEFUL = 0.05
#: Mean smoothings that differ by less than this share are about the same, even where the difference is shown.
SAME = 0.1


def fedlas_diagnostics(
    *,
    feature_norms: ArrayLike,
    correct: ArrayLike,
    epsilon: ArrayLike | None = None,
    gate: ArrayLike | None = None,
    gate_before: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> Diagnostics:
    """Diagnostics of right and wrong rows by norms, smoothing and gate of N rows.

    Args:
        feature_norms: ‖f‖₁ of the penultimate features (N,).
        correct: whether the model is right (N,), bool or 0 and 1.
        epsilon: the smoothing each row got or would get (N,).
        gate, gate_before: the gate's sign, +1 or −1 (N,), after and before training.

    Raises:
        ValueError: arrays of different lengths, not finite, no rows, or a gate that is not ±1.
    """
    norms, right = _column("feature_norms", feature_norms), _column("correct", correct)
    if not np.isin(right, (0, 1)).all() or len(right) != len(norms):
        raise ValueError(f"correct must be {len(norms)} times 0 or 1, got shape {right.shape}")
    is_right, level = right == 1, confidence_level
    norm = _norm(norms, is_right, level)
    smoothing = None if epsilon is None else _smoothing(_column("epsilon", epsilon, len(norms)), is_right, level)
    signs = None if gate is None else _gate(gate, gate_before, len(norms), level)
    return Diagnostics(
        num_rows=len(norms),
        num_right=int(is_right.sum()),
        feature_norm=norm,
        epsilon=smoothing,
        gate=signs,
        sentences=(_norm_sentence(norm), *_smoothing_sentences(smoothing)),
    )


def auroc(scores: ArrayLike, positive: ArrayLike, *, confidence_level: float = 0.95) -> Estimate | None:
    """P(score of a positive > score of a negative), ties half, with DeLong's interval (DeLong et al. 1988).

    Where the two do not overlap the variance is taken half a pair away from 0 or 1, so that the interval keeps a width.
    None where all rows are of one kind.

    >>> auroc([3.0, 2.0, 1.0, 2.0], [1, 1, 0, 0]).value  # (1 + 1 + 1 + 1/2) / 4
    0.875
    """
    values, ones = _column("scores", scores), np.asarray(positive).astype(bool)
    m, n = int(ones.sum()), int((~ones).sum())
    if m == 0 or n == 0:
        return None
    ranks = _middle_ranks(values)
    above = (ranks[ones] - _middle_ranks(values[ones])) / n
    below = 1 - (ranks[~ones] - _middle_ranks(values[~ones])) / m
    value = float(above.mean())
    error = sqrt(max(_variance(above) / m + _variance(below) / n, _smallest_variance(value, m, n)))
    half = NormalDist().inv_cdf((1 + confidence_level) / 2) * error
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def _middle_ranks(values: Floats) -> Floats:
    _, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[which]


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25


def _smallest_variance(value: float, m: int, n: int) -> float:
    """Hanley and McNeil's variance (1982) at half a pair from the end: about 1/(2·m·n), never 0."""
    a = min(max(value, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    twice, square = a / (2 - a), 2 * a**2 / (1 + a)
    full = (a * (1 - a) + (m - 1) * (twice - a**2) + (n - 1) * (square - a**2)) / (m * n)
    return full if value in (0.0, 1.0) else 0.0


def _norm(norms: Floats, right: NDArray[np.bool_], level: float) -> NormDiagnostic | None:
    area = auroc(norms, right, confidence_level=level)
    if area is None:
        return None
    return NormDiagnostic(auroc=area, useful=bool(not area.low <= 0.5 <= area.high and abs(area.value - 0.5) >= USEFUL))


def _smoothing(epsilon: Floats, right: NDArray[np.bool_], level: float) -> SmoothingDiagnostic:
    on_right, on_wrong = _mean(epsilon[right], level), _mean(epsilon[~right], level)
    if on_right is None or on_wrong is None:
        return SmoothingDiagnostic(right=on_right, wrong=on_wrong, wrong_minus_right=None)
    value = on_wrong.value - on_right.value
    half = sqrt((on_wrong.high - on_wrong.value) ** 2 + (on_right.high - on_right.value) ** 2)
    return SmoothingDiagnostic(
        right=on_right, wrong=on_wrong, wrong_minus_right=Estimate(value=value, low=value - half, high=value + half)
    )


def _mean(values: Floats, level: float) -> Estimate | None:
    if len(values) < 2:
        return None
    mean = float(values.mean())
    half = NormalDist().inv_cdf((1 + level) / 2) * float(values.std(ddof=1)) / sqrt(len(values))
    return Estimate(value=mean, low=mean - half, high=mean + half)


def _gate(gate: ArrayLike, before: ArrayLike | None, num_rows: int, level: float) -> GateDiagnostic:
    signs = _signs("gate", gate, num_rows)
    flipped = None if before is None else _share(signs != _signs("gate_before", before, num_rows), level)
    return GateDiagnostic(positive=_share(signs > 0, level), flipped=flipped)


def _share(rows: NDArray[np.bool_], level: float) -> Estimate:
    low, high = wilson(rows.mean(), len(rows), level)
    return Estimate(value=float(rows.mean()), low=float(low), high=float(high))


def _norm_sentence(norm: NormDiagnostic | None) -> str:
    if norm is None:
        return "All rows are right or all are wrong, so nothing can tell whether the feature norm predicts correctness."
    if not norm.useful:
        return (
            "The feature norm, by which FedLAS tells rows that it may get wrong from others, hardly predicts "
            "correctness here: a gain, if there is one, comes from further training."
        )
    which = "larger" if norm.auroc.value > 0.5 else "smaller"
    return f"The feature norm separates right rows from wrong ones: it is {which} where the model is right."


def _smoothing_sentences(smoothing: SmoothingDiagnostic | None) -> list[str]:
    if smoothing is None or not smoothing.right or not smoothing.wrong or not smoothing.wrong_minus_right:
        return []
    purpose = "FedLAS means to smooth labels more where the model errs"
    apart, usual = smoothing.wrong_minus_right, smoothing.right.value
    if apart.low <= 0 <= apart.high or abs(apart.value) < SAME * usual:
        return [f"{purpose}; here it smoothed right and wrong rows about alike, as plain label smoothing does."]
    if apart.value > 0:
        return [f"{purpose}, and did so here."]
    return [
        f"{purpose}; here it smoothed those rows less, so that a gain, if there is one, does not come from its idea."
    ]


def _column(name: str, values: ArrayLike, num_rows: int | None = None) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) != (num_rows or max(1, len(column))) or not np.isfinite(column).all():
        needed = f"({num_rows},)" if num_rows else "(N,) with N >= 1"
        raise ValueError(f"{name} must be {needed} and finite, got shape {column.shape}")
    return column


def _signs(name: str, values: ArrayLike, num_rows: int) -> Floats:
    signs = _column(name, values, num_rows)
    # The sign of an exact tie is 0: neither direction.
    if (strange := signs[~np.isin(signs, (-1, 0, 1))]).size:
        raise ValueError(f"{name} must hold signs, +1 or -1, got {strange[0]:g}")
    return signs


SHARES = (0.01, 0.05, 0.10)


def sensitivity(
    rejudge: Callable[[Ints], str],
    targets: ArrayLike,
    num_classes: int,
    *,
    shares: Sequence[float] = SHARES,
    draws: int = 20,
    seed: int = 0,
) -> LabelNoise:
    """Redraw a share of the labels to another class, evenly, and judge again, `draws` times per share.

    Args:
        rejudge: the verdict for class indices (N,) of the same test rows. It must not be entered in the evaluation
            ledger: only the verdict on the labels as they are counts.
        targets: class indices (N,) of the test rows.

    >>> sensitivity(lambda labels: "unchanged", [0, 1] * 50, 2, shares=[0.05]).sentences
    ('With up to 5 % wrong test labels the verdict stays the same.',)
    """
    labels = np.asarray(targets, np.int64)
    verdict = rejudge(labels.copy())
    rng = np.random.default_rng(seed)
    levels = []
    for share in shares:
        wrong = max(1, round(share * len(labels)))
        counts = Counter(rejudge(_with_errors(labels, num_classes, wrong, rng)) for _ in range(draws))
        verdicts = {name: count / draws for name, count in sorted(counts.items())}
        levels.append(NoiseLevel(share=float(share), rows=wrong, verdicts=verdicts, same=counts[verdict]))
    return LabelNoise(verdict=verdict, draws=draws, levels=tuple(levels), sentences=_sentences(levels, draws))


def _sentences(levels: Sequence[NoiseLevel], draws: int) -> tuple[str, ...]:
    firm = [level.share for level in levels if level.same == draws]
    changed = [level for level in levels if level.same < draws]
    most = max((share for share in firm if all(share < level.share for level in changed)), default=None)
    return (
        *([f"With up to {100 * most:g} % wrong test labels the verdict stays the same."] if most else []),
        *(
            f"With {100 * level.share:g} % wrong test labels the verdict would be the same in {level.same} of {draws} "
            "draws."
            for level in changed
        ),
    )


def _with_errors(labels: Ints, num_classes: int, wrong: int, rng: np.random.Generator) -> Ints:
    changed = labels.copy()
    rows = rng.choice(len(labels), size=wrong, replace=False)
    # A step of 1..K−1 around the circle of classes reaches every other class with the same chance.
    changed[rows] = (changed[rows] + rng.integers(1, num_classes, size=wrong)) % num_classes
    return changed
