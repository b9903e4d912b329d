"""The binary extension of the Open Inference Protocol: tensors of bytes, many tensors, sizes that are only claimed."""

from __future__ import annotations

import struct

from benchmarks.weight.content import Content, gzipped, listed, repeated
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MOST_BODY, Attack, TooBig, one, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World


@family(
    "binary tensors",
    "how many, how long, of which type, and what their shape claims",
    tensors=Size(1, 1 << 20),
    length=Size(1, MOST_BODY),
    claimed=Size(1, 1 << 62),
    datatype=choice("FP32", "UINT8", "BOOL", "FP64", "INT64", "FP16"),
    names=choice("different", "the same"),
    packed=choice("no", "gzip"),
)
def _binary(world: World, *, tensors: int, length: int, claimed: int, datatype: str, names: str, packed: str) -> Attack:
    width = {"UINT8": 1, "BOOL": 1, "FP16": 2, "FP64": 8, "INT64": 8}.get(datatype, 4)
    size, name = length * width, b"%08x" if names == "different" else b"x"
    shape = b"[%d]" % length if claimed == 1 else b"[%d,%d]" % (claimed, length)
    tensor = b'{"name":"%b","datatype":"%b","shape":%b,"parameters":{"binary_data_size":%d}}'
    if tensors * (size + 100) > MOST_BODY:
        raise TooBig("the tensors alone are larger than a body")
    head = b'{"inputs":[' + listed(tensor % (name, datatype.encode(), shape, size), tensors) + b"]}"
    return one(_sent(world, "small", head, repeated(b"\0", size * tensors), packed))


@family(
    "texts in tensors",
    "BYTES: how many, how long, as image files, as Base64, as JSON",
    count=Size(1, 1 << 22),
    length=Size(1, 1 << 25),
    model=choice("image", "small"),
    form=choice("binary", "json"),
    content=choice("zeros", "letters", "png"),
    packed=choice("no", "gzip"),
)
def _texts(world: World, *, count: int, length: int, model: str, form: str, content: str, packed: str) -> Attack:
    if count * (length + 4) > MOST_BODY:
        raise TooBig("the texts alone are larger than a body")
    letter = {"zeros": b"\0", "letters": b"A", "png": b"\x89"}[content]
    begin = b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[%d],' % count
    if form == "json":
        data = listed(b'"' + b"A" * length + b'"', count)
        return one(_sent(world, model, begin + b'"data":[' + data + b"]}]}", None, packed))
    data = repeated(struct.pack("<I", length) + letter * length, count)
    head = begin + repeated(b'"parameters":{"binary_data_size":%d}}]}' % data.size, 1)
    return one(_sent(world, model, head, data, packed))


def _sent(world: World, model: str, head: Content, data: Content | None, packed: str) -> Content:
    body = head if data is None else head + data
    headers = b"" if data is None else b"Inference-Header-Content-Length: %d\r\n" % head.size
    if body.size > MOST_BODY:
        raise TooBig(f"{body.size} bytes")
    encoding, body = ("gzip", gzipped(body)) if packed == "gzip" else ("", body)
    kind = "application/json" if data is None else "application/octet-stream"
    return request("POST", world.infer(model), body, kind=kind, key=world.key, headers=headers, encoding=encoding)
