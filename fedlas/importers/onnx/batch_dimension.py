"""The batch dimension: frees a graph from the number of rows that its exporter wrote into it.

Exporters write the example's batch into Reshape targets, Expand shapes and folded constants. The graph is run once with
that batch and once, node by node, with one row more: axes whose size follows the rows are seen, not inferred, and every
target that stands in the way is rewritten. A final comparison proves that rows are still computed independently.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.batch_rewriter import BatchRewriter
from fedlas.importers.onnx.evaluator import is_light, outputs_of
from fedlas.importers.onnx.graph import Graph, Shape
from fedlas.importers.onnx.input_specs import InputSpec, example_inputs
from fedlas.importers.onnx.row_axes import PREFERENCES, AmbiguousShape

# Up to this many rows the exporter's own batch is computed for the proof, above it the repaired graph's single rows.
_AFFORDABLE = 4


def free_batch(
    graph: Graph, specs: list[InputSpec], batch: int, lengths: Mapping[str, int], before: Mapping[str, Shape]
) -> tuple[Graph, dict[str, Shape]]:
    """A graph that takes any number of rows and computes what `graph` computes for `batch` rows.

    Args:
        before: the shapes of all tensors for `batch` rows.

    Returns:
        The graph, and the shapes of all its tensors for `batch + 1` rows.

    Raises:
        UnsupportedModel: `fixed_batch` where that cannot be found.
    """
    reasons = []
    # Shapes alone are enough for almost every graph that is much to compute; else values are computed.
    rows = example_inputs(specs, batch + 1, lengths)
    ways = (False,) if is_light(graph, rows) else (True, False)
    for on_meta, preference in itertools.product(ways, PREFERENCES):
        repaired = graph.copy()
        given = {name: value.to("meta") if on_meta else value for name, value in rows.items()}
        try:
            repair = BatchRewriter(repaired, given, batch, before, preference)
            repair.walk()
            prove_rows(graph, repaired, specs, batch, lengths)
        except (AmbiguousShape, UnsupportedModel) as failure:
            reasons.append(str(failure))
        else:
            return repaired, repair.shapes
    raise UnsupportedModel(
        "fixed_batch",
        f"the exporter fixed the batch to {batch} in a way that cannot be undone ({reasons[0]}); export with a dynamic "
        "batch: torch.onnx.export(..., dynamic_shapes=...) or dynamic_axes={'input': {0: 'N'}}",
    )


def prove_rows(
    original: Graph, repaired: Graph, specs: list[InputSpec], batch: int, lengths: Mapping[str, int]
) -> None:
    """Rows computed together must equal rows computed in the exporter's batches.

    Raises:
        AmbiguousShape: they do not.
    """
    original_rows = batch if batch <= _AFFORDABLE else 1
    rows = example_inputs(specs, original_rows + 1, lengths, seed=1)
    together = outputs_of(repaired, rows)
    part = {name: value[1:] for name, value in rows.items()}
    alone = outputs_of(original if batch <= _AFFORDABLE else repaired, part)
    for one, many in zip(alone, together, strict=True):
        # Sums in another order differ by what the largest value rounds to; mixed rows differ by far more.
        scale = max(1.0, float(one.abs().max())) if one.is_floating_point() and one.numel() else 1.0
        if one.shape != many[1:].shape or not torch.allclose(one, many[1:], 1e-3, 1e-4 * scale, equal_nan=True):
            raise AmbiguousShape("rows would change each other's results")
