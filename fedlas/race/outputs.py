"""Network outputs: logits and features of the uploaded network on one split, computed once and shared by finalists."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedlas.calibrators import softmax
from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.race.finite_outputs import require_numbers
from fedlas.race.results import Doubles, Finalist, Floats
from fedlas.training.fit import head_logits, predict_logits


class SplitOutputs:
    """The uploaded network's outputs on the rows of one split.

    Attributes:
        logits: (N, K) of the uploaded network.
        features: (N, D), which finalists that share its body read too.
        seconds_per_row: measured by this pass.

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
        """Calibrated probabilities (N, K) of a finalist."""
        return softmax(finalist.calibrator(*self.of(finalist)))
