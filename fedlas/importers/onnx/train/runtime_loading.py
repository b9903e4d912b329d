"""The loading of graphs that cannot be trained, from what ONNX Runtime computes for every tensor on made-up rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto

from fedlas.contract.profiles import Notice, TensorSpec
from fedlas.documents import adjustment
from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.cost.serving_cost import check_sizes
from fedlas.importers.onnx.evaluator import LENGTHS, example_inputs, fixed_batch, input_spec, set_batch
from fedlas.importers.onnx.graph import Graph, attribute, floats, integers
from fedlas.importers.onnx.operators.table import refused
from fedlas.importers.onnx.rewrite.classical import ML_DOMAIN, label_names, plain_outputs
from fedlas.importers.onnx.rewrite.normalise import plain_graph
from fedlas.importers.onnx.runtime import GraphSession
from fedlas.importers.onnx.train import adjustments
from fedlas.importers.onnx.train.classifier import RuntimeOnlyClassifier, ScoreTensors, rename_inputs
from fedlas.importers.onnx.train.heads import Head, check_head_alone, check_task, find_head, standard_logits
from fedlas.importers.onnx.train.output_activation import before_layout, find_output_activation

__all__ = ["RuntimeOnlyClassifier", "load_runtime_only"]
_ROWS = 4
#: Reasons of an import without a trainable network although the file is a good classifier: an operator or an option
#: of one that has no gradient here, no linear layer at the end, values that only ONNX Runtime computes.
_WITHOUT_TRAINING = ("unsupported_operator", "no_classifier_output", "invalid_graph")
#: A probability of exactly zero has no logit: FLOOR / K is added to each of K, so that a row's probabilities stay
#: within FLOOR of the file's; lower floors make temperature scaling of forests and neighbours worse, mixtures not.
FLOOR = 4e-5
#: Probabilities below are zero: so large are the rounding errors of sums of votes in float32.
_NOISE = 1e-6
_CHECKED_ROWS = 4


class Trace:
    """Runs of a graph for its outputs, then for every tensor; raises UnsupportedModel (`not_runnable`, `fixed_batch`).

    Attributes:
        lengths: a size for every open axis of the inputs with which the graph runs.
        shapes: of the tensors that were seen; what is no tensor (maps, sequences) has none.
    """

    def __init__(self, graph: Graph, specs: Sequence[TensorSpec], batch: int | None) -> None:
        program = GraphSession(graph, graph.outputs, typed=False)
        try:
            self.lengths, outputs = _first_run(program, graph, list(specs))
        except UnsupportedModel as failure:
            raise failure if batch is None else _fixed(batch, "it runs with no other number of rows") from failure
        self._rows = [value.numpy() for value in example_inputs(list(specs), _ROWS, self.lengths).values()]
        self._values = dict(zip(graph.input_names, self._rows, strict=True)) | graph.constants
        self._see(graph.outputs, outputs)
        self._prove(program, batch)

    def look_inside(self, graph: Graph) -> None:
        names = [name for node in graph.nodes for name in node.output if name]
        self._see(names, GraphSession(graph, names, typed=False)(self._rows))

    def _see(self, names: Sequence[str], outputs: Sequence[object]) -> None:
        self._values |= {
            name: value for name, value in zip(names, outputs, strict=True) if isinstance(value, np.ndarray)
        }
        self.shapes = {name: tuple(value.shape) for name, value in self._values.items()}

    def _prove(self, program: GraphSession, batch: int | None) -> None:
        places = {name: i for i, name in enumerate(program.outputs) if self.is_float(name)}
        for row in range(_ROWS):
            alone = program([value[row : row + 1] for value in self._rows])
            for name, place in places.items():
                together = self._values[name]
                one = together[row : row + 1] if len(together) == _ROWS else together
                if alone[place].shape != one.shape or not np.allclose(alone[place], one, 1e-3, 1e-5, equal_nan=True):
                    raise _fixed(batch, f"rows would change each other's results in {name!r}")

    def is_float(self, name: str) -> bool:
        return name in self._values and self._values[name].dtype.kind == "f"

    def is_float32(self, name: str) -> bool:
        return name in self._values and self._values[name].dtype == np.float32

    def follows_rows(self, name: str) -> bool:
        return self.shapes.get(name, ())[:1] == (_ROWS,)

    def is_distribution(self, name: str) -> bool:
        if not self.is_float(name) or not self.follows_rows(name):
            return False
        value = self._values[name].reshape(_ROWS, -1).astype(np.float64)
        return value.shape[1] > 1 and bool((value > -1e-6).all() and np.abs(value.sum(1) - 1).max() < 1e-3)

    def contradicts(self, node: NodeProto, scores: str) -> bool:
        """True where no row's highest score is that of the label which a classifier's node gives it."""
        names, labels = label_names(node), self._values.get(node.output[0])
        best = self._values[scores].reshape(_ROWS, -1).argmax(1)
        if labels is None or len(names) <= best.max():
            return False
        return all(str(label) != names[place] for label, place in zip(labels.ravel(), best, strict=True))


def _fixed(batch: int | None, why: str) -> UnsupportedModel:
    problem = f"the exporter fixed the batch to {batch}" if batch else "the rows of a batch are not independent"
    return UnsupportedModel("fixed_batch", f"{problem} ({why}); export the model with a free number of rows")


def _first_run(program: GraphSession, graph: Graph, specs: list[TensorSpec]) -> tuple[dict[str, int], Sequence[object]]:
    """Lengths of the open axes with which the graph runs, the likeliest first, and what it computes."""
    axes = {size for spec in specs for size in spec.shape[1:] if isinstance(size, str)}
    failure: UnsupportedModel | None = None
    for length in dict.fromkeys((*_widths(graph), *LENGTHS)) if axes else (0,):
        lengths = dict.fromkeys(axes, length)
        rows = [value.numpy() for value in example_inputs(specs, _ROWS, lengths).values()]
        try:
            return lengths, program(rows)
        except UnsupportedModel as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _widths(graph: Graph) -> list[int]:
    """How many columns the nodes of `ai.onnx.ml` say that they read."""
    widths = []
    for node in graph.nodes:
        widths.append(1 + max(integers(node, "nodes_featureids") or [-1]))
        widths += [len(floats(node, name) or ()) for name in ("offset", "imputed_value_floats")]
        vectors, counts = floats(node, "support_vectors") or (), integers(node, "vectors_per_class") or ()
        widths += [len(vectors) // sum(counts)] if vectors and sum(counts) > 0 else []
    return [width for width in widths if 0 < width <= 1 << 16]


def load_runtime_only(
    model: ModelProto, *, output: str | None, features: str | None, task: str | None, instead_of: UnsupportedModel
) -> RuntimeOnlyClassifier:
    """The model as a classifier that ONNX Runtime computes; raises UnsupportedModel, mostly `instead_of` itself.

    Args:
        output: which of several outputs holds the class scores.
        features: which tensor to take as features; the last linear layer's input or, where there is none, the logits.
        task: as in `load_onnx`.
        instead_of: why it could not be imported as a trainable network.
    """
    if instead_of.code not in _WITHOUT_TRAINING:
        raise instead_of
    plain = plain_outputs(model)
    graph = plain_graph(plain)
    done = [*adjustments.of_operators(model, plain), *adjustments.of_renamed_inputs(rename_inputs(graph))]
    wanted = [name for name in graph.outputs if output in (None, name) and not refused(graph.cone([name]))]
    if not wanted or not graph.inputs:
        raise instead_of
    graph.prune(wanted)
    specs = [input_spec(info) for info in graph.inputs]
    batch = fixed_batch(graph.inputs)
    trace = _trace(graph, specs, batch, instead_of)
    head = _choose(graph, trace, features, instead_of)
    check_task(head, task)
    scores = _scores(graph, head, trace)
    graph.prune([scores.logits, scores.features])
    done += [] if batch is None else [adjustments.of_batch(batch)]
    done += adjustments.of_head([value.name for value in model.graph.output], head)
    done += [_floored(scores.num_classes)] if head.mixture else []
    check_sizes(graph, specs, trace.lengths)
    classifier = RuntimeOnlyClassifier(
        *(graph, scores),
        inputs=specs,
        lengths=trace.lengths,
        task=task or ("binary" if scores.num_classes == 2 else "multiclass"),
        reason=instead_of.message,
    )
    classifier.adjustments = tuple(done)
    logits, tapped = classifier(*(torch.from_numpy(rows) for rows in classifier.example_rows(_CHECKED_ROWS)))
    if not (torch.isfinite(logits).all() and torch.isfinite(tapped).all()):
        raise UnsupportedModel(
            "no_classifier_output", f"output {classifier.output_name!r} is not finite for ordinary rows of numbers"
        )
    return classifier.eval()


def _trace(graph: Graph, specs: list[TensorSpec], batch: int | None, instead_of: UnsupportedModel) -> Trace:
    set_batch(graph)
    if instead_of.code != "no_classifier_output":
        trace = Trace(graph, specs, batch)
    else:  # an embedding or a regression, as likely as not: what lies inside it is not computed
        try:
            trace = Trace(graph, specs, batch)
        except UnsupportedModel:
            raise instead_of from None
        if not any(map(trace.is_distribution, graph.outputs)):
            raise instead_of
    trace.look_inside(graph)
    return trace


def _choose(graph: Graph, trace: Trace, features: str | None, instead_of: UnsupportedModel) -> Head:
    heads = [head for name in graph.outputs if (head := _head(graph, trace, name, features)) is not None]
    if not heads:
        raise instead_of
    probabilities = [head for head in heads if head.kind == "probabilities"]
    chosen = probabilities if len(probabilities) == 1 else heads
    if len(chosen) > 1:
        names = [head.output for head in chosen]
        raise UnsupportedModel(
            "several_outputs", f"several outputs look like class scores: {names}; pass output= to choose one"
        )
    return chosen[0]


def _head(graph: Graph, trace: Trace, output: str, features: str | None) -> Head | None:
    head: Head | None
    try:
        head = find_head(graph, output, trace.shapes)
        check_head_alone(graph, head.logits, head.frontier)
    except UnsupportedModel as failure:
        if failure.code == "multilabel_unsupported":
            raise
        head = _scored_otherwise(graph, trace, output)
    if head is None:
        return None
    if features is not None:
        if not trace.is_float32(features) or not trace.follows_rows(features) or features in graph.constants:
            raise UnsupportedModel(
                "unknown_features", f"the graph has no float32 tensor {features!r} with a row of features"
            )
        check_head_alone(graph, head.logits, [features])
        return replace(head, frontier=(features,))
    one_vector = len(head.frontier) == 1 and trace.is_float32(head.frontier[0])
    return head if one_vector else replace(head, frontier=())


def _scored_otherwise(graph: Graph, trace: Trace, output: str) -> Head | None:
    """The end of a graph whose scores come from no linear layer: probabilities, or a classifier node's scores."""
    activation = find_output_activation(graph, output, trace.shapes)
    scores = before_layout(graph, activation.scores, trace.shapes)
    shape = trace.shapes.get(scores, ())
    columns = int(np.prod(shape[1:]))
    if not trace.follows_rows(scores) or columns != max(shape[1:], default=1) or not trace.is_float(scores):
        return None
    if columns == 1 and activation.function == "Softmax":
        return None  # always 1
    if activation.function is not None:
        return Head(output, scores, activation.kind, columns, (), activation.positive, activation=activation.function)
    node = graph.producers().get(scores)  # of trees or support vectors: it applies a sigmoid to its one score
    logistic = node is not None and node.domain == ML_DOMAIN and attribute(node, "post_transform", b"") == b"LOGISTIC"
    if trace.is_distribution(scores) or (columns == 1 and logistic):
        return Head(output, scores, "probabilities", columns, (), mixture=True)
    classifiers = [n for n in graph.cone([scores]) if n.domain == ML_DOMAIN and n.op_type.endswith("Classifier")]
    if not classifiers or columns == 1:
        return None
    if columns == 2 and all(trace.contradicts(node, scores) for node in classifiers):
        raise UnsupportedModel(
            "ambiguous_output",
            f"the two scores of output {output!r} contradict the labels that the file itself computes, as those of a "
            "binary support vector machine do after conversion; convert it with probabilities (CalibratedClassifierCV)",
        )
    return Head(output, scores, "logits", columns, ())


def _scores(graph: Graph, head: Head, trace: Trace) -> ScoreTensors:
    """Append what makes float32 logits (N, K) of the scores; where no features are known, they are the features."""
    name, classes = head.logits, max(head.columns, 2)
    if not trace.is_float32(name):
        name = graph.append("Cast", [name], "fedlas_logits", to=TensorProto.FLOAT)
    if len(trace.shapes[head.logits]) != 2:
        name = graph.append("Flatten", [name], "fedlas_logits", axis=1)
    if head.mixture:
        logits = _logarithm(graph, name, head.columns)
    else:
        logits = standard_logits(graph, replace(head, logits=name), {**trace.shapes, name: (1, head.columns)})
    features = head.frontier[0] if head.frontier else logits
    shape = trace.shapes[features][1:] if head.frontier else (classes,)
    layer = (*head.frontier, head.logits)[0]
    return ScoreTensors(logits, features, shape, classes, head.output, head.kind, layer)


def _logarithm(graph: Graph, probs: str, columns: int) -> str:
    """The logarithms of probabilities (N, K), or of [1 - p, p] for one column p."""
    if columns == 1:
        one = graph.add_constant("fedlas_one", np.array([1], np.float32))
        probs = graph.append(
            "Concat", [graph.append("Sub", [one, probs], "fedlas_logits"), probs], "fedlas_logits", axis=1
        )
    classes = max(columns, 2)
    # ONNX Runtime gives two classes' forests 1 - Σ votes, which is zero but for an error that depends on the batch.
    noise = graph.add_constant("fedlas_noise", np.array([min(_NOISE, FLOOR / classes)], np.float32))
    clean = graph.append("Relu", [graph.append("Sub", [probs, noise], "fedlas_logits")], "fedlas_logits")
    floor = graph.add_constant("fedlas_floor", np.array([FLOOR / classes], np.float32))
    return graph.append("Log", [graph.append("Add", [clean, floor], "fedlas_logits")], "fedlas_logits")


def _floored(num_classes: int) -> Notice:
    floor = FLOOR / num_classes
    message = f"A probability of zero has no logarithm: {floor:.1g} was added to the probability of each class."
    return adjustment("probabilities_floored", message, floor=floor)
