"""The cost of serving is counted or refused; rules of sizes exist for every operator and hold for ONNX's own cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, defs, helper
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_blobs
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from fedlas.calibrators import Identity
from fedlas.contract.profiles import ServingCost
from fedlas.errors import UnsupportedModel
from fedlas.export.graph import write_graph
from fedlas.importers import check_parity, load_onnx
from fedlas.importers.onnx.cost.serving_cost import Interpretation, check_sizes, serving_cost
from fedlas.importers.onnx.cost.shape_rules import AbstractTensor
from fedlas.importers.onnx.evaluator import input_spec
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.operators import OPERATORS
from fedlas.importers.onnx.operators.table import READ, RUNTIME_OPERATORS, read_at, refused
from fedlas.importers.onnx.rewrite.normalise import hoist_constants
from fedlas.importers.onnx.runtime import GraphSession
from tests.helpers import classical_models
from tests.helpers.networks import hand_made, node
from tests.helpers.node_suite import SKIPPED, Case, claimed, out_of_scope
from tests.helpers.refusals import refusal
from tests.helpers.sized_graphs import HOSTILE, MUST_PASS, Hostile

_CONSTANTS: dict[str, Any] = {"w": np.ones((4, 3)), "b": np.zeros(3)}
_CONSTANTS |= {"i0": np.array([0]), "i1": np.array([1]), "last": np.array([-1])}
#: From `zeros`, which has a size of the rows, to scores.
_ENDING = [
    node("ReduceSum", ["zeros"], "nothing", keepdims=0),
    node("Add", ["x", "nothing"], "moved"),
    node("Gemm", ["moved", "w", "b"], "y"),
]
_ROWS = [node("Shape", ["x"], "s"), node("Slice", ["s", "i0", "i1"], "n")]


def counted(folder: Path, nodes: list[NodeProto], shape: Any = (4,), **constants: Any) -> ServingCost:
    graph = Graph.from_model(onnx.load(hand_made(folder, nodes, shape, {**_CONSTANTS, **constants})))
    graph.outputs = ["y"]
    return serving_cost(graph, [input_spec(info) for info in graph.inputs], {"L": 8})


def test_bytes_of_a_row(tmp_path: Path) -> None:
    """Relu (4) and Gemm (3 floats): 28 bytes a row in all, both alive at once, and the weights are fixed."""
    cost = counted(tmp_path, [node("Relu", ["x"], "r"), node("Gemm", ["r", "w", "b"], "y")])
    assert (cost.sizes, cost.row_bytes, cost.peak_row_bytes) == ("shapes", 28, 28)
    assert cost.fixed_bytes == sum(
        np.asarray(v).size * (4 if np.asarray(v).dtype.kind == "f" else 8) for v in _CONSTANTS.values()
    )


@pytest.mark.parametrize(
    "nodes",
    [
        [*_ROWS, node("Concat", ["n", "n", "n"], "c", axis=0), node("ConstantOfShape", ["c"], "zeros")],
        [node("Transpose", ["x"], "t"), node("MatMul", ["x", "t"], "zeros")],
        [
            *_ROWS,
            node("Sub", ["n", "many"], "o"),
            node("Max", ["o", "i0"], "k"),
            node("Mul", ["k", "k"], "q"),
            node("ConstantOfShape", ["q"], "zeros"),
        ],
        [node("Einsum", ["x", "x", "x"], "zeros", equation="ai,bi,ci->a")],
    ],
    ids=["cube", "pairs of rows", "only beyond 100 rows", "inside an Einsum"],
)
def test_more_than_linear_in_rows_is_refused(nodes: list[NodeProto], tmp_path: Path) -> None:
    """A tensor of rows times rows is refused, also where it begins at many rows only, or lies inside an operator."""
    with refusal(UnsupportedModel, "grows_faster_than_rows"):
        counted(tmp_path, [*nodes, *_ENDING], many=np.array([100]))


def test_growth_behind_unknown_sizes_is_refused(tmp_path: Path) -> None:
    """Tensors out of a sequence have sizes that only a run tells: such a graph is run, and its growth refused."""
    through = [node("SequenceConstruct", ["x"], "list"), node("SequenceAt", ["list", "first"], "z")]
    first = np.array(0)
    cost = counted(tmp_path, [*through, node("Gemm", ["z", "w", "b"], "y")], first=first)
    assert (cost.sizes, cost.row_bytes) == ("unknown", 8 * (4 + 4 + 3))
    pairs = [*through, node("Transpose", ["z"], "t"), node("MatMul", ["z", "t"], "zeros"), *_ENDING]
    with refusal(UnsupportedModel, "grows_faster_than_rows"):
        counted(tmp_path, pairs, first=first)


@pytest.mark.parametrize(
    "model",
    [RandomForestClassifier(5), SVC(), CalibratedClassifierCV(RandomForestClassifier(3))],
    ids=["forest", "support vectors", "calibrated forest"],
)
def test_sizes_of_classical_models_follow_from_shapes(model: Any, tmp_path: Path) -> None:
    """Every tensor of a converted classifier of four classes has the sizes that ONNX Runtime gives it."""
    rows, labels = make_blobs(80, 4, centers=4, cluster_std=4, random_state=0)
    rows = rows.astype(np.float32)
    classifier = load_onnx(classical_models.save(model.fit(rows, labels), rows, tmp_path / "model.onnx"))
    graph = classifier.graph()
    graph.outputs = [classifier.logits_name]
    assert serving_cost(graph, classifier.inputs, classifier.lengths).sizes == "shapes"
    run = Interpretation(graph, dict.fromkeys(graph.input_names, (3, 4)), constants={})
    names = [name for item in graph.nodes for name in item.output if name]
    for name, value in zip(names, GraphSession(graph, names, typed=False)([rows[:3]]), strict=True):
        assert run.tensors[name].shape == np.shape(value)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_classifier_has_a_score_for_each_class(classes: int) -> None:
    """Scores are ONNX Runtime's, although ONNX's own inference looks for their names elsewhere and finds none."""
    linear = node("LinearClassifier", ["x"], "labels", "scores", domain="ai.onnx.ml", **_linear(classes))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    graph = Graph([linear], {}, [given], ["scores"], 17, imports, ir_version=8)
    found = Interpretation(graph, {"x": (3, 2)}, constants={}).tensors["scores"].shape
    (scores,) = GraphSession(graph, ["scores"])([np.ones((3, 2), np.float32)])
    assert found == np.shape(scores) == (3, classes)


def _linear(classes: int) -> dict[str, Any]:
    labels, coefficients = list(range(classes)), [1.0] * 2 * classes
    return {"classlabels_ints": labels, "coefficients": coefficients, "intercepts": [0.0] * classes}


def test_powers_of_a_free_dimension(tmp_path: Path) -> None:
    """Sums are linear in the length of a row, pairs of its elements quadratic."""
    ending = [
        node("ReduceSum", ["p"], "m", keepdims=0),
        node("ReduceMean", ["x"], "k", axes=[1], keepdims=1),
        node("Add", ["k", "m"], "v"),
        node("Gemm", ["v", "u", "b"], "y"),
    ]
    unit = np.ones((1, 3))
    assert counted(tmp_path, [node("Relu", ["x"], "p"), *ending], ["L"], u=unit).powers == {"x.1": 1.0}
    pairs = [node("Unsqueeze", ["x", "i1"], "a"), node("Unsqueeze", ["x", "last"], "c"), node("Mul", ["a", "c"], "p")]
    assert counted(tmp_path, [*pairs, *ending], ["L"], u=unit).powers == {"x.1": 2.0}


def test_what_people_export_grows_as_its_rows_do(tmp_path: Path) -> None:
    """None of the graphs that must pass grows faster than its rows, and what indexes by a mask is bounded."""
    found = {}
    for name in ("bert, free length", "x[mask]", "tf-idf"):
        graph = Graph.from_model(onnx.load(MUST_PASS[name](tmp_path)))
        hoist_constants(graph)
        specs = [input_spec(info) for info in graph.inputs]
        cost = serving_cost(graph, specs, {n: 8 for spec in specs for n in spec.shape[1:] if isinstance(n, str)})
        found[name] = cost.sizes
        assert cost.row_bytes >= cost.peak_row_bytes > 0
    assert found["bert, free length"] == "shapes"
    assert found["x[mask]"] == "bounded"


def every_tensor(graph: Graph, rows: dict[str, Any]) -> dict[str, Any]:
    """The value that ONNX Runtime computes for each tensor, node by node as they are written."""
    names = [name for item in graph.nodes for name in item.output if name]
    model = graph.to_model([helper.make_empty_tensor_value_info(name) for name in names])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, rows), strict=True))


def assert_within(known: AbstractTensor, value: Any) -> None:
    """A computed tensor is no larger than the analysis says."""
    assert known.shape is None or len(known.shape) == value.ndim
    assert known.shape is None or all(a >= b for a, b in zip(known.shape, value.shape, strict=True))
    assert not (known.fixed and known.shape) or known.shape == value.shape
    assert known.count is None or known.count >= value.size


@pytest.mark.parametrize("name", HOSTILE)
def test_no_row_chooses_a_size(name: str, tmp_path: Path) -> None:
    """A graph that takes a size from values is refused by its stable code, however they reach it."""
    graph = Graph.from_model(onnx.load(HOSTILE[name].write(tmp_path)))
    with refusal(UnsupportedModel, "size_depends_on_values"):
        check_sizes(graph, [input_spec(info) for info in graph.inputs], {})


@pytest.mark.parametrize("name", MUST_PASS)
def test_what_people_export_is_opened(name: str, tmp_path: Path) -> None:
    """An exported graph is imported, computes equal outputs, and has the sizes of the analysis."""
    path = MUST_PASS[name](tmp_path)
    classifier = load_onnx(path)
    assert check_parity(path, classifier) <= 1e-4
    graph = classifier.graph()
    rows = dict(zip(graph.input_names, classifier.example_rows(3), strict=True))
    walk = Interpretation(graph, {key: value.shape for key, value in rows.items()}, constants={}, strict=True)
    for tensor, value in every_tensor(graph, rows).items():
        if isinstance(value, np.ndarray):
            assert_within(walk.tensors[tensor], value)


def test_a_served_copy_is_analysed_again(tmp_path: Path) -> None:
    """A written graph goes through the analysis again, whatever became of it since it was opened."""
    classifier = load_onnx(MUST_PASS["mlp"](tmp_path))
    unlimited = classifier.graph()
    (x,) = classifier.input_names
    largest = unlimited.append("Cast", [unlimited.append("ReduceMax", [x], "m", keepdims=0)], "m", to=TensorProto.INT64)
    size = unlimited.append("Reshape", [largest, unlimited.add_constant("one", np.array([1]))], "m")
    nothing = unlimited.append("ReduceSum", [unlimited.append("ConstantOfShape", [size], "m")], "m", keepdims=0)
    classifier.logits_name = unlimited.append("Add", [classifier.logits_name, nothing], "m")
    classifier.graph = lambda: unlimited  # type: ignore[method-assign]
    with refusal(UnsupportedModel, "size_depends_on_values"):
        write_graph(classifier, calibrator=Identity(), class_names=["a", "b", "c"]).save(tmp_path / "served.onnx")


def test_an_unknown_operator_reads_sizes(tmp_path: Path) -> None:
    """An operator that stands in no list is refused where values reach it."""
    strange = Hostile([node("Strange", ["whole"], "zeros", domain="com.example")])
    graph = Graph.from_model(onnx.load(strange.write(tmp_path)))
    with refusal(UnsupportedModel, "size_depends_on_values"):
        Interpretation(graph, {"x": (2, 4)}, constants={})


#: Operator sets below are not opened.
_OLDEST = 7
#: All cases agree; of so many one is tried, which takes seconds.
_EVERY = 8
#: Operators with a graph inside: nodes with one are refused.
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


def _name(schema: Any) -> str:
    return schema.name if not schema.domain else f"{schema.domain}.{schema.name}"


def _runnable() -> dict[str, list[Any]]:
    """The versions of every standard operator that an opaque graph may have."""
    found: dict[str, list[Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        node = helper.make_node(schema.name, [], [], domain=schema.domain)
        if schema.domain in ("", "ai.onnx.ml") and not refused([node]):
            found.setdefault(_name(schema), []).append(schema)
    return found


def test_every_operator_has_a_rule() -> None:
    """An operator that is added to the table, or that a newer ONNX brings, must say what it reads at each input."""
    assert not OPERATORS.keys() - READ.keys()
    assert not RUNTIME_OPERATORS - READ.keys()
    assert not _runnable().keys() - READ.keys() - _CONTROL_FLOW


def test_every_input_of_an_operator_has_a_letter() -> None:
    """A rule has one letter for each input that any version of the operator has, and `*` where it has any number."""
    for name, schemas in _runnable().items():
        letters = READ.get(name, "*")
        newer = [schema for schema in schemas if schema.since_version >= _OLDEST] or schemas[-1:]
        variadic = any("Variadic" in str(item.option) for schema in newer for item in schema.inputs)
        assert variadic == letters.endswith("*") or name in _CONTROL_FLOW, name
        assert variadic or max(len(schema.inputs) for schema in newer) == len(letters) or name == "Tile", name


@pytest.mark.parametrize("constant", [False, True], ids=["inputs", "constants"])
def test_the_rules_hold_for_the_projects_own_cases(constant: bool) -> None:
    """Sizes of each expected output lie within their bounds, for any inputs and for known ones."""
    checked = 0
    for case in claimed()[constant::_EVERY]:
        if out_of_scope(case) is None and case.name not in SKIPPED:
            checked += _checked(case, constant)
    assert checked > 100


def _checked(case: Case, constant: bool) -> int:
    graph = case.graph()
    given = {info.name: np.asarray(value) for info, value in zip(graph.inputs, case.inputs, strict=True)}
    if constant:
        graph.constants.update(given)
        graph.inputs = []
    else:  # what is a size to the operator stays known: how unknown ones are treated is tried elsewhere
        read = [(name, read_at(node, i)) for node in graph.nodes for i, name in enumerate(node.input)]
        sizes = {name for name, letter in read if letter == "s"}
        graph.constants.update({name: value for name, value in given.items() if name in sizes})
        graph.inputs = [info for info in graph.inputs if info.name not in sizes]
    try:
        walk = Interpretation(graph, {name: value.shape for name, value in given.items()}, constants={})
    except UnsupportedModel:  # an operator written out in others computes its sizes from what is a size to it
        return 0
    for name, value in zip(graph.outputs, case.outputs, strict=True):
        assert_within(walk.tensors[name], np.asarray(value))
    return 1
