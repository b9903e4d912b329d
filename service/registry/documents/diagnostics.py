"""Diagnostics of a report: FedLAS's own on the calibration rows, and the verdict under wrong test labels."""

from __future__ import annotations

from service.registry.documents.base import Document
from service.registry.documents.estimates import Estimate


class NormDiagnostic(Document):
    """The AUROC of the feature norm for correctness, and whether it is shown to be useful."""

    auroc: Estimate
    useful: bool


class SmoothingDiagnostic(Document):
    """The mean smoothing of right and of wrong rows, and the difference."""

    right: Estimate | None
    wrong: Estimate | None
    wrong_minus_right: Estimate | None


class GateDiagnostic(Document):
    """The share of rows with sign +1, and the share whose sign training flipped."""

    positive: Estimate
    flipped: Estimate | None


class Diagnostics(Document):
    """What norms, smoothing and gate say about right and wrong rows."""

    num_rows: int
    num_right: int
    feature_norm: NormDiagnostic | None
    epsilon: SmoothingDiagnostic | None
    gate: GateDiagnostic | None
    sentences: list[str]


class NoiseLevel(Document):
    """A share of wrong labels: how often each verdict was drawn, and in how many draws it stayed the same."""

    share: float
    rows: int
    verdicts: dict[str, float]
    same: int


class LabelNoise(Document):
    """How the verdict would change if some of the test labels were wrong."""

    verdict: str
    draws: int
    levels: list[NoiseLevel]
    sentences: list[str]
