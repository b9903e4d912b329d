"""ONNX operators as functions on PyTorch tensors; importing this package fills the table."""

from __future__ import annotations

from fedlas.importers.onnx.operators import elementwise, layers, reductions, resizing, shapes
from fedlas.importers.onnx.operators.table import OPERATORS, Operator, attributes, keywords, operator_name

__all__ = [
    "OPERATORS",
    "Operator",
    "attributes",
    "elementwise",
    "keywords",
    "layers",
    "operator_name",
    "reductions",
    "resizing",
    "shapes",
]
