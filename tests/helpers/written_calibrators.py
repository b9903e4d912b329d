"""A calibrator's nodes in a graph of their own, run by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from fedlas.calibrators import Calibrator


def run_onnx(
    calibrator: Calibrator, logits: np.ndarray, features: np.ndarray | None = None, *, opset: int = 7
) -> np.ndarray:
    """The logits that ONNX Runtime computes; all that the calibrator adds bears names of its own."""
    inputs = {"logits": logits} if features is None else {"logits": logits, "seen": features}
    nodes, constants = calibrator.to_onnx("logits", "calibrated", logits.shape[1], *list(inputs)[1:])
    assert all(thing.name.startswith("fedlas_calibrator_") for thing in [*nodes, *constants])
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", rows.shape[1]]) for n, rows in inputs.items()]
    result = helper.make_tensor_value_info("calibrated", TensorProto.FLOAT, ["N", logits.shape[1]])
    graph = helper.make_graph(nodes, "calibrator", given, [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = {part.name: inputs[part.name].astype(np.float32) for part in session.get_inputs()}
    return np.asarray(session.run(None, fed)[0])
