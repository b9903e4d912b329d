"""The lowering of scikit-learn's operators (`ai.onnx.ml`) to standard ones, where those exist, and of their outputs.

Linear models, scalers, normalisers, imputers, binarisers, one-hot and label tables have standard equivalents, with
which a pipeline trains as any network does. Trees, support vectors and text have none: such nodes stay as they are.

The operators of `ai.onnx.ml` that standard operators can compute, one function for each.

The arithmetic is that of ONNX Runtime, which departs from the specification for linear models with one row of
coefficients. Constants named `fedlas_…` are never weights, so scalers stay what they are in training; the coefficients
of linear models bear other names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.graph import Array, Attribute, Graph, attribute, integers
from fedlas.importers.onnx.parse.parsing import standard_opset


class NoEquivalent(Exception):
    """The node computes what no standard operators of the model's opset compute."""


class GraphBuilder(Graph):
    """Collects the nodes and constants that replace one node of a model after the other."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        super().__init__([], {}, [], [], standard_opset(model), [], model.ir_version)
        self.given = {tensor.name: tensor for tensor in graph.initializer}
        self.read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        self.float32 = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.sums_to_one: set[str] = set()
        self.sigmoids: dict[str, str] = {}  # σ(z) of each class against the rest → z
        self._taken = {*self.given, *self.read, *(name for node in graph.node for name in node.output)}
        self._taken.update(value.name for value in graph.input)

    def name(self, stem: str) -> str:
        """A name that no tensor has: `stem` itself where that is free."""
        return self.fresh(stem) if stem in (self._taken or ()) else stem

    def constant(self, value: Array) -> str:
        return self.add_constant("fedlas_classical", value)

    def number(self, value: float) -> str:
        return self.constant(np.array([value], np.float32))

    def add(self, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Attribute) -> str:
        return self.append(op_type, inputs, "fedlas_classical", output=output, **attributes)

    def as_float(self, name: str) -> str:
        """`name` as float32: the operators of `ai.onnx.ml` take any numbers and give float32."""
        return name if name in self.float32 else self.add("Cast", [name], to=TensorProto.FLOAT)

    def is_one(self, name: str) -> bool:
        known = self.given.get(name)
        return known is not None and bool(np.all(numpy_helper.to_array(known) == 1))

    def softmax(self, scores: str, output: str) -> None:
        self.add("Softmax", [scores], output, axis=1)
        self.sums_to_one.add(output)

    def unsqueeze(self, name: str) -> str:
        if self.opset < 11:
            raise NoEquivalent
        if self.opset < 13:
            return self.add("Unsqueeze", [name], axes=[-1])
        return self.add("Unsqueeze", [name, self.constant(np.array([-1], np.int64))])


def keep_finite(builder: GraphBuilder, node: NodeProto) -> None:
    """Where `node` ends the formula 1 / (1 + exp(t)), let t be at most 80: overflow has no gradient.

    The formula stays: ONNX Runtime's Sigmoid is not exact where probabilities are small, and their ratios count.
    """
    if node.op_type == "Reciprocal":
        below = node.input[0]
    elif node.op_type == "Div" and builder.is_one(node.input[0]):
        below = node.input[1]
    else:
        return
    producers = {name: other for other in builder.nodes for name in other.output}
    added = producers.get(below)
    terms = [] if added is None or added.op_type != "Add" else [n for n in added.input if not builder.is_one(n)]
    exponential = producers.get(terms[0]) if len(terms) == 1 else None
    if exponential is None or exponential.op_type != "Exp" or builder.opset < 8:
        return
    place = next(i for i, other in enumerate(builder.nodes) if other is exponential)
    exponential.input[0] = builder.add("Min", [exponential.input[0], builder.number(80.0)])
    builder.nodes.insert(place, builder.nodes.pop())


def _linear_classifier(builder: GraphBuilder, node: NodeProto) -> None:
    """Scores by a Gemm; (σ(-z), σ(z)) is softmax(-z/2, z/2), which has no column that follows from the other."""
    transform = attribute(node, "post_transform", b"NONE")
    if transform not in (b"NONE", b"SOFTMAX", b"LOGISTIC") or node.output[0] in builder.read or len(node.output) < 2:
        raise NoEquivalent
    weight, bias = _coefficients(node)
    labels = attribute(node, "classlabels_ints", ()) or attribute(node, "classlabels_strings", ())
    if len(bias) == 1 and len(labels) == 2:
        # One score z becomes in ONNX Runtime (σ(-z), σ(z)) with LOGISTIC, and (1 - z, z) without, whatever else is set.
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
        if transform != b"LOGISTIC":
            bias, transform = bias + np.array([1, 0], np.float32), b"NONE"
    elif len(bias) != len(labels):
        raise NoEquivalent
    if transform == b"LOGISTIC" and len(bias) == 2 and np.array_equal(weight[0], -weight[1]) and bias[0] == -bias[1]:
        weight, bias, transform = weight / 2, bias / 2, b"SOFTMAX"
    output = node.output[1]
    scores = output if transform == b"NONE" else builder.name(f"{output}_scores")
    _gemm(builder, node.input[0], weight, bias, scores)
    if transform == b"SOFTMAX":
        builder.softmax(scores, output)
    elif transform == b"LOGISTIC":
        builder.add("Sigmoid", [scores], output)
        builder.sigmoids[output] = scores
    builder.float32.add(output)


def _coefficients(node: NodeProto) -> tuple[Array, Array]:
    weight = np.array(attribute(node, "coefficients", ()), np.float32)
    bias = np.array(attribute(node, "intercepts", ()), np.float32)
    if not bias.size or not weight.size or weight.size % bias.size:
        raise NoEquivalent
    return weight.reshape(len(bias), -1), bias


def _gemm(builder: GraphBuilder, source: str, weight: Array, bias: Array, output: str) -> None:
    names = [builder.name(f"{output}_weight"), builder.name(f"{output}_bias")]
    builder.constants.update(zip(names, (weight, bias), strict=True))
    builder.add("Gemm", [builder.as_float(source), *names], output, transB=1)
    builder.float32.add(output)


def _linear_regressor(builder: GraphBuilder, node: NodeProto) -> None:
    if attribute(node, "post_transform", b"NONE") != b"NONE":
        raise NoEquivalent
    weight, bias = _coefficients(node)
    if len(bias) != attribute(node, "targets", 1):
        raise NoEquivalent
    _gemm(builder, node.input[0], weight, bias, node.output[0])


def _scaler(builder: GraphBuilder, node: NodeProto) -> None:
    """(x - offset) · scale."""
    offset, scale = (np.array(attribute(node, name, ()), np.float32) for name in ("offset", "scale"))
    if not offset.size or offset.size != scale.size:
        raise NoEquivalent
    moved = builder.add("Sub", [builder.as_float(node.input[0]), builder.constant(offset)])
    builder.float32.add(builder.add("Mul", [moved, builder.constant(scale)], node.output[0]))


def _normalizer(builder: GraphBuilder, node: NodeProto) -> None:
    """x / norm(x), rows of norm 0 as they are; σ(z) against the rest, divided by their sum, is softmax(log σ(z))."""
    source, output, norm = node.input[0], node.output[0], attribute(node, "norm", b"MAX")
    builder.float32.add(output)
    if norm == b"L1" and source in builder.sums_to_one:
        builder.add("Identity", [source], output)
        builder.sums_to_one.add(output)
    elif norm == b"L1" and source in builder.sigmoids:
        softplus = builder.add("Softplus", [builder.add("Neg", [builder.sigmoids[source]])])
        builder.softmax(builder.add("Neg", [softplus]), output)
    elif norm in (b"L1", b"L2", b"MAX"):
        x = builder.as_float(source)
        operator = {b"L1": "ReduceL1", b"L2": "ReduceL2", b"MAX": "ReduceMax"}[norm]
        size = builder.reduce(operator, x, [1], "fedlas_classical", keepdims=1)
        # Comparing floats came with opset 11; a cast to booleans has always separated zero from the rest.
        zero = builder.add("Not", [builder.add("Cast", [size], to=TensorProto.BOOL)])
        safe = builder.add("Add", [size, builder.add("Cast", [zero], to=TensorProto.FLOAT)])
        builder.add("Div", [x, safe], output)
    else:
        raise NoEquivalent


def _imputer(builder: GraphBuilder, node: NodeProto) -> None:
    """One value (usually NaN) is replaced by a number for each column."""
    values = np.array(attribute(node, "imputed_value_floats", ()), np.float32)
    missing = attribute(node, "replaced_value_float", 0.0)
    if not values.size or builder.opset < 11 or node.input[0] not in builder.float32:
        raise NoEquivalent
    x = node.input[0]
    is_missing = builder.add("IsNaN", [x]) if np.isnan(missing) else builder.add("Equal", [x, builder.number(missing)])
    builder.float32.add(builder.add("Where", [is_missing, builder.constant(values), x], node.output[0]))


def _binarizer(builder: GraphBuilder, node: NodeProto) -> None:
    above = builder.add("Greater", [builder.as_float(node.input[0]), builder.number(attribute(node, "threshold", 0.0))])
    builder.float32.add(builder.add("Cast", [above], node.output[0], to=TensorProto.FLOAT))


def _feature_vectorizer(builder: GraphBuilder, node: NodeProto) -> None:
    builder.float32.add(builder.add("Concat", [builder.as_float(name) for name in node.input], node.output[0], axis=1))


def _array_feature_extractor(builder: GraphBuilder, node: NodeProto) -> None:
    """Chosen columns of a table (N, F); a single row of constants becomes (1, n)."""
    table, chosen = node.input
    if chosen not in builder.given or table in builder.given:
        raise NoEquivalent
    columns = numpy_helper.to_array(builder.given[chosen]).ravel().astype(np.int64)
    builder.add("Gather", [table, builder.constant(columns)], node.output[0], axis=1)
    if table in builder.float32:
        builder.float32.add(node.output[0])


def _one_hot(builder: GraphBuilder, node: NodeProto) -> None:
    """A last axis with a one at the category; unknown categories have none."""
    categories = np.array(integers(node, "cats_int64s") or (), np.int64)
    if not categories.size:
        raise NoEquivalent
    whole = builder.unsqueeze(builder.add("Cast", [node.input[0]], to=TensorProto.INT64))
    same = builder.add("Equal", [whole, builder.constant(categories)])
    builder.float32.add(builder.add("Cast", [same], node.output[0], to=TensorProto.FLOAT))


def _label_encoder(builder: GraphBuilder, node: NodeProto) -> None:
    """A table from numbers to numbers; what it does not hold becomes the default."""
    kind = "int64s" if integers(node, "keys_int64s") else "floats"
    keys = np.array(attribute(node, f"keys_{kind}", ()), np.int64 if kind == "int64s" else np.float32)
    whole = bool(integers(node, "values_int64s"))
    values = np.array(attribute(node, "values_int64s" if whole else "values_floats", ()), np.float32)
    default = attribute(node, "default_int64", -1) if whole else attribute(node, "default_float", -0.0)
    if not keys.size or keys.size != values.size or np.isnan(keys).any() or np.abs(values).max() >= 1 << 24:
        raise NoEquivalent
    same = builder.add("Equal", [builder.unsqueeze(node.input[0]), builder.constant(keys)])
    # The default is added where no key fits: Σ same · (value - default) + default.
    hit = builder.add("Cast", [same], to=TensorProto.FLOAT)
    moved = builder.add("MatMul", [hit, builder.constant(values - np.float32(default))])
    encoded = builder.add("Add", [moved, builder.number(float(default))], "" if whole else node.output[0])
    if whole:
        builder.add("Cast", [encoded], node.output[0], to=TensorProto.INT64)
    else:
        builder.float32.add(encoded)


#: By operator type; what is not here has no equivalent.
EQUIVALENTS: dict[str, Callable[[GraphBuilder, NodeProto], None]] = {
    "ArrayFeatureExtractor": _array_feature_extractor,
    "Binarizer": _binarizer,
    "FeatureVectorizer": _feature_vectorizer,
    "Imputer": _imputer,
    "LabelEncoder": _label_encoder,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "OneHotEncoder": _one_hot,
    "Scaler": _scaler,
}


__all__ = ["class_labels", "plain_outputs", "to_standard"]
ML_DOMAIN = "ai.onnx.ml"
_CLASSIFIERS = ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def has_classical(model: ModelProto) -> bool:
    return any(node.domain == ML_DOMAIN for node in model.graph.node)


def plain_outputs(model: ModelProto) -> ModelProto:
    """The model, a copy where it has such, with class scores as one tensor (N, K) and no maps (ZipMap) or columns."""
    if not has_classical(model):
        return model
    changed = ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type == "ZipMap" and node.domain == ML_DOMAIN:
            node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output)))
            for value in changed.graph.output:
                if value.name == node.output[0]:
                    value.CopyFrom(_scores(value.name))
    _join_columns(changed)
    return changed


def _scores(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "K"])


def _join_columns(model: ModelProto) -> None:
    """Outputs that are the columns of one tensor (`zipmap="columns"`: Slice, then Reshape) give way to that tensor."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    floats = [value for value in model.graph.output if value.type.tensor_type.elem_type in _FLOATS]
    sources = {_sliced(producers, value.name) for value in floats}
    source = next(iter(sources), None)
    if len(floats) < 2 or len(sources) != 1 or source is None:
        return
    kept = [value for value in model.graph.output if value not in floats]
    del model.graph.output[:]
    model.graph.output.extend([*kept, _scores(source)])


def _sliced(producers: dict[str, NodeProto], name: str) -> str | None:
    if (shaped := producers.get(name)) is None or shaped.op_type != "Reshape":
        return None
    column = producers.get(shaped.input[0])
    return str(column.input[0]) if column is not None and column.op_type == "Slice" else None


def class_labels(model: ModelProto, num_classes: int) -> tuple[str, ...] | None:
    """Class names of the file's ZipMap, ArgMax's table or classifier; None unless there is one for each class."""
    for label_sets in (_held(model, "ZipMap"), _looked_up(model), _held(model, *_CLASSIFIERS)):
        if label_sets:
            names = next(iter(label_sets))
            return names if len(label_sets) == 1 and len(names) == len(set(names)) == num_classes else None
    return None


def _held(model: ModelProto, *op_types: str) -> set[tuple[str, ...]]:
    return {label_names(node) for node in model.graph.node if node.op_type in op_types} - {()}


def label_names(node: NodeProto) -> tuple[str, ...]:
    """The names of the classes that a node of `ai.onnx.ml` holds, numbers as text; none where it holds none."""
    for name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
        values: Sequence[int | bytes] = attribute(node, name, ())
        if values:
            return tuple(value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values)
    return ()


def _looked_up(model: ModelProto) -> set[tuple[str, ...]]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    best = {node.output[0] for node in model.graph.node if node.op_type == "ArgMax"}
    tables = [
        numpy_helper.to_array(constants[node.input[0]]).ravel().tolist()
        for node in model.graph.node
        if node.op_type == "ArrayFeatureExtractor" and node.input[0] in constants and node.input[1] in best
    ]
    return {tuple(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in table) for table in tables}


def to_standard(model: ModelProto) -> ModelProto:
    """The model with standard operators in the place of those of `ai.onnx.ml` that have an equivalent.

    Outputs that are labels are dropped, and maps of scores (ZipMap) become plain tensors. Models without such operators
    are returned as they are. Raises UnsupportedModel (`unsupported_input`) where an input takes text.
    """
    if not has_classical(model):
        return model
    given = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.STRING and value.name not in given:
            raise UnsupportedModel(
                "unsupported_input",
                f"input {value.name!r} takes text, and datasets hold numbers: encode text columns as numbers in the "
                "dataset, and export the pipeline without its text encoder",
            )
    changed = plain_outputs(model)
    _drop_labels(changed)
    builder = GraphBuilder(changed)
    for node in changed.graph.node:
        before = len(builder.nodes)
        try:
            if node.domain == ML_DOMAIN:
                EQUIVALENTS[node.op_type](builder, node)
            else:
                keep_finite(builder, node)
                builder.nodes.append(node)
        except (NoEquivalent, KeyError):
            builder.nodes[before:] = [node]
    del changed.graph.node[:]
    changed.graph.node.extend(builder.nodes)
    changed.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in builder.constants.items()
    )
    return changed


def _drop_labels(model: ModelProto) -> None:
    types = (*_FLOATS, TensorProto.FLOAT16)
    if not (scores := [value for value in model.graph.output if value.type.tensor_type.elem_type in types]):
        return
    needed, kept = {value.name for value in scores}, []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output if name):
            kept.append(node)
            needed.update(node.input)
    nodes, outputs = kept[::-1], list(scores)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(outputs)
