"""The key figures of a report: what is served, the next step, and what each model says and is right on."""

from __future__ import annotations

from functools import lru_cache

from pydantic import Field

from service.registry.artifacts import ArtifactStore
from service.registry.documents import Document
from service.registry.documents.report import Figure

#: So many reports are remembered; jobs that have ended are looked at again and again.
_REMEMBERED = 64


class _Confidence(Document):
    mean_confidence: float
    accuracy: float


class _Gap(Document):
    gap: float
    standard_error: float


class _Gaps(Document):
    test: _Gap


class _Estimate(Document):
    value: Figure


class _Metrics(Document):
    nll: _Estimate
    brier: _Estimate


class KeyFigures(Document):
    """What is read of a report; the rest, which grows with the classes, is passed over.

    `confidence_gap` is empty where an earlier version wrote the report.
    """

    advice: list[str]
    confidence: dict[str, _Confidence]
    confidence_gap: dict[str, _Gaps] = Field(default_factory=dict)
    metrics: dict[str, _Metrics]
    num_test_rows: int


@lru_cache(_REMEMBERED)
def key_figures(artifacts: ArtifactStore, digest: str) -> KeyFigures:
    """Those of the report with this digest."""
    return KeyFigures.model_validate_json(artifacts.path(digest).read_bytes(), extra="ignore")
