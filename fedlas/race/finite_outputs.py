"""The check that the outputs of a network are finite, before anything is fitted on them or judged by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlas.data.dataset import Array
from fedlas.errors import BadDataset


def require_numbers(
    logits: Array, features: Array | None = None, *, split: str, rows: NDArray[np.int64] | None = None
) -> None:
    """Raise unless the model answered every row of `split` with finite logits (N, K) and features (N, D).

    Args:
        rows: where the rows stand in the dataset (N,); without them the first one is counted within its split.

    Raises:
        BadDataset: `non_finite_answers`, with the first row that is broken.

    >>> try:
    ...     require_numbers(np.array([[0.0, 1.0], [np.nan, 2.0]]), split="test")
    ... except BadDataset as error:
    ...     print(error.message.partition(":")[0])
    the model answers row 1 of the split 'test', counted from 0, with nan, which is no number
    """
    for array in (logits, *(() if features is None else (features,))):
        if np.isfinite(array).all():
            continue
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        which = f"row {place[0]} of the split '{split}'" if rows is None else f"row {rows[place[0]]} (in '{split}')"
        raise BadDataset(
            "non_finite_answers",
            f"the model answers {which}, counted from 0, with {array[place]}, which is no number: leave such rows out, "
            "fill missing values as the model was taught to, or send a model that can read them",
        )
