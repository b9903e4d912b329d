"""`load_onnx`: from a file to a trainable classifier, step by step in the order in which it happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.batch import free_batch
from fedlas.importers.onnx.classifier import OnnxClassifier, Template
from fedlas.importers.onnx.evaluate import shapes_of
from fedlas.importers.onnx.examples import (
    InputSpec,
    example_inputs,
    find_lengths,
    fixed_batch,
    input_spec,
    set_batch,
)
from fedlas.importers.onnx.graph import Graph
from fedlas.importers.onnx.graph_classifier import STANDARD_OUTPUTS
from fedlas.importers.onnx.heads import Head, check_head_alone, find_head, standard_logits
from fedlas.importers.onnx.lowering import Lowered, lower
from fedlas.importers.onnx.normalise import check_operators, normalise, unsupported
from fedlas.importers.onnx.pooling import pool_first
from fedlas.importers.onnx.reading import read_model
from fedlas.importers.onnx.roles import data_dependent, find_weights, unshare

_TASKS = ("binary", "multiclass")


def load_onnx(
    path: str | Path, *, output: str | None = None, features: str | None = None, task: str | None = None
) -> OnnxClassifier:
    """An ONNX classifier as a trainable network; no code of the file is run.

    Args:
        path: the file; weights must lie inside it.
        output: which of several outputs holds the class scores.
        features: which tensor of the graph to take as penultimate features; found where not given.
        task: `"binary"` allows a single column of raw logits; `"multiclass"` makes two columns just two classes.

    Raises:
        UnsupportedModel: the file is no classifier that can be opened; `code` and message say what was found.
    """
    if task is not None and task not in _TASKS:
        raise ValueError(f"task must be one of {_TASKS} or None, not {task!r}")
    try:
        return _load(path, output, features, task)
    except (UnsupportedModel, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged graph breaks any step: nodes without inputs, names that are no text, …
        raise UnsupportedModel(
            "invalid_graph",
            f"the graph is not valid ONNX ({type(error).__name__}: {error}); check it with onnx.checker",
        ) from error


def _load(path: str | Path, output: str | None, features: str | None, task: str | None) -> OnnxClassifier:
    graph = normalise(read_model(path))
    for name in set(graph.input_names) & set(STANDARD_OUTPUTS):
        graph.rename_input(name, graph.fresh(f"{name}_input"))
    specs = [input_spec(info) for info in graph.inputs]
    if not specs:
        raise UnsupportedModel("no_classifier_output", "the graph has no inputs, so there is nothing to classify")
    batch = fixed_batch(graph.inputs)
    _refuse_states(graph)
    _keep_outputs(graph, output)
    lengths = find_lengths(graph, specs, batch or 2)
    if batch is not None or not _follows_rows(graph, specs, lengths):
        graph = free_batch(graph, specs, batch or 1, lengths)
    set_batch(graph)
    shapes = shapes_of(graph, example_inputs(specs, 2, lengths))
    head = _choose_head(graph, shapes, output, features)
    _check_task(head, task)
    graph.prune([head.output])
    if features is None and pool_first(graph, head, shapes):
        moved = find_head(graph, graph.outputs[0], shapes_of(graph, example_inputs(specs, 2, lengths)))
        head = replace(moved, output=head.output)
    return _build(graph, head, specs, lengths, task)


def _refuse_states(graph: Graph) -> None:
    data = data_dependent(graph)
    for node in graph.nodes:
        states = node.input[5:7] if node.op_type in ("LSTM", "GRU", "RNN") else ()
        if any(name in data for name in states):
            raise UnsupportedModel(
                "no_classifier_output",
                f"the {node.op_type} reads its state from an input of the model, so rows are not independent of each "
                "other; a classifier maps each row to one row of class scores (and recurrent cells cannot be trained)",
            )


def _keep_outputs(graph: Graph, output: str | None) -> None:
    """Drop what no wanted output needs, and outputs that need unknown operators where others do not."""
    if output is not None and output not in graph.outputs:
        raise UnsupportedModel("unknown_output", f"the model has no output {output!r}; its outputs are {graph.outputs}")
    wanted = [output] if output is not None else list(dict.fromkeys(graph.outputs))
    possible = [name for name in wanted if not unsupported(graph.cone([name]))]
    graph.prune(possible or wanted)
    check_operators(graph.nodes)


def _follows_rows(graph: Graph, specs: list[InputSpec], lengths: Mapping[str, int]) -> bool:
    """Whether a graph that says its batch is open really takes different numbers of rows."""
    try:
        two, three = (shapes_of(graph, example_inputs(specs, rows, lengths)) for rows in (2, 3))
    except UnsupportedModel:
        return False
    return all(two[name][:1] == (2,) and three[name][:1] == (3,) for name in graph.outputs if 2 in two[name][:1])


def _choose_head(graph: Graph, shapes: Mapping[str, tuple[int, ...]], output: str | None, features: str | None) -> Head:
    heads: dict[str, Head] = {}
    failures: list[UnsupportedModel] = []
    for name in graph.outputs:
        try:
            head = find_head(graph, name, shapes, features)
        except UnsupportedModel as failure:
            failures.append(failure)
        else:
            heads.setdefault(head.logits, head)
    if not heads:
        raise failures[0]
    probabilities = [head for head in heads.values() if head.kind == "probabilities"]
    if len(probabilities) == 1 and len({head.frontier for head in heads.values()}) == 1:
        return probabilities[0]  # the other outputs are steps on the way to it
    if len(heads) > 1:
        names = [head.output for head in heads.values()]
        raise UnsupportedModel(
            "several_outputs", f"several outputs look like class scores: {names}; pass output= to choose one"
        )
    return next(iter(heads.values()))


def _check_task(head: Head, task: str | None) -> None:
    if head.columns == 1 and head.kind == "logits" and task != "binary":
        raise UnsupportedModel(
            "ambiguous_output",
            f"output {head.output!r} is one column without a sigmoid: a binary classifier's logit or a regression; "
            "pass task='binary' if it is a logit",
        )
    if head.columns > 2 and task == "binary":
        raise UnsupportedModel(
            "ambiguous_output", f"task='binary', but output {head.output!r} has {head.columns} columns"
        )


def _build(
    graph: Graph, head: Head, specs: list[InputSpec], lengths: Mapping[str, int], task: str | None
) -> OnnxClassifier:
    examples = example_inputs(specs, 2, lengths)
    logits = standard_logits(graph, head, shapes_of(graph, examples))
    graph.prune([logits, *head.frontier])
    check_head_alone(graph, logits, head.frontier)
    unshare(graph)
    shapes = shapes_of(graph, examples)
    weights = find_weights(graph, shapes)
    body = lower(graph, graph.input_names, head.frontier, weights)
    tail = lower(graph, head.frontier, [logits], weights)
    classifier = OnnxClassifier(
        body=body.module,
        head=tail.module,
        template=Template(graph, logits, head.frontier, _places(body=body, head_network=tail)),
        feature_shapes=[shapes[name][1:] for name in head.frontier],
        inputs=specs,
        num_classes=shapes[logits][1],
        output_name=head.output,
        output_kind=head.kind,
        task=task or ("binary" if shapes[logits][1] == 2 else "multiclass"),
        lengths=lengths,
    )
    return classifier.eval()


def _places(**parts: Lowered) -> dict[str, str]:
    return {name: f"{part}.{place}" for part, lowered in parts.items() for name, place in lowered.weights.items()}
