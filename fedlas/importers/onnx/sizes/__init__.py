"""What sizes the tensors of a graph have, and whether a value of an input can choose them.

`positions` says what operators read as sizes, `shapes` and `values` what follows for their results, `inference` walks
through a graph with them, `limiting` writes limits, `growth` counts what rows of a size take.
"""

from __future__ import annotations

from fedlas.importers.onnx.sizes.growth import Measured, ServingCost, serving_cost
from fedlas.importers.onnx.sizes.limiting import limit_sizes

__all__ = ["Measured", "ServingCost", "limit_sizes", "serving_cost"]
