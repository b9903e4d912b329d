"""Compatibility of two OpenAPI documents: what in the newer one breaks clients of the older one.

`python -m service.api.document.compatibility RELEASED PRESENT` fails with a line for each break, unless the version
says so: another major number, or while that is 0 another minor one. Schemas are compared by what they are for
(`schema_changes`). Texts, examples, new operations, new optional fields and errors break nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from service.api.document.schema_changes import SchemaChanges, resolved

Json = dict[str, Any]

_METHODS = ("get", "put", "post", "patch", "delete")


def breaks(released: Json, present: Json) -> list[str]:
    """Every break, as a line that begins with where it is."""
    return list(dict.fromkeys(_paths(released, present)))


def version_allows(released: Json, present: Json) -> bool:
    """Whether the newer document's version says that clients may break.

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
    before = {(one["in"], one["name"]): one for one in old.get("parameters", ())}
    after = {(one["in"], one["name"]): one for one in new.get("parameters", ())}
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
