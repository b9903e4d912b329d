"""Everything before and behind a body: request line, headers, trailers, chunks, half requests, requests in a row."""

from __future__ import annotations

from benchmarks.weight.content import Content, repeated, text
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MOST_WIRE, Attack, Shot, TooBig, bounded, one, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World

_LONG = Size(1, MOST_WIRE)
_MANY = Size(1, 1 << 22)
#: The longest piece that is repeated: it is held in memory, a single one is not.
_HELD = 1 << 22
_ROUTES = {
    "probe": ("GET", "/healthz"),
    "list": ("GET", "/v1/models"),
    "record": ("GET", "/v1/jobs/job_0"),
    "metrics": ("GET", "/metrics"),
    "docs": ("GET", "/openapi.json"),
    "index": ("GET", "/v2/models"),
    "unknown": ("GET", "/v1/nothing"),
    "options": ("OPTIONS", "/v1/jobs"),
}


def _key(world: World, key: str) -> str | None:
    return {"none": None, "wrong": "wrong", "right": world.key}[key]


@family(
    "headers",
    "header lines: how many, how long, which part of them",
    length=_LONG,
    lines=_MANY,
    part=choice("value", "name", "folded", "authorization", "x-request-id", "accept"),
    key=choice("none", "right"),
    route=choice("probe", "list", "unknown"),
)
def _headers(world: World, *, length: int, lines: int, part: str, key: str, route: str) -> Attack:
    before, after = {"value": (b"x%08x: ", b""), "name": (b"x%08x", b": 0"), "folded": (b"x%08x: 0\r\n ", b"")}.get(
        part, (part.encode() + b": ", b"")
    )
    block = _lines(before, length, after, lines)
    return one(bounded(request(*_ROUTES[route], headers=block, key=_key(world, key))))


@family(
    "header values",
    "headers that something parses: what stands in them, how often",
    count=_LONG,
    header=choice(
        "range", "content-type", "if-none-match", "accept", "cookie", "accept-encoding", "if-range", "expect"
    ),
    unit=choice("a", ",", ";", "0-0,", '"', "a=b;", "\\", ' "a",', "=", "-"),
    begins=choice("", "bytes=", "multipart/form-data; ", "application/x-npy;", "W/"),
    route=choice("download", "record", "predict", "jobs", "upload", "probe"),
)
def _header_values(world: World, *, count: int, header: str, unit: str, begins: str, route: str) -> Attack:
    model = f"/v1/models/{world.models['small']}"
    path = {"download": f"{model}/onnx", "record": model}.get(route) or _posted(world, route)
    line = f"{header}: {begins}".encode() + repeated(unit.encode(), count) + b"\r\n"
    if path.startswith(model) and route != "predict":
        return one(bounded(request("GET", path, headers=line, key=world.key)))
    posted = request("POST", path, headers=line + b"Content-Length: 2\r\n", key=world.key)
    return one(bounded(posted + b"{}"))


@family(
    "options of a query",
    "the query of a request that is answered: how many options, how long, which",
    count=_MANY,
    length=_LONG,
    option=choice("top_k", "coverage", "decision", "limit", "after", "class_names", "preprocessing", "%08x"),
    unit=choice("1", "a", "[", "%7B", "a,"),
    route=choice("predict", "upload", "list", "infer"),
)
def _query(world: World, *, count: int, length: int, option: str, unit: str, route: str) -> Attack:
    if count * length * len(unit) > MOST_WIRE or (count > 1 and length * len(unit) > _HELD):
        raise TooBig("a longer query than the attacker's patience")
    name = option.encode() + b"="
    run = name.replace(b"%08x", b"0") + repeated(unit.encode(), length)
    if count > 1:
        run = repeated(name + unit.encode() * length + b"&", count)
    path = "/v1/models" if route == "list" else _posted(world, route)
    target = text(path) + b"?" + run
    if route == "list":
        return one(bounded(request("GET", target, key=world.key)))
    return one(bounded(request("POST", target, text(b'{"inputs":[[0,0,0,0,0,0,0,0]]}'), key=world.key)))


@family(
    "target",
    "the request line: a long path, a long query, many parameters, much to decode",
    length=_LONG,
    parts=_MANY,
    part=choice("query", "path", "fragment", "name"),
    unit=choice("a", "%00", "/", "..", "%25", "+", ";"),
    key=choice("none", "right"),
    route=choice("probe", "list", "record", "unknown"),
)
def _target(world: World, *, length: int, parts: int, part: str, unit: str, key: str, route: str) -> Attack:
    method, path = _ROUTES[route]
    run, before = repeated(unit.encode(), length), {"query": b"?", "path": b"/", "fragment": b"#", "name": b"?"}[part]
    if run.size * parts > MOST_WIRE or (parts > 1 and run.size > _HELD):
        raise TooBig("a longer target than the attacker's patience")
    if parts > 1:
        equals, end = b"%08x=" if part == "query" else b"", b"/" if part == "path" else b"&"
        run = repeated(equals + unit.encode() * length + end, parts)
    return one(bounded(request(method, text(path) + before + run, key=_key(world, key))))


@family(
    "trailers",
    "lines after a chunked body",
    length=_LONG,
    lines=_MANY,
    key=choice("none", "right"),
    route=choice("predict", "infer", "jobs", "probe"),
)
def _trailers(world: World, *, length: int, lines: int, key: str, route: str) -> Attack:
    head = request("POST", _posted(world, route), key=_key(world, key), headers=b"Transfer-Encoding: chunked\r\n")
    block = _lines(b"x%08x: ", length, b"", lines)
    return one(bounded(head + b"2\r\n{}\r\n0\r\n" + block + b"\r\n"))


@family(
    "chunks",
    "a body in chunks: as small as they may be, or with long extensions",
    count=_MANY,
    length=Size(1, 1 << 16),
    extension=Size(1, 1 << 24),
    key=choice("right", "none"),
    route=choice("predict", "infer", "jobs", "upload", "probe"),
)
def _chunks(world: World, *, count: int, length: int, extension: int, key: str, route: str) -> Attack:
    head = request("POST", _posted(world, route), key=_key(world, key), headers=b"Transfer-Encoding: chunked\r\n")
    if count * (length + extension) > MOST_WIRE:
        raise TooBig("more chunks than the attacker's patience")
    unit = b"%x" % length + (b";a=" + b"b" * extension if extension > 1 else b"") + b"\r\n" + b" " * length + b"\r\n"
    return one(bounded(head + repeated(unit, count) + b"0\r\n\r\n"))


@family(
    "half",
    "connections that say something and then nothing",
    connections=Size(1, 4096),
    length=Size(1, 1 << 15),
    kind=choice("head", "nothing", "body", "chunk", "upgrade", "form"),
    key=choice("none", "right"),
)
def _half(world: World, *, connections: int, length: int, kind: str, key: str) -> Attack:
    shown = _key(world, key)
    filler = repeated(b"a", length)
    wires = {
        "nothing": Content(),
        "head": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nx: " + filler,
        "body": request("POST", world.predict("small"), key=shown, headers=b"Content-Length: 67108864\r\n") + filler,
        "chunk": request("POST", world.predict("small"), key=shown, headers=b"Transfer-Encoding: chunked\r\n")
        + b"4000000\r\n" + filler,
        "upgrade": request("GET", "/healthz", headers=b"Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        "form": request(
            "POST", "/v1/models", key=shown,
            headers=b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 67108864\r\n",
        ) + b'--b\r\nContent-Disposition: form-data; name="' + filler,
    }  # fmt: skip
    return Attack([Shot(wires[kind], connections, expects=False)])


@family(
    "pipelined",
    "many requests on one connection, answers read or not",
    copies=Size(1, 1 << 20),
    route=choice("probe", "list", "metrics", "docs", "index", "unknown", "options"),
    key=choice("none", "right"),
    reads=choice("read", "unread"),
)
def _pipelined(world: World, *, copies: int, route: str, key: str, reads: str) -> Attack:
    unit = b"".join(request(*_ROUTES[route], key=_key(world, key), close=False).chunks())
    wire = bounded(repeated(unit, copies - 1)) + request(*_ROUTES[route], key=_key(world, key))
    return Attack([Shot(wire, reads=reads == "read")])


def _lines(before: bytes, length: int, after: bytes, count: int) -> Content:
    """Header lines with so many letters each; a single one, however long, is never held. Raises TooBig."""
    if count * (length + len(before)) > MOST_WIRE or (count > 1 and length > _HELD):
        raise TooBig("longer lines than the attacker's patience")
    if count == 1:
        return text(before.replace(b"%08x", b"0")) + repeated(b"a", length) + after + b"\r\n"
    return repeated(before + b"a" * length + after + b"\r\n", count)


def _posted(world: World, route: str) -> str:
    return {
        "predict": world.predict("small"),
        "infer": world.infer("small"),
        "jobs": "/v1/jobs",
        "upload": "/v1/models",
        "probe": "/healthz",
    }[route]
