"""Small uploads as a client would make them: overconfident networks on real digits, exported to ONNX, and datasets."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedlas.data.dataset import Array

#: Rows of scikit-learn's 1,797 digits.
COUNTS = {"train": 400, "calibration": 500, "guarantee": 97, "test": 800}
NOISE = 0.15
VOCABULARY = 20


def digits() -> tuple[Array, Array, Array]:
    """Rows (1797, 64) float32, labels with noise in the training rows, and split words; shuffled once."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    rows, targets = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    splits = np.repeat(list(COUNTS), list(COUNTS.values()))
    noisy = (splits == "train") & (rng.random(len(targets)) < NOISE)
    targets[noisy] = rng.integers(0, 10, noisy.sum())
    return rows, targets, splits


def train(model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor, *, steps: int = 300) -> nn.Module:
    """Fit until the rows are known by heart, so that the model is too sure of itself."""
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        scores = model(*inputs)
        if scores.shape[1] == 1:
            loss = nn.functional.binary_cross_entropy_with_logits(scores[:, 0], targets.float())
        else:
            loss = nn.functional.cross_entropy(scores, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def to_onnx(model: nn.Module, example: tuple[Tensor, ...], *, names: tuple[str, ...] = ("x",)) -> bytes:
    """The bytes of PyTorch's TorchScript-based export, which is quick, with a free batch."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is told to go, but still what many people have
        torch.onnx.export(
            model,
            example,
            buffer,
            input_names=list(names),
            output_names=["scores"],
            dynamic_axes={name: {0: "batch"} for name in (*names, "scores")},
            dynamo=False,
        )
    return buffer.getvalue()


def weights_outside(content: bytes) -> dict[str, bytes]:
    """The model as the files `m.onnx` and `m.onnx.data`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        onnx.save(onnx.load_from_string(content), path, save_as_external_data=True, location="m.onnx.data")
        return {one.name: one.read_bytes() for one in Path(folder).iterdir()}


def digits_model(*, hidden: int = 64, seed: int = 0) -> bytes:
    """An overconfident network for the digits, input `x` (N, 64)."""
    rows, targets, splits = digits()
    chosen = splits == "train"
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    train(model, (torch.from_numpy(rows[chosen]),), torch.from_numpy(targets[chosen]), steps=600)
    return to_onnx(model, (torch.from_numpy(rows[:2]),))


def image_model() -> bytes:
    """A small convolutional network for the digits as images, input `x` (N, 1, 8, 8)."""
    rows, targets, splits = digits()
    chosen = splits == "train"
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    images = torch.from_numpy(rows.reshape(-1, 1, 8, 8))
    train(model, (images[chosen],), torch.from_numpy(targets[chosen]), steps=100)
    return to_onnx(model, (images[:2],))


def binary_model(*, columns: int = 1) -> bytes:
    """Even or odd, as one logit or two columns, input `x` (N, 64)."""
    rows, targets, splits = digits()
    chosen = splits == "train"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, columns))
    train(model, (torch.from_numpy(rows[chosen]),), torch.from_numpy(targets[chosen] % 2))
    return to_onnx(model, (torch.from_numpy(rows[:2]),))


class TextNetwork(nn.Module):
    """Mean of the embeddings of the tokens that are not masked, then two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.hidden = nn.Linear(16, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).to(torch.float32)
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        scores: Tensor = self.out(torch.relu(self.hidden(mean)))
        return scores


def sentences(count: int = 600, length: int = 12) -> tuple[Array, Array, Array]:
    """Token ids and masks (N, 12) int64, and the class: which third of the vocabulary is drawn from most."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, count)
    own = targets[:, None] * 6 + rng.integers(1, 7, (count, length))
    ids = np.where(rng.random((count, length)) < 0.45, own, rng.integers(1, VOCABULARY, (count, length)))
    mask = (np.arange(length) < rng.integers(4, length + 1, (count, 1))).astype(np.int64)
    return (ids * mask).astype(np.int64), mask, targets.astype(np.int64)


def text_model() -> bytes:
    """Two int64 inputs, both (N, 12): `input_ids` and `attention_mask`."""
    ids, mask, targets = (torch.from_numpy(array) for array in sentences())
    torch.manual_seed(0)
    model = train(TextNetwork(), (ids[:120], mask[:120]), targets[:120], steps=150)
    return to_onnx(model, (ids[:2], mask[:2]), names=("input_ids", "attention_mask"))


def npz(**arrays: Any) -> bytes:
    """The bytes of `numpy.savez`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def digits_npz(**changes: Any) -> bytes:
    """The digits with splits; `changes` replaces or (None) leaves out arrays."""
    rows, targets, splits = digits()
    arrays = {"x": rows, "label": targets, "split": splits, **changes}
    return npz(**{name: array for name, array in arrays.items() if array is not None})


def fresh_npz() -> bytes:
    """Digits that the model has never seen, with splits of their own and labels without noise."""
    rows, targets, splits = digits()
    new = splits != "train"
    words = np.repeat(["train", "calibration", "test"], [700, 150, new.sum() - 850])
    return npz(x=rows[new], label=targets[new], split=words)


def csv(columns: Mapping[str, Array]) -> bytes:
    """The bytes of a csv file with these columns."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return ("\n".join(lines) + "\n").encode()


def digits_csv() -> bytes:
    """The digits as 64 numeric columns with `label` and `split`."""
    rows, targets, splits = digits()
    return csv({**{f"p{i}": rows[:, i] for i in range(64)}, "label": targets, "split": splits})


class Uploads:
    """Every upload by name, made once and only when it is asked for."""

    _MAKERS: Mapping[str, Callable[[], bytes]] = {
        "digits.onnx": digits_model,
        "images.onnx": image_model,
        "binary.onnx": binary_model,
        "two_columns.onnx": lambda: binary_model(columns=2),
        "text.onnx": text_model,
        "digits.npz": digits_npz,
        "fresh.npz": fresh_npz,
        "images.npz": lambda: digits_npz(x=digits()[0].reshape(-1, 1, 8, 8)),
        "binary.npz": lambda: digits_npz(label=digits()[1] % 2),
        "digits.csv": digits_csv,
    }

    def __init__(self) -> None:
        self._made: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self._made:
            self._made[name] = self._MAKERS[name]()
        return self._made[name]
