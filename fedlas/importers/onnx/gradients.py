"""Gradient flow: the weights that a gradient can reach.

A weight behind a rounding, a comparison or a choice of indices gets no gradient, or one that is zero everywhere: in
training it would only shrink by weight decay, so it is no parameter.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto, TensorProto

from fedlas.importers.onnx.graph import Graph, attribute
from fedlas.importers.onnx.operators.table import words

# Their outputs are steps, truth values, places or sizes. Whatever reads places or truth values is fed by one of these.
_FLAT = words(
    "And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Equal EyeLike Floor Greater "
    "GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual NonMaxSuppression NonZero Not Or Round Shape Sign Size Xor"
)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def reachable_weights(graph: Graph, outputs: Iterable[str], weights: set[str]) -> set[str]:
    """Those of `weights` on which `outputs` depend smoothly."""
    wanted = set(outputs)
    for node in reversed(graph.nodes):
        if not _is_flat(node) and any(name in wanted for name in _smooth_outputs(node)):
            wanted.update(node.input)
    return weights & wanted


def _is_flat(node: NodeProto) -> bool:
    return node.op_type in _FLAT or (node.op_type == "Cast" and attribute(node, "to") not in _FLOATS)


def _smooth_outputs(node: NodeProto) -> list[str]:
    """Outputs but for those that are places or truth values."""
    first_alone = node.op_type in ("TopK", "MaxPool", "Dropout", "Unique")
    return [name for name in (node.output[:1] if first_alone else node.output) if name]
