"""Parity of a written file: ONNX Runtime computes from it what was judged, the network as PyTorch computes it.

Two right computations in float32 differ by what rounding makes of a network: 1e-7 in a probability as a rule, 6e-4
where a variance is taken as E[x²] − E[x]² of values that are nearly equal (the first LayerNorm of the file classifier
Magika, where a short file is mostly padding). So a difference is judged by what ONNX Runtime itself differs by on the
same graph, optimised, as it is written and in double precision, and by what it means for decisions and scores. A
graph that was written wrongly is wrong in all three forms alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import softmax
from fedlas.errors import ExportError
from fedlas.export.double_precision import open_in_double
from fedlas.guarantees.typicality import Familiarity
from fedlas.importers.onnx.graph import Array, Graph
from fedlas.importers.onnx.graph_classifier import GraphClassifier
from fedlas.importers.onnx.parity import network_outputs
from fedlas.importers.onnx.runtime_session import not_runnable, predict_file
from fedlas.metrics.proper_scores import proper_rows
from fedlas.race.ensemble import Ensemble
from fedlas.report.written_file import Parity, RuntimeRounding

Exportable = GraphClassifier | Ensemble
Floats = NDArray[np.float64]

FAMILIARITY = "familiarity"
#: Between two knots a familiarity may change as fast as its rows lie close; float32 distances then differ visibly.
_FAMILIARITY_TOLERANCE = 2e-3
#: Two right computations may differ by so many times what ONNX Runtime differs by on the rows that differ most.
_ROUNDINGS, _ROUNDED_ROWS = 10, 32


def uploaded_network(classifier: Exportable) -> GraphClassifier:
    """The network that knows the upload's inputs and versions."""
    network = classifier.networks[0] if isinstance(classifier, Ensemble) else classifier
    assert isinstance(network, GraphClassifier)
    return network


def prove(
    content: bytes,
    graph: Graph,
    classifier: Exportable,
    calibrator: Callable[[Array, Array], Array],
    familiarity: Familiarity | None,
    inputs: Sequence[Array],
    *,
    targets: NDArray[np.int64] | None,
    tolerance: float,
) -> Parity:
    """How near a file is to its network on these rows.

    Args:
        graph: what `content` holds.
        targets: class indices (N,) of the rows.

    Raises:
        ExportError: `parity` or `familiarity_parity` where the file differs by more than rounding explains,
            `not_runnable` where ONNX Runtime refuses it.
    """
    specs = uploaded_network(classifier).inputs
    rows = [np.asarray(value, dtype=spec.dtype) for value, spec in zip(inputs, specs, strict=True)]
    written = _run(content, rows)
    # On the CPU: what a GPU computes in TF32 is off by 1e-3, which ONNX Runtime's rounding does not explain.
    logits, features = network_outputs(classifier.to("cpu"), rows)
    probs, expected = written["probabilities"].astype(np.float64), softmax(calibrator(logits, features))
    found = _compared(probs, expected, targets, tolerance)
    if not found.passed:
        worst = np.argsort(-np.abs(probs - expected).max(axis=1))[:_ROUNDED_ROWS]
        rounding = _rounding(content, graph, [value[worst] for value in rows], probs[worst])
        found = replace(found, rounding=rounding, limit=max(tolerance, _ROUNDINGS * rounding.largest))
    if not found.passed:
        raise ExportError(
            "parity", f"the written file differs from the network by {found}, where {found.limit:.1e} is allowed"
        )
    if familiarity is not None:
        _prove_familiarity(written[FAMILIARITY], familiarity(features))
    return found


def _compared(probs: Floats, expected: Floats, targets: NDArray[np.int64] | None, tolerance: float) -> Parity:
    nll, brier = None, None
    if targets is not None:
        _, nll, brier = (proper_rows(probs, targets) - proper_rows(expected, targets)).mean(axis=0).tolist()
    return Parity(
        num_rows=len(probs),
        max_probability_error=float(np.abs(probs - expected).max()),
        limit=tolerance,
        decisions_changed=int((probs.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        nll_change=nll,
        brier_change=brier,
    )


def _rounding(content: bytes, graph: Graph, rows: Sequence[Array], probs: Floats) -> RuntimeRounding:
    """What ONNX Runtime differs by from `probs` (N, K), which it computed from the file with its optimisations."""

    def largest(form: Callable[[], Array]) -> float | None:
        try:
            found = float(np.abs(form() - probs).max())
        except Exception:  # ONNX Runtime raises a class of its own for every kind of refusal
            return None
        return found if np.isfinite(found) else None

    def double() -> Array:
        session = open_in_double(graph, ["probabilities"])
        found: Array = session.run(["probabilities"], dict(zip(graph.input_names, rows, strict=True)))[0]
        return found

    plain = largest(lambda: predict_file(content, rows, optimised=False)["probabilities"])
    return RuntimeRounding(len(probs), plain, largest(double))


def _run(content: bytes, rows: Sequence[Array]) -> dict[str, Array]:
    try:
        return predict_file(content, rows)
    except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
        raise ExportError("not_runnable", not_runnable(error).message) from error


def _prove_familiarity(written: Array, expected: Array) -> None:
    error = float(np.abs(written - expected).max())
    if not error <= _FAMILIARITY_TOLERANCE:
        raise ExportError("familiarity_parity", f"the written file's familiarity is wrong by {error:.2e}")
