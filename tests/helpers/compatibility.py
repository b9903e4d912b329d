"""Compatibility of two OpenAPI documents: what in the newer one breaks clients of the older one.

`python -m tests.helpers.compatibility RELEASED PRESENT` fails with a line for each break, unless the version
says so: another major number, or while that is 0 another minor one. Schemas are compared by what they are for: of a
request breaks what is taken no more, of an answer what was never said to come. Texts, examples, new operations, new
optional fields and errors break nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.helpers import Json

#: Limits that a request may not fall short of, and those that it may not exceed.
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def resolved(part: Json, document: Json) -> Json:
    """The part that a reference within the document leads to."""
    while "$ref" in part:
        target: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        part = target
    return part


class SchemaChanges:
    """Compares schemas of two documents.

    A request may be taken more widely than before, and an answer may say more than before: in a request the types, the
    values of an enum and the optional fields may grow, in an answer the fields, the values of an enum, and the kinds of
    a union that have a tag, such as events (clients are told to expect new ones).

    Args:
        documents: the older one and the newer one.
        is_request: whether the schemas are of requests.
    """

    def __init__(self, documents: tuple[Json, Json], *, is_request: bool) -> None:
        self._old, self._new = documents
        self._is_request = is_request
        self._underway: set[tuple[str, str]] = set()

    def between(self, where: str, old: Json, new: Json) -> Iterator[str]:
        """Every break between two versions of one schema."""
        key = (str(old.get("$ref")), str(new.get("$ref")))
        if "$ref" in old and "$ref" in new:
            if key in self._underway:
                return
            self._underway.add(key)
        before, after = resolved(old, self._old), resolved(new, self._new)
        if _variants(before) or _variants(after):
            yield from self._alternatives(where, _variants(before) or [before], _variants(after) or [after])
        else:
            yield from self._plain(where, before, after)
        self._underway.discard(key)

    def _alternatives(self, where: str, old: list[Json], new: list[Json]) -> Iterator[str]:
        """A request must still take every old alternative; in an answer every new one must be an old one."""
        if not self._is_request and len(old) > 1:  # clients read a kind that they do not know as such
            known = {_tag(one, self._old) for one in old}
            new = [one for one in new if (tag := _tag(one, self._new)) is None or tag in known or None in known]
        wanted, offered = (old, new) if self._is_request else (new, old)
        for one in wanted:
            pairs = [(one, other) if self._is_request else (other, one) for other in offered]
            if all(any(self.between(where, *pair)) for pair in pairs):
                told = "is taken no more" if self._is_request else "may come now"
                yield f"{where}: {_called(one)} {told}"

    def _plain(self, where: str, old: Json, new: Json) -> Iterator[str]:
        yield from self._types(where, old, new)
        yield from self._values(where, old, new)
        if self._is_request:
            yield from _limits(where, old, new)
        yield from self._fields(where, old, new)
        for part in ("items", "additionalProperties"):
            if isinstance(old.get(part), Mapping) and isinstance(new.get(part), Mapping):
                yield from self.between(f"{where}[]", old[part], new[part])
        if (
            self._is_request
            and old.get("additionalProperties") is not False
            and new.get("additionalProperties") is False
        ):
            yield f"{where}: other fields are taken no more"

    def _types(self, where: str, old: Json, new: Json) -> Iterator[str]:
        before, after = _types(old), _types(new)
        lost = before - after if self._is_request else after - before
        if lost and (self._is_request or before != _ANY) and not (self._is_request and after == _ANY):
            told = "is taken no more" if self._is_request else "may come now"
            yield f"{where}: {' or '.join(sorted(lost))} {told}"

    def _values(self, where: str, old: Json, new: Json) -> Iterator[str]:
        before, after = _allowed(old), _allowed(new)
        if after is not None and self._is_request:
            lost = "any other value" if before is None else ", ".join(sorted(before - after))
            if lost:
                yield f"{where}: {lost} is taken no more"
        if before is not None and after is None and not self._is_request:
            yield f"{where}: any value may come now"

    def _fields(self, where: str, old: Json, new: Json) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name, field in before.items():
            if name not in after:
                yield f"{where}.{name}: the field is gone"
            else:
                yield from self.between(f"{where}.{name}", field, after[name])
        needed, once = set(new.get("required", ())), set(old.get("required", ()))
        if self._is_request:
            yield from (f"{where}.{name}: the field is needed now" for name in sorted(needed - once))
        else:
            yield from (
                f"{where}.{name}: the field may be missing now" for name in sorted((once - needed) & after.keys())
            )


_ANY = frozenset({"anything"})


def _types(schema: Json) -> frozenset[str]:
    """The types that a schema allows; an integer is a number, too."""
    given = schema.get("type", "anything" if "const" not in schema and "enum" not in schema else "string")
    found = {given} if isinstance(given, str) else set(given)
    return frozenset(found | ({"integer"} if "number" in found else set()))


def _allowed(schema: Json) -> frozenset[str] | None:
    """The values that a schema names; None where it names none."""
    if "const" in schema:
        return frozenset({repr(schema["const"])})
    return frozenset(map(repr, schema["enum"])) if "enum" in schema else None


def _limits(where: str, old: Json, new: Json) -> Iterator[str]:
    for name in (*_LOWER, *_UPPER):
        before, after = old.get(name), new.get(name)
        if after is not None and (before is None or (after > before if name in _LOWER else after < before)):
            yield f"{where}: {name} was {before} and is {after}"
    if new.get("pattern", old.get("pattern")) != old.get("pattern"):
        yield f"{where}: the pattern was {old.get('pattern')} and is {new['pattern']}"


def _variants(schema: Json) -> list[Json]:
    found: list[Json] = schema.get("anyOf") or schema.get("oneOf") or []
    return found


def _tag(schema: Json, document: Json) -> str | None:
    """The value of `type` by which a union tells this kind from others; None where it has none."""
    tag = resolved(schema, document).get("properties", {}).get("type", {}).get("const")
    return None if tag is None else str(tag)


def _called(schema: Json) -> str:
    return str(schema.get("$ref", schema.get("title", schema.get("type", "an alternative")))).rpartition("/")[2]


_METHODS = ("get", "put", "post", "patch", "delete")


def breaks(released: Json, present: Json) -> list[str]:
    """Every break, as a line that begins with where it is."""
    return list(dict.fromkeys(_paths(released, present)))


def version_allows(released: Json, present: Json) -> bool:
    """True where the newer document's version says that clients may break.

    >>> older = {"info": {"version": "0.1.3"}}
    >>> version_allows(older, {"info": {"version": "0.2.0"}}), version_allows(older, {"info": {"version": "0.1.4"}})
    (True, False)
    """
    old, new = _version(released), _version(present)
    return new[:2] > old[:2] if old[0] == 0 else new[0] > old[0]


def _version(document: Json) -> tuple[int, int]:
    major, minor, *_ = document["info"]["version"].split(".")
    return int(major), int(minor)


def _paths(old: Json, new: Json) -> Iterator[str]:
    for path, item in old["paths"].items():
        for method in _METHODS:
            if method not in item:
                continue
            where = f"{method.upper()} {path}"
            found = new["paths"].get(path, {}).get(method)
            if found is None:
                yield f"{where}: the operation is gone"
            else:
                yield from _operation(where, item[method], found, (old, new))


def _operation(where: str, old: Json, new: Json, documents: tuple[Json, Json]) -> Iterator[str]:
    if old.get("operationId") != new.get("operationId"):
        yield f"{where}: its id was {old.get('operationId')} and is {new.get('operationId')}"
    yield from _parameters(where, old, new, documents)
    yield from _body(where, old, new, documents)
    for status, response in old["responses"].items():
        if not status.startswith(("2", "3")):
            continue
        if status not in new["responses"]:
            yield f"{where}: it answers {status} no more"
            continue
        before, after = resolved(response, documents[0]), resolved(new["responses"][status], documents[1])
        for name in before.get("headers", {}).keys() - after.get("headers", {}).keys():
            yield f"{where} {status}: the header {name} is gone"
        changes = SchemaChanges(documents, is_request=False)
        yield from _content(f"{where} {status}", before.get("content", {}), after.get("content", {}), changes)


def _parameters(where: str, old: Json, new: Json, documents: tuple[Json, Json]) -> Iterator[str]:
    before, after = (
        {(one["in"], one["name"]): one for one in (resolved(part, document) for part in of.get("parameters", ()))}
        for of, document in zip((old, new), documents, strict=True)
    )
    for key, parameter in after.items():
        known = before.get(key)
        if parameter.get("required") and not (known or {}).get("required"):
            yield f"{where}: the {key[0]} parameter {key[1]} is needed now"
    for key, parameter in before.items():
        if key not in after:
            yield f"{where}: the {key[0]} parameter {key[1]} is gone"
        else:
            changes = SchemaChanges(documents, is_request=True)
            yield from changes.between(f"{where} {key[1]}", parameter.get("schema", {}), after[key].get("schema", {}))


def _body(where: str, old: Json, new: Json, documents: tuple[Json, Json]) -> Iterator[str]:
    before, after = old.get("requestBody", {}), new.get("requestBody", {})
    if after.get("required") and not before.get("required"):
        yield f"{where}: a body is needed now"
    changes = SchemaChanges(documents, is_request=True)
    yield from _content(f"{where} body", before.get("content", {}), after.get("content", {}), changes)


def _content(where: str, old: Json, new: Json, changes: SchemaChanges) -> Iterator[str]:
    for kind, content in old.items():
        if kind not in new:
            yield f"{where}: the media type {kind} is gone"
        else:
            yield from changes.between(where, content.get("schema", {}), new[kind].get("schema", {}))


def main(arguments: Sequence[str]) -> int:
    """Compare two files; 1 where clients break and the version does not say so."""
    released, present = (json.loads(Path(name).read_text()) for name in arguments)
    found = breaks(released, present)
    allowed = version_allows(released, present)
    for line in found:
        print(line)
    if found:
        old, new = released["info"]["version"], present["info"]["version"]
        told = "the version says so" if allowed else "raise the version's major number (its minor one while that is 0)"
        print(f"{len(found)} changes since {old} break clients of it; {told} ({new})")
    return 1 if found and not allowed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
