"""The writer of npy: the probabilities of all rows as one matrix, in numpy's own format."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from service.inference.predictions import Predictions


def write_npy(predictions: Predictions) -> bytes:
    """The body of an answer: (N, K) float32, the columns in the order of the model's `class_names`."""
    buffer = BytesIO()
    np.lib.format.write_array(buffer, predictions.probabilities.astype(np.float32, copy=False), allow_pickle=False)
    return buffer.getvalue()
