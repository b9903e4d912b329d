"""The weight file: the second file of a graph whose weights lie outside of it becomes part of the parsed graph.

It comes in a zip with the graph, or lies beside it on its owner's machine. A location is a name to compare: no byte of
any other file becomes a weight, whatever the graph says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto

from fedlas.data.formats.zip_archive import check_members, open_archive, read_member, text_name
from fedlas.errors import BadDataset, UnsupportedModel
from fedlas.importers.onnx.validation import every_tensor

#: A protobuf message ends here, whatever the writer.
MOST_BYTES = 2**31 - 1
ONE_FILE = 'or write one file where both are: onnx.save(onnx.load("m.onnx"), "one.onnx")'
_ZIP = b"PK\x03\x04"
#: Writers align tensors to so many bytes at most: what lies behind the last one and is longer belongs to another model.
_MAX_GAP_BYTES = 65_536


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, under the name that the graph has to state."""

    name: str
    content: bytes


def read_parts(path: Path) -> tuple[bytes, WeightFile | None]:
    """The bytes of the graph, and its weight file where `path` is a zip of the two; of any other zip how it begins.

    Raises:
        UnsupportedModel: `too_large`, or what is wrong with the archive (`corrupt`, `archive_bomb`, …).
    """
    size = path.stat().st_size
    _require_fit(size)
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return path.read_bytes(), None
    try:
        with open_archive(path) as archive:
            files = (one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/"))
            members = sorted(files, key=lambda one: not one.filename.endswith(".onnx"))
            if len(members) != 2 or not members[0].filename.endswith(".onnx"):
                return _ZIP, None
            check_members(members, archive_bytes=size, max_member_bytes=MOST_BYTES, max_ratio=0, free_bytes=MOST_BYTES)
            graph, weights = (read_member(archive, one) for one in members)
    except BadDataset as error:
        raise UnsupportedModel(error.code, error.message) from error
    return graph, WeightFile(text_name(members[1]).rpartition("/")[2], weights)


def beside(model: ModelProto, path: Path) -> WeightFile | None:
    """The file in the folder of `path` whose name the graph states, where it states one that is there."""
    name = next((_location(tensor) for tensor in every_tensor(model) if _is_outside(tensor)), "")
    file = path.with_name(name) if _is_plain(name) else None
    if file is None or not file.is_file():
        return None
    _require_fit(path.stat().st_size + file.stat().st_size)
    return WeightFile(name, file.read_bytes())


def embed(model: ModelProto, weights: WeightFile | None) -> None:
    """Move the weights into the graph; each byte of the file belongs to one tensor at most.

    Raises:
        UnsupportedModel: `external_data` where the file is missing, is another one, or does not hold what is stated.
    """
    taken = end = 0
    for tensor in every_tensor(model):
        if not _is_outside(tensor):
            continue
        found = _require_named(tensor, weights)
        start, stop = _place(tensor, found)
        taken, end = taken + stop - start, max(end, stop)
        if taken > len(found.content):
            raise _refused(f"the tensors of the graph take more bytes than {found.name!r} has")
        tensor.raw_data = found.content[start:stop]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    if weights is not None and len(weights.content) - end > _MAX_GAP_BYTES:
        held = f"{weights.name!r} has {len(weights.content)} bytes, of which the graph uses {end}"
        raise _refused(f"{held}: it is another model's; send the file that was written with this graph")


def exchanged(weights: WeightFile) -> UnsupportedModel:
    """The refusal of two files each in the place of the other."""
    return _refused(f"graph and weights were exchanged: {weights.name!r} holds the graph; send it as the model")


def _require_fit(size: int) -> None:
    if size > MOST_BYTES:
        raise UnsupportedModel("too_large", f"the model has {size} bytes with its weights; ONNX ends at {MOST_BYTES}")


def _require_named(tensor: TensorProto, weights: WeightFile | None) -> WeightFile:
    location = _location(tensor)
    stated = f"the weights of {tensor.name!r} lie in {location[:200]!r}"
    if not _is_plain(location):
        raise _refused(f"{stated}, which is no name of a file beside the graph: {ONE_FILE.removeprefix('or ')}")
    if weights is None:
        raise _refused(f"{stated}, which was not sent: send both files, {ONE_FILE}")
    if weights.name != location:
        raise _refused(f"{stated}, and sent was {weights.name[:200]!r}: send {location[:200]!r}, {ONE_FILE}")
    return weights


def _place(tensor: TensorProto, weights: WeightFile) -> tuple[int, int]:
    """The first byte, and the one behind the last."""
    size, stated = len(weights.content), {entry.key: entry.value for entry in tensor.external_data}
    try:
        start = int(stated.get("offset", 0))
        stop = start + int(stated.get("length", size - start))
    except ValueError:
        raise _refused(f"the place of {tensor.name!r} in {weights.name!r} is no number") from None
    if not 0 <= start <= stop <= size:
        raise _refused(
            f"{tensor.name!r} lies in bytes {start} to {stop} of {weights.name!r}, which has {size}: "
            "it was cut off, or is another model's; send the file that was written with this graph"
        )
    return start, stop


def _is_outside(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data) > 0


def _location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _refused(message: str) -> UnsupportedModel:
    return UnsupportedModel("external_data", message)
