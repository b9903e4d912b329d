"""Parity: two forms of one classifier compute the same probabilities, but for what float32 rounds."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession

from fedlas.calibrators import softmax
from fedlas.classifier import Classifier
from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.ai_onnx_ml.lowering import plain_outputs
from fedlas.importers.onnx.graph import Array
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.normalise import to_inference
from fedlas.importers.onnx.parsing import read_whole
from fedlas.importers.onnx.runtime_session import not_runnable, open_session

_ROWS = 4
#: Two right computations in float32 may differ by so many times what one rounding of every weight changes, …
_ROUNDINGS = 10
#: … but by no more than this: a network understood wrongly differs by more.
_TOLERANCE_OF_ROUNDING = 1e-2
_BATCH_SIZE = 256


def check_parity(path: str | Path, classifier: GraphClassifier, *, tolerance: float = 1e-4) -> float:
    """Return the largest difference in any probability between the file and the classifier, on made-up rows.

    Raises:
        UnsupportedModel: `not_runnable` where ONNX Runtime cannot run the file, `import_mismatch` where the
            difference is over `tolerance`.
    """
    try:
        source = _in_inference(path, classifier.output_name)
        session = open_session(source)
        rows = classifier.example_rows(_fixed_rows(session) or _ROWS)
        found = _run(session, classifier, rows)
    except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
        raise not_runnable(error) from error
    expected = softmax(network_outputs(classifier, rows)[0])
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:  # what ONNX Runtime folds may round otherwise than the graph as it is written
        found = _run(open_session(source, optimised=False), classifier, rows)
        difference = float(np.abs(found - expected).max())
    if _TOLERANCE_OF_ROUNDING > difference > tolerance:
        tolerance = max(tolerance, rounding_error(classifier, rows))
    if not difference <= tolerance:
        raise UnsupportedModel(
            "import_mismatch",
            f"the imported network differs from the file by {difference:.2e} in probability; "
            "please report this model, nothing is wrong with it as far as we know",
        )
    return difference


def _run(session: InferenceSession, classifier: GraphClassifier, rows: Sequence[Array]) -> Array:
    given = {value.name: row for value, row in zip(session.get_inputs(), rows, strict=True)}
    return _probabilities(np.asarray(session.run([classifier.output_name], given)[0], np.float64), classifier)


@torch.no_grad()
def network_outputs(classifier: Classifier, inputs: Sequence[Array]) -> tuple[Array, Array]:
    """The classifier's logits and features in inference, on its own device; its mode is left as it was."""
    device = next((parameter.device for parameter in classifier.parameters()), torch.device("cpu"))
    training = classifier.training
    classifier.eval()
    try:
        parts = [
            classifier(*(torch.from_numpy(value[start : start + _BATCH_SIZE]).to(device) for value in inputs))
            for start in range(0, len(inputs[0]), _BATCH_SIZE)
        ]
    finally:
        classifier.train(training)
    logits, features = (torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True))
    return logits, features


@torch.no_grad()
def rounding_error(classifier: Classifier, rows: Sequence[Array]) -> float:
    """The largest difference in any probability between two right computations in float32.

    It is a multiple of what changes where every weight is rounded once more, up or down at random: made-up rows may lie
    where a network amplifies rounding (a variance taken as E[x²] − E[x]² of rows that are nearly constant).
    """
    before = softmax(network_outputs(classifier, rows)[0])
    generator, kept = torch.Generator().manual_seed(0), [p.detach().clone() for p in classifier.parameters()]
    try:
        for parameter in classifier.parameters():
            sign = 2 * torch.randint(0, 2, parameter.shape, generator=generator) - 1
            parameter.mul_(1 + sign.to(parameter.device) * torch.finfo(parameter.dtype).eps)
        moved = np.abs(softmax(network_outputs(classifier, rows)[0]) - before).max()
        return _ROUNDINGS * float(moved)
    finally:
        for parameter, value in zip(classifier.parameters(), kept, strict=True):
            parameter.copy_(value)


def _in_inference(path: str | Path, output: str) -> str | bytes:
    """The file; where it was exported in training mode, its bytes with normalisation and dropout set to inference.

    Maps of scores (ZipMap) and columns of them become one tensor, as the importer has them; scores that only lead to
    an output (to a label) become one.
    """
    uploaded = read_whole(path)
    model = plain_outputs(uploaded)
    inner = output not in {value.name for value in model.graph.output}
    trains = any(
        (node.op_type == "BatchNormalization" and len(node.output) > 1) or node.op_type == "Dropout"
        for node in model.graph.node
    )
    if model is uploaded and not (inner or trains or zipfile.is_zipfile(path)):
        return str(path)
    for node in model.graph.node:
        to_inference(node)
    if inner:
        model.graph.output.append(onnx.ValueInfoProto(name=output))
    return bytes(model.SerializeToString())


def _fixed_rows(session: InferenceSession) -> int | None:
    sizes = [value.shape[0] for value in session.get_inputs() if value.shape]
    return next((size for size in sizes if isinstance(size, int)), None)


def _probabilities(found: Array, classifier: GraphClassifier) -> Array:
    """The file's output as probabilities (N, K)."""
    scores = found.reshape(len(found), -1)
    if scores.shape[1] == 1:  # one column: of the positive class
        positive = scores if classifier.output_kind == "probabilities" else 1 / (1 + np.exp(-scores))
        return np.concatenate([1 - positive, positive], axis=1)
    if classifier.output_kind == "probabilities":
        return scores if (scores >= 0).all() else np.exp(scores)  # the latter of a LogSoftmax
    return softmax(scores)
