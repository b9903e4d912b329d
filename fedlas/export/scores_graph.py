"""Small graphs: the calibrator of scores as a file of its own, class priors as a constant or input, and typicality."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from fedlas.calibrators import Calibrator, softmax
from fedlas.data.scores import Kind
from fedlas.deployment import CLASS_PRIORS, ClassPriors, Deployment, shifted_logits
from fedlas.errors import ExportError
from fedlas.guarantees.typicality import Gaussians, Typicality

if TYPE_CHECKING:  # scores need no PyTorch
    from fedlas.importers.onnx.graph import Graph

Floats = NDArray[np.float64]
#: Old enough for runtimes of 2022.
OPSET = 17
IR_VERSION = 8
#: A probability of 0 counts as this when its logarithm is taken, here and in the file.
MIN_PROB = float(np.finfo(np.float32).tiny)
#: In ONNX no output may bear the name of an input.
INPUT_NAMES: dict[Kind, str] = {"logits": "logits", "probabilities": "uncalibrated_probabilities"}

#: A file's probabilities may differ from ours by so much.
TOLERANCE = 1e-5
#: Copies of more rows and classes in float64 would take more memory than the scores themselves.
_PROVEN_AT_ONCE = 4096


def as_logits(kind: Kind, scores: NDArray[np.float32]) -> Floats:
    """Logits (N, K) float64 of scores (N, K); those of probabilities are their logarithms."""
    values = scores.astype(np.float64)
    return values if kind == "logits" else np.log(np.maximum(values, MIN_PROB))


def write(
    path: Path,
    calibrator: Calibrator,
    kind: Kind,
    class_names: Sequence[str],
    *,
    deployment: Deployment,
    metadata: Mapping[str, str],
    prove_with: NDArray[np.float32],
) -> float:
    """Write the file, prove it on scores (N, K), and return how far its probabilities are from ours.

    The deployment becomes the constant `class_priors` (K,) and metadata, as in a served graph.

    Raises:
        ExportError: `parity` where that is more than float32 explains.
    """
    priors = deployment.priors
    model = build(calibrator, kind, class_names, priors)
    helper.set_model_props(
        model,
        {
            "class_names": json.dumps(list(class_names)),
            "calibrator": json.dumps({"name": calibrator.name, "parameters": calibrator.parameters()}),
            **deployment.properties(class_names),
            **metadata,
        },
    )
    largest = 0.0
    for rows, written in answers_of(model, path, INPUT_NAMES[kind], prove_with, at_once=_PROVEN_AT_ONCE):
        logits = as_logits(kind, rows)
        calibrated = shifted_logits(calibrator(logits), priors.default, priors.shares)
        error = float(np.abs(written - softmax(calibrated)).max())
        # Among logits of 1e4 neighbouring float32 numbers are 1e-3 apart: no file can be exacter than its numbers.
        size = max(float(np.abs(calibrated).max()), float(np.abs(logits).max()))
        allowed = TOLERANCE + 2 * float(np.finfo(np.float32).eps) * size
        if not error <= allowed:
            raise ExportError("parity", f"the file differs from the calibrator by {error:.2e}, more than {allowed:.0e}")
        largest = max(largest, error)
    return largest


def answers_of(
    model: ModelProto, path: Path, input_name: str, rows: NDArray[Any], *, at_once: int
) -> Iterator[tuple[NDArray[Any], Floats]]:
    """Check and write the model, and yield rows with the file's probabilities.

    Of `at_once` rows (N, …) at a time come these rows, and probabilities (N, K).
    """
    checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        (written,) = session.run(["probabilities"], {input_name: part})
        yield part, written.astype(np.float64)


def build(calibrator: Calibrator, kind: Kind, class_names: Sequence[str], priors: ClassPriors) -> ModelProto:
    """The graph: input (N, K) float32, outputs `probabilities` (N, K) and `confidence` (N,)."""
    given, nodes, constants = INPUT_NAMES[kind], [], []
    logits = given
    if kind == "probabilities":
        constants.append(numpy_helper.from_array(np.array(MIN_PROB, np.float32), "fedlas_smallest"))
        nodes += [
            helper.make_node("Max", [given, "fedlas_smallest"], ["fedlas_positive"]),
            helper.make_node("Log", ["fedlas_positive"], ["fedlas_logits"]),
        ]
        logits = "fedlas_logits"
    middle, more = calibrator.to_onnx(logits, "fedlas_calibrated_logits", len(class_names))
    shift = {CLASS_PRIORS: priors.default, "fedlas_class_shares": priors.shares}
    constants += [numpy_helper.from_array(values.astype(np.float32), name) for name, values in shift.items()]
    nodes += [
        *middle,
        helper.make_node("Div", [CLASS_PRIORS, "fedlas_class_shares"], ["fedlas_prior_ratio"]),
        helper.make_node("Log", ["fedlas_prior_ratio"], ["fedlas_prior_shift"]),
        helper.make_node("Add", ["fedlas_calibrated_logits", "fedlas_prior_shift"], ["fedlas_shifted_logits"]),
        helper.make_node("Softmax", ["fedlas_shifted_logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities"], ["confidence"], axes=[1], keepdims=0),
    ]
    classes = len(class_names)
    outputs = [_info("probabilities", "N", classes), _info("confidence", "N")]
    graph = helper.make_graph(nodes, "fedlas_calibrator", [_info(given, "N", classes)], outputs, [*constants, *more])
    return model_of(graph)


def model_of(graph: GraphProto) -> ModelProto:
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="fedlas"
    )


def _info(name: str, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


#: In older files a runtime takes an input with an initialiser for a constant.
_OVERRIDABLE_SINCE = 4


def append_priors(graph: Graph, priors: ClassPriors, logits: str) -> tuple[str, bytes]:
    """Nodes from calibrated logits (N, K) to those at the priors; returns their name, and the `priors_input`.

    The ratio is taken first: where the priors are the shares it is exactly one, so that nothing is added.
    """
    name = graph.fresh(CLASS_PRIORS) if CLASS_PRIORS in graph.input_names else CLASS_PRIORS
    graph.ir_version = max(graph.ir_version, _OVERRIDABLE_SINCE)
    graph.constants[name] = priors.default.astype(np.float32)
    shares = graph.add_constant("fedlas_class_shares", priors.shares.astype(np.float32))
    shift = graph.append("Log", [graph.append("Div", [name, shares], "fedlas_prior_ratio")], "fedlas_prior_shift")
    return graph.append("Add", [logits, shift], "fedlas_shifted_logits"), priors_input(len(priors.default), name)


def priors_input(num_classes: int, name: str = CLASS_PRIORS) -> bytes:
    """Bytes behind those of a file that make its constant `name` (K,) an input, with that constant as default.

    ONNX Runtime folds a constant, and warns of an input with a default whenever it opens a file. Bytes of two messages
    one after the other are one message: https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    given = helper.make_tensor_value_info(name, TensorProto.FLOAT, [num_classes])
    return bytes(ModelProto(graph=GraphProto(input=[given])).SerializeToString())


def append_typicality(graph: Graph, typicality: Typicality, features: str, output: str) -> None:
    """Nodes and constants from features (N, D) to typicality (N,)."""
    writer = _Writer(graph)
    measure = typicality.measure
    if isinstance(measure, Gaussians):
        distance = writer.distance(features, measure)
    else:
        norm = writer.node("MatMul", writer.node("Abs", features), np.ones((typicality.feature_dim, 1)))
        distance = writer.node("Abs", writer.node("Sub", norm, measure.median))
    share = writer.share(distance, typicality)
    shape = graph.add_constant("fedlas_typicality_shape", np.array([-1]))
    graph.append("Reshape", [share, shape], output=output)


class _Writer:
    """Adds nodes whose operands are tensors by name and float32 constants by value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def node(self, operator: str, *operands: str | ArrayLike) -> str:
        names = [
            operand
            if isinstance(operand, str)
            else self.graph.add_constant("fedlas_typicality_constant", np.asarray(operand, np.float32))
            for operand in operands
        ]
        return self.graph.append(operator, names, "fedlas_typicality")

    def squares(self, source: str, width: int) -> str:
        """Sums of squares (N, 1): ReduceSum changed with opset 13, a product with ones never did."""
        return self.node("MatMul", self.node("Mul", source, source), np.ones((width, 1)))

    def distance(self, features: str, measure: Gaussians) -> str:
        dim, rank = measure.directions.shape
        centred = self.node("Sub", features, measure.mean)
        inside = self.node("MatMul", centred, measure.directions)
        white = self.node("MatMul", inside, measure.whitening)
        cross = self.node("MatMul", white, -2 * measure.class_means.T)
        offsets = self.node("Add", cross, (measure.class_means**2).sum(axis=1))
        to_means = self.node("Add", offsets, self.squares(white, rank))
        nearest = self.graph.reduce("ReduceMin", to_means, [1], "fedlas_typicality", keepdims=1)
        if not measure.residual_scale:
            return nearest
        back = self.node("MatMul", inside, measure.directions.T)
        left = self.node("Mul", self.node("Sub", centred, back), measure.residual_scale)
        return self.node("Add", nearest, self.squares(left, dim))

    def share(self, distance: str, typicality: Typicality) -> str:
        """Linear interpolation: the first value minus what each piece between two knots takes off.

        The filled part of a piece is clip(x, 0, 1) = 1 - relu(1 - relu(x)), which stays exact however large x is.
        """
        knots, values = typicality.knots, typicality.values
        over = self.node("Sub", distance, knots[None, :-1])
        filled = self.node("Relu", self.node("Mul", over, 1 / np.diff(knots)[None]))
        unfilled = self.node("Relu", self.node("Sub", 1.0, filled))
        # The unfilled part has not been taken off: value = last + Σ drop · unfilled.
        return self.node("Add", self.node("MatMul", unfilled, -np.diff(values)[:, None]), values[-1])
