"""Parity of a written file: ONNX Runtime computes from it what was judged, the network as PyTorch computes it.

Two right computations in float32 differ by what rounding makes of a network: 1e-7 in a probability as a rule, 6e-4
where a variance is taken as E[x²] − E[x]² of values that are nearly equal (the first LayerNorm of the file classifier
Magika, where a short file is mostly padding). So a difference is judged by what ONNX Runtime itself differs by on the
same graph, optimised, as it is written and in double precision, and by what it means for decisions and scores. A
graph that was written wrongly is wrong in all three forms alike.

In double precision float32 rounds as little as possible: every float32 tensor becomes a float64 one. Operators that
ONNX Runtime has in float32 alone (convolutions, most of what is fused) stay between two casts, which round their inputs
and outputs and nothing else.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper
from onnxruntime import InferenceSession

from fedlas.calibrators import softmax
from fedlas.contract.report import Parity, RuntimeRounding
from fedlas.errors import ExportError, UnsupportedModel
from fedlas.guarantees.typicality import Typicality
from fedlas.importers.onnx.graph import Array, Graph, set_attribute
from fedlas.importers.onnx.loading import network_outputs
from fedlas.importers.onnx.runtime import GraphSession, not_runnable, open_session, predict_file
from fedlas.importers.onnx.train.classifier import GraphClassifier
from fedlas.metrics.evaluate import proper_rows
from fedlas.race.averaging import Ensemble

#: Protocol Buffers, ONNX's container, ends at 2 GiB; some room for the nodes.
MAX_WEIGHT_BYTES = 2**31 - 2**24
#: How ONNX Runtime names an operator that it lacks in double precision: for want of a kernel, or of a type.
_LACKING = re.compile(r"implementation for (?:[\w.]+\.)?(\w+)\(|input parameter \(.*?\) of operator \((\w+)\)")
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def open_in_double(graph: Graph, outputs: Sequence[str]) -> InferenceSession:
    """A session of the graph in double precision with these `outputs`, float64 here and float32 in the graph.

    Raises:
        UnsupportedModel: `not_runnable` where the graph has no such form: it has branches or loops, its weights would
            not fit into a file, or ONNX Runtime refuses it for something else than an operator that it lacks.
    """
    if any(item.type in _SUBGRAPHS for node in graph.nodes for item in node.attribute):
        raise UnsupportedModel("not_runnable", "branches and loops have no form in double precision")
    if 2 * sum(value.nbytes for value in graph.constants.values()) > MAX_WEIGHT_BYTES:
        raise UnsupportedModel("not_runnable", "in double precision the weights do not fit into an ONNX file")
    floats, single = _float32_tensors(graph), set[str]()
    while True:
        made = in_double(graph, floats, single)
        shown = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs]
        try:
            return open_session(made.to_model(shown).SerializeToString(), optimised=False)
        except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
            match = _LACKING.search(str(error))
            lacking = "" if match is None else match[1] or match[2]
            if not lacking or lacking in single:
                raise not_runnable(error) from error
            single.add(lacking)


def in_double(graph: Graph, floats: Collection[str], single: Collection[str]) -> Graph:
    """A copy of the graph in which the tensors `floats`, float32 here, are float64, but for its inputs.

    Args:
        single: the types of operators that stay in float32.
    """
    made = graph.copy()
    made.nodes = []
    made.constants = {name: v.astype(np.float64) if name in floats else v for name, v in graph.constants.items()}
    doubled = {name: _cast(made, name, TensorProto.DOUBLE) for name in graph.input_names if name in floats}
    for node in map(copy.deepcopy, graph.nodes):
        reads_float32 = any(name in floats for name in node.input)
        makes_float32 = any(name in floats for name in node.output)
        node.input[:] = [doubled.get(name, name) for name in node.input]
        if node.op_type == "Cast" and makes_float32:
            set_attribute(node, "to", TensorProto.DOUBLE)
            made.nodes.append(node)
        elif node.op_type in single or (makes_float32 and not reads_float32):
            _append_single(made, node, {*floats, *doubled.values()})
        else:
            made.nodes.append(node)
    return made


def _append_single(graph: Graph, node: NodeProto, doubles: Collection[str]) -> None:
    wanted = list(node.output)
    node.input[:] = [_cast(graph, name, TensorProto.FLOAT) if name in doubles else name for name in node.input]
    node.output[:] = [graph.fresh("fedlas_single") if name in doubles else name for name in wanted]
    graph.nodes.append(node)
    for single, name in zip(node.output, wanted, strict=True):
        if name in doubles:
            graph.append("Cast", [single], output=name, to=TensorProto.DOUBLE)


def _cast(graph: Graph, name: str, kind: int) -> str:
    return graph.append("Cast", [name], "fedlas_cast", to=kind)


def _float32_tensors(graph: Graph) -> set[str]:
    """The names of all float32 tensors: constants, inputs, and what ONNX Runtime says that nodes compute."""
    computed = GraphSession(graph, [name for node in graph.nodes for name in node.output if name], typed=False)
    return {
        *(value.name for value in computed.session.get_outputs() if value.type == "tensor(float)"),
        *(name for name, value in graph.constants.items() if value.dtype == np.float32),
        *(value.name for value in graph.inputs if value.type.tensor_type.elem_type == TensorProto.FLOAT),
    }


Exportable = GraphClassifier | Ensemble
Floats = NDArray[np.float64]

TYPICALITY = "typicality"
#: Between two knots a typicality may change as fast as its rows lie close; float32 distances then differ visibly.
_TYPICALITY_TOLERANCE = 2e-3
#: Two right computations may differ by so many times what ONNX Runtime differs by on the rows that differ most.
_ROUNDINGS = 10
_ROUNDED_ROWS = 32


def uploaded_network(classifier: Exportable) -> GraphClassifier:
    network = classifier.networks[0] if isinstance(classifier, Ensemble) else classifier
    assert isinstance(network, GraphClassifier)
    return network


def prove(
    content: bytes,
    graph: Graph,
    classifier: Exportable,
    calibrator: Callable[[Array, Array], Array],
    typicality: Typicality | None,
    inputs: Sequence[Array],
    *,
    targets: NDArray[np.int64] | None,
    tolerance: float,
) -> Parity:
    """How near a file, whose content is `graph`, is to its network on these rows with class indices (N,).

    Raises:
        ExportError: `parity` or `typicality_parity` where the file differs by more than rounding explains,
            `not_runnable` where ONNX Runtime refuses it.
    """
    specs = uploaded_network(classifier).inputs
    rows = [np.asarray(value, dtype=spec.dtype) for value, spec in zip(inputs, specs, strict=True)]
    written = _run(content, rows)
    # On the CPU: what a GPU computes in TF32 is off by 1e-3, which ONNX Runtime's rounding does not explain.
    logits, features = network_outputs(classifier.to("cpu"), rows)
    probs, expected = written["probabilities"].astype(np.float64), softmax(calibrator(logits, features))
    parity = _compared(probs, expected, targets, tolerance)
    if not parity.passed:
        worst = np.argsort(-np.abs(probs - expected).max(axis=1))[:_ROUNDED_ROWS]
        rounding = _rounding(content, graph, [value[worst] for value in rows], probs[worst])
        parity = parity.changed(rounding=rounding, limit=max(tolerance, _ROUNDINGS * rounding.largest))
    if not parity.passed:
        raise ExportError(
            "parity", f"the written file differs from the network by {parity}, where {parity.limit:.1e} is allowed"
        )
    if typicality is not None:
        error = float(np.abs(written[TYPICALITY] - typicality(features)).max())
        if not error <= _TYPICALITY_TOLERANCE:
            raise ExportError("typicality_parity", f"the written file's typicality is wrong by {error:.2e}")
    return parity


def _compared(probs: Floats, expected: Floats, targets: NDArray[np.int64] | None, tolerance: float) -> Parity:
    error, nll, brier = float(np.abs(probs - expected).max()), None, None
    if not np.isfinite(error):
        raise ExportError("parity", "the written file answers with numbers that are not finite")
    if targets is not None:
        _, nll, brier = (proper_rows(probs, targets) - proper_rows(expected, targets)).mean(axis=0).tolist()
    return Parity(
        num_rows=len(probs),
        max_probability_error=error,
        limit=tolerance,
        decisions_changed=int((probs.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        nll_change=nll,
        brier_change=brier,
    )


def _rounding(content: bytes, graph: Graph, rows: Sequence[Array], probs: Floats) -> RuntimeRounding:
    """Largest differences of an unoptimised and of a float64 run from `probs` (N, K) of the optimised file."""

    def largest(form: Callable[[], Array]) -> float | None:
        try:
            difference = float(np.abs(form() - probs).max())
        except Exception:  # ONNX Runtime raises a class of its own for every kind of refusal
            return None
        return difference if np.isfinite(difference) else None

    def double() -> Array:
        session = open_in_double(graph, ["probabilities"])
        return np.asarray(session.run(["probabilities"], dict(zip(graph.input_names, rows, strict=True)))[0])

    plain = largest(lambda: predict_file(content, rows, optimised=False)["probabilities"])
    return RuntimeRounding(num_rows=len(probs), unoptimised=plain, double_precision=largest(double))


def _run(content: bytes, rows: Sequence[Array]) -> dict[str, Array]:
    try:
        return predict_file(content, rows)
    except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
        raise ExportError("not_runnable", not_runnable(error).message) from error
