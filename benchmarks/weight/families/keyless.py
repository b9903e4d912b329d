"""Requests that bring no key: bodies to whatever is open, bodies behind an answer, many at once, unusual heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.weight.content import Content, repeated, text
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MIB, MOST_BODY, Attack, Shot, TooBig, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World

_LENGTH = Size(1, MOST_BODY)
#: What is small where it comes on several connections.
_CONNECTIONS = Size(1, 64)
_FLOOD_BYTES = 16 * MIB
#: What is open and takes a body, and all else that is open, with examples of what is not; `predict` is answered by
#: serving processes.
_FORMS = ("/sign-in", "/sign-out")
_OTHERS = (
    *("/openapi.json", "/docs", "/redoc", "/static/pages.css", "/static-offline-docs/swagger-ui.css", "/healthz"),
    *("/readyz", "/v2/health/live", "/metrics", "/", "/session/v1/jobs", "/v1/models", "/nothing", "predict"),
)
_PART = b'--b\r\nContent-Disposition: form-data; name="key"'
_FILE, _END = _PART + b'; filename="a"\r\n\r\n', b"\r\n--b--\r\n"
_Bodies = dict[str, tuple[bytes, bytes, bytes]]
#: What a body begins with, repeats and ends with, by its media type.
_BODIES: dict[str, _Bodies] = {
    "application/x-www-form-urlencoded": {
        "fields": (b"", b"key=a&", b""), "value": (b"key=", b"a", b""), "name": (b"", b"a", b"=a"),
        "&": (b"", b"&", b""), "=": (b"", b"=", b""), "escapes": (b"key=", b"%41", b""),
    },
    "multipart/form-data; boundary=b": {
        "file": (_FILE, b"a", _END), "files": (b"", _FILE + b"a\r\n", b"--b--\r\n"), "half": (_FILE, b"a", b""),
        "field": (_PART + b"\r\n\r\n", b"a", _END), "fields": (b"", _PART + b"\r\n\r\na\r\n", b"--b--\r\n"),
        "dashes": (_FILE, b"\r\n-", _END), "preamble": (b"", b"\r\n--", b""),
        "name": (_PART[:-1], b"a", b'"\r\n\r\na' + _END), "lines": (_PART + b"\r\n", b"a: b\r\n", b"\r\na" + _END),
    },
    "application/json": {"numbers": (b"[", b"0,", b"0]"), "[": (b"", b"[", b""), "text": (b'"', b"a", b'"')},
    "application/octet-stream": {"letters": (b"", b"a", b""), "empty lines": (b"", b"\r\n\r\n", b"")},
}  # fmt: skip


def _register(name: str, paths: Sequence[str], units: Mapping[str, tuple[str, bytes, bytes, bytes]]) -> None:
    @family(
        f"no key: {name}",
        "a body, of known length or in chunks, on one connection or a few",
        length=_LENGTH,
        connections=_CONNECTIONS,
        path=choice(*paths),
        unit=choice(*units),
        chunk=choice("none", "65536", "16"),
    )
    def build(world: World, *, length: int, connections: int, path: str, unit: str, chunk: str) -> Attack:
        media_type, before, run, after = units[unit]
        head, body = _framed([(before, 1), (run, length // len(run)), (after, 1)], chunk)
        head += b"Content-Type: %b\r\n" % media_type.encode()
        return _small(Attack([Shot(request("POST", _target(world, path), headers=head) + body, connections)]))


_UNITS = {(kind, unit): (kind, *body) for kind, bodies in _BODIES.items() for unit, body in bodies.items()}
for _type in _BODIES:
    _register(_type.partition(";")[0], _FORMS, {unit: body for (kind, unit), body in _UNITS.items() if kind == _type})
_register("bodies", _OTHERS, {f"{unit} ({kind.partition(';')[0]})": body for (kind, unit), body in _UNITS.items()})


@family(
    "no key: behind an answer",
    "a body that is sent once its request is refused by the head, and another request behind it",
    length=_LENGTH,
    connections=_CONNECTIONS,
    path=choice("/v1/models", "predict", "/nothing", "/sign-out", "/healthz"),
    unit=choice("letters", "empty lines", "line ends", "heads"),
    chunk=choice("16", "1", "65536", "none"),
)
def _behind(world: World, *, length: int, connections: int, path: str, unit: str, chunk: str) -> Attack:
    run = {"letters": b"a", "empty lines": b"\r\n\r\n", "line ends": b"\n", "heads": b"GET / HTTP/1.1\r\n\r\n"}[unit]
    head, body = _framed([(run, length // len(run))], chunk)
    refused = request("POST", _target(world, path), headers=head, close=False)
    return _small(Attack([Shot(refused, connections, behind=body + request("GET", "/healthz"))]))


@family(
    "no key: pipelined",
    "many requests on one connection or a few, answers read or not",
    copies=Size(1, 1 << 14),
    connections=_CONNECTIONS,
    path=choice(*_OTHERS, *_FORMS),
    method=choice("GET", "POST", "HEAD", "OPTIONS"),
    reads=choice("read", "unread"),
)
def _pipelined(world: World, *, copies: int, connections: int, path: str, method: str, reads: str) -> Attack:
    body = Content() if method == "POST" else None
    first, last = (request(method, _target(world, path), body, close=close) for close in (False, True))
    wire = repeated(b"".join(first.chunks()), copies - 1) + last
    return _small(Attack([Shot(wire, connections, reads=reads == "read")]))


_LINES = {
    "plain": "%s HTTP/1.1", "absolute": "http://127.0.0.1%s HTTP/1.1", "old": "%s HTTP/1.0", "later": "%s HTTP/1.2",
    "nothing": "* HTTP/1.1", "host": "127.0.0.1:80 HTTP/1.1", "expect": "%s HTTP/1.1\r\nExpect: 100-continue",
    "upgrade": "%s HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade", "h2c": "%s HTTP/1.1\r\nUpgrade: h2c",
    "range": "%s HTTP/1.1\r\nRange: bytes=0-1,-1,5-\r\nIf-Range: a",
    "bytes": "%s HTTP/1.1\r\nAuthorization: Bearer \xff\r\nCookie: fedlas-session=\xff\r\nAccept: \xff\r\nOrigin: \xff",
}  # fmt: skip


@family(
    "no key: methods",
    "a request of every method, with a usual head or an unusual one: each wants an answer, and no traceback",
    length=Size(1, 1 << 12),
    path=choice(*_OTHERS, *_FORMS),
    line=choice(*_LINES),
    body=choice("no", "none", "16"),
)
def _methods(world: World, *, length: int, path: str, line: str, body: str) -> Attack:
    head, content = (b"", Content()) if body == "no" else _framed([(b"a", length)], body)
    first = _LINES[line].replace("%s", _target(world, path)).encode("latin-1")
    rest = b" %b\r\nHost: 127.0.0.1\r\nConnection: close\r\n%b\r\n" % (first, head)
    methods = b"GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT PROPFIND SEARCH SOURCE".split()
    return Attack([Shot(text(method + rest) + content) for method in methods])


def _framed(pieces: Sequence[tuple[bytes, int]], chunk: str) -> tuple[bytes, Content]:
    """The header that says where a body of such copies ends, and the body; in chunks of about so many bytes."""
    if chunk == "none":
        whole = sum((repeated(unit, count) for unit, count in pieces), Content())
        return b"Content-Length: %d\r\n" % whole.size, whole
    body = Content()
    for unit, count in pieces:
        together = max(1, int(chunk) // max(1, len(unit)))
        for copies, times in ((together, count // together), (1, count % together)):
            body += repeated(b"%x\r\n%b\r\n" % (copies * len(unit), copies * unit), times if unit else 0)
    return b"Transfer-Encoding: chunked\r\n", body + b"0\r\n\r\n"


def _small(attack: Attack) -> Attack:
    """A body on one connection, or a small flood; raises TooBig."""
    if attack.size > (MOST_BODY if attack.shots[0].connections == 1 else _FLOOD_BYTES):
        raise TooBig("more than a small flood")
    return attack


def _target(world: World, path: str) -> str:
    return world.predict("small") if path == "predict" else path
