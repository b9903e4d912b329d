"""Answers that are larger than their requests: features, logits, names of classes, sets of them."""

from __future__ import annotations

from benchmarks.weight.content import gzipped, listed, text
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import Attack, TooBig, one, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World

_ROWS = Size(1, 1 << 20)
_MOST_NUMBERS = 1 << 24


@family(
    "outputs",
    "outputs of the standard protocol, for many rows, several times, with names of classes, as JSON or binary",
    rows=_ROWS,
    times=Size(1, 1 << 16),
    classes=Size(1, 1 << 14),
    model=choice("wide", "named", "small"),
    output=choice("features", "logits", "probabilities", "label"),
    binary=choice("no", "yes"),
    accept=choice("identity", "gzip"),
    packed=choice("no", "gzip"),
)
def _outputs(
    world: World, *, rows: int, times: int, classes: int, model: str, output: str, binary: str, accept: str, packed: str
) -> Attack:
    numbers = world.inputs(model)
    if rows * numbers > _MOST_NUMBERS:
        raise TooBig("the rows alone are larger than a body")
    wishes = b'"binary_data":%b' % (b"true" if binary == "yes" else b"false")
    wishes += b',"classification":%d' % classes if classes > 1 else b""
    wanted = listed(b'{"name":"%b","parameters":{%b}}' % (output.encode(), wishes), times)
    shape = b"[%d,%d]" % (rows, numbers)
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":' + text(shape) + b',"data":['
    body = body + listed(b"0", rows * numbers) + b']}],"outputs":[' + wanted + b"]}"
    encoding, body = ("gzip", gzipped(body)) if packed == "gzip" else ("", body)
    headers = f"Accept-Encoding: {accept}\r\n".encode()
    return one(request("POST", world.infer(model), body, key=world.key, headers=headers, encoding=encoding))


@family(
    "wishes",
    "predictions with everything that one may wish for",
    rows=_ROWS,
    top=Size(1, 1 << 14),
    model=choice("named", "wide", "small"),
    wish=choice("top_k", "coverage", "abstain_below", "max_error"),
    accept=choice("application/json", "application/vnd.apache.arrow.stream"),
    packed=choice("gzip", "no"),
)
def _wishes(world: World, *, rows: int, top: int, model: str, wish: str, accept: str, packed: str) -> Attack:
    numbers = world.inputs(model)
    if rows * numbers > _MOST_NUMBERS:
        raise TooBig("the rows alone are larger than a body")
    wishes = b'"top_k":%d' % top + (b"" if wish == "top_k" else b',"%b":0.5' % wish.encode())
    row = b"[" + b",".join([b"0"] * numbers) + b"]"
    body = b'{"inputs":[' + listed(row, rows) + b"]," + wishes + b"}"
    encoding, body = ("gzip", gzipped(body)) if packed == "gzip" else ("", body)
    headers = f"Accept: {accept}\r\n".encode()
    return one(request("POST", world.predict(model), body, key=world.key, headers=headers, encoding=encoding))
