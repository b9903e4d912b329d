"""The computation on a device: less precision, another layout, and batches that its memory does not hold."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedlas import metrics
from fedlas.calibrators import softmax
from fedlas.classifier import Classifier
from fedlas.errors import DeviceTooSmall
from fedlas.losses import CrossEntropyLoss, FedLASLoss
from fedlas.training.computation import BatchGradient, TrainingForward
from fedlas.training.fit import fit, predict_logits
from fedlas.training.loop import TrainConfig, TrainingOptions
from tests.helpers.small_classifier import SmallClassifier, noisy_digits, overconfident_classifier

CPU = torch.device("cpu")


class Images(Classifier):
    """A small convolutional network, which may flatten what is channels last in a way that takes no such layout."""

    input_names, num_classes, feature_dim = ("images",), 10, 32

    def __init__(self, *, view: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(32, 10)
        self.view = view
        self.seen: list[tuple[torch.dtype, bool]] = []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.conv(images)
        self.seen.append((maps.dtype, maps.is_contiguous(memory_format=torch.channels_last)))
        features = maps.view(len(maps), -1) if self.view else maps.flatten(1)
        return self.fc(features), features

    def head(self, features: Tensor) -> Tensor:
        return self.fc(features)

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.fc.parameters())


class Limited(SmallClassifier):
    """A network on a device whose memory holds so many rows with their graph, and any number without it."""

    most_rows = 16

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and len(inputs[0]) > self.most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(*inputs)


def test_bfloat16_is_the_networks_alone() -> None:
    """Convolutions run in bfloat16 with channels last; logits, features, weights and gradients are in float32."""
    images, network = torch.randn(4, 3, 8, 8), Images()
    forward = TrainingForward(network, CPU, "bfloat16", sample=lambda: [images[:2]])
    logits, features = forward(images)
    FedLASLoss(10)(logits, torch.tensor([0, 1, 2, 3]), features).backward()
    assert forward.half
    assert network.seen[-1] == (torch.bfloat16, True)
    assert {t.dtype for t in (logits, features, *(p.grad for p in network.parameters() if p.grad is not None))} == {
        torch.float32
    }


def test_what_cannot_compute_in_bfloat16_computes_as_it_is() -> None:
    """A view that channels last does not allow, and infinite numbers: the training is bit by bit that of float32."""
    images, targets = np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32), np.arange(64) % 10
    ended = []
    for precision in ("float32", "bfloat16"):
        network = Images(view=True)
        fit(network, FedLASLoss(10), [images], targets, TrainConfig(epochs=1), TrainingOptions(precision=precision))  # type: ignore[arg-type]
        ended.append(network)
    assert all(torch.equal(*pair) for pair in zip(*(network.parameters() for network in ended), strict=True))
    huge = Images()
    huge.fc.bias.data.fill_(3.4e38)  # more than bfloat16 holds beside any other addend
    huge.fc.weight.data.fill_(1e38)
    assert not TrainingForward(huge, CPU, "bfloat16", sample=lambda: [torch.full((2, 3, 8, 8), 1e3)]).half


def test_training_in_bfloat16_ends_as_calibrated() -> None:
    """FedLAS in bfloat16 lowers the NLL of an overconfident network like float32 does, within 2 %."""
    train, (inputs, targets), _ = noisy_digits()
    nll = []
    for precision in ("float32", "bfloat16"):
        network = overconfident_classifier()
        options = TrainingOptions(precision=precision)  # type: ignore[arg-type]
        fit(network, FedLASLoss(10, alpha=0.2), *train, TrainConfig(learning_rate=0.2), options)
        nll.append(metrics.nll(softmax(predict_logits(network, inputs)[0]), targets))
    assert nll[1] == pytest.approx(nll[0], rel=0.02)


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FedLASLoss(10)])
def test_parts_are_the_whole_batch(loss: nn.Module) -> None:
    """The gradient in parts is that of the whole batch, as are the statistics of FedLAS; its rows are uneven here."""
    rows, targets = torch.randn(50, 64), torch.arange(50) % 10
    network, losses = SmallClassifier(64, 10), [copy.deepcopy(loss), copy.deepcopy(loss)]
    seen: list[dict[str, Any]] = []
    for own, most_rows in zip(losses, (50, 16), strict=True):
        network.zero_grad()
        value = BatchGradient(network, own.train(), CPU, most_rows)([rows, targets], lambda *_: True)
        seen.append({"loss": value, **{n: p.grad for m in (network, own) for n, p in m.named_parameters()}})
        seen[-1] |= {name: buffer.clone() for name, buffer in own.named_buffers()}
    for name, wanted in seen[0].items():
        torch.testing.assert_close(seen[1][name], wanted, msg=name)


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    """A training that runs out of memory begins anew with half of the rows at once, and ends where the other ends."""
    (inputs, targets), _, _ = noisy_digits()
    ended = []
    for kind in (SmallClassifier, Limited):
        torch.manual_seed(0)
        network = kind(64, 10)
        fit(network, FedLASLoss(10), inputs, targets, TrainConfig(epochs=2, batch_size=64), device="cpu")
        ended.append(predict_logits(network, inputs)[0])
    np.testing.assert_allclose(ended[1], ended[0], rtol=1e-3, atol=1e-4)


def test_memory_that_does_not_hold_one_row_is_said() -> None:
    """Neither training nor prediction goes on forever: the sentence names the device and what helps."""
    (inputs, targets), _, _ = noisy_digits()
    network = Limited(64, 10)
    network.most_rows = 0
    with pytest.raises(DeviceTooSmall, match="does not hold one row of this network; a larger card does, or the CPU"):
        fit(network, CrossEntropyLoss(), inputs, targets, TrainConfig(epochs=1), device="cpu")
