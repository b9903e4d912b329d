"""The lowering of scikit-learn's operators (`ai.onnx.ml`) to standard ones, where those exist, and of their outputs.

Linear models, scalers, normalisers, imputers, binarisers, one-hot and label tables have standard equivalents, with
which a pipeline trains as any network does. Trees, support vectors and text have none: such nodes stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import attribute
from fedlas.importers.onnx.rewrite.classical_operators import EQUIVALENTS, GraphBuilder, NoEquivalent, keep_finite

__all__ = ["class_labels", "plain_outputs", "to_standard"]
ML_DOMAIN = "ai.onnx.ml"
_CLASSIFIERS = ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def has_classical(model: ModelProto) -> bool:
    return any(node.domain == ML_DOMAIN for node in model.graph.node)


def plain_outputs(model: ModelProto) -> ModelProto:
    """The model, a copy where it has such, with class scores as one tensor (N, K) and no maps (ZipMap) or columns."""
    if not has_classical(model):
        return model
    changed = ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type == "ZipMap" and node.domain == ML_DOMAIN:
            node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output)))
            for value in changed.graph.output:
                if value.name == node.output[0]:
                    value.CopyFrom(_scores(value.name))
    _join_columns(changed)
    return changed


def _scores(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "K"])


def _join_columns(model: ModelProto) -> None:
    """Outputs that are the columns of one tensor (`zipmap="columns"`: Slice, then Reshape) give way to that tensor."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    floats = [value for value in model.graph.output if value.type.tensor_type.elem_type in _FLOATS]
    sources = {_sliced(producers, value.name) for value in floats}
    source = next(iter(sources), None)
    if len(floats) < 2 or len(sources) != 1 or source is None:
        return
    kept = [value for value in model.graph.output if value not in floats]
    del model.graph.output[:]
    model.graph.output.extend([*kept, _scores(source)])


def _sliced(producers: dict[str, NodeProto], name: str) -> str | None:
    if (shaped := producers.get(name)) is None or shaped.op_type != "Reshape":
        return None
    column = producers.get(shaped.input[0])
    return str(column.input[0]) if column is not None and column.op_type == "Slice" else None


def class_labels(model: ModelProto, num_classes: int) -> tuple[str, ...] | None:
    """Class names of the file's ZipMap, ArgMax's table or classifier; None unless there is one for each class."""
    for found in (_held(model, "ZipMap"), _looked_up(model), _held(model, *_CLASSIFIERS)):
        if found:
            names = next(iter(found))
            return names if len(found) == 1 and len(names) == len(set(names)) == num_classes else None
    return None


def _held(model: ModelProto, *op_types: str) -> set[tuple[str, ...]]:
    return {label_names(node) for node in model.graph.node if node.op_type in op_types} - {()}


def label_names(node: NodeProto) -> tuple[str, ...]:
    """The names of the classes that a node of `ai.onnx.ml` holds, numbers as text; none where it holds none."""
    for name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
        values: Sequence[int | bytes] = attribute(node, name, ())
        if values:
            return tuple(value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values)
    return ()


def _looked_up(model: ModelProto) -> set[tuple[str, ...]]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    best = {node.output[0] for node in model.graph.node if node.op_type == "ArgMax"}
    tables = [
        numpy_helper.to_array(constants[node.input[0]]).ravel().tolist()
        for node in model.graph.node
        if node.op_type == "ArrayFeatureExtractor" and node.input[0] in constants and node.input[1] in best
    ]
    return {tuple(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in table) for table in tables}


def to_standard(model: ModelProto) -> ModelProto:
    """The model with standard operators in the place of those of `ai.onnx.ml` that have an equivalent.

    Outputs that are labels are dropped, and maps of scores (ZipMap) become plain tensors. Models without such operators
    are returned as they are. Raises UnsupportedModel (`unsupported_input`) where an input takes text.
    """
    if not has_classical(model):
        return model
    given = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.STRING and value.name not in given:
            raise UnsupportedModel(
                "unsupported_input",
                f"input {value.name!r} takes text, and datasets hold numbers: encode text columns as numbers in the "
                "dataset, and export the pipeline without its text encoder",
            )
    changed = plain_outputs(model)
    _drop_labels(changed)
    builder = GraphBuilder(changed)
    for node in changed.graph.node:
        before = len(builder.nodes)
        try:
            if node.domain == ML_DOMAIN:
                EQUIVALENTS[node.op_type](builder, node)
            else:
                keep_finite(builder, node)
                builder.nodes.append(node)
        except (NoEquivalent, KeyError):
            builder.nodes[before:] = [node]
    del changed.graph.node[:]
    changed.graph.node.extend(builder.nodes)
    changed.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in builder.constants.items()
    )
    return changed


def _drop_labels(model: ModelProto) -> None:
    types = (*_FLOATS, TensorProto.FLOAT16)
    if not (scores := [value for value in model.graph.output if value.type.tensor_type.elem_type in types]):
        return
    needed, kept = {value.name for value in scores}, []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output if name):
            kept.append(node)
            needed.update(node.input)
    nodes, outputs = kept[::-1], list(scores)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(outputs)
