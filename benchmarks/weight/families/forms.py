"""Multipart bodies and uploads: parts, their heads, their boundary, and files that are stored."""

from __future__ import annotations

from benchmarks.weight.content import repeated, text
from benchmarks.weight.families.family import family
from benchmarks.weight.requests import MOST_BODY, MOST_WIRE, Attack, TooBig, bounded, one, request
from benchmarks.weight.space import Size, choice
from benchmarks.weight.world import World

_ROUTES = ("predict", "models", "datasets", "calibrators", "jobs")


@family(
    "multipart",
    "parts: how many, how long, with how long heads and names",
    parts=Size(1, 1 << 22),
    length=Size(1, MOST_BODY),
    lines=Size(1, 1 << 18),
    name=Size(1, 1 << 24),
    route=choice(*_ROUTES),
    part=choice("file", "field", "same file", "no name"),
    content=choice("letters", "dashes", "line ends"),
)
def _multipart(
    world: World, *, parts: int, length: int, lines: int, name: int, route: str, part: str, content: str
) -> Attack:
    if parts * (length + 8 * lines + name + 60) > MOST_BODY:
        raise TooBig("the parts alone are larger than a body")
    disposition = {
        "file": b'form-data; name="f%08x"; filename="' + b"a" * name + b'"',
        "same file": b'form-data; name="file"; filename="' + b"a" * name + b'"',
        "field": b'form-data; name="%08x' + b"a" * name + b'"',
        "no name": b"form-data",
    }[part]
    head = b"--b\r\nContent-Disposition: " + disposition + b"\r\n" + b"x-y: z\r\n" * (lines - 1) + b"\r\n"
    unit = {"letters": b"a", "dashes": b"\r\n--", "line ends": b"\r\n"}[content]
    body = repeated(head + (unit * length)[:length] + b"\r\n", parts) + b"--b--\r\n"
    target = _target(world, route)
    return one(request("POST", target, body, kind="multipart/form-data; boundary=b", key=world.key))


@family(
    "boundary",
    "the boundary itself, and what comes before the first",
    length=Size(1, 1 << 25),
    preamble=Size(1, 1 << 25),
    route=choice(*_ROUTES),
    letter=choice("a", "-", "%"),
)
def _boundary(world: World, *, length: int, preamble: int, route: str, letter: str) -> Attack:
    boundary = letter * length
    body = repeated(b"\r\n--" + letter.encode(), preamble) + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    return one(bounded(request("POST", _target(world, route), body, kind=kind, key=world.key)))


@family(
    "uploads",
    "files that are stored and not opened by the API",
    length=Size(1, MOST_WIRE),
    route=choice("models", "datasets", "calibrators"),
    content=choice("zeros", "letters"),
)
def _uploads(world: World, *, length: int, route: str, content: str) -> Attack:
    unit = b"\0" if content == "zeros" else b"a"
    head = request("POST", _target(world, route), key=world.key, headers=b"Content-Length: %d\r\n" % length)
    return one(head + repeated(unit, length))


@family(
    "options",
    "options of an upload, in its form",
    length=Size(1, MOST_BODY),
    unit=choice("names", "nested", "numbers", "letters", "keys"),
    option=choice("class_names", "preprocessing", "roles", "padding", "name", "positive_class", "output", "features"),
    route=choice("models", "datasets", "calibrators", "jobs"),
)
def _options(world: World, *, length: int, unit: str, option: str, route: str) -> Attack:
    value = {
        "names": repeated(b"%08x,", length // 9 + 1) + b"last",
        "nested": repeated(b"[", length // 2) + repeated(b"]", length // 2),
        "numbers": b"[" + repeated(b"0,", length // 2) + b"0]",
        "letters": repeated(b"a", length),
        "keys": b"{" + repeated(b'"%08x":0,', length // 13) + b'"k":0}',
    }[unit]
    body = text(b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n' % option.encode()) + value
    body = body + b'\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n--b--\r\n'
    return one(request("POST", _target(world, route), body, kind="multipart/form-data; boundary=b", key=world.key))


def _target(world: World, route: str) -> str:
    if route == "calibrators":
        return "/v1/calibrators?wait=0"  # else it is answered when it is fitted
    return world.predict("image") if route == "predict" else f"/v1/{route}"
