"""Network outputs: logits and features of the uploaded network on one split, finite, computed once and shared."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.calibrators import softmax
from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.errors import BadDataset
from fedlas.race.results import Doubles, Finalist, Floats
from fedlas.training.fit import head_logits, predict_logits


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


class SplitOutputs:
    """The uploaded network's logits (N, K) and features (N, D) on the rows of one split.

    Args:
        rows: where these rows stand in the owner's file (N,), for errors; else they are counted within the split.

    Raises:
        BadDataset: `non_finite_answers`.
    """

    logits: Floats
    features: Floats

    def __init__(
        self,
        classifier: Classifier,
        inputs: Sequence[Array],
        *,
        split: str,
        rows: NDArray[np.int64] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._classifier, self._inputs, self._device = classifier, inputs, device
        began = time.perf_counter()
        self.logits, self.features = predict_logits(classifier, inputs, device=device)
        self.seconds_per_row = (time.perf_counter() - began) / len(self.logits)
        require_numbers(self.logits, self.features, split=split, rows=rows)

    def of(self, finalist: Finalist) -> tuple[Floats, Floats]:
        """Logits and features of a finalist: only a network with a body of its own sees the rows again."""
        if finalist.classifier is self._classifier:
            return self.logits, self.features
        if finalist.result.scope == "head":
            return head_logits(finalist.classifier, self.features, device=self._device), self.features
        return predict_logits(finalist.classifier, self._inputs, device=self._device)

    def probs(self, finalist: Finalist) -> Doubles:
        return softmax(finalist.calibrator(*self.of(finalist)))
