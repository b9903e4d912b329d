"""Fine-tuning a classifier with a loss, its predictions, and the highest learning rate that it stands, its edge.

For whole networks the edge is found by a range test: the rate grows exponentially over a few dozen steps of a copy
(Smith 2017, arXiv 1506.01186). The labels are the network's own answers, as if it knew all rows by heart: the loss is
flat near 0 until it jumps, so the usual "steepest descent" says nothing; what can be found is the last rate before the
loss leaves its lowest level by half of log K. With the true labels of rows that an overconfident network has not seen,
a few confident mistakes make one batch dearer than the next: on eight of ten data sets the loss "rose" at the lowest
rate.

A head needs no test. The curvature of cross-entropy in a linear map of features f is at most E‖f‖²/2, and gradient
descent holds below 2 / curvature. A test would mislead there: on rows known by heart cross-entropy has no gradient that
could explode, and rates of 0.05 to 0.2, which it would allow, destroyed the head of a `resnet18` (E‖f‖² = 1,200).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlas.classifier import Classifier
from fedlas.data.dataset import Array
from fedlas.losses import CrossEntropyLoss, FedLASLoss
from fedlas.training.checkpoints import Training, trained_part
from fedlas.training.computation import (
    BatchGradient,
    Outputs,
    TrainingForward,
    full_precision,
    halved,
    pick_device,
)
from fedlas.training.loop import (
    FitResult,
    Floats,
    Loader,
    TrainConfig,
    TrainingOptions,
    optimizer_of,
    run_epochs,
    steps_per_epoch,
)

#: Rates between which the edge is looked for. A higher one says little about a whole training: restarts with FedLAS+
#: gained less at a peak of 0.4 than of 0.2 on 13 of 20 tables, whose networks stood up to 0.8.
MIN_LEARNING_RATE = 1e-4
MAX_LEARNING_RATE = 0.4
STEPS = 80
#: How many losses are averaged, and how far over its lowest level their mean may rise (times log K). On 14 tables peaks
#: of 0.2 gained most; half of the edge gained 65 % of that where a tenth of log K ends it, 94 % where half of it does.
_WINDOW = 5
_RISE = 0.5


def fit(
    classifier: Classifier,
    loss: nn.Module,
    inputs: Sequence[Array | Tensor],
    targets: NDArray[np.int64] | Tensor,
    config: TrainConfig,
    options: TrainingOptions | None = None,
    *,
    rows: NDArray[np.int64] | None = None,
    device: torch.device | str | None = None,
) -> FitResult:
    """Train `classifier` in place (it ends in evaluation mode, on `device`), and the gate of `loss` with it.

    Args:
        loss: `loss(logits (N, K), targets (N,), features (N, D)) -> scalar`.
        inputs: one array per model input, the first dimension is N; targets: class indices (N,).
        rows: indices (M,) of the rows that are trained on; the others are never looked at.
        device: by default CUDA where there is one.

    Raises:
        ValueError: there are no rows, or the arrays have different lengths.
        DeviceTooSmall: a card's memory does not hold one row. Batches that it does not hold are computed in parts.
    """
    began = time.perf_counter()
    options = options or TrainingOptions()
    device = pick_device(device)
    head = config.scope == "head"
    halved(lambda _: classifier.to(device), 1, device)
    features = _prepared(classifier, loss.to(device), inputs, options.features, head=head, rows=rows, device=device)
    loader = Loader([features] if head and features is not None else inputs, device, targets=targets, rows=rows)
    if options.weights is not None and rows is not None:
        options = replace(options, weights=options.weights[rows])
    part = trained_part(classifier, config.scope)
    training = Training([part, loss], optimizer_of([part, loss], config), config.seed, device, options.checkpoints)

    def train(most_rows: int) -> FitResult:
        training.restart()
        forward: Callable[..., Outputs] = (
            (lambda rows: (classifier.head(rows), rows))
            if head
            else TrainingForward(
                classifier, device, options.precision, sample=lambda: next(loader.batches([slice(0, 2)]))[:-1]
            )
        )
        gradient = BatchGradient(forward, loss, device, most_rows)
        return run_epochs(training, loader, config, gradient, options, began=began)

    result = halved(train, config.batch_size, device)
    classifier.eval()
    return result


def _prepared(
    classifier: Classifier,
    loss: nn.Module,
    inputs: Sequence[Array | Tensor],
    features: Floats | None,
    *,
    head: bool,
    rows: NDArray[np.int64] | None,
    device: torch.device,
) -> Floats | None:
    """Put network and loss into the modes of training; the features where they were given or are needed."""
    if features is None and (head or isinstance(loss, FedLASLoss)):
        features = predict_logits(classifier, inputs, rows=None if head else rows, device=device)[1]
    if isinstance(loss, FedLASLoss) and features is not None:
        seen = features[rows] if head and rows is not None else features
        if len(seen) > 1:
            loss.init_statistics(torch.from_numpy(np.abs(seen).sum(axis=1, dtype=np.float64)))
    classifier.train(not head)
    loss.train()
    return features


@torch.no_grad()
def predict_logits(
    classifier: Classifier,
    inputs: Sequence[Array | Tensor],
    *,
    batch_size: int = 256,
    rows: NDArray[np.int64] | None = None,
    device: torch.device | str | None = None,
) -> tuple[Floats, Floats]:
    """Logits (N, K) and features (N, D) float32, in evaluation mode; the classifier's mode is put back.

    Of all rows, or of those with the indices `rows` (N,), in their order.

    Raises:
        ValueError: there are no rows, or the arrays have different lengths.
        DeviceTooSmall: a card's memory does not hold one row. Batches that it does not hold are halved.
    """
    device = pick_device(device)
    loader = Loader(inputs, device, rows=rows)
    was_training = classifier.training
    halved(lambda _: classifier.to(device).eval(), 1, device)
    with full_precision(device):
        outputs = halved(lambda most_rows: _outputs(classifier, loader, most_rows), batch_size, device)
    classifier.train(was_training)
    return outputs


def _outputs(classifier: Classifier, loader: Loader, batch_size: int) -> tuple[Floats, Floats]:
    logits, features = [], []
    for batch in loader.batches(slice(start, start + batch_size) for start in range(0, len(loader), batch_size)):
        scores, seen = classifier(*batch)
        logits.append(scores.float().cpu().numpy())
        features.append(seen.float().cpu().numpy())
    return np.concatenate(logits), np.concatenate(features)


@torch.no_grad()
def head_logits(
    classifier: Classifier, features: Floats, *, batch_size: int = 256, device: torch.device | str | None = None
) -> Floats:
    """Logits (N, K) of a classifier's head for features (N, D): what `predict_logits` says, without the body."""
    device = pick_device(device)
    classifier.to(device)
    batches = torch.from_numpy(features).split(batch_size)
    return np.concatenate([classifier.head(batch.to(device)).float().cpu().numpy() for batch in batches])


def edge_rate(
    classifier: Classifier,
    inputs: Sequence[Array],
    *,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> float:
    """The highest learning rate at which training the whole network holds, within the two limits above."""
    rates = np.geomspace(MIN_LEARNING_RATE, MAX_LEARNING_RATE, STEPS)
    losses: list[Tensor] = []
    num_rows = len(inputs[0])
    rows = np.sort(np.random.default_rng(seed).permutation(num_rows)[: STEPS * batch_size])
    answers = np.zeros(num_rows, np.int64)
    answers[rows] = predict_logits(classifier, inputs, rows=rows, device=device)[0].argmax(axis=1)
    fit(
        copy.deepcopy(classifier),
        CrossEntropyLoss(),
        inputs,
        answers,
        TrainConfig(
            epochs=math.ceil(STEPS / steps_per_epoch(len(rows), batch_size)),
            batch_size=batch_size,
            learning_rate=MIN_LEARNING_RATE,
            seed=seed,
        ),
        TrainingOptions(
            schedule=lambda step: float(rates[min(step, STEPS - 1)]), on_step=lambda loss: _keep(losses, loss)
        ),
        rows=rows,
        device=device,
    )
    loss_curve = np.array(torch.stack(losses).tolist()) if losses else np.zeros(0)
    return _edge(rates[: len(losses)], loss_curve, classifier.num_classes)


def head_edge_rate(features: Floats) -> float:
    """4 / E‖f‖² for the features (N, D) that a head trains on, at most `MAX_LEARNING_RATE`."""
    return min(MAX_LEARNING_RATE, 4.0 / max(float(np.square(features, dtype=np.float64).sum(axis=1).mean()), 1e-12))


def _keep(losses: list[Tensor], loss: Tensor) -> bool:
    losses.append(loss)
    return len(losses) < STEPS


def _edge(rates: NDArray[np.float64], losses: NDArray[np.float64], num_classes: int) -> float:
    """The last rate before the running mean of the losses (T,) has risen for good; the lowest where there are none."""
    if len(losses) == 0:
        return MIN_LEARNING_RATE
    means = np.array([losses[max(0, i + 1 - _WINDOW) : i + 1].mean() for i in range(len(losses))])
    risen = ~(means <= np.minimum.accumulate(means) + _RISE * math.log(num_classes))  # NaN counts as risen
    risen[: _WINDOW - 1] = False
    if not risen.any():
        return float(rates[-1])
    # The mean lags behind: the loss rose about half a window earlier.
    return float(rates[max(0, int(np.argmax(risen)) - (_WINDOW + 1) // 2)])
