"""The writer of tensors: requested outputs of the Open Inference Protocol, under its names, types and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from service.inference.json_arrays import all_finite
from service.inference.oip.datatypes import prefixed
from service.inference.oip.requests import RequestedOutput
from service.inference.predictions import Predictions, best_classes, check_finite
from service.inference.profile import ServingProfile

#: Of so many classes the bytes of the names are kept: 256 labels are joined in 3 µs instead of 20.
_FEW_NAMES = 1024


def tensors(predictions: Predictions, requested: Sequence[RequestedOutput]) -> dict[str, np.ndarray]:
    """One array for each requested output, by its name.

    Shapes and types: probabilities and logits (N, K) float32, features (N, D) float32, confidence, familiarity and
    probability (N,) float32, uncalibrated_confidence (N,) float64, index (N,) int64, label and decision (N,) texts,
    abstain (N,) bool, threshold (1,) float64, prediction_set (N, K) bool, top_k_index, top_k_label and top_k_confidence
    (N, k) int64, texts and float32. Texts are objects, each `str`, or the `bytes` of a binary tensor. With `classes`,
    (N, k) texts "value:index:label", the largest first.
    Raises InvalidRequest `non_finite_output` for rows that overflow.
    """
    arrays: dict[str, np.ndarray] = {}
    for output in requested:
        if (index_of := _LABELS.get(output.name)) is not None:
            arrays[output.name] = _labels(predictions.policy.profile, index_of(predictions), binary=output.binary)
            continue
        compute = _COLUMNS.get(output.name)
        array = predictions.outputs[output.name] if compute is None else compute(predictions)
        if output.name in ("probabilities", "features") and not all_finite(array):
            check_finite(np.logical_and.reduce(np.isfinite(array), axis=1))
        arrays[output.name] = array if output.classes is None else _classified(array, predictions, output.classes)
    return arrays


def _labels(profile: ServingProfile, index: np.ndarray | None, *, binary: bool = False) -> np.ndarray:
    """Class names in the shape of `index`, as texts; for binary tensors as their bytes, where the names are few."""
    assert index is not None
    names = _binary_names(profile) if binary and len(profile.class_names) <= _FEW_NAMES else profile.name_array
    labels: np.ndarray = names[index]
    return labels


@lru_cache(maxsize=256)
def _binary_names(profile: ServingProfile) -> np.ndarray:
    """The class names (K,) as objects, each the bytes that it becomes in a binary tensor."""
    names = np.empty(len(profile.class_names), dtype=object)
    names[:] = [prefixed(name.encode()) for name in profile.class_names]
    return names


def _column(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


#: Outputs that are not the file's own.
_COLUMNS: Mapping[str, Callable[[Predictions], np.ndarray]] = {
    "familiarity": lambda rows: _column(rows.familiarity),
    "probability": lambda rows: _column(rows.probability),
    "abstain": lambda rows: rows.abstain,
    "threshold": lambda rows: np.array([rows.policy.threshold], dtype=np.float64),
    "prediction_set": lambda rows: rows.policy.inside(rows.probabilities),
    "top_k_index": lambda rows: rows.best.astype(np.int64, copy=False),
    "top_k_confidence": lambda rows: rows.best_confidence,
}
#: Outputs that are class names, by the column that says which.
_LABELS: Mapping[str, Callable[[Predictions], np.ndarray | None]] = {
    "label": lambda rows: rows.index,
    "top_k_label": lambda rows: rows.best,
    "decision": lambda rows: rows.decision,
}


def _classified(values: np.ndarray, predictions: Predictions, k: int) -> np.ndarray:
    best = best_classes(values, k)
    labels = _labels(predictions.policy.profile, best).ravel().tolist()
    numbers = np.take_along_axis(values, best, axis=1).ravel().astype(str).tolist()
    texts = np.empty(best.size, dtype=object)
    texts[:] = [
        f"{number}:{index}:{label}" for number, index, label in zip(numbers, best.ravel().tolist(), labels, strict=True)
    ]
    return texts.reshape(best.shape)
