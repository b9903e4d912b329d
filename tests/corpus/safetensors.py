"""Files of weights that fit no architecture: headers that lie, tensors that overlap, pickles, other networks."""

from __future__ import annotations

import functools
import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tests.corpus.case import BadFile

ARCHITECTURE, NUM_CLASSES = "torchvision/squeezenet1_1", 5
OPTIONS = {"architecture": ARCHITECTURE, "num_classes": str(NUM_CLASSES)}

Header = dict[str, Any]
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}


@functools.cache
def network() -> nn.Module:
    """A small network without BatchNorm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.squeezenet1_1(weights=None, num_classes=NUM_CLASSES).eval()


def packed(tensors: Mapping[str, Tensor]) -> tuple[Header, bytes]:
    """Header and data of a good file, written by hand so that either can be spoilt."""
    header: Header = {}
    data = bytearray()
    for name, value in tensors.items():
        content = value.contiguous().numpy().tobytes()
        header[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    return header, bytes(data)


def written(header: Header | bytes, data: bytes, *, length: int | None = None) -> bytes:
    """A file of these parts, whose first bytes may claim another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def good() -> bytes:
    """The network's own weights."""
    return written(*packed(network().state_dict()))


def spoilt(change: Callable[[Header], None]) -> Callable[[], bytes]:
    """A good file whose header was changed."""

    def make() -> bytes:
        header, data = packed(network().state_dict())
        change(header)
        return written(header, data)

    return make


def _first(header: Header) -> Header:
    entry: Header = header[next(iter(header))]
    return entry


def _overlap(header: Header) -> None:
    names = list(header)
    size = header[names[1]]["data_offsets"][1] - header[names[1]]["data_offsets"][0]
    header[names[1]]["data_offsets"] = [0, size]


def _claim(size: int) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header["more"] = {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}

    return change


def _holed() -> bytes:
    header, data = packed(network().state_dict())
    for entry in list(header.values())[1:]:
        entry["data_offsets"] = [offset + 64 for offset in entry["data_offsets"]]
    start = _first(header)["data_offsets"][1]
    return written(header, data[:start] + bytes(64) + data[start:])


def _doubled() -> bytes:
    header, data = packed(network().state_dict())
    name, entry = next(iter(header.items()))
    text = json.dumps(header)
    return written(f"{text[:-1]},{json.dumps(name)}:{json.dumps(entry)}}}".encode(), data)


def _huge_header() -> bytes:
    return written(b"{" + b" " * (100 * 2**20 - 2) + b"}", b"")


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(network().state_dict(), buffer)
    return buffer.getvalue()


def _changed(change: Callable[[dict[str, Tensor]], object]) -> Callable[[], bytes]:
    """A good file of other tensors."""

    def make() -> bytes:
        state = dict(network().state_dict())
        change(state)
        return written(*packed(state))

    return make


def _not_finite(state: dict[str, Tensor]) -> None:
    name = next(iter(state))
    state[name] = state[name].clone()
    state[name].view(-1)[3] = float("nan")


_HEAD = "classifier.1.weight"
_MADE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not_safetensors"),
    "zeros": (lambda: bytes(4096), "not_safetensors"),
    "text": (lambda: b"weights of my network, attached", "not_safetensors"),
    "pickle": (_pickled, "unsafe_format"),
    "header of 100 MB": (_huge_header, "corrupt"),
    "header length of 2^64 - 1": (lambda: written(*packed(network().state_dict()), length=2**64 - 1), "corrupt"),
    "header longer than the file": (lambda: written(b'{"a":1}', b"", length=4096), "truncated"),
    "header shorter than it is": (lambda: written(*packed(network().state_dict()), length=100), "corrupt"),
    "header nested deep": (lambda: written(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""), "corrupt"),
    "header with a number of 10,000 digits": (lambda: written(b'{"a":' + b"9" * 10_000 + b"}", b""), "corrupt"),
    "header that is not UTF-8": (lambda: written(b'{"\xff\xfe":1}', b""), "corrupt"),
    "header without tensors": (lambda: written({}, b""), "corrupt"),
    "header with NaN": (lambda: written(b'{"a":NaN}', b""), "corrupt"),
    "metadata that are no text": (spoilt(lambda h: h.update(__metadata__={"epoch": 3})), "corrupt"),
    "name twice": (_doubled, "corrupt"),
    "overlapping tensors": (spoilt(_overlap), "corrupt"),
    "tensor outside the file": (spoilt(_claim(10**12)), "corrupt"),
    "hole between tensors": (_holed, "corrupt"),
    "bytes behind the last tensor": (lambda: good() + bytes(64), "corrupt"),
    "negative size": (spoilt(lambda h: _first(h).update(shape=[-1, 3, 3, 3])), "corrupt"),
    "size that overflows": (spoilt(lambda h: _first(h).update(shape=[2**62, 2**62])), "corrupt"),
    "size that is no integer": (spoilt(lambda h: _first(h).update(shape=[64.0, 3, 3, 3])), "corrupt"),
    "size that is true": (spoilt(lambda h: _first(h).update(shape=[True, 64, 3, 9])), "corrupt"),
    "a thousand dimensions": (spoilt(lambda h: _first(h).update(shape=[1] * 1000)), "corrupt"),
    "offsets the wrong way round": (spoilt(lambda h: _first(h)["data_offsets"].reverse()), "corrupt"),
    "unknown dtype": (spoilt(lambda h: _first(h).update(dtype="F31")), "corrupt"),
    "float8": (spoilt(lambda h: _first(h).update(dtype="F8_E4M3")), "unsupported_dtype"),
    "dtype of another width": (spoilt(lambda h: _first(h).update(dtype="F64")), "corrupt"),
    "entry with a fourth field": (spoilt(lambda h: _first(h).update(path="../../etc/passwd")), "corrupt"),
    "missing tensor": (_changed(lambda state: state.pop(_HEAD)), "weights_mismatch"),
    "unexpected tensor": (_changed(lambda state: state.update({"extra": torch.zeros(3)})), "weights_mismatch"),
    "head of another size": (
        _changed(lambda state: state.update({_HEAD: torch.zeros(7, 512, 1, 1)})),
        "weights_mismatch",
    ),
    "weights that are not finite": (_changed(_not_finite), "non_finite_weights"),
    **{
        f"cut off at {percent} %": (lambda percent=percent: good()[: len(good()) * percent // 100], "truncated")  # type: ignore[misc]
        for percent in (1, 10, 50, 90, 99)
    },
}


def _case(name: str, content: Callable[[], bytes], code: str, options: Mapping[str, str] = OPTIONS) -> BadFile:
    def make(folder: Path) -> Path:
        path = folder / "weights.safetensors"
        path.write_bytes(content())
        return path

    codes = {code, "empty_upload"} if name == "empty" else {code}  # an empty body is refused at the door
    return BadFile(f"safetensors: {name}", make, frozenset(codes), "models", options)


CASES: list[BadFile] = [
    *(_case(name, content, code) for name, (content, code) in _MADE.items()),
    _case("unknown architecture", good, "unknown_architecture", {**OPTIONS, "architecture": "torchvision/squeezenet"}),
    _case("unknown library", good, "unknown_architecture", {**OPTIONS, "architecture": "../../../etc/passwd"}),
    _case("hub name", good, "unknown_architecture", {**OPTIONS, "architecture": "timm/hf-hub:someone/network"}),
    _case("detector", good, "unknown_architecture", {**OPTIONS, "architecture": "torchvision/fasterrcnn_resnet50_fpn"}),
    _case("other network", good, "weights_mismatch", {**OPTIONS, "architecture": "torchvision/alexnet"}),
    _case("another number of classes", good, "weights_mismatch", {**OPTIONS, "num_classes": "6"}),
]
