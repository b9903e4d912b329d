"""Rows of numbers for models: how many, how long, of which values, in which format."""

from __future__ import annotations

import struct

from benchmarks.weight.content import Content, gzipped, listed, repeated, text
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MOST_BODY, Attack, TooBig, one, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World

_ROWS = Size(1, 1 << 20)
#: The largest number that a float of 32 bits can be, as a whole number.
_LARGEST = (2**24 - 1) << 104
_MODELS = ("small", "named", "filled", "stepped", "cubic", "paired")
_FORMATS = ("json", "npy", "infer", "binary", "raw")


def _register(model: str) -> None:
    """The families of one model: which values it is sent, and how many rows."""

    @family(
        f"values: {model}",
        "one value, as large as it may be",
        value=Size(1, _LARGEST),
        rows=Size(1, 1 << 14),
        sign=choice("", "-"),
        form=choice("json", "npy", "infer"),
    )
    def values(world: World, *, value: int, rows: int, sign: str, form: str) -> Attack:
        return one(_sent(world, model, rows, world.inputs(model), float(f"{sign}{value}"), form, False))

    @family(
        f"rows: {model}",
        "as many rows, as long as they may be",
        rows=_ROWS,
        length=Size(1, 1 << 24 if model == "paired" else 1),
        form=choice(*_FORMATS),
        packed=choice("no", "gzip"),
    )
    def rows(world: World, *, rows: int, length: int, form: str, packed: str) -> Attack:
        numbers = world.inputs(model, length)
        if rows * numbers * 2 > MOST_BODY:
            raise TooBig("the rows alone are larger than a body")
        return one(_sent(world, model, rows, numbers, 1.0, form, packed == "gzip"))


for _model in _MODELS:
    _register(_model)


@family(
    "npy",
    "the head of an npy file: its length, its dimensions, its fields",
    dimensions=Size(1, 1 << 20),
    padding=Size(1, 1 << 26),
    size=Size(1, 1 << 62),
    kind=choice("shape", "fields", "subarray", "unicode", "void"),
)
def _npy(world: World, *, dimensions: int, padding: int, size: int, kind: str) -> Attack:
    shape = b"(" + listed(b"%d" % size, dimensions) + b",)"
    described = {
        "shape": text(b"'<f4'"),
        "fields": b"[" + listed(b"('f%08x','<f4')", dimensions) + b"]",
        "subarray": b"('<f4'," + shape + b")",
        "unicode": text(b"'<U%d'" % size),
        "void": text(b"'|V%d'" % size),
    }[kind]
    head = b"{'descr':" + described + b",'fortran_order':False,'shape':" + shape + b"}"
    head = head + repeated(b" ", padding) + b"\n"
    if head.size > MOST_BODY:
        raise TooBig(f"{head.size} bytes")
    body = b"\x93NUMPY\x02\x00" + struct.pack("<I", head.size) + head + b"\0" * 32
    return one(request("POST", world.predict("small"), body, kind="application/x-npy", key=world.key))


def _sent(world: World, model: str, rows: int, numbers: int, value: float, form: str, packed: bool) -> Content:
    if form == "json":
        row = b"[" + b",".join([b"%.9g" % value] * numbers) + b"]" if numbers < 1 << 20 else b"[]"
        target, kind, headers = world.predict(model), "application/json", b""
        body = b'{"inputs":[' + listed(row, rows) + b"]}"
    elif form == "npy":
        target, kind, headers = world.predict(model), "application/x-npy", b""
        head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" % (rows, numbers)
        head = head.ljust(117) + b"\n"
        body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + repeated(_float(value), rows * numbers)
    else:
        target = world.infer(model)
        body, kind, headers = _tensor(rows, numbers, value, form)
    if body.size > MOST_BODY:
        raise TooBig(f"{body.size} bytes")
    encoding, body = ("gzip", gzipped(body)) if packed else ("", body)
    return request("POST", target, body, kind=kind, key=world.key, headers=headers, encoding=encoding)


def _tensor(rows: int, numbers: int, value: float, form: str) -> tuple[Content, str, bytes]:
    begin = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[%d,%d],' % (rows, numbers)
    data = repeated(_float(value), rows * numbers)
    if form == "infer":
        return begin + b'"data":[' + listed(b"%.9g" % value, rows * numbers) + b"]}]}", "application/json", b""
    if form == "raw":
        return data, "application/octet-stream", b"Inference-Header-Content-Length: 0\r\n"
    head = begin + b'"parameters":{"binary_data_size":%d}}]}' % data.size
    return head + data, "application/octet-stream", b"Inference-Header-Content-Length: %d\r\n" % len(head)


def _float(value: float) -> bytes:
    return struct.pack("<f", value)
