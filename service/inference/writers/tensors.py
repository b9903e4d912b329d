"""The writer of tensors: requested outputs of the Open Inference Protocol, under its names, types and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.inference.oip.requests import RequestedOutput
from service.inference.predictions import Predictions, best_classes, check_finite


def tensors(predictions: Predictions, requested: Sequence[RequestedOutput]) -> dict[str, np.ndarray]:
    """One array for each requested output, by its name.

    Shapes and types: probabilities and logits (N, K) float32, features (N, D) float32, confidence, familiarity and
    probability (N,) float32, uncalibrated_confidence (N,) float64, index (N,) int64, label and decision (N,) texts,
    abstain (N,) bool, threshold (1,) float64, prediction_set (N, K) bool, top_k_index, top_k_label and top_k_confidence
    (N, k) int64, texts and float32. Texts are objects, each `str`. With `classes`, (N, k) texts "value:index:label",
    the largest first.
    Raises InvalidRequest `non_finite_output` for rows that overflow.
    """
    arrays: dict[str, np.ndarray] = {}
    for output in requested:
        compute = _COLUMNS.get(output.name)
        array = predictions.outputs[output.name] if compute is None else compute(predictions)
        if output.name in ("probabilities", "features") and not (finite := np.isfinite(array)).all():
            check_finite(np.logical_and.reduce(finite, axis=1))
        arrays[output.name] = array if output.classes is None else _classified(array, predictions, output.classes)
    return arrays


def _labels(predictions: Predictions, index: np.ndarray | None) -> np.ndarray:
    """Class names in the shape of `index`."""
    assert index is not None
    labels: np.ndarray = predictions.policy.profile.name_array[index]
    return labels


def _column(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


#: Outputs that are not the file's own.
_COLUMNS: Mapping[str, Callable[[Predictions], np.ndarray]] = {
    "label": lambda rows: _labels(rows, rows.index),
    "familiarity": lambda rows: _column(rows.familiarity),
    "probability": lambda rows: _column(rows.probability),
    "abstain": lambda rows: rows.abstain,
    "threshold": lambda rows: np.array([rows.policy.threshold], dtype=np.float64),
    "prediction_set": lambda rows: rows.policy.inside(rows.probabilities),
    "top_k_index": lambda rows: rows.best.astype(np.int64, copy=False),
    "top_k_label": lambda rows: _labels(rows, rows.best),
    "top_k_confidence": lambda rows: rows.best_confidence,
    "decision": lambda rows: _labels(rows, rows.decision),
}


def _classified(values: np.ndarray, predictions: Predictions, k: int) -> np.ndarray:
    best = best_classes(values, k)
    labels = _labels(predictions, best).ravel().tolist()
    numbers = np.take_along_axis(values, best, axis=1).ravel().astype(str).tolist()
    texts = np.empty(best.size, dtype=object)
    texts[:] = [
        f"{number}:{index}:{label}" for number, index, label in zip(numbers, best.ravel().tolist(), labels, strict=True)
    ]
    return texts.reshape(best.shape)
