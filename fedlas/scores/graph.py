"""The ONNX graph of a score model: signals (N, S) float64 in, the standard outputs of a served file out.

Each curve is a sum of its rises, `Σ rise · clip((x − knot) / width, 0, 1)`: all terms have one sign, so that nothing
cancels, however steep it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fedlas.contract.profiles import FILE_PROFILE, FeatureSpec, ModelProfile, OutputSpec, Reading, TensorSpec
from fedlas.errors import ExportError
from fedlas.export.scores_graph import TOLERANCE, answers_of, model_of
from fedlas.metrics.statistics import Floats
from fedlas.scores.calibration import ScoreCalibration
from fedlas.scores.curve import Curve, sigmoid
from fedlas.scores.model import ScoreModel

INPUT = "scores"
#: More rows of many signals would take gigabytes at once.
_PROVEN_AT_ONCE = 1000


class _Nodes:
    """Nodes and constants, named as they are added."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, value: ArrayLike, dtype: type = np.float64) -> str:
        name = f"fedlas_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        name = result or f"fedlas_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def curves(self, given: str, curves: Sequence[Curve]) -> str:
        """Log-odds (N, S) of values (N, S) by a curve of each column; all are made as long as the longest."""
        pieces = max(1, max(len(curve.knots) for curve in curves) - 1)
        knots, widths, rises = np.zeros((3, len(curves), pieces))
        widths += 1
        for place, curve in enumerate(curves):
            count = len(curve.knots) - 1
            knots[place, :count], widths[place, :count] = curve.knots[:-1], np.diff(curve.knots)
            rises[place, :count] = np.diff(curve.log_odds)
        column = self.add("Unsqueeze", given, self.constant([2], np.int64))
        along = self.add("Div", self.add("Sub", column, self.constant(knots)), self.constant(widths))
        inside = self.add("Clip", along, self.constant(0.0), self.constant(1.0))
        risen = self.add("Mul", inside, self.constant(rises))
        total = self.add("ReduceSum", risen, self.constant([2], np.int64), keepdims=0)
        found = self.add("Add", total, self.constant([curve.log_odds[0] for curve in curves]))
        missing = self.constant([curve.missing for curve in curves])
        return self.add("Where", self.add("IsNaN", given), missing, found)


def build(model: ScoreModel) -> ModelProto:
    """The graph; of one score `logits` are its log-odds, of several the sum that rows are ordered by."""
    graph = _Nodes()
    position = log_odds = graph.curves(INPUT, model.curves)
    if model.weights is not None:
        beyond = graph.add("Sub", position, graph.constant(model.base))
        weighed = graph.add("MatMul", beyond, graph.constant(model.weights[:, None]))
        position = graph.add("Add", weighed, graph.constant(model.base))
        log_odds = graph.curves(position, [model.final])
    to_pair = graph.constant([[0.0, 1.0]])
    for source, name in ((position, "logits"), (log_odds, "fedlas_calibrated")):
        graph.add("Cast", graph.add("MatMul", source, to_pair), to=TensorProto.FLOAT, result=name)
    graph.add("Softmax", "fedlas_calibrated", axis=1, result="probabilities")
    graph.add("ReduceMax", "probabilities", axes=[1], keepdims=0, result="confidence")
    graph.add(
        "Cast", graph.add("Where", graph.add("IsNaN", INPUT), graph.constant(0.0), INPUT), to=1, result="features"
    )
    given = helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, ["N", len(model.signals)])
    shapes: dict[str, list[str | int]] = {
        "logits": ["N", 2],
        "probabilities": ["N", 2],
        "confidence": ["N"],
        "features": ["N", len(model.signals)],
    }
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return model_of(helper.make_graph(graph.nodes, "fedlas_scores", [given], outputs, graph.constants))


def profile_of(calibration: ScoreCalibration) -> ModelProfile:
    """The profile by which the file is served."""
    report = calibration.report
    return ModelProfile(
        inputs=[TensorSpec(name=INPUT, dtype="float64", shape=["N", len(report.signals)])],
        output=OutputSpec(name="probabilities", kind="probabilities"),
        task="binary",
        num_classes=2,
        class_names=list(report.outcomes),
        class_names_given=True,
        positive_class=report.outcomes[1],
        features=FeatureSpec(layer=INPUT, dim=len(report.signals)),
        trainable=False,
        columns=list(report.signals),
        reading=Reading(missing="nan"),
        scores=calibration.serving,
    )


def write(calibration: ScoreCalibration, path: Path, values: NDArray[np.float64]) -> float:
    """Write the file with its profile, prove it on values (N, S), and return how far its probabilities are from ours.

    Raises:
        ExportError: `parity` where that is more than float32 explains.
    """
    model = build(calibration.model)
    profile = profile_of(calibration)
    helper.set_model_props(model, {"calibrator": '{"name": "score"}', FILE_PROFILE: profile.in_file()})
    error = 0.0
    for rows, written in answers_of(model, path, INPUT, values, at_once=_PROVEN_AT_ONCE):
        ours: Floats = sigmoid(calibration.model.log_odds(rows))
        error = max(error, float(np.abs(written[:, 1] - ours).max()))
    if not error <= TOLERANCE:
        raise ExportError("parity", f"the file differs from the curve by {error:.2e}, more than {TOLERANCE:.0e}")
    return error
