"""Parity of a written file: ONNX Runtime computes from it what PyTorch computes from the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlas.calibrators import Calibrator, softmax
from fedlas.errors import ExportError
from fedlas.guarantees.typicality import Familiarity
from fedlas.importers.onnx.graph import Array
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.parity import network_outputs, rounding_error
from fedlas.importers.onnx.runtime_session import predict_file
from fedlas.race.ensemble import Ensemble

Exportable = GraphClassifier | Ensemble

FAMILIARITY = "familiarity"
#: Between two knots a familiarity may change as fast as its rows lie close; float32 distances then differ visibly.
_FAMILIARITY_TOLERANCE = 2e-3
#: Beyond this no difference is put down to rounding; the rows on which rounding is tried out.
_LARGEST_ROUNDING, _ROUNDED_ROWS = 1e-3, 32


def uploaded_network(classifier: Exportable) -> GraphClassifier:
    """The network that knows the upload's inputs and versions."""
    network = classifier.networks[0] if isinstance(classifier, Ensemble) else classifier
    assert isinstance(network, GraphClassifier)
    return network


def prove(
    content: bytes,
    classifier: Exportable,
    calibrator: Calibrator,
    familiarity: Familiarity | None,
    inputs: Sequence[Array],
    *,
    tolerance: float,
) -> tuple[float, int]:
    """The largest difference in any probability, and the number of rows that it was found on.

    Raises:
        ExportError: `parity` or `familiarity_parity` where the file differs by more than the tolerance.
    """
    specs = uploaded_network(classifier).inputs
    rows = [np.asarray(value, dtype=spec.dtype) for value, spec in zip(inputs, specs, strict=True)]
    written = predict_file(content, rows)
    logits, features = network_outputs(classifier, rows)
    expected = softmax(calibrator(logits, features))
    error = float(np.abs(written["probabilities"] - expected).max())
    if not error <= tolerance and not _is_rounding(classifier, content, rows, expected, error, tolerance):
        raise ExportError(
            "parity",
            f"the written file differs from the network by {error:.2e} in probability, more than {tolerance:.0e}",
        )
    if familiarity is not None:
        _prove_familiarity(written[FAMILIARITY], familiarity(features))
    return error, len(logits)


def _is_rounding(
    classifier: Exportable, content: bytes, inputs: Sequence[Array], expected: Array, error: float, tolerance: float
) -> bool:
    """Whether an error is what float32 makes of this network: as the graph is written, it is within the tolerance.

    ONNX Runtime's optimiser folds and fuses, which rounds otherwise (2e-5 for a Keras MobileNetV3, on its own upload
    too). A network that amplifies rounding may differ by so much more as a rounding of all its weights changes it.
    """
    if error > _LARGEST_ROUNDING:
        return False
    plain = predict_file(content, inputs, optimised=False)["probabilities"]
    difference = float(np.abs(plain - expected).max())
    if difference <= tolerance:
        return True
    return difference <= rounding_error(classifier, [value[:_ROUNDED_ROWS] for value in inputs])


def _prove_familiarity(written: Array, expected: Array) -> None:
    error = float(np.abs(written - expected).max())
    if not error <= _FAMILIARITY_TOLERANCE:
        raise ExportError("familiarity_parity", f"the written file's familiarity is wrong by {error:.2e}")
