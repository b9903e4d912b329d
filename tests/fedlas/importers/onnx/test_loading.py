"""An imported network computes what its file computes, and every weight of it trains."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fedlas.errors import UnsupportedModel
from fedlas.importers import OnnxClassifier, check_parity, load_onnx
from fedlas.importers.onnx import loading
from fedlas.importers.onnx.train.classifier import GraphClassifier
from tests.helpers.networks import (
    NETWORKS,
    Bert,
    Cnn,
    Composed,
    Inputs,
    export,
    hand_made,
    images,
    mlp,
    run_file,
    table,
    texts,
    trained_looking,
    weight_count,
)
from tests.helpers.refusals import refusal

FORMS = {"torchscript": False, "dynamo": True}


def without_gradient(classifier: OnnxClassifier, inputs: Inputs) -> list[str]:
    """Names of parameters that one backward pass does not reach."""
    logits, _ = classifier.train()(*inputs)
    F.cross_entropy(logits, torch.arange(len(logits)) % classifier.num_classes).backward()
    return [name for name, p in classifier.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("batch", [None, 1, 4], ids=["open", "one", "four"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_parity_and_gradients(name: str, form: str, batch: int | None, tmp_path: Path) -> None:
    """Both exporters' files, with open and with fixed batch, give ONNX Runtime's logits and train as a whole."""
    make, rows = NETWORKS[name]
    torch.manual_seed(0)
    network = trained_looking(make())
    path = export(network, rows(batch or 2), tmp_path / "m.onnx", dynamo=FORMS[form], dynamic=batch is None)
    classifier = load_onnx(path)
    inputs = rows(batch or 3)
    logits, features = classifier(*inputs)
    np.testing.assert_allclose(logits.detach().numpy(), run_file(path, inputs), atol=1e-4)
    assert torch.equal(classifier.head(features), logits)
    assert features.shape == (len(logits), classifier.feature_dim)
    for count in (1, 3, 8):
        several = rows(count)
        with torch.no_grad():
            np.testing.assert_allclose(classifier(*several)[0], network(*several), atol=1e-4)
    assert without_gradient(classifier, rows(8)) == []
    # Exporters fold BatchNorm into the convolution before it: scale and bias vanish there.
    folded = sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert weight_count(classifier) == weight_count(network) - folded


def test_a_pooling_after_the_last_layer_moves_before_it(tmp_path: Path) -> None:
    """Scores of positions that are averaged at the end come from averaged features, of one vector a row."""
    per_token = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    network = Composed(per_token, lambda y: y.mean(1)).eval()
    x = torch.randint(0, 50, (3, 7))
    logits, features = load_onnx(export(network, (x,), tmp_path / "m.onnx"))(x)
    assert features.shape == (3, 16)
    torch.testing.assert_close(logits, network(x), atol=1e-5, rtol=1e-5)


def test_two_paths_to_the_logits_give_both_features(tmp_path: Path) -> None:
    """Where two linear layers are added at the end, the features are both their inputs, side by side."""

    class WideAndDeep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.deep = nn.Linear(10, 3), nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.wide(x) + self.deep(x)  # type: ignore[no-any-return]

    network = WideAndDeep().eval()
    classifier = load_onnx(export(network, table(2), tmp_path / "m.onnx"))
    (x,) = table(4)
    logits, features = classifier(x)
    assert features.shape == (4, 18)
    torch.testing.assert_close(logits, network(x))


def test_batch_norm_stays_batch_norm(tmp_path: Path) -> None:
    """A graph exported in training mode keeps running statistics as buffers, moved by training as in PyTorch."""
    torch.manual_seed(0)
    network = Cnn()
    path = export(
        network.train(),
        images(4),
        tmp_path / "m.onnx",
        dynamic=False,
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
    )
    classifier = load_onnx(path)
    x = images(8)
    # (the export itself ran one batch through the network)
    torch.testing.assert_close(classifier(*x)[0], network.eval()(*x), atol=1e-5, rtol=1e-5)
    network.train()(*x)
    classifier.train()(*x)
    ours = {k: v for k, v in classifier.state_dict().items() if "running" in k}
    theirs = {k: v for k, v in network.state_dict().items() if "running" in k}
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert weight_count(classifier) == weight_count(network)


def test_dropout_follows_the_mode(tmp_path: Path) -> None:
    """A Dropout node drops in training and passes everything in inference."""
    network = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
    path = export(network.train(), table(2), tmp_path / "m.onnx", training=torch.onnx.TrainingMode.TRAINING)
    classifier = load_onnx(path)
    (x,) = table(4)
    assert torch.equal(classifier(x)[0], classifier(x)[0])
    assert (classifier.train()(x)[1] == 0).float().mean() - (classifier.eval()(x)[1] == 0).float().mean() > 0.1


def test_weights_in_constant_nodes_train(tmp_path: Path) -> None:
    """Weights that sit in Constant nodes, or behind Identity, are weights all the same."""
    weight, bias = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("Identity", ["w"], ["w1"]),
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    assert sorted(p.numel() for p in load_onnx(hand_made(tmp_path, nodes, [4], {"b": bias[0]})).parameters()) == [
        4,
        16,
        16,
    ]


def test_constants_that_are_no_weights_do_not_train(tmp_path: Path) -> None:
    """Scalers of the input, masks, sinusoidal positions and single numbers stay as they are."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            angles = torch.arange(8)[:, None] * torch.exp(-torch.arange(0, 16, 2) * 0.5)
            self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
            self.register_buffer("mask", torch.triu(torch.full((8, 8), -1e9), 1))
            self.register_buffer("mean", torch.randn(4))
            self.register_buffer("deviation", torch.rand(4) + 0.5)
            self.embed, self.attend, self.out = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = 0.5 * self.embed((x - self.mean) / self.deviation) + self.positions
            x = (self.attend(x) @ x.transpose(1, 2) + self.mask).softmax(-1) @ x
            return self.out(x[:, -1])  # type: ignore[no-any-return]

    network = Scaled().eval()
    classifier = load_onnx(export(network, (torch.randn(2, 8, 4),), tmp_path / "m.onnx"))
    assert weight_count(classifier) == weight_count(network)


def test_numerical_tokens_and_class_token_train(tmp_path: Path) -> None:
    """A tokeniser of raw numbers, its bias and a class token are weights, though no layer comes before them."""

    class Tokeniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(6, 8))
            self.token, self.out = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.unsqueeze(-1) * self.weight + self.bias
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            return self.out((x @ x.transpose(1, 2)).softmax(-1)[:, 0].unsqueeze(1).matmul(x).squeeze(1))  # type: ignore[no-any-return]

    network = Tokeniser().eval()
    x = torch.randn(4, 6)
    for batch in (1, 4):
        classifier = load_onnx(export(network, (x[:batch],), tmp_path / "m.onnx", dynamic=False))
        torch.testing.assert_close(classifier(x)[0], network(x), atol=1e-5, rtol=1e-5)
        assert weight_count(classifier) == weight_count(network)


def test_copies_are_independent(tmp_path: Path) -> None:
    """A deep copy that is trained leaves the original's weights and results alone."""
    classifier = load_onnx(export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx"))
    x = images(4)
    before = classifier(*x)[0].detach()
    other = copy.deepcopy(classifier).train()
    other(*x)[0].square().sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert torch.equal(classifier(*x)[0], before)
    assert not torch.allclose(other.eval()(*x)[0], before)


def test_inputs_are_described(tmp_path: Path) -> None:
    """Inputs carry name, numpy type and shape with N for the rows, whatever batch the exporter saw."""
    classifier = load_onnx(export(Bert().eval(), texts(2), tmp_path / "m.onnx", dynamic=False))
    assert [(spec.name, spec.dtype, spec.shape) for spec in classifier.inputs] == [
        ("input_ids", "int64", ["N", 12]),
        ("attention_mask", "int64", ["N", 12]),
    ]
    assert classifier.input_names == ("input_ids", "attention_mask")
    assert (classifier.task, classifier.num_classes, classifier.trainable) == ("multiclass", 4, True)


def test_output_and_features_can_be_chosen(tmp_path: Path) -> None:
    """`output` picks one of several heads, `features` taps another tensor of the graph."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"]),
        helper.make_node("Relu", ["first"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
        helper.make_node("MatMul", ["h", "u"], ["z"]),
    ]
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((4, 4)).astype(np.float32) for name in "wvu"}
    path = hand_made(tmp_path, nodes, [4], weights, outputs=("y", "z"))
    classifier = load_onnx(path, output="z")
    x = torch.randn(3, 4)
    hidden = torch.relu(x @ torch.from_numpy(weights["w"]))
    torch.testing.assert_close(classifier(x)[0], hidden @ torch.from_numpy(weights["u"]))
    tapped = load_onnx(path, output="z", features="first")
    torch.testing.assert_close(tapped(x)[1], x @ torch.from_numpy(weights["w"]))
    torch.testing.assert_close(tapped(x)[0], classifier(x)[0])
    assert len(tapped.head_parameters()) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_computed_where_the_rows_are_not(name: str, tmp_path: Path) -> None:
    """On another device than the CPU the network runs: shape arithmetic stays on the CPU, everything else moves."""
    make, rows = NETWORKS[name]
    classifier = load_onnx(export(make().eval(), rows(2), tmp_path / "m.onnx")).to("meta")
    logits, features = classifier.train()(*(value.to("meta") for value in rows(3)))
    logits.sum().backward()
    assert logits.is_meta
    assert features.shape == (3, classifier.feature_dim)


def renamed_sizes(path: Path, sizes: list[int]) -> Path:
    """A copy of the file with other sizes written into its first input."""
    model = onnx.load(path)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    onnx.save(model, path)
    return path


def test_minus_one_is_an_open_axis(tmp_path: Path) -> None:
    """PaddlePaddle writes -1 where an axis is open; ONNX Runtime takes any size there, and so does the import."""
    rng = np.random.default_rng(0)
    weights = {"k": rng.standard_normal((6, 3, 3, 3)), "w": rng.standard_normal((6, 4))}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    path = hand_made(tmp_path, nodes, [3, 8, 8], {name: value.astype(np.float32) for name, value in weights.items()})
    classifier = load_onnx(renamed_sizes(path, [-1, 3, -1, -1]))
    assert classifier.inputs[0].shape == ["N", 3, "dim_2", "dim_3"]
    assert check_parity(path, classifier) <= 1e-6
    for rows, size in ((1, 5), (3, 9)):
        x = torch.randn(rows, 3, size, size)
        np.testing.assert_allclose(classifier(x)[0].detach(), run_file(path, (x,)), atol=1e-5)


def test_a_file_of_classical_operators_alone(tmp_path: Path) -> None:
    """A file of classical operators need not name the standard operators' version: it opens, and it trains."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((3, 10)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "y"],
        domain="ai.onnx.ml",
        coefficients=weight.ravel().tolist(),
        intercepts=bias.tolist(),
        classlabels_ints=[0, 1, 2],
        multi_class=0,
        post_transform="NONE",
    )
    path = hand_made(tmp_path, [node], [10], {}, outputs=("label", "y"))
    model = onnx.load(path)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    classifier = load_onnx(path, output="y")
    x = torch.randn(4, 10)
    np.testing.assert_allclose(classifier(x)[0].detach(), x.numpy() @ weight.T + bias, atol=1e-5)
    assert check_parity(path, classifier) <= 1e-6
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))  # a standard operator needs its version named
    onnx.save(model, path)
    with refusal(UnsupportedModel, "unsupported_opset"):
        load_onnx(path)


def test_an_open_length_may_be_bounded_by_a_table_of_positions(tmp_path: Path) -> None:
    """Lengths beyond the table are tried and left; where no length fits at all, the error says so."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Range", ["first", "n", "one"], ["p"]),
        helper.make_node("Sub", ["p", "first"], ["p0"]),
        helper.make_node("Gather", ["places", "p0"], ["e"]),
        helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("Add", ["h", "e"], ["a"]),
        helper.make_node("ReduceMean", ["a"], ["m"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    shapes = {"places": (6, 8), "v": (2, 8), "w": (8, 3)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"one": np.array(1), "first": np.array(0)}
    path = hand_made(tmp_path, nodes, [5, 2], constants)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "L"
    onnx.save(model, path)
    classifier = load_onnx(path)
    x = torch.randn(3, 6, 2)
    np.testing.assert_allclose(classifier(x)[0].detach(), run_file(path, (x,)), atol=1e-5)
    first = next(tensor for tensor in model.graph.initializer if tensor.name == "first")
    first.CopyFrom(numpy_helper.from_array(np.array(-1000), "first"))
    onnx.save(model, path)
    with refusal(UnsupportedModel, "invalid_graph", "no made-up row can be run"):
        load_onnx(path)


def test_an_input_of_one_row_beside_others_is_explained(tmp_path: Path) -> None:
    """A constant that an exporter made an input is one of the causes that the refusal names."""
    nodes = [helper.make_node("Sub", ["x", "mean"], ["c"]), helper.make_node("MatMul", ["c", "w"], ["y"])]
    path = hand_made(tmp_path, nodes, [10], {"w": np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)})
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 10]))
    onnx.save(model, path)
    with refusal(UnsupportedModel, "no_classifier_output", "Keras' Normalization"):
        load_onnx(path)


def amplifying(folder: Path, times: float) -> Path:
    """Scores that are small differences of numbers `times` as large: rounding of the weights shows in them."""
    rng = np.random.default_rng(0)
    large, small = (rng.standard_normal((10, 3), np.float32) * np.float32(size) for size in (times, 1))
    constants = {
        "w": np.concatenate([large, large + small], 1),
        "v": np.concatenate([-np.eye(3), np.eye(3)]).astype(np.float32) * np.linspace(1, 1.01, 3, dtype=np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    return hand_made(folder, nodes, [10], constants)


def changed(classifier: GraphClassifier, factor: float) -> float:
    """Change one column of the first weights by `factor`; the largest difference in probability that this makes."""
    rows = [torch.from_numpy(row) for row in classifier.example_rows(4)]
    with torch.no_grad():
        before = classifier(*rows)[0].softmax(1)
        next(classifier.parameters())[:, 0] *= 1 + factor
        return float((classifier(*rows)[0].softmax(1) - before).abs().max())


def test_what_rounding_does_is_no_wrong_import(tmp_path: Path) -> None:
    """Two units in the last place of a column of weights: accepted where a network amplifies them."""
    path = amplifying(tmp_path, 3000.0)
    classifier = load_onnx(path)
    assert 1e-4 < changed(classifier, 2.4e-7) < 1e-2
    assert 1e-4 < check_parity(path, classifier) < 1e-2


def test_no_amount_of_amplified_rounding_excuses_a_large_difference(tmp_path: Path) -> None:
    """A hundredth in probability is refused, although rounding alone might do as much here."""
    path = amplifying(tmp_path, 30000.0)
    classifier = load_onnx(path)
    assert 1e-2 < changed(classifier, 2e-6) < loading.rounding_error(classifier, classifier.example_rows(4))
    with refusal(UnsupportedModel, "import_mismatch", "differs from the file"):
        check_parity(path, classifier)


def test_a_wrong_import_is_refused_however_small_the_difference(tmp_path: Path) -> None:
    """A network that does not amplify rounding: weights that are wrong by a thousandth are no rounding."""
    path = export(trained_looking(mlp()), table(2), tmp_path / "m.onnx")
    classifier = load_onnx(path)
    assert check_parity(path, classifier) <= 1e-6
    with torch.no_grad():
        rows = [torch.from_numpy(row) for row in classifier.example_rows(4)]
        before = classifier(*rows)[0].softmax(1)
        classifier.head_parameters()[-1][0] += 1e-3
        assert 1e-4 < float((classifier(*rows)[0].softmax(1) - before).abs().max()) < 1e-2
    with refusal(UnsupportedModel, "import_mismatch"):
        check_parity(path, classifier)


def test_half_precision_rounds_more_and_excuses_no_more(tmp_path: Path) -> None:
    """A float16 network may differ by the roundings of float16; more is refused, with the way to export it."""
    torch.manual_seed(2)  # differs by 1.3e-3; other seeds by 9e-5 to 8e-4
    (network := trained_looking(mlp(10, width=256)))[-1].weight.data *= 20
    path = export(network.half(), (torch.randn(2, 10).half(),), tmp_path / "m.onnx")
    classifier = load_onnx(path)
    assert 1e-4 < check_parity(path, classifier) < 1e-2
    with torch.no_grad():
        classifier.head_parameters()[-1][0] += 1
    with refusal(UnsupportedModel, "import_mismatch", "export it in float32"):
        check_parity(path, classifier)


def test_what_only_the_optimiser_changes_is_not_held_against_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ONNX Runtime's folded graph differs, the graph as it is written decides."""
    path = export(trained_looking(mlp()), table(2), tmp_path / "m.onnx")
    classifier = load_onnx(path)
    other = export(trained_looking(mlp(), seed=1), table(2), tmp_path / "other.onnx")
    opened = loading.open_session
    monkeypatch.setattr(
        loading, "open_session", lambda file, optimised=True: opened(other if optimised else file, optimised=optimised)
    )
    assert check_parity(path, classifier) <= 1e-6
