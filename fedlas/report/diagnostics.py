"""FedLAS's own signs: do the features know where the model errs, and what did gate and smoothing make of it?

FedLAS smooths by the feature norm. Where the norm says nothing about correctness, the method has nothing to work with,
and whatever was gained came from training on. It knows arrays, and no network.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.metrics import Estimate
from fedlas.metrics.proportions import wilson

Floats = NDArray[np.float64]

#: An AUROC nearer to 1/2 than this is of no use, however surely it differs from 1/2.
USEFUL = 0.05


def fedlas_signs(
    *,
    feature_norms: ArrayLike,
    correct: ArrayLike,
    epsilon: ArrayLike | None = None,
    gate: ArrayLike | None = None,
    gate_before: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> dict[str, Any]:
    """What norms, smoothing and gate of N rows say about right and wrong rows, ready for JSON.

    Args:
        feature_norms: ‖f‖₁ of the penultimate features (N,).
        correct: whether the model is right (N,), bool or 0 and 1.
        epsilon: the smoothing each row got or would get (N,).
        gate, gate_before: the gate's sign, +1 or −1 (N,), after and before training.

    Returns:
        `num_rows`, `num_right`, `feature_norm` (AUROC of the norm for correctness with interval, and `useful`),
        `epsilon` (mean on `right` and `wrong` rows and `wrong_minus_right`, with intervals), `gate`
        (`positive`: share of +1; `flipped`: share that training turned) and `sentences`. None where a sign is not
        given or cannot be computed.

    Raises:
        ValueError: arrays of different lengths, not finite, no rows, or a gate that is not ±1.
    """
    norms, right = _column("feature_norms", feature_norms), _column("correct", correct)
    if not np.isin(right, (0, 1)).all() or len(right) != len(norms):
        raise ValueError(f"correct must be {len(norms)} times 0 or 1, got shape {right.shape}")
    is_right = right == 1
    norm = _norm_sign(norms, is_right, confidence_level)
    smoothing = (
        None
        if epsilon is None
        else _smoothing_sign(_column("epsilon", epsilon, len(norms)), is_right, confidence_level)
    )
    turned = None if gate is None else _gate_sign(gate, gate_before, len(norms), confidence_level)
    return {
        "num_rows": len(norms),
        "num_right": int(is_right.sum()),
        "feature_norm": norm,
        "epsilon": smoothing,
        "gate": turned,
        "sentences": [*_norm_sentences(norm), *_smoothing_sentences(smoothing), *_gate_sentences(turned)],
    }


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
    variance = _variance(above) / m + _variance(below) / n
    error = sqrt(max(variance, _smallest_variance(value, m, n)))
    half = NormalDist().inv_cdf((1 + confidence_level) / 2) * error
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def _middle_ranks(values: Floats) -> Floats:
    _, which, sizes = np.unique(values, return_inverse=True, return_counts=True)
    middle: Floats = (np.cumsum(sizes) - (sizes - 1) / 2)[which]
    return middle


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25


def _smallest_variance(value: float, m: int, n: int) -> float:
    """Hanley and McNeil's variance (1982) at half a pair from the end: about 1/(2·m·n), never 0."""
    a = min(max(value, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    twice, square = a / (2 - a), 2 * a**2 / (1 + a)
    full = (a * (1 - a) + (m - 1) * (twice - a**2) + (n - 1) * (square - a**2)) / (m * n)
    return full if value in (0.0, 1.0) else 0.0


def _norm_sign(norms: Floats, right: NDArray[np.bool_], level: float) -> dict[str, Any] | None:
    area = auroc(norms, right, confidence_level=level)
    if area is None:
        return None
    shown = not area.low <= 0.5 <= area.high
    return {"auroc": area.as_dict(), "useful": bool(shown and abs(area.value - 0.5) >= USEFUL)}


def _smoothing_sign(epsilon: Floats, right: NDArray[np.bool_], level: float) -> dict[str, Any]:
    on_right, on_wrong = _mean(epsilon[right], level), _mean(epsilon[~right], level)
    difference = None
    if on_right is not None and on_wrong is not None:
        value = on_wrong.value - on_right.value
        half = sqrt((on_wrong.high - on_wrong.value) ** 2 + (on_right.high - on_right.value) ** 2)
        difference = Estimate(value, value - half, value + half)
    parts = {"right": on_right, "wrong": on_wrong, "wrong_minus_right": difference}
    return {name: part and part.as_dict() for name, part in parts.items()}


def _mean(values: Floats, level: float) -> Estimate | None:
    """Mean with its normal interval; None of fewer than two rows."""
    if len(values) < 2:
        return None
    half = NormalDist().inv_cdf((1 + level) / 2) * float(values.std(ddof=1)) / sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)


def _gate_sign(gate: ArrayLike, before: ArrayLike | None, num_rows: int, level: float) -> dict[str, Any]:
    signs = _signs("gate", gate, num_rows)
    flipped = None if before is None else _share(signs != _signs("gate_before", before, num_rows), level)
    return {"positive": _share(signs > 0, level), "flipped": flipped}


def _share(rows: NDArray[np.bool_], level: float) -> dict[str, float]:
    low, high = wilson(rows.mean(), len(rows), level)
    return Estimate(float(rows.mean()), float(low), float(high)).as_dict()


def _norm_sentences(norm: dict[str, Any] | None) -> list[str]:
    if norm is None:
        return ["All rows are right, or all are wrong, so nothing can tell whether the feature norm knows correctness."]
    area = norm["auroc"]
    figure = f"(AUROC {area['value']:.2f}, interval {area['low']:.2f} to {area['high']:.2f}; 0.50 is guessing)"
    if not norm["useful"]:
        return [
            f"The feature norm knows next to nothing about correctness here {figure}, so FedLAS has nothing "
            "to work with: a gain, if there is one, came from training on."
        ]
    which = "larger" if area["value"] > 0.5 else "smaller"
    return [f"The feature norm tells right rows from wrong ones {figure}: it is {which} where the model is right."]


def _smoothing_sentences(smoothing: dict[str, Any] | None) -> list[str]:
    difference = smoothing and smoothing["wrong_minus_right"]
    if not smoothing or not difference:
        return []
    right, wrong = smoothing["right"]["value"], smoothing["wrong"]["value"]
    start = f"Labels are smoothed by {wrong:.3f} where the model is wrong and by {right:.3f} where it is right"
    if difference["low"] > 0:
        return [f"{start}: more where it errs, as intended."]
    if difference["high"] < 0:
        return [f"{start}: less where it errs, which is the wrong way round."]
    return [f"{start}: no difference is shown, so the smoothing is as good as uniform."]


def _gate_sentences(gate: dict[str, Any] | None) -> list[str]:
    if gate is None:
        return []
    if gate["flipped"] is None:
        return [
            "The gate reads a large norm as a reason for more smoothing on "
            f"{100 * gate['positive']['value']:.0f} % of the rows."
        ]
    return [f"Training changed the gate's answer on {100 * gate['flipped']['value']:.0f} % of the rows."]


def _column(name: str, values: ArrayLike, num_rows: int | None = None) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if (
        column.ndim != 1
        or len(column) == 0
        or len(column) != (num_rows or len(column))
        or not np.isfinite(column).all()
    ):
        needed = f"({num_rows},)" if num_rows else "(N,) with N >= 1"
        raise ValueError(f"{name} must be {needed} and finite, got shape {column.shape}")
    return column


def _signs(name: str, values: ArrayLike, num_rows: int) -> Floats:
    signs = _column(name, values, num_rows)
    # The sign of an exact tie is 0: neither direction.
    if not np.isin(signs, (-1, 0, 1)).all():
        raise ValueError(f"{name} must hold signs, +1 or -1, got {signs[~np.isin(signs, (-1, 0, 1))][0]:g}")
    return signs
