"""The learning-rate range test: the highest rate that a network stands, its edge.

Whole networks are tested: the rate grows exponentially over a few dozen steps of a copy (Smith 2017, arXiv 1506.01186).
The labels are the network's own answers, as if it knew all rows by heart: the loss is flat near 0 until it jumps, so
the usual "steepest descent" says nothing; what can be found is the last rate before the loss leaves its lowest level by
half of log K. With the true labels of rows that an overconfident network has not seen, a few confident mistakes make
one batch dearer than the next: on eight of ten data sets the loss "rose" at the lowest rate.

A head needs no test. The curvature of cross-entropy in a linear map of features f is at most E‖f‖²/2, and gradient
descent holds below 2 / curvature. A test would mislead there: on rows known by heart cross-entropy has no gradient that
could explode, and rates of 0.05 to 0.2, which it would allow, destroyed the head of a `resnet18` (E‖f‖² = 1,200).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.losses import CrossEntropyLoss
from fedlas.training.fit import Floats, fit, predict_logits
from fedlas.training.loop import TrainConfig, steps_per_epoch

#: Rates between which the edge is looked for. A higher one says little about a whole training: restarts with FedLAS+
#: gained less at a peak of 0.4 than of 0.2 on 13 of 20 tables, whose networks stood up to 0.8.
LOWEST, HIGHEST = 1e-4, 0.4
STEPS = 80
#: How many losses are averaged, and how far over its lowest level their mean may rise (times log K). On 14 tables peaks
#: of 0.2 gained most; half of the edge gained 65 % of that where a tenth of log K ends it, 94 % where half of it does.
_WINDOW, _RISE = 5, 0.5


def edge_rate(
    classifier: Classifier,
    inputs: Sequence[Array],
    *,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> float:
    """The highest learning rate at which training the whole network holds, between `LOWEST` and `HIGHEST`."""
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses: list[Tensor] = []
    num_rows = len(inputs[0])
    rows = np.sort(np.random.default_rng(seed).permutation(num_rows)[: STEPS * batch_size])
    answers = np.zeros(num_rows, np.int64)
    answers[rows] = predict_logits(classifier, inputs, rows=rows, device=device)[0].argmax(axis=1)
    config = TrainConfig(
        epochs=math.ceil(STEPS / steps_per_epoch(len(rows), batch_size)),
        batch_size=batch_size,
        learning_rate=LOWEST,
        seed=seed,
    )
    fit(
        copy.deepcopy(classifier),
        CrossEntropyLoss(),
        inputs,
        answers,
        config,
        rows=rows,
        device=device,
        schedule=lambda step: float(rates[min(step, STEPS - 1)]),
        on_step=lambda loss: _keep(losses, loss),
    )
    found = np.array(torch.stack(losses).tolist()) if losses else np.zeros(0)
    return _edge(rates[: len(losses)], found, classifier.num_classes)


def head_edge_rate(features: Floats) -> float:
    """4 / E‖f‖² for the features (N, D) that a head trains on, at most `HIGHEST`."""
    size = float(np.square(features, dtype=np.float64).sum(axis=1).mean())
    return min(HIGHEST, 4.0 / max(size, 1e-12))


def _keep(losses: list[Tensor], loss: Tensor) -> bool:
    losses.append(loss)
    return len(losses) < STEPS


def _edge(rates: NDArray[np.float64], losses: NDArray[np.float64], num_classes: int) -> float:
    """The last rate before the running mean of the losses (T,) has risen for good; the lowest where there are none."""
    if len(losses) == 0:
        return LOWEST
    means = np.array([losses[max(0, i + 1 - _WINDOW) : i + 1].mean() for i in range(len(losses))])
    lowest = np.minimum.accumulate(means)
    risen = ~(means <= lowest + _RISE * math.log(num_classes))  # NaN counts as risen
    risen[: _WINDOW - 1] = False
    if not risen.any():
        return float(rates[-1])
    # The mean lags behind: the loss rose about half a window earlier.
    return float(rates[max(0, int(np.argmax(risen)) - (_WINDOW + 1) // 2)])
