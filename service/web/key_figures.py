"""The key figures of a report: what each of the three models says of itself, and how often it is right."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from service.registry.artifacts import ArtifactStore
from service.registry.documents import Document
from service.registry.documents.report import Figure

#: So many reports are remembered; jobs that have ended are looked at again and again.
_REMEMBERED = 64


class _Confidence(Document):
    mean_confidence: float
    accuracy: float


class _Estimate(Document):
    value: Figure


class _Metrics(Document):
    nll: _Estimate
    brier: _Estimate
    ece: _Estimate


class _Gate(Document):
    sentences: list[str]


class _Excerpt(Document):
    """What is read of a report; the rest, which grows with the classes, is passed over."""

    confidence: dict[str, _Confidence]
    metrics: dict[str, _Metrics]
    gate: _Gate
    num_test_rows: int


class ModelFigures(NamedTuple):
    """One of the three models on the test rows."""

    name: str
    title: str
    confidence: float
    accuracy: float
    nll: Figure
    brier: Figure
    ece: Figure


class KeyFigures(NamedTuple):
    """The verdict in a sentence, and the three models."""

    sentence: str
    models: list[ModelFigures]
    num_test_rows: int


_TITLES = {"uploaded": "As uploaded", "temperature": "With a temperature", "calibrated": "To be served"}


@lru_cache(_REMEMBERED)
def key_figures(artifacts: ArtifactStore, digest: str) -> KeyFigures:
    """Those of the report with this digest."""
    found = _Excerpt.model_validate_json(artifacts.path(digest).read_bytes(), extra="ignore")
    models = [_of(name, found.confidence[name], found.metrics[name]) for name in _TITLES]
    return KeyFigures(next(iter(found.gate.sentences), ""), models, found.num_test_rows)


def _of(name: str, confidence: _Confidence, metrics: _Metrics) -> ModelFigures:
    return ModelFigures(
        name,
        _TITLES[name],
        confidence.mean_confidence,
        confidence.accuracy,
        metrics.nll.value,
        metrics.brier.value,
        metrics.ece.value,
    )
