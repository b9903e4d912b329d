"""The loading of an ONNX file as a classifier, step by step, and the proof that both compute the same."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from onnxruntime import InferenceSession

from fedlas.calibrators import softmax
from fedlas.classifier import Classifier
from fedlas.contract.profiles import TensorSpec
from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.cost.serving_cost import check_sizes
from fedlas.importers.onnx.evaluator import (
    example_inputs,
    find_lengths,
    fixed_batch,
    input_spec,
    set_batch,
    shapes_of,
)
from fedlas.importers.onnx.graph import Array, Graph, Shapes
from fedlas.importers.onnx.operators.table import TRANSPARENT
from fedlas.importers.onnx.parse.parsing import read_model, read_whole
from fedlas.importers.onnx.rewrite.batch import AmbiguousShape, free_batch, prove_rows
from fedlas.importers.onnx.rewrite.classical import class_labels, plain_outputs, to_standard
from fedlas.importers.onnx.rewrite.normalise import no_gradient, normalise, to_inference, unsupported
from fedlas.importers.onnx.runtime import is_runtime_node, not_runnable, open_session
from fedlas.importers.onnx.train import adjustments
from fedlas.importers.onnx.train.classifier import (
    STANDARD_OUTPUTS,
    GraphClassifier,
    GraphTemplate,
    OnnxClassifier,
    rename_inputs,
)
from fedlas.importers.onnx.train.heads import (
    Head,
    check_head_alone,
    check_task,
    choose_head,
    find_head,
    pool_features,
    pool_first,
    standard_logits,
)
from fedlas.importers.onnx.train.lowering import LoweredModule, lower, reachable_weights
from fedlas.importers.onnx.train.runtime_loading import load_runtime_only
from fedlas.importers.onnx.train.weights import WeightFinder, WeightUntying, modules_of

_TASKS = ("binary", "multiclass")
_ROWS = 4
#: Two right computations in float32 may differ by so many times what one rounding of every weight changes, …
_ROUNDINGS = 10
#: … but by no more than this: a network understood wrongly differs by more.
_TOLERANCE_OF_ROUNDING = 1e-2
_BATCH_SIZE = 256


def load_onnx(
    path: str | Path,
    *,
    output: str | None = None,
    features: str | None = None,
    task: str | None = None,
    allow_beside: bool = True,
) -> GraphClassifier:
    """An ONNX classifier as a network: trainable where its operators are; no code of the file is run.

    Args:
        path: the file: a graph, or a zip of a graph and the file of its weights.
        output: which of several outputs holds the class scores.
        features: which tensor of the graph to take as penultimate features; found where not given.
        task: `"binary"` allows a single column of raw logits; `"multiclass"` makes two columns just two classes.
        allow_beside: read weights from the file beside it that the graph names; not for a file that somebody else sent.

    Raises:
        UnsupportedModel: the file is no classifier that can be opened; `code` and message say what was found.
    """
    if task is not None and task not in _TASKS:
        raise ValueError(f"task must be one of {_TASKS} or None, not {task!r}")
    try:
        return _load(read_model(path, allow_beside=allow_beside), output, features, task)
    except (UnsupportedModel, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged graph breaks any step: nodes without inputs, names that are no text, …
        raise UnsupportedModel(
            "invalid_graph",
            f"the graph is not valid ONNX ({type(error).__name__}: {error}); check it with onnx.checker",
        ) from error


def _load(model: ModelProto, output: str | None, features: str | None, task: str | None) -> GraphClassifier:
    outputs = [value.name for value in model.graph.output]
    classifier: GraphClassifier
    try:
        standard = to_standard(model)
        classifier = _trainable(standard, outputs, output, features, task)
        classifier.adjustments = (*adjustments.of_operators(model, standard), *classifier.adjustments)
    except UnsupportedModel as failure:
        try:
            classifier = load_runtime_only(model, output=output, features=features, task=task, instead_of=failure)
        except UnsupportedModel as other:  # what the owner can mend is said
            raise (other if failure.code == "unsupported_operator" else failure) from None
    # The names of the classes that the file itself gives, for owners who gave none; not every classifier has them.
    classifier.class_labels = class_labels(model, classifier.num_classes)
    classifier.metadata = {item.key: item.value for item in model.metadata_props}
    return classifier


def _trainable(
    model: ModelProto, outputs: list[str], output: str | None, features: str | None, task: str | None
) -> OnnxClassifier:
    done = [*adjustments.of_training_mode(model), *adjustments.of_precision(model)]
    modules = modules_of(model)
    graph = normalise(model)
    done += adjustments.of_renamed_inputs(rename_inputs(graph))
    if not (specs := [input_spec(info) for info in graph.inputs]):
        raise UnsupportedModel("no_classifier_output", "the graph has no inputs, so there is nothing to classify")
    batch = fixed_batch(graph.inputs)
    _refuse_states(graph)
    _keep_outputs(graph, output)
    lengths, shapes = find_lengths(graph, specs, batch or 2)
    if batch is None and not _follows_rows(graph, specs, lengths, shapes):
        batch, shapes = 1, shapes_of(graph, example_inputs(specs, 1, lengths))
    rows = 2 if batch is None else batch + 1
    if batch is not None:
        graph, shapes = free_batch(graph, specs, batch, lengths, shapes)
        done.append(adjustments.of_batch(batch))
    set_batch(graph)
    _check_rows(graph, specs, lengths)
    head = choose_head(graph, shapes, output, features, example_inputs(specs, rows, lengths))
    check_task(head, task)
    done += adjustments.of_head(outputs, head)
    graph.prune([head.output])
    if features is None and pool_first(graph, head, shapes):
        done.append(adjustments.of_pooling(moved=True))
        shapes = shapes_of(graph, example_inputs(specs, rows, lengths))
        head = replace(find_head(graph, graph.outputs[0], shapes), output=head.output)
    pooled = pool_features(graph, head, shapes) if features is None else None
    if pooled is not None:
        done.append(adjustments.of_pooling(moved=False))
        shapes = shapes_of(graph, example_inputs(specs, rows, lengths))
    classifier = _build(graph, head, shapes, specs, lengths, task, modules, pooled)
    classifier.adjustments = (*done, *classifier.adjustments)
    return classifier


def _refuse_states(graph: Graph) -> None:
    producers = graph.producers()
    for node in graph.nodes:
        for name in node.input[5:7] if node.op_type in ("LSTM", "GRU", "RNN") else ():
            while name in producers and producers[name].op_type in TRANSPARENT:
                name = producers[name].input[0]
            if name in graph.input_names:
                raise UnsupportedModel(
                    "no_classifier_output",
                    f"the {node.op_type} reads its state from the input {name!r}, so rows are not independent of each "
                    "other; a classifier maps each row to one row of class scores",
                )


def _keep_outputs(graph: Graph, output: str | None) -> None:
    """Drop what no wanted output needs, and outputs that need unknown operators where others do not."""
    if output is not None and output not in graph.outputs:
        raise UnsupportedModel("unknown_output", f"the model has no output {output!r}; its outputs are {graph.outputs}")
    if output is None and set(graph.outputs) >= set(STANDARD_OUTPUTS):
        output = "probabilities"  # a file of ours that comes back
    wanted = [output] if output is not None else list(dict.fromkeys(graph.outputs))
    graph.prune([name for name in wanted if not unsupported(graph.cone([name]))] or wanted)
    if unknown := unsupported(graph.nodes):
        raise no_gradient(unknown)


def _follows_rows(graph: Graph, specs: list[TensorSpec], lengths: Mapping[str, int], two: Shapes) -> bool:
    """True where a graph that says its batch is open, and has the shapes `two` for two rows, really takes three."""
    try:
        three = shapes_of(graph, example_inputs(specs, 3, lengths))
    except UnsupportedModel:
        return False
    return all(two[name][:1] == (2,) and three[name][:1] == (3,) for name in graph.outputs if 2 in two[name][:1])


def _check_rows(graph: Graph, specs: list[TensorSpec], lengths: Mapping[str, int]) -> None:
    """Refuse rows that change each other's results, where operators are not those of the table."""
    if any(map(is_runtime_node, graph.nodes)):
        try:
            prove_rows(graph, graph, specs, 1, lengths)
        except AmbiguousShape as failure:
            raise UnsupportedModel(
                "fixed_batch", f"the rows of a batch are not independent ({failure}); a row's scores must be its own"
            ) from None


def _build(
    graph: Graph,
    head: Head,
    shapes: Shapes,
    specs: list[TensorSpec],
    lengths: Mapping[str, int],
    task: str | None,
    modules: Mapping[str, str],
    pooled: str | None,
) -> OnnxClassifier:
    logits = standard_logits(graph, head, shapes)
    features = head.frontier if pooled is None else (pooled,)
    graph.prune([logits, *features])
    check_head_alone(graph, logits, head.frontier)
    copies = WeightUntying(graph, modules).untie()
    check_sizes(graph, specs, lengths)
    weights = reachable_weights(graph, [logits], WeightFinder(graph, shapes).find())
    untied = {source for copied, source in copies.items() if copied in weights}
    if not weights and any(map(is_runtime_node, graph.nodes)):
        raise no_gradient(node for node in graph.nodes if is_runtime_node(node))
    if pooled is None:
        body, tail = lower(graph, graph.input_names, features, weights), lower(graph, features, [logits], weights)
        places = _places(body=body, head_network=tail)
    else:  # the logits need more than the features, so there is no head that could be trained alone
        body, tail = lower(graph, graph.input_names, [logits, pooled], weights), None
        places = _places(body=body)
    classifier = OnnxClassifier(
        body=body.module,
        head_network=None if tail is None else tail.module,
        template=GraphTemplate(graph, logits, features, places),
        head=head,
        feature_shapes=[shapes[name][1:] for name in features],
        inputs=specs,
        lengths=lengths,
        task=task,
    )
    classifier.adjustments = tuple(adjustments.of_untied_weights(untied))
    return classifier.eval()


def _places(**parts: LoweredModule) -> dict[str, str]:
    return {name: f"{part}.{place}" for part, lowered in parts.items() for name, place in lowered.weights.items()}


def check_parity(path: str | Path, classifier: GraphClassifier, *, tolerance: float = 1e-4) -> float:
    """Return the largest difference in any probability between the file and the classifier, on made-up rows.

    Raises:
        UnsupportedModel: `not_runnable` where ONNX Runtime cannot run the file, `import_mismatch` where the
            difference is over `tolerance`.
    """
    try:
        source = _in_inference(path, classifier.output_name)
        session = open_session(source)
        sizes = [value.shape[0] for value in session.get_inputs() if value.shape]
        rows = classifier.example_rows(next((size for size in sizes if isinstance(size, int) and size), _ROWS))
        probs = _run(session, classifier, rows)
    except Exception as error:  # ONNX Runtime raises a class of its own for every kind of refusal
        raise not_runnable(error) from error
    expected = softmax(network_outputs(classifier, rows)[0])
    difference = float(np.abs(probs - expected).max())
    if not difference <= tolerance:  # what ONNX Runtime folds may round otherwise than the graph as it is written
        probs = _run(open_session(source, optimised=False), classifier, rows)
        difference = float(np.abs(probs - expected).max())
    precision = _precision(classifier)
    if _TOLERANCE_OF_ROUNDING > difference > tolerance:
        tolerance = max(tolerance, rounding_error(classifier, rows, precision))
    if not difference <= tolerance:
        remedy = (
            "please report this model, nothing is wrong with it as far as we know"
            if precision is torch.float32
            else f"its weights are {precision}, and what is calibrated is computed in float32: export it in float32 "
            "(model.float() before torch.onnx.export)"
        )
        raise UnsupportedModel(
            "import_mismatch",
            f"the imported network differs from the file by {difference:.2e} in probability; {remedy}",
        )
    return difference


def _precision(classifier: GraphClassifier) -> torch.dtype:
    """The coarsest type of the file's weights, in whose roundings ONNX Runtime may differ."""
    weights = str([notice.evidence for notice in classifier.adjustments if notice.code == "float32"])
    coarse = {"bfloat16": torch.bfloat16, "'float16'": torch.float16}
    return next((dtype for name, dtype in coarse.items() if name in weights), torch.float32)


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
def rounding_error(classifier: Classifier, rows: Sequence[Array], precision: torch.dtype = torch.float32) -> float:
    """The largest difference in any probability between two right computations in this precision.

    It is a multiple of what changes where every weight is rounded once more, up or down at random: made-up rows may lie
    where a network amplifies rounding (a variance taken as E[x²] − E[x]² of rows that are nearly constant).
    """
    rounded, generator = copy.deepcopy(classifier), torch.Generator().manual_seed(0)
    for parameter in rounded.parameters():
        sign = 2 * torch.randint(0, 2, parameter.shape, generator=generator) - 1
        parameter.mul_(1 + sign.to(parameter.device) * torch.finfo(precision).eps)
    before, after = (softmax(network_outputs(one, rows)[0]) for one in (classifier, rounded))
    return _ROUNDINGS * float(np.abs(after - before).max())


def _in_inference(path: str | Path, output: str) -> str | bytes:
    """The file; where it was exported in training mode, its bytes with normalisation and dropout set to inference.

    Maps of scores (ZipMap), their columns, and scores that only lead to an output become one tensor.
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


def _probabilities(output: Array, classifier: GraphClassifier) -> Array:
    scores = output.reshape(len(output), -1)
    if scores.shape[1] == 1:  # one column: of the positive class
        positive = scores if classifier.output_kind == "probabilities" else 1 / (1 + np.exp(-scores))
        return np.concatenate([1 - positive, positive], axis=1)
    if classifier.output_kind == "probabilities":
        return scores if (scores >= 0).all() else np.exp(scores)  # the latter of a LogSoftmax
    return softmax(scores)
