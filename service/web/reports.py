"""Reports: `/jobs/{id}/report` and `/calibrators/{id}/report`, and the figures that other pages show of them.

The stored page was written by a process that had opened somebody's model, so none of its markup gets here: the same
templates and drawings show what `report.json` holds. A report that cannot be drawn, as of a version that did not know
all these figures, is shown by its stored page alone, which a browser isolates.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from jinja2 import TemplateError

from fedlas.contract.report import Report
from service.api.plumbing.services import ServicesDep
from service.api.resources.reports import missing_evidence
from service.registry.artifacts import ArtifactStore
from service.registry.errors import RegistryError
from service.registry.registry import Registry
from service.registry.tables import Calibrator, Job
from service.web.rendering import page

router = APIRouter(include_in_schema=False)

_LOG = logging.getLogger(__name__)
#: What figures of another kind than these raise: their types were checked when they came, not what each of them may be.
_NOT_DRAWN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, TemplateError)
#: So many reports are remembered; jobs that have ended are looked at again and again.
_REMEMBERED = 128


@router.get("/jobs/{job_id}/report")
def report_of_job(request: Request, services: ServicesDep, job_id: str) -> Response:
    """The report of a job; in a thread of its own, since drawing takes some milliseconds."""
    with services.registry.read() as unit:
        row = unit.jobs.get(job_id)
    return _shown(request, services.registry, row, "jobs")


@router.get("/calibrators/{calibrator_id}/report")
def report_of_calibrator(request: Request, services: ServicesDep, calibrator_id: str) -> Response:
    with services.registry.read() as unit:
        row = unit.calibrators.get(calibrator_id)
    return _shown(request, services.registry, row, "calibrators")


def _shown(request: Request, registry: Registry, row: Job | Calibrator, collection: str) -> Response:
    if row.report_sha256 is None:
        raise missing_evidence(row)
    content = registry.artifacts.path(row.report_sha256).read_bytes()
    try:
        report = Report.read(json.loads(content))
        return page(request, "reports/page.html.jinja", report=report, record_id=row.id, collection=collection)
    except _NOT_DRAWN as reason:
        _LOG.warning("the report of %s cannot be drawn: %r", row.id, reason)
        return page(request, "reports/earlier.html.jinja", record_id=row.id, collection=collection)


def stored_report(artifacts: ArtifactStore, report_sha256: str | None) -> Report | None:
    """A stored report; None where there is none, or one of a version without these figures."""
    if report_sha256 is None:
        return None
    try:
        return _read(artifacts.path(report_sha256))
    except (RegistryError, ValueError):
        return None


@lru_cache(_REMEMBERED)
def _read(path: Path) -> Report:
    return Report.read(json.loads(path.read_bytes()))
