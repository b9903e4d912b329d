"""`/jobs/{id}/report` and `/calibrators/{id}/report`: what was shown, drawn anew from the stored figures.

The stored page was written by a process that had opened somebody's model, so none of its markup gets here: the same
templates and drawings show what `report.json` holds. A report that cannot be drawn, as of a version that did not know
all these figures, is shown by its stored page alone, which a browser isolates.

Excerpts of reports: the figures of what is served that other pages show, read from the stored report of its job.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from fastapi import APIRouter, Request, Response
from jinja2 import TemplateError
from pydantic import BaseModel

from fedlas.report.document import report_from_json
from service.api.plumbing.services import ServicesDep
from service.api.resources.reports import missing_evidence
from service.registry.artifacts import ArtifactStore
from service.registry.errors import RegistryError
from service.registry.registry import Registry
from service.registry.tables import Calibrator, Job
from service.web.rendering import page

Part = TypeVar("Part")


class Interval(BaseModel):
    """A figure of the test rows with its interval; null where it does not exist."""

    value: float | None
    low: float | None
    high: float | None


class OfServed(BaseModel, Generic[Part]):
    """The part of a section that is about the model that is served."""

    calibrated: Part


class Metrics(BaseModel):
    """The two figures by which versions are told apart."""

    accuracy: Interval
    nll: Interval


class RiskCoverage(BaseModel):
    """The points (P,) of the risk-coverage curve: answering from `thresholds` up answers `coverage` of the rows.

    `low` and `high` bound the error rate of the answers point by point.
    """

    coverage: list[float]
    thresholds: list[float]
    error_rate: list[float]
    low: list[float]
    high: list[float]


class Excerpt(BaseModel):
    """What pages show of a report besides the report's own page."""

    num_test_rows: int
    num_groups: int | None
    confidence_level: float
    metrics: OfServed[Metrics]
    risk_coverage: OfServed[RiskCoverage]


def excerpt_of(artifacts: ArtifactStore, report_sha256: str | None) -> Excerpt | None:
    """The excerpt of a stored report; None where there is none, or one of an earlier version without these figures."""
    if report_sha256 is None:
        return None
    try:
        return _read(artifacts.path(report_sha256), report_sha256)
    except (RegistryError, ValueError):
        return None


@lru_cache(maxsize=128)
def _read(path: Path, sha256: str) -> Excerpt:
    return Excerpt.model_validate_json(path.read_bytes())


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
