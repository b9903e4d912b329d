"""Sizes of a graph's tensors, and whether a value of an input can choose them.

`abstract_tensor` is the domain, `shape_rules`, `declared_sizes` and `shape_inference` give the sizes of results,
`intervals`, `value_ranges` and `folding` their elements, `onnx.input_roles` says what operators read as sizes;
`interpreter` runs a graph with them, `limiting` writes limits, `serving_cost` counts what rows cost.
"""

from __future__ import annotations

from fedlas.importers.onnx.sizes.limiting import limit_sizes
from fedlas.importers.onnx.sizes.serving_cost import Measured, ServingCost, serving_cost

__all__ = ["Measured", "ServingCost", "limit_sizes", "serving_cost"]
