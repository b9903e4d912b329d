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
#: What reads a body without a key, and all else that is open, with examples of what is not; `predict` is answered by
#: serving processes.
_FORM_PATHS = ("/sign-in",)
_OTHERS = (
    *("/openapi.json", "/docs", "/redoc", "/static/pages.css", "/static-offline-docs/swagger-ui.css", "/healthz"),
    *(
        "/readyz",
        "/v2/health/live",
        "/metrics",
        "/",
        "/sign-out",
        "/session/v1/jobs",
        "/v1/models",
        "/nothing",
        "predict",
    ),
)
_FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
_PART = b'--b\r\nContent-Disposition: form-data; name="key"'
_FIELD, _FILE, _END = _PART + b"\r\n\r\n", _PART + b'; filename="a"\r\n\r\n', b"\r\n--b--\r\n"
#: The media type of a body, and what it begins with, repeats and ends with.
_Bodies = Mapping[str, tuple[str, bytes, bytes, bytes]]
_BODIES: dict[str, _Bodies] = {
    "form": {
        "fields": (_FORM, b"", b"key=a&", b""), "value": (_FORM, b"key=", b"a", b""), "=": (_FORM, b"", b"=", b""),
        "name": (_FORM, b"", b"a", b"=a"), "&": (_FORM, b"", b"&", b""), "escapes": (_FORM, b"key=", b"%41", b""),
        "long fields": (_FORM, b"", b"key=" + 4096 * b"a" + b"&", b""),
    },
    "file": {"letters": (_MULTIPART, _FILE, b"a", _END), "dashes": (_MULTIPART, _FILE, b"\r\n-", _END)},
    "multipart": {
        "files": (_MULTIPART, b"", _FILE + b"a\r\n", b"--b--\r\n"), "field": (_MULTIPART, _FIELD, b"a", _END),
        "fields": (_MULTIPART, b"", _FIELD + b"a\r\n", b"--b--\r\n"), "preamble": (_MULTIPART, b"", b"\r\n--", b""),
        "name": (_MULTIPART, _PART[:-1], b"a", b'"\r\n\r\na' + _END),
        "lines": (_MULTIPART, _PART + b"\r\n", b"a: b\r\n", b"\r\na" + _END),
    },
    "charset": {
        charset: (f"{_MULTIPART}; charset={charset}", _FIELD, b"b", _END)
        for charset in ("utf-8", "utf-7", "punycode", "idna", "unicode_escape")
    },
    "other": {
        "numbers": ("application/json", b"[", b"0,", b"0]"), "[": ("application/json", b"", b"[", b""),
        "text": ("text/plain", b"", b"a", b""), "empty lines": ("text/plain", b"", b"\r\n\r\n", b""),
    },
}  # fmt: skip


def _register(name: str, paths: Sequence[str], bodies: _Bodies, *chunks: str) -> None:
    @family(
        f"no key: {name}",
        "a body, of known length or in chunks, whole or cut off, on one connection or a few",
        length=_LENGTH,
        connections=_CONNECTIONS,
        path=choice(*paths),
        body=choice(*bodies),
        chunk=choice("none", *chunks),
        end=choice("whole", "cut off"),
    )
    def build(world: World, *, length: int, connections: int, path: str, body: str, chunk: str, end: str) -> Attack:
        media_type, before, run, after = bodies[body]
        head, content = _framed([(before, 1), (run, length // len(run)), (after, 1)], chunk, whole=end == "whole")
        head += b"Content-Type: %b\r\n" % media_type.encode()
        wire = request("POST", _target(world, path), headers=head) + content
        return _small(Attack([Shot(wire, connections, expects=end == "whole")]))


for _kind, _bodies in _BODIES.items():
    _register(_kind, _FORM_PATHS, _bodies, "65536")
_ALL = {name: body for bodies in _BODIES.values() for name, body in bodies.items()}
_register("elsewhere", _OTHERS, _ALL, "65536", "1")


#: What a head repeats, and where, once its path and method stand there.
_HEADS = {
    "query": ("?{} HTTP/1.1", "a&"), "escapes": ("?next={} HTTP/1.1", "%41"), "path": ("/{} HTTP/1.1", "a/"),
    "escaped path": ("/{} HTTP/1.1", "%41"), "cookie": (" HTTP/1.1\r\nCookie: {}", ";"),
    "type": (' HTTP/1.1\r\nContent-Type: multipart/form-data; a="{}', ";"),
    "parameters": (f" HTTP/1.1\r\nContent-Type: {_FORM}{{}}", ";a=b"), "range": (" HTTP/1.1\r\nRange: bytes={}", "0-,"),
    "accept": (" HTTP/1.1\r\nAccept: {}", "text/html,"), "tag": (" HTTP/1.1\r\nIf-None-Match: {}", '"a",'),
    "key": (" HTTP/1.1\r\nAuthorization: Bearer {}", "a"), "connection": (" HTTP/1.1\r\nConnection: close{}", ",a"),
}  # fmt: skip


@family(
    "no key: heads",
    "a long head to a few kinds of paths, on a few connections: what stands in it",
    length=Size(1 << 15, 60_000),
    connections=Size(16, 64),
    part=choice(*_HEADS),
)
def _heads(world: World, *, length: int, connections: int, part: str) -> Attack:
    """Shots, one after the other, of all that parses a head in a way of its own."""
    before, run = _HEADS[part]
    line, _, rest = before.partition("{}")
    wires = [
        text(f"{method} {_target(world, path)}{line}")
        + repeated(run.encode(), length // len(run))
        + f"{rest}\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 1\r\n\r\na".encode()
        for path in ("/sign-in", "/sign-out", "/docs", "/static-offline-docs", "/jobs", "predict")
        for method in ("GET", "POST")
    ]
    return _small(Attack([Shot(wire, connections) for wire in wires]))


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
    path=choice(*_OTHERS, *_FORM_PATHS),
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
    "page": "%s HTTP/1.1\r\nAccept: text/html",
    "bytes": "%s HTTP/1.1\r\nAuthorization: Bearer \xff\r\nCookie: fedlas-session=\xff\r\nAccept: \xff\r\nOrigin: \xff",
}  # fmt: skip


@family(
    "no key: methods",
    "a request of every method, with a usual head or an unusual one: each wants an answer, and no traceback",
    length=Size(1, 1 << 12),
    path=choice(*_OTHERS, *_FORM_PATHS),
    line=choice(*_LINES),
    body=choice("no", "none", "16"),
)
def _methods(world: World, *, length: int, path: str, line: str, body: str) -> Attack:
    head, content = (b"", Content()) if body == "no" else _framed([(b"a", length)], body)
    first = _LINES[line].replace("%s", _target(world, path)).encode("latin-1")
    rest = b" %b\r\nHost: 127.0.0.1\r\nConnection: close\r\n%b\r\n" % (first, head)
    methods = b"GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT PROPFIND SEARCH SOURCE".split()
    return Attack([Shot(text(method + rest) + content) for method in methods])


def _framed(pieces: Sequence[tuple[bytes, int]], chunk: str, *, whole: bool = True) -> tuple[bytes, Content]:
    """The header that says where a body of such copies ends, and the body; in chunks of about so many bytes.

    One that is not `whole` lacks its last byte or chunk.
    """
    if chunk == "none":
        body = sum((repeated(unit, count) for unit, count in pieces), Content())
        return b"Content-Length: %d\r\n" % (body.size + (not whole)), body
    body = Content()
    for unit, count in pieces:
        together = max(1, int(chunk) // max(1, len(unit)))
        for copies, times in ((together, count // together), (count % together, 1)):
            size = copies * len(unit)
            body += repeated(b"%x\r\n%b\r\n" % (size, copies * unit), times if size else 0)
    return b"Transfer-Encoding: chunked\r\n", body + (b"0\r\n\r\n" if whole else b"")


def _small(attack: Attack) -> Attack:
    """A body on one connection, or a small flood; raises TooBig."""
    for shot in attack.shots:
        if shot.size > (MOST_BODY if shot.connections == 1 else _FLOOD_BYTES):
            raise TooBig("more than a small flood")
    return attack


def _target(world: World, path: str) -> str:
    return world.predict("small") if path == "predict" else path
