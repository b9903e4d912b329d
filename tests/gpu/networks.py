"""Networks and rows of the tests on a card."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedlas.classifier import Classifier


class WithFeatures(Classifier):
    """A body that gives features (N, D), and a linear head."""

    input_names = ("images",)

    def __init__(self, body: nn.Module, feature_dim: int, num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(feature_dim, num_classes)
        self.feature_dim, self.num_classes = feature_dim, num_classes

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.body(*inputs)
        return self.fc(features), features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features)
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.fc.parameters())


def small(*, dropout: float = 0.0, width: int = 32) -> WithFeatures:
    """A convolutional network for images 3 × 32 × 32, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(
            *(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
            *(nn.AvgPool2d(16), nn.Flatten(), nn.Dropout(dropout)),
        )
        return WithFeatures(body, 4 * width)


def rows(count: int = 512, size: int = 32) -> tuple[list[Tensor], Tensor]:
    """Images of which one colour is bright in one quarter, by their class, with noise."""
    generator = torch.Generator().manual_seed(0)
    targets, half = torch.arange(count) % 10, size // 2
    images = torch.randn(count, 3, size, size, generator=generator)
    for image, target in zip(images, targets.tolist(), strict=True):
        top, left = target // 3 // 2 * half, target // 3 % 2 * half
        image[target % 3, top : top + half, left : left + half] += 3.0
    return [images], targets
