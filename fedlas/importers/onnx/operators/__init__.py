"""ONNX operators as functions on PyTorch tensors; importing this package fills the table."""

from __future__ import annotations

from fedlas.importers.onnx.operators import (  # noqa: F401 (they enter their operators)
    elementwise,
    products,
    recurrent,
    reductions,
    resizing,
    shapes,
    windows,
)
from fedlas.importers.onnx.operators.table import OPERATORS, node_has_gradient, operator_name

__all__ = ["OPERATORS", "node_has_gradient", "operator_name"]
