"""Bodies of JSON say that they are JSON.

What a form, or a page of another site, can send without asking is never taken for an order.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import problem

#: A file, as it is or as a part of a form.
_FILES = frozenset({"/v1/datasets", "/v1/models", "/v1/calibrators"})
_PIECES = "/v1/uploads/"
#: JSON, or JSON and files as parts of a form.
_ORDERS = "/v1/jobs"
_UNTYPED = "/v2/"  # clients of that protocol send none
_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class JsonTypes:
    """ASGI middleware: other types are 415 wherever JSON is read; without a body there is no type to be wrong."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in _METHODS and not _is_file(scope["path"]):
            headers = Headers(scope=scope)
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if _has_body(headers) and not _is_read(scope["path"], kind):
                detail = f"found {kind[:100]!r}; send the header 'Content-Type: application/json'"
                detail = detail if kind else "the body has no type; send the header 'Content-Type: application/json'"
                await problem(415, "unsupported_media_type", detail, path=scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_file(path: str) -> bool:
    return path in _FILES or path.startswith(_PIECES)


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_read(path: str, kind: str) -> bool:
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return True
    return (not kind and path.startswith(_UNTYPED)) or (kind == "multipart/form-data" and path == _ORDERS)
