"""The kind of a network: what it mixes positions with, in files of several exporters and in modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from fedlas.importers import load_onnx
from fedlas.importers.onnx.train.classifier import NetworkKind, network_kind
from tests.helpers.networks import Bert, Cnn, Encoder, Inputs, export, hand_made, images, mlp, node, table, texts
from tests.helpers.small_classifier import SmallClassifier


class Pooled(nn.Module):
    """A mean of tokens, weighed by a linear map of each: a Softmax before a product, but no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.score, self.head = nn.Embedding(50, 16), nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        weights = (self.score(x).squeeze(-1) + attention_mask).softmax(1)
        return self.head((weights.unsqueeze(1) @ x).squeeze(1))  # type: ignore[no-any-return]


class Selective(nn.Module):
    """Two convolutions, mixed by a Softmax over their channels: gates, no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 5, padding=2)
        self.gate, self.head = nn.Linear(8, 16), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.first(x), self.second(x)
        gates = self.gate((one + two).mean((2, 3))).view(-1, 2, 8).softmax(1)[..., None, None]
        return self.head((gates[:, 0] * one + gates[:, 1] * two).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "example", "kind", "dynamo"),
    [
        (mlp(), table(2), "other", False),
        (Cnn(), images(2), "convolutional", False),
        (Selective(), images(2), "convolutional", False),
        (Encoder(), texts(2), "small_transformer", False),
        (Bert(), texts(2), "small_transformer", False),
        pytest.param(Bert(), texts(2), "small_transformer", True, marks=pytest.mark.exhaustive),
        (Pooled(), texts(2), "other", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_files(tmp_path: Path, network: nn.Module, example: Inputs, kind: NetworkKind, dynamo: bool) -> None:
    """Both exporters' files: attention makes a transformer, a convolution over space a convolutional network."""
    assert network_kind(load_onnx(export(network.eval(), example, tmp_path / "n.onnx", dynamo=dynamo))) == kind


def test_attention_in_one_operator(tmp_path: Path) -> None:
    """An operator that is attention says so by its name."""
    nodes = [node("Attention", ["x", "x", "x"], "a", q_num_heads=2, kv_num_heads=2)]
    nodes += [node("ReduceMean", ["a", "axes"], "f", keepdims=0), node("MatMul", ["f", "w"], "y")]
    constants = {"axes": np.array([1], np.int64), "w": np.random.default_rng(0).normal(size=(8, 3))}
    assert network_kind(load_onnx(hand_made(tmp_path, nodes, (5, 8), constants, opset=23))) == "small_transformer"


def test_a_convolution_over_one_position_mixes_none(tmp_path: Path) -> None:
    """A 1×1 convolution is a linear map, also where only its weight tells its kernel; one of 3×3 sees space."""
    for size, kind in ((1, "other"), (3, "convolutional")):
        weights = {"k": np.random.default_rng(0).normal(size=(8, 3, size, size)), "w": np.eye(8)[:, :3]}
        nodes = [node("Conv", ["x", "k"], "c"), node("Relu", ["c"], "r"), node("GlobalAveragePool", ["r"], "p")]
        nodes += [node("Flatten", ["p"], "f"), node("MatMul", ["f", "w"], "y")]
        assert network_kind(load_onnx(hand_made(tmp_path, nodes, (3, 6, 6), weights))) == kind


def test_modules_without_a_graph() -> None:
    """A classifier that is no imported one is told by its modules."""
    classifier = SmallClassifier(64, 10)
    assert network_kind(classifier) == "other"
    classifier.add_module("stem", nn.Conv2d(1, 4, 1))
    assert network_kind(classifier) == "other"
    classifier.add_module("more", nn.Conv1d(1, 4, 3))
    assert network_kind(classifier) == "convolutional"
    classifier.add_module("encoder", nn.TransformerEncoderLayer(8, 2, 16))
    assert network_kind(classifier) == "small_transformer"
    classifier.add_module("words", nn.Embedding(500_000, 8))
    assert network_kind(classifier) == "transformer"
