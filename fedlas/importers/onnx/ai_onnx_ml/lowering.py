"""The lowering of scikit-learn's operators (`ai.onnx.ml`) to standard ones, where those exist.

Linear models, scalers, normalisers, imputers, binarisers, one-hot and label tables have standard equivalents, with
which a pipeline trains as any network does. Trees, support vectors and text have none: such nodes stay as they are.
"""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.ai_onnx_ml.graph_builder import GraphBuilder, NoEquivalent
from fedlas.importers.onnx.ai_onnx_ml.operators import EQUIVALENTS, keep_finite
from fedlas.importers.onnx.ai_onnx_ml.outputs import ML_DOMAIN, class_labels, has_classical, plain_outputs

__all__ = ["class_labels", "plain_outputs", "to_standard"]

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def to_standard(model: ModelProto) -> ModelProto:
    """The model with standard operators in the place of those of `ai.onnx.ml` that have an equivalent.

    Outputs that are labels are dropped, and maps of scores (ZipMap) become plain tensors. Models without such operators
    are returned as they are.

    Raises:
        UnsupportedModel: `unsupported_input` where an input takes text.
    """
    if not has_classical(model):
        return model
    _refuse_text(model)
    changed = plain_outputs(model)
    _drop_labels(changed)
    builder = GraphBuilder(changed)
    for node in changed.graph.node:
        before = len(builder.nodes), len(builder.made)
        try:
            if node.domain == ML_DOMAIN:
                EQUIVALENTS[node.op_type](builder, node)
            else:
                keep_finite(builder, node)
                builder.nodes.append(node)
        except (NoEquivalent, KeyError):
            del builder.nodes[before[0] :], builder.made[before[1] :]
            builder.nodes.append(node)
    del changed.graph.node[:]
    changed.graph.node.extend(builder.nodes)
    changed.graph.initializer.extend(builder.made)
    return changed


def _refuse_text(model: ModelProto) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.STRING and value.name not in constants:
            raise UnsupportedModel(
                "unsupported_input",
                f"input {value.name!r} takes text, and datasets hold numbers: encode text columns as numbers in the "
                "dataset, and export the pipeline without its text encoder",
            )


def _drop_labels(model: ModelProto) -> None:
    """Keep the outputs that are scores, and the nodes that they need."""
    scores = [value for value in model.graph.output if value.type.tensor_type.elem_type in _FLOATS]
    if not scores:
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
