"""The safetensors reader: the header is checked strictly before a byte of the tensors is read.

The format, as the safetensors library documents it: eight bytes with the header's length (little endian), the
header (a JSON object: tensor's name → dtype, shape, offsets), and the tensors without a gap. The
safetensors library takes headers up to 100 MB (real ones have some hundred kilobytes), names twice, further keys and
shapes of any rank, and does not tell a file that is cut off from a damaged one: so its reader is not used here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NoReturn, TypeGuard

import torch
from torch import Tensor

from fedlas.errors import UnsupportedModel
from fedlas.importers.onnx.parsing import is_safetensors, refuse_foreign

#: The names of all timm architectures' tensors together are smaller.
MAX_HEADER = 16 * 2**20
_LENGTH_BYTES, _MAX_DIMENSIONS = 8, 16
_DTYPES = {
    **{f"F{bits}": getattr(torch, f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
#: Types of the format that no float32 network is stored in.
_OTHER_DTYPES = frozenset({"C64", "F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "U16", "U32", "U64"}) | {
    f"F8_{kind}" for kind in ("E5M2", "E4M3", "E4M3FNUZ", "E5M2FNUZ")
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's place in the file (bytes `start` to `stop`), dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: str | Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; none of them is read.

    Raises:
        UnsupportedModel: `unsafe_format` (a pickle, an archive, …), `not_safetensors`, `truncated`, `corrupt`, or
            `unsupported_dtype`.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(64)
        if not is_safetensors(head):
            refuse_foreign(head)
        length = _header_length(head, size)
        file.seek(_LENGTH_BYTES)
        entries = _parse(file.read(length))
    begin = _LENGTH_BYTES + length
    stored = {name: _stored(name, entry, begin) for name, entry in entries.items()}
    _check_places(stored, begin, size)
    return stored


def read_tensors(path: str | Path, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors that `stored` (of `read_header`) names, copied into memory; floats of any width become float32."""
    with open(path, "rb") as file:
        return {name: _read(file, place) for name, place in stored.items()}


def _read(file: BufferedReader, place: StoredTensor) -> Tensor:
    content = bytearray(place.stop - place.start)
    file.seek(place.start)
    if file.readinto(content) != len(content):
        raise UnsupportedModel("truncated", "the safetensors file became shorter while it was read; send it again")
    if not content:
        return torch.empty(place.shape, dtype=_held_as(place.dtype))
    # The format is little endian, as is every machine that PyTorch is built for.
    return torch.frombuffer(content, dtype=place.dtype).reshape(place.shape).to(_held_as(place.dtype))


def _held_as(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point else dtype


def _header_length(head: bytes, size: int) -> int:
    if size < _LENGTH_BYTES + 2 or head[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        raise UnsupportedModel(
            "not_safetensors",
            "the file is not a safetensors file, which weights for an architecture must be: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors'); "
            "an ONNX file is sent without architecture=",
        )
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER:
        _corrupt(f"its header claims {length} bytes, at most {MAX_HEADER} are read")
    if _LENGTH_BYTES + length > size:
        raise UnsupportedModel(
            "truncated", f"the safetensors file ends inside its header ({size} of {_LENGTH_BYTES + length} bytes)"
        )
    return length


def _parse(header: bytes) -> dict[str, object]:
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnsupportedModel:
        raise
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        _corrupt(f"its header is not valid JSON: {reason[:200]}")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _corrupt("its __metadata__ must map names to text")
    if not entries:
        _corrupt("it holds no tensors")
    return dict(entries)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        _corrupt(f"its header has {double[:100]!r} twice")
    return found


def _no_constant(word: str) -> NoReturn:
    _corrupt(f"its header has {word} where a number is needed")


def _stored(name: str, entry: object, begin: int) -> StoredTensor:
    shown = repr(name[:100])
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _corrupt(f"tensor {shown} must have dtype, shape and data_offsets, and nothing else")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        _corrupt(f"the shape or the offsets of tensor {shown} are no sizes")
    if isinstance(kind, str) and kind in _OTHER_DTYPES:
        raise UnsupportedModel("unsupported_dtype", f"tensor {shown} is {kind}; send the weights as float32 or float16")
    if not isinstance(kind, str) or kind not in _DTYPES:
        _corrupt(f"tensor {shown} has the unknown dtype {str(kind)[:20]!r}")
    dtype = _DTYPES[kind]
    needed = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        _corrupt(f"tensor {shown} has {offsets[1] - offsets[0]} bytes, its shape and dtype need {needed}")
    return StoredTensor(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _sizes(value: object) -> TypeGuard[list[int]]:
    """Whether `value` is a list of few numbers that may be sizes; products of more would be slow to compute."""
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(item) is int and 0 <= item < 2**62 for item in value)
    )


def _check_places(stored: Mapping[str, StoredTensor], begin: int, size: int) -> None:
    """The tensors must lie one behind the other, from the header's end to the file's."""
    end = begin
    for name, place in sorted(stored.items(), key=lambda item: (item[1].start, item[1].stop)):
        if place.start != end:
            kind = "overlap" if place.start < end else "leave a hole"
            _corrupt(f"its tensors {kind}: {name[:100]!r} starts at byte {place.start}, what is before ends at {end}")
        end = place.stop
    if end > size:
        raise UnsupportedModel(
            "truncated", f"the safetensors file has {size} bytes, its header describes {end}; send it again"
        )
    if end < size:
        _corrupt(f"its header describes {end} bytes, the file has {size}")


def _corrupt(what: str) -> NoReturn:
    raise UnsupportedModel("corrupt", f"the safetensors file is damaged: {what}")
