"""Checks of a parsed graph's tensors: they hold what their shapes say, and weights are finite."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.table import words
from fedlas.importers.onnx.validation import every_tensor

#: Operators whose constant inputs are weights: no infinity there means "masked", as it does elsewhere.
_WEIGHTED = words(
    "Conv ConvTranspose Gemm MatMul BatchNormalization LayerNormalization InstanceNormalization GroupNormalization "
    "RMSNormalization PRelu LSTM GRU RNN Einsum FusedConv FusedMatMul FusedGemm Attention"
)
_PARTS_OF_A_BYTE = {
    value: 2 if name.endswith(("INT4", "FLOAT4E2M1")) else 4
    for name, value in TensorProto.DataType.items()
    if name.endswith(("INT4", "FLOAT4E2M1", "INT2"))
}


def check_tensors(model: ModelProto) -> None:
    """Every tensor holds as much as its shape says; raises UnsupportedModel (`corrupt`)."""
    for tensor in every_tensor(model):
        _check_size(tensor)


def _check_size(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.ByteSize():
        return  # an empty message, as `sparse_tensor` holds one where there is none
    count = math.prod(tensor.dims)
    if any(size < 0 for size in tensor.dims) or (count == 0 and max(tensor.dims) > 2**31):
        raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} has the shape {tuple(tensor.dims)}")
    if tensor.HasField("segment"):
        raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} is one of several segments, which cannot be read")
    if tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), _bytes_of(tensor, count), "bytes"
    else:
        held, needed, unit = _values_in(tensor), count, "values"
        if tensor.data_type in _PARTS_OF_A_BYTE:
            needed = -(-count // _PARTS_OF_A_BYTE[tensor.data_type])
        elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            needed = 2 * count
    if held != needed:
        raise UnsupportedModel(
            "corrupt",
            f"tensor {tensor.name!r} holds {held} {unit}, its shape {tuple(tensor.dims)} needs {needed}",
        )


def _bytes_of(tensor: TensorProto, count: int) -> int:
    if tensor.data_type in _PARTS_OF_A_BYTE:
        return -(-count // _PARTS_OF_A_BYTE[tensor.data_type])
    try:
        return count * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, ValueError):
        raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} has an unknown element type") from None


def _values_in(tensor: TensorProto) -> int:
    kinds = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    return sum(len(getattr(tensor, kind)) for kind in kinds)


def check_weights(model: ModelProto) -> None:
    """No weight is NaN or infinite: such a network answers nothing, and training spreads it.

    Infinities elsewhere are legitimate (attention masks, open bounds of Clip), NaN in a single number is, too.

    Raises:
        UnsupportedModel: `non_finite_weights`.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.HasField("t") and node.output)
    weights = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input}
    for name, tensor in tensors.items():
        if _is_float(tensor) and math.prod(tensor.dims) > 1:
            values = np.asarray(numpy_helper.to_array(tensor))
            bad = ~np.isfinite(values) if name in weights else np.isnan(values)
            if bad.any():
                raise UnsupportedModel(
                    "non_finite_weights",
                    f"{int(bad.sum())} of {bad.size} values of the weights {name!r} are NaN or infinite; "
                    "send the model from before its training diverged",
                )


def _is_float(tensor: TensorProto) -> bool:
    return tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
