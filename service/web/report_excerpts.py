"""Excerpts of reports: the figures of what is served that other pages show, read from the stored report of its job."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from service.registry.artifacts import ArtifactStore
from service.registry.errors import RegistryError

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
