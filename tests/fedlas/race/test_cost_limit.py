"""The cost limit: as it is asked for, or from what is counted of a network."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from skl2onnx import to_onnx
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fedlas.importers import GraphClassifier, load_onnx
from fedlas.race.averaging import cost_factor, cost_limit, count_multiply_adds
from fedlas.race.trainer import copy_head
from tests.helpers.networks import Bert, Cnn, Inputs, export, images, mlp, table, texts


def imported(network: nn.Module, rows: Inputs, folder: Path) -> GraphClassifier:
    return load_onnx(export(network.eval(), rows, folder / "m.onnx"))


def perceptron(inputs: int, *widths: int) -> nn.Sequential:
    layers = [part for a, b in itertools.pairwise([inputs, *widths]) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Recurrent(nn.Module):
    """Embedded tokens, one recurrent layer, a linear head on its last step."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(50, 8), kind(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.layer(self.embedding(tokens))
        return self.head(states[:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("asked", [1.0, 1.5, 10.0])
def test_a_number_is_taken_as_it_is(asked: float, tmp_path: Path) -> None:
    """Whoever asks for a limit gets it, however small the network is."""
    assert cost_limit(asked, imported(mlp(), table(2), tmp_path)) == asked


@pytest.mark.parametrize(
    ("network", "rows"),
    [(perceptron(21, 128, 128, 10), (torch.randn(2, 21),)), (Cnn(), images(2)), (Bert(), texts(2))],
    ids=["perceptron", "convolutional", "transformer"],
)
def test_small_networks_may_be_averaged(network: nn.Module, rows: Inputs, tmp_path: Path) -> None:
    """Three networks of any kind where a row is cheap."""
    assert cost_limit("auto", imported(network, rows, tmp_path)) == 3.0


@pytest.mark.parametrize(
    ("network", "rows"),
    [
        (nn.Sequential(nn.Conv2d(3, 64, 7), nn.Conv2d(64, 16, 3), nn.Flatten(), nn.Linear(9216, 3)), images(2, 32)),
        (nn.Sequential(nn.Linear(8, 4096), *(nn.Tanh() for _ in range(130)), nn.Linear(4096, 3)), (torch.ones(2, 8),)),
        (perceptron(8, 2048, 2048, 3), (torch.ones(2, 8),)),
    ],
    ids=["multiply-adds", "bytes of a row", "bytes of weights"],
)
def test_each_measure_alone_makes_a_network_large(network: nn.Module, rows: Inputs, tmp_path: Path) -> None:
    """12 million multiply-adds, 2.1 MB of tensors or 17 MB of weights leave no room for a second network."""
    assert cost_limit("auto", imported(network, rows, tmp_path)) == 1.0


def test_lengths_are_those_of_the_rows(tmp_path: Path) -> None:
    """A network whose rows may be of any length is small for short ones and large for long ones."""
    body = nn.Sequential(nn.Conv1d(1, 64, 9), nn.Conv1d(64, 64, 9), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    network, row = nn.Sequential(*body, nn.Linear(64, 3)).eval(), (torch.ones(2, 1, 64),)
    axes = {"x": {0: "N", 2: "length"}}
    classifier = load_onnx(export(network, row, tmp_path / "m.onnx", dynamic=False, dynamic_axes=axes))
    for length, expected in ((32, 3.0), (4096, 1.0)):
        assert cost_limit("auto", classifier, [np.zeros((5, 1, length), np.float32)]) == expected


def test_what_is_counted() -> None:
    """Multiply-adds of matrices, of recurrent layers step by step, and of attention's two products."""
    _, counted = count_multiply_adds(perceptron(6, 8, 4).eval(), torch.randn(5, 6))
    assert counted == 5 * (6 * 8 + 8 * 4)
    rows = torch.zeros(2, 7, dtype=torch.int64)
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3)):
        _, counted = count_multiply_adds(Recurrent(kind).eval(), rows)
        assert counted == 2 * (7 * gates * 16 * (8 + 16) + 16 * 3)
    query = torch.randn(2, 4, 16, 8)
    _, counted = count_multiply_adds(scaled_dot_product_attention, query, query, query)
    assert counted == 2 * (2 * 4 * 16 * 16 * 8)


def test_an_average_of_recurrent_networks_costs_its_members(tmp_path: Path) -> None:
    """Two of them cost two, and another head on the same body costs next to nothing."""
    rows = torch.zeros(2, 7, dtype=torch.int64)
    first, second = (imported(Recurrent(nn.LSTM), (rows,), tmp_path) for _ in range(2))
    assert cost_factor([first, second], [rows]) == 2.0
    assert cost_factor([first, copy_head(first)], [rows]) == pytest.approx(1 + 48 / (7 * 64 * 24 + 48))


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    """Counting changes neither its mode nor what it computes."""
    classifier = imported(Cnn(), images(2), tmp_path).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    cost_limit("auto", classifier)
    assert classifier.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_what_cannot_be_trained_is_not_averaged(tmp_path: Path) -> None:
    """A tree has no refit that an average could be made of."""
    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    tree = DecisionTreeClassifier(max_depth=3).fit(rows, np.arange(60) % 3)
    path = tmp_path / "tree.onnx"
    path.write_bytes(to_onnx(tree, rows[:1], options={"zipmap": False}).SerializeToString())
    assert cost_limit("auto", load_onnx(path)) == 1.0
