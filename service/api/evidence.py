"""Evidence: the report of a job or of a calibrator, as JSON, as a page, and as a diagram."""

from __future__ import annotations

from typing import Protocol

from fastapi import Request, Response

from service.api.dependencies import tagged_bytes
from service.api.services import Services
from service.registry.contract import FINAL
from service.registry.errors import Conflict

#: Names of classes and slices in a report are its sender's: whatever they hold, nothing runs, nothing is fetched, and
#: for a browser it comes from nowhere (`sandbox`), so that it can reach nothing of the service's.
_INERT = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; sandbox"
    ),
    "X-Content-Type-Options": "nosniff",
}
#: Why a record that has ended lacks a piece of evidence.
_REASONS = {
    "succeeded": "was done by a version that did not make this yet",
    "failed": "has no report, since it did not succeed",
    "cancelled": "has no report, since it did not succeed",
}


class Evident(Protocol):
    """A row that comes to an end with evidence."""

    id: str
    status: str


def answer_evidence(
    request: Request, services: Services, row: Evident, digest: str | None, media_type: str
) -> Response:
    """One piece of evidence, in which nothing of its sender's is active; raises Conflict where there is none."""
    if digest is None:
        message = f"{row.id} is {row.status} and {_REASONS.get(row.status, 'has not ended yet')}"
        raise Conflict("no_report", message, passing=row.status not in FINAL)
    body = services.registry.artifacts.path(digest).read_bytes()
    return tagged_bytes(request, body, media_type=media_type, headers=_INERT)
