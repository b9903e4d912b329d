"""Matches of a classifier and a dataset, as preconditions examine them, without a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from fedlas.data import SPLITS, Dataset
from fedlas.data.dataset import Array
from fedlas.importers import GraphClassifier
from fedlas.preconditions.examination import Examined


def examined(
    logits: Array,
    targets: Array,
    *,
    inputs: Array | None = None,
    class_names: Sequence[str] | None = None,
    numbered: bool = False,
    matched_by: Any = "index",
    splits: Array | None = None,
    class_priors: dict[str, float] | None = None,
    **columns: Any,
) -> Examined:
    """Rows that are all calibration rows unless `splits` (N,) says otherwise."""
    rows, names = len(targets), list(class_names or map(str, range(logits.shape[1])))
    dataset = Dataset(
        {"x": np.arange(rows, dtype=np.float32)[:, None] if inputs is None else inputs},
        np.asarray(targets, np.int64),
        names,
        True,
        np.full(rows, SPLITS.index("calibration"), np.int8) if splits is None else splits,
        matched_by=matched_by,
        label_names=[str(i) for i in range(len(names))] if numbered else None,
        **columns,
    )
    chosen = dataset.rows("calibration")
    return Examined(
        classifier=cast(GraphClassifier, None),
        dataset=dataset,
        inputs=[array[chosen] for array in dataset.inputs.values()],
        logits=np.asarray(logits, np.float32)[chosen],
        targets=dataset.targets[chosen],
        class_priors=class_priors,
    )


def gaussian_answers(
    rng: np.random.Generator,
    num_classes: int,
    num_rows: int,
    *,
    apart: float = 1.0,
    priors: Sequence[float] | None = None,
    moved: float = 0.0,
    groups: int = 0,
) -> tuple[Array, Array, Array | None]:
    """Logits of the true posterior of Gaussian classes, all `moved`; labels; groups whose rows are shifted alike."""
    shares = np.full(num_classes, 1 / num_classes) if priors is None else np.asarray(priors)
    centres = rng.normal(size=(num_classes, 8)) * apart
    targets = rng.choice(num_classes, num_rows, p=shares)
    rows = centres[targets] + rng.normal(size=(num_rows, 8)) + moved * rng.normal(size=8)
    ids = rng.integers(0, groups, num_rows) if groups else None
    if ids is not None:
        rows += rng.normal(size=(groups, 8))[ids]
    return rows @ centres.T - 0.5 * (centres**2).sum(1) + np.log(shares), targets, ids
