"""The route class of the REST API: path, query, headers and body of a request are checked before its handler runs.

The known query parameters are those that FastAPI finds in the handler's signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from fedlas.contract.base import objection
from service.api.plumbing.request_bodies import checked
from service.http.problems import printable
from service.registry.errors import InvalidRequest, NotFound

#: Ids have at most 30 characters and published names 100.
_MAX_SEGMENT = 200
_MAX_PARAMETERS = 64
_SHOWN = 100
#: The key of a parameter in brackets that stands for any: `metadata[KEY]` for `metadata[team]`.
ANY_KEY = "KEY"


class Route(APIRoute):
    """A route that answers 422 to unknown parameters and to text that the database cannot store."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with these checks; called by FastAPI when the route is made."""
        handle = super().get_route_handler()
        declared = (self.openapi_extra or {}).get("parameters", [])
        known = frozenset({*_parameters(self.dependant), *(one["name"] for one in declared if one["in"] == "query")})
        documented = (self.openapi_extra or {}).get("requestBody", {}).get("content", {})

        async def handle_checked(request: Request) -> Response:
            _check_path(request.path_params)
            _check_headers(request.scope["headers"])
            # The Open Inference Protocol wants unknown parameters to be ignored.
            check_query(request.scope["query_string"], known if request.scope["path"].startswith("/v1/") else None)
            return await handle(await checked(request, documented))

        return handle_checked


def check_query(query: bytes, known: frozenset[str] | None) -> None:
    """Raise InvalidRequest for too many parameters, an unknown or repeated name, and for what is no text.

    Without `known` names only their number is checked.
    """
    parameters = query.count(b"&") + 1
    if parameters > _MAX_PARAMETERS:
        message = f"the query string has {parameters} parameters; at most {_MAX_PARAMETERS}"
        raise InvalidRequest("too_many_parameters", message)
    if not query or known is None:
        return
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        message = "the query string is not UTF-8 text in percent-encoding"
        raise InvalidRequest("invalid_request", message) from error
    counts = Counter(name for name, _ in pairs)
    families = tuple(name.removesuffix(f"{ANY_KEY}]") for name in known if name.endswith(f"[{ANY_KEY}]"))
    for name in counts:
        is_keyed = name.startswith(families) and name.endswith("]") and not name.endswith("[]")
        if name not in known and not is_keyed:
            raise InvalidRequest("invalid_request", _unknown(name[:_SHOWN], known), field=printable(name[:_SHOWN]))
        if counts[name] > 1:
            message = f"{name} is given {counts[name]} times; expected one value"
            raise InvalidRequest("invalid_request", message, field=name)
    for name, value in pairs:
        if reason := objection(name) or objection(value):
            shown = printable(name[:_SHOWN])
            raise InvalidRequest("invalid_request", f"{shown} {reason}", field=shown)


def _unknown(name: str, known: frozenset[str]) -> str:
    sentence = f"there is no query parameter {printable(name)!r}"
    if not known:
        return f"{sentence}; this route has none"
    nearest = get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{sentence}; there are {', '.join(sorted(known))}{hint}"


def _parameters(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (inner.alias or name for name, inner in kind.model_fields.items())
        else:
            yield field.alias
    for dependency in dependant.dependencies:
        yield from _parameters(dependency)


def _check_path(values: Mapping[str, str]) -> None:
    """Raise NotFound for ids that cannot exist, and that the database would refuse as parameters."""
    for name, value in values.items():
        if len(value) > _MAX_SEGMENT:
            message = f"{name} in the path has {len(value)} characters; ids and names have {_MAX_SEGMENT} at most"
            raise NotFound("not_found", message)
        if reason := objection(value):
            raise NotFound("not_found", f"{name} in the path {reason}: nothing can be called so")


def _check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if b"\0" in value:
            shown = name.decode("latin-1")
            raise InvalidRequest("invalid_request", f"the header {shown} holds the character NUL", field=shown)
