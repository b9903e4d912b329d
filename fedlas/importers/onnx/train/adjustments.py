"""Adjustments: what loading does to a file without being asked, as notices for its owner.

The file computes the same afterwards, in a form that can be trained, calibrated and served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from fedlas.contract.profiles import Notice
from fedlas.documents import adjustment
from fedlas.importers.onnx.graph import attribute, tensor
from fedlas.importers.onnx.parse.checks import every_node
from fedlas.importers.onnx.rewrite.classical import ML_DOMAIN
from fedlas.importers.onnx.train.heads import Head

_CONVERTED = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_SHOWN = 20
#: Holds until a dataset names the classes.
CLASSES_NUMBERED = "classes_numbered"


def of_training_mode(model: ModelProto) -> list[Notice]:
    nodes = list(every_node(model))
    constants = {constant.name: constant for constant in model.graph.initializer}
    constants |= {node.output[0]: value for node in nodes if (value := tensor(node, "value")) is not None}

    def trains(node: NodeProto) -> bool:
        if node.op_type == "BatchNormalization":
            return bool(attribute(node, "training_mode", 0)) or len(node.output) > 1
        flag = constants.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
        return flag is not None and bool(numpy_helper.to_array(flag).any())

    if not (counts := Counter(str(node.op_type) for node in nodes if trains(node))):
        return []
    message = (
        f"The file was exported in training mode ({', '.join(sorted(counts))}); it computes as in inference here, with "
        "the statistics that were learned and nothing dropped. Export after model.eval() to have the same elsewhere."
    )
    return [adjustment("training_mode_left", message, nodes=dict(counts))]


def of_precision(model: ModelProto) -> list[Notice]:
    weights = [weight for weight in model.graph.initializer if weight.data_type in _CONVERTED and weight.dims]
    counts = Counter(helper.tensor_dtype_to_np_dtype(weight.data_type).name for weight in weights)
    if not counts:
        return []
    message = f"The weights are {' and '.join(sorted(counts))}; they are computed in float32."
    return [adjustment("float32", message, tensors=dict(counts))]


def of_operators(before: ModelProto, after: ModelProto) -> list[Notice]:
    had, has = _classical(before), _classical(after)
    notices = []
    if had.pop("ZipMap", 0):
        message = "The scores came as a map for each row (ZipMap); they are read as one tensor."
        notices.append(adjustment("map_removed", message))
    if lowered := sorted(name for name in had if had[name] > has[name]):
        message = (
            f"Operators of scikit-learn ({', '.join(lowered)}) were written as standard ones, which can be trained."
        )
        notices.append(adjustment("classical_lowered", message, operators=lowered))
    return notices


def _classical(model: ModelProto) -> Counter[str]:
    return Counter(str(node.op_type) for node in model.graph.node if node.domain == ML_DOMAIN)


def of_renamed_inputs(renamed: Mapping[str, str]) -> list[Notice]:
    said = "The input {!r} is called {!r} here, since served files have an output of that name."
    return [
        adjustment("input_renamed", said.format(name, other), input=name, renamed=other)
        for name, other in renamed.items()
    ]


def of_batch(rows: int) -> Notice:
    return adjustment(
        "batch_freed", f"The batch dimension was fixed to {rows}; the file takes any number of rows now.", rows=rows
    )


def of_head(outputs: Sequence[str], head: Head) -> list[Notice]:
    """Notices of what follows the logits, and of outputs without class scores."""
    notices = []
    others = [name for name in outputs if name not in (head.output, head.labels)]
    if head.labels is not None:
        message = (
            f"The output {head.labels!r} holds labels alone (ArgMax); {head.output!r}, before it, has their scores."
        )
        notices.append(adjustment("argmax_undone", message, output=head.labels, scores=head.output))
    if others:
        message = (
            f"Of {len(outputs)} outputs {head.output!r} classifies; the others ({', '.join(others[:5])}) are left out."
        )
        notices.append(adjustment("outputs_left_out", message, output=head.output, left_out=others[:_SHOWN]))
    if head.mixture:
        message = f"The output {head.output!r} has probabilities that are no softmax; their logarithms are the logits."
        notices.append(adjustment("logarithm_taken", message, output=head.output))
    elif head.activation is not None:
        kind = f"{'' if head.kind == 'probabilities' else 'log-'}{head.activation.lower()}"
        message = f"The output {head.output!r} is a {kind}; it was cut off, and what it reads are the logits."
        notices.append(
            adjustment("activation_cut_off", message, output=head.output, activation=kind, logits=head.logits)
        )
    if head.columns == 1:
        message = f"A row has one score, that of class {head.positive} of two; the other class was added."
        notices.append(adjustment("second_class_added", message, output=head.output, scored_class=head.positive))
    return notices


def of_pooling(*, moved: bool) -> Notice:
    if moved:
        return adjustment(
            "pooling_moved", "The pooling after the last linear layer was moved before it, which computes the same."
        )
    return adjustment(
        "features_pooled",
        "The last linear layer reads a map, and its scores are pooled; the features are the mean of that map.",
    )


def of_untied_weights(names: Collection[str]) -> list[Notice]:
    if not names:
        return []
    message = f"Weights that layers share in the file ({len(names)}) have a copy for each layer, to be trained apart."
    return [adjustment("weights_untied", message, weights=sorted(names)[:_SHOWN])]


def of_class_labels(labels: Iterable[str] | None) -> Notice:
    """Names of the classes that the file itself carries, or numbers where nobody gave any."""
    if labels is None:
        return adjustment(
            CLASSES_NUMBERED,
            "No class names were given, so classes are named by their index. "
            "Give class_names to check the label order.",
        )
    return adjustment(
        "class_names_read", "The names of the classes were read from the file.", class_names=[*labels][:_SHOWN]
    )
