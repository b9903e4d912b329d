"""Rows that the promise of a score accepts: one rule for the library and for what is served."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlas.contract.scores import ScoreServing

#: The part of the judged scores' range by which a score may lie beyond it: 6 is none of a judge's that says 1 to 5.
_BEYOND = 0.05
#: Probabilities of a file are float32: rows of one probability, of which some are a little less, are accepted together.
_MARGIN = 1e-6


def accepted(
    position: NDArray[np.float64], serving: ScoreServing, slices: Sequence[object] | None = None
) -> NDArray[np.bool_]:
    """True (N,) for rows at or beyond the threshold, of its slice where one is named, and on the scale of the judged.

    Args:
        position: (N,) scores, of several signals their probability; a missing one, NaN, is not accepted.
    """
    promise = serving.promise
    of_slices = {one.value: one.threshold for one in promise.per_slice}
    margin = _MARGIN if len(serving.signals) > 1 else 0.0
    thresholds = np.array(  # NaN where there is none, and no comparison with it is true
        [promise.threshold] * len(position) if slices is None else [of_slices.get(str(name)) for name in slices],
        np.float64,
    )
    beyond = position >= thresholds - margin if promise.accepts == "higher" else position <= thresholds + margin
    first, last = serving.knots[0], serving.knots[-1]
    room = _BEYOND * (last - first) + margin
    return np.asarray(beyond & (position >= first - room) & (position <= last + room))
