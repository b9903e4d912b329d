"""Predictions as arrays: all probabilities, and labels as they are sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlas.client.predictions import Predictions


def predictions(names: list[str], *, classes: bool = True) -> Predictions:
    """Two rows of a binary model, of the last class and of the first."""
    rows = [
        {"label": names[k], "decision": names[0], "prediction_set": names, "index": k, "probability": p}
        | ({"probabilities": [1 - p, p]} if classes else {})
        for k, p in ((1, 0.75), (0, 0.125))
    ]
    return Predictions({"model": {}, "predictions": rows, **({"class_names": names} if classes else {})})


@pytest.mark.parametrize(
    ("names", "labels", "dtype"),
    [
        (["0", "1"], [1, 0], "int64"),
        (["3", "-1"], [-1, 3], "int64"),
        (["007", "8"], ["8", "007"], "<U3"),
        (["no", "yes"], ["yes", "no"], "<U3"),
    ],
)
def test_labels_come_back_as_they_are_sent(names: list[str], labels: list[Any], dtype: str) -> None:
    """Integers where all class names are whole numbers, else text; so are decisions and sets."""
    found = predictions(names)
    assert (found.labels.tolist(), found.labels.dtype) == (labels, np.dtype(dtype))
    assert found.decisions.tolist() == [labels[1]] * 2
    assert found.prediction_sets == [[labels[1], labels[0]]] * 2
    assert predictions(names, classes=False).labels.tolist() == [names[1], names[0]], "then no class is known"


def test_probabilities_are_a_matrix() -> None:
    """(N, K) of all classes, (N,) of the positive one; None where they were not asked for."""
    found = predictions(["no", "yes"])
    assert found.probabilities.tolist() == [[0.25, 0.75], [0.875, 0.125]]
    assert found.positive_probability.tolist() == [0.75, 0.125]
    assert found.class_names == ["no", "yes"]
    assert predictions(["no", "yes"], classes=False).probabilities is None
