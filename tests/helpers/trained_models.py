"""Small classifiers trained on real digits and real tables, with rows that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn

from fedlas.data import SPLITS, Dataset
from fedlas.data.dataset import Array
from fedlas.importers import load_onnx
from fedlas.preconditions.examination import Examined
from fedlas.training.fit import predict_logits
from tests.helpers.classical_models import save
from tests.helpers.networks import export


@dataclass(frozen=True)
class Trained:
    """A file and rows for it."""

    path: Path
    inputs: tuple[Array, ...]
    targets: Array
    columns: list[str] | None = None

    def given(self, *inputs: Array, columns: list[str] | None = None) -> Trained:
        """A copy of the classifier with other rows."""
        return replace(self, inputs=inputs, columns=columns or self.columns)

    def examined(self) -> Examined:
        """The classifier as the preconditions see it; all rows are calibration rows."""
        classifier = load_onnx(self.path)
        inputs = [array.astype(spec.dtype) for array, spec in zip(self.inputs, classifier.inputs, strict=True)]
        dataset = Dataset(
            inputs=dict(zip(classifier.input_names, inputs, strict=True)),
            targets=self.targets.astype(np.int64),
            class_names=[str(i) for i in range(classifier.num_classes)],
            class_names_given=False,
            splits=np.full(len(self.targets), SPLITS.index("calibration"), np.int8),
            columns=self.columns,
        )
        logits = predict_logits(classifier, inputs)[0]
        return Examined(classifier=classifier, dataset=dataset, inputs=inputs, logits=logits, targets=dataset.targets)


def digits(scale: float = 1 / 16) -> tuple[Array, Array]:
    """Handwritten digits (N, 64) and labels, shuffled."""
    rows, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (rows[order] * scale).astype(np.float32), labels[order]


def cancer() -> tuple[Array, Array, list[str]]:
    """A table (N, 30) of columns of very different scales, labels, names of the columns."""
    table = load_breast_cancer()
    order = np.random.default_rng(1).permutation(len(table.target))
    return table.data[order].astype(np.float32), table.target[order], [str(name) for name in table.feature_names]


def fit(
    network: nn.Module, inputs: Sequence[Array], targets: Array, *, epochs: int = 15, rate: float = 1e-2
) -> nn.Module:
    """Plain training."""
    torch.manual_seed(0)
    rows, labels = [torch.from_numpy(array) for array in inputs], torch.from_numpy(targets)
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(*[array[batch] for array in rows]), labels[batch]).backward()
            optimiser.step()
    return network.eval()


def digit_mlp(folder: Path) -> Trained:
    """A multilayer perceptron on digits between 0 and 1."""
    torch.manual_seed(0)
    rows, labels = digits()
    network = fit(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), [rows[:1000]], labels[:1000])
    path = export(network, (torch.zeros(2, 64),), folder / "mlp.onnx")
    return Trained(path, (rows[1000:],), labels[1000:])


def digit_cnn(folder: Path, *, normalise: Callable[[Array], Array] = lambda x: x) -> Trained:
    """A convolutional network on digits in three colours between 0 and 1, or as `normalise` makes them."""
    torch.manual_seed(0)
    grey, labels = digits()
    images = np.stack([grey, grey * 0.5, 0.2 + 0 * grey], axis=1).reshape(-1, 3, 8, 8).astype(np.float32)
    images = normalise(images)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)]
    network = fit(nn.Sequential(*layers), [images[:1000]], labels[:1000])
    path = export(network, (torch.zeros(2, 3, 8, 8),), folder / "cnn.onnx")
    return Trained(path, (images[1000:],), labels[1000:])


def table_classifier(folder: Path, estimator: Any) -> Trained:
    """An estimator of scikit-learn on a table of named columns."""
    rows, labels, columns = cancer()
    estimator.fit(rows[:300], labels[:300])
    path = save(estimator, rows, folder / "table.onnx", options={"zipmap": False})
    return Trained(path, (rows[300:],), labels[300:], columns)


class Words(nn.Module):
    """The mean of the words' embeddings, padding left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(60, 24), nn.Linear(24, 4)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Scores (N, 4)."""
        mask = attention_mask.unsqueeze(-1).float()
        return self.out((self.embedding(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1))  # type: ignore[no-any-return]


def sentences(count: int, seed: int) -> tuple[Array, Array, Array]:
    """Ids (N, 20) with padding 0 on the right, masks, and labels; a third of the words tell the class."""
    rng = np.random.default_rng(seed)
    labels, ids = rng.integers(0, 4, count), np.zeros((count, 20), np.int64)
    for row, label in enumerate(labels):
        words = rng.integers(3, 60, rng.integers(8, 18))
        telling = rng.random(len(words)) < 0.35
        words[telling] = 3 + 14 * label + rng.integers(0, 14, telling.sum())
        ids[row, : len(words)] = words
    return ids, (ids != 0).astype(np.int64), labels


def word_classifier(folder: Path) -> Trained:
    """A text classifier with a mask."""
    torch.manual_seed(0)
    ids, mask, labels = sentences(2000, 0)
    network = fit(Words(), [ids, mask], labels, rate=1e-2)
    path = export(
        network, (torch.zeros(2, 20, dtype=torch.long), torch.ones(2, 20, dtype=torch.long)), folder / "w.onnx"
    )
    ids, mask, labels = sentences(800, 1)
    return Trained(path, (ids, mask), labels)
