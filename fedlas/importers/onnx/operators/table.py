"""The table of ONNX operators: one operator is one function on tensors.

A function's positional parameters are the operator's inputs, its keyword-only parameters (or the fields of the
`TypedDict` that its `**attributes` are) are the operator's attributes, both by the names of the ONNX specification. Two
keyword names are filled in by the importer where a function asks for them: `opset` (semantics changed over time) and
`num_outputs` (the node's number of outputs). Limits stand here too: a few bytes of a file can ask for petabytes.

The roles of operators: what they read at each input, which inputs are weights, and which operators may be run.

One letter for each input of the operator: `v` values, `s` a size that nothing but its number limits, `o` numbers
that choose a size which is limited by another operand (the bounds of a Slice, the k of a TopK); `*` repeats the
letter before it. What stands in no list is taken to read sizes everywhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, defs, helper, numpy_helper
from torch import Tensor

from fedlas.errors import UnsupportedModel

Function = Callable[..., Tensor | tuple[Tensor, ...]]
F = TypeVar("F", bound=Function)
STANDARD_DOMAINS = ("", "ai.onnx")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
OPERATORS: dict[str, Operator] = {}
_DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
_ELEM_TYPES = {dtype: number for number, dtype in _DTYPES.items()}
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}
#: Bytes of the largest tensor that is computed while a graph is examined; those of sane classifiers are far below.
MAX_BYTES = 2**31
#: Elements of the largest tensor that an operator makes up from numbers alone (1 GiB of float32).
MAX_ELEMENTS = 2**28


@dataclass(frozen=True)
class Operator:
    """A function and how to call it.

    Attributes:
        function: computes the operator's output, or a tuple of its outputs.
        host: positions of inputs that the function reads as numbers (shapes, axes, indices), on whatever device.
        keywords: the attributes that it understands, and which values of them where these are `Literal`.
        fixed: keyword arguments that tell several operators of one function apart.
        gradient: whether a loss can be differentiated through it; never through ArgMax, Round or a comparison.
        several: the function answers with a tuple, however many outputs the node has.
        inputs: how many inputs the function takes, where it says so.
    """

    function: Function
    host: tuple[int, ...] = ()
    keywords: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    gradient: bool = True
    several: bool = False
    inputs: float = math.inf

    @classmethod
    def of(cls, function: Function, host: tuple[int, ...], gradient: bool, **fixed: str) -> Operator:
        """The entry of a function, whose signature tells the rest; that of a function of PyTorch tells nothing."""
        if not inspect.isfunction(function) or not function.__module__.startswith("fedlas."):
            return cls(function, host, gradient=gradient)
        hints, inputs = get_type_hints(function), 0.0
        keywords: dict[str, tuple[object, ...]] = {}
        for parameter in inspect.signature(function).parameters.values():
            match parameter.kind:
                case parameter.KEYWORD_ONLY:
                    hint = hints[parameter.name]
                    keywords[parameter.name] = get_args(hint) if get_origin(hint) is Literal else ()
                case parameter.VAR_KEYWORD:
                    (fields,) = get_args(hints[parameter.name])
                    keywords |= dict.fromkeys(fields.__optional_keys__, ())
                case kind:
                    inputs += math.inf if kind is parameter.VAR_POSITIONAL else 1
        known = {name: values for name, values in keywords.items() if name not in fixed}
        several = get_origin(hints["return"]) is tuple
        return cls(function, host, known, fixed, gradient, several, inputs)

    @property
    def outputs(self) -> float:
        return math.inf if self.several or "num_outputs" in self.keywords else 1


def operator(*names: str, host: tuple[int, ...] = (), gradient: bool = True) -> Callable[[F], F]:
    def enter(function: F) -> F:
        enter_all(dict.fromkeys(names, function), host=host, gradient=gradient)
        return function

    return enter


def enter_all(functions: Mapping[str, Function], *, host: tuple[int, ...] = (), gradient: bool = True) -> None:
    """Enter several operators whose attributes are the functions' own keywords."""
    OPERATORS.update({name: Operator.of(function, host, gradient) for name, function in functions.items()})


def enter_kinds(function: Function, kinds: Iterable[str], *, host: tuple[int, ...] = (), gradient: bool = True) -> None:
    """Enter one function for several operators; which one is meant it learns by its keyword `kind`."""
    OPERATORS.update({kind: Operator.of(function, host, gradient, kind=kind) for kind in kinds})


def node_has_gradient(node: NodeProto) -> bool:
    """A loss can be differentiated through the node: a Cast only to floats, none that is not in the table."""
    name = operator_name(node)
    casts = name == "Cast" and attributes(node).get("to") not in _FLOATS
    return name in OPERATORS and OPERATORS[name].gradient and not casts and not misfits(node)


def operator_name(node: NodeProto) -> str:
    """`Conv` for a standard operator, `com.microsoft.Gelu` for any other domain."""
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def words(text: str) -> frozenset[str]:
    """The words of a text as a set, which lists of operators are written as."""
    return frozenset(text.split())


def attributes(node: NodeProto) -> dict[str, object]:
    """The node's attributes as plain Python values (tensors as `(values, dtype name)`)."""
    return {attribute.name: _plain(attribute) for attribute in node.attribute}


def _plain(attribute: AttributeProto) -> object:
    match attribute.type:
        case AttributeProto.STRING:
            return attribute.s.decode()
        case AttributeProto.STRINGS:
            return tuple(item.decode() for item in attribute.strings)
        case AttributeProto.TENSOR:
            array = numpy_helper.to_array(attribute.t)
            return array.ravel().tolist(), array.dtype.name
        case AttributeProto.INTS | AttributeProto.FLOATS:
            return tuple(attribute.ints or attribute.floats)
        case _:
            return helper.get_attribute_value(attribute)


def misfits(node: NodeProto) -> list[str]:
    """Attributes, inputs and outputs of a node that its table's function does not know; defaults do not count."""
    entry, unknown = OPERATORS[operator_name(node)], []
    for item in node.attribute:
        values = entry.keywords.get(item.name)
        if (values is None and not _is_default(node, item)) or (values and _plain(item) not in values):
            unknown.append(item.name)
    inputs, outputs = _last_named(node.input), _last_named(node.output)
    unknown += [f"{inputs} inputs"] if inputs > entry.inputs else []
    return unknown + ([f"{outputs} outputs"] if outputs > entry.outputs else [])


def _last_named(names: Sequence[str]) -> int:
    """How many inputs or outputs a node has, less those without a name at the end."""
    return max((i for i, name in enumerate(names, 1) if name), default=0)


def _is_default(node: NodeProto, item: AttributeProto) -> bool:
    if node.domain not in STANDARD_DOMAINS or item.name not in (known := defs.get_schema(node.op_type).attributes):
        return False
    default = known[item.name].default_value
    return bool(default.type == item.type and _plain(default) == _plain(item))


def keywords(node: NodeProto, opset: int) -> dict[str, object]:
    """The keyword arguments of the table's function for `node`; raises UnsupportedModel (`unsupported_operator`)."""
    entry = OPERATORS[operator_name(node)]
    if unknown := misfits(node):
        raise UnsupportedModel(
            "unsupported_operator", f"operator {operator_name(node)} is used with {unknown}, which is not supported"
        )
    given = {name: value for name, value in attributes(node).items() if name in entry.keywords}
    extra = {"opset": opset, "num_outputs": len(node.output)}
    return {name: value for name, value in extra.items() if name in entry.keywords} | given | dict(entry.fixed)


def torch_dtype(number: int) -> torch.dtype:
    """The PyTorch type of an ONNX element type; raises UnsupportedModel (`unsupported_type`)."""
    try:
        return _DTYPES[number]
    except KeyError:
        name = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else number
        raise UnsupportedModel("unsupported_type", f"the graph computes with {name} tensors; use float32") from None


def elem_type(dtype: torch.dtype) -> int:
    """ONNX's number of a PyTorch type, 0 for one that ONNX does not have."""
    return int(_ELEM_TYPES.get(dtype, 0))


def dtype_of(name: str) -> torch.dtype:
    """The PyTorch type of a NumPy type's name; raises UnsupportedModel (`unsupported_type`)."""
    if name not in _BY_NAME:
        raise UnsupportedModel("unsupported_type", f"the graph computes with {name} tensors; use float32")
    return _BY_NAME[name]


def as_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory; raises UnsupportedModel (`unsupported_type`)."""
    dtype = dtype_of(array.dtype.name)
    return torch.from_numpy(array.view(np.int16)).view(dtype) if dtype is torch.bfloat16 else torch.from_numpy(array)


def bounded(shape: Sequence[int], *, limit: int = MAX_ELEMENTS) -> list[int]:
    """`shape` as a list; raises UnsupportedModel (`declared_size`) where it has more than `limit` elements."""
    if math.prod(shape) > limit:
        raise UnsupportedModel(
            "declared_size", f"the graph declares a tensor of shape {tuple(shape)}; {limit} elements are the limit"
        )
    return list(shape)


_READ: dict[str, str] = {
    "": "Constant SequenceEmpty",
    "v": """
        Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Identity IsInf IsNaN Log Neg Not
        Reciprocal Round Sign Sin Sinh Sqrt Tan Tanh BitwiseNot Cast HardSwish Mish Relu Sigmoid Softplus
        Softsign Elu Celu Selu LeakyRelu ThresholdedRelu HardSigmoid Gelu Swish Shrink Softmax LogSoftmax
        Hardmax EyeLike Shape Size Flatten Transpose DepthToSpace SpaceToDepth NonZero Unique LpNormalization
        MeanVarianceNormalization LRN MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool
        Det ArgMax ArgMin BitCast DynamicQuantizeLinear SequenceLength ConcatFromSequence Optional
        OptionalGetElement OptionalHasElement RegexFullMatch StringNormalizer StringSplit TfIdfVectorizer
        com.microsoft.QuickGelu ai.onnx.ml.Binarizer ai.onnx.ml.CastMap ai.onnx.ml.CategoryMapper
        ai.onnx.ml.DictVectorizer ai.onnx.ml.Imputer ai.onnx.ml.LabelEncoder ai.onnx.ml.LinearClassifier
        ai.onnx.ml.LinearRegressor ai.onnx.ml.Normalizer ai.onnx.ml.OneHotEncoder ai.onnx.ml.SVMClassifier
        ai.onnx.ml.SVMRegressor ai.onnx.ml.Scaler ai.onnx.ml.TreeEnsemble ai.onnx.ml.TreeEnsembleClassifier
        ai.onnx.ml.TreeEnsembleRegressor ai.onnx.ml.ZipMap""",
    "v*": """
        Concat Max Min Sum Mean Einsum SequenceConstruct ai.onnx.ml.FeatureVectorizer""",
    "vv": """
        Add Sub Mul Div Pow Mod And Or Xor Equal Greater GreaterOrEqual Less LessOrEqual BitwiseAnd BitwiseOr
        BitwiseXor BitShift PRelu CastLike Gather GatherElements GatherND Compress ReverseSequence MatMul
        CumSum CumProd Trilu GridSample SwiGLU com.microsoft.Gelu com.microsoft.FastGelu
        com.microsoft.BiasGelu com.microsoft.FusedMatMul com.microsoft.CDist RMSNormalization
        SimplifiedLayerNormalization MaxRoiPool SequenceAt ai.onnx.ml.ArrayFeatureExtractor""",
    "vvv": """
        Where Clip Conv ConvTranspose Gemm com.microsoft.FusedGemm InstanceNormalization GroupNormalization
        LayerNormalization ScatterND ScatterElements Scatter TensorScatter Dropout RoiAlign QuantizeLinear
        DequantizeLinear NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss""",
    "vvvv": "RotaryEmbedding ConvInteger MatMulInteger com.microsoft.FusedConv CausalConvWithState",
    "vvvvv": """
        BatchNormalization DeformConv com.microsoft.SkipLayerNormalization
        com.microsoft.SkipSimplifiedLayerNormalization""",
    "vvvvvv": "LinearAttention",
    "vvvvvvv": "Attention",
    "vvvvvvs": "com.microsoft.Attention",
    "vvvvvvvv": "QLinearMatMul com.microsoft.MultiHeadAttention",
    "vvvvvvvvv": "QLinearConv com.microsoft.EmbedLayerNormalization",
    "vvvvov": "RNN GRU",
    "vvvvovvv": "LSTM",
    "vo": """
        Reshape Squeeze Unsqueeze Split TopK SplitToSequence SequenceErase ReduceSum ReduceMean ReduceMax
        ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp""",
    "vvo": "SequenceInsert",
    "voooo": "Slice",
    "vvovv": "NonMaxSuppression",
    "s": "ConstantOfShape HannWindow HammingWindow BlackmanWindow",
    "ss": "StringConcat",
    "sss": "Range",
    "vs": "Expand Tile CenterCropPad Upsample AffineGrid",
    "vso": "Col2Im DFT",
    "vsv": "OneHot",
    "vsvo": "Pad",
    "vvs": "MaxUnpool",
    "vovs": "STFT",
    "vsss": "Resize",
    "ssvvv": "MelWeightMatrix",
}
READ: dict[str, str] = {name: letters for letters, names in _READ.items() for name in names.split()}
#: Operators whose results have as many elements as their input's values say, and no more than an operand has.
COUNTING = words(
    "NonZero Compress Unique NonMaxSuppression StringNormalizer StringSplit SequenceAt ConcatFromSequence "
    "SplitToSequence ai.onnx.ml.DictVectorizer"
)
#: Operators whose result may be large though their inputs are small: sizes are numbers that they read.
DECLARING = words("AveragePool Conv ConvTranspose Expand MaxPool OneHot Pad Resize Tile Upsample")
#: Inputs that are weights whatever else is known.
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3, 7),  # 4 is the lengths, 5 and 6 the state before the first step: zeros in every export
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "com.microsoft.Attention": (1, 2),
    "com.microsoft.MultiHeadAttention": (3,),
    "com.microsoft.BiasGelu": (1,),
    "com.microsoft.FastGelu": (1,),
    "com.microsoft.EmbedLayerNormalization": (2, 3, 4, 5, 6),
    "com.microsoft.FusedMatMul": (0, 1),
    "com.microsoft.FusedConv": (1, 2),
    "com.microsoft.FusedGemm": (0, 1, 2),
    "com.microsoft.SkipLayerNormalization": (2, 3, 4),
    "com.microsoft.SkipSimplifiedLayerNormalization": (2, 3),
}
#: Operators that only rearrange their first input.
TRANSPARENT = words(
    "Expand Reshape Transpose Unsqueeze Squeeze Flatten Identity Cast Slice Gather Split Tile Concat Pad"
)
#: Operators of ONNX Runtime's own that compute on numbers only; skl2onnx writes distances to neighbours so.
RUNTIME_OPERATORS = frozenset({"com.microsoft.CDist"})
#: Chance has no place in a classifier, and no upload decodes files of other formats.
_REFUSED = words("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli ImageDecoder")


def read_at(node: NodeProto, position: int) -> str:
    """`v`, `s` or `o`: what the node's operator reads there; `s` for what is not listed."""
    letters = READ.get(operator_name(node), "")
    if letters.endswith("*"):
        return letters[0]
    return letters[position] if position < len(letters) else "s"


def refused(nodes: Sequence[NodeProto]) -> list[str]:
    """The operators among these that are not run: control flow, chance, and what no specification describes."""
    return sorted({operator_name(node) for node in nodes if not _is_allowed(node)})


def _is_allowed(node: NodeProto) -> bool:
    name = operator_name(node)
    if any(item.HasField("g") or item.graphs for item in node.attribute) or name in _REFUSED:
        return False
    if name in OPERATORS or name in RUNTIME_OPERATORS:
        return True
    domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    return domain in ("", "ai.onnx.ml") and bool(defs.has(node.op_type, domain))
