"""The weight file: the second file of a graph whose weights lie outside of it becomes part of the parsed graph.

It comes in a zip with the graph, or lies beside it on its owner's machine. A location is a name to compare: no byte of
any other file becomes a weight, whatever the graph says.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from onnx import ModelProto, TensorProto

from fedlas.data.formats.zip_archive import check_members, open_archive, read_member, text_name
from fedlas.errors import BadDataset, UnsupportedModel
from fedlas.importers.onnx.validation import every_tensor

#: The name of a file of weights, which the graph has to state, and its content.
WeightFile = tuple[str, bytes]

#: A protobuf message ends here, whatever the writer.
MOST_BYTES = 2**31 - 1
_ZIP = b"PK\x03\x04"
#: Writers align tensors to so many bytes at most: what lies behind the last one and is longer belongs to another model.
_MAX_GAP_BYTES = 65_536


def read_parts(path: Path) -> tuple[bytes, WeightFile | None]:
    """The bytes of the graph, and its weight file where `path` is a zip of the two; of any other zip how it begins.

    Raises:
        UnsupportedModel: `too_large`, `needs_graph`, or what is wrong with the archive (`corrupt`, `archive_bomb`, …).
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UnsupportedModel("too_large", f"the model has {size} bytes with its weights; ONNX ends at {MOST_BYTES}")
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
            check_members(members, archive_bytes=size, max_member_bytes=MOST_BYTES, max_ratio=0, free_bytes=MOST_BYTES)
            graph, weights = (read_member(archive, one) for one in members)
    except BadDataset as error:
        raise UnsupportedModel(error.code, error.message) from error
    return graph, (text_name(members[1]).rpartition("/")[2], weights)


def needs_graph(kind: str) -> UnsupportedModel:
    """The refusal of weights alone."""
    return UnsupportedModel(
        "needs_graph",
        f"the file is {kind}, weights without a graph. Client and command line convert those of torchvision and timm "
        "on your machine (fedlas models upload w.safetensors -o architecture=timm/resnet50); of any other network, "
        "export ONNX: torch.onnx.export(model, example, 'model.onnx')",
    )


def beside(model: ModelProto, path: Path) -> WeightFile | None:
    """The file in the folder of `path` whose name the graph states, where it states one that is there."""
    name = next((_stated(tensor).get("location", "") for tensor in every_tensor(model) if _is_outside(tensor)), "")
    file = path.parent / name
    return (name, file.read_bytes()) if file.name == name and file.is_file() else None


def embed(model: ModelProto, weights: WeightFile | None) -> None:
    """Move the weights into the graph; each byte of the file belongs to one tensor at most.

    Raises:
        UnsupportedModel: `external_data` where the file is missing, is another one, or does not hold what is stated.
    """
    name, content = weights or ("", b"")
    taken = end = 0
    for tensor in filter(_is_outside, every_tensor(model)):
        location = _stated(tensor).get("location", "")
        if weights is None or location != name:
            found = "which did not come with it" if weights is None else f"and what came with it is {name[:200]!r}"
            raise UnsupportedModel(
                "external_data",
                f"the weights of {tensor.name!r} lie in {location[:200]!r}, {found}: needed is one file of that very "
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
        held = f"{name!r} has {len(content)} bytes, of which the graph uses {end}: it is another model's"
        raise UnsupportedModel("external_data", f"{held}; send the file that was written with this graph")


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
