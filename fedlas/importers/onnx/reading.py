"""An uploaded file's bytes become a checked `ModelProto`; nothing is unpickled, unpacked or read beside the file."""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.operators.table import STANDARD_DOMAINS, operator_name

#: What the newest supported ONNX Runtime opens (1.27-1.31); the served copy keeps the upload's versions.
MAX_OPSET, MIN_OPSET, MAX_IR = 26, 7, 13

_HOW_TO_EXPORT = (
    "export the network as ONNX instead: torch.onnx.export(model, example, 'model.onnx', external_data=False)"
)
# (first bytes, what such a file is): formats that people send instead of ONNX. None of them is ever opened.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive (as torch.save, TorchScript, .pt2, .keras or .npz write)"),
    (b"PK\x05\x06", "an empty zip archive"),
    *((b"\x80" + bytes([protocol]), "a Python pickle") for protocol in range(2, 6)),
    (b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a Python pickle (legacy torch.save)"),
    (b"\x1f\x8b", "a gzip file (perhaps a compressed pickle)"),
    (b"BZh", "a bzip2 file (perhaps a compressed pickle)"),
    (b"\xfd7zXZ\x00", "an xz file (perhaps a compressed pickle)"),
    (b"]\x00\x00", "an lzma file (perhaps a compressed pickle)"),
    (b"\x04\x22\x4d\x18", "an lz4 file (perhaps a compressed pickle)"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file (perhaps a compressed pickle)"),
    *((b"x" + bytes([level]), "a zlib stream (joblib compresses pickles so)") for level in (0x01, 0x5E, 0x9C, 0xDA)),
    (b"ZF", "a joblib file (compressed pickle)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (as Keras writes)"),
)


def read_model(path: str | Path) -> ModelProto:
    """Parse and check the ONNX file at `path`.

    Raises:
        UnsupportedModel: `unsafe_format`, `not_onnx`, `truncated`, `corrupt`, `external_data`, `quantized`,
            `unsupported_opset`, `declared_size` or `unsupported_input`, with a sentence on what is needed.
    """
    content = Path(path).read_bytes()
    _refuse_foreign(content[:64])
    model = _parse(content)
    _check_versions(model)
    _check_tensors(model)
    _refuse_quantised(model)
    return model


def _refuse_foreign(head: bytes) -> None:
    kind = next((kind for magic, kind in _FOREIGN if head.startswith(magic)), None)
    if kind is not None:
        raise _unsafe(kind)


def _unsafe(kind: str) -> UnsupportedModel:
    return UnsupportedModel("unsafe_format", f"the file is {kind}, which may run code when opened; {_HOW_TO_EXPORT}")


def _is_old_pickle(content: bytes) -> bool:
    """Whether the bytes are a pickle of protocol 0 or 1, which has no magic: its instructions are listed, never run."""
    try:
        return any(opcode.name == "STOP" or i > 1000 for i, (opcode, _, _) in enumerate(pickletools.genops(content)))
    except Exception:  # pickletools raises whatever its readers run into
        return False


def _parse(content: bytes) -> ModelProto:
    if not content:
        raise UnsupportedModel("not_onnx", f"the file is empty; {_HOW_TO_EXPORT}")
    try:
        model: ModelProto = ModelProto.FromString(content)
    except DecodeError:
        if _is_old_pickle(content):
            raise _unsafe("a Python pickle") from None
        # An ONNX file opens with field 1 (the IR version, a small number): what starts so was once a model.
        if content[0] == 0x08 and len(content) > 2 and 0 < content[1] < 64:
            raise UnsupportedModel("truncated", "the ONNX file is cut off or damaged; send it again") from None
        raise UnsupportedModel("not_onnx", f"the file is not an ONNX model; {_HOW_TO_EXPORT}") from None
    if not model.ir_version or not model.opset_import:
        if _is_old_pickle(content):
            raise _unsafe("a Python pickle")
        raise UnsupportedModel("not_onnx", f"the file is not an ONNX model; {_HOW_TO_EXPORT}")
    if not model.graph.node or not model.graph.output:
        raise UnsupportedModel("truncated", "the ONNX file ends before its graph does; send it again")
    return model


def standard_opset(model: ModelProto) -> int:
    """The version of the standard operators that the model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 0)


def _check_versions(model: ModelProto) -> None:
    opset = standard_opset(model)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UnsupportedModel(
            "unsupported_opset",
            f"the model uses opset {opset}; opsets {MIN_OPSET} to {MAX_OPSET} can be opened (pass opset_version=18)",
        )
    if not 3 <= model.ir_version <= MAX_IR:
        raise UnsupportedModel(
            "unsupported_opset",
            f"the model has IR version {model.ir_version}; versions 3 to {MAX_IR} can be opened (set model.ir_version)",
        )


def every_node(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes, also those of functions and nested graphs."""
    pending: list[NodeProto] = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(inner for graph in _nested(node) for inner in graph.node)


def _nested(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else [])
        yield from attribute.graphs


def _every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    graphs = [model.graph, *(graph for node in every_node(model) for graph in _nested(node))]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in every_node(model):
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)


def _check_tensors(model: ModelProto) -> None:
    for tensor in _every_tensor(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise UnsupportedModel(
                "external_data",
                f"the weights of {tensor.name!r} lie in a second file, which was not sent; keep them inside the ONNX "
                "file: torch.onnx.export(model, example, 'model.onnx', external_data=False)",
            )
        _check_size(tensor)


def _check_size(tensor: TensorProto) -> None:
    """A tensor must hold as many bytes as its shape says; files that stop early fail here."""
    if any(size < 0 for size in tensor.dims):
        raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} has the shape {tuple(tensor.dims)}")
    count = math.prod(tensor.dims)
    if not tensor.HasField("raw_data"):
        held = len(tensor.float_data) + len(tensor.int32_data) + len(tensor.int64_data) + len(tensor.double_data)
        if held + len(tensor.uint64_data) + len(tensor.string_data) < count and tensor.data_type not in _PACKED:
            raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} holds fewer values than its shape says")
        return
    if tensor.data_type not in _PACKED and len(tensor.raw_data) != count * _item_size(tensor):
        raise UnsupportedModel(
            "corrupt",
            f"tensor {tensor.name!r} holds {len(tensor.raw_data)} bytes, its shape {tuple(tensor.dims)} needs more",
        )


_PACKED = {TensorProto.UNDEFINED, TensorProto.STRING} | {
    value for name, value in TensorProto.DataType.items() if name.endswith(("INT4", "FLOAT4E2M1", "INT2"))
}


def _item_size(tensor: TensorProto) -> int:
    try:
        return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, ValueError):
        raise UnsupportedModel("corrupt", f"tensor {tensor.name!r} has an unknown element type") from None


def _refuse_quantised(model: ModelProto) -> None:
    found = sorted({operator_name(node) for node in every_node(model) if _is_quantised(node.op_type)})
    if found:
        raise UnsupportedModel(
            "quantized",
            f"the graph is quantised ({', '.join(found)}), so its weights cannot be trained; send the float32 model",
        )


def _is_quantised(op_type: str) -> bool:
    return op_type.startswith(("QLinear", "QAttention", "QGemm", "Quantize", "Dequantize", "DynamicQuantize")) or (
        op_type.endswith(("Integer", "NBits", "IntegerToFloat"))
    )
