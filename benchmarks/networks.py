"""The base networks, split where their head begins, their training until overconfident, and their ONNX file."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn

from benchmarks.data.common import Rows, cache_folder, missing
from fedlas.classifier import Classifier
from fedlas.losses import CrossEntropyLoss
from fedlas.training.fit import fit
from fedlas.training.loop import TrainConfig


class Headed(Classifier):
    """A body and a linear head."""

    def __init__(
        self, body: nn.Module, feature_dim: int, num_classes: int, *, input_names: tuple[str, ...] = ("x",)
    ) -> None:
        super().__init__()
        self.feature_dim, self.num_classes, self.input_names = feature_dim, num_classes, input_names
        self.body, self.fc = body, nn.Linear(feature_dim, num_classes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(*inputs)
        return self.head(features), features

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features)
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.fc.parameters())


def small_cnn(num_classes: int = 10) -> Headed:
    """Two convolutions and a hidden layer of 128 on 1×28×28 images."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU()]
    return Headed(nn.Sequential(*layers), 128, num_classes)


def batch_norm_cnn(num_classes: int = 10) -> Headed:
    """Three convolutions and a hidden layer of 128, each with BatchNorm, on 1×28×28 images."""
    layers: list[nn.Module] = []
    for width_in, width in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width < 64 else []
    layers += [nn.Flatten(), nn.Linear(64 * 7 * 7, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    return Headed(nn.Sequential(*layers), 128, num_classes)


def small_mlp(num_classes: int = 10) -> Headed:
    """One hidden layer of 128 on 784 pixels."""
    return Headed(nn.Sequential(nn.Linear(784, 128), nn.ReLU()), 128, num_classes)


def small_gru(num_classes: int = 10) -> Headed:
    """One GRU of 64 that reads 784 pixels as 28 rows of 28."""
    return Headed(_LastState(), 64, num_classes)


class _LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(28, 64, batch_first=True)

    def forward(self, pixels: Tensor) -> Tensor:
        states: Tensor = self.gru(pixels.reshape(-1, 28, 28))[0]
        return states[:, -1]


def tabular_mlp(num_inputs: int, num_classes: int, width: int = 128) -> Headed:
    """Two hidden layers on standardised columns."""
    layers = [nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return Headed(nn.Sequential(*layers), width, num_classes)


def resnet18(num_classes: int = 10) -> Headed:
    """torchvision's `resnet18` from scratch on 3×28×28 images: convolutions, BatchNorm, 512 features."""
    try:
        from torchvision.models import resnet18 as build
    except ImportError:
        raise missing("torchvision", "`pip install torchvision` brings it") from None
    body = build(weights=None)
    body.fc = nn.Identity()
    return Headed(body, 512, num_classes)


@dataclass(frozen=True)
class BaseTraining:
    """How a base model is trained with cross-entropy and the library's plain SGD."""

    epochs: int
    learning_rate: float
    batch_size: int = 64


def train_base(
    build: Callable[[], Headed], rows: Rows, how: BaseTraining, *, seed: int, name: str, keep: bool = True
) -> Headed:
    """The trained base network in evaluation mode, kept in the cache under a digest of training rows and `how`."""
    path = cache_folder() / "bases" / f"{name}-{seed}-{_digest(rows, how)}.pt"
    torch.manual_seed(seed)
    network = build()
    if keep and path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    config = TrainConfig(how.epochs, how.batch_size, how.learning_rate, seed=seed)
    fit(network, CrossEntropyLoss(), rows[0], rows[1], config, device="cpu")
    if keep:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")  # another process may look while this one writes
        torch.save(network.state_dict(), unfinished)
        unfinished.replace(path)
    return network.eval()


def _digest(rows: Rows, how: BaseTraining) -> str:
    state = sha256(json.dumps(asdict(how), sort_keys=True).encode())
    for array in (*rows[0], rows[1]):
        state.update(array.tobytes())
    return state.hexdigest()[:12]


class _Logits(nn.Module):
    """A network's logits without its features."""

    def __init__(self, network: Headed) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(*inputs)[0]
        return logits


def exported(network: Headed, rows: Rows) -> bytes:
    """The network as ONNX: inputs of `rows` by name, output `logits`, any number of rows."""
    names, file = list(network.input_names), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that writes plain operators calls itself old
        torch.onnx.export(
            _Logits(network).eval(),
            tuple(torch.from_numpy(array[:2]) for array in rows[0]),
            file,
            dynamo=False,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "rows"} for name in [*names, "logits"]},
        )
    return file.getvalue()
