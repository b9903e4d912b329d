"""The match of a model and a dataset, as its checks see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlas.data import Dataset
from fedlas.data.dataset import Array
from fedlas.importers import GraphClassifier
from fedlas.training.fit import predict_logits


@dataclass(frozen=True)
class Examined:
    """A classifier and the calibration rows that it has answered.

    Attributes:
        dataset: in the classifier's inputs and classes (`fedlas.data.align`).
        inputs: of the calibration rows, in the classifier's order, (N, ...) each.
        logits, targets: (N, K) and (N,) of these rows.
        class_priors: declared by class name, if any.
    """

    classifier: GraphClassifier
    dataset: Dataset
    inputs: Sequence[Array]
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    class_priors: Mapping[str, float] | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.logits.shape[1])

    def answers(self, inputs: Sequence[Array]) -> NDArray[np.float32]:
        """Logits (M, K) of the classifier for other inputs (M, ...), to try a remedy."""
        return predict_logits(self.classifier, list(inputs))[0]
