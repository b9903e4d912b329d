"""scikit-learn's classifiers on small data, fitted and converted as their users do it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from sklearn.datasets import load_iris

from fedlas.data.dataset import Array

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from skl2onnx import to_onnx


def table(classes: int = 3) -> tuple[Array, Array]:
    """Irises (N, 4) float32 with enough noise that no class is certain, and their labels."""
    rows, labels = load_iris(return_X_y=True)
    rows = rows + np.random.default_rng(0).normal(0, 0.5, rows.shape)
    kept = labels < classes
    return rows[kept].astype(np.float32), labels[kept]


def save(fitted: Any, rows: Array, path: Path, **options: Any) -> Path:
    """Convert with skl2onnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = {} if "initial_types" in options else {"X": rows[:1]}
        path.write_bytes(to_onnx(fitted, **example, **options).SerializeToString())
    return path


def node_model(
    op: str, shape: list[Any], outputs: list[str], *, opset: int = 17, dtype: int = 1, **attributes: Any
) -> Any:
    """A model of one `ai.onnx.ml` node with the input `x`; the last output is the graph's."""
    kept = {name: value for name, value in attributes.items() if value != []}
    node = onnx.helper.make_node(op, ["x"], outputs, domain="ai.onnx.ml", **kept)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", dtype, shape)], [value(outputs[-1], 1, None)])
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("ai.onnx.ml", 2)]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    return model
