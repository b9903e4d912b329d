"""The check of a softmax of a softmax: a graph whose scores, before its last softmax, are probabilities already."""

from __future__ import annotations

import numpy as np

from fedlas.notice import Notice
from fedlas.preconditions.match import Examined

#: How far the scores of a row may sum to something else than 1; rows with which no scores do so by chance.
MAX_ROUNDING, MIN_ROWS = 1e-4, 10


def softmax_twice(examined: Examined) -> list[Notice]:
    """`softmax_twice`, where in every row the scores lie between 0 and 1 and sum to 1, as no logits do.

    The softmax of probabilities says at most e / (e + K - 1), whatever the model knows, and no temperature gives back
    what its own confidence was.
    """
    scores = examined.logits.astype(np.float64)
    sums = np.abs(scores.sum(axis=1) - 1)
    if len(scores) < MIN_ROWS or not (sums <= MAX_ROUNDING).all() or scores.min() < 0:
        return []
    most = np.e / (np.e + examined.num_classes - 1)
    message = (
        f"The scores before the softmax at the end of the graph are probabilities already: in all {len(scores):,} "
        f"calibration rows they lie between 0 and 1 and sum to 1. So the softmax is taken twice, and no answer can be "
        f"surer than {100 * most:.1f} %: export the scores before the first softmax, or the graph without the second."
    )
    return [Notice("softmax_twice", message, {"rows": len(scores), "most_confidence": round(float(most), 6)}, "error")]
