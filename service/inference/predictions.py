"""Outputs of a served model become predictions: label, confidence, whether to abstain, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.inference.decision_policy import DecisionPolicy, acting, positive_index
from service.inference.standard_outputs import Outputs, completed
from service.registry.errors import InvalidRequest

_FEW_CLASSES = 100
_NO_CLASSES = np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What the client asks for beside the label; `acting.py` says what the last three mean."""

    top_k: int | None = None
    abstain_below: float | None = None
    max_error: float | Mapping[str, float] | None = None
    coverage: float | Mapping[str, float] | None = None
    decision: Mapping[str, Any] | None = None


def extra_outputs(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """What answers need beyond the usual outputs: only files that a job calibrated know how familiar rows are."""
    return ("familiarity",) if profile.get("familiarity") else ()


def needed_outputs(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """What to ask of the file."""
    return ("logits", "probabilities", "confidence", *extra_outputs(profile))


def taken_outputs(profile: Mapping[str, Any], options: AnswerOptions) -> tuple[str, ...]:
    """What these answers take of it: without options that look at all classes a number of each row is enough."""
    every_class = profile.get("task") == "binary" or not (options.top_k is options.coverage is options.decision is None)
    return (*extra_outputs(profile), "probabilities") if every_class else extra_outputs(profile)


def check_options(profile: Mapping[str, Any], options: AnswerOptions) -> None:
    """Raise InvalidRequest for what this model cannot promise or decide, before anything is run."""
    acting(profile, max_error=options.max_error, coverage=options.coverage, decision=options.decision)


def answer(outputs: Outputs, profile: Mapping[str, Any], options: AnswerOptions) -> list[dict[str, Any]]:
    """Return one prediction per row.

    `outputs` holds logits (N, K) before the calibrator, probabilities (N, K) after it, confidence (N,) and, where the
    file has it, familiarity (N,). `profile` names the classes, the task and the guarantees.
    `uncalibrated_confidence` is the largest softmax of the same graph's logits.
    Raises InvalidRequest where the model computes no number (JSON has no NaN, and nobody could act on it) and for
    options that this model cannot keep.
    """
    wishes = acting(profile, max_error=options.max_error, coverage=options.coverage, decision=options.decision)
    if "index" not in outputs:
        outputs = completed(dict(outputs))
    check_finite(outputs)
    names, confidences = profile["class_names"], outputs["confidence"].tolist()
    threshold = abstention_threshold(options, wishes)
    indices = outputs["index"].tolist()
    columns: dict[str, Sequence[Any]] = {
        "label": [names[index] for index in indices],
        "index": indices,
        "confidence": confidences,
        "uncalibrated_confidence": outputs["uncalibrated_confidence"].tolist(),
        "abstain": [confidence < threshold for confidence in confidences],
    }
    probs = outputs.get("probabilities", _NO_CLASSES)
    if profile.get("task") == "binary":
        columns["probability"] = probs[:, positive_index(profile)].tolist()
    if "familiarity" in outputs:
        columns["familiarity"] = familiarity(outputs).tolist()
    if options.top_k is not None:
        columns["top_k"] = _top_k(probs, names, options.top_k)
    if options.coverage is not None:
        columns["prediction_set"] = wishes.prediction_sets(probs)
    if (decisions := wishes.decisions(probs)) is not None:
        columns["decision"] = decisions
    keys = tuple(columns)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def abstention_threshold(options: AnswerOptions, wishes: DecisionPolicy) -> float:
    """The confidence below which the service abstains: what the client names, or what its `max_error` needs."""
    return max(options.abstain_below or 0.0, wishes.threshold)


def abstentions(outputs: Outputs, profile: Mapping[str, Any], options: AnswerOptions) -> int:
    """In how many rows the service abstains."""
    if options.abstain_below is None and options.max_error is None:
        return 0
    threshold = abstention_threshold(options, acting(profile, max_error=options.max_error))
    return int(np.count_nonzero(outputs["confidence"].astype(np.float64) < threshold))


def familiarity(outputs: Outputs) -> np.ndarray:
    """(N,) as it is told: a distance that overflows is as far as can be."""
    return np.nan_to_num(outputs["familiarity"], nan=0.0)


def check_finite(outputs: Outputs, *, first_row: int = 0) -> None:
    """Raise InvalidRequest `non_finite_output` with the first row whose numbers are none, counted from `first_row`."""
    finite = outputs.get("finite")
    if finite is not None and not finite.all():
        row = first_row + int(np.flatnonzero(~finite)[0])
        message = f"row {row}: the model's own numbers overflow on these values; no confidence can be given"
        raise InvalidRequest("non_finite_output", message, field="inputs")


def best_classes(probs: np.ndarray, k: int) -> np.ndarray:
    """(N, k) indices of the most probable classes, the best first; of equal ones the first."""
    return np.argsort(-probs, axis=1, kind="stable")[:, :k]


def _top_k(probs: np.ndarray, names: Sequence[str], k: int) -> list[list[dict[str, Any]]]:
    if probs.shape[0] == 1 and probs.shape[1] <= _FEW_CLASSES:  # numpy's calls take longer than the sorting
        row = probs[0].tolist()
        indices = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]
        return [[{"label": names[index], "index": index, "confidence": row[index]} for index in indices]]
    best = best_classes(probs, k)
    values = np.take_along_axis(probs, best, axis=1)
    return [
        [
            {"label": names[index], "index": index, "confidence": value}
            for index, value in zip(indices, row, strict=True)
        ]
        for indices, row in zip(best.tolist(), values.tolist(), strict=True)
    ]
