"""The calibration report as plain numbers, ready for JSON; it trains nothing and draws nothing.

Everything a picture shows is computed here once: `fedlas.diagram` only draws it.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedlas import metrics
from fedlas.diagram import reliability_svg
from fedlas.gate import Judgement

__all__ = ["CalibrationReport", "build_report", "library_versions", "reliability_svg"]

_LIBRARIES = ("fedlas", "numpy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "pyarrow")


@dataclass(frozen=True)
class CalibrationReport:
    """The report of one job; `as_dict()` is what `GET /v1/jobs/{id}/report` answers."""

    content: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return self.content

    @property
    def verdict(self) -> str:
        return str(self.content["verdict"])


def build_report(
    *,
    judgement: Judgement,
    uploaded: ArrayLike,
    temperature: ArrayLike,
    calibrated: ArrayLike,
    targets: ArrayLike,
    groups: ArrayLike | None = None,
    candidates: Sequence[Mapping[str, Any]] = (),
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    digests: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    num_bins: int = 15,
    num_resamples: int = 1000,
    confidence_level: float = 0.95,
) -> CalibrationReport:
    """Evaluate three models on the test rows and put everything a reader needs beside it.

    Args:
        uploaded, temperature, calibrated: probabilities (N, K) of the model as it came, with a temperature, and of
            the model that is to be served; targets: class indices (N,).
        candidates: `CandidateResult.as_dict()` of all candidates of the race.
        notes: further sentences for the summary (budget, warnings of the dataset).
    """
    labels = np.asarray(targets)
    probs = {"uploaded": uploaded, "temperature": temperature, "calibrated": calibrated}
    options: dict[str, Any] = {
        "num_bins": num_bins,
        "num_resamples": num_resamples,
        "confidence_level": confidence_level,
        "seed": seed,
    }
    scores = {name: metrics.evaluate(p, labels, groups=groups, **options) for name, p in probs.items()}
    differences = {
        f"calibrated_minus_{name}": metrics.compare(calibrated, probs[name], labels, groups=groups, **options)
        for name in ("uploaded", "temperature")
    }
    shown = {name: _as_dicts(estimates) for name, estimates in scores.items()}
    content = {
        "verdict": judgement.verdict,
        "promoted": judgement.promoted,
        "summary": [*judgement.sentences, *_calibration_sentences(shown), *notes],
        "metrics": shown,
        "differences": {name: _as_dicts(estimates) for name, estimates in differences.items()},
        "num_test_rows": len(labels),
        "confidence_level": confidence_level,
        "gate": judgement.as_dict(),
        "candidates": [dict(candidate) for candidate in candidates],
        "recipe": dict(recipe or {}),
        "seed": seed,
        "digests": dict(digests or {}),
        "versions": dict(versions if versions is not None else library_versions()),
        "reliability": {name: _reliability(p, labels, options) for name, p in probs.items()},
    }
    return CalibrationReport(_finite(content))


def library_versions() -> dict[str, str]:
    """Python and the installed libraries that the numbers rest on; nothing is imported for it."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _as_dicts(estimates: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: estimate.as_dict() for name, estimate in estimates.items()}


def _reliability(probs: ArrayLike, targets: ArrayLike, options: Mapping[str, Any]) -> dict[str, Any]:
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


def _calibration_sentences(shown: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    before, after = shown["uploaded"], shown["calibrated"]
    low, high = after["ece"]["floor_low"], after["ece"]["floor_high"]
    inside = after["ece"]["value"] <= high
    return [
        f"On the test rows accuracy goes from {_percent(before['accuracy']['value'])} to "
        f"{_percent(after['accuracy']['value'])}, "
        f"NLL from {before['nll']['value']:.3f} to {after['nll']['value']:.3f}, "
        f"Brier from {before['brier']['value']:.3f} to {after['brier']['value']:.3f}, "
        f"ECE from {_percent(before['ece']['value'])} to {_percent(after['ece']['value'])}.",
        f"A perfectly calibrated model with the same confidences would score an ECE of {_percent(low)} to "
        f"{_percent(high)} on so many rows, so "
        + ("what is left is within the noise." if inside else "some miscalibration is left."),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _finite(value: Any) -> Any:
    """The same content without NaN or infinity, which JSON does not have: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
