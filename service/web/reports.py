"""`/jobs/{id}/report` and `/calibrators/{id}/report`: what was shown, drawn anew from the stored figures.

The stored page was written by a process that had opened somebody's model, so none of its markup gets here: the same
templates and drawings show what `report.json` holds. A report that cannot be drawn, as of a version that did not know
all these figures, is shown by its stored page alone, which a browser isolates.
"""

from __future__ import annotations

import json
import logging

from fastapi import APIRouter, Request, Response
from jinja2 import TemplateError

from fedlas.report.document import report_from_json
from service.api.reports import missing_evidence
from service.api.services import ServicesDep
from service.registry.registry import Registry
from service.registry.tables import Calibrator, Job
from service.web.rendering import page

router = APIRouter(include_in_schema=False)

_LOG = logging.getLogger(__name__)
#: What figures of another kind than these raise: their types were checked when they came, not what each of them may be.
_NOT_DRAWN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, TemplateError)


@router.get("/jobs/{job_id}/report")
def report_of_job(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The report of a job; in a thread of its own, since drawing takes some milliseconds."""
    registry = services.registry
    with registry.read() as unit:
        row = unit.jobs.get(job_id)
    return _shown(request, registry, row, "jobs")


@router.get("/calibrators/{calibrator_id}/report")
def report_of_calibrator(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    """The report of a calibrator, which was made of scores."""
    registry = services.registry
    with registry.read() as unit:
        row = unit.calibrators.get(calibrator_id)
    return _shown(request, registry, row, "calibrators")


def _shown(request: Request, registry: Registry, row: Job | Calibrator, collection: str) -> Response:
    if row.report_sha256 is None:
        raise missing_evidence(row)
    content = registry.artifacts.path(row.report_sha256).read_bytes()
    try:
        report = report_from_json(json.loads(content))
        return page(request, "reports/page.html.jinja", report=report, record_id=row.id, collection=collection)
    except _NOT_DRAWN as reason:
        _LOG.warning("the report of %s cannot be drawn: %r", row.id, reason)
        return page(request, "reports/earlier.html.jinja", record_id=row.id, collection=collection)
