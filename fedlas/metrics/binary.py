"""Binary metrics: calibration line, average precision, and the calibration of the positive class.

The top label hides it: a model that never predicts the positive class may be confident, accurate and useless.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from fedlas.contract.figures import Estimate, PositiveClassFigures
from fedlas.metrics.calibration_error import equal_width_bins
from fedlas.metrics.l2_calibration_error import L2CalibrationError
from fedlas.metrics.statistics import (
    Floats,
    Ints,
    ResamplingUnits,
    check_count,
    check_groups,
    check_level,
    check_probs,
    check_rows,
    percentile_interval,
)

#: Probabilities are kept this far from 0 and 1 before their log-odds are taken.
MARGIN = 1e-12


@dataclass(frozen=True)
class CalibrationLine:
    """log-odds(y = 1) = intercept + slope·log-odds(p): 0 and 1 for a calibrated model, slope < 1 if overconfident."""

    slope: Estimate
    intercept: Estimate


def positive_probs(probs: ArrayLike, targets: ArrayLike, positive: int = 1) -> tuple[Floats, Floats]:
    """Probability of the positive class (N,) and whether it came true, 0 or 1 (N,), of a two-class problem.

    Raises:
        ValueError: as `accuracy`, K is not 2, or `positive` is neither 0 nor 1.
    """
    rows, labels = check_rows(probs, targets)
    if rows.shape[1] != 2:
        raise ValueError(f"probs must be (N, 2) for a positive class, got {rows.shape}")
    if positive not in (0, 1):
        raise ValueError(f"positive must be 0 or 1, got {positive!r}")
    return np.minimum(rows[:, positive], 1.0), (labels == positive).astype(np.float64)


def calibration_line(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    positive: int = 1,
    groups: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> CalibrationLine | None:
    """Cox's calibration slope and intercept (Cox 1958), by maximum likelihood, with robust normal intervals.

    Rows of one group may depend on each other. None where no line exists: one class only, one log-odds only, or
    classes that the probabilities separate perfectly.

    Raises:
        ValueError: as `positive_probs`, groups that are not (N,), or a level out of range.
    """
    p, hits = positive_probs(probs, targets, positive)
    level, ids = check_level(confidence_level), check_groups(groups, len(p))
    moved = p.clip(MARGIN, 1 - MARGIN)
    odds = np.log(moved) - np.log1p(-moved)
    ones, zeros = odds[hits == 1], odds[hits == 0]
    if len(ones) == 0 or len(zeros) == 0 or odds.min() == odds.max():
        return None
    if ones.min() >= zeros.max() or zeros.min() >= ones.max():
        return None  # the line of maximum likelihood is infinitely steep
    design = np.stack([np.ones(len(p)), odds / np.abs(odds).max()], axis=1)
    fitted = _logistic(design, hits)
    if fitted is None:
        return None
    beta, bread = fitted
    units = ResamplingUnits(ids, len(p)).sums(design * (hits - _sigmoid(design @ beta))[:, None])
    errors = np.sqrt(np.diag(bread @ (units.T @ units) @ bread) * len(units) / max(len(units) - 1, 1))
    half = NormalDist().inv_cdf((1 + level) / 2) * errors
    intercept, slope = (
        Estimate(value=float(b), low=float(b - h), high=float(b + h)) for b, h in zip(beta, half, strict=True)
    )
    scale = float(np.abs(odds).max())
    return CalibrationLine(
        Estimate(value=slope.value / scale, low=slope.low / scale, high=slope.high / scale), intercept
    )


def _logistic(design: Floats, hits: Floats) -> tuple[Floats, Floats] | None:
    """Coefficients and inverse information by Newton's method with halved steps."""
    beta, loss = np.zeros(design.shape[1]), len(hits) * float(np.log(2))
    for _ in range(100):
        p = _sigmoid(design @ beta)
        information = (design * (p * (1 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, design.T @ (hits - p))
        except np.linalg.LinAlgError:
            return None
        if float(np.abs(step).max()) < 1e-10 * (1 + float(np.abs(beta).max())):
            inverse: Floats = np.linalg.inv(information).astype(np.float64)
            return beta, inverse
        for _ in range(40):
            values = design @ (beta + step)
            tried = float((np.logaddexp(0, values) - hits * values).sum())
            if tried <= loss + 1e-12 * abs(loss):
                break
            step = step / 2
        beta, loss = beta + step, tried
    return None


def _sigmoid(values: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(values / 2))


def average_precision(probs: ArrayLike, targets: ArrayLike, *, positive: int = 1) -> float | None:
    """Σ_n (R_n − R_{n−1})·P_n over falling thresholds, the area under precision and recall; None without positives.

    Raises:
        ValueError: as `positive_probs`.

    >>> average_precision([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2]], [1, 0, 1])  # (1 + 2/3) / 2
    0.8333333333333333
    """
    p, hits = positive_probs(probs, targets, positive)
    if not hits.any():
        return None
    return float(PrecisionRecall(p, hits).areas(np.ones((1, len(p)), dtype=np.int64))[0])


class PrecisionRecall:
    """The order of rows by the positive class's probability, ready for the average precision of many resamples."""

    def __init__(self, scores: Floats, hits: Floats) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._hits = hits[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(scores[self._order])), len(scores) - 1)

    def areas(self, counts: Ints) -> Floats:
        """Average precision (R,), NaN where a resample holds no positive, given how often it holds each row (R, N)."""
        ordered = counts[:, self._order]
        answered = np.cumsum(ordered, axis=1)[:, self._ends].astype(np.float64)
        hits = np.cumsum(ordered * self._hits, axis=1)[:, self._ends]
        area = (np.diff(hits, axis=1, prepend=0.0) * hits / np.maximum(answered, 1)).sum(axis=1)
        return np.where(hits[:, -1] > 0, area / np.maximum(hits[:, -1], 1), np.nan)


def positive_class(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    positive: int = 1,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> PositiveClassFigures:
    """Calibration and ranking of the positive class; recall and precision are those of the most probable class.

    Raises:
        ValueError: as `positive_probs`, or an option is out of range.
    """
    p, hits = positive_probs(probs, targets, positive)
    level, ids = check_level(confidence_level), check_groups(groups, len(p))
    num_bins = check_count("num_bins", num_bins)
    said = check_probs(probs).argmax(axis=1) == positive
    gaps = np.bincount(equal_width_bins(p, num_bins), p - hits)
    varies = ids is None or int(ids.max()) > 0  # an interval takes two groups
    error = L2CalibrationError(p, hits, num_bins=num_bins, groups=ids).estimate(level) if varies else None
    return PositiveClassFigures(
        prevalence=float(hits.mean()),
        mean_probability=float(p.mean()),
        ece=float(np.abs(gaps).sum() / len(p)),
        calibration_error_l2=error,
        average_precision=_average_precision(p, hits, ids, check_count("num_resamples", num_resamples), level, seed),
        recall=float(hits[said].sum() / hits.sum()) if hits.any() else None,
        precision=float(hits[said].mean()) if said.any() else None,
    )


def _average_precision(
    p: Floats, hits: Floats, groups: Ints | None, num_resamples: int, level: float, seed: int
) -> Estimate | None:
    if not hits.any():
        return None
    whole, draws = ResamplingUnits(groups, len(p)).row_draws(PrecisionRecall(p, hits).areas, num_resamples, seed)
    value, drawn = float(whole), draws[~np.isnan(draws)]
    low, high = percentile_interval(drawn, level) if len(drawn) else (value, value)
    return Estimate(value=value, low=min(low, value), high=max(high, value))
