"""ONNX operators as functions on PyTorch tensors; importing this package fills the table."""

from __future__ import annotations

from fedlas.importers.onnx.operators import (
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
    sampling,
    shapes,
    spectra,
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
    "activations",
    "attention",
    "attributes",
    "convolutions",
    "creation",
    "elementwise",
    "fused_attention",
    "has_gradient",
    "indexing",
    "keywords",
    "node_has_gradient",
    "normalisations",
    "operator_name",
    "pools",
    "products",
    "recurrent",
    "reductions",
    "resizing",
    "sampling",
    "shapes",
    "spectra",
    "words",
]
