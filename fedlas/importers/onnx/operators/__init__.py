"""ONNX operators as functions on PyTorch tensors; importing this package fills the table."""

from __future__ import annotations

from fedlas.importers.onnx.operators import (  # noqa: F401 (they enter their operators)
    activations,
    attention,
    convolutions,
    creation,
    elementwise,
    fused_attention,
    indexing,
    normalisations,
    pools,
    products,
    recurrent,
    reductions,
    resizing,
    shapes,
)
from fedlas.importers.onnx.operators.limits import MAX_BYTES, MAX_ELEMENTS
from fedlas.importers.onnx.operators.table import (
    OPERATORS,
    Operator,
    attributes,
    has_gradient,
    keywords,
    node_has_gradient,
    operator_name,
    words,
)

__all__ = [
    "MAX_BYTES",
    "MAX_ELEMENTS",
    "OPERATORS",
    "Operator",
    "attributes",
    "has_gradient",
    "keywords",
    "node_has_gradient",
    "operator_name",
    "words",
]
