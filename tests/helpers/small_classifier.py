"""A small PyTorch classifier and overconfident digits, for tests that need a network but no ONNX file."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedlas.classifier import Classifier


class SmallClassifier(Classifier):
    """One hidden layer; `dropout` > 0 makes training random, `two_inputs` takes the features in two halves."""

    def __init__(
        self,
        num_inputs: int,
        num_classes: int,
        *,
        feature_dim: int = 32,
        dropout: float = 0.0,
        two_inputs: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes, self.feature_dim = num_classes, feature_dim
        self.input_names = ("left", "right") if two_inputs else ("inputs",)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden = nn.Linear(num_inputs, feature_dim)
            self.dropout = nn.Dropout(dropout)
            self.out = nn.Linear(feature_dim, num_classes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dropout(torch.relu(self.hidden(torch.cat(inputs, dim=1).float())))
        return self.out(features), features

    def head(self, features: Tensor) -> Tensor:
        scores: Tensor = self.out(features)
        return scores

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.out.parameters())


Rows = tuple[list[np.ndarray], np.ndarray]


@cache
def noisy_digits() -> tuple[Rows, Rows, Rows]:
    """Train (900), calibration (400) and test (497) rows of noisy digits; 15 % of the train labels are redrawn."""
    images, targets = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(targets))
    inputs, targets = (images[order] / 16.0).astype(np.float32), targets[order].astype(np.int64)
    inputs += rng.normal(scale=0.25, size=inputs.shape).astype(np.float32)
    flipped = (rng.random(len(targets)) < 0.15) & (np.arange(len(targets)) < 900)
    targets[flipped] = rng.integers(0, 10, flipped.sum())
    cuts = [slice(0, 900), slice(900, 1300), slice(1300, None)]
    train, calibration, test = (([inputs[cut]], targets[cut]) for cut in cuts)
    return train, calibration, test


@cache
def _trained_weights() -> dict[str, Tensor]:
    (inputs, targets), _, _ = noisy_digits()
    classifier = SmallClassifier(64, 10)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=5e-3)
    rows, labels = torch.from_numpy(inputs[0]), torch.from_numpy(targets)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(rows)[0], labels).backward()
        optimizer.step()
    return classifier.state_dict()


def overconfident_classifier() -> SmallClassifier:
    """A `SmallClassifier` that has learnt the train rows of `noisy_digits` by heart, noise and all."""
    classifier = SmallClassifier(64, 10)
    classifier.load_state_dict(_trained_weights())
    return classifier.eval()
