"""A graph that ONNX Runtime alone computes is opened, calibrated and written as it is, with the file's own answers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from fedlas.calibrators import CALIBRATORS, Calibrator, Identity, MixtureScaling, TemperatureScaling, softmax
from fedlas.errors import UnsupportedModel
from fedlas.export.graph import write_graph
from fedlas.guarantees.typicality import Typicality
from fedlas.importers import GraphClassifier, check_parity, load_onnx
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.loading import network_outputs
from fedlas.importers.onnx.operators.table import RUNTIME_OPERATORS
from fedlas.importers.onnx.runtime import predict_file
from fedlas.importers.onnx.train.classifier import RuntimeComputedClassifier
from fedlas.importers.onnx.train.lowering import reachable_weights
from fedlas.importers.onnx.train.runtime_loading import FLOOR, RuntimeOnlyClassifier
from fedlas.metrics import nll
from tests.helpers import cancelling_variance
from tests.helpers.classical_models import Array, node_model, save, table
from tests.helpers.networks import Cnn, export, images, trained_looking
from tests.helpers.refusals import refusal

RUNTIME_ONLY: dict[str, Callable[[], Any]] = {
    "forest": lambda: RandomForestClassifier(10, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=5, random_state=0),
    "tree": lambda: DecisionTreeClassifier(max_depth=3, random_state=0),
    "naive Bayes": lambda: GaussianNB(),
    "scaled forest": lambda: make_pipeline(StandardScaler(), RandomForestClassifier(5, max_depth=3, random_state=0)),
}
SETTINGS: dict[str, Any] = {"options": {"zipmap": False}}


def scores(classifier: GraphClassifier, rows: Array) -> tuple[Array, Array]:
    logits, features = classifier(torch.from_numpy(rows))
    return logits.double().numpy(), features.numpy()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", RUNTIME_ONLY)
def test_scores_as_scikit_learn_does(kind: str, classes: int, tmp_path: Path) -> None:
    """Probabilities are predict_proba's but for the floor, logits are finite, and there is nothing to train."""
    rows, labels = table(classes)
    model = RUNTIME_ONLY[kind]().fit(rows, labels)
    path = save(model, rows, tmp_path / "m.onnx", **SETTINGS)
    classifier = load_onnx(path)
    logits, features = scores(classifier, rows)
    expected = model.predict_proba(rows)
    np.testing.assert_allclose(softmax(logits), expected, atol=2 * FLOOR)
    certain = np.sort(expected, 1)[:, -1] - np.sort(expected, 1)[:, -2] > 2 * FLOOR
    np.testing.assert_array_equal(logits.argmax(1)[certain], expected.argmax(1)[certain])
    assert np.isfinite(logits).all()
    assert (classifier.trainable, list(classifier.parameters()), classifier.head_parameters()) == (False, [], [])
    assert features.shape == (len(rows), classifier.feature_dim)
    assert getattr(classifier, "class_labels") == tuple(str(i) for i in range(classes))  # noqa: B009
    assert check_parity(path, classifier) <= 1e-4
    assert isinstance(classifier, RuntimeOnlyClassifier)
    assert len(classifier.reason) > 40


@pytest.mark.parametrize("zipmap", [True, "columns"])
def test_zipmaps_of_forests(zipmap: Any, tmp_path: Path) -> None:
    """Maps and columns of probabilities are taken off where nothing else is replaced."""
    rows, labels = table(3)
    model = RUNTIME_ONLY["scaled forest"]().fit(rows, labels)
    path = save(model, rows, tmp_path / "m.onnx", options={"zipmap": zipmap})
    classifier = load_onnx(path)
    np.testing.assert_allclose(softmax(scores(classifier, rows)[0]), model.predict_proba(rows), atol=2 * FLOOR)
    assert check_parity(path, classifier) <= 1e-4
    assert "Scaler" in {node.op_type for node in classifier.graph().nodes}  # the upload's own nodes


def test_neighbours_by_onnx_runtimes_distance(tmp_path: Path) -> None:
    """Nearest neighbours converted with ONNX Runtime's CDist are opened; with Scan, control flow, they are refused."""
    rows, labels = table(3)
    model = KNeighborsClassifier(7).fit(rows, labels)
    options = {id(model): {"optim": "cdist", "zipmap": False}}
    assert "com.microsoft.CDist" in RUNTIME_OPERATORS
    found = softmax(scores(load_onnx(save(model, rows, tmp_path / "m.onnx", options=options)), rows)[0])
    np.testing.assert_allclose(found, model.predict_proba(rows), atol=2 * FLOOR)
    with refusal(UnsupportedModel, "unsupported_operator", "Scan"):
        load_onnx(save(model, rows, tmp_path / "scan.onnx", **SETTINGS))


def test_support_vectors_give_decision_values(tmp_path: Path) -> None:
    """Without probabilities a support vector machine's decision values are its logits."""
    rows, labels = table(3)
    model = SVC(decision_function_shape="ovr").fit(rows, labels)
    path = save(model, rows, tmp_path / "m.onnx", **SETTINGS)
    classifier = load_onnx(path)
    np.testing.assert_allclose(scores(classifier, rows)[0], model.decision_function(rows), atol=1e-4)
    assert (classifier.output_kind, check_parity(path, classifier) <= 1e-4) == ("logits", True)


def test_scores_against_the_files_own_labels_are_refused(tmp_path: Path) -> None:
    """Two decision values of opposite sign are converted the wrong way round, which the file's own labels show."""
    rows, labels = table(2)
    path = save(SVC().fit(rows, labels), rows, tmp_path / "m.onnx", **SETTINGS)
    with refusal(UnsupportedModel, "ambiguous_output", "contradict"):
        load_onnx(path)


TREES = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2],
    "nodes_featureids": [0, 0, 0, 1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
    "nodes_values": [0.5, 0, 0, -0.5, 0, 0],
    "nodes_truenodeids": [1, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 2, 0, 0],
    "class_treeids": [0, 0, 1, 1],
    "class_nodeids": [1, 2, 1, 2],
}


def trees_by_hand(rows: Array, weights: list[float]) -> Array:
    """The two stumps of `TREES`, in plain arithmetic."""
    return np.where(rows[:, 0] <= 0.5, weights[0], weights[1]) + np.where(rows[:, 1] <= -0.5, weights[2], weights[3])


def test_boosted_trees_of_one_score(tmp_path: Path) -> None:
    """Trees that add up to one score of the positive class, as other boosting libraries write them, give σ(score)."""
    weights = [-1.5, 2.0, -0.25, 0.5]
    model = node_model(
        "TreeEnsembleClassifier",
        ["N", 2],
        ["label", "p"],
        **TREES,
        class_ids=[0, 0, 0, 0],
        class_weights=weights,
        classlabels_int64s=[0, 1],
        post_transform="LOGISTIC",
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    rows = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    logits, _ = scores(load_onnx(tmp_path / "m.onnx"), rows)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], trees_by_hand(rows, weights), atol=1e-3)


def regressor(width: int | None) -> onnx.ModelProto:
    return node_model(
        "TreeEnsembleRegressor",
        ["N", width],
        ["z"],
        **{name.replace("class_", "target_"): value for name, value in TREES.items()},
        n_targets=2,
        target_ids=[0, 1, 1, 0],
        target_weights=[1.0, 2.0, 3.0, 4.0],
    )


def test_regressing_trees_before_a_softmax(tmp_path: Path) -> None:
    """Where a softmax is in sight, the logits are what goes into it; an open width is found in the trees."""
    model = regressor(None)
    model.graph.node.append(helper.make_node("Softmax", ["z"], ["p"], axis=1))
    model.graph.output[0].name = "p"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    classifier = load_onnx(tmp_path / "m.onnx")
    rows = np.array([[0, 0], [1, 0], [0, -1], [1, -1]], np.float32)
    assert (classifier.logits_name, classifier.lengths) == ("z", {"dim_1": 2})
    np.testing.assert_array_equal(scores(classifier, rows)[0], [[5, 0], [4, 2], [1, 3], [0, 5]])


def test_regressions_are_no_classifiers(tmp_path: Path) -> None:
    """Trees that add up to something that is no distribution are refused, as a regression."""
    model = regressor(2)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with refusal(UnsupportedModel, "unsupported_operator"):
        load_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_files_with_every_calibrator(calibrator: str, tmp_path: Path) -> None:
    """The served file holds the upload's nodes, its own versions, and gives the calibrated probabilities."""
    classes = 2 if CALIBRATORS[calibrator].two_classes_only else 3
    rows, labels = table(classes)
    path = save(RUNTIME_ONLY["forest"]().fit(rows, labels), rows, tmp_path / "m.onnx", **SETTINGS)
    classifier = load_onnx(path)
    logits, _ = scores(classifier, rows)
    fitted = CALIBRATORS[calibrator]().fit(logits, labels)
    out = tmp_path / "out.onnx"
    write_graph(classifier, calibrator=fitted, class_names=list("abc")[:classes], verify_with=[rows]).save(out)
    np.testing.assert_allclose(predict_file(out, [rows])["probabilities"], softmax(fitted(logits)), atol=1e-5)
    written, uploaded = onnx.load(out), onnx.load(path)
    assert written.ir_version == uploaded.ir_version
    versions = [{(entry.domain, entry.version) for entry in model.opset_import} for model in (written, uploaded)]
    assert versions[0] == versions[1]
    onnx.checker.check_model(written)


def test_features_and_typicality(tmp_path: Path) -> None:
    """Where no layer's input is known the logits are the features, so that typicality works, in the file too."""
    rows, labels = table(3)
    classifier = load_onnx(save(RUNTIME_ONLY["forest"]().fit(rows, labels), rows, tmp_path / "m.onnx", **SETTINGS))
    logits, features = scores(classifier, rows)
    np.testing.assert_array_equal(features, logits.astype(np.float32))
    assert (classifier.feature_layer, classifier.feature_dim) == ("probabilities", 3)
    np.testing.assert_array_equal(classifier.head(torch.from_numpy(features)).numpy(), features)
    write_graph(
        classifier,
        calibrator=TemperatureScaling(2.0),
        class_names=list("abc"),
        typicality=Typicality.fit(features, labels),
        verify_with=[rows],
    ).save(tmp_path / "out.onnx")
    assert predict_file(tmp_path / "out.onnx", [rows])["typicality"].shape == (len(rows),)


def test_served_files_can_be_sent_again(tmp_path: Path) -> None:
    """A calibrated forest is an upload like any other: its calibrated probabilities come back."""
    rows, labels = table(3)
    classifier = load_onnx(save(RUNTIME_ONLY["forest"]().fit(rows, labels), rows, tmp_path / "m.onnx", **SETTINGS))
    served = tmp_path / "served.onnx"
    write_graph(classifier, calibrator=TemperatureScaling(2.0), class_names=list("abc")).save(served)
    again = load_onnx(served, output="probabilities")
    assert not again.trainable
    answered = predict_file(served, [rows])["probabilities"]
    np.testing.assert_allclose(softmax(scores(again, rows)[0]), answered, atol=2 * FLOOR)


@pytest.mark.parametrize("classes", [2, 3])
def test_votes_do_not_depend_on_the_batch(classes: int, tmp_path: Path) -> None:
    """Rounding errors of votes, which depend on the number of rows, are no evidence: logits are the same to 1e-3."""
    rows, labels = table(classes)
    model = RandomForestClassifier(100, random_state=0).fit(rows, labels)
    classifier = load_onnx(save(model, rows, tmp_path / "m.onnx", **SETTINGS))
    together, _ = scores(classifier, rows)
    np.testing.assert_allclose(np.concatenate([scores(classifier, row[None])[0] for row in rows]), together, atol=1e-3)


def test_copies_compute_the_same(tmp_path: Path) -> None:
    """A deep copy computes the same, in training mode too, and a graph that was changed changes nothing."""
    rows, labels = table(3)
    classifier = load_onnx(save(RUNTIME_ONLY["forest"]().fit(rows, labels), rows, tmp_path / "m.onnx", **SETTINGS))
    expected, _ = scores(classifier, rows)
    classifier.graph().nodes.clear()
    np.testing.assert_array_equal(scores(copy.deepcopy(classifier).train(), rows)[0], expected)


@pytest.mark.parametrize("calibrator", [TemperatureScaling, MixtureScaling])
def test_exact_zeros_are_better_calibrated_with_the_floor(calibrator: type[Calibrator]) -> None:
    """Where votes are exactly zero, as of neighbours and trees, held-out NLL is lower than with a floor of 1e-30."""
    rows, labels = load_digits(return_X_y=True)
    fitted, fit, test = np.split(np.random.default_rng(0).permutation(len(rows))[:1200], 3)
    probs = KNeighborsClassifier(5).fit(rows[fitted], labels[fitted]).predict_proba(rows)
    costs = []
    for floor in (FLOOR / 10, 1e-30):
        logits = np.log(probs + floor)
        costs.append(nll(softmax(calibrator().fit(logits[fit], labels[fit])(logits[test])), labels[test]))
    assert costs[0] < 0.9 * costs[1]


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def network(nodes: list[Any], constants: dict[str, Array], output: str, *, rows: Any = "N") -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("x", [rows, 4])], [value(output, [rows, 3])], tensors)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    return model


RNG = np.random.default_rng(0)
WEIGHTS = {"w": RNG.normal(size=(4, 5)).astype(np.float32), "v": RNG.normal(size=(5, 3)).astype(np.float32)}


def opened(model: onnx.ModelProto, path: Path, **options: Any) -> GraphClassifier:
    path.write_bytes(model.SerializeToString())
    return load_onnx(path, **options)


@pytest.mark.parametrize("rows", ["N", 1, 2])
def test_networks_that_end_in_an_operator_without_a_gradient(rows: Any, tmp_path: Path) -> None:
    """Where no gradient reaches a weight, the network keeps its last layer's input as features, and any batch."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["a"]),
        helper.make_node("Unsqueeze", ["a", "axis"], ["m"]),
        helper.make_node("MeanVarianceNormalization", ["m"], ["n"], axes=[2]),
        helper.make_node("Flatten", ["n"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    constants = {**WEIGHTS, "axis": np.array([1])}
    classifier = opened(network(nodes, constants, "p", rows=rows), tmp_path / "m.onnx")
    assert "MeanVarianceNormalization" in classifier.reason
    x = RNG.normal(size=(7, 4)).astype(np.float32)
    logits, features = scores(classifier, x)
    assert (type(classifier).__name__, classifier.feature_layer) == ("RuntimeOnlyClassifier", "h")
    content = network(nodes, constants, "p").SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(softmax(logits), session.run(["p"], {"x": x})[0], atol=1e-6)
    np.testing.assert_allclose(classifier.head(torch.from_numpy(features)).numpy(), logits, atol=1e-5)
    assert opened(network(nodes, constants, "p", rows=rows), tmp_path / "m.onnx", features="a").feature_layer == "a"
    with refusal(UnsupportedModel, "unknown_features"):
        opened(network(nodes, constants, "p", rows=rows), tmp_path / "m.onnx", features="nowhere")


@pytest.mark.parametrize("op", ["LpPool", "GlobalLpPool", "MeanVarianceNormalization", "CenterCropPad"])
def test_layers_before_rare_operators_are_run_but_not_trained(op: str, tmp_path: Path) -> None:
    """Operators that no exporter of classifiers writes are not in the table: what lies before one is as it was sent."""
    attributes = {"LpPool": {"kernel_shape": [1]}, "GlobalLpPool": {}}.get(op, {"axes": [2]})
    axis = "last" if op == "GlobalLpPool" else "first"
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Unsqueeze", ["a", axis], ["m"]),
        helper.make_node(op, ["m", "width"] if op == "CenterCropPad" else ["m"], ["n"], **attributes),
        helper.make_node("Flatten", ["n"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    constants = {**WEIGHTS, "first": np.array([1]), "last": np.array([2]), "width": np.array([5])}
    classifier = opened(network(nodes, constants, "p"), tmp_path / "m.onnx")
    assert [tuple(parameter.shape) for parameter in classifier.parameters()] == [(5, 3)]
    check_parity(tmp_path / "m.onnx", classifier)


@pytest.mark.parametrize("op", ["RandomUniformLike", "Multinomial"])
def test_chance_is_refused(op: str, tmp_path: Path) -> None:
    """A graph that draws random numbers gives no reproducible confidences."""
    nodes = [
        helper.make_node(op, ["x"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["f"], ["p"], axis=1),
    ]
    with refusal(UnsupportedModel, "unsupported_operator"):
        opened(network(nodes, {}, "p"), tmp_path / "m.onnx")


def test_rows_that_mix_are_refused(tmp_path: Path) -> None:
    """Scores of a row that depend on the other rows of a batch are no confidences."""
    nodes = [
        helper.make_node("MelWeightMatrix", ["bins", "length", "rate", "low", "high"], ["mel"]),
        helper.make_node("ReduceMax", ["mel"], ["top"], keepdims=0),
        helper.make_node("ReduceMax", ["x", "axis"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["d"]),
        helper.make_node("Mul", ["d", "top"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    numbers = {"bins": np.array(4), "length": np.array(16), "rate": np.array(8000), "axis": np.array([0])}
    constants = {"low": np.array(0, np.float32), "high": np.array(4000, np.float32), **numbers}
    with refusal(UnsupportedModel, "fixed_batch"):
        opened(network(nodes, constants, "p"), tmp_path / "m.onnx")


STEPS = ["Round", "Floor", "Ceil", "Sign", "Hardmax", "ArgMax", "Greater", "Cast", "Not", "IsNaN", "Relu", "Clip"]


@pytest.mark.parametrize("op", STEPS)
def test_weights_that_no_gradient_reaches_are_no_parameters(op: str, tmp_path: Path) -> None:
    """Weights behind a step are constant in training; autograd, asked to train everything, finds no slope there."""
    attributes = {"Hardmax": {"axis": 1}, "ArgMax": {"axis": 1}, "Cast": {"to": TensorProto.INT64}}.get(op, {})
    truth = op == "Not"
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Less", ["a", "zero"], ["less"]),
        helper.make_node(op, ["less" if truth else "a", *(["zero"] if op == "Greater" else [])], ["s"], **attributes),
        helper.make_node("Cast", ["s"], ["h"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["h", "v"], ["z"]),
    ]
    constants = {**WEIGHTS, "zero": np.array(0, np.float32)}
    if op == "ArgMax":
        constants["v"] = RNG.normal(size=(1, 3)).astype(np.float32)
    smooth = op in ("Relu", "Clip")
    classifier = opened(network(nodes, constants, "z"), tmp_path / "m.onnx")
    assert sorted(parameter.shape[1] for parameter in classifier.parameters()) == ([3, 5] if smooth else [3])
    assert classifier.trainable
    graph = Graph.from_model(network(nodes, constants, "z"))
    assert reachable_weights(graph, ["z"], {"w", "v"}) == ({"w", "v"} if smooth else {"v"})


def test_a_step_at_the_very_end_leaves_nothing_to_train(tmp_path: Path) -> None:
    """Where every weight lies behind a step, the classifier is not trainable, but it is a classifier."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "v"], ["b"]),
        helper.make_node("Round", ["b"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    classifier = opened(network(nodes, WEIGHTS, "p"), tmp_path / "m.onnx")
    assert not classifier.trainable
    x = RNG.normal(size=(6, 4)).astype(np.float32)
    expected = np.round(x @ WEIGHTS["w"] @ WEIGHTS["v"])
    np.testing.assert_array_equal(classifier(torch.from_numpy(x))[0].numpy(), expected)


def test_it_answers_as_its_file(tmp_path: Path) -> None:
    """Where rounding shows, logits and features are those of the written file bit by bit, and PyTorch's are not."""
    (tmp_path / "m.onnx").write_bytes(cancelling_variance.network())
    imported = load_onnx(tmp_path / "m.onnx")
    x, _ = cancelling_variance.rows(20, spread=0.001)
    found = RuntimeComputedClassifier(imported)
    written = write_graph(found, calibrator=Identity(), class_names=list("abc"), verify_with=[x], tolerance=1e-6)
    logits, features = network_outputs(found, [x])
    out = predict_file(written.content, [x])
    assert np.array_equal(out["logits"], logits.astype(np.float32))
    assert np.array_equal(out["features"], features.astype(np.float32))
    assert np.abs(network_outputs(imported, [x])[0] - logits).max() > 1e-3


def test_it_is_the_same_network(tmp_path: Path) -> None:
    """Weights as they are now, the same features, nothing to train, and a copy is itself."""
    imported = load_onnx(export(trained_looking(Cnn()), images(2), tmp_path / "m.onnx"))
    with torch.no_grad():
        for parameter in imported.parameters():
            parameter.mul_(1.1)
    found = RuntimeComputedClassifier(imported)
    (x,) = images(5)
    for mine, theirs in zip(found(x), imported.eval()(x), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert (found.trainable, found.head_parameters(), copy.deepcopy(found)) == (False, [], found)
    assert (found.feature_dim, found.num_classes) == (imported.feature_dim, imported.num_classes)
    with pytest.raises(TypeError, match="no head"):
        found.head(torch.zeros(1, found.feature_dim))
