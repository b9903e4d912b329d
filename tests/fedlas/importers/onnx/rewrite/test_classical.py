"""scikit-learn's classifiers: what is linear becomes trainable, and scores as scikit-learn itself does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, MinMaxScaler, Normalizer, OneHotEncoder, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC

from fedlas.calibrators import TemperatureScaling
from fedlas.errors import UnsupportedModel
from fedlas.export.graph import write_graph
from fedlas.importers import check_parity, load_onnx
from fedlas.importers.onnx.rewrite.classical import class_labels, to_standard
from fedlas.importers.onnx.runtime import predict_file
from tests.helpers.classical_models import Array, node_model, save, table
from tests.helpers.refusals import refusal

TRAINABLE: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(max_iter=500),
    "one against the rest": lambda: OneVsRestClassifier(LogisticRegression()),
    "sgd, log loss": lambda: SGDClassifier(loss="log_loss", random_state=0),
    "sgd, modified Huber": lambda: make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber", alpha=1.0)),
    "calibrated linear SVC": lambda: CalibratedClassifierCV(LinearSVC(), cv=2),
    "mlp": lambda: MLPClassifier((5,), max_iter=150, random_state=0),
    "standard scaler": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "robust scaler": lambda: make_pipeline(RobustScaler(), LogisticRegression()),
    "imputer, min-max, L2": lambda: make_pipeline(SimpleImputer(), MinMaxScaler(), Normalizer(), LogisticRegression()),
    "L1 norm": lambda: make_pipeline(Normalizer("l1"), LogisticRegression(C=100)),
    "largest norm": lambda: make_pipeline(Normalizer("max"), LogisticRegression(C=100)),
    "binarizer": lambda: make_pipeline(Binarizer(threshold=2.0), LogisticRegression()),
}


def fitted(make: Callable[[], Any], rows: Array, labels: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations are enough here
        return make().fit(rows, labels)


def probabilities(path: Path, *inputs: Array) -> Array:
    with torch.no_grad():
        logits, _ = load_onnx(path)(*(torch.from_numpy(value) for value in inputs))
    return torch.softmax(logits.double(), 1).numpy()


@pytest.mark.parametrize("zipmap", [False, True, "columns"])
@pytest.mark.parametrize("classes", [2, 3])
def test_zipmaps_hide_no_probabilities(classes: int, zipmap: Any, tmp_path: Path) -> None:
    """Maps and columns of probabilities are the same classifier as a plain tensor, and the file itself confirms it."""
    rows, labels = table(classes)
    model = fitted(TRAINABLE["standard scaler"], rows, labels)
    path = save(model, rows, tmp_path / "m.onnx", options={"zipmap": zipmap})
    np.testing.assert_allclose(probabilities(path, rows), model.predict_proba(rows), atol=1e-5)
    assert check_parity(path, load_onnx(path)) <= 1e-5


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", TRAINABLE)
def test_pipelines_score_as_scikit_learn_does_and_train(kind: str, classes: int, tmp_path: Path) -> None:
    """Probabilities are within 1e-5 of predict_proba, also in the file written after a step of training."""
    rows, labels = table(classes)
    model = fitted(TRAINABLE[kind], rows, labels)
    path = save(model, rows, tmp_path / "m.onnx", options={"zipmap": False})
    np.testing.assert_allclose(probabilities(path, rows), model.predict_proba(rows), atol=1e-5)
    classifier = load_onnx(path)
    assert (classifier.trainable, classifier.num_classes) == (True, classes)
    assert getattr(classifier, "class_labels") == tuple(str(i) for i in range(classes))  # noqa: B009
    before = [parameter.clone() for parameter in classifier.parameters()]
    F.cross_entropy(classifier(torch.from_numpy(rows))[0], torch.from_numpy(labels)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in classifier.parameters())
    torch.optim.SGD(classifier.parameters(), lr=0.1).step()
    assert all(not torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))
    names = [str(i) for i in range(classes)]
    write_graph(classifier, calibrator=TemperatureScaling(2.0), class_names=names, verify_with=[rows]).save(
        tmp_path / "out.onnx"
    )


@pytest.mark.parametrize(
    ("kind", "width"), [("logistic", 4), ("standard scaler", 4), ("mlp", 5), ("one against the rest", 4)]
)
def test_features_and_weights(kind: str, width: int, tmp_path: Path) -> None:
    """Features are what the last linear layer reads; scalers are no weights, and no coefficient is counted twice."""
    rows, labels = table(3)
    model = fitted(TRAINABLE[kind], rows, labels)
    classifier = load_onnx(save(model, rows, tmp_path / "m.onnx"))
    counts = {"mlp": 4 * 5 + 5 + 5 * 3 + 3, "one against the rest": 3 * 2 * (4 + 1)}
    assert sum(parameter.numel() for parameter in classifier.parameters()) == counts.get(kind, 3 * (4 + 1))
    assert classifier.feature_dim == width
    if kind == "standard scaler":
        features = classifier(torch.from_numpy(rows))[1].detach().numpy()
        np.testing.assert_allclose(features, model[0].transform(rows), atol=1e-5)


def test_columns_and_categories(tmp_path: Path) -> None:
    """Whole-numbered categories are one-hot encoded beside scaled numbers; an unknown category has no one."""
    rows, labels = table(3)
    rows[:, 3] = np.arange(len(rows)) % 3
    columns = ColumnTransformer(
        [("number", StandardScaler(), [0, 1, 2]), ("kind", OneHotEncoder(handle_unknown="ignore"), [3])]
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(rows, labels)
    path = save(model, rows, tmp_path / "m.onnx", options={"zipmap": False})
    rows[0, 3] = 7
    np.testing.assert_allclose(probabilities(path, rows), model.predict_proba(rows), atol=1e-5)
    assert load_onnx(path).feature_dim == 3 + 3


def test_one_input_for_every_column(tmp_path: Path) -> None:
    """A pipeline converted with one input of shape (N, 1) for every column takes its columns one by one."""
    rows, labels = table(3)
    columns = ColumnTransformer([("first", StandardScaler(), [0, 1]), ("rest", MinMaxScaler(), [2, 3])])
    model = make_pipeline(columns, LogisticRegression()).fit(rows, labels)
    path = save(model, rows, tmp_path / "m.onnx", initial_types=[(name, FloatTensorType([None, 1])) for name in "abcd"])
    assert [spec.name for spec in load_onnx(path).inputs] == list("abcd")
    found = probabilities(path, *(np.ascontiguousarray(rows[:, i : i + 1]) for i in range(4)))
    np.testing.assert_allclose(found, model.predict_proba(rows), atol=1e-5)


def test_text_inputs_are_refused(tmp_path: Path) -> None:
    """A pipeline that takes text says which input does, and what to do."""
    rows = np.array([["a"], ["b"], ["a"], ["b"]])
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(rows, [0, 1, 0, 1])
    path = save(model, rows, tmp_path / "m.onnx")
    with refusal(UnsupportedModel, "unsupported_input", "takes text"):
        load_onnx(path)


def test_text_labels_become_class_names(tmp_path: Path) -> None:
    """Names that the file gives its classes are kept beside the scores, whose order they follow."""
    rows, labels = table(3)
    model = LogisticRegression(max_iter=500).fit(rows, np.array(["setosa", "other", "rest"])[labels])
    classifier = load_onnx(save(model, rows, tmp_path / "m.onnx"))
    assert getattr(classifier, "class_labels") == tuple(model.classes_) == ("other", "rest", "setosa")  # noqa: B009


LINEAR = [
    (coefficients, intercepts, classes, transform)
    for transform in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    for coefficients, intercepts, classes in (
        ([1.0, -0.5], [0.2], 2),
        ([-1.0, 0.5, 1.0, -0.5], [-0.2, 0.2], 2),
        ([-1.0, 0.5, 2.0, -0.5], [0.1, 0.2], 2),
        ([-1.0, 0.5, 2.0, -0.5, 0.3, 0.3], [0.1, 0.2, -0.3], 3),
    )
]


def run_in_onnx_runtime(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([model.graph.output[0].name], {"x": x})[0])


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node if node.domain == "ai.onnx.ml"}


@pytest.mark.parametrize("opset", [7, 9, 12, 18, 21])
@pytest.mark.parametrize(("coefficients", "intercepts", "classes", "transform"), LINEAR)
def test_linear_classifiers_keep_onnx_runtimes_arithmetic(
    coefficients: list[float], intercepts: list[float], classes: int, transform: str, opset: int
) -> None:
    """Every form of LinearClassifier gives ONNX Runtime's scores in standard operators, or stays as it is."""
    model = node_model(
        "LinearClassifier",
        ["N", 2],
        ["label", "p"],
        opset=opset,
        coefficients=coefficients,
        intercepts=intercepts,
        classlabels_ints=list(range(classes)),
        post_transform=transform,
    )
    x = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    changed = to_standard(model)
    assert operators(changed) == ({"LinearClassifier"} if transform in ("SOFTMAX_ZERO", "PROBIT") else set())
    if not operators(changed):
        np.testing.assert_allclose(run_in_onnx_runtime(changed, x), run_in_onnx_runtime(model, x), atol=1e-6)


ZEROS = np.array([[1, -2, 3], [0, 0, 0], [-1, -2, -3], [0, 5, 0]], np.float32)
GAPS = np.array([[1, np.nan, 3], [np.nan, 0, 0]], np.float32)
WHOLE = np.array([[1, 2], [2, 5], [0, 1]], np.int64)
NODES: dict[str, tuple[str, Array, dict[str, Any], int]] = {
    "scaler": ("Scaler", ZEROS, {"offset": [1.0, 2.0, 3.0], "scale": [2.0, 0.5, -1.0]}, 7),
    "scaler, one number": ("Scaler", ZEROS, {"offset": [1.0], "scale": [2.0]}, 7),
    "scaler, integers": ("Scaler", WHOLE, {"offset": [0.5], "scale": [2.0]}, 7),
    "L1": ("Normalizer", ZEROS, {"norm": "L1"}, 7),
    "L2": ("Normalizer", ZEROS, {"norm": "L2"}, 7),
    "max": ("Normalizer", ZEROS, {"norm": "MAX"}, 7),
    "L2, integers": ("Normalizer", WHOLE, {"norm": "L2"}, 7),
    "imputer": ("Imputer", GAPS, {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": float("nan")}, 11),
    "imputer, zeros": ("Imputer", ZEROS, {"imputed_value_floats": [7.0], "replaced_value_float": 0.0}, 11),
    "binarizer": ("Binarizer", ZEROS, {"threshold": 0.5}, 7),
    "one-hot": ("OneHotEncoder", WHOLE, {"cats_int64s": [0, 1, 2], "zeros": 1}, 11),
    "one-hot, floats": ("OneHotEncoder", WHOLE + np.float32(0.5), {"cats_int64s": [0, 1, 2], "zeros": 1}, 11),
    "table": ("LabelEncoder", WHOLE, {"keys_int64s": [1, 2], "values_floats": [0.5, -2.0], "default_float": 9.0}, 11),
    "table, defaults": ("LabelEncoder", WHOLE, {"keys_int64s": [1, 2], "values_floats": [0.5, -2.0]}, 11),
    "regressor": ("LinearRegressor", ZEROS, {"coefficients": [1.0, 2.0, 3.0], "intercepts": [0.5]}, 7),
}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
@pytest.mark.parametrize("kind", NODES)
def test_nodes_keep_onnx_runtimes_arithmetic(kind: str, opset: int) -> None:
    """Every replaced operator computes what ONNX Runtime computes, in every opset that has what it needs."""
    op, x, attributes, since = NODES[kind]
    dtype = helper.np_dtype_to_tensor_dtype(x.dtype)
    model = node_model(op, ["N", x.shape[1]], ["y"], opset=opset, dtype=dtype, **attributes)
    changed = to_standard(model)
    assert operators(changed) == (set() if opset >= since else {op})
    np.testing.assert_allclose(run_in_onnx_runtime(changed, x), run_in_onnx_runtime(model, x), rtol=1e-6)


def test_models_without_such_operators_are_left_alone() -> None:
    """Other models come back as the very object."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
    )
    model = helper.make_model(graph)
    assert to_standard(model) is model
    assert class_labels(model, 3) is None


def test_what_is_calibrated_and_served_again(tmp_path: Path) -> None:
    """A served pipeline can be uploaded again: it gives the same logits and is still trainable."""
    rows, labels = table(3)
    path = save(LogisticRegression(max_iter=500).fit(rows, labels), rows, tmp_path / "m.onnx")
    write_graph(load_onnx(path), calibrator=TemperatureScaling(3.0), class_names=list("abc")).save(
        tmp_path / "served.onnx"
    )
    again = load_onnx(tmp_path / "served.onnx", output="probabilities")
    assert again.trainable
    served = predict_file(tmp_path / "served.onnx", [rows])
    np.testing.assert_allclose(
        torch.softmax(again(torch.from_numpy(rows))[0].double(), 1).detach().numpy(), served["probabilities"], atol=1e-5
    )
