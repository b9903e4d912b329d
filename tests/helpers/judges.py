"""Scores of a drawn judge, and whether each row is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def judged_rows(count: int, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores (N,) of 1 to 10 in tenths, one of which is missing, and `right` (N,), more often of higher scores."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.uniform(1, 10, count), 1)
    right = (rng.random(count) < 1 / (1 + np.exp(6 - 1.2 * scores))).astype(np.int64)
    scores[count // 2] = np.nan
    return scores, right


def judged_csv(scores: NDArray[np.float64], right: NDArray[np.int64]) -> str:
    rows = zip(scores.tolist(), right.tolist(), strict=True)
    return "score,label\n" + "".join(f"{'' if np.isnan(score) else score},{label}\n" for score, label in rows)
