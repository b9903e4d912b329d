"""A network whose answers float32 rounds visibly, as Magika's first LayerNorm: variance as E[x²] − E[x]²."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fedlas.data.dataset import Array

LENGTH, WIDTH, CLASSES = 256, 2, 3
_PATTERNS = np.random.default_rng(7).normal(size=(CLASSES, LENGTH, WIDTH))


def rows(count: int, *, spread: float, seed: int = 0) -> tuple[Array, Array]:
    """Inputs (N, 256, 2) float32 around 1 with this standard deviation, and their classes (N,)."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, CLASSES, count)
    noise = rng.normal(size=(count, LENGTH, WIDTH))
    return (1 + spread * (0.1 * _PATTERNS[targets] + noise)).astype(np.float32), targets


def network(*, confidence: float = 3.0) -> bytes:
    """The classifier as an ONNX file, input `x`, normalised and linear; its logits `confidence` times too far apart."""
    head = confidence * 0.1 * _PATTERNS.reshape(CLASSES, -1).T
    constants = {
        "axes": np.array([1]),
        "share": np.float32(1 / LENGTH),
        "zero": np.float32(0),
        "little": np.float32(1e-12),
        "head": head.astype(np.float32),
        "bias": np.zeros(CLASSES, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["sum"]),
            helper.make_node("Mul", ["sum", "share"], ["mean"]),
            helper.make_node("Mul", ["x", "x"], ["squares"]),
            helper.make_node("ReduceSum", ["squares", "axes"], ["sum_of_squares"]),
            helper.make_node("Mul", ["sum_of_squares", "share"], ["mean_square"]),
            helper.make_node("Mul", ["mean", "mean"], ["squared_mean"]),
            helper.make_node("Sub", ["mean_square", "squared_mean"], ["difference"]),
            helper.make_node("Max", ["difference", "zero"], ["variance"]),
            helper.make_node("Add", ["variance", "little"], ["positive"]),
            helper.make_node("Sqrt", ["positive"], ["deviation"]),
            helper.make_node("Sub", ["x", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "deviation"], ["normalised"]),
            helper.make_node("Flatten", ["normalised"], ["flat"]),
            helper.make_node("Gemm", ["flat", "head", "bias"], ["scores"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", LENGTH, WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
