"""ONNX files that reach for other files: weights that claim to lie elsewhere, openly or hidden in an unusual place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper

from tests.corpus.building import Make, as_file, model, value, weights
from tests.corpus.case import BadFile


def _external(tensor: TensorProto, location: str) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, content in (("location", location), ("offset", "0"), ("length", "48")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, content
    return tensor


def reaching(location: str, link: Callable[[Path, Path], None] | None = None) -> Callable[[Path], Path]:
    """A model whose weight lies in another file, which is really there, directly or through a link."""

    def make(folder: Path) -> Path:
        secret = folder / "secret"
        secret.write_bytes(np.ones(12, np.float32).tobytes())
        if link is not None:
            link(secret, folder / "weights.bin")
        made = model()
        _external(made.graph.initializer[0], location.format(folder=folder))
        path = folder / "model.onnx"
        path.write_bytes(made.SerializeToString())
        return path

    return make


def _hidden(place: Callable[[ModelProto, TensorProto], None]) -> Make:
    """A model that reaches for a file from an unusual place."""

    def make() -> bytes:
        made = model()
        place(made, _external(weights(hidden=np.ones(12, np.float32))[0], "/etc/passwd"))
        return bytes(made.SerializeToString())

    return make


def _in_branch(made: ModelProto, tensor: TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [value("hidden", None)], [tensor])
    made.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))


def _in_sparse(made: ModelProto, tensor: TensorProto) -> None:
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor)
    sparse.dims.append(12)


def _in_function(made: ModelProto, tensor: TensorProto) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["a", "c"], ["b"])]
    made.functions.append(helper.make_function("own", "f", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]))


def _in_default(made: ModelProto, tensor: TensorProto) -> None:
    _in_function(made, weights(c=np.ones(12, np.float32))[0])
    default: AttributeProto = helper.make_attribute("d", tensor)
    made.functions[0].attribute_proto.append(default)


def _in_training(made: ModelProto, tensor: TensorProto) -> None:
    graph: GraphProto = made.training_info.add().algorithm
    graph.initializer.append(tensor)


HIDDEN: dict[str, Make] = {
    "in a Constant": _hidden(lambda m, t: m.graph.node.append(helper.make_node("Constant", [], ["c"], value=t))),
    "in a branch": _hidden(_in_branch),
    "in a sparse tensor": _hidden(_in_sparse),
    "in a function": _hidden(_in_function),
    "in a function's default": _hidden(_in_default),
    "in a training graph": _hidden(_in_training),
}
_EXTERNAL = frozenset({"external_data"})
_REACHING = {
    "upwards": reaching("../{folder.name}/secret"),
    "an absolute path": reaching("{folder}/secret"),
    "a symbolic link": reaching("weights.bin", lambda secret, link: link.symlink_to(secret)),
    "a hard link": reaching("weights.bin", lambda secret, link: os.link(secret, link)),
    "the same folder": reaching("secret"),
    "/dev/zero": reaching("/dev/zero"),
}
CASES = [
    *(BadFile(f"external data: {name}", make, _EXTERNAL, "models") for name, make in _REACHING.items()),
    *(
        BadFile(f"external data {name}", as_file(make), _EXTERNAL | {"unsupported_operator"}, "models")
        for name, make in HIDDEN.items()
    ),
]
