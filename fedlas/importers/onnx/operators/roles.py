"""The roles of operators: what they read at each input, which inputs are weights, and which operators may be run.

One letter for each input of the operator: `v` values, `s` a size that nothing but its number limits, `o` numbers
that choose a size which is limited by another operand (the bounds of a Slice, the k of a TopK); `*` repeats the
letter before it. What stands in no list is taken to read sizes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, defs

from fedlas.importers.onnx.operators import OPERATORS, operator_name
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS, words

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
