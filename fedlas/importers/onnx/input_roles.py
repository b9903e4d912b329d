"""The roles of operators' inputs: values, sizes, or numbers that choose a size.

One letter for each input of the operator: `v` values, `s` a size that nothing but its number limits, `o` numbers
that choose a size which is limited by another operand (the bounds of a Slice, the k of a TopK); `*` repeats the
letter before it. What stands in no list is taken to read sizes everywhere.
"""

from __future__ import annotations

from onnx import NodeProto

from fedlas.importers.onnx.operators import operator_name, words

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


def read_at(node: NodeProto, position: int) -> str:
    """`v`, `s` or `o`: what the node's operator reads there; `s` for what is not listed."""
    letters = READ.get(operator_name(node), "")
    if letters.endswith("*"):
        return letters[0]
    return letters[position] if position < len(letters) else "s"
