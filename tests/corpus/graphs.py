"""ONNX files made to hurt: endless, enormous, deep, or contradictory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.corpus.building import Make, added, as_file, changed, model, node, numbers, value, weights
from tests.corpus.case import BadFile

_NODE, _GRAPH, _NODES_ATTRIBUTE, _ATTRIBUTES_GRAPH = 1, 7, 5, 6
_BIG = 2**17
_FLOAT = np.float32


def _doubling(times: int) -> list[NodeProto]:
    names = ["x", *(f"d{i}" for i in range(times - 1)), "huge"]
    return [helper.make_node("Concat", [a, a], [b], axis=1) for a, b in itertools.pairwise(names)]


HUGE: dict[str, Make] = {
    "ConstantOfShape": lambda: added([node("ConstantOfShape", ["n"])], n=numbers(_BIG, _BIG)),
    "Expand": lambda: added([node("Expand", ["one", "n"])], one=np.ones((1, 1), _FLOAT), n=numbers(_BIG, _BIG)),
    "Tile": lambda: added([node("Tile", ["one", "n"])], one=np.ones((1, 1), _FLOAT), n=numbers(_BIG, _BIG)),
    "Range": lambda: added(
        [node("Range", ["a", "b", "c"])], a=_FLOAT(0), b=_FLOAT(1.2e10), c=_FLOAT(1)
    ),
    "Resize": lambda: added(
        [node("Resize", ["image", "", "", "n"], mode="nearest")],
        image=np.ones((1, 1, 2, 2), _FLOAT), n=numbers(1, 1, _BIG, _BIG),
    ),
    "Pad": lambda: added([node("Pad", ["one", "n"])], one=np.ones((1, 1), _FLOAT), n=numbers(0, 0, _BIG, _BIG)),
    "OneHot": lambda: added(
        [node("OneHot", ["i", "n", "v"])], i=numbers(1, 2), n=numbers(12 * 10**9)[0], v=np.array([0, 1], _FLOAT)
    ),
    "ConvTranspose": lambda: added(
        [node("ConvTranspose", ["image", "k"], strides=[_BIG, _BIG])],
        image=np.ones((1, 1, 2, 2), _FLOAT), k=np.ones((1, 1, 1, 1), _FLOAT),
    ),
    "Concat 40 times": lambda: added(_doubling(40)),
    "outer product": lambda: added(
        [node("Mul", ["a", "b"])], a=np.ones((_BIG, 1), _FLOAT), b=np.ones((1, _BIG), _FLOAT)
    ),
    "Einsum": lambda: added(
        [node("Einsum", ["a", "a"], equation="i,j->ij")], a=np.ones(_BIG, _FLOAT)
    ),
    "EyeLike of Expand": lambda: added(
        [node("Expand", ["one", "n"], ["e"]), node("EyeLike", ["e"])],
        one=np.ones((1, 1), _FLOAT), n=numbers(_BIG, _BIG),
    ),
    "RandomNormal": lambda: added([node("RandomNormal", [], shape=[_BIG, _BIG])]),
    "Gather of many": lambda: added(
        [node("Expand", ["i", "n"], ["many"]), node("Gather", ["row", "many"])],
        row=np.ones(3, _FLOAT), i=numbers(1), n=numbers(_BIG * 1024),
    ),
    "rows that multiply": lambda: added([node("Tile", ["x", "n"])], n=numbers(1, 2**32)),
    "CumSum of Range": lambda: added(
        [node("Range", ["a", "b", "c"], ["r"]), node("CumSum", ["r", "axis"], ["s"]), node("Cast", ["s"], to=1)],
        a=numbers(0)[0], b=numbers(2**40)[0], c=numbers(1)[0], axis=numbers(0)[0],
    ),
}  # fmt: skip


def _loop(times: int) -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w2"])],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", None)],
        [value("d", [], TensorProto.BOOL), value("w2", None)],
    )
    loop = helper.make_node("Loop", ["n", "yes", "scores"], ["y"], body=body)
    return bytes(model([loop], weights(n=numbers(times)[0], yes=np.array(True)), output="y").SerializeToString())


def _sized(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _nested(levels: int) -> bytes:
    # If in If in If …, written by hand, since no library writes so deep.
    condition = helper.make_attribute("other", 1).SerializeToString()
    inner = b""
    for _ in range(levels):
        branch = _sized(_ATTRIBUTES_GRAPH, inner) + _sized(1, b"then_branch") + b"\xa0\x01\x05"  # type = GRAPH
        made = _sized(1, b"yes") + _sized(2, b"y") + _sized(4, b"If") + _sized(_NODES_ATTRIBUTE, branch)
        inner = _sized(_NODE, made + _sized(_NODES_ATTRIBUTE, condition))
    return model().SerializeToString() + _sized(_GRAPH, inner)


def _many(part: bytes, count: int) -> bytes:
    return bytes(model().SerializeToString()) + _sized(_GRAPH, part * count)


def _functions(*, levels: int, cyclic: bool) -> bytes:
    """Functions that call the next one twice, and the last one the first where cyclic."""
    made = model([helper.make_node("f0", ["scores"], ["y"], domain="own")], output="y")
    made.opset_import.append(helper.make_opsetid("own", 1))
    for i in range(levels):
        last = i == levels - 1
        kind, domain = ("f0", "own") if cyclic and last else ("Relu", "") if last else (f"f{i + 1}", "own")
        nodes = [helper.make_node(kind, [a], [b], domain=domain) for a, b in ("ab", "bc")]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        made.functions.append(helper.make_function("own", f"f{i}", ["a"], ["c"], nodes, opsets))
    return bytes(made.SerializeToString())


def _same_name(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Relu", ["x"], ["scores"]))


def _cycle(made: ModelProto) -> None:
    made.graph.node.extend([helper.make_node("Add", ["scores", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])
    made.graph.output[0].name = "b"


def _weight(change: Callable[[np.ndarray[Any, Any]], None]) -> Callable[[ModelProto], None]:
    def apply(made: ModelProto) -> None:
        array = numpy_helper.to_array(made.graph.initializer[0]).copy()
        change(array)
        made.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))

    return apply


def _set(array: np.ndarray[Any, Any], number: float) -> None:
    array[1, 1] = number


def _tensor(**fields: Any) -> Callable[[ModelProto], None]:
    """Set fields of the weight."""

    def apply(made: ModelProto) -> None:
        tensor = made.graph.initializer[0]
        for name, content in fields.items():
            tensor.ClearField(name)
            if isinstance(content, list):
                getattr(tensor, name).extend(content)
            else:
                setattr(tensor, name, content)

    return apply


def _renamed(name: str) -> Callable[[ModelProto], None]:
    def apply(made: ModelProto) -> None:
        made.graph.initializer[0].name = name
        made.graph.node[0].input[1] = name

    return apply


def _append(*nodes: NodeProto, output: str = "y", **arrays: Any) -> Callable[[ModelProto], None]:
    def apply(made: ModelProto) -> None:
        made.graph.node.extend(nodes)
        made.graph.initializer.extend(weights(**arrays))
        made.graph.output[0].name = output

    return apply


def _opsets(*versions: int) -> Callable[[ModelProto], None]:
    def apply(made: ModelProto) -> None:
        made.ClearField("opset_import")
        made.opset_import.extend(helper.make_opsetid("", version) for version in versions)

    return apply


def _tree(made: ModelProto) -> None:
    """A tree whose only node is its own child."""
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    made.graph.node.append(
        helper.make_node(
            "TreeEnsembleClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml",
            nodes_treeids=[0, 0], nodes_nodeids=[0, 1], nodes_featureids=[0, 0], nodes_modes=["BRANCH_LEQ"] * 2,
            nodes_values=[0.5, 0.5], nodes_truenodeids=[1, 0], nodes_falsenodeids=[1, 0],
            class_treeids=[0], class_nodeids=[1], class_ids=[0], class_weights=[1.0], classlabels_int64s=[0, 1],
        )
    )  # fmt: skip
    made.graph.output[0].name = "p"


_OPERATOR, _BAD = frozenset({"unsupported_operator"}), frozenset({"corrupt", "invalid_graph", "not_runnable"})
_SIZE = frozenset({"declared_size", "out_of_memory", "not_runnable", "invalid_graph", "unsupported_operator"})
_ANY_REFUSAL = _BAD | _SIZE | {"no_classifier_output", "ambiguous_output", "fixed_batch"}
SHAPED: dict[str, tuple[Make, frozenset[str]]] = {
    "Loop of 2^62": (lambda: _loop(2**62), _OPERATOR),
    "If 1,000 deep": (lambda: _nested(1000), frozenset({"too_deep"})),
    "If 15 deep": (lambda: _nested(15), _OPERATOR),
    "a million nodes": (lambda: _many(_sized(_NODE, helper.make_node("Relu", ["x"], ["y"]).SerializeToString()), 10**6),
                        frozenset({"too_many_nodes"})),
    "ten million empty nodes": (lambda: _many(_sized(_NODE, b""), 10**7), frozenset({"too_many_nodes"})),
    "ten million attributes": (lambda: _many(_sized(_NODE, _sized(5, b"") * 10**7), 1), frozenset({"too_many_nodes"})),
    "functions that double 40 times": (lambda: _functions(levels=40, cyclic=False), frozenset({"too_many_nodes"})),
    "functions in a circle": (lambda: _functions(levels=3, cyclic=True), frozenset({"cyclic_graph"})),
    "custom domain": (changed(_append(helper.make_node("Run", ["scores"], ["y"], domain="evil.corp"))), _OPERATOR),
    "unknown operator": (changed(_append(helper.make_node("Shell", ["scores"], ["y"]))), _OPERATOR),
    "Python operator": (changed(_append(helper.make_node("PythonOp", ["scores"], ["y"], domain="com.microsoft"))),
                        _OPERATOR),
    "cycle": (changed(_cycle), frozenset({"cyclic_graph"})),
    "the same output twice": (changed(_same_name), frozenset({"duplicate_name"})),
    "the same weight twice": (changed(lambda made: made.graph.initializer.append(made.graph.initializer[0])),
                              frozenset({"duplicate_name"})),
    "10,000 characters": (changed(_renamed("n" * 10_000)), frozenset({"bad_name"})),
    "control characters": (changed(_renamed("w\x1b[2J\x07\x00")), frozenset({"bad_name"})),
    "right-to-left name": (changed(_renamed("w\u202egpj.exe")), frozenset({"bad_name"})),
    "a path as name": (changed(_renamed("../../../etc/passwd")), frozenset({"ready"})),
    "NaN weights": (changed(_weight(lambda w: _set(w, np.nan))), frozenset({"non_finite_weights"})),
    "infinite weights": (changed(_weight(lambda w: _set(w, np.inf))), frozenset({"non_finite_weights"})),
    "negative dims": (changed(_tensor(dims=[-4, -3])), frozenset({"corrupt"})),
    "dims that overflow": (changed(_tensor(dims=[2**32, 2**32])), frozenset({"corrupt"})),
    "dims of 50 GB": (changed(_tensor(dims=[2**17, 2**17])), frozenset({"corrupt"})),
    "nothing times 2^62": (changed(_tensor(dims=[0, 2**62], raw_data=b"")), frozenset({"corrupt"})),
    "too few bytes": (changed(_tensor(raw_data=b"\0" * 40)), frozenset({"corrupt"})),
    "too many bytes": (changed(_tensor(raw_data=b"\0" * 400)), frozenset({"corrupt"})),
    "unknown element type": (changed(_tensor(data_type=999)), frozenset({"corrupt"})),
    "no element type": (changed(_tensor(data_type=0)), frozenset({"corrupt"})),
    "text weights": (changed(_tensor(data_type=8, raw_data=b"", dims=[1], string_data=[b"x"])),
                     _ANY_REFUSAL | {"truncated"}),
    "an input of 2^40 columns": (lambda: bytes(model(shape=("N", 2**40)).SerializeToString()),
                                 frozenset({"declared_size"})),
    "a batch of 2^40 rows": (lambda: bytes(model(shape=(2**40, 4)).SerializeToString()), frozenset({"declared_size"})),
    "an input of -5 columns": (lambda: bytes(model(shape=("N", -5)).SerializeToString()), frozenset({"corrupt"})),
    "no output": (changed(lambda made: made.graph.ClearField("output")), frozenset({"truncated"})),
    "an output that nothing makes": (changed(_append(output="nowhere")), _BAD),
    "no input": (changed(lambda made: made.graph.ClearField("input")), _BAD | {"no_classifier_output"}),
    "a node without inputs": (changed(lambda made: made.graph.node[0].ClearField("input")), _BAD),
    "opset 999": (changed(_opsets(999)), frozenset({"unsupported_opset"})),
    "opset -1": (changed(_opsets(-1)), frozenset({"unsupported_opset"})),
    "no opset": (changed(_opsets()), frozenset({"not_onnx"})),
    "IR version 99": (lambda: bytes(model(ir_version=99).SerializeToString()), frozenset({"unsupported_opset"})),
    "stride 0": (changed(_append(helper.make_node("Unsqueeze", ["scores", "a"], ["i"]),
                                 helper.make_node("MaxPool", ["i"], ["y"], kernel_shape=[1], strides=[0]),
                                 a=numbers(1))), _ANY_REFUSAL),
    "kernel 2^40": (changed(_append(helper.make_node("Unsqueeze", ["scores", "a"], ["i"]), helper.make_node(
        "MaxPool", ["i"], ["y"], kernel_shape=[2**40], pads=[2**39, 2**39]), a=numbers(1))), _ANY_REFUSAL),
    "0 groups": (changed(_append(helper.make_node("Unsqueeze", ["scores", "a"], ["i"]), helper.make_node(
        "Conv", ["i", "k"], ["y"], group=0), a=numbers(1), k=np.ones((1, 1, 1), _FLOAT))), _ANY_REFUSAL),
    "an index outside": (changed(_append(helper.make_node("Gather", ["scores", "i"], ["y"], axis=1), i=numbers(2**40))),
                         _ANY_REFUSAL),
    "an axis outside": (changed(_append(helper.make_node("Softmax", ["scores"], ["y"], axis=2**40))), _ANY_REFUSAL),
    "TopK of 2^62": (changed(_append(helper.make_node("TopK", ["scores", "k"], ["y", "i"]), k=numbers(2**62))),
                     _ANY_REFUSAL),
    "a perm that is none": (changed(_append(helper.make_node("Transpose", ["scores"], ["y"], perm=[7, 7]))),
                            _ANY_REFUSAL),
    "a tree that is its own child": (changed(_tree), _ANY_REFUSAL),
}  # fmt: skip


CASES = [
    *(BadFile(f"50 GB by {name}", as_file(make), _SIZE, "models") for name, make in HUGE.items()),
    *(BadFile(name, as_file(make), codes, "models") for name, (make, codes) in SHAPED.items()),
]
