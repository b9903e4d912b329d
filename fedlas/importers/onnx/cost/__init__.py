"""The cost of a graph's rows: the sizes of all tensors, none of which a value of a row may choose.

`shape_rules` give the sizes of results, `operators.roles` says what operators read as sizes; `interpreter` runs a graph
with them, `serving_cost` counts what rows cost.
"""

from __future__ import annotations

from fedlas.importers.onnx.cost.serving_cost import check_sizes, serving_cost

__all__ = ["check_sizes", "serving_cost"]
