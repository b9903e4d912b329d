"""Proof that an imported classifier computes what the file computes, by running the file itself under ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.classical import plain_outputs
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.normalise import to_inference

_ROWS = 4
#: Why a session refuses a file is the sender's to know, but not in pages.
_LONGEST_REASON = 300


def check_parity(path: str | Path, classifier: GraphClassifier, *, tolerance: float = 1e-4) -> float:
    """Return the largest difference in any probability between the file and the classifier, on made-up rows.

    Raises:
        UnsupportedModel: `not_runnable` where ONNX Runtime cannot run the file, `import_mismatch` where the
            difference is over `tolerance`.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        source = _in_inference(path, classifier.output_name)
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        rows = classifier.example_rows(_fixed_rows(session) or _ROWS)
        given = {value.name: row for value, row in zip(session.get_inputs(), rows, strict=True)}
        found = np.asarray(session.run([classifier.output_name], given)[0], np.float64)
    except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
        reason = str(error)[:_LONGEST_REASON]
        raise UnsupportedModel("not_runnable", f"ONNX Runtime cannot run the model: {reason}") from error
    with torch.no_grad():
        logits, _ = classifier(*(torch.from_numpy(row) for row in rows))
    expected = torch.softmax(logits.double(), dim=1).numpy()
    difference = float(np.abs(_probabilities(found, classifier) - expected).max())
    if not difference <= tolerance:
        raise UnsupportedModel(
            "import_mismatch",
            f"the imported network differs from the file by {difference:.2e} in probability; "
            "please report this model, nothing is wrong with it as far as we know",
        )
    return difference


def _in_inference(path: str | Path, output: str) -> str | bytes:
    """The file; where it was exported in training mode, its bytes with normalisation and dropout set to inference.

    Maps of scores (ZipMap) and columns of them become one tensor, as the importer has them; scores that only lead to
    an output (to a label) become one.
    """
    uploaded = onnx.ModelProto.FromString(Path(path).read_bytes())
    model = plain_outputs(uploaded)
    inner = output not in {value.name for value in model.graph.output}
    if model is uploaded and not inner and not _trains(model):
        return str(path)
    for node in model.graph.node:
        to_inference(node)
    if inner:
        model.graph.output.append(onnx.ValueInfoProto(name=output))
    return bytes(model.SerializeToString())


def _trains(model: onnx.ModelProto) -> bool:
    return any(
        (node.op_type == "BatchNormalization" and len(node.output) > 1) or node.op_type == "Dropout"
        for node in model.graph.node
    )


def _fixed_rows(session: ort.InferenceSession) -> int | None:
    sizes = [value.shape[0] for value in session.get_inputs() if value.shape]
    return next((size for size in sizes if isinstance(size, int)), None)


def _probabilities(found: NDArray[Any], classifier: GraphClassifier) -> NDArray[Any]:
    """The file's output as probabilities (N, K)."""
    scores = found.reshape(len(found), -1)
    if scores.shape[1] == 1:  # one column: of the positive class
        positive = scores if classifier.output_kind == "probabilities" else 1 / (1 + np.exp(-scores))
        return np.concatenate([1 - positive, positive], axis=1)
    if classifier.output_kind == "probabilities":
        return scores if (scores >= 0).all() else np.exp(scores)  # the latter of a LogSoftmax
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
