"""What the uploaded model answers, by ONNX Runtime alone: how much harm a mistake does."""

from __future__ import annotations

import numpy as np

from benchmarks.bases import uploaded_logits
from benchmarks.data.common import Array
from benchmarks.mistakes.pair import Pair


def accuracy(pair: Pair) -> float:
    """On the calibration rows, by what the labels truly mean."""
    rows = pair.split == "calibration"
    logits = uploaded_logits(pair.model, [array[rows] for array in _inputs(pair, rows)])
    return float((logits.argmax(axis=1) == pair.targets[rows]).mean())


def _inputs(pair: Pair, rows: Array) -> list[Array]:
    """Image files become what the pair's preprocessing makes of them."""
    if pair.images is None:
        return [array.astype(np.float32) if array.dtype == np.uint8 else array for array in pair.inputs.values()]
    how = pair.model_options["preprocessing"]
    x = pair.images.astype(np.float32) * how.get("scale", 1 / 255)
    if how.get("order") == "BGR":
        x = x[..., ::-1]
    x = (x - np.float32(how.get("mean", 0.0))) / np.float32(how.get("std", 1.0))
    return [np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32)]
