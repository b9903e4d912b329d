"""Where a classifier ends is found however it is written: logits, features, and what the output was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import NodeProto, TensorProto
from torch import Tensor, nn

from fedlas.calibrators import TemperatureScaling
from fedlas.errors import UnsupportedModel
from fedlas.export.graph import write_graph
from fedlas.importers import OnnxClassifier, check_parity, load_onnx
from tests.helpers.networks import Composed, Scaled, export, hand_made, images, mlp, node, run_file, table, weight_count
from tests.helpers.refusals import refusal

pytestmark = pytest.mark.slow

Function = Callable[[Tensor], Tensor]


def softmax_by_hand(y: Tensor) -> Tensor:
    e = torch.exp(y - y.amax(1, keepdim=True))
    return e / e.sum(1, keepdim=True)


def log_softmax_by_hand(y: Tensor) -> Tensor:
    y = y - y.amax(1, keepdim=True)
    return y - y.exp().sum(1, keepdim=True).log()


ENDINGS: dict[str, tuple[Function, str]] = {
    "softmax": (lambda y: y.softmax(-1), "probabilities"),
    "log softmax": (lambda y: y.log_softmax(-1), "logits"),
    "exp of log softmax": (lambda y: y.log_softmax(-1).exp(), "probabilities"),
    "softmax by hand": (softmax_by_hand, "probabilities"),
    "softmax by hand, not shifted": (lambda y: y.exp() / y.exp().sum(1, keepdim=True), "probabilities"),
    "softmax by hand, times the reciprocal": (
        lambda y: y.exp() * torch.reciprocal(y.exp().sum(1, keepdim=True)),
        "probabilities",
    ),
    "log softmax by hand": (log_softmax_by_hand, "logits"),
    "log-sum-exp": (lambda y: y - y.logsumexp(1, keepdim=True), "logits"),
    "exp of log softmax by hand": (lambda y: log_softmax_by_hand(y).exp(), "probabilities"),
    "softmax divided by its sum again": (lambda y: y.softmax(1) / y.softmax(1).sum(1, keepdim=True), "probabilities"),
    "temperature": (lambda y: (y / 2.5).softmax(1), "probabilities"),
    "softmax on a map of one pixel": (lambda y: y[:, :, None, None].softmax(1).flatten(1), "probabilities"),
}
PAIRS: dict[str, Function] = {
    "sigmoid": lambda y: y.sigmoid(),
    "sigmoid without its axis": lambda y: y.sigmoid().squeeze(-1),
    "sigmoid by hand": lambda y: 1 / (1 + torch.exp(-y)),
    "[1 - p, p]": lambda y: torch.cat([1 - y.sigmoid(), y.sigmoid()], 1),
    "[p, 1 - p]": lambda y: torch.cat([y.sigmoid(), 1 - y.sigmoid()], 1),
    "stacked": lambda y: torch.stack([1 - y[:, 0].sigmoid(), y[:, 0].sigmoid()], 1),
}
FORMS = {"torchscript": False, "dynamo": True}


def opened(path: Path, **options: str) -> OnnxClassifier:
    """A trainable classifier that computes what its file computes."""
    classifier = load_onnx(path, **options)
    assert isinstance(classifier, OnnxClassifier)
    assert check_parity(path, classifier) <= 1e-6
    return classifier


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "torchscript") for name in ENDINGS),
        *((name, "dynamo") for name in list(ENDINGS)[:3]),
        ("softmax by hand", "dynamo"),
        ("log-sum-exp", "dynamo"),
    ],
)
def test_a_softmax_is_cut_however_it_is_written(name: str, form: str, tmp_path: Path) -> None:
    """The logits are the numbers before the softmax, the features what the last layer reads."""
    function, kind = ENDINGS[name]
    network = mlp().eval()
    classifier = opened(export(Composed(network, function), table(2), tmp_path / "m.onnx", dynamo=FORMS[form]))
    (x,) = table(5)
    scale = 2.5 if name == "temperature" else 1.0
    torch.testing.assert_close(classifier(x)[0] * scale, network(x), atol=1e-5, rtol=1e-5)
    assert (classifier.output_kind, classifier.feature_dim) == (kind, 16)
    assert weight_count(classifier) == weight_count(network)


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "torchscript") for name in PAIRS), ("[1 - p, p]", "dynamo"), ("sigmoid by hand", "dynamo")],
)
def test_one_sigmoid_gives_two_logits(name: str, form: str, tmp_path: Path) -> None:
    """One probability p, alone or beside 1 - p in either order, becomes the logits 0 and z with p = sigmoid(z)."""
    network = mlp(1).eval()
    classifier = opened(export(Composed(network, PAIRS[name]), table(2), tmp_path / "m.onnx", dynamo=FORMS[form]))
    (x,) = table(6)
    logits = classifier(x)[0].flip(1) if name == "[p, 1 - p]" else classifier(x)[0]
    assert torch.equal(logits[:, 0], torch.zeros(6))
    torch.testing.assert_close(logits[:, 1:], network(x), atol=1e-6, rtol=1e-5)
    assert (classifier.task, classifier.output_kind, classifier.num_classes) == ("binary", "probabilities", 2)
    assert weight_count(classifier) == weight_count(network)


class Two(nn.Module):
    """Two networks over the same rows, and what is made of their scores."""

    def __init__(self, function: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.first, self.second, self.function = mlp(), mlp(), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.first(x), self.second(x))


def test_a_mean_of_softmaxes_is_a_classifier(tmp_path: Path) -> None:
    """Probabilities that are no softmax of one layer: their logarithms are the logits, both layers are the head."""
    network = Two(lambda a, b: (a.softmax(1) + b.softmax(1)) / 2).eval()
    classifier = opened(export(network, table(2), tmp_path / "m.onnx"))
    (x,) = table(5)
    torch.testing.assert_close(classifier(x)[0].softmax(1), network(x), atol=1e-6, rtol=1e-5)
    assert (classifier.output_kind, classifier.feature_dim) == ("probabilities", 32)
    assert weight_count(classifier) == weight_count(network)


def test_several_heads_are_listed(tmp_path: Path) -> None:
    """Two heads that do not lead to each other: the error names both outputs, and either can be chosen."""
    network = Two(lambda a, b: (a, b)).eval()
    path = export(network, table(2), tmp_path / "m.onnx", output_names=["main", "auxiliary"])
    with refusal(UnsupportedModel, "several_outputs", r"\['main', 'auxiliary'\]; pass output="):
        load_onnx(path)
    for code, options in {"unknown_output": {"output": "nothing"}, "unknown_features": {"features": "nothing"}}.items():
        with refusal(UnsupportedModel, code):
            load_onnx(path, **{"output": "main", **options})
    (x,) = table(4)
    torch.testing.assert_close(load_onnx(path, output="auxiliary")(x)[0], network(x)[1])


class Embedding(nn.Module):
    """An embedding, its class scores and the label, all as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.classify = nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        embedding = self.embed(x)
        logits = self.classify(embedding)
        return logits.argmax(1), embedding, logits, logits.softmax(1)


def test_the_last_of_several_steps_is_the_output(tmp_path: Path) -> None:
    """Label, embedding and logits beside the probabilities are steps or afterthoughts: the probabilities count."""
    names = ["label", "embedding", "logits", "probabilities"]
    network = Embedding().eval()
    classifier = load_onnx(export(network, table(2), tmp_path / "m.onnx", output_names=names))
    (x,) = table(4)
    torch.testing.assert_close(classifier(x)[0], network(x)[2])
    torch.testing.assert_close(classifier(x)[1], network(x)[1])
    assert classifier.output_kind in ("logits", "probabilities")
    assert classifier.num_classes == 3


def test_labels_alone_lead_to_their_scores(tmp_path: Path) -> None:
    """A file that gives only the label: the scores before its ArgMax are what is calibrated."""
    network = mlp().eval()
    classifier = opened(export(Composed(network, lambda y: y.softmax(1).argmax(1)), table(2), tmp_path / "m.onnx"))
    (x,) = table(4)
    torch.testing.assert_close(classifier(x)[0], network(x))


class Cosine(nn.Module):
    """Scores are the cosines between features and class vectors, times a scale."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 16), nn.Tanh())
        self.weight = nn.Parameter(torch.randn(3, 16))
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if self.form == "both normalised":
            return 16.0 * F.linear(F.normalize(h), F.normalize(self.weight))
        norms = torch.linalg.vector_norm(h, dim=1, keepdim=True) * torch.linalg.vector_norm(self.weight, dim=1)
        return 16.0 * (h @ self.weight.T) / norms  # type: ignore[no-any-return]


@pytest.mark.parametrize("dynamo", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("form", ["both normalised", "divided by the norms"])
def test_cosine_heads(form: str, dynamo: bool, tmp_path: Path) -> None:
    """A head of cosines is a linear layer: its class vectors train, its features have the layer's width."""
    network = Cosine(form).eval()
    options = {} if dynamo else {"do_constant_folding": False}
    classifier = opened(export(network, table(2), tmp_path / "m.onnx", dynamo=dynamo, **options))
    (x,) = table(5)
    torch.testing.assert_close(classifier(x)[0], network(x), atol=1e-5, rtol=1e-5)
    assert classifier.feature_dim == 16
    assert (3, 16) in {tuple(sorted(p.shape)) for p in classifier.head_parameters()}


def test_lp_normalised_features(tmp_path: Path) -> None:
    """LpNormalization of features and class vectors: the vectors, though computed, are weights."""
    rng = np.random.default_rng(0)
    path = hand_made(
        tmp_path,
        [
            node("MatMul", ["x", "w"], "h"),
            node("LpNormalization", ["h"], "u", axis=1, p=2),
            node("LpNormalization", ["v"], "n", axis=0, p=2),
            node("MatMul", ["u", "n"], "c"),
            node("Mul", ["c", "s"], "y"),
        ],
        [10],
        {"w": rng.standard_normal((10, 8)), "v": rng.standard_normal((8, 3)), "s": np.array(16.0)},
    )
    classifier = opened(path)
    assert sorted(p.numel() for p in classifier.parameters()) == [24, 80]
    torch.testing.assert_close(classifier(*table(4))[1].norm(dim=1), torch.ones(4))


def pooled(pool: Function) -> Composed:
    """A convolution gives scores of positions, which are pooled."""
    return Composed(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 5, 1)), pool).eval()


@pytest.mark.parametrize("dynamo", FORMS.values(), ids=FORMS)
def test_a_squeeze_head_has_pooled_features(dynamo: bool, tmp_path: Path) -> None:
    """A 1x1 convolution and a mean over positions: features are the pooled channels."""
    network = pooled(lambda y: y.mean((2, 3)))
    classifier = opened(export(network, images(2, 8), tmp_path / "m.onnx", dynamo=dynamo))
    (x,) = images(4, 8)
    torch.testing.assert_close(classifier(x)[0], network(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(classifier(x)[1], network.network[:2](x).mean((2, 3)), atol=1e-6, rtol=1e-5)


def test_a_maximum_over_positions_has_mean_features(tmp_path: Path) -> None:
    """Multiple-instance heads take the largest score of all positions: features are the mean of all positions'."""
    network = pooled(lambda y: y.amax((2, 3)))
    classifier = opened(export(network, images(2, 8), tmp_path / "m.onnx"))
    (x,) = images(4, 8)
    logits, features = classifier(x)
    torch.testing.assert_close(logits, network(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(features, network.network[:2](x).mean((2, 3)), atol=1e-6, rtol=1e-5)
    assert (classifier.feature_dim, classifier.num_classes) == (8, 5)


def rng(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def squeezed(name: str, opset: int) -> tuple[list[NodeProto], list[int], dict[str, np.ndarray]]:
    """SqueezeNet's end: scores of positions, a ReLU, a mean; over images (C, H, W) or sequences (L, C)."""
    if name == "channels first":
        return (
            [
                node("Conv", ["x", "k"], "c", kernel_shape=[3, 3]),
                node("Tanh", ["c"], "features"),
                node("Conv", ["features", "w", "b"], "z", kernel_shape=[1, 1]),
                node("Relu", ["z"], "r"),
                node("GlobalAveragePool", ["r"], "g"),
                node("Flatten", ["g"], "y", axis=1),
            ],
            [3, 6, 5],
            {"k": rng(8, 3, 3, 3), "w": rng(4, 8, 1, 1), "b": rng(4)},
        )
    old = opset < 18
    return (
        [
            node("MatMul", ["x", "k"], "c"),
            node("Tanh", ["c"], "features"),
            node("MatMul", ["features", "w"], "p"),
            node("Add", ["p", "b"], "z"),
            node("Relu", ["z"], "r"),
            node("ReduceMean", ["r"] if old else ["r", "end"], "y", keepdims=0, **({"axes": [1]} if old else {})),
        ],
        [7, 3],
        {"k": rng(3, 8), "w": rng(8, 4), "b": rng(4), **({} if old else {"end": np.array([1])})},
    )


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", ["channels first", "channels last"])
def test_features_are_the_mean_where_the_pooling_cannot_move(name: str, opset: int, tmp_path: Path) -> None:
    """A ReLU before the pooling: features are means of what the last layer reads, without a head; all weights train."""
    nodes, shape, constants = squeezed(name, opset)
    positions = run_file(
        hand_made(tmp_path, nodes, shape, constants, outputs=("features", "y"), opset=opset),
        (x := torch.from_numpy(rng(5, *shape).astype(np.float32)),),
    )
    path = hand_made(tmp_path, nodes, shape, constants, opset=opset)
    classifier = opened(path)
    logits, features = classifier(x)
    expected = positions.mean((2, 3)) if name == "channels first" else positions.mean(1)
    np.testing.assert_allclose(features.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(logits.detach(), run_file(path, (x,)), atol=1e-5)
    assert classifier.feature_layer == "features"
    assert classifier.head_parameters() == []
    with pytest.raises(TypeError, match="features"):
        classifier.head(features)
    weights = sorted(v.size for n, v in constants.items() if n != "end")
    assert sorted(p.numel() for p in classifier.parameters()) == weights
    tuned = tmp_path / "tuned.onnx"
    calibrator = TemperatureScaling(2.0)
    write_graph(classifier, calibrator=calibrator, class_names=list("abcd"), verify_with=[x.numpy()]).save(tuned)
    session = onnxruntime.InferenceSession(tuned, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["features"], {"x": x.numpy()})[0], expected, atol=1e-6)


def last_token(form: str) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """The nodes of Transformers' sequence classification: scores at a text's last token that is no padding (0)."""
    count = [
        node("Cast", ["x"], "real", to=TensorProto.BOOL),
        node("Cast", ["real"], "ones", to=TensorProto.INT64),
        node("ReduceSum", ["ones", "one"], "n", keepdims=0),
        node("Sub", ["n", "one"], "last"),
    ]
    column = node("Unsqueeze", ["last", "one"], "place")
    score = lambda x, y: [node("MatMul", [x, "w"], "s"), node("Add", ["s", "b"], y)]  # noqa: E731
    embed = node("Gather", ["table", "x"], "h")
    constants = {
        "table": rng(50, 8),
        "w": rng(8, 3),
        "b": rng(3),
        "one": np.array([1]),
        "seven": np.array(7),
        "zero": np.array(0),
        "step": np.array(1),
    }
    if form == "picked before the layer":
        return [embed, *count, column, node("GatherND", ["h", "place"], "f", batch_dims=1), *score("f", "y")], constants
    if form == "GatherND":
        return [embed, *count, column, *score("h", "z"), node("GatherND", ["z", "place"], "y", batch_dims=1)], constants
    rows = [
        node("Shape", ["z"], "sizes"),
        node("Gather", ["sizes", "zero"], "rows"),
        node("Range", ["zero", "rows", "step"], "row"),
        node("Mul", ["row", "seven"], "start"),
        node("Add", ["start", "last"], "at"),
    ]
    picks = [node("Flatten", ["z"], "flat", axis=2), node("Gather", ["flat", "at"], "y")]
    return [embed, *count, *score("h", "z"), *rows, *picks], constants


@pytest.mark.parametrize("form", ["picked before the layer", "GatherND", "Flatten and Gather"])
def test_the_last_token_is_what_a_text_is_classified_by(form: str, tmp_path: Path) -> None:
    """Places of tokens come from the input but are no data: features are the last real token's, (N, D)."""
    nodes, constants = last_token(form)
    classifier = opened(hand_made(tmp_path, nodes, [7], constants, kind=TensorProto.INT64))
    x = torch.tensor([[3, 4, 5, 0, 0, 0, 0], [7, 8, 9, 10, 11, 12, 13], [2, 0, 0, 0, 0, 0, 0]])
    logits, features = classifier(x)
    expected = constants["table"][[5, 13, 2]]
    np.testing.assert_allclose(features.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(logits.detach(), expected @ constants["w"] + constants["b"], atol=1e-5)
    assert torch.equal(classifier.head(features), logits)
    assert sorted(p.numel() for p in classifier.parameters()) == [3, 24, 400]


def jax_softmax(floor: float) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """A layer and the softmax as JAX writes it: reductions drop their axis and are widened again; Σ is floored."""
    nodes = [
        node("MatMul", ["x", "w"], "z"),
        node("ReduceMax", ["z"], "m", axes=[1], keepdims=0),
        node("Max", ["lowest", "m"], "m1"),
        node("Reshape", ["m1", "column"], "m2"),
        node("Expand", ["m2", "wide"], "m3"),
        node("Sub", ["z", "m3"], "c"),
        node("Exp", ["c"], "e"),
        node("ReduceSum", ["e", "axis"], "t", keepdims=0),
        node("Max", ["t", "floor"], "t1"),
        node("Reshape", ["t1", "column"], "t2"),
        node("Expand", ["t2", "wide"], "t3"),
        node("Div", ["e", "t3"], "y"),
    ]
    return nodes, {
        "w": rng(10, 3),
        "lowest": np.array(-np.inf),
        "floor": np.array(floor),
        "column": np.array([-1, 1]),
        "wide": np.array([1, 3]),
        "axis": np.array([1]),
    }


def test_the_softmax_that_jax_writes(tmp_path: Path) -> None:
    """Reduced, held against minus infinity, reshaped and expanded: a softmax all the same, cut off."""
    nodes, constants = jax_softmax(-np.inf)
    classifier = opened(hand_made(tmp_path, nodes, [10], constants))
    (x,) = table(5)
    np.testing.assert_allclose(classifier(x)[0].detach(), x.numpy() @ constants["w"], atol=1e-5)
    assert (classifier.output_kind, classifier.feature_dim) == ("probabilities", 10)


def test_a_floor_of_the_sum_is_no_softmax(tmp_path: Path) -> None:
    """A maximum with a number that matters changes the result: these are no probabilities."""
    nodes, constants = jax_softmax(50.0)
    with refusal(UnsupportedModel, "no_classifier_output"):
        load_onnx(hand_made(tmp_path, nodes, [10], constants))


def test_bounded_probabilities_are_no_softmax(tmp_path: Path) -> None:
    """A clip that changes confident rows alone shows too: a clipped softmax is kept, its logarithms are the logits."""
    path = export(Composed(mlp(), lambda y: y.softmax(1).clamp(0.01, 0.99)), table(2), tmp_path / "m.onnx")
    nodes = load_onnx(path).graph().nodes
    assert [item.op_type for item in nodes if item.op_type in ("Softmax", "Clip")] == ["Softmax", "Clip"]


@pytest.mark.parametrize("kind", ["embedding", "regression"])
def test_what_is_no_classifier_is_refused(kind: str, tmp_path: Path) -> None:
    """Unit vectors and bounded numbers after a linear layer are not taken for class scores."""
    functions: dict[str, Function] = {"embedding": F.normalize, "regression": torch.tanh}
    path = export(Composed(mlp(), functions[kind]), table(2), tmp_path / "m.onnx")
    with refusal(UnsupportedModel, "no_classifier_output"):
        load_onnx(path)


def test_scaled_inputs_are_features_of_a_linear_classifier(tmp_path: Path) -> None:
    """Logistic regression behind a scaler: features are the scaled columns, the scaler's numbers are no weights."""
    network = Scaled().eval()
    classifier = opened(export(network, table(2), tmp_path / "m.onnx"))
    (x,) = table(5)
    torch.testing.assert_close(classifier(x)[1], (x - network.mean) / network.deviation)
    assert weight_count(classifier) == 33
    np.testing.assert_allclose(classifier(x)[0].detach(), run_file(tmp_path / "m.onnx", (x,)), atol=1e-5)


def test_the_output_of_a_label_is_not_renamed(tmp_path: Path) -> None:
    """The record names the tensor that was read, before ArgMax, which the file can be asked for."""
    path = export(Composed(mlp(), lambda y: y.argmax(1)), table(2), tmp_path / "m.onnx", output_names=["label"])
    assert load_onnx(path).output_name in {name for n in onnx.load(path).graph.node for name in n.output} - {"label"}
