"""The ONNX file that is served: the upload with tuned weights, calibrator and standard outputs; it trains nothing.

Standard outputs: `logits` (N, K) before the calibrator, `probabilities` (N, K) after it, `confidence` (N,) their
maximum, `features` (N, D). All are float32, the number of rows is free, inputs, IR version and opset are the upload's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from fedlas.calibrators import Calibrator
from fedlas.errors import ExportError
from fedlas.importers.onnx import OnnxClassifier
from fedlas.importers.onnx.classifier import STANDARD_OUTPUTS
from fedlas.importers.onnx.graph import Graph

Array = NDArray[Any]


@dataclass(frozen=True)
class ExportReport:
    """How far the written file is from the network it was written from, on how many rows."""

    max_probability_error: float
    opset: int
    rows: int


def export_onnx(
    classifier: OnnxClassifier,
    path: str | Path,
    *,
    calibrator: Calibrator,
    class_names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    verify_with: Sequence[Array] | None = None,
    tolerance: float = 1e-5,
) -> ExportReport:
    """Write the classifier with its calibrator as one ONNX file.

    Args:
        verify_with: one array of rows per input; the file must give PyTorch's probabilities on them.
        tolerance: the largest difference in any probability.

    Raises:
        ExportError: `parity` where the file differs from the network by more than `tolerance`.
        ValueError: the number of class names is not K.
    """
    if len(class_names) != classifier.num_classes:
        raise ValueError(f"class_names has {len(class_names)} names, the classifier {classifier.num_classes} classes")
    model = build_model(classifier, calibrator)
    properties = {
        "class_names": json.dumps(list(class_names)),
        "calibrator": json.dumps({"name": calibrator.name, "parameters": calibrator.parameters()}),
        **(metadata or {}),
    }
    helper.set_model_props(model, properties)
    content = model.SerializeToString()
    report = ExportReport(0.0, classifier.opset, 0)
    if verify_with is not None:
        report = _verify(classifier, calibrator, content, verify_with, tolerance)
    Path(path).write_bytes(content)
    return report


def build_model(classifier: OnnxClassifier, calibrator: Calibrator) -> ModelProto:
    """The served graph in memory."""
    graph = classifier.graph()
    template = classifier.template
    graph.prune([template.logits, *template.frontier])
    names = _free_output_names(graph, [template.logits, *template.frontier])
    logits, frontier = names[0], names[1:]
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    nodes, initializers, calibrated = _calibrating(graph, calibrator)
    graph.nodes.extend(nodes)
    graph.nodes.append(helper.make_node("Softmax", [calibrated], ["probabilities"], axis=1))
    graph.nodes.append(_maximum(graph, "probabilities", "confidence"))
    graph.nodes.extend(_flat_features(graph, frontier))
    graph.outputs = list(STANDARD_OUTPUTS)
    shapes: dict[str, list[int | str]] = {
        "logits": ["N", classifier.num_classes],
        "probabilities": ["N", classifier.num_classes],
        "confidence": ["N"],
        "features": ["N", classifier.feature_dim],
    }
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in STANDARD_OUTPUTS]
    model = graph.to_model(infos)
    model.graph.initializer.extend(initializers)
    return model


def _calibrating(graph: Graph, calibrator: Calibrator) -> tuple[list[NodeProto], list[TensorProto], str]:
    """The calibrator's part of the graph, and the name of its result.

    Every name is made new: the upload may be a file of ours that already has a calibrator inside.
    """
    nodes, initializers = calibrator.to_onnx("logits", "fedlas_calibrated_logits")
    made = [*(name for node in nodes for name in node.output), *(tensor.name for tensor in initializers)]
    renamed = {name: graph.fresh(name) for name in made}
    for node in nodes:
        node.name = ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    for tensor in initializers:
        tensor.name = renamed[tensor.name]
    return nodes, initializers, renamed["fedlas_calibrated_logits"]


def _free_output_names(graph: Graph, wanted: list[str]) -> list[str]:
    """Rename tensors of the upload that bear the standard outputs' names; returns `wanted` under its new names."""
    renamed = {name: graph.fresh(f"uploaded_{name}") for name in STANDARD_OUTPUTS}
    for node in graph.nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    for name in STANDARD_OUTPUTS:
        if name in graph.constants:
            graph.constants[renamed[name]] = graph.constants.pop(name)
    return [renamed.get(name, name) for name in wanted]


def _maximum(graph: Graph, source: str, target: str) -> NodeProto:
    """ReduceMax over the classes; its axes became an input in opset 18."""
    if graph.opset < 18:
        return helper.make_node("ReduceMax", [source], [target], axes=[1], keepdims=0)
    axes = graph.add_constant("fedlas_class_axis", np.array([1], np.int64))
    return helper.make_node("ReduceMax", [source, axes], [target], keepdims=0)


def _flat_features(graph: Graph, frontier: Sequence[str]) -> list[NodeProto]:
    flat = [graph.fresh("fedlas_features") for _ in frontier] if len(frontier) > 1 else ["features"]
    nodes = [helper.make_node("Flatten", [name], [out], axis=1) for name, out in zip(frontier, flat, strict=True)]
    if len(frontier) > 1:
        nodes.append(helper.make_node("Concat", flat, ["features"], axis=1))
    return nodes


def session(path_or_bytes: str | Path | bytes) -> ort.InferenceSession:
    """A quiet ONNX Runtime session on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    source = path_or_bytes if isinstance(path_or_bytes, bytes) else str(path_or_bytes)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def predict(path_or_bytes: str | Path | bytes, inputs: Sequence[Array], *, batch_size: int = 256) -> dict[str, Array]:
    """Every output of a file by name, for one array of rows per input, by ONNX Runtime on the CPU in batches."""
    running = session(path_or_bytes)
    names = [value.name for value in running.get_inputs()]
    if len(names) != len(inputs):
        raise ValueError(f"the model has the inputs {names}, {len(inputs)} arrays were given")
    outputs = [value.name for value in running.get_outputs()]
    rows = len(inputs[0])
    starts = range(0, max(rows, 1), batch_size)
    parts = [
        running.run(
            outputs, {name: value[start : start + batch_size] for name, value in zip(names, inputs, strict=True)}
        )
        for start in starts
    ]
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(outputs)}


def _verify(
    classifier: OnnxClassifier, calibrator: Calibrator, content: bytes, inputs: Sequence[Array], tolerance: float
) -> ExportReport:
    typed = [np.asarray(value, dtype=spec.dtype) for value, spec in zip(inputs, classifier.inputs, strict=True)]
    written = predict(content, typed)
    logits = _logits(classifier, typed)
    calibrated = np.asarray(calibrator(logits), np.float64)
    expected = np.exp(calibrated - calibrated.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    error = float(np.abs(written["probabilities"] - expected).max())
    if not error <= tolerance:
        raise ExportError(
            "parity",
            f"the written file differs from the network by {error:.2e} in probability, more than {tolerance:.0e}",
        )
    return ExportReport(error, classifier.opset, len(logits))


@torch.no_grad()
def _logits(classifier: OnnxClassifier, inputs: Sequence[Array], batch_size: int = 256) -> Array:
    """The classifier's logits in inference, on its own device; its mode is left as it was."""
    device = next((parameter.device for parameter in classifier.parameters()), torch.device("cpu"))
    training = classifier.training
    classifier.eval()
    try:
        parts = [
            classifier(*(torch.from_numpy(value[start : start + batch_size]).to(device) for value in inputs))[0]
            for start in range(0, len(inputs[0]), batch_size)
        ]
    finally:
        classifier.train(training)
    return np.asarray(torch.cat(parts).double().cpu().numpy())
