"""Gaussian classes with splits, and networks over them whose calibration is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fedlas.data.dataset import Array

Layers = Sequence[tuple[Array, Array]]
SPLITS = {"train": 120, "calibration": 300, "guarantee": 80, "test": 400}
COUNT = sum(SPLITS.values())
CENTRES = np.random.default_rng(99).normal(size=(4, 8)) * 1.2
#: The true posterior of `world`, as a linear layer: nothing is better calibrated than this.
TRUTH = (CENTRES.T, -0.5 * (CENTRES**2).sum(1))
OVERCONFIDENT = (4 * TRUTH[0], 4 * TRUTH[1])


def words(**counts: int) -> Array:
    """The split of every row."""
    return np.repeat(list(counts), list(counts.values()))


def world(seed: int = 0) -> dict[str, Array]:
    """Four Gaussian classes in eight dimensions, with splits."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, COUNT)
    rows = (CENTRES[targets] + rng.normal(size=(COUNT, 8))).astype(np.float32)
    return {"x": rows, "label": targets, "split": words(**SPLITS)}


def network(*layers: tuple[Array, Array], ends_with: str | None = None, fills_missing: bool = False) -> bytes:
    """Linear layers with ReLU between them, input `x`, as an ONNX file."""
    nodes, weights, last = [], [], "x"
    if fills_missing:
        weights.append(numpy_helper.from_array(np.float32(0), "zero"))
        nodes += [helper.make_node("IsNaN", ["x"], ["missing"])]
        nodes += [helper.make_node("Where", ["missing", "zero", "x"], ["filled"])]
        last = "filled"
    for i, (weight, bias) in enumerate(layers):
        weights += [
            numpy_helper.from_array(np.asarray(a, np.float32), f"{n}{i}") for a, n in ((weight, "w"), (bias, "b"))
        ]
        if i:
            nodes.append(helper.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"h{i}"]))
        last = f"h{i}"
    if ends_with is not None:
        nodes.append(helper.make_node(ends_with, [last], ["y"]))
        last = "y"
    ends = [("x", len(layers[0][0])), (last, len(layers[-1][1]))]
    graph = helper.make_graph(
        nodes,
        "g",
        *([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])] for name, size in ends),
        initializer=weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
