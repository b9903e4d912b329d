"""The served graph: the upload with tuned weights, calibrator and standard outputs, as one ONNX file.

Standard outputs: `logits` (N, K) before any calibrator, `probabilities` (N, K) after it, `confidence` (N,) their
maximum, `features` (N, D); where it was fitted also `typicality` (N,). `save` leaves the last two out unless they are
asked for. Of an ensemble `logits` and `features` are the first member's. All are float32, the number of rows is free,
inputs, IR version and opset are the upload's. What the guarantee rows allow to promise is in the file's metadata.
With a deployment the logits are shifted to its class priors, the constant `class_priors` (K,) (IR version 4 at least),
of which `priors_input` makes an input; the metadata has the priors and the thresholds of decisions.

Several graphs of the same inputs become one by common subexpression elimination: nodes are compared by what they
compute: operator, attributes, and inputs that are already known to be equal. Where only the heads of copies of one
network differ, the body is therefore kept once.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fedlas.calibrators import Calibrator
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.calibrators.stack import Stack, total
from fedlas.contract.profiles import ServingCost
from fedlas.contract.report import Parity
from fedlas.deployment import CLASS_PRIORS, ClassPriors, Deployment, shifted_logits
from fedlas.errors import ExportError, FedLASError, UnsupportedModel
from fedlas.export.parity import MAX_WEIGHT_BYTES, TYPICALITY, Exportable, prove, uploaded_network
from fedlas.export.scores_graph import append_priors, append_typicality
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import Typicality
from fedlas.importers.onnx.cost.serving_cost import serving_cost
from fedlas.importers.onnx.graph import Array, Graph, rename_tensors
from fedlas.importers.onnx.train.classifier import STANDARD_OUTPUTS, GraphClassifier
from fedlas.race.averaging import Ensemble

Key = tuple[object, ...]
#: Operators that draw at random are never the same computation twice.
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Dropout"}
)


def merge(graphs: Sequence[Graph], wanted: Sequence[Sequence[str]]) -> tuple[Graph, list[list[str]]]:
    """One graph for several copies of an upload, and the names under which it computes what was `wanted` of each.

    Raises:
        ValueError: the inputs differ.
    """
    if any(graph.input_names != graphs[0].input_names for graph in graphs):
        raise ValueError(f"graphs must have the same inputs, got {[graph.input_names for graph in graphs]}")
    merged = graphs[0].copy()
    merged.nodes, merged.constants, merged.outputs = [], {}, []
    added = map(_Merger(merged).add, graphs)
    return merged, [[mapped[name] for name in outputs] for mapped, outputs in zip(added, wanted, strict=True)]


class _Merger:
    """Adds graphs one after the other, each tensor under one name."""

    def __init__(self, merged: Graph) -> None:
        self.merged = merged
        self.known: dict[Key, list[str]] = {}
        self.taken: set[str] = set(merged.input_names)

    def add(self, graph: Graph) -> dict[str, str]:
        """Add what is new in `graph`; returns its tensors' names in the merged graph."""
        mapped = {"": "", **{name: name for name in graph.input_names}}
        for name, value in graph.constants.items():
            mapped[name] = self._constant(name, value)
        for node in graph.nodes:
            inputs = [mapped[name] for name in node.input]
            mapped.update(zip(node.output, self._node(node, inputs), strict=True))
        return mapped

    def _constant(self, name: str, value: Array) -> str:
        key = ("constant", str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest())
        if key not in self.known:
            self.known[key] = [self._free(name)]
            self.merged.constants[self.known[key][0]] = value
        return self.known[key][0]

    def _node(self, node: NodeProto, inputs: list[str]) -> list[str]:
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        used = tuple(bool(name) for name in node.output)
        key: Key = (node.domain, node.op_type, *attributes, "of", *inputs, used)
        if node.op_type in _RANDOM:
            key = (*key, len(self.known))
        if key not in self.known:
            added = copy.deepcopy(node)
            added.name = ""
            added.input[:] = inputs
            added.output[:] = [self._free(name) if name else "" for name in node.output]
            self.merged.nodes.append(added)
            self.known[key] = list(added.output)
        return self.known[key]

    def _free(self, name: str) -> str:
        """`name` itself for the first graph, a numbered one where it is taken."""
        free, number = name, 1
        while free in self.taken:
            number += 1
            free = f"{name}__{number}"
        self.taken.add(free)
        return free


_RESERVED = (*STANDARD_OUTPUTS, TYPICALITY, CLASS_PRIORS)
#: Outputs of a row that take as long as a small calibrator (10 of 34 µs), so that a file has them if asked.
OPTIONAL_OUTPUTS = ("features", TYPICALITY)


@dataclass(frozen=True)
class ExportReport:
    """The proof of a written file (None where it was not asked for), its operator set and the cost of a row.

    Attributes:
        priors_input: with these bytes behind it the file has the input `class_priors`; empty without a deployment.
    """

    parity: Parity | None
    opset: int
    cost: ServingCost
    priors_input: bytes = b""


@dataclass(frozen=True)
class WrittenGraph:
    """The bytes of an ONNX file, what is known about it, its classes, and the typicality that it computes."""

    content: bytes
    report: ExportReport
    class_names: tuple[str, ...]
    typicality: Typicality | None = None

    def save(
        self,
        path: str | Path,
        *,
        outputs: Collection[str] | None = None,
        guarantees: Guarantees | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ExportReport:
        """Write the file.

        Args:
            outputs: names of `OPTIONAL_OUTPUTS` that the file computes; None: all that there are.
            guarantees: fitted on this calibrator's probabilities; they become the metadata property `guarantees`
                (JSON).
            metadata: more properties for the file's metadata.

        Raises:
            ValueError: the guarantees are for other classes.
        """
        if guarantees is not None and tuple(guarantees.class_names) != self.class_names:
            names = list(self.class_names)
            raise ValueError(f"guarantees are for the classes {list(guarantees.class_names)}, not {names}")
        promised = {} if guarantees is None else {"guarantees": json.dumps(guarantees.as_dict())}
        unasked = set(OPTIONAL_OUTPUTS).difference(OPTIONAL_OUTPUTS if outputs is None else outputs)
        Path(path).write_bytes(_without_outputs(self.content, unasked) if unasked else self.content)
        add_properties(path, {**promised, **(metadata or {})})
        return self.report


def _without_outputs(content: bytes, unasked: Collection[str]) -> bytes:
    """The file without these outputs and what they alone need: ONNX Runtime computes what nobody fetches, too."""
    model = ModelProto.FromString(content)
    graph, kept = Graph.from_model(model), [value for value in model.graph.output if value.name not in unasked]
    graph.prune([value.name for value in kept])
    lean = graph.to_model(kept)
    lean.metadata_props.extend(model.metadata_props)
    return bytes(lean.SerializeToString())


def add_properties(path: str | Path, properties: Mapping[str, str]) -> None:
    """Add properties to the metadata of a written file, whose bytes stay as they are."""
    more = ModelProto()
    helper.set_model_props(more, dict(properties))
    # Bytes of two messages one after the other are one message with the fields of both:
    # https://protobuf.dev/programming-guides/encoding/#last-one-wins
    with Path(path).open("ab") as file:
        file.write(more.SerializeToString())


def write_graph(
    classifier: Exportable,
    *,
    calibrator: Calibrator,
    class_names: Sequence[str],
    typicality: Typicality | None = None,
    deployment: Deployment | None = None,
    verify_with: Sequence[Array] | None = None,
    targets: NDArray[np.int64] | None = None,
    tolerance: float = 1e-5,
) -> WrittenGraph:
    """The classifier with its calibrator as one ONNX file in memory, and its proof; `save` writes it.

    Args:
        typicality: fitted on this classifier's features; becomes the output `typicality`.
        deployment: fitted on this calibrator's probabilities; becomes the constant `class_priors` and the
            metadata properties `class_priors` and `decisions` (JSON).
        verify_with: one array of rows per input; the file must give PyTorch's probabilities on them.
        targets: class indices (N,) of these rows, by which the proof says what a difference means for the scores.
        tolerance: the largest difference in any probability that needs no explanation (`fedlas.export.parity`).

    Raises:
        ExportError: `parity` where the file differs from the network by more than rounding explains, `not_runnable`
            where ONNX Runtime refuses it, `too_large_for_onnx` where it does not fit into a file together with its
            calibrator or the other members of an ensemble.
        UnsupportedModel: `too_large_for_onnx` where one network does not, `size_depends_on_values` where a row could
            ask for any amount of memory, `grows_faster_than_rows` where a batch costs more than its rows.
        ValueError: the number of class names is not K, or typicality belongs to another network.
    """
    if len(class_names) != classifier.num_classes:
        raise ValueError(f"class_names has {len(class_names)} names, the classifier {classifier.num_classes} classes")
    priors = None if deployment is None else deployment.priors
    model, graph, given = build_model(classifier, calibrator, typicality=typicality, priors=priors)
    upload = uploaded_network(classifier)
    cost = serving_cost(graph, upload.inputs, upload.lengths)
    helper.set_model_props(
        model,
        {
            "class_names": json.dumps(list(class_names)),
            "calibrator": json.dumps({"name": calibrator.name, "parameters": shown_parameters(calibrator)}),
            **({} if deployment is None else deployment.properties(class_names)),
        },
    )
    content = model.SerializeToString()
    parity = None
    if verify_with is not None:

        def calibrated(logits: ArrayLike, features: ArrayLike) -> Array:
            unshifted = calibrator(logits, features)
            return unshifted if priors is None else shifted_logits(unshifted, priors.default, priors.shares)

        parity = prove(
            content, graph, classifier, calibrated, typicality, verify_with, targets=targets, tolerance=tolerance
        )
    return WrittenGraph(content, ExportReport(parity, upload.opset, cost, given), tuple(class_names), typicality)


def build_model(
    classifier: Exportable,
    calibrator: Calibrator,
    *,
    typicality: Typicality | None = None,
    priors: ClassPriors | None = None,
) -> tuple[ModelProto, Graph, bytes]:
    """The served graph in memory, in ONNX's form and in ours, and the bytes that make an input of its class priors."""
    if typicality is not None and typicality.feature_dim != classifier.feature_dim:
        raise ValueError(
            f"typicality was fitted on {typicality.feature_dim} features, the classifier has {classifier.feature_dim}"
        )
    graph, logits, features = _served_graph(classifier)
    _require_fitting(graph, ExportError if isinstance(classifier, Ensemble) else UnsupportedModel)
    if typicality is not None and TYPICALITY in graph.input_names:
        raise ValueError(f"an input of the network is called {TYPICALITY!r}, as the output would be")
    flat = ["features", *(graph.fresh("fedlas_member_features") for _ in features[1:])]
    for parts, name in zip(features, flat, strict=True):
        if len(parts) == 1:
            graph.append("Flatten", parts, output=name, axis=1)
        else:
            side_by_side = [graph.append("Flatten", [part], "fedlas_features", axis=1) for part in parts]
            graph.append("Concat", side_by_side, output=name, axis=1)
    if logits[0] in graph.producers():
        graph.rename({logits[0]: "logits"})
    else:
        graph.append("Identity", logits[:1], output="logits")
    named = ["logits" if name == logits[0] else name for name in logits]
    calibrated = _append_calibrators(graph, classifier, calibrator, named, flat)
    given = b""
    if priors is not None:
        calibrated, given = append_priors(graph, priors, calibrated)
    graph.append("Softmax", [calibrated], output="probabilities", axis=1)
    graph.reduce("ReduceMax", "probabilities", [1], output="confidence")
    shapes: dict[str, list[int | str]] = {
        "logits": ["N", classifier.num_classes],
        "probabilities": ["N", classifier.num_classes],
        "confidence": ["N"],
        "features": ["N", classifier.feature_dim],
    }
    if typicality is not None:
        append_typicality(graph, typicality, "features", TYPICALITY)
        shapes[TYPICALITY] = ["N"]
    graph.outputs = list(shapes)
    _require_fitting(graph, ExportError)
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return graph.to_model(outputs), graph, given


def _require_fitting(graph: Graph, kind: type[FedLASError]) -> None:
    needed = sum(value.nbytes for value in graph.constants.values())
    if needed > MAX_WEIGHT_BYTES:
        raise kind("too_large_for_onnx", f"the weights take {needed / 2**30:.2f} GiB, an ONNX file holds 2 GiB")


def _append_calibrators(
    graph: Graph, classifier: Exportable, calibrator: Calibrator, logits: Sequence[str], features: Sequence[str]
) -> str:
    """Name the calibrated logits: of the logits, or of the weighted log-probabilities that an average sums up."""
    stack, result = Stack(), graph.fresh("fedlas_calibrated_logits")
    columns = [stack.given(name, classifier.num_classes) for name in logits]
    if isinstance(classifier, Ensemble):
        members = zip(classifier.calibrators, columns, features, strict=True)
        columns = [total(one.stacked(stack, given, seen) for one, given, seen in members)]
    nodes, initializers = stack.end(calibrator.stacked(stack, columns[0], features[0]), result)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}
    # Every name is made new: the upload may be a file of ours that already has a calibrator inside.
    made = (name for node in nodes for name in node.output if name != result)
    renamed = {name: graph.fresh(name) for name in (*constants, *made)}
    for node in nodes:
        node.name = ""
        rename_tensors(node, renamed)
    graph.nodes.extend(nodes)
    graph.constants.update({renamed[name]: value for name, value in constants.items()})
    return result


def _served_graph(classifier: Exportable) -> tuple[Graph, list[str], list[list[str]]]:
    """The uploaded graph with its tuned weights; per network the tensor of its logits and those of its features."""
    networks = classifier.networks if isinstance(classifier, Ensemble) else [classifier]
    graphs, wanted = [], []
    for network in networks:
        assert isinstance(network, GraphClassifier)
        graph, names = network.graph(), [network.logits_name, *network.feature_names]
        graph.prune(names)
        graphs.append(graph)
        # Tensors of the upload that bear a reserved name give it up.
        renamed = {name: graph.fresh(f"uploaded_{name}") for name in _RESERVED if name not in graph.input_names}
        graph.rename(renamed)
        wanted.append([renamed.get(name, name) for name in names])
    if len(graphs) == 1:
        return graphs[0], [wanted[0][0]], [wanted[0][1:]]
    merged, names_by_network = merge(graphs, wanted)
    return merged, [names[0] for names in names_by_network], [names[1:] for names in names_by_network]
