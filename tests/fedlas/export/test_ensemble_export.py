"""An average of networks is one ONNX file with its finalist's probabilities, which computes common parts once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from fedlas.calibrators import (
    CALIBRATORS,
    Calibrator,
    LogPool,
    Pool,
    TemperatureScaling,
    Uniform,
    VectorScaling,
    softmax,
)
from fedlas.calibrators.feature_map import FeatureScaling
from fedlas.calibrators.linear import Compressed
from fedlas.errors import ExportError, UnsupportedModel
from fedlas.export.graph import merge, write_graph
from fedlas.guarantees.typicality import Typicality
from fedlas.importers import GraphClassifier, load_onnx
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.runtime import predict_file
from fedlas.race.averaging import Ensemble
from fedlas.race.results import CandidateResult, Finalist
from fedlas.training.fit import predict_logits
from tests.helpers.networks import NETWORKS, Cnn, export, images, trained_looking
from tests.helpers.refusals import refusal
from tests.helpers.tuned import shaken

pytestmark = pytest.mark.slow

WEIGHTS = (0.5, 0.2, 0.5)


def pool_of_every_kind(classes: int, width: int) -> Pool:
    """All calibrators that there are for so many classes, and a map of the features."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, classes)), rng.integers(0, classes, 200)
    kinds = [kind for kind in CALIBRATORS.values() if classes == 2 or not kind.two_classes_only]
    scaled = FeatureScaling(1.2, rng.normal(size=(width, classes)) / width**0.5, rng.normal(size=classes), share=0.1)
    members: list[Calibrator] = [scaled, Uniform(), *(kind().fit(logits, targets) for kind in kinds)]
    return Pool(members, np.full(len(members), 1 / len(members)))


def finalist(base: GraphClassifier, *, head_only: bool) -> Finalist:
    """Pools in a pool, a pool on compressed logits, and offsets per class; one more temperature on top of them."""
    rng = np.random.default_rng(0)
    classes, width = base.num_classes, base.feature_dim
    vector = VectorScaling().fit(rng.normal(size=(200, classes)), rng.integers(0, classes, 200))
    every = pool_of_every_kind(classes, width)
    calibrators: list[Calibrator] = [
        Pool([TemperatureScaling(1.7), every, Compressed(every)], [0.4, 0.3, 0.3]),
        Compressed(Pool([TemperatureScaling(0.6), vector], [0.7, 0.3])),
        Pool(
            [vector, FeatureScaling(0.9, rng.normal(size=(width, classes)) / width**0.5, rng.normal(size=classes))],
            [0.5, 0.5],
        ),
    ]
    members = [base, *(shaken(base, seed, head_only=head_only) for seed in (1, 2))]
    pools = [LogPool([one], [weight]) for one, weight in zip(calibrators, WEIGHTS, strict=True)]
    first = LogPool([TemperatureScaling(2.0), pools[0]], [0.3, 0.9])
    network = Ensemble(members, [first, *pools[1:]], shares_body=head_only)
    result = CandidateResult("average", "ensemble", {}, "all", "finished")
    return Finalist(network, TemperatureScaling(0.8), result, np.zeros((1, classes)), np.zeros((1, width), np.float32))


def written(made: Finalist, path: Path, rows: list[np.ndarray], typicality: Typicality | None = None) -> Path:
    network = made.classifier
    assert isinstance(network, Ensemble)
    report = write_graph(
        network,
        calibrator=made.calibrator,
        class_names=[f"k{i}" for i in range(network.num_classes)],
        typicality=typicality,
        verify_with=rows,
        tolerance=1e-5,
    ).save(path)
    assert report.parity.num_rows == len(rows[0])
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return path


@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "heads"])
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        ("mlp", False),
        ("cnn", False),
        ("encoder", False),
        ("bert", False),
        pytest.param("bert", True, marks=pytest.mark.slow),
    ],
)
def test_the_file_gives_the_finalists_probabilities(name: str, dynamo: bool, head_only: bool, tmp_path: Path) -> None:
    """`probabilities` are the log-linear pool to 1e-5 at any batch; `logits` and `features` are the first member's."""
    torch.manual_seed(0)
    make, sample = NETWORKS[name]
    base = load_onnx(export(trained_looking(make()), sample(2), tmp_path / "m.onnx", dynamo=dynamo))
    made, rows = finalist(base, head_only=head_only), [value.numpy() for value in sample(9)]
    network = made.classifier
    assert isinstance(network, Ensemble)
    path = written(made, tmp_path / "out.onnx", rows)
    for count in (1, 4, 9):
        some = [array[:count] for array in rows]
        found = predict_file(path, some)
        expected = made.probs(some)
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        np.testing.assert_allclose(found["confidence"], expected.max(axis=1), atol=1e-5)
        pairs = zip(network.calibrators, network.networks, strict=True)
        parts = [calibrator(*predict_logits(member, some)) for calibrator, member in pairs]
        np.testing.assert_allclose(found["probabilities"], softmax(made.calibrator(np.sum(parts, axis=0))), atol=1e-5)
        assert np.ptp(parts, axis=0).max() > 1e-3, "the members differ"
        own = predict_logits(base, some)
        np.testing.assert_allclose(softmax(found["logits"]), softmax(own[0]), atol=1e-5)
        np.testing.assert_allclose(found["features"], own[1], atol=1e-5)


@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "heads"])
@pytest.mark.parametrize(("opset", "dynamo"), [(9, False), (18, False), (23, True)])
def test_in_every_opset(opset: int, dynamo: bool, head_only: bool, tmp_path: Path) -> None:
    """The file keeps the upload's opset and the finalist's probabilities; typicality comes with it."""
    torch.manual_seed(0)
    path = export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx", dynamo=dynamo, opset_version=opset)
    base = load_onnx(path)
    made, rows = finalist(base, head_only=head_only), [images(6)[0].numpy()]
    typicality = Typicality.fit(predict_logits(base, [images(60)[0].numpy()])[1])
    out = written(made, tmp_path / "out.onnx", rows, typicality=typicality)
    found = predict_file(out, rows)
    np.testing.assert_allclose(found["probabilities"], made.probs(rows), atol=1e-5)
    assert list(found) == ["logits", "probabilities", "confidence", "features", "typicality"]
    assert {o.domain: o.version for o in onnx.load(out).opset_import}[""] == opset


def test_heads_carry_their_body_once(tmp_path: Path) -> None:
    """Three heads on one body have its two convolutions once; three networks have them thrice."""
    torch.manual_seed(0)
    base = load_onnx(export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx"))
    rows = [images(4)[0].numpy()]
    counts = []
    for head_only in (True, False):
        path = written(finalist(base, head_only=head_only), tmp_path / f"{head_only}.onnx", rows)
        counts.append([node.op_type for node in onnx.load(path).graph.node].count("Conv"))
    assert counts == [2, 6]


@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "heads"])
@pytest.mark.parametrize("name", ["mlp", "bert"])
def test_a_written_average_can_be_uploaded_again(name: str, head_only: bool, tmp_path: Path) -> None:
    """The import of a written average computes its probabilities, and so does a file calibrated from it."""
    torch.manual_seed(0)
    make, sample = NETWORKS[name]
    base = load_onnx(export(trained_looking(make()), sample(2), tmp_path / "m.onnx"))
    made, rows = finalist(base, head_only=head_only), [value.numpy() for value in sample(7)]
    again = load_onnx(written(made, tmp_path / "out.onnx", rows), output="probabilities")
    np.testing.assert_allclose(softmax(predict_logits(again, rows)[0]), made.probs(rows), atol=1e-5)
    names = [f"k{i}" for i in range(again.num_classes)]
    write_graph(again, calibrator=TemperatureScaling(1.0), class_names=names, verify_with=rows).save(
        tmp_path / "twice.onnx"
    )
    answered = predict_file(tmp_path / "twice.onnx", rows)["probabilities"]
    np.testing.assert_allclose(answered, made.probs(rows), atol=2e-5)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> GraphClassifier:
    """A network of convolutions, imported."""
    torch.manual_seed(0)
    return load_onnx(export(trained_looking(Cnn()), images(2), tmp_path_factory.mktemp("cnn") / "m.onnx"))


@pytest.mark.parametrize(("average", "kind"), [(False, UnsupportedModel), (True, ExportError)])
def test_too_large_for_a_file(
    cnn: GraphClassifier, average: bool, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights over what a file holds are an error with a code, before anything is written."""
    network = (
        cnn
        if not average
        else Ensemble([cnn, shaken(cnn, 1, head_only=False)], [TemperatureScaling(1.0)] * 2, shares_body=False)
    )
    monkeypatch.setattr("fedlas.export.graph.MAX_WEIGHT_BYTES", 1000)
    with refusal(kind, "too_large_for_onnx", "GiB"):
        write_graph(network, calibrator=TemperatureScaling(1.0), class_names=list("abcde")).save(tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


onnx_reference = pytest.importorskip("onnx.reference")


def graph(body: float, head: float, *, name: str = "x", extra: bool = False) -> Graph:
    """relu(x @ body) @ head, with an optional random addition before the head."""
    weights: dict[str, np.ndarray] = {
        "body": np.full((3, 4), body, np.float32) * np.arange(1, 5, dtype=np.float32),
        "head": np.full((4, 2), head, np.float32) * np.array([1, -1], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", [name, "body"], ["product"], name="first"),
        helper.make_node("Relu", ["product"], ["features"]),
    ]
    last = "features"
    if extra:
        nodes += [
            helper.make_node("RandomNormalLike", ["features"], ["noise"]),
            helper.make_node("Add", ["features", "noise"], ["noisy"]),
        ]
        last = "noisy"
    nodes.append(helper.make_node("MatMul", [last, "head"], ["logits"]))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    return Graph.from_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def operators(found: Graph) -> list[str]:
    return [node.op_type for node in found.nodes]


def run(found: Graph, outputs: list[str], x: np.ndarray) -> list[np.ndarray]:
    model = found.to_model([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]) for name in outputs])
    onnx.checker.check_model(model)
    answers: list[np.ndarray] = onnx_reference.ReferenceEvaluator(model).run(None, {"x": x})
    return answers


def test_a_common_body_is_kept_once() -> None:
    """Three copies that differ in their heads: one body, three heads, and each computes what it computed."""
    graphs = [graph(1.0, head) for head in (1.0, 2.0, 3.0)]
    merged, names = merge(graphs, [["logits", "features"]] * 3)
    assert operators(merged) == ["MatMul", "Relu", "MatMul", "MatMul", "MatMul"]
    assert len(merged.constants) == 4
    assert len({logits for logits, _ in names}) == 3
    assert len({features for _, features in names}) == 1
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for one, answer in zip(graphs, run(merged, [logits for logits, _ in names], x), strict=True):
        np.testing.assert_array_equal(answer, run(one, ["logits"], x)[0])


def test_identical_copies_add_nothing() -> None:
    """The second of two equal graphs has no node and no constant of its own, whatever its tensors are called."""
    renamed = graph(1.0, 1.0)
    for node in renamed.nodes:
        for tensors in (node.input, node.output):
            for i, tensor in enumerate(tensors):
                tensors[i] = "hidden" if tensor == "features" else tensor
    merged, names = merge([graph(1.0, 1.0), renamed], [["logits"], ["logits"]])
    assert operators(merged) == ["MatMul", "Relu", "MatMul"]
    assert names[0] == names[1]


def test_other_bodies_stay_apart() -> None:
    """Copies whose first weights differ share nothing, though their tensors have the same names."""
    graphs = [graph(1.0, 1.0), graph(-1.0, 1.0)]
    merged, names = merge(graphs, [["logits"], ["logits"]])
    assert operators(merged) == ["MatMul", "Relu", "MatMul"] * 2
    assert len(merged.constants) == 3, "equal heads are stored once"
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    answers = run(merged, [name for (name,) in names], x)
    np.testing.assert_array_equal(answers[0], run(graphs[0], ["logits"], x)[0])
    np.testing.assert_array_equal(answers[1], run(graphs[1], ["logits"], x)[0])
    assert np.abs(answers[0] - answers[1]).max() > 0


def test_attributes_tell_nodes_apart() -> None:
    """Two nodes of one kind and input are one only where their attributes are equal."""
    graphs = [graph(1.0, 1.0) for _ in range(3)]
    for one, alpha in zip(graphs, (0.1, 0.2, 0.1), strict=True):
        one.nodes[1].op_type = "LeakyRelu"
        one.nodes[1].attribute.append(helper.make_attribute("alpha", alpha))
    merged, names = merge(graphs, [["logits"]] * 3)
    assert operators(merged).count("LeakyRelu") == 2
    assert names[0] == names[2] != names[1]


def test_chance_is_drawn_for_each() -> None:
    """Random nodes are never taken for the same computation."""
    merged, names = merge([graph(1.0, 1.0, extra=True)] * 2, [["logits"]] * 2)
    assert operators(merged).count("RandomNormalLike") == 2
    assert names[0] != names[1]


def test_the_graphs_are_left_as_they_are() -> None:
    """Merging changes neither nodes nor constants of what it was given."""
    graphs = [graph(1.0, 1.0), graph(2.0, 2.0)]
    before = [([n.SerializeToString() for n in g.nodes], set(g.constants)) for g in graphs]
    merge(graphs, [["logits"]] * 2)
    assert before == [([n.SerializeToString() for n in g.nodes], set(g.constants)) for g in graphs]


def test_different_inputs_are_refused() -> None:
    """Graphs over inputs of other names cannot be merged."""
    with pytest.raises(ValueError, match=r"same inputs.*\['x'\], \['y'\]"):
        merge([graph(1.0, 1.0), graph(1.0, 1.0, name="y")], [["logits"]] * 2)
