"""Evaluation: all metrics of one model, or of the difference of two, with intervals or noise floors.

Accuracy, NLL, Brier, AURC and AUGRC come with percentile bootstrap intervals (paired for a difference), the squared
calibration error with its own interval, and the binned errors beside their noise floor. Resampling takes whole groups
where rows belong to groups; the noise floor does not know groups. Where every row is right, a bootstrap interval has no
width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedlas.metrics._checks import Floats, Ints, check_count, check_groups, check_level, check_rows
from fedlas.metrics.bootstrap import Estimate, ResamplingUnits, percentile_interval
from fedlas.metrics.calibration_error import adaptive_ece, classwise_ece, ece
from fedlas.metrics.l2_calibration_error import top_label_error
from fedlas.metrics.noise_floor import BinnedEstimate, floor_draws
from fedlas.metrics.proper_scores import proper_rows
from fedlas.metrics.selective import RiskCoverage

#: The order in which metrics are shown.
METRICS = (
    "accuracy",
    "nll",
    "brier",
    "calibration_error_l2",
    "ece",
    "adaptive_ece",
    "classwise_ece",
    "aurc",
    "augrc",
)
_BINNED = {"ece": ece, "adaptive_ece": adaptive_ece, "classwise_ece": classwise_ece}

#: Metrics by name, in the order of `METRICS`.
Estimates = dict[str, Estimate | BinnedEstimate]


def evaluate(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Estimates:
    """All metrics of probabilities (N, K) against class indices (N,), keyed as in `METRICS`.

    Args:
        groups: labels (N,) of groups whose rows are resampled together.

    Returns:
        `Estimate(value, low, high)`, or `BinnedEstimate(value, floor_low, floor_high)` for the three ECEs.

    Raises:
        ValueError: as `accuracy`, or an option is out of range.

    >>> report = evaluate([[0.9, 0.1], [0.2, 0.8]] * 50, [0, 1] * 50)
    >>> report["accuracy"]
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    rows, labels = check_rows(probs, targets)
    level, ids = check_level(confidence_level), check_groups(groups, len(rows))
    num_bins, num_resamples = check_count("num_bins", num_bins), check_count("num_resamples", num_resamples)
    scores, areas = proper_rows(rows, labels), [RiskCoverage(rows, labels)]
    report: Estimates = dict(_resampled(scores, areas, ResamplingUnits(ids, len(rows)), num_resamples, level, seed))
    squared = top_label_error(rows, labels, num_bins=num_bins, groups=ids)
    report["calibration_error_l2"] = squared.estimate(level)
    draws = floor_draws(rows, num_bins=num_bins, num_draws=num_resamples, seed=seed)
    report |= _binned([metric(rows, labels, num_bins=num_bins) for metric in _BINNED.values()], draws, level)
    return {name: report[name] for name in METRICS}


def compare(
    probs: ArrayLike,
    baseline_probs: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    num_bins: int = 15,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Estimates:
    """All metrics of `probs` minus those of `baseline_probs` on the same rows, paired.

    The floor of a binned difference is the range it takes when both models are calibrated, with common random numbers.

    Raises:
        ValueError: as `accuracy`, or the two models do not have the same rows and classes.
    """
    (rows, labels), (base, _) = check_rows(probs, targets), check_rows(baseline_probs, targets)
    if rows.shape != base.shape:
        raise ValueError(f"baseline_probs must be {rows.shape}, as probs, got {base.shape}")
    level, ids = check_level(confidence_level), check_groups(groups, len(rows))
    num_bins, num_resamples = check_count("num_bins", num_bins), check_count("num_resamples", num_resamples)
    scores = proper_rows(rows, labels) - proper_rows(base, labels)
    areas = [RiskCoverage(rows, labels), RiskCoverage(base, labels)]
    report: Estimates = dict(_resampled(scores, areas, ResamplingUnits(ids, len(rows)), num_resamples, level, seed))
    ours, theirs = (top_label_error(p, labels, num_bins=num_bins, groups=ids) for p in (rows, base))
    report["calibration_error_l2"] = ours.minus(theirs, level)
    our_draws, their_draws = (
        floor_draws(p, num_bins=num_bins, num_draws=num_resamples, seed=seed) for p in (rows, base)
    )
    values = [
        metric(rows, labels, num_bins=num_bins) - metric(base, labels, num_bins=num_bins) for metric in _BINNED.values()
    ]
    report |= _binned(values, our_draws - their_draws, level)
    return {name: report[name] for name in METRICS}


def _resampled(
    scores: Floats, areas: list[RiskCoverage], units: ResamplingUnits, num_resamples: int, level: float, seed: int
) -> dict[str, Estimate]:
    """Accuracy, NLL, Brier from row scores (N, 3), AURC and AUGRC (of the first minus any second), resampled alike."""
    sums = units.sums(scores)
    draws = []
    for counts in units.resamples(num_resamples, seed):
        draws.append(np.column_stack([units.means(counts, sums), _areas(areas, units.of_rows(counts))]))
    everything = np.concatenate(draws)
    whole = np.ones((1, len(scores)), dtype=np.int64)
    values = [*scores.mean(axis=0), *_areas(areas, whole)[0]]
    return {
        name: Estimate(float(value), *percentile_interval(column, level))
        for name, value, column in zip(("accuracy", "nll", "brier", "aurc", "augrc"), values, everything.T, strict=True)
    }


def _areas(areas: list[RiskCoverage], counts: Ints) -> Floats:
    first, *others = (part.both(counts) for part in areas)
    return first - others[0] if others else first


def _binned(values: list[float], draws: Floats, level: float) -> dict[str, BinnedEstimate]:
    return {
        name: BinnedEstimate(value, *percentile_interval(column, level))
        for name, value, column in zip(_BINNED, values, draws.T, strict=True)
    }
