"""The parsing of an uploaded file, with its weights' file, to a checked `ModelProto`; nothing is unpickled or run.

The checks stand in the order of their cost and trust: size, magic bytes, counts on the bytes, parsing, versions, the
list of allowed operators, validity of names, order and tensors. Only then does anything compute. A weight file comes in
a zip with the graph, or lies beside it on its owner's machine; its stated location is a name to compare, so no byte of
any other file becomes a weight.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import cache
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, defs

from fedlas.data.file_format import check_members, kind_at, open_archive, read_member, text_name, told_format
from fedlas.errors import BadDataset, UnsupportedModel
from fedlas.file_kinds import HUGGING_FACE
from fedlas.importers.onnx.operators.table import OPERATORS, RUNTIME_OPERATORS, STANDARD_DOMAINS, operator_name
from fedlas.importers.onnx.parse.checks import (
    check_attributes,
    check_functions,
    check_names,
    check_order,
    check_size,
    check_weights,
    every_node,
    every_tensor,
    survey,
)

#: The name of a file of weights, which the graph has to state, and its content.
WeightFile = tuple[str, bytes]
#: A protobuf message ends here, whatever the writer.
MAX_BYTES = 2**31 - 1
_ZIP = b"PK\x03\x04"
#: Writers align tensors to so many bytes at most: what lies behind the last one and is longer belongs to another model.
_MAX_GAP_BYTES = 65_536
#: The newest opset that the newest supported ONNX Runtime opens (1.27-1.31); the served copy keeps the upload's.
MAX_OPSET = 26
MIN_OPSET = 7
MAX_IR = 13
#: One row of an input; the largest images and volumes that are classified are far below.
_MAX_ROW_BYTES = 256 * 1024**2
_CLASSICAL = "ai.onnx.ml"
_QUANTISED = ("QLinear", "QAttention", "QGemm", "Quantize", "Dequantize", "DynamicQuantize")
#: Nested graphs may run for ever, and no exporter needs them for a classifier in inference.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_HOW_TO_EXPORT = "export the network as ONNX instead: torch.onnx.export(model, example, 'model.onnx')"
#: An ONNX file opens with field 1 (the IR version, a small number): what starts so was once a model.
_FIRST_BYTE = b"\x08"
_ROWS = {
    "npz": "an npz archive of arrays",
    "csv": "text, as a csv is",
    "parquet": "a parquet table",
    "imagefolder": "a zip archive of images",
}
# (first bytes, what such a file is): formats that are sent instead of ONNX. None of them is ever opened.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive (as torch.save, TorchScript, .pt2 or .npz write)"),
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
)


def read_parts(path: Path) -> tuple[bytes, WeightFile | None]:
    """The bytes of the graph, and its weight file where `path` is a zip of the two; of any other zip how it begins.

    Raises:
        UnsupportedModel: `too_large`, `needs_graph`, or what is wrong with the archive (`corrupt`, `archive_bomb`, …).
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise UnsupportedModel("too_large", f"the model has {size} bytes with its weights; ONNX ends at {MAX_BYTES}")
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return path.read_bytes(), None
    try:
        with open_archive(path) as archive:
            files = (one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/"))
            members = sorted(files, key=lambda one: not one.filename.endswith(".onnx"))
            if any(one.filename.endswith(".safetensors") for one in members):
                raise needs_graph("a zip of safetensors, as a Hugging Face folder is")
            if len(members) != 2 or not members[0].filename.endswith(".onnx"):
                return _ZIP, None
            check_members(members, archive_bytes=size, max_member_bytes=MAX_BYTES, max_ratio=0, free_bytes=MAX_BYTES)
            graph, weights = (read_member(archive, one) for one in members)
    except BadDataset as error:
        raise UnsupportedModel(error.code, error.message) from error
    return graph, (text_name(members[1]).rpartition("/")[2], weights)


def needs_graph(kind: str) -> UnsupportedModel:
    return UnsupportedModel(
        "needs_graph",
        f"the file is {kind}, weights without a graph. Client and command line convert those of torchvision and timm "
        "on your machine (fedlas models upload w.safetensors -o architecture=timm/resnet50); of any other network, "
        f"export ONNX: torch.onnx.export(model, example, 'model.onnx'); of a Hugging Face folder, {HUGGING_FACE}",
    )


def beside(model: ModelProto, path: Path) -> WeightFile | None:
    """The file in the folder of `path` whose name the graph states, where it states one that is there."""
    name = next((_stated(tensor).get("location", "") for tensor in every_tensor(model) if _is_outside(tensor)), "")
    file = path.parent / name
    return (name, file.read_bytes()) if file.name == name and file.is_file() else None


def embed(model: ModelProto, weights: WeightFile | None) -> None:
    """Move the weights into the graph, each byte into one tensor at most; raises UnsupportedModel (`external_data`)."""
    name, content = weights or ("", b"")
    taken = end = 0
    for tensor in filter(_is_outside, every_tensor(model)):
        location = _stated(tensor).get("location", "")
        if weights is None or location != name:
            instead = "which did not come with it" if weights is None else f"and what came with it is {name[:200]!r}"
            raise UnsupportedModel(
                "external_data",
                f"the weights of {tensor.name!r} lie in {location[:200]!r}, {instead}: expected one file of that very "
                'name, or one that is written where both are: onnx.save(onnx.load("m.onnx"), "one.onnx")',
            )
        start, stop = _place(tensor, name, len(content))
        taken, end = taken + stop - start, max(end, stop)
        if taken > len(content):
            raise UnsupportedModel("external_data", f"the graph states more bytes of weights than {name!r} has")
        tensor.raw_data = content[start:stop]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    if len(content) - end > _MAX_GAP_BYTES:
        raise UnsupportedModel(
            "external_data",
            f"{name!r} has {len(content)} bytes, of which the graph uses {end}: it is another model's; send the file "
            "that was written with this graph",
        )


def _place(tensor: TensorProto, name: str, size: int) -> tuple[int, int]:
    """The tensor's first byte in the file, and the one behind its last."""
    stated = _stated(tensor)
    offset, length = stated.get("offset", "0"), stated.get("length", "")
    with suppress(ValueError):  # of what is no number
        start = int(offset)
        stop = start + int(length) if length else size
        if 0 <= start <= stop <= size:
            return start, stop
    raise UnsupportedModel(
        "external_data",
        f"{tensor.name!r} takes {length[:20] or 'all'} bytes from byte {offset[:20]} of {name!r}, which has {size}: "
        "the file was cut off, or is another model's; send the one that was written with this graph",
    )


def _is_outside(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _stated(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def read_model(path: str | Path, *, allow_beside: bool = False) -> ModelProto:
    """Parse and check the ONNX file at `path`; raises UnsupportedModel, which says what is needed.

    Args:
        path: of a graph, or of a zip of a graph and its weights.
        allow_beside: read weights from the file beside it that the graph names: for its owner, never for a stranger.
    """
    model = read_whole(path, allow_beside=allow_beside)
    _check_versions(model)
    _refuse_quantised(model)
    _check_operators(model)
    check_names(model)
    check_functions(model)
    check_attributes(model)
    check_order(model.graph)
    for tensor in every_tensor(model):
        check_size(tensor)
    _check_inputs(model)
    check_weights(model)
    return model


def read_whole(path: str | Path, *, allow_beside: bool = False) -> ModelProto:
    """The parsed file with all of its weights, of which nothing is checked yet; raises as `read_model` does."""
    file = Path(path)
    content, weights = read_parts(file)
    try:
        model = _parse(content)
    except UnsupportedModel as error:
        if weights is not None and weights[1][:1] == _FIRST_BYTE:
            raise UnsupportedModel(
                "external_data",
                f"{weights[0]!r}, which came as the weights, looks like the graph: were the two exchanged?",
            ) from error
        raise (_told(file, error) if error.code in ("not_onnx", "unsafe_format", "truncated") else error) from None
    del content
    embed(model, beside(model, file) if weights is None and allow_beside else weights)
    return model


def _told(file: Path, refusal: UnsupportedModel) -> UnsupportedModel:
    """The refusal, or a better one for rows, another library's model, or a pickle without magic bytes."""
    if (foreign := kind_at(file)) is not None and foreign.model:
        return UnsupportedModel("not_onnx", f"the file is {foreign.what}: {foreign.model}")
    try:
        kind = told_format(file)
    except BadDataset as error:
        is_pickle = (refusal.code, error.code) == ("not_onnx", "unsafe_format")
        return _unsafe("a Python pickle") if is_pickle else refusal
    return UnsupportedModel(
        "not_onnx",
        f"the file is {_ROWS[kind]}: rows or scores, and no model. Were model and rows exchanged? Scores without a "
        f"model go to POST /v1/calibrators (fedlas calibrators create). For a model, {_HOW_TO_EXPORT}",
    )


def _unsafe(kind: str) -> UnsupportedModel:
    return UnsupportedModel("unsafe_format", f"the file is {kind}, which may run code when opened; {_HOW_TO_EXPORT}")


def _parse(content: bytes) -> ModelProto:
    if not content:
        raise UnsupportedModel("not_onnx", f"the file is empty; {_HOW_TO_EXPORT}")
    # Safetensors begin with a JSON object's length.
    if content[8:9] == b"{" and 1 < int.from_bytes(content[:8], "little") < 2**32:
        raise needs_graph("safetensors")
    if kind := next((kind for magic, kind in _FOREIGN if content.startswith(magic)), None):
        raise _unsafe(kind)
    try:
        survey(content)
        model: ModelProto = ModelProto.FromString(content)
    except DecodeError:
        if content.startswith(_FIRST_BYTE) and len(content) > 2 and 0 < content[1] < 64:
            raise UnsupportedModel("truncated", "the ONNX file is cut off or damaged; send it again") from None
        raise UnsupportedModel("not_onnx", f"the file is not an ONNX model; {_HOW_TO_EXPORT}") from None
    if not model.ir_version or not model.opset_import:
        raise UnsupportedModel("not_onnx", f"the file is not an ONNX model; {_HOW_TO_EXPORT}")
    if not model.graph.node or not model.graph.output:
        raise UnsupportedModel("truncated", "the ONNX file ends before its graph does; send it again")
    return model


def standard_opset(model: ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 0)


def _check_versions(model: ModelProto) -> None:
    """A file of classical operators alone need not name the standard ones, which replace them in here."""
    if standard_opset(model) == 0 and {node.domain for node in every_node(model)} == {_CLASSICAL}:
        model.opset_import.add(domain="", version=13)
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


def _refuse_quantised(model: ModelProto) -> None:
    refused = sorted(
        {
            operator_name(node)
            for node in every_node(model)
            if node.op_type.startswith(_QUANTISED) or node.op_type.endswith(("Integer", "NBits", "IntegerToFloat"))
        }
    )
    if refused:
        raise UnsupportedModel(
            "quantized",
            f"the graph is quantised ({', '.join(refused)}), so its weights cannot be trained; send the float32 model",
        )


def _check_operators(model: ModelProto) -> None:
    """Only operators on a list are let near the importer and ONNX Runtime; all others are named."""
    own = {(function.domain, function.name) for function in model.functions}
    used = {operator_name(node) for node in every_node(model) if (node.domain, node.op_type) not in own}
    if refused := sorted(name for name in used if name in _CONTROL_FLOW or name not in _allowed()):
        loops = "; a Loop is, for example, a recurrent layer written as a loop (Keras): export with unroll=True"
        raise UnsupportedModel(
            "unsupported_operator",
            f"the graph uses operators that are not on the list of allowed ones: {', '.join(refused[:20])}"
            f"{' …' if len(refused) > 20 else ''}; allowed are the standard operators without control flow, "
            f"{_CLASSICAL}, and ONNX Runtime's fused activations, normalisations and attention"
            f"{loops if 'Loop' in refused else ''}",
        )


@cache
def _allowed() -> frozenset[str]:
    standard = {
        schema.name if schema.domain == "" else f"{schema.domain}.{schema.name}"
        for schema in defs.get_all_schemas_with_history()
        if schema.domain in ("", _CLASSICAL)
    }
    return frozenset(standard | set(OPERATORS) | RUNTIME_OPERATORS)


def _check_inputs(model: ModelProto) -> None:
    """Bound the bytes of one row before anything of that size is made."""
    for info in model.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value == -1:  # how PaddlePaddle writes an open axis, and how ONNX Runtime reads it
                dim.ClearField("value")
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if any(size < 0 for size in shape):
            raise UnsupportedModel("corrupt", f"input {info.name!r} has the shape {tuple(shape)}")
        row = math.prod(size or 1 for size in shape[1:])
        if row * 4 > _MAX_ROW_BYTES or (shape and shape[0] > 2**20):
            raise UnsupportedModel(
                "declared_size",
                f"input {info.name!r} has the shape {tuple(shape)}: {4 * row:,} bytes per row, at most "
                f"{_MAX_ROW_BYTES:,} are allowed",
            )
