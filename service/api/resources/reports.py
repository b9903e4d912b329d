"""Reports: of a job or of a calibrator, as JSON, as a page, and as a diagram."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable
from types import UnionType
from typing import Annotated, TypeVar

from fastapi import Path, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from fedlas.contract.records import FINAL
from fedlas.contract.report import Report
from service.api.plumbing.declarations import STORED, Json, operation
from service.api.plumbing.records import RecordRoutes
from service.api.plumbing.responses import tagged_bytes
from service.api.plumbing.services import ServicesDep
from service.registry import tables
from service.registry.errors import Conflict

# Without `from __future__ import annotations`: FastAPI could not resolve those of handlers that a function makes.


Row = TypeVar("Row", tables.Job, tables.Calibrator)

#: The one style element of a stored page.
_STYLE = re.compile(rb"<style>(.*?)</style>", re.DOTALL)


def add_evidence(routes: RecordRoutes[Row], report: type[BaseModel] | UnionType = Report) -> None:
    def piece(digest: Callable[[Row], str | None], media_type: str) -> Callable[..., Response]:
        def get_piece(
            request: Request, services: ServicesDep, record_id: Annotated[str, Path(alias=routes.parameter)]
        ) -> Response:
            with services.registry.read() as unit:
                row = routes.rows(unit).get(record_id)
            if (sha256 := digest(row)) is None:
                raise missing_evidence(row)
            body = services.registry.artifacts.path(sha256).read_bytes()
            return tagged_bytes(request, body, media_type=media_type, headers=_inert(body))

        return get_piece

    at, router = f"/{{{routes.parameter}}}", routes.router
    codes = (routes.unknown, "no_report", *STORED)
    diagram: Json = {"image/svg+xml": {"schema": {"type": "string"}}}
    router.add_api_route(
        f"{at}/report",
        piece(lambda row: row.report_sha256, "application/json"),
        name=f"get_{routes.noun}_report",
        description=f"Return the report of a {routes.noun}; 409 before there is one.",
        response_model=report,
        openapi_extra=operation(*codes, tagged=True),
    )
    router.add_api_route(
        f"{at}/reliability.svg",
        piece(lambda row: row.diagram_sha256, "image/svg+xml"),
        name=f"get_{routes.noun}_reliability_diagram",
        description=f"Return the reliability diagram of a {routes.noun}; 409 before there is one.",
        response_class=Response,
        openapi_extra=operation(*codes, tagged=True, content=diagram),
    )
    router.add_api_route(
        f"{at}/report.html",
        piece(lambda row: row.page_sha256, "text/html"),
        name=f"get_{routes.noun}_report_page",
        description=f"Return the report of a {routes.noun} as a page; it loads nothing; 409 before there is one.",
        response_class=HTMLResponse,
        openapi_extra=operation(*codes, tagged=True),
    )


def _inert(body: bytes) -> dict[str, str]:
    """The headers under which a browser shows a piece of evidence and does nothing else.

    Names of classes and slices in a report are its sender's: whatever they hold, nothing runs, nothing is fetched, and
    for a browser it comes from nowhere (`sandbox`), so that it can reach nothing of the service's. Styled is a page by
    the first style element of its own bytes alone, so that pages of every version look as they were written.
    """
    match = _STYLE.search(body)
    style = "'none'" if match is None else f"'sha256-{b64encode(hashlib.sha256(match[1]).digest()).decode()}'"
    policy = f"default-src 'none'; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'; sandbox"
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Vary": "Accept"}


def missing_evidence(row: tables.Job | tables.Calibrator) -> Conflict:
    if isinstance(row, tables.Job) and row.request.get("dry_run"):
        return Conflict("no_report", f"{row.id} is a dry run and has no report; its record has the plan")
    why = "has no report, since it did not succeed" if row.status in ("failed", "cancelled") else "has not ended yet"
    return Conflict("no_report", f"{row.id} is {row.status} and {why}", passing=row.status not in FINAL)
