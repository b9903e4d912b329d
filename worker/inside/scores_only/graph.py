"""The calibrator as an ONNX file of its own, scores in and probabilities out, proven on rows; it fits nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from fedlas.calibrators import Calibrator, softmax
from fedlas.errors import ExportError
from service.inference.runtime import open_session
from worker.inside.scores_only.reading import SMALLEST, Kind, Scores

#: Old enough for runtimes of 2022.
OPSET, IR_VERSION = 17, 8
#: In ONNX no output may bear the name of an input.
INPUT_NAMES: dict[Kind, str] = {"logits": "logits", "probabilities": "uncalibrated_probabilities"}

_TOLERANCE = 1e-5


def build(calibrator: Calibrator, kind: Kind, class_names: Sequence[str], *, sha256: str) -> ModelProto:
    """The graph: input (N, K) float32, outputs `probabilities` (N, K) and `confidence` (N,)."""
    given, nodes, constants = INPUT_NAMES[kind], [], []
    logits = given
    if kind == "probabilities":
        constants.append(numpy_helper.from_array(np.array(SMALLEST, np.float32), "fedlas_smallest"))
        nodes.append(helper.make_node("Max", [given, "fedlas_smallest"], ["fedlas_positive"]))
        nodes.append(helper.make_node("Log", ["fedlas_positive"], ["fedlas_logits"]))
        logits = "fedlas_logits"
    middle, more = calibrator.to_onnx(logits, "fedlas_calibrated_logits")
    nodes += [
        *middle,
        helper.make_node("Softmax", ["fedlas_calibrated_logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities"], ["confidence"], axes=[1], keepdims=0),
    ]
    classes = len(class_names)

    def info(name: str, *shape: int | str) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    outputs = [info("probabilities", "N", classes), info("confidence", "N")]
    graph = helper.make_graph(nodes, "fedlas_calibrator", [info(given, "N", classes)], outputs, [*constants, *more])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fedlas"
    )
    properties = {
        "class_names": json.dumps(list(class_names)),
        "calibrator": json.dumps({"name": calibrator.name, "parameters": calibrator.parameters()}),
        "fedlas.scores_sha256": sha256,
    }
    helper.set_model_props(model, properties)
    return model


def write(path: Path, calibrator: Calibrator, scores: Scores, *, sha256: str) -> float:
    """Write the file and return how far its probabilities are from ours on all rows.

    Raises:
        ExportError: `parity` where that is more than float32 explains.
    """
    model = build(calibrator, scores.kind, scores.class_names, sha256=sha256)
    checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    calibrated = calibrator(scores.logits)
    error = float(np.abs(_run(path, scores) - softmax(calibrated)).max())
    # Among logits of 1e4 neighbouring float32 numbers are 1e-3 apart: no file can be exacter than its numbers.
    allowed = _TOLERANCE + 2 * float(np.finfo(np.float32).eps) * float(np.abs(calibrated).max())
    if not error <= allowed:
        raise ExportError("parity", f"the file differs from the calibrator by {error:.2e}, more than {allowed:.0e}")
    return error


def _run(path: Path, scores: Scores) -> NDArray[np.float64]:
    session = open_session(str(path), threads=1)
    rows = scores.values.astype(np.float32)
    return np.asarray(session.run(["probabilities"], {INPUT_NAMES[scores.kind]: rows})[0], dtype=np.float64)
