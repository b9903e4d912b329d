"""Constants of a graph that train: weights by their role, also computed ones; lowered graphs compute what nodes do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fedlas.errors import UnsupportedModel
from fedlas.importers import OnnxClassifier, check_parity, load_onnx
from fedlas.importers.onnx.evaluator import outputs_of
from fedlas.importers.onnx.graph import Array, Graph
from fedlas.importers.onnx.train import lowering
from fedlas.importers.onnx.train.lowering import lower
from tests.helpers.networks import Inputs, export, hand_made, images, node, table, texts, trained_looking, weight_count
from tests.helpers.refusals import refusal

pytestmark = pytest.mark.slow

UNFOLDED: dict[str, Any] = {"do_constant_folding": False}


def opened(path: Path, parity: float = 1e-5) -> OnnxClassifier:
    classifier = load_onnx(path)
    assert isinstance(classifier, OnnxClassifier)
    assert check_parity(path, classifier) <= parity
    return classifier


def sizes(classifier: nn.Module) -> list[int]:
    return sorted(p.numel() for p in classifier.parameters())


def without_gradient(classifier: OnnxClassifier, inputs: Inputs) -> list[str]:
    logits, _ = classifier.train()(*inputs)
    F.cross_entropy(logits, torch.arange(len(logits)) % classifier.num_classes).backward()
    return [name for name, p in classifier.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


class Recurrent(nn.Module):
    """Token embeddings, a recurrent layer in both directions, a mean over time."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.cells = kind(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.cells(self.embedding(tokens))[0].mean(1))  # type: ignore[no-any-return]


class Upsampled(nn.Module):
    """Transposed convolution and PReLU, whose slopes train."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act = nn.ConvTranspose2d(3, 6, 3, stride=2), nn.PReLU(6, init=0.1)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.up(x)).mean((2, 3)))  # type: ignore[no-any-return]


def rms_normed() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 16), nn.RMSNorm(16), nn.SiLU(), nn.Linear(16, 3))


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(10, 16)), nn.ReLU(), nn.Linear(16, 3))


class LowRank(nn.Module):
    """A layer with a low-rank update."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(10, 16), nn.Linear(16, 3)
        self.a, self.b = nn.Parameter(torch.randn(4, 10)), nn.Parameter(torch.randn(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.first.weight + 0.5 * (self.b @ self.a), self.first.bias)
        return self.out(torch.relu(h))  # type: ignore[no-any-return]


def tokens(rows: int) -> Inputs:
    return (torch.randint(0, 50, (rows, 12)),)


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs]]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM), tokens),
    "GRU": (lambda: Recurrent(nn.GRU), tokens),
    "ConvTranspose and PRelu": (Upsampled, lambda rows: images(rows, 8)),
    "RMSNorm": (rms_normed, table),
    "weight norm": (weight_normed, table),
    "low rank": (LowRank, table),
}


# The older exporter does not know RMSNorm.
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        pytest.param(name, dynamo, marks=[pytest.mark.slow] if (name, dynamo) == ("GRU", True) else [])
        for name in LAYERS
        for dynamo in (False, True)
        if dynamo or name != "RMSNorm"
    ],
)
def test_weights_of_every_layer_train(name: str, dynamo: bool, tmp_path: Path) -> None:
    """The network's weights are all there, each with a gradient; computed weights train what computes them."""
    make, rows = LAYERS[name]
    torch.manual_seed(0)
    network = trained_looking(make())
    classifier = opened(export(network, rows(2), tmp_path / "m.onnx", dynamo=dynamo, **({} if dynamo else UNFOLDED)))
    with torch.no_grad():
        torch.testing.assert_close(classifier(*rows(3))[0].shape, torch.Size((3, classifier.num_classes)))
    folded = dynamo and name in ("weight norm", "low rank")  # this exporter computes such weights once
    extra = {"weight norm": 16, "low rank": 104}.get(name, 0) if folded else 0
    assert weight_count(classifier) == weight_count(network) - extra
    assert without_gradient(classifier, rows(8)) == []


def graph_of(nodes: list[NodeProto], constants: dict[str, Any]) -> tuple[list[NodeProto], dict[str, Any]]:
    """Between a first layer (10, 16) and a last one (16, 3)."""
    rng = np.random.default_rng(0)
    ends = {"first": rng.standard_normal((10, 16)) / 3, "last": rng.standard_normal((16, 3)) / 4}
    return [node("MatMul", ["x", "first"], "h"), *nodes, node("MatMul", ["z", "last"], "y")], {**ends, **constants}


ANGLES = np.outer(np.arange(1, 17), [0.7]).ravel()
MASK = (np.arange(16) % 3 > 0).astype(np.float32)
SQUARE = np.random.default_rng(1).standard_normal((16, 16)) / 4
OPERANDS: dict[str, tuple[list[NodeProto], dict[str, Any], list[int]]] = {
    "rotary positions": (
        [
            node("Mul", ["h", "cos"], "a"),
            node("Neg", ["h"], "n"),
            node("Mul", ["n", "sin"], "b"),
            node("Add", ["a", "b"], "z"),
        ],
        {"cos": np.cos(ANGLES)[None], "sin": np.sin(ANGLES)[None]},
        [],
    ),
    "mask": ([node("Mul", ["h", "mask"], "z")], {"mask": MASK}, []),
    "large values": ([node("Add", ["h", "far"], "s"), node("Tanh", ["s"], "z")], {"far": np.full(16, -1e9)}, []),
    "single number": ([node("Mul", ["h", "half"], "z")], {"half": np.array([0.5])}, []),
    "layer scale": ([node("Mul", ["h", "gamma"], "z")], {"gamma": np.linspace(0.5, 1.5, 16)}, [16]),
    "sum of three": ([node("Sum", ["h", "bias", "h"], "z")], {"bias": np.linspace(-1, 1, 16)}, [16]),
    "masked weight": (
        [node("Mul", ["w", "mask"], "v"), node("MatMul", ["h", "v"], "z")],
        {"w": SQUARE, "mask": np.outer(MASK, MASK)},
        [256],
    ),
    "spectral norm": (
        [
            node("MatMul", ["w", "v"], "wv"),
            node("Mul", ["u", "wv"], "m"),
            node("ReduceSum", ["m"], "sigma", keepdims=0),
            node("Div", ["w", "sigma"], "n"),
            node("MatMul", ["h", "n"], "z"),
        ],
        {"w": SQUARE, "v": SQUARE[0], "u": SQUARE[1]},
        [256],
    ),
    "weight behind Identity": (
        [node("Identity", ["w"], "i"), node("Transpose", ["i"], "t", perm=[1, 0]), node("MatMul", ["h", "t"], "z")],
        {"w": SQUARE},
        [256],
    ),
    "bias in two layers": (
        [
            node("Add", ["h", "b"], "a"),
            node("Tanh", ["a"], "t"),
            node("MatMul", ["t", "w"], "m"),
            node("Add", ["m", "b"], "z"),
        ],
        {"w": SQUARE, "b": np.linspace(-1, 1, 16)},
        [16, 16, 256],
    ),
    "filled weight": (
        [
            node("ConstantOfShape", ["shape"], "w", value=onnx.numpy_helper.from_array(np.array([0.02], np.float32))),
            node("MatMul", ["h", "w"], "z"),
        ],
        {"shape": np.array([16, 16])},
        [256],
    ),
    "filled padding": (
        [
            node("ConstantOfShape", ["shape"], "p", value=onnx.numpy_helper.from_array(np.array([0.0], np.float32))),
            node("Add", ["h", "p"], "z"),
        ],
        {"shape": np.array([16])},
        [],
    ),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_roles_of_constants(name: str, tmp_path: Path) -> None:
    """Beside the first and the last layer, exactly the weights train."""
    nodes, constants, expected = OPERANDS[name]
    classifier = opened(hand_made(tmp_path, *_of(graph_of(nodes, constants))))
    assert sizes(classifier) == sorted([160, 48, *expected])
    if name != "large values":
        assert without_gradient(classifier, table(8)) == []


def _of(parts: tuple[list[NodeProto], dict[str, Any]]) -> tuple[list[NodeProto], list[int], dict[str, Any]]:
    return parts[0], [10], parts[1]


class Repeated(nn.Module):
    """One block that is run three times, as ALBERT's is, or three blocks that were equal at export."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        blocks = [trained_looking(nn.Sequential(nn.Linear(10, 10), nn.LayerNorm(10))) for _ in range(3)]
        for block in blocks:
            block.load_state_dict(blocks[0].state_dict())
        self.blocks = nn.ModuleList(blocks[:1] if tied else blocks)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(3):
            x = torch.tanh(self.blocks[i % len(self.blocks)](x))
        return self.out(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("tied", [False, True], ids=["equal", "tied"])
def test_one_module_stays_one_where_the_file_tells(tied: bool, dynamo: bool, tmp_path: Path) -> None:
    """Equal blocks train apart; one that runs three times stays one where the exporter recorded its module (dynamo)."""
    torch.manual_seed(0)
    path = export(Repeated(tied=tied).eval(), table(2), tmp_path / "m.onnx", dynamo=dynamo)
    blocks = 1 if tied and dynamo else 3
    assert sizes(opened(path)) == sorted([100, 10, 10, 10] * blocks + [30, 3])


def test_parameters_of_one_block_train_apart(tmp_path: Path) -> None:
    """Two scales of one module that were equal at export: the module runs once, so they are two weights."""

    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Parameter(torch.full((10,), 0.1)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(x * self.one) * self.two

    network = nn.Sequential(nn.Linear(10, 10), Scales(), nn.Linear(10, 3)).eval()
    assert weight_count(opened(export(network, table(2), tmp_path / "m.onnx", dynamo=True))) == weight_count(network)


def test_two_inputs_share_an_encoder(tmp_path: Path) -> None:
    """Both words of a pair go through one embedding and one layer, which stay one where the file tells."""

    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.encode = nn.Embedding(50, 8), nn.Linear(8, 8)
            self.out = nn.Linear(16, 3)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.out(torch.cat([torch.relu(self.encode(self.embedding(x).mean(1))) for x in (one, other)], 1))  # type: ignore[no-any-return]

    network = Siamese().eval()
    assert weight_count(opened(export(network, texts(2), tmp_path / "m.onnx", dynamo=True))) == weight_count(network)


def test_fused_embeddings_train(tmp_path: Path) -> None:
    """Tables of words, places and segments, and the norm of their sum, in ONNX Runtime's fused node."""
    rng = np.random.default_rng(0)
    shapes = {"words": (50, 8), "places": (6, 8), "kinds": (2, 8), "gamma": (8,), "beta": (8,), "w": (8, 3)}
    constants: dict[str, Any] = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    nodes = [
        node("Mul", ["x", "nought"], "segments"),
        node("Add", ["segments", "one"], "mask"),
        node(
            "EmbedLayerNormalization",
            ["x", "segments", "words", "places", "kinds", "gamma", "beta", "mask"],
            "e",
            "counts",
            domain="com.microsoft",
        ),
        node("ReduceMean", ["e"], "m", axes=[1], keepdims=0),
        node("MatMul", ["m", "w"], "y"),
    ]
    constants |= {"nought": np.array(0, np.int32), "one": np.array(1, np.int32)}
    classifier = opened(hand_made(tmp_path, nodes, [6], constants, kind=TensorProto.INT32))
    assert sizes(classifier) == sorted(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.parametrize("form", ["looked up by the node", "looked up before"])
def test_rotary_caches_do_not_train(form: str, tmp_path: Path) -> None:
    """Cosines and sines of RotaryEmbedding, also scaled ones (which no identity tells), are positions, not weights."""
    rng = np.random.default_rng(0)
    angles = np.outer(np.arange(50), [1.0, 0.1])
    constants: dict[str, Any] = {
        "words": rng.standard_normal((50, 8)),
        "w": rng.standard_normal((8, 3)),
        "cos": 1.2 * np.cos(angles),
        "sin": 1.2 * np.sin(angles),
        "middle": np.array([1]),
    }
    before = form == "looked up before"
    inputs = ["c", "s"] if before else ["cos", "sin", "x"]
    nodes = [
        node("Gather", ["words", "x"], "h"),
        *([node("Gather", ["cos", "x"], "c"), node("Gather", ["sin", "x"], "s")] if before else []),
        node("RotaryEmbedding", ["h", *inputs], "r", num_heads=2),
        node("ReduceMean", ["r", "middle"], "m", keepdims=0),
        node("MatMul", ["m", "w"], "y"),
    ]
    assert sizes(opened(hand_made(tmp_path, nodes, [6], constants, opset=23, kind=TensorProto.INT64))) == [24, 400]


class Started(nn.Module):
    """A recurrent layer whose state before the first step is made explicitly, as tutorials do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.cells = kind, getattr(nn, kind)(10, 6, batch_first=True, bidirectional=True)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.full((2, x.shape[0], 6), 0.3)
        start = (state, state - 0.5) if self.kind == "LSTM" else state
        return self.out(self.cells(x, start)[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states_of_the_exporters_rows_are_freed(kind: str, batch: int, dynamo: bool, tmp_path: Path) -> None:
    """A state before the first step, written for the exporter's rows, serves any number of rows and does not train."""
    torch.manual_seed(0)
    network = Started(kind).eval()
    path = export(network, (torch.randn(batch, 5, 10),), tmp_path / "m.onnx", dynamo=dynamo, dynamic=False)
    classifier = opened(path)
    for rows in (1, 4):
        x = torch.randn(rows, 5, 10)
        with torch.no_grad():
            torch.testing.assert_close(classifier(x)[0], network(x), atol=1e-5, rtol=1e-5)
    assert weight_count(classifier) == weight_count(network)


X = torch.linspace(-2, 2, 12).reshape(3, 4)


def graph_with(nodes: list[NodeProto], constants: dict[str, Array] | None = None, opset: int = 17) -> Graph:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    return Graph(nodes, constants or {}, [info], [nodes[-1].output[0]], opset, [helper.make_opsetid("", opset)], 8)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Split", ["x"], ["y"], axis=1)],
        [helper.make_node("Split", ["x"], ["a", "y"], axis=1), helper.make_node("Neg", ["a"], ["z"])],
        [helper.make_node("TopK", ["x", "k"], ["", "i"]), helper.make_node("Identity", ["i"], ["y"])],
        [helper.make_node("Dropout", ["x"], ["d", "mask"]), helper.make_node("Where", ["mask", "d", "x"], ["y"])],
        [helper.make_node("Dropout", ["x"], ["y", ""])],
        [helper.make_node("LayerNormalization", ["x", "s"], ["y", "", ""])],
        [helper.make_node("LayerNormalization", ["x", "s"], ["y", "", "inv"]), helper.make_node("Neg", ["inv"], ["z"])],
        [helper.make_node("LSTM", ["t", "w", "r"], ["", "y"], hidden_size=2)],
    ],
    ids=lambda nodes: "-".join(node.op_type for node in nodes),
)
def test_outputs_by_position(nodes: list[NodeProto]) -> None:
    """Nodes with one, several, unnamed or unread outputs are lowered to the values that they have in the graph."""
    constants = {
        "k": np.array([2]),
        "s": np.ones(4, np.float32),
        "w": np.full((1, 8, 4), 0.1, np.float32),
        "r": np.full((1, 8, 2), 0.2, np.float32),
    }
    if any("t" in node.input for node in nodes):
        nodes = [helper.make_node("Unsqueeze", ["x", "zero"], ["t"]), *nodes]
        constants["zero"] = np.array([0])
    graph = graph_with(nodes, constants)
    graph.outputs = [nodes[-1].output[-1] if nodes[-1].op_type == "LSTM" else nodes[-1].output[0]]
    module = lower(graph, ["x"], graph.outputs, set()).module.eval()
    torch.testing.assert_close(list(module(X)), outputs_of(graph, {"x": X}))


def test_layers_without_names_stay_apart() -> None:
    """Hundreds of nodes without a name become modules of their own, each with its own statistics."""
    nodes, constants, last = [], {}, "x"
    for i in range(200):
        names = [f"{kind}{i}" for kind in ("scale", "bias", "mean", "var")]
        constants |= {name: np.full(4, 1 + i / 1000, np.float32) for name in names}
        nodes.append(helper.make_node("BatchNormalization", [last, *names], [f"y{i}"]))
        last = f"y{i}"
    graph = graph_with(nodes, constants)
    lowered = lower(graph, ["x"], graph.outputs, {name for name in constants if name.startswith(("scale", "bias"))})
    assert len(set(lowered.weights.values())) == 800
    torch.testing.assert_close(list(lowered.module.eval()(X)), outputs_of(graph, {"x": X}))


def test_constants_may_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants that a graph computes from constants alone are limited in total, not only for each tensor."""
    monkeypatch.setattr(lowering, "MAX_FOLDED_BYTES", 10_000)
    fills = [helper.make_node("ConstantOfShape", ["n"], [f"c{i}"]) for i in range(5)]
    sums = [helper.make_node("Add", [f"s{i}" if i else "x", f"c{i}"], [f"s{i + 1}"]) for i in range(5)]
    graph = graph_with([*fills, *sums], {"n": np.array([200, 4])})
    with refusal(UnsupportedModel, "declared_size"):
        lower(graph, ["x"], ["s5"], set())
