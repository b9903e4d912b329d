"""Whole graphs of every provenance import with parity, train and are written back; the kind of a network is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import NodeProto
from torch import Tensor, nn

from fedlas.calibrators import TemperatureScaling
from fedlas.export.graph import write_graph
from fedlas.importers import OnnxClassifier, check_parity, load_onnx
from fedlas.importers.onnx.train.classifier import NetworkKind, network_kind
from tests.helpers.networks import (
    Bert,
    Cnn,
    Encoder,
    Inputs,
    export,
    hand_made,
    images,
    mlp,
    node,
    run_file,
    table,
    texts,
    trained_looking,
)
from tests.helpers.small_classifier import SmallClassifier
from tests.helpers.zoo import ARCHITECTURES, measure, spread

pytestmark = pytest.mark.slow

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
QUICK_LIGHT = ("squeezenet", "shufflenet")
#: The others take minutes each, for weights by the hundred megabytes in the operators of these.
SLOW_LIGHT = ("bvlc_alexnet", "inception_v1")
EXHAUSTIVE_LIGHT = ("densenet121", "inception_v2", "resnet50", "vgg19", "zfnet512")
QUICK = ("resnet18",)
HYBRID = ("mobilevit_xxs", "levit_128s")
SLOW = ("mobilenet_v3_small", "squeezenet1_1", "convnext_tiny", "googlenet", *HYBRID)


def proven(path: Path, tuned: Path, *, weights: int | None = None) -> OnnxClassifier:
    """Import, compare with ONNX Runtime, give all weights a gradient, write back and compare again."""
    classifier = load_onnx(path)
    assert isinstance(classifier, OnnxClassifier)
    assert check_parity(path, classifier) <= 1e-5
    assert weights is None or sum(p.numel() for p in classifier.parameters()) == weights
    spread(classifier)
    logits, features = classifier.train()(*(torch.from_numpy(row) for row in classifier.example_rows(4)))
    assert features.shape == (4, classifier.feature_dim)
    F.cross_entropy(logits, torch.arange(4) % classifier.num_classes).backward()
    assert [n for n, p in classifier.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    torch.optim.SGD(classifier.parameters(), lr=1e-3).step()
    names = [str(i) for i in range(classifier.num_classes)]
    report = write_graph(
        classifier.eval(),
        calibrator=TemperatureScaling(1.5),
        class_names=names,
        verify_with=classifier.example_rows(3),
        tolerance=1e-6,
    ).save(tuned)
    assert report.parity.num_rows == 3
    return classifier


@pytest.mark.parametrize(
    "name",
    [*QUICK_LIGHT, *SLOW_LIGHT, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in EXHAUSTIVE_LIGHT)],
)
def test_light_models(name: str, tmp_path: Path) -> None:
    """The ONNX project's classic classifiers, whose weights are computed in the graph, in its oldest opsets."""
    classifier = proven(LIGHT / f"light_{name}.onnx", tmp_path / "tuned.onnx")
    assert classifier.num_classes == 1000
    large = [p for p in classifier.parameters() if p.ndim == 4]
    convolutions = sum(n.op_type == "Conv" for n in onnx.load(LIGHT / f"light_{name}.onnx").graph.node)
    assert len(large) >= convolutions, "every convolution has weights of its own"


def rng(*shape: int) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape)
    return drawn / np.sqrt(np.prod(shape[1:], initial=1))


def nhwc(rows: int | str) -> tuple[list[NodeProto], dict[str, Any]]:
    """The graph that tf2onnx writes of a small Keras network: images (N, H, W, C), transposes around convolutions."""
    nodes = [
        node("Transpose", ["x"], "first", perm=[0, 3, 1, 2]),
        node("Pad", ["first", "pads"], "padded"),
        node("Conv", ["padded", "k1"], "c1", strides=[2, 2], kernel_shape=[3, 3]),
        node("Add", ["c1", "bias1"], "a1"),
        node("Relu", ["a1"], "r1"),
        node("MaxPool", ["r1"], "p1", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Conv", ["p1", "k2"], "c2", group=8, kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
        node("Transpose", ["c2"], "back", perm=[0, 2, 3, 1]),
        node("Mul", ["back", "scale"], "m"),  # a BatchNormalization in inference, as TensorFlow folds it
        node("Add", ["m", "offset"], "bn"),
        node("Clip", ["bn", "zero", "six"], "relu6"),
        node("Reshape", ["relu6", "flat"], "f"),
        node("MatMul", ["f", "d1"], "h"),
        node("Add", ["h", "db1"], "hb"),
        node("LeakyRelu", ["hb"], "hr", alpha=0.2),
        node("MatMul", ["hr", "d2"], "z"),
        node("Add", ["z", "db2"], "zb"),
        node("Softmax", ["zb"], "y", axis=-1),
    ]
    constants = {
        "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        "k1": rng(8, 3, 3, 3),
        "bias1": rng(1, 8, 1, 1),
        "k2": rng(8, 1, 3, 3),
        "scale": 1 + 0.1 * rng(8),
        "offset": 0.5 + rng(8),
        "zero": np.array(0.0),
        "six": np.array(6.0),
        "flat": np.array([-1, 4 * 4 * 8] if rows != 1 else [1, 4 * 4 * 8]),
        "d1": rng(128, 16),
        "db1": rng(16),
        "d2": rng(16, 5),
        "db2": rng(5),
    }
    return nodes, constants


@pytest.mark.parametrize("rows", ["N", 1, 8])
def test_tensorflow_layout(rows: int | str, tmp_path: Path) -> None:
    """A graph in TensorFlow's layout, with an open or a fixed number of rows, trains all its weights."""
    nodes, constants = nhwc(rows)
    if rows == 8:
        constants["flat"] = np.array([8, 128])
    path = hand_made(tmp_path, nodes, [16, 16, 3], constants, rows=rows, opset=13)
    weights = sum(np.asarray(v).size for name, v in constants.items() if name not in ("pads", "zero", "six", "flat"))
    classifier = proven(path, tmp_path / "tuned.onnx", weights=weights)
    assert (classifier.output_kind, classifier.feature_dim) == ("probabilities", 16)


def spatial_mean(opset: int) -> tuple[list[NodeProto], dict[str, Any]]:
    """Keras' GlobalAveragePooling2D and a 1x1 convolution as the head, squeezed."""
    axes: dict[str, Any] = {"axes": [1, 2]}
    reduce = node("ReduceMean", ["r"], "g", keepdims=1, **axes) if opset < 18 else node("ReduceMean", ["r", "hw"], "g")
    squeeze = node("Squeeze", ["s"], "y", axes=[2, 3]) if opset < 13 else node("Squeeze", ["s", "last"], "y")
    nodes = [
        node("Transpose", ["x"], "first", perm=[0, 3, 1, 2]),
        node("Conv", ["first", "k"], "c", kernel_shape=[3, 3]),
        node("Transpose", ["c"], "back", perm=[0, 2, 3, 1]),
        node("Relu", ["back"], "r"),
        reduce,
        node("Transpose", ["g"], "t", perm=[0, 3, 1, 2]),
        node("Conv", ["t", "head", "b"], "s", kernel_shape=[1, 1]),
        squeeze,
    ]
    constants = {"k": rng(8, 3, 3, 3), "head": rng(5, 8, 1, 1), "b": rng(5)}
    if opset >= 13:
        constants["last"] = np.array([2, 3])
    if opset >= 18:
        constants["hw"] = np.array([1, 2])
    return nodes, constants


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_a_squeezed_convolution_as_head(opset: int, tmp_path: Path) -> None:
    """Features are the pooled channels where the head is a convolution over one pixel."""
    path = hand_made(tmp_path, *_shaped(spatial_mean(opset), [8, 8, 3]), opset=opset)
    assert proven(path, tmp_path / "tuned.onnx", weights=216 + 45).feature_dim == 8


def _shaped(
    parts: tuple[list[NodeProto], dict[str, Any]], shape: list[int]
) -> tuple[list[NodeProto], list[int], dict[str, Any]]:
    return parts[0], shape, parts[1]


def cnn(opset: int) -> tuple[list[NodeProto], dict[str, Any]]:
    """Convolution, BatchNormalization, pooling, dropout, linear layer, softmax, as each opset writes them."""
    spatial = {"spatial": 1} if opset < 9 else {}
    nodes = [
        node("Conv", ["x", "k", "kb"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], "n", epsilon=1e-5, **spatial),
        node("Relu", ["n"], "r"),
        node("MaxPool", ["r"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p"], "g"),
        node("Flatten", ["g"], "f", axis=1),
        node("Dropout", ["f"], "d", **({"ratio": 0.5} if opset < 12 else {})),
        node("Gemm", ["d", "w", "b"], "z", transB=1),
        node("Softmax", ["z"], "y", axis=1),
    ]
    constants = {
        "k": rng(8, 3, 3, 3),
        "kb": rng(8),
        "gamma": 1 + 0.1 * rng(8),
        "beta": rng(8),
        "mean": rng(8),
        "var": np.linspace(0.5, 1.5, 8),
        "w": rng(5, 8),
        "b": rng(5),
    }
    return nodes, constants


def perceptron(opset: int) -> tuple[list[NodeProto], dict[str, Any]]:
    """A LayerNorm by hand, Clip, Squeeze, Unsqueeze and Split: what changed its form between opsets."""
    old = opset < 13
    mean = (
        (lambda x, y: node("ReduceMean", [x], y, axes=[1]))
        if opset < 18
        else (lambda x, y: node("ReduceMean", [x, "one"], y))
    )
    nodes = [
        node("MatMul", ["x", "w1"], "h0"),
        node("Add", ["h0", "b1"], "h"),
        mean("h", "mu"),
        node("Sub", ["h", "mu"], "centred"),
        node("Mul", ["centred", "centred"], "sq"),
        mean("sq", "v"),
        node("Add", ["v", "eps"], "ve"),
        node("Sqrt", ["ve"], "sd"),
        node("Div", ["centred", "sd"], "unit"),
        node("Mul", ["unit", "gamma"], "scaled"),
        node("Add", ["scaled", "beta"], "ln"),
        node("Clip", ["ln"], "relu6", min=-1.0, max=6.0) if opset < 11 else node("Clip", ["ln", "lo", "hi"], "relu6"),
        node("Unsqueeze", ["relu6"], "u", axes=[1]) if old else node("Unsqueeze", ["relu6", "one"], "u"),
        node("Squeeze", ["u"], "s", axes=[1]) if old else node("Squeeze", ["u", "one"], "s"),
        node("Split", ["s"], "left", "right", axis=1, **({"num_outputs": 2} if opset >= 18 else {})),
        node("Mul", ["left", "right"], "gated"),
        node("MatMul", ["gated", "w2"], "z0"),
        node("Add", ["z0", "b2"], "z"),
        node("LogSoftmax", ["z"], "y", axis=1),
    ]
    constants: dict[str, Any] = {
        "w1": rng(10, 16),
        "b1": rng(16),
        "eps": np.array(1e-5),
        "gamma": 1 + 0.1 * rng(16),
        "beta": rng(16),
        "w2": rng(8, 4),
        "b2": rng(4),
    }
    if opset >= 11:
        constants |= {"lo": np.array(-1.0), "hi": np.array(6.0)}
    if opset >= 13:
        constants["one"] = np.array([1])
    return nodes, constants


SMALL: dict[str, tuple[Callable[[int], tuple[list[NodeProto], dict[str, Any]]], list[int], int, int]] = {
    "cnn": (cnn, [3, 8, 8], 216 + 8 + 16 + 45, 8),
    "mlp": (perceptron, [10], 160 + 16 + 32 + 36, 8),
}


@pytest.mark.parametrize("opset", range(7, 27))
@pytest.mark.parametrize("name", SMALL)
def test_every_opset(name: str, opset: int, tmp_path: Path) -> None:
    """Opsets 7 to 26: a convolutional and a fully connected network import, train, and come back in their version."""
    make, shape, weights, width = SMALL[name]
    path = hand_made(tmp_path, *_shaped(make(opset), shape), opset=opset)
    tuned = tmp_path / "tuned.onnx"
    assert proven(path, tuned, weights=weights).feature_dim == width
    uploaded, written = onnx.load(path), onnx.load(tuned)
    assert [v.version for v in written.opset_import if v.domain == ""] == [opset]
    assert written.ir_version == uploaded.ir_version


def _marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in QUICK else [pytest.mark.slow if name in SLOW else pytest.mark.exhaustive]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=_marks(name)) for name in ARCHITECTURES])
def test_architecture_table(name: str, dynamo: bool, tmp_path: Path) -> None:
    """Both exporters' files: scores within 1e-4 of ONNX Runtime, all weights trained, written back within 1e-6."""
    make, size = ARCHITECTURES[name]
    torch.manual_seed(0)
    network = trained_looking(make())
    path = tmp_path / "m.onnx"
    try:
        export(network, images(1, size), path, dynamo=dynamo, dynamic=False)
    except Exception as error:  # exporters raise anything; what they cannot write is never uploaded
        pytest.skip(f"PyTorch cannot export it: {type(error).__name__}")
    figures = measure(path, network)
    assert figures.parity <= 1e-4
    assert figures.probability_error <= 1e-6
    assert figures.weights >= 0.96  # exporters fold BatchNorm into convolutions
    assert figures.with_gradient >= 0.999


def test_a_long_chain_is_linear_work(tmp_path: Path) -> None:
    """Node after node: what is done per node does not grow with their number (a wrong order included)."""
    count = 1500
    nodes = [node("Add", [f"t{i}", f"b{i}"], f"t{i + 1}") for i in range(count)]
    nodes = [node("MatMul", [f"t{count}", "last"], "y"), *nodes[::-1], node("MatMul", ["x", "first"], "t0")]
    constants = {"first": rng(4, 4), "last": rng(4, 3), **{f"b{i}": rng(4) + i / count for i in range(count)}}
    classifier = load_onnx(hand_made(tmp_path, nodes, [4], constants))
    assert sum(p.numel() for p in classifier.parameters()) == 16 + 12 + 4 * count
    x = torch.randn(3, 4)
    np.testing.assert_allclose(classifier(x)[0].detach(), run_file(tmp_path / "made.onnx", (x,)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["all axes", "some axes"])
@pytest.mark.parametrize("rows", [1, 3])
def test_sizes_of_a_resize_are_freed(rows: int, form: str, tmp_path: Path) -> None:
    """CrossViT scales its images: the exporter's rows among the sizes become those that run."""
    sizes, axes = ([rows, 3, 5, 7], {}) if form == "all axes" else ([rows, 5, 7], {"axes": [0, 2, 3]})
    nodes = [
        node("Resize", ["x", "", "", "sizes"], "small", mode="linear", **axes),
        node("Conv", ["small", "k"], "c", kernel_shape=[3, 3]),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "g"),
        node("Flatten", ["g"], "f", axis=1),
        node("MatMul", ["f", "w"], "y"),
    ]
    constants = {"sizes": np.array(sizes), "k": rng(6, 3, 3, 3), "w": rng(6, 4)}
    path = hand_made(tmp_path, nodes, [3, 9, 9], constants, rows=rows, opset=18)
    classifier = load_onnx(path)
    assert isinstance(classifier, OnnxClassifier)
    check_parity(path, classifier)
    x = torch.from_numpy(rng(2 * rows, 3, 9, 9).astype(np.float32))
    expected = np.concatenate([run_file(path, (part,)) for part in x.split(rows)])
    np.testing.assert_allclose(classifier(x)[0].detach(), expected, atol=1e-5)


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
    """A classifier that is no imported one is known by its modules."""
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
