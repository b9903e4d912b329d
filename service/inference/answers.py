"""Outputs of a served model become predictions: label, confidence, whether to abstain, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.inference.acting import acting, positive_index
from service.registry.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What the client asks for beside the label; `acting.py` says what the last three mean."""

    top_k: int | None = None
    abstain_below: float | None = None
    max_error: float | Mapping[str, float] | None = None
    coverage: float | Mapping[str, float] | None = None
    decision: Mapping[str, Any] | None = None


def needed_outputs(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """What to ask of the file: only those that a job calibrated know how familiar their rows are."""
    return ("logits", "probabilities", "confidence", *(("familiarity",) if profile.get("familiarity") else ()))


def check_options(profile: Mapping[str, Any], options: AnswerOptions) -> None:
    """Raise InvalidRequest for what this model cannot promise or decide, before anything is run."""
    acting(profile, max_error=options.max_error, coverage=options.coverage, decision=options.decision)


def answer(
    outputs: Mapping[str, np.ndarray], profile: Mapping[str, Any], options: AnswerOptions
) -> list[dict[str, Any]]:
    """Return one prediction per row.

    `outputs` holds logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,) and, where the
    file has it, familiarity (N,). `profile` names the classes, the task and the guarantees.
    `uncalibrated_confidence` is the largest softmax of the same graph's logits.
    Raises InvalidRequest where the model computes no number (JSON has no NaN, and nobody could act on it) and for
    options that this model cannot keep.
    """
    wishes = acting(profile, max_error=options.max_error, coverage=options.coverage, decision=options.decision)
    names = profile["class_names"]
    probs, confidences = outputs["probabilities"], outputs["confidence"].astype(np.float64)
    _refuse_non_finite(confidences, outputs["logits"])
    indices = probs.argmax(axis=1)
    columns: dict[str, Sequence[Any]] = {
        "label": [names[index] for index in indices],
        "index": indices.tolist(),
        "confidence": confidences.tolist(),
        "uncalibrated_confidence": _max_softmax(outputs["logits"]).tolist(),
        "abstain": (confidences < max(options.abstain_below or 0.0, wishes.threshold)).tolist(),
    }
    if profile.get("task") == "binary":
        columns["probability"] = probs[:, positive_index(profile)].tolist()
    if "familiarity" in outputs:
        # A distance that overflows is as far as can be.
        columns["familiarity"] = np.nan_to_num(outputs["familiarity"], nan=0.0).tolist()
    if options.top_k is not None:
        columns["top_k"] = _top_k(probs, names, min(options.top_k, probs.shape[1]))
    if options.coverage is not None:
        columns["prediction_set"] = wishes.prediction_sets(probs)
    if (decisions := wishes.decisions(probs)) is not None:
        columns["decision"] = decisions
    keys = tuple(columns)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _refuse_non_finite(confidences: np.ndarray, logits: np.ndarray) -> None:
    broken = np.flatnonzero(~(np.isfinite(confidences) & np.isfinite(logits).all(axis=1)))
    if broken.size:
        message = f"row {broken[0]}: the model's own numbers overflow on these values; no confidence can be given"
        raise InvalidRequest("non_finite_output", message, field="inputs")


def _max_softmax(logits: np.ndarray) -> np.ndarray:
    """max softmax(s) = 1 / Σ exp(s − max s), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    confidences: np.ndarray = 1.0 / np.exp(shifted).sum(axis=1)
    return confidences


def _top_k(probs: np.ndarray, names: list[str], k: int) -> list[list[dict[str, Any]]]:
    best = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(probs, best, axis=1)
    return [
        [
            {"label": names[index], "index": index, "confidence": value}
            for index, value in zip(indices, row, strict=True)
        ]
        for indices, row in zip(best.tolist(), values.tolist(), strict=True)
    ]
