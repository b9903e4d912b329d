"""The sections of a report as plain numbers, each from probabilities and labels; it writes no sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Options = Mapping[str, Any]

#: More rows in a table are read by nobody; the worst come first.
MAX_SHOWN = 50
#: The share of rows left to a person in the sentence about abstaining.
SET_ASIDE = 0.2


def as_dicts(estimates: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: estimate.as_dict() for name, estimate in estimates.items()}


def reliability(probs: Floats, targets: Ints, options: Options) -> dict[str, Any]:
    """The curve and its consistency band, bin by bin; empty bins have counts 0 and no values."""
    curve = metrics.reliability_curve(probs, targets, num_bins=options["num_bins"])
    band = metrics.consistency_band(probs, **options)
    return {
        "edges": np.asarray(curve.edges).tolist(),
        "counts": np.asarray(curve.counts).tolist(),
        "mean_confidence": np.asarray(curve.mean_confidence).tolist(),
        "accuracy": np.asarray(curve.accuracy).tolist(),
        "band_low": np.asarray(band.low).tolist(),
        "band_high": np.asarray(band.high).tolist(),
    }


def confidence(probs: Floats, targets: Ints, options: Options) -> dict[str, float]:
    """What the model says in the mean, how often it is right, and the ECE split by its sign."""
    signed = metrics.signed_ece(probs, targets, num_bins=options["num_bins"])
    return {
        "mean_confidence": float(probs.max(axis=1).mean()),
        "accuracy": metrics.accuracy(probs, targets),
        "over_confidence": signed.over_confidence,
        "under_confidence": signed.under_confidence,
    }


def calibration_test(probs: Floats, targets: Ints, options: Options) -> dict[str, float]:
    return metrics.calibration_test(
        probs, targets, num_bins=options["num_bins"], num_draws=options["num_resamples"], seed=options["seed"]
    ).as_dict()


def risk_coverage(probs: Floats, targets: Ints, groups: Ints | None, options: Options) -> dict[str, Any]:
    """The curve, rounded to a millionth, and what setting aside the least sure rows would leave."""
    curve = metrics.risk_coverage_curve(probs, targets, groups=groups, confidence_level=options["confidence_level"])
    lists = {name: np.round(values, 6).tolist() for name, values in vars(curve).items()}
    # Where many rows are equally sure, they stay together, and fewer than asked are set aside.
    i = int(np.argmax(curve.coverage >= 1 - SET_ASIDE - 1e-9))
    rest = {"value": curve.error_rate[i], "low": curve.low[i], "high": curve.high[i]}
    return {
        **lists,
        "set_aside": {"share": 1 - curve.coverage[i], "threshold": curve.thresholds[i], "error_rate": rest},
    }


def classes(
    probs: Floats, targets: Ints, groups: Ints | None, names: Sequence[str], options: Options
) -> dict[str, Any]:
    table = metrics.class_table(
        probs,
        targets,
        groups=groups,
        num_bins=options["num_bins"],
        confidence_level=options["confidence_level"],
        max_classes=MAX_SHOWN,
    )
    rows = [{"name": names[row.index], **row.as_dict()} for row in table]
    return {"num_classes": probs.shape[1], "correction": "holm", "rows": rows}


def slice_section(
    probs: Floats, targets: Ints, groups: Ints | None, slices: Mapping[str, ArrayLike] | None, options: Options
) -> dict[str, Any] | None:
    if not slices:
        return None
    table = metrics.slice_table(
        probs,
        targets,
        slices,
        groups=groups,
        num_resamples=options["num_resamples"],
        confidence_level=options["confidence_level"],
        max_slices=MAX_SHOWN,
        seed=options["seed"],
    )
    return {
        "num_slices": table.num_slices,
        "correction": "holm",
        "skipped": list(table.skipped),
        "rows": [row.as_dict() for row in table.rows],
    }


def binary(probs: Floats, targets: Ints, groups: Ints | None, positive: int, options: Options) -> dict[str, Any]:
    """Calibration and ranking of the positive class, with slope and intercept where a line exists."""
    found = metrics.positive_class(probs, targets, positive=positive, groups=groups, **options)
    line = metrics.calibration_line(
        probs, targets, positive=positive, groups=groups, confidence_level=options["confidence_level"]
    )
    drawn = {"slope": line and line.slope.as_dict(), "intercept": line and line.intercept.as_dict()}
    return {**found.as_dict(), **drawn}
